//! What can be seen of deliveries from outside, a bounded piece at a time.

use super::{Core, Place};
use crate::lane::{Key, Label};
use std::collections::HashMap;
use std::sync::Arc;

/// One delivery as it is now.
#[derive(Debug, Clone)]
pub struct View {
    pub key: Key,
    pub message: u128,
    pub part: u16,
    pub label: Arc<Label>,
    pub lane: u32,
    pub attempts: u32,
    pub due_ms: u64,
    pub received_s: u32,
    pub size_bytes: u32,
    pub reply_code: u16,
    pub leased: bool,
    pub aside: bool,
    /// `None`: all recipients of its part.
    pub open: Option<Box<[u16]>>,
}

impl Core {
    pub fn view(&self, key: Key) -> Option<View> {
        let delivery = self.deliveries.get(key as usize)?;
        let queue = self.lanes.queue(delivery.queue);
        let extra = delivery.extra.as_deref();
        Some(View {
            key,
            message: super::long(delivery.id),
            part: delivery.part,
            label: queue.label.clone(),
            lane: queue.lane,
            attempts: delivery.attempts,
            due_ms: delivery.due_ms,
            received_s: delivery.received_s,
            size_bytes: delivery.size_bytes,
            reply_code: extra.map_or(0, |extra| extra.reply_code),
            leased: matches!(delivery.place, Place::Leased(_) | Place::Busy(_)),
            aside: delivery.place == Place::Aside,
            open: extra.and_then(|extra| extra.open.clone()),
        })
    }

    /// Deliveries from number `from` on that match, at most `count_max` of them and out of at most `seen_max`; and where to go
    /// on, unless that was all.
    pub fn page(
        &self,
        from: Key,
        (count_max, seen_max): (usize, usize),
        matches: impl Fn(&Label, u128) -> bool,
    ) -> (Vec<Key>, Option<Key>) {
        let end = self.deliveries.capacity() as Key;
        let last = from.saturating_add(seen_max as Key).min(end);
        let mut found = Vec::new();
        for key in from..last {
            if found.len() >= count_max {
                return (found, Some(key));
            }
            let Some(delivery) = self.deliveries.get(key as usize) else { continue };
            if matches(&self.lanes.queue(delivery.queue).label, super::long(delivery.id)) {
                found.push(key);
            }
        }
        (found, (last < end).then_some(last))
    }

    /// How many deliveries of each queue are leased.
    pub fn leased_counts(&self) -> HashMap<u32, u64> {
        let mut counts = HashMap::new();
        for lease in self.leases.iter() {
            if let Some(delivery) = self.deliveries.get(lease.key as usize) {
                *counts.entry(delivery.queue).or_default() += 1;
            }
        }
        counts
    }
}
