//! Which events a watcher wants. Pure: given fields must all match, any one value within a field is enough.

use godwit_proto::common::v1::{Event, EventFilter, EventKind};
use std::collections::HashSet;
use tonic::Status;

/// Values that a field of the filter may have.
const VALUES_MAX: usize = 1_000;

/// A filter whose every value is known to be good. Empty sets do not narrow.
#[derive(Debug, Default)]
pub struct Filter {
    kinds: HashSet<i32>,
    domains: HashSet<String>,
    tenants: HashSet<String>,
    campaigns: HashSet<String>,
    sites: HashSet<String>,
    message_ids: HashSet<String>,
}

impl Filter {
    /// # Errors
    /// `InvalidArgument` with the field's path.
    pub fn parse(filter: Option<EventFilter>) -> Result<Self, Status> {
        let filter = filter.unwrap_or_default();
        let mut kinds = HashSet::new();
        for (place, kind) in filter.kinds.iter().enumerate() {
            if *kind == 0 || EventKind::try_from(*kind).is_err() {
                return Err(invalid(&format!("kinds[{place}]"), "no kind of event"));
            }
            kinds.insert(*kind);
        }
        let mut message_ids = Vec::new();
        for (place, id) in filter.message_ids.iter().enumerate() {
            let id = godwit_proto::id::MessageId::try_from(id)
                .map_err(|error| invalid(&format!("message_ids[{place}]"), &error.to_string()))?;
            message_ids.push(id.to_string());
        }
        Ok(Self {
            kinds,
            domains: set("domains", filter.domains, true)?,
            tenants: set("tenants", filter.tenants, false)?,
            campaigns: set("campaigns", filter.campaigns, false)?,
            sites: set("sites", filter.sites, true)?,
            message_ids: set("message_ids", message_ids, false)?,
        })
    }

    /// Whether any event of that kind may be wanted.
    pub fn wants_kind(&self, kind: EventKind) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind.into())
    }

    pub fn wants(&self, event: &Event) -> bool {
        let queue = event.queue_name.as_ref();
        let message = event.message_id.as_ref().map_or("", |id| &id.value);
        self.wants_kind(event.kind())
            && (self.domains.is_empty() || self.wants_domain(event))
            && among(&self.tenants, queue.map_or("", |queue| &queue.tenant))
            && among(&self.campaigns, queue.map_or("", |queue| &queue.campaign))
            && among(&self.sites, &event.site)
            && among(&self.message_ids, message)
    }

    /// The queue's domain; where there is no queue (a rejection), any recipient's.
    fn wants_domain(&self, event: &Event) -> bool {
        match &event.queue_name {
            Some(queue) => self.domains.contains(&queue.domain),
            None => event.recipients.iter().any(|recipient| {
                let domain = recipient.rsplit_once('@').map_or("", |(_, domain)| domain);
                self.domains.contains(&domain.to_lowercase())
            }),
        }
    }
}

fn among(wanted: &HashSet<String>, value: &str) -> bool {
    wanted.is_empty() || wanted.contains(value)
}

fn set(field: &str, values: Vec<String>, lower: bool) -> Result<HashSet<String>, Status> {
    if values.len() > VALUES_MAX {
        return Err(invalid(field, &format!("at most {VALUES_MAX}")));
    }
    Ok(values.into_iter().map(|value| if lower { value.to_lowercase() } else { value }).collect())
}

fn invalid(field: &str, what: &str) -> Status {
    Status::invalid_argument(format!("filter.{field}: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_proto::common::v1::{MessageId, QueueName};

    const ID: &str = "msg_01ARZ3NDEKTSV4RRFFQ69G5FAV";

    fn check(filter: EventFilter, wanted: bool) {
        let event = Event {
            kind: EventKind::Delivery.into(),
            queue_name: Some("camp:acme@Example.com".parse::<QueueName>().unwrap()),
            site: "mx.example.com".into(),
            message_id: Some(MessageId { value: ID.into() }),
            ..Event::default()
        };
        let text = format!("{filter:?}");
        assert_eq!(Filter::parse(Some(filter)).unwrap().wants(&event), wanted, "{text}");
    }

    #[test]
    fn fields_narrow_and_values_widen() {
        let none = EventFilter::default;
        check(none(), true);
        check(EventFilter { kinds: vec![2], ..none() }, true);
        check(EventFilter { kinds: vec![1, 3], ..none() }, false);
        check(EventFilter { domains: vec!["other.org".into(), "EXAMPLE.com".into()], ..none() }, true);
        check(EventFilter { domains: vec!["com".into()], ..none() }, false);
        check(EventFilter { tenants: vec!["acme".into()], campaigns: vec!["camp".into()], ..none() }, true);
        check(EventFilter { tenants: vec!["acme".into()], campaigns: vec!["other".into()], ..none() }, false);
        check(EventFilter { sites: vec!["mx.example.com".into()], ..none() }, true);
        check(
            EventFilter { message_ids: vec![MessageId { value: ID.to_lowercase().replace("MSG", "msg") }], ..none() },
            true,
        );
    }

    #[test]
    fn without_a_queue_the_recipients_count() {
        let filter =
            Filter::parse(Some(EventFilter { domains: vec!["a.org".into()], ..EventFilter::default() })).unwrap();
        assert!(filter.wants(&Event { recipients: vec!["x@b.org".into(), "y@A.org".into()], ..Event::default() }));
        assert!(!filter.wants(&Event { recipients: vec!["x@b.org".into()], ..Event::default() }));
    }

    #[test]
    fn what_cannot_match_is_refused_by_name() {
        for (filter, field) in [
            (EventFilter { kinds: vec![2, 0], ..EventFilter::default() }, "filter.kinds[1]"),
            (
                EventFilter { message_ids: vec![MessageId::default()], ..EventFilter::default() },
                "filter.message_ids[0]",
            ),
            (EventFilter { sites: vec![String::new(); 1_001], ..EventFilter::default() }, "filter.sites"),
        ] {
            let status = Filter::parse(Some(filter)).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert!(status.message().starts_with(field), "{status}");
        }
    }
}
