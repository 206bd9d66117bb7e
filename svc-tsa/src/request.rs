//! Requests, checked once at the edge.

use crate::cursor::Span;
use crate::error::Error;
use crate::window::Log;
use godwit_proto::common::v1::Event;
use godwit_proto::id::NodeId;
use godwit_proto::tsa::v1::ObserveRequest;
use std::sync::Arc;

const EVENTS_MAX: usize = 1_000;
const TRIED_EVENTS_MAX: usize = 100_000;
const LOG_ID_BYTES_MAX: usize = 128;

/// A batch of one log's events: ascending, within its span.
#[derive(Debug)]
pub struct Observed {
    pub log: Arc<Log>,
    pub span: Span,
    pub events: Vec<Event>,
}

impl Observed {
    pub fn parse(request: ObserveRequest) -> Result<Self, Error> {
        let node = NodeId::try_from(&request.node).map_err(|what| Error::invalid("node", what))?;
        if request.log_id.is_empty() || request.log_id.len() > LOG_ID_BYTES_MAX {
            return Err(Error::invalid("log_id", format!("must have 1 to {LOG_ID_BYTES_MAX} bytes")));
        }
        if request.events.len() > EVENTS_MAX {
            return Err(Error::invalid("events", format!("at most {EVENTS_MAX} a batch")));
        }
        let span = span(&request)?;
        let mut expected = span.first_seq;
        for (place, event) in request.events.iter().enumerate() {
            if event.seq < expected || event.seq >= span.next_seq {
                let what = format!("{} is not within {expected} and next_seq {}", event.seq, span.next_seq);
                return Err(Error::invalid(format!("events[{place}].seq"), what));
            }
            expected = event.seq + 1;
        }
        let log = Arc::new(Log { node: node.to_string(), log_id: request.log_id });
        Ok(Self { log, span, events: request.events })
    }

    /// Events to try rules on, each with the log it says it is from.
    pub fn tried(events: &[Event]) -> Result<Vec<(Arc<Log>, &Event)>, Error> {
        if events.len() > TRIED_EVENTS_MAX {
            return Err(Error::invalid("events", format!("at most {TRIED_EVENTS_MAX}")));
        }
        let with_log = |event: &'_ Event| {
            let node = event.node.as_ref().map(|node| node.value.clone()).unwrap_or_default();
            Arc::new(Log { node, log_id: event.log_id.clone() })
        };
        Ok(events.iter().map(|event| (with_log(event), event)).collect())
    }
}

fn span(request: &ObserveRequest) -> Result<Span, Error> {
    let ObserveRequest { first_seq, next_seq, .. } = *request;
    if first_seq == 0 {
        return Err(Error::invalid("first_seq", "sequences count from 1"));
    }
    if next_seq < first_seq {
        return Err(Error::invalid("next_seq", format!("{next_seq} is before first_seq {first_seq}")));
    }
    let gap = request.gap.as_ref().map(|gap| (gap.from, gap.to));
    match gap {
        Some((from, to)) if from == 0 || to < from => Err(Error::invalid("gap", format!("{from} to {to} is none"))),
        Some(_) | None => Ok(Span { first_seq, next_seq, gap }),
    }
}
