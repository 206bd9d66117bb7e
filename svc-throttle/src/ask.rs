//! Reads requests into the store's terms, once, at the edge. Every refusal names the field.

use crate::bucket::Rate;
use crate::error::Error;
use crate::lease::SlotId;
use crate::store::{After, Ask, Limit, Place, SlotAsk};
use godwit_proto::common::v1::{NodeId, Page};
use godwit_proto::convert;
use godwit_proto::throttle::v1;
use std::time::Duration;

const KEY_BYTES_MAX: usize = 256;
const NODE_BYTES_MAX: usize = 64;
const REQUESTS_MAX: usize = 1_000;
const LIMITS_MAX: usize = 16;
const SLOTS_MAX: usize = 10_000;
const SLOT_COUNT_MAX: u32 = 1_000;
const PERIOD_MIN: Duration = Duration::from_millis(1);
const PERIOD_MAX: Duration = Duration::from_secs(31 * 24 * 3_600);
const TTL_DEFAULT: Duration = Duration::from_secs(15);
const TTL_MAX: Duration = Duration::from_secs(3_600);
const PAGE_SIZE_DEFAULT: usize = 100;
const PAGE_SIZE_MAX: usize = 1_000;

/// How a slot's id begins: where its key is shared, and where it is one node's own.
const SLOT_SHARED: &str = "slot_";
const SLOT_LOCAL: &str = "local_";

/// How a page's token begins: behind a key's rate, or behind its slots.
const TOKEN_RATE: char = 'r';
const TOKEN_SLOTS: char = 's';

pub(crate) fn asks(request: v1::AcquireRequest) -> Result<Vec<Ask>, Error> {
    let node = request.node.unwrap_or_default();
    count_at_most("requests", request.requests.len(), REQUESTS_MAX)?;
    request
        .requests
        .into_iter()
        .enumerate()
        .map(|(place, item)| ask(item, &node, &|| format!("requests[{place}]")))
        .collect()
}

fn ask(item: v1::acquire_request::Item, node: &NodeId, at: &dyn Fn() -> String) -> Result<Ask, Error> {
    count_at_most(|| format!("{}.limits", at()), item.limits.len(), LIMITS_MAX)?;
    let whole = item.limits.first().map_or(0, |limit| limit.count);
    let partial = item.partial;
    let read = |(place, wire)| {
        let at = || format!("{}.limits[{place}]", at());
        let limit = limit(wire, node, &at)?;
        // The least that would be asked of it: one part of the whole where a part will do.
        let least = if partial { limit.count.div_ceil(whole.max(1)) } else { limit.count };
        if least > limit.rate.burst {
            let what = format!("{} can never be granted: the burst is {}", limit.count, limit.rate.burst);
            return Err(Error::invalid(format!("{}.count", at()), what));
        }
        Ok(limit)
    };
    let mut limits = item.limits.into_iter().enumerate().map(read).collect::<Result<Vec<_>, Error>>()?;
    limits.sort_by(|one, other| one.key.cmp(&other.key));
    Ok(Ask { limits, count: whole, partial })
}

fn limit(wire: v1::RateLimit, node: &NodeId, at: &dyn Fn() -> String) -> Result<Limit, Error> {
    let invalid = |field: &str, what: &str| Err(Error::invalid(format!("{}.{field}", at()), what));
    if wire.count == 0 {
        return invalid("count", "must be at least 1");
    }
    if wire.limit == 0 {
        return invalid("limit", "must be at least 1");
    }
    let period = wire.period.as_ref().and_then(convert::std_duration).unwrap_or_default();
    if !(PERIOD_MIN..=PERIOD_MAX).contains(&period) {
        return invalid("period", "must be 1 ms to 31 days");
    }
    let period_micros = u64::try_from(period.as_micros()).expect("at most 31 days");
    let burst = if wire.burst == 0 { wire.limit } else { wire.burst };
    let key_bytes = wire.key.len();
    let key = stored_key(wire.key, wire.local.then_some(node), at)?;
    Ok(Limit {
        key,
        key_bytes,
        local: wire.local,
        count: wire.count,
        rate: Rate { limit: wire.limit, period_micros, burst },
    })
}

pub(crate) fn refunds(request: v1::RefundRequest) -> Result<Vec<Limit>, Error> {
    let node = request.node.unwrap_or_default();
    count_at_most("limits", request.limits.len(), REQUESTS_MAX * LIMITS_MAX)?;
    request
        .limits
        .into_iter()
        .enumerate()
        .map(|(place, wire)| limit(wire, &node, &|| format!("limits[{place}]")))
        .collect()
}

/// What the caller calls a key for slots.
pub(crate) struct SlotName {
    key_bytes: usize,
    local: bool,
}

impl SlotName {
    /// A slot as the caller is told of it.
    pub fn slot(&self, ask: &SlotAsk, slot: SlotId) -> v1::Slot {
        let prefix = if self.local { SLOT_LOCAL } else { SLOT_SHARED };
        v1::Slot { key: ask.key[..self.key_bytes].into(), slot_id: format!("{prefix}{:032x}", slot.0) }
    }
}

