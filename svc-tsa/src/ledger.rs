//! All windows and the actions that follow from them. Pure: events and time come in, changes to disk and board go out.

use crate::board::Board;
use crate::cursor::Cursors;
use crate::rules::{Law, LawId, Rules, digest};
use crate::window::{Difference, Firing, Instant, Log, Mark, Window, instant, system_time};
use godwit_proto::common::v1::{Event, NodeId};
use godwit_proto::convert;
use godwit_proto::tsa::v1::{Action, ActionKind, Evidence, Scope};
use godwit_shaping::Action as Does;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// What is kept of a remote's answer, in bytes.
const REPLY_BYTES_MAX: usize = 512;
/// The longest name of a site or source that an action may have as its scope, in bytes.
const NAME_BYTES_MAX: usize = 4_096;

/// Where a window is: a law, and the scope of its actions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    law: usize,
    site: Arc<str>,
    source: Arc<str>,
}

/// An event that one law matched.
#[derive(Debug, Clone)]
pub struct Hit {
    place: Place,
    mark: Mark,
    reply: Arc<str>,
}

/// A mark as it is on disk: with all that its window needs to come back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    pub law: LawId,
    pub site: Arc<str>,
    pub source: Arc<str>,
    pub mark: Mark,
    pub reply: Arc<str>,
}

/// What is to be changed on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Write(Record),
    /// The reply does not matter.
    Erase(Record),
    Cursor(Log, u64),
    ForgetLog(Log),
}

#[derive(Debug)]
struct Held {
    window: Window,
    in_force: Vec<Arc<Action>>,
    look: Instant,
}

#[derive(Debug)]
pub struct Ledger {
    rules: Arc<Rules>,
    windows_max: usize,
    windows: HashMap<Place, Held>,
    /// When each window is to be looked at again, for time alone changes it.
    looks: BTreeSet<(Instant, Place)>,
    pub board: Board,
    pub cursors: Cursors,
    /// What time has erased and nobody has yet been given to write.
    pub owed: Vec<Op>,
    /// Events that would have opened one window too many.
    pub turned_away_count: u64,
}

/// The event's hits, one for each law that matches it; none where it lacks a time.
pub fn hits(rules: &Rules, event: &Event, log: &Arc<Log>) -> Vec<Hit> {
    let time = event.time.as_ref().and_then(convert::system_time);
    let (Some(time), true) = (time, event.site.len().max(event.source.len()) <= NAME_BYTES_MAX) else {
        return Vec::new();
    };
    let Some((laws, line)) = rules.matching(event) else { return Vec::new() };
    let reply: Arc<str> = line[..line.floor_char_boundary(REPLY_BYTES_MAX)].into();
    let (site, source): (Arc<str>, Arc<str>) = (event.site.as_str().into(), event.source.as_str().into());
    let mark = Mark { time: instant(time), log: log.clone(), seq: event.seq };
    let hit = |law: usize| Hit {
        place: Place { law, site: site.clone(), source: source.clone() },
        mark: mark.clone(),
        reply: reply.clone(),
    };
    laws.into_iter().map(hit).collect()
}

impl Ledger {
    pub fn new(rules: Arc<Rules>, windows_max: usize, instance_id: String) -> Self {
        Self {
            rules,
            windows_max,
            windows: HashMap::new(),
            looks: BTreeSet::new(),
            board: Board::new(instance_id),
            cursors: Cursors::default(),
            owed: Vec::new(),
            turned_away_count: 0,
        }
    }

    /// Takes in what is on disk. What no window wants is owed to be erased: marks of laws that are no more, or too old.
    pub fn restore(&mut self, records: Vec<Record>, now: Instant) {
        let mut hits = Vec::new();
        for record in &records {
            if let Some(law) = self.rules.place_of(&record.law) {
                let Record { site, source, mark, reply, .. } = record.clone();
                hits.push(Hit { place: Place { law, site, source }, mark, reply });
            }
        }
        let kept = self.absorb(hits, now).into_iter().filter_map(|op| match op {
            Op::Write(record) => Some(record),
            Op::Erase(_) | Op::Cursor(..) | Op::ForgetLog(_) => None,
        });
        let kept: BTreeSet<Record> = kept.collect();
        self.owed.extend(records.into_iter().filter(|record| !kept.contains(record)).map(Op::Erase));
    }

