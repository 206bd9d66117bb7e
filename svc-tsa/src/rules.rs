//! Which rules match an event. Pure: rules are compiled once, an event comes in, laws come out.

use crate::window::Terms;
use godwit_proto::common::v1::{Event, EventKind};
use godwit_shaping::{Action, AppliesTo, Rule, Shaping};
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashMap};

/// What a rule means, hashed: the same wherever the same rule stands.
pub type LawId = [u8; 16];

/// A rule that can fire: one that has an action of this version.
#[derive(Debug)]
pub struct Law {
    pub id: LawId,
    /// File, block and number.
    pub name: String,
    pub actions: Vec<Action>,
    pub terms: Terms,
    rule: Rule,
}

/// All laws, found by what they apply to.
#[derive(Debug, Default)]
pub struct Rules {
    laws: Vec<Law>,
    everywhere: Vec<usize>,
    by_provider: HashMap<String, Vec<usize>>,
    by_domain: HashMap<String, Vec<usize>>,
}

impl Rules {
    pub fn new(shaping: &Shaping) -> Self {
        let mut rules = Self::default();
        let mut known = BTreeSet::new();
        for law in shaping.rules().filter_map(Law::new) {
            // The same rule twice is the same rule.
            if known.insert(law.id) {
                let list = match &law.rule.applies_to {
                    AppliesTo::Everything => &mut rules.everywhere,
                    AppliesTo::Provider(name) => rules.by_provider.entry(name.clone()).or_default(),
                    AppliesTo::Domain { name, .. } => rules.by_domain.entry(name.clone()).or_default(),
                };
                list.push(rules.laws.len());
                rules.laws.push(law);
            }
        }
        rules
    }

    pub fn len(&self) -> usize {
        self.laws.len()
    }

    pub fn law(&self, place: usize) -> &Law {
        &self.laws[place]
    }

    pub fn place_of(&self, id: &LawId) -> Option<usize> {
        self.laws.iter().position(|law| law.id == *id)
    }

    /// The places of the laws that match, and the line they matched. Only what a remote answered to an attempt counts, and
    /// only where it is known at which site.
    pub fn matching(&self, event: &Event) -> Option<(Vec<usize>, String)> {
        let reply = event.reply.as_ref().filter(|_| is_attempt(event.kind()) && !event.site.is_empty())?;
        let line = reply.line();
        let fires = |place: &usize| {
            let rule = &self.laws[*place].rule;
            (rule.match_internal || !reply.internal) && applies(&rule.applies_to, event) && rule.matches(&line)
        };
        let matched: Vec<usize> = self.candidates(event).filter(fires).collect();
        (!matched.is_empty()).then_some((matched, line))
    }

    fn candidates(&self, event: &Event) -> impl Iterator<Item = usize> {
        let [domain, routed_by] = domains(event);
        let names: BTreeSet<&str> = [domain, routed_by, event.site.as_str()].into();
        let by_provider = self.by_provider.get(&event.provider).into_iter().flatten();
        let by_domain = names.into_iter().filter_map(|name| self.by_domain.get(name)).flatten();
        self.everywhere.iter().chain(by_provider).chain(by_domain).copied()
    }
}

impl Law {
    fn new(rule: &Rule) -> Option<Self> {
        let mut actions: Vec<Action> = Vec::new();
        for action in rule.actions.iter().filter(|action| action.is_supported()) {
            if !actions.contains(action) {
                actions.push(action.clone());
            }
        }
        (!actions.is_empty()).then(|| Self {
            id: digest(&[rule.meaning().as_bytes(), format!("{actions:?}").as_bytes()]),
            name: rule.to_string(),
            actions,
            terms: Terms::new(&rule.trigger, rule.duration),
            rule: rule.clone(),
        })
    }
}

/// 128 bits of SHA-256 over the parts, each with its length before it.
pub fn digest(parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut id = [0; 16];
    id.copy_from_slice(&hash.finalize()[..16]);
    id
}

fn is_attempt(kind: EventKind) -> bool {
    match kind {
        EventKind::TransientFailure | EventKind::Bounce | EventKind::Delivery => true,
        EventKind::Unspecified
        | EventKind::Reception
        | EventKind::Expiration
        | EventKind::Rejection
        | EventKind::Delayed
        | EventKind::AdminBounce
        | EventKind::AdminRebind
        | EventKind::Oob
        | EventKind::Feedback
        | EventKind::TransferOut
        | EventKind::TransferIn
        | EventKind::Audit => false,
    }
}

