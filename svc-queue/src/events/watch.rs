//! `WatchEvents`: the log from a cursor on, as a stream that reads only when its caller takes.
//!
//! There is no task and no queue: each answer is made when it is asked for, so a slow watcher holds one page at the most.

use super::filter::Filter;
use super::{Log, codec};
use futures::stream;
use godwit_proto::Replies;
use godwit_proto::common::v1::Gap;
use godwit_proto::queue::v1::watch_events_response::{Batch, CaughtUp, Item};
use godwit_proto::queue::v1::{WatchEventsRequest, WatchEventsResponse};
use tonic::Status;

/// What one answer may hold.
const EVENTS_MAX: usize = 1_000;
const BYTES_MAX: usize = 1 << 20;

/// A watcher that wants little of a busy log is told of its place at least every so many events.
const SILENT_EVENTS_MAX: u64 = 1_000;

struct Watcher {
    log: Log,
    filter: Filter,
    start: Start,
    /// The next number to read.
    next: u64,
    /// Where the newest answer left the caller.
    told: u64,
    /// Something was sent that no `CaughtUp` has followed yet.
    owes_caught_up: bool,
}

/// What the first read has to say of what is gone before it.
#[derive(PartialEq)]
enum Start {
    /// The oldest there is was asked for: nothing is missing.
    Oldest,
    /// The cursor is of another log: what came after it there is lost.
    Elsewhere,
    Known,
}

impl Log {
    /// Streams events after the request's cursor, then new ones as they commit; ends when the host stops. After a cursor of
    /// another log comes a gap first: 0 to 0 where this log itself is whole.
    ///
    /// # Errors
    /// `InvalidArgument`: the filter, or a cursor beyond the newest event.
    pub fn watch(&self, request: WatchEventsRequest) -> Result<Replies<WatchEventsResponse>, Status> {
        let filter = Filter::parse(request.filter)?;
        let newest = *self.newest().borrow();
        let (start, next) = match request.cursor {
            None => (Start::Known, newest + 1),
            Some(cursor) if cursor.log_id.is_empty() => (Start::Oldest, 1),
            Some(cursor) if cursor.log_id != self.log_id() => (Start::Elsewhere, 1),
            Some(cursor) if cursor.seq == 0 => (Start::Oldest, 1),
            Some(cursor) if cursor.seq > newest => {
                return Err(Status::invalid_argument(format!("cursor.seq: the newest event is {newest}")));
            }
            Some(cursor) => (Start::Known, cursor.seq + 1),
        };
        let log = self.clone();
        let watcher = Watcher { log, filter, start, next, told: next, owes_caught_up: true };
        Ok(Box::pin(stream::unfold(Some(watcher), |watcher| async move {
            let mut watcher = watcher?;
            let stop = watcher.log.stop().clone();
            let answer = tokio::select! {
                answer = watcher.answer() => answer,
                () = stop.requested() => return None,
            };
            let watcher = answer.is_ok().then_some(watcher);
            Some((answer, watcher))
        })))
    }
}

impl Watcher {
    /// The next thing to say; waits until there is one.
    async fn answer(&mut self) -> Result<WatchEventsResponse, Status> {
        loop {
            let newest = *self.log.newest().borrow();
            if self.next > newest && self.start != Start::Elsewhere {
                if self.owes_caught_up || self.next - self.told >= SILENT_EVENTS_MAX {
                    self.owes_caught_up = false;
                    return Ok(self.say(Item::CaughtUp(CaughtUp {})));
                }
                self.log.reaches(self.next).await;
            }
            if let Some(item) = self.read().await? {
                self.owes_caught_up = true;
                return Ok(self.say(item));
            }
        }
    }

    /// What the next page holds for this watcher.
    async fn read(&mut self) -> Result<Option<Item>, Status> {
        let page = self.log.read_raw(self.next, EVENTS_MAX, BYTES_MAX).await;
        let page = page.map_err(|error| Status::unavailable(error.to_string()))?;
        let gap = page.gap.map(|(from, to)| Gap { from, to });
        let gap = match std::mem::replace(&mut self.start, Start::Known) {
            Start::Elsewhere => Some(gap.unwrap_or_default()),
            Start::Oldest => {
                self.next = gap.map_or(self.next, |gap| gap.to + 1);
                None
            }
            Start::Known => gap,
        };
        if let Some(gap) = gap {
            // What follows it on this page is read again by the next answer.
            self.next = gap.to + 1;
            return Ok(Some(Item::Gap(gap)));
        }
        self.next = page.next;
        let wanted = page.items.into_iter().filter(|(_, payload)| self.filter.wants_kind(codec::kind(payload)));
        let log_id = self.log.log_id();
        let decoded = wanted.map(|(seq, payload)| codec::decode(payload, seq, &log_id, self.log.node()));
        let events: Vec<_> = decoded.filter(|event| self.filter.wants(event)).collect();
        Ok((!events.is_empty()).then_some(Item::Events(Batch { events })))
    }

    fn say(&mut self, item: Item) -> WatchEventsResponse {
        self.told = self.next;
        WatchEventsResponse { item: Some(item), cursor: Some(self.log.cursor(self.next)) }
    }
}
