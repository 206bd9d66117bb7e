//! The document: file, environment and command line laid over each other, and its sections read with all their faults.

use super::Section;
use super::read::{flat, read};
use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use toml::{Table, Value};

/// All that a document may have, whichever process reads it.
const SECTIONS: [&str; 10] =
    ["server", "telemetry", "peers", "throttle", "tsa", "proxy", "queue", "ingress", "egress", "gateway"];

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// `queue.retry_interval`, `ingress.listeners[0].listen`, or the file's path where it cannot be read at all.
    pub key: String,
    pub what: String,
}

/// Everything that is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    pub fn add(&mut self, key: impl Into<String>, what: impl fmt::Display) {
        let fault = Fault { key: key.into(), what: what.to_string() };
        if !self.0.contains(&fault) {
            self.0.push(fault);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Faults {
    /// A line a fault.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, fault) in self.0.iter().enumerate() {
            if place > 0 {
                writeln!(f)?;
            }
            write!(f, "{}: {}", fault.key, fault.what)?;
        }
        Ok(())
    }
}

/// The configuration as it was given, sections not yet read.
#[derive(Debug, Clone, Default)]
pub struct Document {
    table: Table,
    texts: Texts,
}

/// What was written for each key of the environment and the command line: a password may look like a number.
pub(super) type Texts = Vec<(String, String)>;

impl Document {
    /// Reads `file`, then lays over it `environment` (`GODWIT__SECTION__KEY`) and `settings` (`section.key=value`).
    ///
    /// # Errors
    /// Every part that cannot be read.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        settings: &[String],
    ) -> Result<Self, Faults> {
        let mut faults = Faults::default();
        let mut document = Self::default();
        if let Some(path) = file {
            match crate::disk::text(path) {
                Ok(text) => document = Self::parse(&text, &path.display().to_string(), &mut faults),
                Err(error) => faults.add(path.display().to_string(), error),
            }
        }
        for (path, value) in twins(environment, &mut faults) {
            document.texts.push((path.join("."), value.clone()));
            document.set(&path, scalar(&value));
        }
        for setting in settings {
            match parse_setting(setting) {
                Ok(overlay) => {
                    document.texts.extend(setting.split_once('=').map(|(key, text)| (key.trim().into(), text.into())));
                    merge(&mut document.table, overlay);
                }
                Err(what) => faults.add(setting.clone(), what),
            }
        }
        if faults.is_empty() { Ok(document) } else { Err(faults) }
    }

    /// Reads a text; `name` stands in faults.
    pub fn parse(text: &str, name: &str, faults: &mut Faults) -> Self {
        match text.parse::<Table>() {
            Ok(table) => Self { table, texts: Texts::new() },
            Err(error) => {
                faults.add(name, error.to_string().trim_end());
                Self::default()
            }
        }
    }

    pub fn has(&self, section: &str) -> bool {
        self.table.contains_key(section)
    }

    /// A section of a name that nobody reads would be one that does nothing.
    pub fn check_names(&self, faults: &mut Faults) {
        for name in self.table.keys().filter(|name| !SECTIONS.contains(&name.as_str())) {
            faults.add(name, "no such section");
        }
    }

    /// Makes sure that a section is there, empty if need be.
    pub fn ensure(&mut self, section: &str) {
        self.table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    }

    /// The section, with defaults where it says nothing; `None` where it is not there. Faults are added, and the value
    /// then only serves to find more of them.
    pub fn section<T: Section>(&self, faults: &mut Faults) -> Option<T> {
        read(self.table.get(T::NAME)?.clone(), &self.texts, faults)
    }

    /// The section, or its defaults where it is not there.
    pub fn section_or_default<T: Section>(&self, faults: &mut Faults) -> T {
        let value = self.table.get(T::NAME).cloned().unwrap_or_else(|| Value::Table(Table::new()));
        read(value, &self.texts, faults)
            .or_else(|| read(Value::Table(Table::new()), &self.texts, &mut Faults::default()))
            .expect("a section without keys is valid")
    }

    fn set(&mut self, path: &[String], value: Value) {
        let overlay =
            path.iter().rev().fold(value, |inner, key| Value::Table(Table::from_iter([(key.clone(), inner)])));
        if let Value::Table(overlay) = overlay {
            merge(&mut self.table, overlay);
        }
    }
}

