//! Summarise, ListMessages, Inspect: counts by queue, and single messages with why they wait.

use crate::core::{Core, View};
use crate::error::Error;
use crate::lane::{Queue, Report};
use crate::node::Node;
use crate::outcome::instant;
use crate::selector::Selector;
use crate::spool::{Lookup, Stored};
use crate::stored::Meta;
use bytes::Bytes;
use godwit_proto::common::v1::SmtpReply;
use godwit_proto::id::{DeliveryId, MessageId};
use godwit_proto::queue::v1::report_lane_request::State;
use godwit_proto::queue::v1::summarise_request::Order;
use godwit_proto::queue::v1::{
    DeliverySummary, InspectRequest, InspectResponse, ListMessagesRequest, ListMessagesResponse, MessageSummary,
    QueueSummary, SummariseRequest, SummariseResponse,
};
use prost::Message;
use std::cmp::Reverse;
use std::sync::Arc;

const QUEUES_DEFAULT: usize = 100;
const QUEUES_MAX: usize = 10_000;
const PAGE_DEFAULT: u32 = 100;
const PAGE_MAX: u32 = 1_000;
/// Deliveries that one page of a listing looks at.
const SEEN_MAX: usize = 100_000;
/// Envelopes in one page, beyond the first.
const PAGE_BYTES_MAX: usize = 16 << 20;

pub fn summarise(node: &Node, request: SummariseRequest) -> Result<SummariseResponse, Error> {
    let order = request.order();
    let selector = Selector::parse(request.selector)?;
    let (mut queues, message_count) = node.with(|core, _| {
        let leased = core.leased_counts();
        let matching = core.lanes.queues().filter(|(_, queue)| selector.matches_queue(&queue.label));
        let summary = |(key, queue)| summary(core, queue, leased.get(&key).copied().unwrap_or(0));
        (matching.map(summary).collect::<Vec<_>>(), core.message_count() as u64)
    });
    let sum = |of: fn(&QueueSummary) -> u64| queues.iter().map(of).sum();
    let answer = SummariseResponse {
        message_count,
        delivery_count: sum(|queue| queue.delivery_count),
        due_count: sum(|queue| queue.due_count),
        leased_count: sum(|queue| queue.leased_count),
        queues: Vec::new(),
    };
    match order {
        Order::Age => queues.sort_by_key(|queue| queue.oldest.map_or(i64::MAX, |oldest| oldest.seconds)),
        Order::Size => queues.sort_by_key(|queue| Reverse(queue.size_bytes)),
        Order::Count | Order::Unspecified => queues.sort_by_key(|queue| Reverse(queue.delivery_count)),
    }
    let count = if request.queues_max == 0 { QUEUES_DEFAULT } else { request.queues_max as usize };
    queues.truncate(count.min(QUEUES_MAX));
    Ok(SummariseResponse { queues, ..answer })
}

fn summary(core: &Core, queue: &Queue, leased_count: u64) -> QueueSummary {
    let oldest = queue.oldest_due().and_then(|key| core.view(key));
    QueueSummary {
        queue_name: Some(queue.label.queue_name()),
        egress_pool: queue.label.egress_pool.as_ref().into(),
        delivery_count: queue.delivery_count,
        due_count: queue.due_count(),
        leased_count,
        size_bytes: queue.size_bytes,
        oldest: oldest.map(|oldest| instant(u64::from(oldest.received_s) * 1_000)),
        next_due: core.lanes.lane_next_due(queue.lane).map(instant),
        waiting_for: core.lanes.reported(queue.lane).map_or_else(String::new, reported),
    }
}

fn reported(report: &Report) -> String {
    let state = State::try_from(report.state).unwrap_or_default().as_str_name();
    let state = state.trim_start_matches("STATE_").to_lowercase();
    if report.reason.is_empty() { state } else { format!("{state}: {}", report.reason) }
}