/// A domain's rule holds for mail to the domain, or routed by it; with rollup also for the site of that name.
fn applies(to: &AppliesTo, event: &Event) -> bool {
    match to {
        AppliesTo::Everything => true,
        AppliesTo::Provider(name) => *name == event.provider,
        AppliesTo::Domain { name, mx_rollup } => {
            domains(event).contains(&name.as_str()) || (*mx_rollup && event.site == *name)
        }
    }
}

fn domains(event: &Event) -> [&str; 2] {
    event.queue_name.as_ref().map_or([""; 2], |name| [name.domain.as_str(), name.routed_by()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_kit::config::Faults;
    use godwit_proto::common::v1::{QueueName, SmtpReply};

    const FILE: &str = r#"
[["default".automation]]
regex = "busy"
action = "Suspend"
duration = "1m"
[["default".automation]]
regex = "ours"
action = "Suspend"
duration = "1m"
match_internal = true
[["default".automation]]
regex = "busy"
action = "SuspendTenant"
duration = "1m"
[[provider."big".automation]]
regex = "^421 4\\.7\\.0 .*TS01"
action = "Suspend"
duration = "1m"
[["rolls.example".automation]]
regex = "busy"
action = "Suspend"
duration = "1m"
["alone.example"]
mx_rollup = false
[["alone.example".automation]]
regex = "busy"
action = "Suspend"
duration = "1m"
"#;

    fn event(text: &str) -> Event {
        let reply = SmtpReply { code: 421, text: text.into(), ..SmtpReply::default() };
        let mut event = Event { reply: Some(reply), site: "site".into(), source: "a".into(), ..Event::default() };
        event.set_kind(EventKind::TransientFailure);
        event
    }

    fn to(domain: &str, routing_domain: &str, mut event: Event) -> Event {
        event.queue_name =
            Some(QueueName { domain: domain.into(), routing_domain: routing_domain.into(), ..QueueName::default() });
        event
    }

    #[test]
    fn by_default_by_provider_by_domain_and_by_site() {
        let rules = Rules::new(&Shaping::parse(FILE, "f", &mut Faults::default()));
        assert_eq!(rules.len(), 5);
        let check = |event: Event, expected: &[&str]| {
            let matched = rules.matching(&event).map(|(places, _)| places).unwrap_or_default();
            let names: Vec<_> = matched.into_iter().map(|place| rules.law(place).name.as_str()).collect();
            assert_eq!(names, expected, "{event:?}");
        };
        let default = "f: \"default\" #1";
        check(event("fine"), &[]);
        check(event("busy"), &[default]);
        check(to("rolls.example", "", event("busy")), &[default, "f: \"rolls.example\" #1"]);
        check(to("x.example", "rolls.example", event("busy")), &[default, "f: \"rolls.example\" #1"]);
        check(Event { site: "rolls.example".into(), ..event("busy") }, &[default, "f: \"rolls.example\" #1"]);
        check(to("alone.example", "", event("busy")), &[default, "f: \"alone.example\" #1"]);
        check(Event { site: "alone.example".into(), ..event("busy") }, &[default]);
        let enhanced = Some(godwit_proto::common::v1::EnhancedStatusCode { code_class: 4, subject: 7, detail: 0 });
        let reply = SmtpReply { code: 421, enhanced, text: "a\nTS01".into(), ..SmtpReply::default() };
        let big = Event { provider: "big".into(), reply: Some(reply), ..event("") };
        check(big.clone(), &["f: provider.\"big\" #1"]);
        check(Event { provider: "small".into(), ..big }, &[]);
    }

    #[test]
    fn what_is_no_answer_of_a_remote_does_not_count() {
        let rules = Rules::new(&Shaping::parse(FILE, "f", &mut Faults::default()));
        let count = |event: &Event| rules.matching(event).map_or(0, |(places, _)| places.len());
        let internal = |text: &str| Event { reply: Some(SmtpReply::internal(421, (4, 4, 1), text)), ..event("") };
        assert_eq!((count(&internal("busy")), count(&internal("ours"))), (0, 1));
        assert_eq!(count(&Event { site: String::new(), ..event("busy") }), 0);
        let kind = |kind: EventKind| Event { kind: kind.into(), ..event("busy") };
        assert_eq!((count(&kind(EventKind::Rejection)), count(&kind(EventKind::Bounce))), (0, 1));
    }
}