/// The variables that are keys, the wider before the narrower, so that `GODWIT__A__B` lies over `GODWIT__A`.
fn twins(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    faults: &mut Faults,
) -> Vec<(Vec<String>, String)> {
    let mut twins = Vec::new();
    for (name, value) in environment {
        // Others may hold what they like.
        let name = name.to_string_lossy();
        let Some(key) = name.strip_prefix("GODWIT__") else { continue };
        match value.into_string() {
            Ok(value) => twins.push((key.to_lowercase().split("__").map(String::from).collect(), value)),
            Err(_) => faults.add(name.clone(), "not UTF-8"),
        }
    }
    twins.sort();
    twins
}

/// A value from the environment: TOML where it is, else the text itself.
fn scalar(text: &str) -> Value {
    let parsed = format!("value = {text}").parse::<Table>().ok().filter(|table| table.len() == 1);
    let parsed = parsed.and_then(|mut table| table.remove("value"));
    parsed.unwrap_or_else(|| Value::String(text.into()))
}

/// `a.b=c` with `c` as TOML or as plain text.
fn parse_setting(setting: &str) -> Result<Table, String> {
    let (key, value) = setting.split_once('=').ok_or("not of the form section.key=value")?;
    // An element is named as faults name it: listeners[0].
    let key = if key.contains(['"', '\'']) { key.to_string() } else { flat(key) };
    let quoted = Value::String(value.trim().into());
    format!("{key} = {value}")
        .parse::<Table>()
        .or_else(|_| format!("{key} = {quoted}").parse::<Table>())
        .map_err(|error| error.to_string().trim_end().to_string())
}

