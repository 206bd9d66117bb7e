//! The queue's own clockwork: what falls due, which leases run out, whose age has come. One task, which sleeps until then.

use crate::conclude::{self, STEP_COUNT_MAX};
use crate::core::{Advanced, Claimed, Next};
use crate::events::codec;
use crate::lane::Key;
use crate::node::Node;
use crate::outcome::about_open;
use crate::spool::{Health, Record};
use crate::stored::withdrawn_key;
use godwit_proto::common::v1::{EventKind, SmtpReply};
use std::sync::Arc;
use std::time::Duration;

/// How often figures are taken, at least.
const TICK: Duration = Duration::from_secs(1);
/// When an expiry that could not be written is tried again.
const AGAIN_MS: u64 = 1_000;
const ASLEEP_MS_MAX: u64 = 60_000;

pub fn start(node: &Arc<Node>) {
    node.host.stop.spawn(run(node.clone()));
    node.host.stop.spawn(watch_health(node.clone()));
    node.host.stop.spawn(take_figures(node.clone()));
}

async fn run(node: Arc<Node>) {
    while !node.host.stop.is_requested() {
        let (advanced, wake) = node.with(|core, now_ms| {
            let advanced = core.advance(now_ms);
            let wake = core.next_wake().unwrap_or(u64::MAX).min(now_ms + ASLEEP_MS_MAX);
            (advanced, wake)
        });
        let more = advanced.more;
        follow(&node, advanced);
        if more {
            tokio::task::yield_now().await;
        } else {
            node.sleep_until(wake).await;
        }
    }
}

fn follow(node: &Arc<Node>, advanced: Advanced) {
    node.metrics.lease_expirations.inc_by(advanced.lease_expirations as u64);
    if advanced.lease_expirations > 0 {
        tracing::warn!(count = advanced.lease_expirations, "leases ran out");
    }
    let forget = |id| Record::Admin { key: withdrawn_key(id), value: None };
    node.append_later(advanced.lapsed.into_iter().map(forget).collect(), "the end of withdrawals");
    if !advanced.held.is_empty() {
        node.host.stop.spawn(report_held(node.clone(), advanced.held));
    }
    if !advanced.expired.is_empty() {
        node.host.stop.spawn(expire(node.clone(), advanced.expired));
    }
}

/// Deliveries whose leases ran out too often wait; somebody should know why.
async fn report_held(node: Arc<Node>, held: Vec<Key>) {
    node.metrics.deliveries_held.inc_by(held.len() as u64);
    let claimed: Vec<Claimed> = node.with(|core, _| held.into_iter().filter_map(|key| core.claim_idle(key)).collect());
    let count = node.config.lease_expirations_max;
    for claimed in &claimed {
        tracing::error!(delivery = %claimed.id, queue = %claimed.label.queue_name(), count, "held: its leases ran out");
    }
    let now_ms = node.now_ms();
    for step in claimed.chunks(STEP_COUNT_MAX) {
        let reply = SmtpReply::internal(451, (4, 3, 0), format!("{count} leases ran out one after another"));
        let metas = conclude::read_metas(&node, step).await;
        let metas = metas.unwrap_or_else(|_| step.iter().map(|_| Default::default()).collect());
        let event = |(claimed, meta): (&Claimed, _)| Record::Event {
            of: None,
            payload: codec::encode(&about_open(EventKind::Delayed, claimed, &meta, reply.clone(), now_ms)),
        };
        node.append_later(step.iter().zip(metas).map(event).collect(), "delays");
        conclude::restore(&node, step);
    }
}

async fn expire(node: Arc<Node>, expired: Vec<Key>) {
    let claimed: Vec<Claimed> = node.with(|core, _| expired.into_iter().map(|key| core.claimed(key)).collect());
    for step in claimed.chunks(STEP_COUNT_MAX) {
        let now_ms = node.now_ms();
        let reply = SmtpReply::internal(551, (5, 4, 7), "delivery time expired");
        let plan = |claimed: &Claimed, meta: &mut _| {
            let event = about_open(EventKind::Expiration, claimed, meta, reply.clone(), now_ms);
            node.metrics.recipients.with_label_values(&["expired"]).inc_by(event.recipients.len() as u64);
            (Next::Finished, vec![event])
        };
        if let Err(error) = conclude::try_conclude(&node, step, plan).await {
            tracing::warn!(%error, count = step.len(), "not expired: tried again");
            node.with(|core, now_ms| {
                step.iter().for_each(|claimed| core.postpone_expiry(claimed.key, now_ms + AGAIN_MS, now_ms));
            });
        }
    }
}

/// A sick spool is said on the board.
async fn watch_health(node: Arc<Node>) {
    let mut health = node.spool.health();
    loop {
        let state = match &*health.borrow_and_update() {
            Health::Ok => Ok(()),
            Health::Sick { reason } => Err(reason.clone()),
            Health::Closed => Err("closed".to_string()),
        };
        node.host.health.set("queue", "spool", state);
        tokio::select! {
            changed = health.changed() => if changed.is_err() { return },
            () = node.host.stop.requested() => return,
        }
    }
}

async fn take_figures(node: Arc<Node>) {
    loop {
        node.with(|core, _| node.metrics.core(core));
        node.metrics.spool(&node.spool.stats());
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = node.host.stop.requested() => return,
        }
    }
}