pub async fn list(node: &Arc<Node>, request: ListMessagesRequest) -> Result<ListMessagesResponse, Error> {
    let selector = Selector::parse(request.selector)?;
    let page = request.page.unwrap_or_default();
    let size = if page.size == 0 { PAGE_DEFAULT } else { page.size.min(PAGE_MAX) } as usize;
    let from = match page.token.as_str() {
        "" => 0,
        token => token.parse().map_err(|_| Error::invalid("page.token", "not from an answer of this call"))?,
    };
    let (views, mut next) = node.with(|core, _| {
        let (keys, next) = core.page(from, (size, SEEN_MAX), |label, message| selector.matches(label, message));
        (keys.into_iter().filter_map(|key| Some((core.view(key)?, waiting(core, key)))).collect::<Vec<_>>(), next)
    });
    let stored = node.spool.read_up_to(views.iter().map(|(view, _)| view.message).collect(), 0).await?;
    let mut messages: Vec<MessageSummary> = Vec::new();
    let mut bytes = 0;
    for ((view, waiting_for), lookup) in views.into_iter().zip(stored) {
        let meta = meta(&lookup);
        bytes += meta.encoded_len();
        if bytes > PAGE_BYTES_MAX && !messages.is_empty() {
            next = Some(view.key);
            break;
        }
        let delivery = delivery(&view, &meta, waiting_for);
        match messages.iter_mut().find(|message| message.message_id == Some(MessageId(view.message).into())) {
            Some(message) => message.deliveries.push(delivery),
            None => messages.push(MessageSummary { deliveries: vec![delivery], ..message(&view, &meta) }),
        }
    }
    Ok(ListMessagesResponse { messages, next_token: next.map_or_else(String::new, |next| next.to_string()) })
}

fn meta(lookup: &Lookup) -> Meta {
    match lookup {
        Lookup::Found(Stored { meta, .. }) => Meta::decode(meta.clone()).unwrap_or_default(),
        Lookup::Missing | Lookup::Damaged | Lookup::Unreadable(_) => Meta::default(),
    }
}

fn message(view: &View, meta: &Meta) -> MessageSummary {
    MessageSummary {
        message_id: Some(MessageId(view.message).into()),
        reverse_path: meta.reverse_path().into(),
        size_bytes: view.size_bytes.into(),
        first_received: Some(instant(u64::from(view.received_s) * 1_000)),
        deliveries: Vec::new(),
    }
}

fn delivery(view: &View, meta: &Meta, waiting_for: String) -> DeliverySummary {
    let open = view.open.clone().unwrap_or_else(|| meta.recipients_of(view.part));
    let recipients = meta.envelope.as_ref().map_or(&[][..], |envelope| &envelope.recipients);
    let id = DeliveryId { message: MessageId(view.message), part: view.part };
    DeliverySummary {
        delivery_id: Some(id.into()),
        queue_name: Some(view.label.queue_name()),
        egress_pool: view.label.egress_pool.as_ref().into(),
        recipients: open.iter().filter_map(|index| recipients.get(usize::from(*index)).cloned()).collect(),
        attempts: view.attempts,
        due: Some(instant(view.due_ms)),
        leased: view.leased,
        waiting_for,
        last_reply: (view.reply_code != 0).then(|| SmtpReply { code: view.reply_code.into(), ..SmtpReply::default() }),
    }
}

/// Why a delivery has not been attempted yet, as far as the queue knows.
fn waiting(core: &Core, key: u32) -> String {
    match core.view(key) {
        Some(view) if view.aside => "its stored message is damaged".into(),
        Some(view) if view.leased => String::new(),
        Some(view) => core.lanes.reported(view.lane).map_or_else(String::new, reported),
        None => String::new(),
    }
}

pub async fn inspect(node: &Arc<Node>, request: InspectRequest) -> Result<InspectResponse, Error> {
    let id = MessageId::try_from(&request.message_id).map_err(|invalid| Error::invalid("message_id", invalid))?;
    let missing = || Error::NotFound { what: id.to_string() };
    let views: Vec<_> = node
        .with(|core, _| core.of_message(id.0).filter_map(|key| Some((core.view(key)?, waiting(core, key)))).collect());
    let (first, _) = views.first().ok_or_else(missing)?;
    let lookup = node.spool.read(vec![id.0]).await?.pop().ok_or_else(missing)?;
    let meta = meta(&lookup);
    let body = lookup.found().map(|stored| stored.body).unwrap_or_default();
    let mut summary = message(first, &meta);
    summary.deliveries = views.iter().rev().map(|(view, waiting)| delivery(view, &meta, waiting.clone())).collect();
    let shown = body.len().min(usize::try_from(request.body_bytes_max).unwrap_or(usize::MAX));
    Ok(InspectResponse {
        message: Some(summary),
        headers: headers(&body),
        body: body.slice(..shown.min(godwit_proto::CALL_BYTES_MAX / 2)),
        metadata: meta.metadata,
        received: meta.received,
        trace: meta.trace,
    })
}

/// Up to and with the empty line (RFC 5322 section 2.1).
fn headers(body: &Bytes) -> Bytes {
    let end = memchr::memmem::find(body, b"\r\n\r\n").map_or(body.len(), |end| end + 4);
    body.slice(..end.min(godwit_proto::INLINE_BYTES_MAX))
}
