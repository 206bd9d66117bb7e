//! Settle and SettleLane: outcomes become durable together with their events, one append a batch.

use crate::conclude::{self, Plan, STEP_COUNT_MAX};
use crate::core::{Claim, Claimed, Next};
use crate::error::Error;
use crate::node::Node;
use crate::outcome::{self, At, Judged, Verdict};
use crate::stored::Meta;
use godwit_kit::trace;
use godwit_proto::common::v1::{Event, EventKind};
use godwit_proto::convert::system_time;
use godwit_proto::id::DeliveryId;
use godwit_proto::queue::v1::{
    Outcome, RecipientResult, SettleLaneRequest, SettleLaneResponse, SettleRequest, SettleResponse,
};
use std::sync::Arc;
use std::time::Duration;
use tracing::Instrument;

pub const OUTCOMES_MAX: usize = 1_000;
const LANE_MESSAGES_MAX: u32 = 10_000;
const LANE_MESSAGES_DEFAULT: u32 = 1_000;
/// After the stop, how long an outcome waits for the operation that has its delivery.
const HALT_AFTER: Duration = Duration::from_secs(5);

/// An outcome and the place of its answer.
struct Entry {
    place: usize,
    id: DeliveryId,
    outcome: Outcome,
}

pub async fn settle(node: &Arc<Node>, request: SettleRequest) -> Result<SettleResponse, Error> {
    let count = request.outcomes.len();
    if count == 0 || count > OUTCOMES_MAX {
        return Err(Error::invalid("outcomes", format!("{count}, not 1 to {OUTCOMES_MAX}")));
    }
    let entries: Vec<Entry> = request.outcomes.into_iter().enumerate().map(parse).collect::<Result<_, _>>()?;
    let span = tracing::info_span!("queue.settle", messaging.batch.message_count = count);
    for context in entries.iter().filter_map(|entry| entry.outcome.attempt_trace.as_ref()) {
        trace::link(&span, context);
    }
    let results = node.run(settle_all(node.clone(), entries).instrument(span)).await?;
    Ok(SettleResponse { results: results.into_iter().map(i32::from).collect() })
}

fn parse((place, outcome): (usize, Outcome)) -> Result<Entry, Error> {
    let at = |field: &str| format!("outcomes[{place}].{field}");
    let id =
        DeliveryId::try_from(&outcome.delivery_id).map_err(|invalid| Error::invalid(at("delivery_id"), invalid))?;
    for (index, named) in outcome.recipients.iter().enumerate() {
        if named.result() == RecipientResult::Unspecified {
            return Err(Error::invalid(at(&format!("recipients[{index}].result")), "unspecified"));
        }
    }
    Ok(Entry { place, id, outcome })
}

/// Deliveries that another operation has are waited for: its outcome decides ours.
async fn settle_all(node: Arc<Node>, mut entries: Vec<Entry>) -> Result<Vec<Verdict>, Error> {
    let mut verdicts = vec![Verdict::Unknown; entries.len()];
    loop {
        let freed = node.freed();
        tokio::pin!(freed);
        freed.as_mut().enable();
        let (mine, busy) = claim(&node, entries);
        settle_some(&node, mine, &mut verdicts).await?;
        if busy.is_empty() {
            return Ok(verdicts);
        }
        entries = busy;
        tokio::select! {
            () = freed => {}
            // Once the clockwork has stopped, nobody ends what it had begun.
            () = stopped(&node) => return Err(Error::Halted),
        }
    }
}

async fn stopped(node: &Node) {
    node.host.stop.requested().await;
    tokio::time::sleep(HALT_AFTER).await;
}

fn claim(node: &Node, entries: Vec<Entry>) -> (Vec<(Claimed, Entry)>, Vec<Entry>) {
    let (mut mine, mut busy) = (Vec::with_capacity(entries.len()), Vec::new());
    node.with(|core, _| {
        for entry in entries {
            match core.claim(entry.id, outcome::lease_of(&entry.outcome)) {
                Claim::Mine(claimed) => mine.push((*claimed, entry)),
                Claim::Busy => busy.push(entry),
                Claim::Unknown => {}
            }
        }
    });
    (mine, busy)
}

async fn settle_some(node: &Arc<Node>, mine: Vec<(Claimed, Entry)>, verdicts: &mut [Verdict]) -> Result<(), Error> {
    if mine.is_empty() {
        return Ok(());
    }
    let (claimed, entries): (Vec<Claimed>, Vec<Entry>) = mine.into_iter().unzip();
    let written = write(node, &claimed, entries, verdicts).await;
    if written.is_err() {
        conclude::restore(node, &claimed);
    }
    written
}

