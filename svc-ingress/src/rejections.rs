//! Events of what was refused, brought to a queue's log in the background: bounded, and counted where they are lost.

use std::{sync::Arc, time::Duration};

use godwit_kit::{Host, call::within, peers::Peers, stop::Stop};
use godwit_proto::{
    common::v1::Event,
    queue::{Queue, v1::RecordRequest},
};
use tokio::sync::mpsc;
use tonic::{Request, Status};

use crate::{meters::Meters, sessions::Sessions};

/// Events that wait to be recorded.
const WAITING_MAX: usize = 4_096;
/// `RecordRequest.events`.
const BATCH_MAX: usize = 1_000;
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_secs(1);
/// How often a stopping recorder looks whether the sessions have ended.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub struct Rejections {
    waiting: mpsc::Sender<Event>,
    meters: Arc<Meters>,
}

/// The task's end.
struct Recorder {
    queues: Peers<Queue>,
    sessions: Sessions,
    meters: Arc<Meters>,
    stop: Stop,
    events: mpsc::Receiver<Event>,
}

impl Rejections {
    pub fn start(queues: Peers<Queue>, sessions: Sessions, meters: Arc<Meters>, host: &Host) -> Self {
        let (waiting, events) = mpsc::channel(WAITING_MAX);
        let recorder = Recorder { queues, sessions, meters: meters.clone(), stop: host.stop.clone(), events };
        host.stop.spawn(recorder.run());
        Self { waiting, meters }
    }

    /// Returns at once; where too many wait already, the event is lost and counted.
    pub fn record(&self, event: Event) {
        if self.waiting.try_send(event).is_err() {
            self.meters.rejections_dropped.inc();
        }
    }
}

impl Recorder {
    async fn run(mut self) {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                count = self.events.recv_many(&mut batch, BATCH_MAX) => if count == 0 { return },
                () = self.stop.requested() => return self.finish(batch).await,
            }
            while self.record(&batch).await.is_err() {
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = self.stop.requested() => return self.finish(batch).await,
                }
            }
            batch.clear();
        }
    }

    /// Records what there is once the sessions have ended: one try.
    async fn finish(mut self, mut batch: Vec<Event>) {
        while !self.sessions.is_empty() {
            tokio::time::sleep(LOOK).await;
        }
        while let Ok(event) = self.events.try_recv() {
            batch.push(event);
        }
        for events in batch.chunks(BATCH_MAX) {
            if self.record(events).await.is_err() {
                self.meters.rejections_dropped.inc_by(events.len() as u64);
            }
        }
    }

    async fn record(&self, events: &[Event]) -> Result<(), Status> {
        let record = |queue: Queue| async move {
            within(CALL_TIMEOUT, queue.record(Request::new(RecordRequest { events: events.to_vec() }))).await
        };
        let result = self.queues.any(record).await;
        result.map(|_| ()).inspect_err(|status| tracing::debug!(%status, "rejections not recorded"))
    }
}
