//! Which deliveries an operator means. Pure.

use crate::error::Error;
use crate::lane::Label;
use godwit_proto::common::v1::Selector as Wire;
use godwit_proto::id::MessageId;
use std::collections::HashSet;

/// A selector, ready to match.
#[derive(Debug, Default)]
pub struct Selector {
    wire: Wire,
    messages: HashSet<u128>,
    nothing: bool,
}

impl Selector {
    /// # Errors
    /// The field that cannot be read.
    pub fn parse(wire: Option<Wire>) -> Result<Self, Error> {
        let mut wire = wire.unwrap_or_default();
        let parse = |(place, id)| {
            MessageId::try_from(id).map_err(|invalid| Error::invalid(format!("selector.message_ids[{place}]"), invalid))
        };
        let ids: Vec<MessageId> = wire.message_ids.iter().enumerate().map(parse).collect::<Result<_, _>>()?;
        for domains in [&mut wire.domains, &mut wire.routing_domains] {
            domains.iter_mut().for_each(|domain| *domain = domain.to_lowercase());
        }
        let nothing = !wire.all && wire == Wire::default();
        Ok(Self { messages: ids.into_iter().map(|id| id.0).collect(), wire, nothing })
    }

    pub fn matches(&self, label: &Label, message: u128) -> bool {
        self.matches_queue(label) && (self.messages.is_empty() || self.messages.contains(&message))
    }

    /// Whether it may match anything of a queue.
    pub fn matches_queue(&self, label: &Label) -> bool {
        let Wire { queue_names, domains, tenants, campaigns, routing_domains, egress_pools, .. } = &self.wire;
        let routed_by = if label.routing_domain.is_empty() { &label.domain } else { &label.routing_domain };
        let one_of = |wanted: &[String], is: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == is);
        !self.nothing
            && one_of(domains, &label.domain)
            && one_of(tenants, &label.tenant)
            && one_of(campaigns, &label.campaign)
            && one_of(routing_domains, routed_by)
            && one_of(egress_pools, &label.egress_pool)
            && (queue_names.is_empty() || one_of(queue_names, &label.queue_name().to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_combine_and_nothing_matches_nothing() {
        let label =
            Label { tenant: "t".into(), domain: "a.example".into(), egress_pool: "p".into(), ..Label::default() };
        let check =
            |wire: Wire, expected| assert_eq!(Selector::parse(Some(wire)).unwrap().matches(&label, 1), expected);
        let of = |text: &str| vec![text.to_string()];
        check(Wire::default(), false);
        check(Wire { all: true, ..Wire::default() }, true);
        check(Wire { domains: of("A.example"), tenants: of("t"), ..Wire::default() }, true);
        check(Wire { domains: of("a.example"), tenants: of("u"), ..Wire::default() }, false);
        check(Wire { routing_domains: of("a.example"), ..Wire::default() }, true);
        check(Wire { queue_names: of("t@a.example"), ..Wire::default() }, true);
        check(Wire { queue_names: of("a.example"), ..Wire::default() }, false);
        check(Wire { message_ids: vec![MessageId(1).into()], ..Wire::default() }, true);
        check(Wire { message_ids: vec![MessageId(2).into()], ..Wire::default() }, false);
    }
}
