//! How the core is filled at a start: messages and states in the spool's order, then everything takes its place at once.

use super::{Core, NONE, Place};
use crate::stored::{Head, State, Trace};
use godwit_proto::id::{DeliveryId, MessageId};

impl Core {
    /// A message as it was accepted.
    pub fn recover(&mut self, id: u128, head: &Head, size_bytes: u32) {
        for key in self.add(id, head, size_bytes) {
            self.deliveries[key as usize].recovered = true;
        }
    }

    /// The newest state of one of its deliveries.
    pub fn recover_state(&mut self, id: u128, part: u16, state: &State) {
        let Some(key) = self.find(DeliveryId { message: MessageId(id), part }) else { return };
        let delivery = &mut self.deliveries[key as usize];
        delivery.attempts = state.attempts;
        delivery.due_ms = state.due_ms;
        let extra = delivery.extra.get_or_insert_default();
        extra.open = (!state.open.is_empty()).then(|| state.open.iter().map(|index| *index as u16).collect());
        extra.trace = state.trace.as_ref().and_then(Trace::parse);
        extra.reply_code = state.reply_code as u16;
    }

    /// One of its deliveries is finished. True: so is the message, and the spool has not been told that it ended.
    pub fn recover_done(&mut self, id: u128, part: u16, now_ms: u64) -> bool {
        match self.find(DeliveryId { message: MessageId(id), part }) {
            Some(key) => self.remove(key, now_ms),
            None => false,
        }
    }

    /// All is known: what is due may be leased from `grace_ends_ms` on.
    pub fn open(&mut self, grace_ends_ms: u64, now_ms: u64) {
        self.grace_ends_ms = grace_ends_ms;
        let recovered: Vec<_> = self.deliveries.iter().map(|(key, _)| key as u32).collect();
        for key in recovered {
            if self.deliveries[key as usize].place == Place::Busy(NONE) {
                self.settle_down(key, now_ms);
            }
        }
    }
}
