//! Brings a queue up on a spool: reads what it holds, then opens for business.

use crate::config::Config;
use crate::core::{Core, Rules};
use crate::error::StartError;
use crate::idempotency::{Claim, Content, Key, Keys};
use crate::schedule::millis;
use crate::spool::{Live, Record, Spool};
use crate::stored::{Head, State, parse_withdrawn};
use godwit_kit::Host;
use godwit_proto::id::{LeaseId, MessageId};
use prost::Message;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const CLAIMS_MAX: usize = 10_000;

/// The core as it was, every delivery in its place.
pub async fn recover(config: &Config, spool: &Spool, keys: &Keys, host: &Host) -> Result<Core, StartError> {
    let rules = Rules {
        schedule: config.schedule(),
        lease_expirations_max: config.lease_expirations_max,
        deliveries_max: config.deliveries_max,
    };
    let now = host.clock.now();
    let now_ms = crate::intake::since_epoch_ms(now);
    let mut filling = Filling { core: Core::new(rules, LeaseId::new()), claims: Vec::new(), ends: Vec::new(), now_ms };
    let mut pages = spool.recovered();
    while let Some(page) = pages.next().await? {
        page.into_iter().for_each(|live| filling.apply(live));
        if filling.claims.len() >= CLAIMS_MAX {
            restore(keys, std::mem::take(&mut filling.claims), now).await?;
        }
    }
    drop(pages);
    let Filling { mut core, claims, ends, .. } = filling;
    restore(keys, claims, now).await?;
    if !ends.is_empty() {
        spool.append(ends).await?;
    }
    core.open(now_ms + millis(config.restart_grace), now_ms);
    let (messages, deliveries) = (core.message_count(), core.delivery_count());
    if messages > 0 {
        tracing::info!(messages, deliveries, "queue recovered");
    }
    Ok(core)
}

async fn restore(keys: &Keys, claims: Vec<(Claim, SystemTime)>, now: SystemTime) -> Result<(), StartError> {
    if claims.is_empty() {
        return Ok(());
    }
    keys.restore(claims, now).await.map_err(|error| StartError::Other(error.to_string()))
}

struct Filling {
    core: Core,
    claims: Vec<(Claim, SystemTime)>,
    /// Messages whose deliveries are all done, of which the spool has not been told.
    ends: Vec<Record>,
    now_ms: u64,
}

impl Filling {
    fn apply(&mut self, live: Live) {
        match live {
            Live::Message { id, head, body_bytes } => match Head::decode(head) {
                Ok(head) => {
                    self.claims.extend(claim(id, &head));
                    self.core.recover(id, &head, body_bytes);
                }
                Err(error) => tracing::error!(message_id = %MessageId(id), %error, "a stored message cannot be read"),
            },
            Live::State { id, part, state } => match State::decode(state) {
                Ok(state) => self.core.recover_state(id, part, &state),
                Err(error) => {
                    tracing::error!(message_id = %MessageId(id), part, %error, "a stored state cannot be read")
                }
            },
            Live::Done { id, part } => {
                if self.core.recover_done(id, part, self.now_ms) {
                    self.ends.push(Record::End { id });
                }
            }
            Live::Admin { key, value } => {
                if let Some((id, until_ms)) = parse_withdrawn(&key, &value) {
                    self.core.refuse_later(id, until_ms);
                }
            }
        }
    }
}

fn claim(id: u128, head: &Head) -> Option<(Claim, SystemTime)> {
    let key = Key(head.idempotency_key.as_slice().try_into().ok()?);
    let content = Content(head.idempotency_content.as_slice().try_into().ok()?);
    let accepted = UNIX_EPOCH + Duration::from_millis(head.received_ms);
    Some((Claim { key, content, message_id: MessageId(id) }, accepted))
}
