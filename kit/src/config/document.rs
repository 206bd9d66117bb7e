//! The document: file, environment and command line laid over each other, and its sections read with all their faults.

use super::Section;
use std::fmt;
use std::path::Path;
use toml::{Table, Value};

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
}

impl Document {
    /// Reads `file`, then lays over it `environment` (`GODWIT__SECTION__KEY`) and `settings` (`section.key=value`).
    ///
    /// # Errors
    /// Every part that cannot be read.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        settings: &[String],
    ) -> Result<Self, Faults> {
        let mut faults = Faults::default();
        let mut document = Self::default();
        if let Some(path) = file {
            match std::fs::read_to_string(path) {
                Ok(text) => document = Self::parse(&text, &path.display().to_string(), &mut faults),
                Err(error) => faults.add(path.display().to_string(), error),
            }
        }
        for (name, value) in environment {
            if let Some(key) = name.strip_prefix("GODWIT__") {
                document.set(&key.to_lowercase().split("__").map(String::from).collect::<Vec<_>>(), scalar(&value));
            }
        }
        for setting in settings {
            match parse_setting(setting) {
                Ok(overlay) => merge(&mut document.table, overlay),
                Err(what) => faults.add(setting.clone(), what),
            }
        }
        if faults.is_empty() { Ok(document) } else { Err(faults) }
    }

    /// Reads a text; `name` stands in faults.
    pub fn parse(text: &str, name: &str, faults: &mut Faults) -> Self {
        match text.parse::<Table>() {
            Ok(table) => Self { table },
            Err(error) => {
                faults.add(name, error.to_string().trim_end());
                Self::default()
            }
        }
    }

    pub fn has(&self, section: &str) -> bool {
        self.table.contains_key(section)
    }

    pub fn section_names(&self) -> impl Iterator<Item = &str> {
        self.table.keys().map(String::as_str)
    }

    /// Makes sure that a section is there, empty if need be.
    pub fn ensure(&mut self, section: &str) {
        self.table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    }

    /// The section, with defaults where it says nothing; `None` where it is not there. Faults are added, and the value
    /// then only serves to find more of them.
    pub fn section<T: Section>(&self, faults: &mut Faults) -> Option<T> {
        let section: T = read(self.table.get(T::NAME)?.clone(), T::NAME, faults)?;
        section.check(faults);
        Some(section)
    }

    /// The section, or its defaults where it is not there.
    pub fn section_or_default<T: Section>(&self, faults: &mut Faults) -> T {
        let value = self.table.get(T::NAME).cloned().unwrap_or_else(|| Value::Table(Table::new()));
        let section: T = read(value, T::NAME, faults)
            .or_else(|| read(Value::Table(Table::new()), T::NAME, &mut Faults::default()))
            .expect("a section without keys is valid");
        section.check(faults);
        section
    }

    fn set(&mut self, path: &[String], value: Value) {
        let overlay =
            path.iter().rev().fold(value, |inner, key| Value::Table(Table::from_iter([(key.clone(), inner)])));
        if let Value::Table(overlay) = overlay {
            merge(&mut self.table, overlay);
        }
    }
}

/// Reads `value` as a `T`; where a value is wrong it is noted, taken out, and the rest is tried again.
fn read<T: serde::de::DeserializeOwned>(mut value: Value, name: &str, faults: &mut Faults) -> Option<T> {
    loop {
        let mut unknown = Vec::new();
        let mut track = serde_path_to_error::Track::new();
        let result = T::deserialize(serde_ignored::Deserializer::new(
            serde_path_to_error::Deserializer::new(value.clone(), &mut track),
            &mut |path: serde_ignored::Path<'_>| unknown.push(key_path(name, &bracketed(&path.to_string()))),
        ));
        match result {
            Ok(section) => {
                unknown.into_iter().for_each(|key| faults.add(key, "no such key"));
                return Some(section);
            }
            Err(error) => {
                let path = track.path();
                faults.add(key_path(name, &path.to_string()), error.to_string().trim_end());
                if !take_out(&mut value, &path) {
                    return None;
                }
            }
        }
    }
}

fn key_path(section: &str, path: &str) -> String {
    if path == "." || path.is_empty() { section.into() } else { format!("{section}.{path}") }
}

/// `listeners.0.port` as `listeners[0].port`.
fn bracketed(path: &str) -> String {
    path.split('.').filter(|part| *part != "?").fold(String::new(), |mut whole, part| {
        if part.parse::<usize>().is_ok() {
            whole.push_str(&format!("[{part}]"));
        } else {
            whole.push_str(if whole.is_empty() { "" } else { "." });
            whole.push_str(part);
        }
        whole
    })
}

/// Removes what `path` leads to; false where it leads to nothing that can go.
fn take_out(value: &mut Value, path: &serde_path_to_error::Path) -> bool {
    use serde_path_to_error::Segment;
    let segments: Vec<&Segment> = path.iter().collect();
    let Some((last, parents)) = segments.split_last() else { return false };
    let mut place = value;
    for segment in parents {
        let next = match segment {
            Segment::Map { key } => place.get_mut(key.as_str()),
            Segment::Seq { index } => place.get_mut(*index),
            Segment::Enum { .. } | Segment::Unknown => Some(place),
        };
        match next {
            Some(next) => place = next,
            None => return false,
        }
    }
    match (last, place) {
        (Segment::Map { key }, Value::Table(table)) => table.remove(key.as_str()).is_some(),
        (Segment::Seq { index }, Value::Array(array)) if *index < array.len() => {
            array.remove(*index);
            true
        }
        (Segment::Map { .. } | Segment::Seq { .. } | Segment::Enum { .. } | Segment::Unknown, _) => false,
    }
}

/// A value from the environment: TOML where it is, else the text itself.
fn scalar(text: &str) -> Value {
    let parsed = format!("value = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
    parsed.unwrap_or_else(|| Value::String(text.into()))
}

/// `a.b=c` with `c` as TOML or as plain text.
fn parse_setting(setting: &str) -> Result<Table, String> {
    let (key, value) = setting.split_once('=').ok_or("not of the form section.key=value")?;
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
            (_, value) => {
                base.insert(key, value);
            }
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
        inner: Vec<Inner>,
    }

    #[derive(Debug, Deserialize, Default)]
    #[serde(default)]
    struct Inner {
        port: u16,
    }

    impl Default for Sample {
        fn default() -> Self {
            Self { wait: Duration::from_secs(1), count: 1, inner: Vec::new() }
        }
    }

    impl Section for Sample {
        const NAME: &'static str = "sample";
        fn check(&self, faults: &mut Faults) {
            if self.count == 0 {
                faults.add("sample.count", "must be at least 1");
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
        let environment = [("GODWIT__SAMPLE__COUNT".to_string(), "7".to_string()), ("HOME".into(), "/x".into())];
        let settings = ["sample.wait=5m".to_string(), "sample.inner=[{port=25}]".to_string()];
        let document = Document::load(None, environment, &settings).unwrap();
        let mut faults = Faults::default();
        let sample: Sample = document.section(&mut faults).unwrap();
        assert_eq!((sample.count, sample.wait, sample.inner[0].port), (7, Duration::from_secs(300), 25));
        assert!(faults.is_empty());
    }

    #[test]
    fn a_setting_without_a_value_is_a_fault() {
        let faults = Document::load(None, [], &["x".to_string()]).unwrap_err();
        assert_eq!(faults.0[0].key, "x");
    }
}