pub(crate) fn slots(request: v1::AcquireSlotsRequest) -> Result<Vec<(SlotName, SlotAsk)>, Error> {
    let node = request.node.unwrap_or_default();
    count_at_most("requests", request.requests.len(), REQUESTS_MAX)?;
    let read = |(place, item): (usize, v1::acquire_slots_request::Item)| {
        let at = || format!("requests[{place}]");
        let invalid = |field: &str, what: String| Err(Error::invalid(format!("{}.{field}", at()), what));
        if item.limit == 0 {
            return invalid("limit", "must be at least 1".into());
        }
        if item.count > SLOT_COUNT_MAX {
            return invalid("count", format!("must be at most {SLOT_COUNT_MAX}"));
        }
        if item.holder.is_empty() || item.holder.len() > KEY_BYTES_MAX {
            return invalid("holder", format!("must be 1 to {KEY_BYTES_MAX} bytes"));
        }
        let ttl = ttl(item.ttl_ms, || format!("{}.ttl_ms", at()))?;
        let key_bytes = item.key.len();
        let key = stored_key(item.key, item.local.then_some(&node), &at)?;
        let ask = SlotAsk { key, local: item.local, holder: item.holder, count: item.count, limit: item.limit, ttl };
        Ok((SlotName { key_bytes, local: item.local }, ask))
    };
    request.requests.into_iter().enumerate().map(read).collect()
}

/// Where slots are held. An id of a form that is not ours is one that nobody holds.
pub(crate) fn places(slots: &[v1::Slot], node: Option<NodeId>) -> Result<Vec<Place>, Error> {
    let node = node.unwrap_or_default();
    count_at_most("slots", slots.len(), SLOTS_MAX)?;
    let read = |(place, slot): (usize, &v1::Slot)| {
        let local = slot.slot_id.strip_prefix(SLOT_LOCAL);
        let id = local.or_else(|| slot.slot_id.strip_prefix(SLOT_SHARED));
        let id = id.and_then(|id| u128::from_str_radix(id, 16).ok()).unwrap_or_default();
        let key = stored_key(slot.key.clone(), local.map(|_| &node), &|| format!("slots[{place}]"))?;
        Ok(Place { key, local: local.is_some(), slot: SlotId(id) })
    };
    slots.iter().enumerate().map(read).collect()
}

/// As in a message: 0 is the default.
pub(crate) fn ttl(ttl_ms: u64, field: impl Fn() -> String) -> Result<Duration, Error> {
    match Duration::from_millis(ttl_ms) {
        Duration::ZERO => Ok(TTL_DEFAULT),
        ttl if ttl <= TTL_MAX => Ok(ttl),
        _ => Err(Error::invalid(field(), format!("must be at most {}", TTL_MAX.as_millis()))),
    }
}

/// How many to list, and behind what.
pub(crate) fn page(page: Option<Page>) -> Result<(usize, Option<After>), Error> {
    let page = page.unwrap_or_default();
    let size = match page.size as usize {
        0 => PAGE_SIZE_DEFAULT,
        size if size <= PAGE_SIZE_MAX => size,
        _ => return Err(Error::invalid("page.size", format!("must be at most {PAGE_SIZE_MAX}"))),
    };
    let after = match (page.token.strip_prefix(TOKEN_RATE), page.token.strip_prefix(TOKEN_SLOTS)) {
        (Some(key), _) => Some(After { key: key.into(), slots: false }),
        (None, Some(key)) => Some(After { key: key.into(), slots: true }),
        (None, None) if page.token.is_empty() => None,
        (None, None) => return Err(Error::invalid("page.token", "not a token of this service")),
    };
    Ok((size, after))
}

/// What `page` reads.
pub(crate) fn token(after: &After) -> String {
    format!("{}{}", if after.slots { TOKEN_SLOTS } else { TOKEN_RATE }, after.key)
}

pub(crate) fn prefix(prefix: &str) -> Result<(), Error> {
    if prefix.len() <= KEY_BYTES_MAX { Ok(()) } else { Err(Error::invalid("prefix", too_long())) }
}

/// The keys of a reset.
pub(crate) fn keys(keys: &[String]) -> Result<(), Error> {
    count_at_most("keys", keys.len(), REQUESTS_MAX)
}

/// A local key is kept apart by its node's name, which stands behind it, so that listing by prefix finds both.
fn stored_key(key: String, local: Option<&NodeId>, at: &dyn Fn() -> String) -> Result<String, Error> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(Error::invalid(format!("{}.key", at()), too_long()));
    }
    let Some(node) = local else { return Ok(key) };
    if node.value.is_empty() || node.value.len() > NODE_BYTES_MAX {
        return Err(Error::invalid("node.value", format!("must be 1 to {NODE_BYTES_MAX} bytes for a local limit")));
    }
    Ok(format!("{key}@{}", node.value))
}

fn too_long() -> String {
    format!("must be 1 to {KEY_BYTES_MAX} bytes")
}

fn count_at_most(field: impl Field, count: usize, most: usize) -> Result<(), Error> {
    if count <= most {
        Ok(())
    } else {
        Err(Error::invalid(field.path(), format!("{count} given, at most {most} allowed")))
    }
}

/// A field's path, made only where it is needed.
trait Field {
    fn path(&self) -> String;
}

impl Field for &str {
    fn path(&self) -> String {
        (*self).into()
    }
}

impl<F: Fn() -> String> Field for F {
    fn path(&self) -> String {
        self()
    }
}
