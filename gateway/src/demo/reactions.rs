//! What the TSA has ordered and is in force, as it says itself: lines where something begins or ends. Pure.

use super::lines::Lines;
use godwit_proto::convert::system_time;
use godwit_proto::tsa::v1::watch_response::Item;
use godwit_proto::tsa::v1::{Action, ActionKind};
use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

#[derive(Debug)]
pub struct Reactions {
    lines: Lines,
    in_force: BTreeMap<String, Action>,
    /// By rules, since the beginning.
    pub suspension_count: u64,
}

impl Reactions {
    pub fn new(lines: Lines) -> Self {
        Self { lines, in_force: BTreeMap::new(), suspension_count: 0 }
    }

    /// Takes what a watcher of the TSA is told.
    pub fn hear(&mut self, item: Item, now: SystemTime) -> Vec<String> {
        match item {
            Item::Snapshot(snapshot) => {
                let ids: BTreeSet<String> = snapshot.actions.iter().map(|action| action.id.clone()).collect();
                let begun: Vec<_> = snapshot.actions.into_iter().filter_map(|action| self.begin(action, now)).collect();
                let gone: Vec<String> = self.in_force.keys().filter(|id| !ids.contains(*id)).cloned().collect();
                begun.into_iter().chain(gone.iter().filter_map(|id| self.end(id, now))).collect()
            }
            Item::Added(action) | Item::Changed(action) => self.begin(action, now).into_iter().collect(),
            Item::Removed(action) => self.end(&action.id, now).into_iter().collect(),
            Item::Tick(_) => Vec::new(),
        }
    }

    /// What is in force at a site, in a word or two; nothing: empty.
    pub fn standing(&self, site: &str) -> String {
        let until = |kind: ActionKind| {
            let here = self.in_force.values().filter(|action| action.kind() == kind && site_of(action) == site);
            here.map(expires).max()
        };
        match (until(ActionKind::Suspend), until(ActionKind::SetConfig)) {
            (Some(until), _) => format!("suspended until {}", self.lines.clock(until)),
            (None, Some(until)) => format!("slowed until {}", self.lines.clock(until)),
            (None, None) => String::new(),
        }
    }

    /// What holds already does not begin again when another event fires it, and only lasts longer.
    fn begin(&mut self, action: Action, now: SystemTime) -> Option<String> {
        let holds = self.in_force.values().any(|other| is_like(other, &action));
        self.in_force.insert(action.id.clone(), action.clone());
        if holds {
            return None;
        }
        let (site, until, rule) = (site_of(&action), self.lines.clock(expires(&action)), rule(&action));
        match action.kind() {
            ActionKind::Suspend => {
                self.suspension_count += u64::from(!action.rule.is_empty());
                let evidence = action.evidence.clone().unwrap_or_default();
                let heard = format!("after {} answers such as \"{}\"", evidence.matched_count, evidence.reply);
                Some(self.lines.line(now, "suspended", &format!("{site} until {until} by rule {rule}, {heard}")))
            }
            ActionKind::SetConfig => {
                let setting = format!("{} = {}", action.name, action.value);
                Some(self.lines.line(now, "slowed", &format!("{site} until {until} by rule {rule}: {setting}")))
            }
            ActionKind::Bounce | ActionKind::Unspecified => None,
        }
    }

    fn end(&mut self, id: &str, now: SystemTime) -> Option<String> {
        let action = self.in_force.remove(id)?;
        if self.in_force.values().any(|other| is_like(other, &action)) {
            return None;
        }
        let site = site_of(&action);
        match action.kind() {
            ActionKind::Suspend => Some(self.lines.line(now, "resumed", site)),
            ActionKind::SetConfig => {
                Some(self.lines.line(now, "restored", &format!("{site}: {} is as before", action.name)))
            }
            ActionKind::Bounce | ActionKind::Unspecified => None,
        }
    }
}

fn site_of(action: &Action) -> &str {
    action.scope.as_ref().map_or("", |scope| scope.site.as_str())
}

/// File, block and number, without the folder that the file is in.
fn rule(action: &Action) -> &str {
    action.rule.rsplit('/').next().unwrap_or_default()
}

