//! A node's tenure among those that share a store: its lease, what it knows of the others, and where it stands when the
//! store does not answer. Pure: time comes in as an argument, in microseconds.
//!
//! There are two clocks. Leases end by the store's; the node's own only tells how long ago something was, and may run a
//! little faster or slower ([`DRIFT`]). A node asks for a lease that ends at a *named* instant of the store's clock, so that
//! a request which arrives late gives no more than was meant, and it remembers the latest end that it ever asked for,
//! answered or not. While the store does not answer it asks for no later one. So it knows when its lease has surely ended:
//! only then may it use its own share, since until then the others use the whole.

use crate::share::Rosters;

/// One part in so many is what clocks may differ by in their speed.
const DRIFT: u64 = 1_000;

/// Another node, as the store last told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub name: String,
    pub lease_end: u64,
}

/// What the store tells of those that share it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// A store that has lost its state begins a new one.
    pub epoch: u64,
    /// All that live have put back what they remember: limits are served.
    pub open: bool,
    pub rosters: Rosters,
    /// This node among them.
    pub members: Vec<Member>,
    /// The store's clock.
    pub now: u64,
}

impl View {
    /// The view is good until then: when the next lease ends, `name`'s own or another's. One that has left goes by a view no
    /// older than a lease.
    pub fn until(&self, name: &str, lease_micros: u64) -> u64 {
        let own = self.members.iter().find(|member| member.name == name);
        let own = own.map_or(self.now + lease_micros, |member| member.lease_end);
        let others = self.members.iter().map(|member| member.lease_end).filter(|end| *end > self.now);
        others.fold(own, u64::min)
    }

    /// Others that may be cut off, and so may use their own share.
    pub fn stale(&self, name: &str) -> impl Iterator<Item = &str> {
        let stale = self.members.iter().filter(move |member| member.lease_end <= self.now && member.name != name);
        stale.map(|member| member.name.as_str())
    }
}

/// Where a node stands, and so who decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The store has not been reached since the start: nobody keeps a share for this node.
    Never,
    /// The store decides.
    Shared,
    /// The store answers, but what it lost is still being put back.
    Closed,
    /// The store does not answer, and this node's lease may last: others may use the whole.
    Limbo,
    /// The lease has surely ended: the node may use its own share.
    Own,
}

#[derive(Debug)]
pub struct Tenure {
    name: String,
    lease_micros: u64,
    heard: Option<Heard>,
    /// The latest end of a lease that was ever asked for.
    lease_end: u64,
    /// For this epoch all that this node remembers is in the store.
    restored: u64,
    in_contact: bool,
    /// It uses no share any more: it is about to stop.
    left: bool,
}

#[derive(Debug)]
struct Heard {
    view: View,
    /// By the node's own clock. The store's clock was read in between.
    sent: u64,
    received: u64,
}

