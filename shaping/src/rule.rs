//! An automation rule: which answers of a remote fire it, how many of them, and what follows.

use crate::block::Reader;
use crate::path::Path;
use crate::{Rate, known};
use fancy_regex::{Regex, RegexBuilder};
use std::fmt;
use std::time::Duration;
use toml::{Table, Value};

/// Steps that a pattern may go back over one line, so that a line chosen by a stranger costs little.
const BACKTRACKS_MAX: usize = 100_000;
/// The largest threshold: whoever counts must remember this many events.
const THRESHOLD_MAX: u64 = 10_000;

/// One rule of an `automation` list.
#[derive(Debug, Clone)]
pub struct Rule {
    /// As in the list of files; not part of what the rule means.
    pub file: String,
    /// `"default"`, `provider."x"`, `"example.com"`.
    pub block: String,
    /// From 1, within its file and block.
    pub number: usize,
    pub applies_to: AppliesTo,
    /// Any one of them is enough.
    pub patterns: Vec<String>,
    pub actions: Vec<Action>,
    pub trigger: Trigger,
    /// How long its actions last.
    pub duration: Duration,
    /// Whether replies of our own making are matched too.
    pub match_internal: bool,
    regexes: Vec<Regex>,
}

/// Whose events a rule looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppliesTo {
    Everything,
    Provider(String),
    /// With `mx_rollup` also what shares the domain's site.
    Domain {
        name: String,
        mx_rollup: bool,
    },
}

/// What a rule does to its scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Suspend,
    /// `value` in TOML.
    SetConfig {
        name: String,
        value: String,
    },
    /// As `SetConfig`, for the domain without its site.
    SetDomainConfig {
        name: String,
        value: String,
    },
    SuspendTenant,
    SuspendCampaign,
    Bounce,
    BounceTenant,
    BounceCampaign,
}

/// How many matching events fire a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// Each one.
    Immediate,
    /// So many within the period.
    Threshold { count: u64, period: Duration },
}

impl Rule {
    /// Whether the rule's patterns match one line of reply: code, enhanced status code, text. A pattern that takes too
    /// many steps over the line does not match.
    pub fn matches(&self, line: &str) -> bool {
        self.regexes.iter().any(|regex| regex.is_match(line).unwrap_or(false))
    }

    /// What the rule means, whatever file it stands in and wherever: equal texts, equal rules.
    pub fn meaning(&self) -> String {
        let Self { applies_to, patterns, trigger, duration, match_internal, .. } = self;
        format!("{applies_to:?} {patterns:?} {trigger:?} {duration:?} {match_internal}")
    }

    /// Reads one entry of a list; `None` where it has faults, which are then noted.
    pub(crate) fn read(table: Table, applies_to: AppliesTo, number: usize, reader: &mut Reader<'_>) -> Option<Self> {
        let mut draft = Draft::default();
        let mut sound = true;
        for (key, value) in &table {
            if let Err(what) = draft.set(key, value, reader) {
                reader.fault(key, what);
                sound = false;
            }
        }
        for (key, missing) in [
            ("regex", draft.patterns.is_empty()),
            ("action", draft.actions.is_empty()),
            ("duration", draft.duration.is_none()),
        ] {
            if missing && !table.contains_key(key) {
                reader.fault(key, "missing");
                sound = false;
            }
        }
        let duration = draft.duration.filter(|_| sound)?;
        Some(Self {
            file: reader.file.into(),
            block: reader.block.clone(),
            number,
            applies_to,
            patterns: draft.patterns,
            actions: draft.actions,
            trigger: draft.trigger.unwrap_or(Trigger::Immediate),
            duration,
            match_internal: draft.match_internal,
            regexes: draft.regexes,
        })
    }
}

impl fmt::Display for Rule {
    /// `shaping.toml: provider."yahoo" #2`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} #{}", self.file, self.block, self.number)
    }
}

impl Action {
    /// Whether this version carries it out.
    pub fn is_supported(&self) -> bool {
        match self {
            Self::Suspend | Self::SetConfig { .. } => true,
            Self::SetDomainConfig { .. }
            | Self::SuspendTenant
            | Self::SuspendCampaign
            | Self::Bounce
            | Self::BounceTenant
            | Self::BounceCampaign => false,
        }
    }

