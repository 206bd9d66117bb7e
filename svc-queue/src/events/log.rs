//! The event log, read by number: whose it is, how far it goes, and what lies between.

use super::progress::{Progress, Reporter};
use super::{Source, codec};
use crate::spool::{Error, Events};
use godwit_kit::{Host, stop::Stop};
use godwit_proto::common::v1::{Cursor, Event, Gap, NodeId};
use godwit_proto::queue::v1::sinks_response::Sink;
use std::sync::Arc;
use tokio::sync::watch;

/// This node's event log. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    source: Arc<dyn Source>,
    /// Text form of the spool's log id.
    id: Arc<str>,
    node: NodeId,
    stop: Stop,
    progress: Progress,
}

/// A piece of the log.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// Asked for and no longer held; comes before all of `events`.
    pub gap: Option<Gap>,
    /// In order, stamped with number, log and node.
    pub events: Vec<Event>,
    /// Where to go on: one past the last number that this page covers.
    pub next: u64,
}

impl Log {
    /// The log of `source`, which is the spool.
    pub fn new(source: impl Source + 'static, host: &Host) -> Self {
        Self {
            id: format!("{:032x}", source.log_id()).into(),
            source: Arc::new(source),
            node: host.node.into(),
            stop: host.stop.clone(),
            progress: Progress::new(&host.metrics),
        }
    }

    /// 32 hexadecimal digits.
    pub fn log_id(&self) -> String {
        self.id.to_string()
    }

    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// Where someone stands who has seen everything before `next`.
    pub fn cursor(&self, next: u64) -> Cursor {
        Cursor { log_id: self.log_id(), seq: next.saturating_sub(1) }
    }

    /// The newest durable number (0: none yet); changes at each commit that wrote events.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.source.newest()
    }

    /// Every sink and TSA that is fed from here, with its cursor, lag and newest error.
    pub fn sinks(&self) -> Vec<Sink> {
        let newest = *self.newest().borrow();
        let lag = |sink: &Sink| newest.saturating_sub(sink.cursor.as_ref().map_or(0, |cursor| cursor.seq));
        self.progress.list().into_iter().map(|sink| Sink { lag_events: lag(&sink), ..sink }).collect()
    }

    pub(super) fn reporter(&self, sink: &str) -> Reporter {
        self.progress.reporter(sink)
    }

    /// Ends what streams from this log.
    pub(super) fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Events from number `from` on (from 1): at most `count_max`, and beyond the first at most `bytes_max`.
    pub async fn read(&self, from: u64, count_max: usize, bytes_max: usize) -> Result<Page, Error> {
        let Events { items, gap, next } = self.read_raw(from, count_max, bytes_max).await?;
        let events =
            items.into_iter().map(|(seq, payload)| codec::decode(payload, seq, &self.id, &self.node)).collect();
        Ok(Page { gap: gap.map(|(from, to)| Gap { from, to }), events, next })
    }

    /// The same, events still as the spool holds them.
    pub(super) async fn read_raw(&self, from: u64, count_max: usize, bytes_max: usize) -> Result<Events, Error> {
        self.source.events(from.max(1), count_max, bytes_max).await
    }

    /// Returns once number `seq` is there.
    pub(super) async fn reaches(&self, seq: u64) {
        let mut newest = self.newest();
        if newest.wait_for(|newest| *newest >= seq).await.is_err() {
            // The spool is gone; whoever waits is ended by the stop.
            std::future::pending().await
        }
    }
}