fn merge(base: &mut Table, overlay: Table) {
    for (key, value) in overlay {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            (Some(Value::Array(below)), Value::Table(above)) if are_places(&above, below.len()) => lay(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// Whether the keys are places in a list of so many elements, or the next ones behind them.
fn are_places(table: &Table, count: usize) -> bool {
    let is_place = |key: &String| key.parse().is_ok_and(|place: usize| place < count + table.len());
    !table.is_empty() && table.keys().all(is_place)
}

/// Lays elements over those of a list, by place; what lies behind its end is added.
fn lay(list: &mut Vec<Value>, elements: Table) {
    let mut elements: Vec<(usize, Value)> =
        elements.into_iter().filter_map(|(key, value)| Some((key.parse().ok()?, value))).collect();
    elements.sort_by_key(|(place, _)| *place);
    for (place, value) in elements {
        match (list.get_mut(place), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            (Some(below), value) => *below = value,
            (None, value) => list.push(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::time::Duration;

    #[derive(Debug, Deserialize)]
    #[serde(default)]
    struct Sample {
        #[serde(with = "crate::config::values::duration")]
        wait: Duration,
        count: u32,
        secret: String,
        inner: Vec<Inner>,
    }

    #[derive(Debug, Deserialize, Default)]
    #[serde(default)]
    struct Inner {
        port: u16,
    }

    impl Default for Sample {
        fn default() -> Self {
            Self { wait: Duration::from_secs(1), count: 1, secret: String::new(), inner: Vec::new() }
        }
    }

    impl Section for Sample {
        const NAME: &'static str = "sample";
        fn check(&self, faults: &mut Faults) {
            if self.count == 0 {
                faults.add("sample.count", "must be at least 1");
            }
            for (place, _) in self.inner.iter().enumerate().filter(|(_, inner)| inner.port == 1) {
                faults.add(format!("sample.inner[{place}].port"), "must not be 1");
            }
        }
    }

    fn faults_of(text: &str) -> Vec<String> {
        let mut faults = Faults::default();
        let document = Document::parse(text, "test", &mut faults);
        document.section::<Sample>(&mut faults);
        faults.0.iter().map(|fault| fault.key.clone()).collect()
    }

    #[test]
    fn all_faults_are_found_at_once() {
        let text = "[sample]\nwait = \"soon\"\ncount = 0\nwhat = 1\n[[sample.inner]]\nport = 70000\nprot = 1\n[[sample.inner]]\nport = \"x\"";
        let mut keys = faults_of(text);
        keys.sort();
        let expected = ["count", "inner[0].port", "inner[0].prot", "inner[1].port", "wait", "what"];
        assert_eq!(keys, expected.map(|key| format!("sample.{key}")));
    }

    #[test]
    fn environment_and_settings_lie_over_the_file() {
        let environment = [("GODWIT__SAMPLE__COUNT".into(), "7".into()), ("HOME".into(), "/x".into())];
        let settings = ["sample.wait=5m".to_string(), "sample.inner=[{port=25}]".to_string()];
        let document = Document::load(None, environment, &settings).unwrap();
        let mut faults = Faults::default();
        let sample: Sample = document.section(&mut faults).unwrap();
        assert_eq!((sample.count, sample.wait, sample.inner[0].port), (7, Duration::from_secs(300), 25));
        assert!(faults.is_empty());
    }

    #[test]
    fn text_that_looks_like_another_type_is_text_where_text_is_wanted() {
        let environment = [("GODWIT__SAMPLE__SECRET".into(), "12#34".into())];
        let sample = |settings: &[&str]| {
            let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
            let mut faults = Faults::default();
            let document = Document::load(None, environment.clone(), &settings).unwrap();
            (document.section::<Sample>(&mut faults).unwrap(), faults.0.len())
        };
        assert_eq!((sample(&[]).0.secret.as_str(), sample(&[]).1), ("12#34", 0));
        assert_eq!(sample(&["sample.secret=true"]).0.secret, "true");
        assert_eq!(sample(&["sample.secret=\"7\""]).0.secret, "7");
        assert_eq!(sample(&["sample.count=x"]).1, 1);
    }

    #[test]
    fn narrower_variables_lie_over_wider_and_others_may_be_no_text() {
        use std::os::unix::ffi::OsStringExt;
        let junk = OsString::from_vec(vec![0xff]);
        let environment = [
            ("GODWIT__SAMPLE__COUNT".into(), "7".into()),
            ("GODWIT__SAMPLE".into(), "{ count = 3, wait = \"2s\" }".into()),
            (junk.clone(), junk.clone()),
            ("OTHER".into(), junk.clone()),
        ];
        let document = Document::load(None, environment, &[]).unwrap();
        let sample: Sample = document.section(&mut Faults::default()).unwrap();
        assert_eq!((sample.count, sample.wait.as_secs()), (7, 2));
        let faults = Document::load(None, [("GODWIT__SAMPLE__WAIT".into(), junk)], &[]).unwrap_err();
        assert_eq!(faults.0[0].key, "GODWIT__SAMPLE__WAIT");
    }

    #[test]
    fn places_in_lists_are_those_of_the_file() {
        let inner = |text: &str| {
            let mut keys = faults_of(&format!("[sample]\ninner = [{text}]"));
            keys.sort();
            keys
        };
        let expected = ["inner[0]", "inner[2]", "inner[3].port", "inner[4].prot"].map(|key| format!("sample.{key}"));
        assert_eq!(inner("1, {}, 2, {port = 70000}, {prot = 1}"), expected);
        // Also where the section's own check finds it.
        assert_eq!(inner("1, {}, {port = 1}"), ["sample.inner[0]", "sample.inner[2].port"]);
    }

    #[test]
    fn a_section_is_a_table() {
        for text in ["sample = 1", "sample = []", "[[sample]]\ncount = 1"] {
            assert_eq!(faults_of(text), ["sample"], "{text}");
        }
    }

    #[test]
    fn one_element_of_a_list_may_be_set() {
        let ports = |file: &str, environment: &[(&str, &str)], settings: &[&str]| {
            let mut faults = Faults::default();
            let mut document = Document::parse(file, "test", &mut faults);
            for (name, value) in environment {
                for (path, value) in twins([(name.into(), value.into())], &mut faults) {
                    document.set(&path, scalar(&value));
                }
            }
            for setting in settings {
                merge(&mut document.table, parse_setting(setting).unwrap());
            }
            let sample: Sample = document.section(&mut faults).unwrap();
            assert_eq!(faults, Faults::default());
            sample.inner.iter().map(|inner| inner.port).collect::<Vec<_>>()
        };
        let file = "[[sample.inner]]\nport = 25\n[[sample.inner]]\nport = 26";
        assert_eq!(ports(file, &[("GODWIT__SAMPLE__INNER__1__PORT", "27")], &[]), [25, 27]);
        assert_eq!(
            ports(file, &[("GODWIT__SAMPLE__INNER__2__PORT", "27")], &["sample.inner[0].port=1025"]),
            [1025, 26, 27]
        );
        assert_eq!(ports("", &[("GODWIT__SAMPLE__INNER__0__PORT", "27")], &["sample.inner[1].port=28"]), [27, 28]);
    }

    #[test]
    fn a_fault_is_one_line_and_told_once() {
        let mut faults = Faults::default();
        Document::parse("[sample]\ncount = \"x\"\ninner = 3", "test", &mut faults).section::<Sample>(&mut faults);
        let expected = "sample.count: invalid type: string \"x\", expected u32\n\
                        sample.inner: invalid type: integer `3`, expected a sequence";
        assert_eq!(faults.to_string(), expected);
    }

    #[test]
    fn a_setting_without_a_value_is_a_fault() {
        let faults = Document::load(None, [], &["x".to_string()]).unwrap_err();
        assert_eq!(faults.0[0].key, "x");
    }
}