fn expires(action: &Action) -> SystemTime {
    action.expires.as_ref().and_then(system_time).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The same, to the same scope, whatever fired it.
fn is_like(one: &Action, other: &Action) -> bool {
    (one.kind, &one.scope, &one.name) == (other.kind, &other.scope, &other.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_proto::convert::timestamp;
    use godwit_proto::tsa::v1::watch_response::{Snapshot, Tick};
    use godwit_proto::tsa::v1::{Evidence, Scope};
    use std::time::{Duration, UNIX_EPOCH};

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn action(id: &str, kind: ActionKind, expires: u64) -> Action {
        Action {
            id: id.into(),
            rule: "/tmp/x/shaping.toml: \"a.example\" #1".into(),
            scope: Some(Scope { site: "mx.a.example".into(), ..Scope::default() }),
            kind: kind.into(),
            name: if kind == ActionKind::SetConfig { "max_message_rate".into() } else { String::new() },
            value: if kind == ActionKind::SetConfig { "\"1/s\"".into() } else { String::new() },
            expires: Some(timestamp(at(expires))),
            evidence: Some(Evidence { matched_count: 3, reply: "421 4.7.28 slow".into(), ..Evidence::default() }),
            ..Action::default()
        }
    }

    #[test]
    fn begins_and_ends_once_however_often_it_fires() {
        let mut reactions = Reactions::new(Lines(at(100)));
        let mut hear = |item, seconds| reactions.hear(item, at(seconds));
        assert_eq!(hear(Item::Snapshot(Snapshot::default()), 100), Vec::<String>::new());
        let begun = "   +3.0s  suspended  mx.a.example until +8.0s by rule shaping.toml: \"a.example\" #1, after 3 answers \
                     such as \"421 4.7.28 slow\"";
        assert_eq!(hear(Item::Added(action("1", ActionKind::Suspend, 108)), 103), [begun]);
        assert!(hear(Item::Changed(action("1", ActionKind::Suspend, 109)), 104).is_empty());
        assert!(hear(Item::Added(action("2", ActionKind::Suspend, 112)), 107).is_empty());
        assert!(hear(Item::Tick(Tick {}), 108).is_empty());
        assert!(hear(Item::Removed(action("1", ActionKind::Suspend, 0)), 109).is_empty(), "the other still holds");
        assert_eq!(
            hear(Item::Removed(action("2", ActionKind::Suspend, 0)), 112),
            ["  +12.0s  resumed    mx.a.example"]
        );
        assert_eq!(reactions.suspension_count, 1);
    }

    #[test]
    fn limits_that_are_set_and_how_things_stand() {
        let mut reactions = Reactions::new(Lines(at(100)));
        let both = vec![action("1", ActionKind::Suspend, 108), action("2", ActionKind::SetConfig, 130)];
        let lines = reactions.hear(Item::Snapshot(Snapshot { actions: both }), at(103));
        assert!(lines[1].ends_with(": max_message_rate = \"1/s\""), "{lines:?}");
        assert_eq!(reactions.standing("mx.a.example"), "suspended until +8.0s");
        assert_eq!(reactions.standing("mx.b.example"), "");
        let slowed = vec![action("2", ActionKind::SetConfig, 130)];
        let lines = reactions.hear(Item::Snapshot(Snapshot { actions: slowed }), at(108));
        assert_eq!(lines, ["   +8.0s  resumed    mx.a.example"]);
        assert_eq!(reactions.standing("mx.a.example"), "slowed until +30.0s");
        let lines = reactions.hear(Item::Removed(action("2", ActionKind::SetConfig, 0)), at(130));
        assert_eq!(lines, ["  +30.0s  restored   mx.a.example: max_message_rate is as before"]);
    }

    #[test]
    fn by_hand_is_not_by_rule() {
        let mut reactions = Reactions::new(Lines(at(100)));
        let by_hand = Action { rule: String::new(), ..action("1", ActionKind::Suspend, 108) };
        assert_eq!(reactions.hear(Item::Added(by_hand), at(103)).len(), 1);
        assert_eq!(reactions.suspension_count, 0);
    }
}
