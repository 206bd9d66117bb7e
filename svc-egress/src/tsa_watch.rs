//! Listens to traffic shaping automation: one TSA at a time, the next where it goes. What was last known stays in force.

use crate::actions::{Actions, Touched};
use crate::crew::lock;
use crate::plan;
use crate::shared::{Event, Shared};
use futures::StreamExt;
use godwit_kit::call;
use godwit_kit::peers::Peers;
use godwit_proto::tsa::Tsa;
use godwit_proto::tsa::v1::{ActionKind, WatchRequest, WatchResponse, watch_response::Item};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tonic::{Request, Status};

/// A tick comes every 10 s; silence for longer means that nobody is there.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Where the last answer stood, so that the same instance tells only what is new.
#[derive(Debug, Default)]
struct Known {
    version: u64,
    instance_id: String,
}

pub async fn run(shared: Arc<Shared>, peers: Peers<Tsa>, actions: Arc<Mutex<Actions>>) {
    let mut known = Known::default();
    let mut failures: u32 = 0;
    while !peers.is_empty() {
        for peer in peers.each() {
            let ended = tokio::select! {
                ended = watch(&shared, &peer.handle, &actions, &mut known, &mut failures) => ended,
                () = shared.host.stop.requested() => return,
            };
            let why = ended.err().map_or_else(|| "stream ended".into(), |status| status.to_string());
            shared.host.health.set("egress", "tsa", Err(format!("{}: {why}", peer.name)));
        }
        // Nobody answers: mail flows under what is known.
        shared.orders_known.cancel();
        failures += 1;
        tokio::select! {
            () = shared.host.clock.sleep(plan::call_backoff(failures)) => {}
            () = shared.host.stop.requested() => return,
        }
    }
    shared.orders_known.cancel();
}

async fn watch(
    shared: &Shared,
    tsa: &Tsa,
    actions: &Mutex<Actions>,
    known: &mut Known,
    failures: &mut u32,
) -> Result<(), Status> {
    let request = WatchRequest { known_version: known.version, instance_id: known.instance_id.clone() };
    let mut answers = call::within(SILENCE_MAX, tsa.watch(Request::new(request))).await?.into_inner();
    shared.host.health.set("egress", "tsa", Ok(()));
    loop {
        let silent = || Status::deadline_exceeded("no tick");
        let answer = tokio::time::timeout(SILENCE_MAX, answers.next()).await.map_err(|_| silent())?;
        let Some(answer) = answer else { return Ok(()) };
        let WatchResponse { item, version, instance_id } = answer?;
        *failures = 0;
        *known = Known { version, instance_id };
        let Some(item) = item else { continue };
        note(&item);
        let touched = {
            let mut actions = lock(actions);
            actions.expire(shared.host.clock.now());
            actions.take(item)
        };
        if touched != Touched::Nothing {
            shared.say(Event::Actions { touched }).await;
        }
        shared.orders_known.cancel();
    }
}

/// An override that no path can take is said here, once.
fn note(item: &Item) {
    let actions = match item {
        Item::Snapshot(snapshot) => snapshot.actions.as_slice(),
        Item::Added(action) | Item::Changed(action) => std::slice::from_ref(action),
        Item::Removed(_) | Item::Tick(_) => &[],
    };
    for action in actions.iter().filter(|action| action.kind() == ActionKind::SetConfig) {
        if let Err(what) = godwit_shaping::Path::default().set(&action.name, &action.value) {
            tracing::warn!(action = %action.id, rule = %action.rule, name = %action.name, %what, "override not understood");
        }
    }
}