    /// Adds hits to their windows, and says what changes on disk.
    pub fn absorb(&mut self, hits: Vec<Hit>, now: Instant) -> Vec<Op> {
        let mut by_place: BTreeMap<Place, Vec<(Mark, Arc<str>)>> = BTreeMap::new();
        for Hit { place, mark, reply } in hits {
            by_place.entry(place).or_default().push((mark, reply));
        }
        by_place.into_iter().flat_map(|(place, marks)| self.update(place, marks, now)).collect()
    }

    /// Lets time do its work: actions expire, marks are forgotten.
    pub fn pass(&mut self, now: Instant) {
        while let Some((look, place)) = self.looks.first().cloned()
            && look <= now
        {
            let ops = self.update(place, Vec::new(), now);
            self.owed.extend(ops);
        }
    }

    /// When `pass` next has something to do.
    pub fn next_look(&self) -> Option<Instant> {
        self.looks.first().map(|(look, _)| *look)
    }

    pub fn windows_count(&self) -> usize {
        self.windows.len()
    }

    /// The events that an action counted when it fired, as far as they are held: place, time, reply.
    pub fn explain(&self, id: &str) -> Option<(Arc<Action>, Vec<Event>)> {
        let action = self.board.get(id)?.clone();
        let (place, held) = self.windows.iter().find(|(_, held)| held.in_force.iter().any(|other| other.id == id))?;
        let starts = action.starts.as_ref().and_then(convert::system_time).map(instant);
        let firing = held.window.firings(0).into_iter().find(|firing| Some(firing.first.time) == starts)?;
        let event = |(mark, reply): (Mark, Arc<str>)| Event {
            seq: mark.seq,
            log_id: mark.log.log_id.clone(),
            node: Some(NodeId { value: mark.log.node.clone() }),
            time: Some(convert::timestamp(system_time(mark.time))),
            site: place.site.to_string(),
            source: place.source.to_string(),
            reply: Some(godwit_proto::common::v1::SmtpReply { text: reply.to_string(), ..Default::default() }),
            ..Event::default()
        };
        Some((action, held.window.counted(&firing).into_iter().map(event).collect()))
    }

    fn update(&mut self, place: Place, marks: Vec<(Mark, Arc<str>)>, now: Instant) -> Vec<Op> {
        let law = self.rules.law(place.law);
        let known = self.windows.remove(&place);
        if known.is_none() && self.windows.len() >= self.windows_max {
            self.turned_away_count += marks.len() as u64;
            return Vec::new();
        }
        let fresh = || Held { window: Window::new(law.terms), in_force: Vec::new(), look: 0 };
        let mut held = known.unwrap_or_else(fresh);
        self.looks.remove(&(held.look, place.clone()));
        let replies: HashMap<Mark, Arc<str>> = marks.iter().cloned().collect();
        let difference = held.window.absorb(marks, now);
        let in_force: Vec<Arc<Action>> =
            held.window.firings(now).iter().flat_map(|firing| actions(law, &place, firing)).collect();
        self.board.replace(&held.in_force, &in_force);
        held.in_force = in_force;
        let ops = ops(law.id, &place, difference, &replies);
        if let Some(look) = held.window.next_change(now) {
            held.look = look;
            self.looks.insert((look, place.clone()));
            self.windows.insert(place, held);
        }
        ops
    }
}

fn ops(law: LawId, place: &Place, difference: Difference, replies: &HashMap<Mark, Arc<str>>) -> Vec<Op> {
    let record = |mark: Mark| {
        let reply = replies.get(&mark).cloned().unwrap_or_default();
        Record { law, site: place.site.clone(), source: place.source.clone(), mark, reply }
    };
    let Difference { written, erased } = difference;
    let written = written.into_iter().map(|mark| Op::Write(record(mark)));
    written.chain(erased.into_iter().map(|mark| Op::Erase(record(mark)))).collect()
}

