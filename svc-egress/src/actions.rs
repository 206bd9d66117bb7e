//! What traffic shaping automation has ordered and is still in force, by scope. Pure: time comes in as an argument.

use godwit_proto::convert::system_time;
use godwit_proto::tsa::v1::{Action, ActionKind, Scope, watch_response::Item};
use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

/// All actions that were told, by site (empty: every site). Ordered by id, so that every node lays the same overrides
/// over each other.
#[derive(Debug, Default)]
pub struct Actions(HashMap<String, BTreeMap<String, Action>>);

/// Which places a change may be felt at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touched {
    Nothing,
    Site(String),
    All,
}

/// Whom to ask about: one source at one site.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub site: &'a str,
    pub source: &'a str,
    pub provider: &'a str,
}

/// What holds there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    pub suspended: Option<Suspended>,
    pub overrides: Vec<Setting>,
    /// When this changes by itself.
    pub until: Option<SystemTime>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspended {
    pub until: SystemTime,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub name: String,
    pub value: String,
    pub rule: String,
}

impl Actions {
    /// Takes what the TSA tells.
    pub fn take(&mut self, item: Item) -> Touched {
        match item {
            Item::Snapshot(snapshot) => {
                let mut all = Self::default();
                snapshot.actions.into_iter().for_each(|action| all.put(action));
                let changed = self.0 != all.0;
                *self = all;
                if changed { Touched::All } else { Touched::Nothing }
            }
            Item::Added(action) | Item::Changed(action) => {
                let touched = touched(&action);
                self.put(action);
                touched
            }
            Item::Removed(action) => {
                let actions = self.0.get_mut(site_of(&action));
                let was = actions.and_then(|actions| actions.remove(&action.id));
                was.map_or(Touched::Nothing, |action| touched(&action))
            }
            Item::Tick(_) => Touched::Nothing,
        }
    }

    fn put(&mut self, action: Action) {
        self.0.entry(site_of(&action).into()).or_default().insert(action.id.clone(), action);
    }

    pub fn standing(&self, place: Place<'_>, now: SystemTime) -> Standing {
        let mut standing = Standing::default();
        let (here, everywhere) = (self.0.get(place.site), self.0.get(""));
        let mut actions: Vec<&Action> = here.into_iter().chain(everywhere).flat_map(BTreeMap::values).collect();
        actions.retain(|action| action.scope.as_ref().is_some_and(|scope| holds(scope, place)));
        actions.sort_by(|a, b| a.id.cmp(&b.id));
        for action in actions {
            let Some(expires) = expires(action).filter(|expires| *expires > now) else { continue };
            match action.kind() {
                ActionKind::Suspend => {
                    if standing.suspended.as_ref().is_none_or(|other| expires > other.until) {
                        standing.suspended = Some(Suspended { until: expires, reason: reason(action) });
                    }
                }
                ActionKind::SetConfig => {
                    let Action { name, value, rule, .. } = action.clone();
                    standing.overrides.push(Setting { name, value, rule });
                }
                ActionKind::Bounce | ActionKind::Unspecified => continue,
            }
            standing.until = Some(standing.until.map_or(expires, |until| until.min(expires)));
        }
        standing
    }

    /// Forgets what has expired.
    pub fn expire(&mut self, now: SystemTime) {
        self.0.values_mut().for_each(|actions| actions.retain(|_, action| expires(action).is_some_and(|at| at > now)));
        self.0.retain(|_, actions| !actions.is_empty());
    }
}

fn site_of(action: &Action) -> &str {
    action.scope.as_ref().map_or("", |scope| scope.site.as_str())
}

fn touched(action: &Action) -> Touched {
    match site_of(action) {
        "" => Touched::All,
        site => Touched::Site(site.into()),
    }
}

/// Tenants, campaigns and domains are the queue's to hold back; a scope that names one is not about a path.
fn holds(scope: &Scope, place: Place<'_>) -> bool {
    let fits = |wanted: &str, actual: &str| wanted.is_empty() || wanted == actual;
    let about_mail = !scope.tenant.is_empty() || !scope.campaign.is_empty() || !scope.domain.is_empty();
    !about_mail
        && fits(&scope.site, place.site)
        && fits(&scope.source, place.source)
        && fits(&scope.provider, place.provider)
}

fn expires(action: &Action) -> Option<SystemTime> {
    action.expires.as_ref().and_then(system_time)
}

fn reason(action: &Action) -> String {
    if action.reason.is_empty() { format!("suspended by {}", action.rule) } else { action.reason.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_proto::convert::timestamp;
    use std::time::{Duration, UNIX_EPOCH};

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn action(id: &str, site: &str, kind: ActionKind, expires: u64) -> Action {
        Action {
            id: id.into(),
            rule: "r".into(),
            scope: Some(Scope { site: site.into(), source: "a".into(), ..Scope::default() }),
            kind: kind.into(),
            name: "connection_limit".into(),
            value: "1".into(),
            expires: Some(timestamp(at(expires))),
            ..Action::default()
        }
    }

    fn place(site: &str) -> Place<'_> {
        Place { site, source: "a", provider: "" }
    }

    #[test]
    fn actions_hold_in_their_scope_until_they_expire() {
        let mut actions = Actions::default();
        let here = Touched::Site("s".into());
        assert_eq!(actions.take(Item::Added(action("1", "s", ActionKind::Suspend, 100))), here);
        assert_eq!(actions.take(Item::Added(action("2", "s", ActionKind::SetConfig, 50))), here);
        let standing = actions.standing(place("s"), at(10));
        assert_eq!(standing.suspended.as_ref().unwrap().until, at(100));
        assert_eq!((standing.overrides.len(), standing.until), (1, Some(at(50))));
        assert_eq!(actions.standing(place("s"), at(60)).overrides.len(), 0);
        assert_eq!(actions.standing(place("s"), at(100)), Standing::default());
        assert_eq!(actions.standing(place("other"), at(10)), Standing::default());
        assert_eq!(actions.take(Item::Removed(action("1", "s", ActionKind::Suspend, 100))), here);
        assert!(actions.standing(place("s"), at(10)).suspended.is_none());
    }

    #[test]
    fn what_is_about_mail_is_not_ours() {
        let mut tenant = action("1", "s", ActionKind::Suspend, 100);
        tenant.scope.as_mut().unwrap().tenant = "t".into();
        let mut actions = Actions::default();
        actions.take(Item::Added(tenant));
        assert_eq!(actions.standing(place("s"), at(10)), Standing::default());
    }

    #[test]
    fn a_snapshot_replaces_all() {
        let mut actions = Actions::default();
        actions.take(Item::Added(action("1", "s", ActionKind::Suspend, 100)));
        assert_eq!(actions.take(Item::Snapshot(Default::default())), Touched::All);
        assert_eq!(actions.take(Item::Snapshot(Default::default())), Touched::Nothing);
    }
}
