//! Rates of queues, asked of the throttle before a lease is given: what may not go now is due again when it may.

use crate::core::Picked;
use crate::node::Node;
use crate::schedule::millis;
use godwit_kit::call::within;
use godwit_kit::config::Rate;
use godwit_proto::convert::{duration, std_duration};
use godwit_proto::throttle::Throttle;
use godwit_proto::throttle::v1::acquire_request::Item;
use godwit_proto::throttle::v1::{AcquireRequest, RateLimit, acquire_response};
use std::time::Duration;
use tonic::{Request, Status};

const CALL_MAX: Duration = Duration::from_secs(2);
/// Where the throttle does not answer.
const RETRY_MS: u64 = 1_000;

/// Deliveries of one queue: its key, and their places in the batch.
struct Share {
    key: String,
    places: Vec<usize>,
}

/// Those that may be leased now. Without a configured rate, all.
pub async fn allow(node: &Node, picked: Vec<Picked>) -> Vec<Picked> {
    let (Some(rate), Some(throttle)) = (&node.config.max_message_rate, &node.throttle) else { return picked };
    let shares = shares(&picked);
    let answers = match acquire(node, throttle, rate, &shares).await {
        Ok(answers) => answers,
        Err(status) => {
            tracing::warn!(code = ?status.code(), reason = status.message(), "throttle does not answer: mail waits");
            Vec::new()
        }
    };
    let mut waits_ms = vec![None; picked.len()];
    for (place, share) in shares.iter().enumerate() {
        let (count, wait_ms) = answers.get(place).map_or((0, RETRY_MS), granted);
        share.places.iter().skip(count).for_each(|place| waits_ms[*place] = Some(wait_ms.max(1)));
    }
    node.with(|core, now_ms| {
        let mut allowed = Vec::with_capacity(picked.len());
        for (picked, wait_ms) in picked.into_iter().zip(waits_ms) {
            match wait_ms {
                None => allowed.push(picked),
                Some(wait_ms) => core.put_back(picked.key, now_ms + wait_ms, now_ms),
            }
        }
        allowed
    })
}

fn granted(item: &acquire_response::Item) -> (usize, u64) {
    let wait_ms = item.wait.as_ref().and_then(std_duration).map_or(RETRY_MS, millis);
    (if item.granted { item.count as usize } else { 0 }, wait_ms)
}

fn shares(picked: &[Picked]) -> Vec<Share> {
    let mut shares: Vec<Share> = Vec::new();
    for (place, picked) in picked.iter().enumerate() {
        let key = format!("queue:{}", picked.label.queue_name());
        match shares.iter_mut().find(|share| share.key == key) {
            Some(share) => share.places.push(place),
            None => shares.push(Share { key, places: vec![place] }),
        }
    }
    shares
}

async fn acquire(
    node: &Node,
    throttle: &Throttle,
    rate: &Rate,
    shares: &[Share],
) -> Result<Vec<acquire_response::Item>, Status> {
    let item = |share: &Share| Item {
        limits: vec![RateLimit {
            key: share.key.clone(),
            count: share.places.len() as u64,
            limit: rate.limit,
            period: Some(duration(rate.period)),
            burst: rate.burst,
            local: rate.local,
        }],
        partial: true,
    };
    let request = AcquireRequest { node: Some(node.host.node.into()), requests: shares.iter().map(item).collect() };
    Ok(within(CALL_MAX, throttle.acquire(Request::new(request))).await?.into_inner().responses)
}
