//! Listens to what one queue node has due, for ever: where the stream breaks it is asked for anew, with what we hold.

use crate::node::Node;
use crate::plan;
use crate::shared::{Event, Shared};
use futures::StreamExt;
use godwit_kit::call;
use godwit_proto::queue::v1::{WatchDueRequest, WatchDueResponse};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tonic::{Request, Status};

/// How long the first dispatch waits for a TSA.
const ORDERS_TIMEOUT: Duration = Duration::from_secs(2);
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

pub async fn run(shared: Arc<Shared>, node: Arc<Node>) {
    let part = format!("queue {}", node.name);
    let mut failures = 0;
    // A suspension that outlived a restart should hold from the first message on.
    let _ = tokio::time::timeout(ORDERS_TIMEOUT, shared.orders_known.cancelled()).await;
    loop {
        let ended = tokio::select! {
            ended = watch(&shared, &node, &part, &mut failures) => ended,
            () = shared.host.stop.requested() => return,
        };
        node.away.store(true, Ordering::Relaxed);
        let why = ended.err().map_or_else(|| "stream ended".into(), |status| status.to_string());
        shared.host.health.set("egress", &part, Err(why));
        failures += 1;
        tokio::select! {
            () = shared.host.clock.sleep(plan::call_backoff(failures)) => {}
            () = shared.host.stop.requested() => return,
        }
    }
}

async fn watch(shared: &Shared, node: &Node, part: &str, failures: &mut u32) -> Result<(), Status> {
    let request =
        WatchDueRequest { egress_node: Some(node.egress_node()), egress_pools: Vec::new(), held: node.held.all() };
    let mut answers = call::within(CALL_TIMEOUT, node.queue.watch_due(Request::new(request))).await?.into_inner();
    shared.say(Event::Anew { node: node.index }).await;
    node.away.store(false, Ordering::Relaxed);
    shared.host.health.set("egress", part, Ok(()));
    while let Some(answer) = answers.next().await {
        let WatchDueResponse { lanes, snapshot_done } = answer?;
        *failures = 0;
        shared.say(Event::Due { node: node.index, lanes, snapshot_done }).await;
    }
    Ok(())
}
