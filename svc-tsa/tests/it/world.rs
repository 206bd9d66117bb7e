//! One TSA in a folder of its own under a paused clock, called near or far.

use futures::StreamExt;
use godwit_kit::{Host, clock::Clock};
use godwit_proto::Replies;
use godwit_proto::common::v1::{Event, EventKind, QueueName, SmtpReply};
use godwit_proto::id::{MessageId, NodeId};
use godwit_proto::tsa::v1::{watch_response::Item, *};
use godwit_proto::tsa::{Tsa, TsaServiceServer};
use godwit_proto::{convert, tsa};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use svc_tsa::Config;
use tonic::Request;

pub const RULES: &str = r#"
[["default".automation]]
regex = "slow down"
trigger = {Threshold="3/min"}
action = [{SetConfig={name="max_message_rate", value="1/minute"}}, {SetConfig={name="connection_limit", value=1}}]
duration = "10m"

[["default".automation]]
regex = "blocked"
action = "Suspend"
duration = "2m"

[[provider."big".automation]]
regex = "TS04"
action = "Suspend"
duration = "1 hour"
"#;

/// When every world begins.
pub fn origin() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// A folder of its own, gone at the end.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn make() -> Self {
        let path = std::env::temp_dir().join(format!("godwit-tsa-{}", MessageId::new()));
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("shaping.toml"), RULES).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A process with a TSA in it.
pub struct World {
    pub tsa: Tsa,
    pub host: Host,
}

#[derive(Debug, Clone, Copy)]
pub enum Road {
    Near,
    Far,
}

impl World {
    pub async fn start(folder: &Folder, road: Road) -> Self {
        let mut host = Host::new(NodeId::new());
        host.clock = Clock::tokio(origin());
        Self::start_on(folder, road, host).await
    }

    pub async fn start_on(folder: &Folder, road: Road, host: Host) -> Self {
        let config = Config { shaping_files: vec![folder.0.join("shaping.toml")], ..Config::default() };
        let service = Arc::new(svc_tsa::build(config, &folder.0, &host).await.unwrap());
        let tsa: Tsa = match road {
            Road::Near => service,
            Road::Far => tsa::at(godwit_kit::connect::pipe(TsaServiceServer::from_arc(service))),
        };
        Self { tsa, host }
    }

    /// Ends it; what was answered is on disk.
    pub async fn stop(self) {
        assert!(self.host.stop.finish(Duration::from_secs(10)).await);
    }

    pub async fn observe(&self, node: NodeId, first_seq: u64, events: Vec<Event>) -> u64 {
        let request = batch(node, first_seq, events);
        self.tsa.observe(Request::new(request)).await.unwrap().into_inner().next_seq
    }

    pub async fn watch(&self, instance_id: &str, known_version: u64) -> Replies<WatchResponse> {
        let request = WatchRequest { instance_id: instance_id.into(), known_version };
        self.tsa.watch(Request::new(request)).await.unwrap().into_inner()
    }

    pub async fn list(&self) -> Vec<Action> {
        self.tsa.list(Request::new(ListRequest::default())).await.unwrap().into_inner().actions
    }

    pub async fn status(&self) -> StatusResponse {
        self.tsa.status(Request::new(StatusRequest {})).await.unwrap().into_inner()
    }
}

/// Consecutive events from `first_seq`.
pub fn batch(node: NodeId, first_seq: u64, mut events: Vec<Event>) -> ObserveRequest {
    for (place, event) in events.iter_mut().enumerate() {
        event.seq = first_seq + place as u64;
    }
    let next_seq = first_seq + events.len() as u64;
    ObserveRequest { node: Some(node.into()), log_id: "log".into(), first_seq, next_seq, events, gap: None }
}

/// A remote's answer, so many seconds after the origin.
pub fn answer(seconds: u64, site: &str, text: &str) -> Event {
    let reply = SmtpReply { code: 421, text: text.into(), ..SmtpReply::default() };
    let mut event = Event {
        time: Some(convert::timestamp(origin() + Duration::from_secs(seconds))),
        queue_name: Some(QueueName { domain: "example.com".into(), ..QueueName::default() }),
        site: site.into(),
        source: "ip-1".into(),
        reply: Some(reply),
        ..Event::default()
    };
    event.set_kind(EventKind::TransientFailure);
    event
}

/// What the stream says next, and its version.
pub async fn next(stream: &mut Replies<WatchResponse>) -> (Item, u64) {
    let response = stream.next().await.unwrap().unwrap();
    (response.item.unwrap(), response.version)
}

/// In a few words, for comparing.
pub fn told(item: &Item) -> String {
    let what = |action: &Action| {
        let scope = action.scope.clone().unwrap_or_default();
        format!("{} {}{}", scope.site, action.name, if action.kind() == ActionKind::Suspend { "suspend" } else { "" })
    };
    match item {
        Item::Snapshot(snapshot) => format!("snapshot of {}", snapshot.actions.len()),
        Item::Added(action) => format!("added {}", what(action)),
        Item::Changed(action) => format!("changed {}", what(action)),
        Item::Removed(action) => format!("removed {}", action.scope.clone().unwrap_or_default().site),
        Item::Tick(_) => "tick".into(),
    }
}

/// Seconds after the origin.
pub fn seconds(time: &Option<prost_types::Timestamp>) -> u64 {
    convert::system_time(time.as_ref().unwrap()).unwrap().duration_since(origin()).unwrap().as_secs()
}