async fn write(
    node: &Arc<Node>,
    claimed: &[Claimed],
    entries: Vec<Entry>,
    verdicts: &mut [Verdict],
) -> Result<(), Error> {
    let metas = conclude::read_metas(node, claimed).await?;
    let at = At { schedule: &node.limits.schedule, now_ms: node.now_ms() };
    let (mut plans, mut untouched) = (Vec::with_capacity(claimed.len()), Vec::new());
    for ((claimed, mut meta), mut entry) in claimed.iter().zip(metas).zip(entries) {
        let Judged { verdict, next, events } = judge(claimed, &mut meta, &mut entry.outcome, at);
        verdicts[entry.place] = verdict;
        match next {
            Some(next) => plans.push(Plan { claimed: claimed.clone(), next, events }),
            None => untouched.push(claimed),
        }
    }
    conclude::commit(node, &plans).await?;
    conclude::restore(node, untouched);
    node.metrics.settle_deliveries.observe(plans.len() as f64);
    plans.iter().flat_map(|plan| &plan.events).for_each(|event| count(node, event));
    Ok(())
}

/// Where the envelope is lost, its recipients are those that the outcome names.
fn judge(claimed: &Claimed, meta: &mut Meta, outcome: &mut Outcome, at: At<'_>) -> Judged {
    if meta.envelope.is_some() || claimed.open.is_some() {
        return outcome::judge(claimed, meta, outcome, at);
    }
    let open = outcome.recipients.iter().filter_map(|named| u16::try_from(named.index).ok()).collect();
    outcome::judge(&Claimed { open: Some(open), ..claimed.clone() }, meta, outcome, at)
}

fn count(node: &Node, event: &Event) {
    let outcome = match event.kind() {
        EventKind::Delivery => "delivered",
        EventKind::TransientFailure => "deferred",
        EventKind::Bounce => "bounced",
        _ => return,
    };
    node.metrics.recipients.with_label_values(&[outcome]).inc_by(event.recipients.len() as u64);
}

pub async fn settle_lane(node: &Arc<Node>, request: SettleLaneRequest) -> Result<SettleLaneResponse, Error> {
    match request.result() {
        RecipientResult::Deferred | RecipientResult::Bounced => {}
        RecipientResult::Delivered | RecipientResult::Unspecified => {
            return Err(Error::invalid("result", "neither deferred nor bounced"));
        }
    }
    if request.lane.is_none() {
        return Err(Error::invalid("lane", "missing"));
    }
    if request.messages_max > LANE_MESSAGES_MAX {
        return Err(Error::invalid("messages_max", format!("above {LANE_MESSAGES_MAX}")));
    }
    node.run(settle_due(node.clone(), request)).await
}

async fn settle_due(node: Arc<Node>, request: SettleLaneRequest) -> Result<SettleLaneResponse, Error> {
    let lane = request.lane.clone().unwrap_or_default();
    let (domain, pool) = (lane.routing_domain.to_lowercase(), lane.egress_pool);
    let count_max = match request.messages_max {
        0 => LANE_MESSAGES_DEFAULT,
        count => count,
    } as usize;
    // What falls due meanwhile is not of this call.
    let mut left = count_max.min(node.with(|core, _| core.lanes.lane_due_count(&domain, &pool)) as usize);
    let mut settled_count = 0;
    while left > 0 {
        let claimed = node.with(|core, _| core.claim_due(&domain, &pool, left.min(STEP_COUNT_MAX)));
        if claimed.is_empty() {
            break;
        }
        let count = claimed.len();
        let now_ms = node.now_ms();
        conclude::conclude(&node, claimed, |claimed, meta| lane_outcome(&node, &request, claimed, meta, now_ms))
            .await?;
        settled_count += count as u64;
        left -= count;
    }
    let remaining_due = node.with(|core, _| core.lanes.lane_due_count(&domain, &pool));
    if settled_count > 0 {
        let code = request.reply.as_ref().map_or(0, |reply| reply.code);
        tracing::info!(lane = %domain, egress_pool = %pool, settled_count, remaining_due, code, "lane settled");
    }
    Ok(SettleLaneResponse { settled_count, remaining_due })
}

fn lane_outcome(
    node: &Node,
    request: &SettleLaneRequest,
    claimed: &Claimed,
    meta: &Meta,
    now_ms: u64,
) -> (Next, Vec<Event>) {
    let deferred = request.result() == RecipientResult::Deferred;
    let attempts = claimed.attempts + 1;
    let reply = request.reply.clone().unwrap_or_default();
    let reply_code = reply.code as u16;
    let kind = if deferred { EventKind::TransientFailure } else { EventKind::Bounce };
    let event = Event {
        attempt: attempts,
        bounce_class: request.bounce_class.clone(),
        site: request.site.clone(),
        source: request.source.clone(),
        ..outcome::about_open(kind, claimed, meta, reply, now_ms)
    };
    count(node, &event);
    if !deferred {
        return (Next::Finished, vec![event]);
    }
    let not_before_ms = request.not_before.as_ref().and_then(system_time).map_or(0, crate::intake::since_epoch_ms);
    let at = At { schedule: &node.limits.schedule, now_ms };
    let due_ms = outcome::due_again(claimed, attempts, true, not_before_ms, at);
    let open = claimed.open.clone().unwrap_or_else(|| meta.recipients_of(claimed.id.part));
    if open.is_empty() {
        // Its envelope cannot be read: the next lease will find that out.
        return (Next::Rescheduled { due_ms }, vec![event]);
    }
    (Next::Retry { open, attempts, due_ms, trace: claimed.trace, reply_code }, vec![event])
}
