//! The actions in force, and what changed since a version. Pure.

use godwit_proto::tsa::v1::{Action, WatchResponse, watch_response};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use watch_response::{Item, Snapshot};

/// Changes that are remembered: who is further behind gets a snapshot.
const CHANGES_MAX: usize = 4_096;

/// By id. Each change makes a version.
#[derive(Debug)]
pub struct Board {
    pub instance_id: String,
    version: u64,
    actions: BTreeMap<String, Arc<Action>>,
    /// The last ones, up to `version`.
    changes: VecDeque<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Added(Arc<Action>),
    Changed(Arc<Action>),
    Removed(Arc<Action>),
}

impl Board {
    pub fn new(instance_id: String) -> Self {
        Self { instance_id, version: 1, actions: BTreeMap::new(), changes: VecDeque::new() }
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn len(&self) -> usize {
        self.actions.len()
    }

    pub fn get(&self, id: &str) -> Option<&Arc<Action>> {
        self.actions.get(id)
    }

    /// In the order of ids, from after `id`.
    pub fn after(&self, id: &str) -> impl Iterator<Item = &Arc<Action>> {
        use std::ops::Bound;
        self.actions.range::<str, _>((Bound::Excluded(id), Bound::Unbounded)).map(|(_, action)| action)
    }

    /// Puts `new` where `old` was. New ones come first, so that what they cover is never uncovered between.
    pub fn replace(&mut self, old: &[Arc<Action>], new: &[Arc<Action>]) {
        for action in new {
            match self.actions.insert(action.id.clone(), action.clone()) {
                None => self.record(Change::Added(action.clone())),
                Some(before) if before != *action => self.record(Change::Changed(action.clone())),
                Some(_) => {}
            }
        }
        for action in old {
            if !new.iter().any(|other| other.id == action.id) && self.actions.remove(&action.id).is_some() {
                self.record(Change::Removed(action.clone()));
            }
        }
    }

    /// What a watcher is to be told who knows `version` of `instance_id`: the changes since, or a snapshot.
    pub fn news(&self, instance_id: &str, version: u64) -> Vec<WatchResponse> {
        let behind = self.version.checked_sub(version).and_then(|behind| usize::try_from(behind).ok());
        match behind.filter(|behind| instance_id == self.instance_id && version > 0 && *behind <= self.changes.len()) {
            Some(behind) => {
                let first = self.changes.len() - behind;
                let numbered = (version + 1..).zip(self.changes.range(first..));
                numbered.map(|(version, change)| self.response(change.item(), version)).collect()
            }
            None => vec![self.response(Item::Snapshot(self.snapshot()), self.version)],
        }
    }

    pub fn tick(&self) -> WatchResponse {
        self.response(Item::Tick(watch_response::Tick {}), self.version)
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot { actions: self.actions.values().map(|action| (**action).clone()).collect() }
    }

    fn response(&self, item: Item, version: u64) -> WatchResponse {
        WatchResponse { item: Some(item), version, instance_id: self.instance_id.clone() }
    }

    fn record(&mut self, change: Change) {
        if self.changes.len() == CHANGES_MAX {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
        self.version += 1;
    }
}

impl Change {
    fn item(&self) -> Item {
        match self {
            Self::Added(action) => Item::Added((**action).clone()),
            Self::Changed(action) => Item::Changed((**action).clone()),
            Self::Removed(action) => {
                Item::Removed(Action { id: action.id.clone(), scope: action.scope.clone(), ..Action::default() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(id: &str, reason: &str) -> Arc<Action> {
        Arc::new(Action { id: id.into(), reason: reason.into(), ..Action::default() })
    }

    fn kinds(news: Vec<WatchResponse>) -> Vec<(String, u64)> {
        let kind = |response: WatchResponse| {
            let text = match response.item.unwrap() {
                Item::Snapshot(snapshot) => format!("snapshot of {}", snapshot.actions.len()),
                Item::Added(action) => format!("added {}", action.id),
                Item::Changed(action) => format!("changed {}", action.id),
                Item::Removed(action) => format!("removed {}", action.id),
                Item::Tick(_) => "tick".into(),
            };
            (text, response.version)
        };
        news.into_iter().map(kind).collect()
    }

    #[test]
    fn changes_since_a_version_or_a_snapshot() {
        let mut board = Board::new("i".into());
        let first = [action("a", "1"), action("b", "1")];
        board.replace(&[], &first);
        let second = [action("c", "1"), action("a", "2")];
        board.replace(&first, &second);
        let check = |instance: &str, version: u64, expected: &[(&str, u64)]| {
            let expected: Vec<_> = expected.iter().map(|(text, version)| (text.to_string(), *version)).collect();
            assert_eq!(kinds(board.news(instance, version)), expected);
        };
        check("i", 0, &[("snapshot of 2", 6)]);
        check("other", 6, &[("snapshot of 2", 6)]);
        check("i", 7, &[("snapshot of 2", 6)]);
        check("i", 6, &[]);
        check("i", 3, &[("added c", 4), ("changed a", 5), ("removed b", 6)]);
        check("i", 1, &[("added a", 2), ("added b", 3), ("added c", 4), ("changed a", 5), ("removed b", 6)]);
    }

    #[test]
    fn who_is_too_far_behind_gets_a_snapshot() {
        let mut board = Board::new("i".into());
        for number in 0..=CHANGES_MAX {
            board.replace(&[], &[action(&number.to_string(), "")]);
        }
        assert_eq!(kinds(board.news("i", 1))[0].0, format!("snapshot of {}", CHANGES_MAX + 1));
        assert_eq!(board.news("i", 2).len(), CHANGES_MAX);
    }
}