impl Tenure {
    pub fn new(name: String, lease_micros: u64) -> Self {
        Self { name, lease_micros, heard: None, lease_end: 0, restored: 0, in_contact: false, left: false }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The end to ask for: a lease from now on while the store answers, else none later than before.
    pub fn lease_to_ask(&mut self, now: u64) -> u64 {
        if let Some(earliest) = self.earliest(now).filter(|_| self.in_contact) {
            self.lease_end = self.lease_end.max(earliest + self.lease_micros);
        }
        self.lease_end
    }

    /// The store answered a call that was sent and received at these times.
    pub fn heard(&mut self, view: View, (sent, received): (u64, u64)) {
        // What the same node asked for before it was started again counts, too.
        let own = view.members.iter().find(|member| member.name == self.name);
        self.lease_end = self.lease_end.max(own.map_or(0, |own| own.lease_end));
        self.heard = Some(Heard { view, sent, received });
        self.in_contact = true;
    }

    pub fn lost(&mut self) {
        self.in_contact = false;
    }

    pub fn leave(&mut self) {
        self.left = true;
    }

    pub fn stay(&mut self) {
        self.left = false;
    }

    /// All that is remembered is in the store as of this epoch.
    pub fn restored(&mut self, epoch: u64) {
        self.restored = epoch;
    }

    pub fn restored_epoch(&self) -> u64 {
        self.restored
    }

    pub fn view(&self) -> Option<&View> {
        self.heard.as_ref().map(|heard| &heard.view)
    }

    pub fn standing(&self, now: u64) -> Standing {
        let Some(heard) = &self.heard else { return Standing::Never };
        match self.in_contact {
            true if heard.view.open && self.restored == heard.view.epoch => Standing::Shared,
            true => Standing::Closed,
            false if self.left || !self.has_ended(now) => Standing::Limbo,
            false => Standing::Own,
        }
    }

    /// How long the lease may still last.
    pub fn left_micros(&self, now: u64) -> u64 {
        self.lease_gone().saturating_sub(self.earliest(now).unwrap_or(0))
    }

    /// Whether slots that the store holds until then are still held when the node comes to use its own share.
    pub fn outlasts_lease(&self, until: u64) -> bool {
        until > self.lease_gone() + self.margin()
    }

    /// The store's clock now, at the earliest.
    pub fn earliest(&self, now: u64) -> Option<u64> {
        self.heard.as_ref().map(|heard| {
            let since = now.saturating_sub(heard.received);
            heard.view.now + since - since / DRIFT
        })
    }

    /// The store's clock now, at the latest.
    pub fn latest(&self, now: u64) -> Option<u64> {
        self.heard.as_ref().map(|heard| {
            let since = now.saturating_sub(heard.sent);
            heard.view.now + since + since / DRIFT
        })
    }

    /// When the lease has surely ended, by the store's clock.
    pub fn ended(&self) -> u64 {
        self.lease_gone()
    }

    fn has_ended(&self, now: u64) -> bool {
        self.left_micros(now) == 0
    }

    /// The lease's end, and a little for a store whose clock was set back or that is another machine by now.
    fn lease_gone(&self) -> u64 {
        self.lease_end + self.margin()
    }

    fn margin(&self) -> u64 {
        self.lease_micros / 10
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000;
    const LEASE: u64 = 5 * SECOND;

    fn view(now: u64, ends: &[(&str, u64)]) -> View {
        let members = ends.iter().map(|(name, end)| Member { name: name.to_string(), lease_end: *end }).collect();
        View { epoch: 1, open: true, members, now, ..View::default() }
    }

    fn member() -> Tenure {
        let mut tenure = Tenure::new("a".into(), LEASE);
        tenure.restored(1);
        tenure
    }

    #[test]
    fn from_the_store_to_limbo_to_its_own_share() {
        let mut tenure = member();
        assert_eq!(tenure.standing(0), Standing::Never);
        assert_eq!(tenure.lease_to_ask(0), 0);
        tenure.heard(view(1_000 * SECOND, &[]), (0, 0));
        assert_eq!(tenure.lease_to_ask(0), 1_005 * SECOND);
        assert_eq!(tenure.standing(0), Standing::Shared);
        tenure.lost();
        assert_eq!((tenure.standing(SECOND), tenure.lease_to_ask(SECOND)), (Standing::Limbo, 1_005 * SECOND));
        assert_eq!(tenure.standing(5 * SECOND), Standing::Limbo, "clocks differ");
        assert_eq!(tenure.standing(6 * SECOND), Standing::Own);
        tenure.heard(view(1_020 * SECOND, &[]), (20 * SECOND, 20 * SECOND));
        assert_eq!(
            (tenure.standing(20 * SECOND), tenure.lease_to_ask(20 * SECOND)),
            (Standing::Shared, 1_025 * SECOND)
        );
    }

    #[test]
    fn what_was_lost_is_put_back_first() {
        let mut tenure = member();
        tenure.heard(View { epoch: 2, ..view(0, &[]) }, (0, 0));
        assert_eq!(tenure.standing(0), Standing::Closed);
        tenure.restored(2);
        assert_eq!(tenure.standing(0), Standing::Shared);
        tenure.heard(View { epoch: 2, open: false, ..view(0, &[]) }, (0, 0));
        assert_eq!(tenure.standing(0), Standing::Closed);
    }

    #[test]
    fn a_lease_from_before_a_restart_is_waited_for() {
        let mut tenure = member();
        tenure.heard(view(0, &[("a", 4 * SECOND), ("b", 9 * SECOND)]), (0, 0));
        tenure.lost();
        assert_eq!(tenure.standing(4 * SECOND), Standing::Limbo);
        assert_eq!(tenure.standing(5 * SECOND), Standing::Own);
        assert!(tenure.outlasts_lease(6 * SECOND) && !tenure.outlasts_lease(5 * SECOND));
    }

    #[test]
    fn who_has_left_uses_no_share() {
        let mut tenure = member();
        tenure.heard(view(0, &[]), (0, 0));
        tenure.leave();
        assert_eq!(tenure.standing(0), Standing::Shared);
        tenure.lost();
        assert_eq!(tenure.standing(1_000 * SECOND), Standing::Limbo);
    }

    #[test]
    fn a_view_is_good_until_the_next_lease_ends() {
        let three = view(10, &[("a", 30), ("b", 20), ("c", 10)]);
        assert_eq!((three.until("a", 5), three.until("c", 5), three.until("stranger", 5)), (20, 10, 15));
        assert_eq!(three.stale("a").collect::<Vec<_>>(), ["c"]);
        assert_eq!(three.stale("c").count(), 0);
    }

    proptest! {
        /// However late requests arrive, whichever answers are lost, and whatever the clocks show within their drift: where
        /// the node stands on its own share, the store holds no lease of it.
        #[test]
        fn the_lease_has_ended_wherever_it_uses_its_own_share(
            offset in 0..1_000 * SECOND, fast: bool,
            steps in proptest::collection::vec((0..3 * SECOND, 0..2 * SECOND, 0..SECOND, 0..4u8), 1..60),
        ) {
            let own = |real: u64| offset + real + if fast { real / DRIFT } else { 0 } - if fast { 0 } else { real / DRIFT };
            let (mut tenure, mut real, mut lease) = (member(), 0, 0);
            let mut late: Vec<(u64, u64)> = Vec::new();
            for (pause, there, back, fate) in steps {
                real += pause;
                late.retain(|(arrives, end)| {
                    if *arrives <= real && *arrives < *end {
                        lease = lease.max(*end);
                    }
                    *arrives > real
                });
                if tenure.standing(own(real)) == Standing::Own {
                    prop_assert!(lease <= real, "{} lasts until {}", real, lease);
                }
                let (sent, asked) = (real, tenure.lease_to_ask(own(real)));
                let arrives = real + there;
                match fate {
                    // It is on its way for long; who asks has given up.
                    0 => { late.push((arrives + 4 * there, asked)); tenure.lost(); }
                    1 => { late.push((arrives, asked)); tenure.lost(); }
                    _ => {
                        if arrives < asked {
                            lease = lease.max(asked);
                        }
                        real = arrives + back;
                        tenure.heard(view(arrives, &[("a", lease)]), (own(sent), own(real)));
                    }
                }
            }
        }
    }
}
