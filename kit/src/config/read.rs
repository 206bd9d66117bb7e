//! Reads one section with all its faults: where a value is wrong it is noted, taken out, and the rest is tried again.

use super::document::Texts;
use super::{Faults, Section};
use serde_path_to_error::Segment;
use toml::Value;

/// `None` where it is no section at all. Faults name places as they were given, whatever was taken out before.
pub(super) fn read<T: Section>(mut value: Value, texts: &Texts, faults: &mut Faults) -> Option<T> {
    if !value.is_table() {
        faults.add(T::NAME, "must be a table");
        return None;
    }
    let mut taken = Taken::default();
    loop {
        let mut unknown = Vec::new();
        let mut track = serde_path_to_error::Track::new();
        let result = T::deserialize(serde_ignored::Deserializer::new(
            serde_path_to_error::Deserializer::new(value.clone(), &mut track),
            &mut |path: serde_ignored::Path<'_>| unknown.push(key_path(T::NAME, &bracketed(&path.to_string()))),
        ));
        let section = match result {
            Ok(section) => section,
            Err(error) => {
                let path = track.path();
                let key = key_path(T::NAME, &path.to_string());
                let written = texts.iter().rev().find(|(name, _)| flat(name) == flat(&key));
                if as_text(&mut value, &path, written) || as_list(&mut value, &path) {
                    continue;
                }
                // Without the place in the file, of which nothing is known any more.
                faults.add(taken.given(&key), error.message().trim_end());
                if !take_out(&mut value, &path) {
                    return None;
                }
                taken.note(&key);
                continue;
            }
        };
        unknown.into_iter().for_each(|key| faults.add(taken.given(&key), "no such key"));
        let mut found = Faults::default();
        section.check(&mut found);
        // What was taken out has its default now, of which there is nothing to say.
        let said: Vec<String> = faults.0.iter().map(|fault| fault.key.clone()).collect();
        let found = found.0.into_iter().map(|fault| (taken.given(&fault.key), fault.what));
        found.filter(|(key, _)| !said.contains(key)).for_each(|(key, what)| faults.add(key, what));
        return Some(section);
    }
}

/// The elements that were taken out of lists: each list's key, and the places as they were given, in order.
#[derive(Default)]
struct Taken(Vec<(String, Vec<usize>)>);

impl Taken {
    /// `key` was taken out, as it stood then.
    fn note(&mut self, key: &str) {
        let given = self.given(key);
        let Some((list, place)) = given.strip_suffix(']').and_then(|key| key.rsplit_once('[')) else { return };
        let Ok(place) = place.parse() else { return };
        match self.0.iter_mut().find(|(key, _)| key == list) {
            Some((_, places)) => {
                places.push(place);
                places.sort_unstable();
            }
            None => self.0.push((list.into(), vec![place])),
        }
    }

    /// The key that stands at `key` in what was given.
    fn given(&self, key: &str) -> String {
        let mut parts = key.split('[');
        let mut given = parts.next().unwrap_or_default().to_string();
        for part in parts {
            let (place, rest) = part.split_once(']').unwrap_or((part, ""));
            let place = match (place.parse::<usize>(), self.0.iter().find(|(list, _)| *list == given)) {
                (Ok(place), Some((_, gone))) => {
                    gone.iter().fold(place, |place, gone| place + usize::from(*gone <= place)).to_string()
                }
                (_, _) => place.into(),
            };
            given.push_str(&format!("[{place}]{rest}"));
        }
        given
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

/// Puts what was written in the place of what it was taken for; false where it is text already.
fn as_text(value: &mut Value, path: &serde_path_to_error::Path, written: Option<&(String, String)>) -> bool {
    let segments: Vec<&Segment> = path.iter().collect();
    match (place(value, &segments), written) {
        (Some(value), Some((_, text))) if !value.is_str() && !value.is_table() && !value.is_array() => {
            *value = Value::String(text.clone());
            true
        }
        (_, _) => false,
    }
}

/// Makes a list of a table `0`, `1`, ...: the environment and the command line have no other way to say one element.
fn as_list(value: &mut Value, path: &serde_path_to_error::Path) -> bool {
    let segments: Vec<&Segment> = path.iter().collect();
    let Some(value @ Value::Table(_)) = place(value, &segments) else { return false };
    let Some(table) = value.as_table_mut().filter(|table| !table.is_empty()) else { return false };
    let elements: Vec<Value> = (0..table.len()).map_while(|place| table.get(&place.to_string()).cloned()).collect();
    let is_list = elements.len() == table.len();
    if is_list {
        *value = Value::Array(elements);
    }
    is_list
}

/// `listeners[0].port` as `listeners.0.port`.
pub(super) fn flat(key: &str) -> String {
    key.replace('[', ".").replace(']', "")
}

/// Removes what `path` leads to; false where it leads to nothing that can go.
fn take_out(value: &mut Value, path: &serde_path_to_error::Path) -> bool {
    let segments: Vec<&Segment> = path.iter().collect();
    let Some((last, parents)) = segments.split_last() else { return false };
    match (last, place(value, parents)) {
        (Segment::Map { key }, Some(Value::Table(table))) => table.remove(key.as_str()).is_some(),
        (Segment::Seq { index }, Some(Value::Array(array))) if *index < array.len() => {
            array.remove(*index);
            true
        }
        (Segment::Map { .. } | Segment::Seq { .. } | Segment::Enum { .. } | Segment::Unknown, _) => false,
    }
}

fn place<'v>(value: &'v mut Value, path: &[&Segment]) -> Option<&'v mut Value> {
    path.iter().try_fold(value, |value, segment| match segment {
        Segment::Map { key } => value.get_mut(key.as_str()),
        Segment::Seq { index } => value.get_mut(*index),
        Segment::Enum { .. } | Segment::Unknown => Some(value),
    })
}
