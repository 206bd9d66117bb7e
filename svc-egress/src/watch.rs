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
/// How often it is looked whether an address that is not used leads elsewhere now.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// On the board: ready while any queue node tells what it has due.
const PART: &str = "queue streams";

/// Why a stream is over.
enum End {
    /// The node's own.
    Over,
    /// The address leads to a node that is watched by another one.
    LeftOut,
}

pub async fn run(shared: Arc<Shared>, node: Arc<Node>) {
    let mut failures = 0;
    // A suspension that outlived a restart should hold from the first message on.
    let _ = tokio::time::timeout(ORDERS_TIMEOUT, shared.orders_known.cancelled()).await;
    loop {
        let ended = tokio::select! {
            ended = watch(&shared, &node, &mut failures) => ended,
            () = shared.host.stop.requested() => return,
        };
        if shared.host.stop.is_requested() {
            // A queue in this process ends with us.
            return;
        }
        node.away.store(true, Ordering::Relaxed);
        let pause = match ended {
            Ok(End::LeftOut) => LOOK_EVERY,
            Ok(End::Over) => away(&shared, &node, &mut failures, "stream ended"),
            Err(status) => away(&shared, &node, &mut failures, &status.to_string()),
        };
        tokio::select! {
            () = shared.host.clock.sleep(pause) => {}
            () = shared.host.stop.requested() => return,
        }
    }
}

/// Says so; how long to wait before it is called again.
fn away(shared: &Shared, node: &Node, failures: &mut u32, why: &str) -> Duration {
    *failures += 1;
    if *failures == 1 {
        tracing::warn!(queue = %node.name, why, "queue node away");
    }
    if shared.nodes.iter().all(|node| node.is_away()) {
        shared.host.health.set("egress", PART, Err(format!("{}: {why}", node.name)));
    }
    plan::call_backoff(*failures)
}

async fn watch(shared: &Shared, node: &Node, failures: &mut u32) -> Result<End, Status> {
    if !shared.queues.is_listed(node.index) {
        return Ok(End::LeftOut);
    }
    let request =
        WatchDueRequest { egress_node: Some(node.egress_node()), egress_pools: Vec::new(), held: node.held.all() };
    let mut answers = call::within(CALL_TIMEOUT, node.queue.watch_due(Request::new(request))).await?.into_inner();
    // The answer said whose it is.
    if !shared.queues.is_listed(node.index) {
        return Ok(End::LeftOut);
    }
    shared.say(Event::Anew { node: node.index }).await;
    node.away.store(false, Ordering::Relaxed);
    shared.host.health.set("egress", PART, Ok(()));
    while let Some(answer) = answers.next().await {
        let WatchDueResponse { lanes, snapshot_done } = answer?;
        *failures = 0;
        if !shared.queues.is_listed(node.index) {
            return Ok(End::LeftOut);
        }
        shared.say(Event::Due { node: node.index, lanes, snapshot_done }).await;
    }
    Ok(End::Over)
}
