//! Rates: asks over their limits, those of one round in one trip to Redis; or on this node's share, or nobody's.

use super::node::{Decider, Node};
use super::scripts::{Frame, Undone, number, said};
use super::wire::{Call, Item, Refused};
use crate::error::Error;
use crate::store::{Answer, Ask, Limit, Taken};
use crate::take::{GiveBack, Offer, Step, Taking, give_backs};
use std::time::Duration;

/// How often an ask is tried where this node's view or Redis' state turns out to have changed.
pub(super) const TRIES: usize = 2;

/// Tokens of a limit that go back.
struct Back {
    key: String,
    local: bool,
    count: u64,
}

/// One ask on its way.
struct Way<'a> {
    ask: &'a Ask,
    taking: Taking<'a>,
    degraded: bool,
    /// Nobody decided.
    undecided: Option<Duration>,
}

/// What a round of offers came to.
struct Round {
    steps: Vec<Option<Step>>,
    degraded: bool,
    /// Where there is no step.
    wait: Duration,
}

impl Node {
    pub(super) async fn acquire(&self, asks: &[Ask]) -> Result<Vec<Answer>, Error> {
        self.admit(asks)?;
        let way = |ask| Way { ask, taking: Taking::new(ask), degraded: false, undecided: None };
        let mut ways: Vec<Way<'_>> = asks.iter().map(way).collect();
        let mut backs = Vec::new();
        let failed = loop {
            let offers = match self.next_round(&mut ways, &mut backs) {
                Ok(offers) => offers,
                Err(error) => break Some(error),
            };
            if offers.is_empty() {
                break None;
            }
            let (places, offers): (Vec<usize>, Vec<Offer<'_>>) = offers.into_iter().unzip();
            let round = match self.round(&offers, std::mem::take(&mut backs)).await {
                Ok(round) => round,
                Err(error) => break Some(error),
            };
            for (place, step) in places.into_iter().zip(round.steps) {
                let way = &mut ways[place];
                way.degraded |= round.degraded;
                let back = match step {
                    Some(step) => way.taking.answered(step),
                    None => {
                        way.undecided = Some(round.wait);
                        way.taking.failed()
                    }
                };
                backs.extend(named(way.ask, back));
            }
        };
        if failed.is_some() {
            ways.iter().for_each(|way| backs.extend(named(way.ask, way.all_taken())));
        }
        self.give_back(backs).await;
        failed.map_or_else(|| Ok(ways.iter().map(Way::answer).collect()), Err)
    }

    /// There must be room to remember what Redis answers.
    fn admit(&self, asks: &[Ask]) -> Result<(), Error> {
        let limits = asks.iter().flat_map(|ask| &ask.limits).filter(|limit| !limit.local);
        self.memo(|memo, now| memo.admit(limits.map(|limit| limit.key.as_str()), false, now))
    }

    /// The next shared limit of each ask; this node's own limits before it are taken on the way.
    fn next_round<'a>(&self, ways: &mut [Way<'a>], backs: &mut Vec<Back>) -> Result<Vec<(usize, Offer<'a>)>, Error> {
        let mut offers = Vec::new();
        for (place, way) in ways.iter_mut().enumerate().filter(|(_, way)| way.undecided.is_none()) {
            while let Some(offer) = way.taking.offer() {
                if !offer.limit.local {
                    offers.push((place, offer));
                    break;
                }
                let step = self.local.step(offer, self.local.now())?;
                backs.extend(named(way.ask, way.taking.answered(step)));
            }
        }
        Ok(offers)
    }

    /// One round: in one trip, with what goes back before it.
    async fn round(&self, offers: &[Offer<'_>], mut backs: Vec<Back>) -> Result<Round, Error> {
        let mut round = Round { steps: vec![None; offers.len()], degraded: true, wait: Duration::ZERO };
        for _ in 0..TRIES {
            let (frame, _gate) = match self.decider() {
                Decider::Shared(frame, gate) => (frame, gate),
                Decider::Own(own, _gate) => {
                    for (step, offer) in round.steps.iter_mut().zip(offers).filter(|(step, _)| step.is_none()) {
                        *step = Some(own.step(*offer)?);
                    }
                    break;
                }
                Decider::Nobody(wait) => {
                    round.wait = wait;
                    break;
                }
            };
            let undone = self.trip(&frame, offers, &mut round.steps, std::mem::take(&mut backs)).await;
            drop(_gate);
            match undone {
                None => {
                    round.degraded = false;
                    break;
                }
                Some(undone) => self.again(undone, frame.scripts.epoch).await,
            }
        }
        self.give_back(backs).await;
        round.wait = round.wait.max(Duration::from_millis(50));
        Ok(round)
    }

    /// Asks Redis for those offers that have no step yet; the worst of what it did not do.
    async fn trip(
        &self,
        frame: &Frame,
        offers: &[Offer<'_>],
        steps: &mut [Option<Step>],
        backs: Vec<Back>,
    ) -> Option<Undone> {
        let refunds = self.refunds(frame, backs);
        let open: Vec<usize> = (0..offers.len()).filter(|place| steps[*place].is_none()).collect();
        let asks = self.memo(|memo, now| {
            let ask = |place: &usize| {
                let offer = &offers[*place];
                frame.ask(offer, memo.owes_still(&offer.limit.key, now))
            };
            open.iter().map(ask).collect::<Vec<Call>>()
        });
        let calls: Vec<Call> = refunds.iter().map(|(_, call)| call.clone()).chain(asks).collect();
        let answers = match self.wire.run(&calls).await {
            Ok(answers) => answers,
            Err(away) => {
                self.lost(away);
                return Some(Undone::Lapsed);
            }
        };
        let mut answers = answers.into_iter();
        for ((key, _), answer) in refunds.iter().zip(answers.by_ref()) {
            self.note_refund(key, answer);
        }
        let mut worst = None;
        for (place, answer) in open.into_iter().zip(answers) {
            match said(answer) {
                Ok(items) => steps[place] = self.note_ask(frame, &offers[place], &items),
                Err(undone) => worst = worse(worst, undone),
            }
        }
        worst
    }

    fn note_ask(&self, frame: &Frame, offer: &Offer<'_>, items: &[Item]) -> Option<Step> {
        let (took, wait, debt) = frame.asked(offer, items)?;
        self.memo(|memo, _| memo.owes(&offer.limit.key, debt));
        Some(if took > 0 { Step::Took { count: took } } else { Step::Wait { micros: wait } })
    }

    fn note_refund(&self, key: &str, answer: Result<Item, Refused>) {
        if let Ok(items) = said(answer)
            && let [units, at] = items[..].iter().filter_map(number).collect::<Vec<_>>()[..]
        {
            self.memo(|memo, _| memo.owes_less(key, units, at));
        }
    }

    /// What a script did not do makes this node look again.
    pub(super) async fn again(&self, undone: Undone, epoch: u64) {
        match undone {
            Undone::Lost => {
                tracing::warn!(epoch, "Redis has lost something: what is remembered is put back");
                self.turn(Some(epoch)).await;
            }
            Undone::Epoch | Undone::Lapsed => self.turn(None).await,
            // Full, read-only, or with something else under the key.
            Undone::Refused(reason) => self.lost(self.wire.away(&reason)),
        }
    }

    pub(super) async fn refund(&self, limits: &[Limit]) {
        let back = |limit: &Limit| Back { key: limit.key.clone(), local: limit.local, count: limit.count };
        self.give_back(limits.iter().map(back).collect()).await;
    }

    /// What cannot be given back runs off by itself.
    async fn give_back(&self, mut backs: Vec<Back>) {
        backs.retain(|back| back.count > 0);
        if backs.is_empty() {
            return;
        }
        match self.decider() {
            Decider::Shared(frame, _gate) => {
                let refunds = self.refunds(&frame, backs);
                let calls: Vec<Call> = refunds.iter().map(|(_, call)| call.clone()).collect();
                match self.wire.run(&calls).await {
                    Ok(answers) => {
                        refunds.iter().zip(answers).for_each(|((key, _), answer)| self.note_refund(key, answer));
                    }
                    Err(away) => self.lost(away),
                }
            }
            Decider::Own(own, _gate) => {
                for back in backs {
                    match back.local {
                        true => self.local.refund_one(&back.key, back.count, self.local.now()),
                        false => own.refund(&back.key, back.count),
                    }
                }
            }
            Decider::Nobody(_) => {
                let local = backs.iter().filter(|back| back.local);
                local.for_each(|back| self.local.refund_one(&back.key, back.count, self.local.now()));
            }
        }
    }

    /// The calls for what goes back to Redis, each with its limit's key; what is this node's own goes back here.
    fn refunds(&self, frame: &Frame, backs: Vec<Back>) -> Vec<(String, Call)> {
        let (local, shared): (Vec<Back>, Vec<Back>) =
            backs.into_iter().filter(|back| back.count > 0).partition(|back| back.local);
        for back in local {
            self.local.refund_one(&back.key, back.count, self.local.now());
        }
        shared.into_iter().map(|back| (back.key.clone(), frame.refund(&back.key, back.count))).collect()
    }
}

impl Way<'_> {
    fn answer(&self) -> Answer {
        let taken = match self.undecided {
            None => self.taking.taken(),
            Some(wait) => {
                let shared = self.ask.limits.iter().position(|limit| !limit.local);
                Taken::Wait { wait, refusing: shared.unwrap_or(0) }
            }
        };
        Answer { taken, degraded: self.degraded }
    }

    /// Everything it holds, where the whole batch fails.
    fn all_taken(&self) -> Vec<GiveBack> {
        match (self.undecided, self.taking.offer()) {
            (Some(_), _) => Vec::new(),
            (None, Some(_)) => self.taking.failed(),
            (None, None) => match self.taking.taken() {
                Taken::Granted { count } => give_backs(self.ask, self.ask.limits.len(), (count, 0)),
                Taken::Wait { .. } => Vec::new(),
            },
        }
    }
}

fn named(ask: &Ask, backs: Vec<GiveBack>) -> impl Iterator<Item = Back> {
    backs.into_iter().map(|(place, count)| {
        let limit = &ask.limits[place];
        Back { key: limit.key.clone(), local: limit.local, count }
    })
}

/// The one that asks for more.
pub(super) fn worse(one: Option<Undone>, other: Undone) -> Option<Undone> {
    let rank = |undone: &Undone| match undone {
        Undone::Lost => 3,
        Undone::Epoch => 2,
        Undone::Lapsed => 1,
        Undone::Refused(_) => 0,
    };
    match one {
        Some(one) if rank(&one) >= rank(&other) => Some(one),
        Some(_) | None => Some(other),
    }
}