    /// As written in a file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Suspend => "Suspend",
            Self::SetConfig { .. } => "SetConfig",
            Self::SetDomainConfig { .. } => "SetDomainConfig",
            Self::SuspendTenant => "SuspendTenant",
            Self::SuspendCampaign => "SuspendCampaign",
            Self::Bounce => "Bounce",
            Self::BounceTenant => "BounceTenant",
            Self::BounceCampaign => "BounceCampaign",
        }
    }

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(name) => Self::plain(name),
            Value::Table(table) => Self::configuring(table),
            Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) | Value::Array(_) => {
                Err(format!("expected an action, found {value}"))
            }
        }
    }

    fn plain(name: &str) -> Result<Self, String> {
        [
            Self::Suspend,
            Self::SuspendTenant,
            Self::SuspendCampaign,
            Self::Bounce,
            Self::BounceTenant,
            Self::BounceCampaign,
        ]
        .into_iter()
        .find(|action| action.name() == name)
        .ok_or_else(|| format!("no such action {name:?}"))
    }

    fn configuring(table: &Table) -> Result<Self, String> {
        let (kind, config) = match table.iter().collect::<Vec<_>>().as_slice() {
            [(kind, Value::Table(config))] => (kind.as_str(), config),
            _ => return Err("expected { SetConfig = { name = \"…\", value = … } }".into()),
        };
        if let Some(key) = config.keys().find(|key| !matches!(key.as_str(), "name" | "value")) {
            return Err(format!("{kind}: no such key {key:?}"));
        }
        let name = config.get("name").and_then(Value::as_str).ok_or_else(|| format!("{kind}: a name is missing"))?;
        let value = config.get("value").ok_or_else(|| format!("{kind}: a value is missing"))?;
        if known::unused(name).is_none() {
            Path::default().set_value(name, value).map_err(|what| format!("{kind}: {name}: {what}"))?;
        }
        let (name, value) = (name.to_string(), value.to_string());
        match kind {
            "SetConfig" => Ok(Self::SetConfig { name, value }),
            "SetDomainConfig" => Ok(Self::SetDomainConfig { name, value }),
            other => Err(format!("no such action {other:?}")),
        }
    }
}

/// A rule that is being read.
#[derive(Default)]
struct Draft {
    patterns: Vec<String>,
    regexes: Vec<Regex>,
    actions: Vec<Action>,
    trigger: Option<Trigger>,
    duration: Option<Duration>,
    match_internal: bool,
}

impl Draft {
    fn set(&mut self, key: &str, value: &Value, reader: &mut Reader<'_>) -> Result<(), String> {
        match key {
            "regex" => self.set_patterns(value),
            "action" => self.set_actions(value, reader),
            "trigger" => trigger(value).map(|trigger| self.trigger = Some(trigger)),
            "duration" => match crate::path::duration(value)? {
                Duration::ZERO => Err("must be longer than nothing".into()),
                duration => {
                    self.duration = Some(duration);
                    Ok(())
                }
            },
            "match_internal" => {
                self.match_internal =
                    value.as_bool().ok_or_else(|| format!("expected true or false, found {value}"))?;
                Ok(())
            }
            _ => Err("no such key".into()),
        }
    }

    fn set_patterns(&mut self, value: &Value) -> Result<(), String> {
        for pattern in one_or_many(value) {
            let pattern = pattern.as_str().ok_or_else(|| format!("expected a pattern, found {pattern}"))?;
            let regex = RegexBuilder::new(pattern).backtrack_limit(BACKTRACKS_MAX).build();
            self.regexes.push(regex.map_err(|error| format!("{pattern:?}: {error}"))?);
            self.patterns.push(pattern.into());
        }
        if self.patterns.is_empty() { Err("no pattern".into()) } else { Ok(()) }
    }

    fn set_actions(&mut self, value: &Value, reader: &mut Reader<'_>) -> Result<(), String> {
        for action in one_or_many(value) {
            let action = Action::read(action)?;
            if !action.is_supported() {
                reader.warning("action", format!("{}: not in this version, it does nothing", action.name()));
            }
            match &action {
                Action::SetConfig { name, .. } | Action::SetDomainConfig { name, .. } => {
                    if let Some(why) = known::unused(name) {
                        reader.warning("action", format!("{name} has no effect: {why}"));
                    }
                }
                Action::Suspend
                | Action::SuspendTenant
                | Action::SuspendCampaign
                | Action::Bounce
                | Action::BounceTenant
                | Action::BounceCampaign => {}
            }
            self.actions.push(action);
        }
        if self.actions.is_empty() { Err("no action".into()) } else { Ok(()) }
    }
}

fn one_or_many(value: &Value) -> &[Value] {
    match value {
        Value::Array(many) => many,
        one => std::slice::from_ref(one),
    }
}

fn trigger(value: &Value) -> Result<Trigger, String> {
    if value.as_str() == Some("Immediate") {
        return Ok(Trigger::Immediate);
    }
    let threshold = value.as_table().filter(|table| table.len() == 1).and_then(|table| table.get("Threshold"));
    let threshold =
        threshold.and_then(Value::as_str).ok_or("expected \"Immediate\" or { Threshold = \"N/period\" }")?;
    let rate: Rate = threshold.parse()?;
    if rate.limit > THRESHOLD_MAX {
        return Err(format!("a threshold of {} is above {THRESHOLD_MAX}", rate.limit));
    }
    Ok(Trigger::Threshold { count: rate.limit, period: rate.period })
}
