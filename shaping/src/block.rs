//! One block of a shaping file: its values, those of its sources, its rules. Read with all faults noted.

use crate::known;
use crate::path::Path;
use crate::provider::Match;
use crate::rule::{AppliesTo, Rule};
use godwit_kit::config::{Fault, Faults};
use std::collections::BTreeMap;
use std::sync::Arc;
use toml::{Table, Value};

/// Values by key, each with the file it stands in.
pub(crate) type Values = BTreeMap<String, Entry>;

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub value: Value,
    pub file: Arc<str>,
}

/// A block as one file has it, or as several files have it together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Block {
    pub values: Values,
    pub sources: BTreeMap<String, Values>,
    pub rules: Vec<Rule>,
    /// Of a provider.
    pub matches: Vec<Match>,
    /// Of a domain; `None`: not said, which means true.
    pub mx_rollup: Option<bool>,
    /// What earlier files say of it does not count.
    pub replace_base: bool,
}

/// What a block may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Default,
    Domain,
    Provider,
}

/// The place that is being read, and where what is found there is noted.
pub(crate) struct Reader<'a> {
    pub file: &'a str,
    /// As in a header: `provider."x"`.
    pub block: String,
    /// Below the block: `automation[1]`, `sources."a"`, or nothing.
    pub within: String,
    pub faults: &'a mut Faults,
    pub warnings: &'a mut Vec<Fault>,
}

impl Reader<'_> {
    pub fn fault(&mut self, key: &str, what: impl std::fmt::Display) {
        self.faults.add(self.key(key), what);
    }

    pub fn warning(&mut self, key: &str, what: String) {
        let warning = Fault { key: self.key(key), what };
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// `shaping.toml: "example.com".sources."a".connection_limit`
    fn key(&self, key: &str) -> String {
        let parts = [self.block.as_str(), self.within.as_str(), key];
        let path: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        format!("{}: {}", self.file, path.join("."))
    }
}

impl Block {
    /// Reads a block named `name`; what is wrong is noted and left out.
    pub fn read(table: Table, kind: Kind, name: &str, reader: &mut Reader<'_>) -> Self {
        let mut block = Self::default();
        let file: Arc<str> = reader.file.into();
        let mx_rollup = table.get("mx_rollup").and_then(Value::as_bool).unwrap_or(true);
        for (key, value) in table {
            let read = match (key.as_str(), kind) {
                ("automation", _) => block.read_rules(&value, &applies_to(kind, name, mx_rollup), reader),
                ("sources", _) => block.read_sources(&value, kind, reader),
                ("replace_base", _) => flag(&value).map(|flag| block.replace_base = flag),
                ("mx_rollup", Kind::Domain) => flag(&value).map(|flag| block.mx_rollup = Some(flag)),
                ("match", Kind::Provider) => block.read_matches(&value),
                _ => {
                    read_value(&mut block.values, (key.as_str(), value), kind, (&file, reader));
                    Ok(())
                }
            };
            if let Err(what) = read {
                reader.fault(&key, what);
            }
        }
        block
    }

    /// Lays a later file's block over this one.
    pub fn merge(&mut self, later: Self) {
        if later.replace_base {
            *self = later;
            return;
        }
        merge_values(&mut self.values, later.values);
        for (source, values) in later.sources {
            merge_values(self.sources.entry(source).or_default(), values);
        }
        self.rules.extend(later.rules);
        self.mx_rollup = later.mx_rollup.or(self.mx_rollup);
        if !later.matches.is_empty() {
            self.matches = later.matches;
        }
        // A block is one block: its rules follow the flag that holds in the end.
        let rollup = self.mx_rollup.unwrap_or(true);
        for rule in &mut self.rules {
            if let AppliesTo::Domain { mx_rollup, .. } = &mut rule.applies_to {
                *mx_rollup = rollup;
            }
        }
    }

    fn read_rules(&mut self, value: &Value, to: &AppliesTo, reader: &mut Reader<'_>) -> Result<(), String> {
        let rules = value.as_array().ok_or("expected a list of rules: [[….automation]]")?;
        for (place, rule) in rules.iter().enumerate() {
            let Some(table) = rule.as_table() else {
                reader.fault(&format!("automation[{}]", place + 1), format!("expected a rule, found {rule}"));
                continue;
            };
            reader.within = format!("automation[{}]", place + 1);
            self.rules.extend(Rule::read(table.clone(), to.clone(), place + 1, reader));
            reader.within.clear();
        }
        Ok(())
    }

    fn read_sources(&mut self, value: &Value, kind: Kind, reader: &mut Reader<'_>) -> Result<(), String> {
        let sources = value.as_table().ok_or("expected a table of sources")?;
        let file: Arc<str> = reader.file.into();
        for (source, values) in sources {
            let Some(table) = values.as_table() else {
                reader.fault(&format!("sources.{source:?}"), "expected a table of values");
                continue;
            };
            reader.within = format!("sources.{source:?}");
            let place = self.sources.entry(source.clone()).or_default();
            for (key, value) in table.clone() {
                read_value(place, (key.as_str(), value), kind, (&file, reader));
            }
            reader.within.clear();
        }
        Ok(())
    }

    fn read_matches(&mut self, value: &Value) -> Result<(), String> {
        let matches = value.as_array().ok_or("expected a list of matches")?;
        self.matches = matches.iter().map(Match::read).collect::<Result<_, _>>()?;
        Ok(())
    }
}

/// The keys by which a provider's limits reach the limits with a name, shared by all sites of the provider.
pub(crate) const PROVIDER_KEYS: [(&str, &str); 3] = [
    ("provider_connection_limit", "additional_connection_limits"),
    ("provider_max_message_rate", "additional_message_rate_throttles"),
    ("provider_source_selection_rate", "additional_source_selection_rates"),
];

fn applies_to(kind: Kind, name: &str, mx_rollup: bool) -> AppliesTo {
    match kind {
        Kind::Default => AppliesTo::Everything,
        Kind::Domain => AppliesTo::Domain { name: name.into(), mx_rollup },
        Kind::Provider => AppliesTo::Provider(name.into()),
    }
}

fn read_value(
    values: &mut Values,
    (key, value): (&str, Value),
    kind: Kind,
    (file, reader): (&Arc<str>, &mut Reader<'_>),
) {
    let of_provider = PROVIDER_KEYS.iter().find(|(name, _)| *name == key && kind == Kind::Provider);
    let checked = match of_provider {
        Some((_, named)) => {
            let named_limit = Table::from_iter([("provider".to_string(), value.clone())]);
            Path::default().set_value(named, &Value::Table(named_limit))
        }
        None => Path::default().set_value(key, &value),
    };
    match (checked, known::unused(key)) {
        (Ok(()), _) => {
            values.insert(key.into(), Entry { value, file: file.clone() });
        }
        (Err(_), Some(why)) => reader.warning(key, format!("no effect: {why}")),
        (Err(what), None) => reader.fault(key, what),
    }
}

fn merge_values(below: &mut Values, above: Values) {
    for (key, entry) in above {
        match (below.get_mut(&key), entry.value) {
            (Some(Entry { value: Value::Table(names), file }), Value::Table(later)) => {
                names.extend(later);
                *file = entry.file;
            }
            (_, value) => {
                below.insert(key, Entry { value, file: entry.file });
            }
        }
    }
}

fn flag(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("expected true or false, found {value}"))
}