fn actions(law: &Law, place: &Place, firing: &Firing) -> Vec<Arc<Action>> {
    law.actions.iter().filter_map(|does| action(law, does, place, firing)).map(Arc::new).collect()
}

/// `None` for what this version does not do.
fn action(law: &Law, does: &Does, place: &Place, firing: &Firing) -> Option<Action> {
    let (kind, name, value) = match does {
        Does::Suspend => (ActionKind::Suspend, "", ""),
        Does::SetConfig { name, value } => (ActionKind::SetConfig, name.as_str(), value.as_str()),
        Does::SetDomainConfig { .. }
        | Does::SuspendTenant
        | Does::SuspendCampaign
        | Does::Bounce
        | Does::BounceTenant
        | Does::BounceCampaign => return None,
    };
    let Mark { time, log, seq } = &firing.first;
    let scope = Scope { site: place.site.to_string(), source: place.source.to_string(), ..Scope::default() };
    Some(Action {
        id: id(law, does, place, firing.slot),
        rule: law.name.clone(),
        scope: Some(scope),
        kind: kind.into(),
        name: name.into(),
        value: value.into(),
        starts: Some(convert::timestamp(system_time(*time))),
        expires: Some(convert::timestamp(system_time(firing.expires))),
        evidence: Some(Evidence {
            // As many as it takes: what came after, and how much, is not part of what an instance must agree on.
            matched_count: law.terms.count as u64,
            node: Some(NodeId { value: log.node.clone() }),
            log_id: log.log_id.clone(),
            seq: *seq,
            reply: firing.reply.to_string(),
        }),
        reason: format!("answered: {}", firing.reply),
    })
}

/// By the slot and not by the mark that fired: whoever cancels an action means it whatever comes in late.
fn id(law: &Law, does: &Does, place: &Place, slot: u64) -> String {
    let hash = digest(&[
        &law.id,
        format!("{does:?}").as_bytes(),
        place.site.as_bytes(),
        place.source.as_bytes(),
        &slot.to_be_bytes(),
    ]);
    hash.iter().fold("act_".to_string(), |id, byte| format!("{id}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_kit::config::Faults;
    use godwit_proto::common::v1::{EventKind, SmtpReply};
    use godwit_shaping::Shaping;

    const RULE: &str = "[[\"default\".automation]]\nregex = \"x\"\naction = \"Suspend\"\nduration = \"1s\"\n";

    #[test]
    fn windows_are_bounded_until_time_frees_them() {
        let rules = Arc::new(Rules::new(&Shaping::parse(RULE, "f", &mut Faults::default())));
        let mut ledger = Ledger::new(rules.clone(), 2, "i".into());
        let log = Arc::new(Log { node: "n".into(), log_id: "l".into() });
        let mut hit = |site: &str, seconds: i64| {
            let reply = SmtpReply { code: 400, text: "x".into(), ..SmtpReply::default() };
            let time = Some(prost_types::Timestamp { seconds, nanos: 0 });
            let mut event = Event { site: site.into(), reply: Some(reply), time, seq: 1, ..Event::default() };
            event.set_kind(EventKind::Bounce);
            ledger.absorb(hits(&rules, &event, &log), seconds as u64 * 1_000_000_000);
            (ledger.board.len(), ledger.turned_away_count, ledger.next_look())
        };
        hit("a", 100);
        hit("b", 100);
        assert_eq!(hit("c", 100), (2, 1, Some(101_000_000_000)));
        ledger.pass(101_000_000_000);
        assert_eq!((ledger.board.len(), ledger.windows_count()), (0, 2), "expired, not yet useless");
        ledger.pass(103_000_000_000);
        assert_eq!((ledger.windows_count(), ledger.next_look(), ledger.owed.len()), (0, None, 2));
    }
}
