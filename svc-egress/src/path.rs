//! What one source may do at one site: the shaping files' values under the TSA's overrides, and the throttle's keys. Pure.

use crate::actions::Standing;
use godwit_kit::config::Rate;
use godwit_proto::throttle::v1::RateLimit;
use godwit_shaping::{Limit, Origin, Path, PathValue, Query, Shaping};

/// The path from a source to a site.
#[derive(Debug, Clone)]
pub struct SitePath {
    pub provider: String,
    pub path: Path,
    pub values: Vec<PathValue>,
    /// Counted slots that a connection must hold, smallest limit first.
    pub slots: Vec<SlotLimit>,
    /// What opening a connection costs.
    pub connection_rates: Vec<RateLimit>,
    /// What one message costs, smallest rate first.
    pub message_rates: Vec<RateLimit>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotLimit {
    pub key: String,
    pub limit: Limit,
}

impl SitePath {
    /// Overrides that do not fit are left out; they are said once, where they arrive.
    pub fn resolve(shaping: &Shaping, query: &Query<'_>, standing: &Standing) -> Self {
        let mut resolved = shaping.resolve(query);
        for setting in &standing.overrides {
            if resolved.path.set(&setting.name, &setting.value).is_ok() {
                let origin = Origin { rule: setting.rule.clone(), ..Origin::default() };
                let values = resolved.values.iter_mut().filter(|value| value.name == setting.name);
                values.for_each(|value| value.origin = origin.clone());
            }
        }
        for (name, text) in resolved.path.values() {
            let values = resolved.values.iter_mut().filter(|value| value.name == name);
            values.for_each(|value| value.value = text.clone());
        }
        let key = |what: &str| format!("egress:{what}:{}:{}", query.site, query.source);
        Self {
            provider: resolved.provider.unwrap_or_default(),
            slots: slots(&resolved.path, key("connections")),
            connection_rates: rates(resolved.path.connections.max_connection_rate.as_ref(), key("connecting"), []),
            message_rates: rates(
                resolved.path.messages.max_message_rate.as_ref(),
                key("messages"),
                &resolved.path.messages.additional_message_rate_throttles,
            ),
            path: resolved.path,
            values: resolved.values,
        }
    }

    /// Whether the throttle would be asked the same.
    pub fn has_limits_of(&self, other: &Self) -> bool {
        self.slots == other.slots
            && self.connection_rates == other.connection_rates
            && self.message_rates == other.message_rates
    }

    /// The most connections that all limits together allow.
    pub fn connection_limit(&self) -> u32 {
        self.slots.iter().map(|slot| slot.limit.count).min().unwrap_or(1)
    }
}

/// The limits of `rates` for so many tokens.
pub fn for_count(rates: &[RateLimit], count: u32) -> Vec<RateLimit> {
    rates.iter().map(|rate| RateLimit { count: count.into(), ..rate.clone() }).collect()
}

fn slots(path: &Path, own: String) -> Vec<SlotLimit> {
    let more = path.connections.additional_connection_limits.iter();
    let more = more.map(|(name, limit)| SlotLimit { key: format!("egress:connections:{name}"), limit: *limit });
    let own = SlotLimit { key: own, limit: path.connections.connection_limit };
    let mut slots: Vec<SlotLimit> = more.chain([own]).collect();
    slots.sort_by_key(|slot| slot.limit.count);
    slots
}

fn rates<'a>(
    own: Option<&Rate>,
    key: String,
    more: impl IntoIterator<Item = (&'a String, &'a Rate)>,
) -> Vec<RateLimit> {
    let more = more.into_iter().map(|(name, rate)| (format!("egress:messages:{name}"), rate));
    let mut rates: Vec<(String, &Rate)> = own.map(|rate| (key, rate)).into_iter().chain(more).collect();
    rates.sort_by_key(|(_, rate)| rate.period.as_micros() / u128::from(rate.limit.max(1)));
    rates.reverse();
    rates.into_iter().map(|(key, rate)| wire_rate(key, rate)).collect()
}

fn wire_rate(key: String, rate: &Rate) -> RateLimit {
    RateLimit {
        key,
        count: 1,
        limit: rate.limit,
        period: Some(godwit_proto::convert::duration(rate.period)),
        burst: rate.burst,
        local: rate.local,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actions::Setting;
    use godwit_kit::config::Faults;

    fn resolve(text: &str, overrides: Vec<Setting>) -> SitePath {
        let mut faults = Faults::default();
        let shaping = Shaping::parse(text, "shaping.toml", &mut faults);
        assert!(faults.is_empty(), "{faults}");
        let query =
            Query { domain: "example.com", site: "mx.example", mx_hosts: &["mx.example".into()], source: "ip-1" };
        SitePath::resolve(&shaping, &query, &Standing { overrides, ..Standing::default() })
    }

    #[test]
    fn without_files_only_the_connection_limit_holds() {
        let path = resolve("", Vec::new());
        assert_eq!(
            path.slots,
            [SlotLimit { key: "egress:connections:mx.example:ip-1".into(), limit: Limit::shared(32) }]
        );
        assert!(path.connection_rates.is_empty() && path.message_rates.is_empty());
    }

    #[test]
    fn the_tightest_limit_is_taken_first() {
        let path = resolve(
            "[default]\nconnection_limit = 10\nmax_connection_rate = \"5/min\"\nmax_message_rate = \"100/s\"\n\
             additional_connection_limits = { shared = 3 }\nadditional_message_rate_throttles = { slow = \"1/min\" }",
            Vec::new(),
        );
        assert_eq!(path.slots[0].key, "egress:connections:shared");
        assert_eq!(path.connection_limit(), 3);
        assert_eq!(path.connection_rates[0].key, "egress:connecting:mx.example:ip-1");
        let keys: Vec<_> = path.message_rates.iter().map(|rate| rate.key.as_str()).collect();
        assert_eq!(keys, ["egress:messages:slow", "egress:messages:mx.example:ip-1"]);
    }

    #[test]
    fn an_override_wins_and_says_which_rule_set_it() {
        let setting = |name: &str, value: &str| Setting { name: name.into(), value: value.into(), rule: "r1".into() };
        let path = resolve(
            "[default]\nconnection_limit = 10",
            vec![setting("connection_limit", "1"), setting("nonsense", "1")],
        );
        assert_eq!(path.connection_limit(), 1);
        let value = path.values.iter().find(|value| value.name == "connection_limit").unwrap();
        assert_eq!((value.value.as_str(), value.origin.rule.as_str()), ("1", "r1"));
    }
}
