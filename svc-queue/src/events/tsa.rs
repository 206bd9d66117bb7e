//! Pushes the log to every TSA, each at its own pace. What a TSA says it wants next is the cursor: nothing is kept here.

use super::progress::Reporter;
use super::{Log, codec};
use crate::spool::Events;
use godwit_kit::{Host, call, peers::Peers};
use godwit_proto::common::v1::{EventKind, Gap};
use godwit_proto::tsa::Tsa;
use godwit_proto::tsa::v1::ObserveRequest;
use std::time::Duration;
use tonic::{Request, Status};

/// What one `Observe` may carry (the contract's bound).
const EVENTS_MAX: usize = 1_000;
const BYTES_MAX: usize = 1 << 20;

/// Events that no TSA needs are passed over in silence, but no more than so many: a TSA's cursor must not fall off the log.
const SKIPPED_MAX: u64 = 10_000;

const CALL_MAX: Duration = Duration::from_secs(10);
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Short: until a TSA that is back has caught up, who listens to it knows too little.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How often a TSA that has everything is asked whether it still has: it may be back without what it held.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// How often it is looked whether an address that is not used leads elsewhere now.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Starts a pusher for each address of a TSA; they end with the host.
pub fn start(log: &Log, peers: &Peers<Tsa>, host: &Host) {
    for (place, peer) in peers.all().iter().enumerate() {
        let pusher = Pusher {
            reporter: log.reporter(&format!("tsa:{}", peer.name)),
            place,
            name: peer.name.clone(),
            tsa: peer.handle.clone(),
            peers: peers.clone(),
            log: log.clone(),
            host: host.clone(),
        };
        let stop = host.stop.clone();
        host.stop.spawn(async move {
            tokio::select! {
                () = pusher.run() => {}
                () = stop.requested() => {}
            }
        });
    }
}

struct Pusher {
    /// Among the peers.
    place: usize,
    name: String,
    tsa: Tsa,
    peers: Peers<Tsa>,
    log: Log,
    reporter: Reporter,
    host: Host,
}

/// Where a TSA is.
struct Place {
    /// It holds everything before.
    confirmed: u64,
    /// From there to here is nothing that it needs.
    read: u64,
}

impl Pusher {
    async fn run(&self) {
        let mut retry = RETRY_MIN;
        loop {
            // An address that leads to a TSA which is fed by another one.
            if !self.is_listed() {
                self.reporter.left_out();
                self.host.clock.sleep(LOOK_EVERY).await;
                continue;
            }
            if let Err(status) = self.push(&mut retry).await {
                self.reporter.failed(status.message(), *self.log.newest().borrow());
                self.host.clock.sleep(retry).await;
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
    }

    fn is_listed(&self) -> bool {
        self.peers.is_listed(self.place)
    }

    /// Asks what is wanted, then sends from there on, for as long as this address is used; returns at the first failure.
    async fn push(&self, retry: &mut Duration) -> Result<(), Status> {
        let mut place = self.resume(self.ask().await?);
        while self.is_listed() {
            let newest = *self.log.newest().borrow();
            self.reporter.at(self.log.cursor(place.read), newest);
            tokio::select! {
                () = self.log.reaches(place.read) => {}
                () = self.host.clock.sleep(ASK_EVERY) => {
                    let wanted = self.ask().await?;
                    if wanted != place.confirmed {
                        place = self.resume(wanted);
                    }
                    continue;
                }
            }
            let page = self.log.read_raw(place.read, EVENTS_MAX, BYTES_MAX).await;
            let batch = self.batch(&place, page.map_err(|error| Status::unavailable(error.to_string()))?);
            let (first, next, gap) = (batch.first_seq, batch.next_seq, batch.gap);
            if batch.events.is_empty() && gap.is_none() && next - first < SKIPPED_MAX {
                place.read = next;
                continue;
            }
            let wanted = self.observe(batch).await?;
            if wanted == first {
                return Err(Status::unavailable(format!("it took none of the events from {first} on")));
            }
            if let Some(gap) = gap.filter(|gap| wanted > gap.to) {
                self.reporter.lost(&gap);
            }
            *retry = RETRY_MIN;
            place = self.resume(wanted);
        }
        Ok(())
    }

    /// The batch that takes the TSA from its place to the end of `page`.
    fn batch(&self, place: &Place, page: Events) -> ObserveRequest {
        let gap = page.gap.map(|(from, to)| Gap { from, to });
        let log_id = self.log.log_id();
        let needed = page.items.into_iter().filter(|(_, payload)| is_needed(codec::kind(payload)));
        let events = needed.map(|(seq, payload)| codec::decode(payload, seq, &log_id, self.log.node())).collect();
        ObserveRequest { first_seq: place.confirmed, events, next_seq: page.next, gap, ..ObserveRequest::default() }
    }

    /// What the TSA wants next, without sending anything.
    async fn ask(&self) -> Result<u64, Status> {
        self.observe(ObserveRequest { first_seq: 1, next_seq: 1, ..ObserveRequest::default() }).await
    }

    /// Sends one batch of this node's log; answers what the TSA wants next.
    async fn observe(&self, batch: ObserveRequest) -> Result<u64, Status> {
        let request = ObserveRequest { node: Some(self.log.node().clone()), log_id: self.log.log_id(), ..batch };
        let answer = call::within(CALL_MAX, self.tsa.observe(Request::new(request))).await?;
        Ok(answer.into_inner().next_seq.max(1))
    }

    /// A TSA cannot have seen what is not there yet; one that says so is fed from the end.
    fn resume(&self, wanted: u64) -> Place {
        let end = *self.log.newest().borrow() + 1;
        if wanted > end {
            tracing::warn!(tsa = self.name, wanted, end, "a TSA wants events beyond the end of the log");
        }
        Place { confirmed: wanted.min(end), read: wanted.min(end) }
    }
}

/// What became of attempts, what came back, and what operators did; not the rest of a message's way.
fn is_needed(kind: EventKind) -> bool {
    match kind {
        EventKind::Delivery
        | EventKind::TransientFailure
        | EventKind::Bounce
        | EventKind::Expiration
        | EventKind::AdminBounce
        | EventKind::Oob
        | EventKind::Feedback
        | EventKind::Audit => true,
        EventKind::Unspecified
        | EventKind::Reception
        | EventKind::Rejection
        | EventKind::Delayed
        | EventKind::AdminRebind
        | EventKind::TransferOut
        | EventKind::TransferIn => false,
    }
}
