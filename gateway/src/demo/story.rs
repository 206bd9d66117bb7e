//! Tells from the queue's events what happens: the first of each kind in full, the rest as counts. Pure: events and time
//! come in, lines come out.

use super::counts::Counts;
use super::lines::Lines;
use super::reactions::Reactions;
use godwit_proto::common::v1::{Event, EventKind};
use godwit_proto::convert::system_time;
use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

/// Lines of one kind about one domain: the first, and what becomes of messages that were told of before.
const LINES_MAX: usize = 3;

/// What has happened so far.
#[derive(Debug)]
pub struct Story {
    pub lines: Lines,
    pub reactions: Reactions,
    /// In the order of the table.
    domains: Vec<(String, Counts)>,
    told: HashMap<(Chapter, String), usize>,
    /// Messages that were told of, and are told of again.
    followed: HashSet<String>,
    /// Where a domain's mail was last seen to go.
    sites: HashMap<String, String>,
}

/// What there is to tell of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Chapter {
    Accepted,
    Deferred,
    Delivered,
    DeliveredAfterDeferral,
    Bounced,
}

impl Story {
    pub fn new(lines: Lines, domains: &[&str]) -> Self {
        Self {
            lines,
            reactions: Reactions::new(lines),
            domains: domains.iter().map(|domain| ((*domain).into(), Counts::default())).collect(),
            told: HashMap::new(),
            followed: HashSet::new(),
            sites: HashMap::new(),
        }
    }

    /// Whether [`Story::event`] would like to know when the message is tried again.
    pub fn asks_when(&self, event: &Event) -> bool {
        Chapter::of(event) == Some(Chapter::Deferred) && self.is_news(Chapter::Deferred, event)
    }

    /// Counts an event; a line where it is news. `again`: when the message is next due, where that is known.
    pub fn event(&mut self, event: &Event, again: Option<SystemTime>) -> Option<String> {
        let chapter = Chapter::of(event)?;
        let domain = domain(event).to_string();
        self.count(chapter, &domain, event.recipients.len() as u64);
        if !event.site.is_empty() {
            self.sites.insert(domain.clone(), event.site.clone());
        }
        if !self.is_news(chapter, event) {
            return None;
        }
        self.followed.insert(id(event).into());
        *self.told.entry((chapter, domain)).or_default() += 1;
        let time = event.time.as_ref().and_then(system_time).unwrap_or(self.lines.0);
        Some(self.lines.line(time, chapter.verb(), &text(chapter, event, again)))
    }

    /// What was to be seen and has not been.
    pub fn missing(&self) -> Vec<&'static str> {
        let sum = self.sum();
        let seen = [
            ("an acceptance", sum.accepted),
            ("a deferral", sum.deferred),
            ("a suspension by a TSA rule", self.reactions.suspension_count),
            ("the delivery of a message that had been deferred", sum.after_deferral),
            ("a bounce", sum.bounced),
        ];
        seen.into_iter().filter(|(_, count)| *count == 0).map(|(what, _)| what).collect()
    }

    /// How things stand, by domain.
    pub fn table(&self, now: SystemTime) -> Vec<String> {
        let row = |(domain, counts): &(String, Counts)| {
            let standing = self.sites.get(domain).map(|site| self.reactions.standing(site)).unwrap_or_default();
            self.lines.more(format!("{}   {standing}", counts.of(domain)).trim_end())
        };
        let heading = self.lines.line(now, "status", &Counts::heading());
        std::iter::once(heading).chain(self.domains.iter().map(row)).collect()
    }

    /// All of it, in lines that add up.
    pub fn balance(&self, now: SystemTime) -> Vec<String> {
        let sum = self.sum();
        let Counts { accepted, deferred, delivered, after_deferral, bounced } = sum;
        let (queued, suspensions) = (sum.queued(), self.reactions.suspension_count);
        let balance =
            format!("{accepted} accepted = {delivered} delivered + {bounced} bounced + {queued} still queued");
        let rest = format!(
            "deferrals: {deferred}, deliveries after a deferral: {after_deferral}, suspensions by the TSA: {suspensions}"
        );
        vec![self.lines.line(now, "in sum", &balance), self.lines.more(&rest)]
    }

    fn sum(&self) -> Counts {
        Counts::sum(self.domains.iter().map(|(_, counts)| counts))
    }

    fn count(&mut self, chapter: Chapter, domain: &str, recipients: u64) {
        let place = self.domains.iter().position(|(known, _)| known == domain);
        let place = place.unwrap_or_else(|| {
            self.domains.push((domain.into(), Counts::default()));
            self.domains.len() - 1
        });
        let counts = &mut self.domains[place].1;
        match chapter {
            Chapter::Accepted => counts.accepted += recipients,
            Chapter::Deferred => counts.deferred += recipients,
            Chapter::Delivered => counts.delivered += recipients,
            Chapter::DeliveredAfterDeferral => {
                counts.delivered += recipients;
                counts.after_deferral += recipients;
            }
            Chapter::Bounced => counts.bounced += recipients,
        }
    }

    fn is_news(&self, chapter: Chapter, event: &Event) -> bool {
        let told = self.told.get(&(chapter, domain(event).into())).copied().unwrap_or_default();
        told == 0 || (told < LINES_MAX && self.followed.contains(id(event)))
    }
}

impl Chapter {
    fn of(event: &Event) -> Option<Self> {
        match event.kind() {
            EventKind::Reception => Some(Self::Accepted),
            EventKind::TransientFailure => Some(Self::Deferred),
            EventKind::Delivery if event.attempt > 1 => Some(Self::DeliveredAfterDeferral),
            EventKind::Delivery => Some(Self::Delivered),
            EventKind::Bounce | EventKind::AdminBounce | EventKind::Expiration => Some(Self::Bounced),
            EventKind::Unspecified
            | EventKind::Rejection
            | EventKind::Delayed
            | EventKind::AdminRebind
            | EventKind::Oob
            | EventKind::Feedback
            | EventKind::TransferOut
            | EventKind::TransferIn
            | EventKind::Audit => None,
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Deferred => "deferred",
            Self::Delivered | Self::DeliveredAfterDeferral => "delivered",
            Self::Bounced => "bounced",
        }
    }
}

fn text(chapter: Chapter, event: &Event, again: Option<SystemTime>) -> String {
    let (id, recipients) = (id(event), event.recipients.join(", "));
    let reply = event.reply.as_ref().map(|reply| reply.line()).unwrap_or_default();
    match chapter {
        Chapter::Accepted => format!("{id} for {recipients} by {}: it is on disk", event.protocol),
        Chapter::Deferred => {
            let failed = event.time.as_ref().and_then(system_time);
            match again.zip(failed).and_then(|(again, failed)| again.duration_since(failed).ok()) {
                Some(wait) => format!("{id} to {recipients}: {reply}; next try in {:.1}s", wait.as_secs_f64()),
                None => format!("{id} to {recipients}: {reply}; to be tried again"),
            }
        }
        Chapter::Delivered | Chapter::Bounced => format!("{id} to {recipients}: {reply}"),
        Chapter::DeliveredAfterDeferral => format!("{id} to {recipients} after {} attempts: {reply}", event.attempt),
    }
}

fn id(event: &Event) -> &str {
    event.message_id.as_ref().map_or("", |id| id.value.as_str())
}

fn domain(event: &Event) -> &str {
    event.queue_name.as_ref().map_or("", |name| name.domain.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_proto::common::v1::{MessageId, QueueName, SmtpReply};
    use godwit_proto::convert::timestamp;
    use godwit_proto::tsa::v1::watch_response::Item;
    use godwit_proto::tsa::v1::{Action, ActionKind, Scope};
    use std::time::{Duration, UNIX_EPOCH};

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn story() -> Story {
        Story::new(Lines(at(100)), &["a.example"])
    }

    fn event(kind: EventKind, id: &str, attempt: u32) -> Event {
        Event {
            kind: kind.into(),
            message_id: Some(MessageId { value: id.into() }),
            queue_name: Some(QueueName { domain: "a.example".into(), ..QueueName::default() }),
            recipients: vec!["x@a.example".into()],
            time: Some(timestamp(at(101))),
            attempt,
            protocol: "ESMTP".into(),
            reply: Some(SmtpReply { code: 451, text: "Later".into(), ..SmtpReply::default() }),
            ..Event::default()
        }
    }

    #[test]
    fn the_first_of_each_kind_and_what_becomes_of_it() {
        let mut story = story();
        let mut check = |kind, id, attempt, expected: Option<&str>| {
            let line = story.event(&event(kind, id, attempt), Some(at(103)));
            assert_eq!(line.as_deref(), expected);
        };
        let told = |text: &'static str| Some(text);
        use EventKind::{Bounce, Delivery, Reception, TransientFailure};
        check(Reception, "m1", 0, told("   +1.0s  accepted   m1 for x@a.example by ESMTP: it is on disk"));
        check(Reception, "m2", 0, None);
        check(TransientFailure, "m2", 1, told("   +1.0s  deferred   m2 to x@a.example: 451 Later; next try in 2.0s"));
        check(TransientFailure, "m3", 1, None);
        check(Delivery, "m4", 1, told("   +1.0s  delivered  m4 to x@a.example: 451 Later"));
        check(Delivery, "m5", 1, None);
        check(Delivery, "m3", 2, told("   +1.0s  delivered  m3 to x@a.example after 2 attempts: 451 Later"));
        check(Delivery, "m2", 2, told("   +1.0s  delivered  m2 to x@a.example after 2 attempts: 451 Later"));
        check(Bounce, "m6", 1, told("   +1.0s  bounced    m6 to x@a.example: 451 Later"));
        check(EventKind::Audit, "m6", 1, None);
    }

    #[test]
    fn one_message_does_not_fill_the_screen() {
        let mut story = story();
        let lines =
            (1..100).filter_map(|attempt| story.event(&event(EventKind::TransientFailure, "m1", attempt), None));
        let lines: Vec<String> = lines.collect();
        assert_eq!(lines.len(), LINES_MAX);
        assert!(lines[0].ends_with("; to be tried again"), "{lines:?}");
    }

    #[test]
    fn asks_when_only_for_what_is_told() {
        let mut story = story();
        let deferral = event(EventKind::TransientFailure, "m1", 1);
        assert!(story.asks_when(&deferral));
        assert!(!story.asks_when(&event(EventKind::Reception, "m1", 0)));
        story.event(&deferral, None);
        assert!(!story.asks_when(&event(EventKind::TransientFailure, "m2", 1)));
    }

    #[test]
    fn table_and_balance_add_up() {
        let mut story = story();
        for (kind, attempt) in [
            (EventKind::Reception, 0),
            (EventKind::Reception, 0),
            (EventKind::Reception, 0),
            (EventKind::Reception, 0),
            (EventKind::TransientFailure, 1),
            (EventKind::Delivery, 2),
            (EventKind::Delivery, 1),
            (EventKind::Bounce, 1),
        ] {
            story.event(&Event { site: "mx.a.example".into(), ..event(kind, "m1", attempt) }, None);
        }
        story.reactions.hear(Item::Added(suspension()), at(104));
        assert_eq!(
            story.table(at(105)),
            [
                "   +5.0s  status     domain               accepted     queued   deferred  delivered    bounced",
                "                     a.example                   4          1          1          2          1   suspended \
                 until +8.0s",
            ]
        );
        assert_eq!(
            story.balance(at(105)),
            [
                "   +5.0s  in sum     4 accepted = 2 delivered + 1 bounced + 1 still queued",
                "                     deferrals: 1, deliveries after a deferral: 1, suspensions by the TSA: 1",
            ]
        );
        assert_eq!(story.missing(), Vec::<&str>::new());
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut story = story();
        assert_eq!(story.missing().len(), 5);
        for (kind, attempt) in [
            (EventKind::Reception, 0),
            (EventKind::TransientFailure, 1),
            (EventKind::Delivery, 1),
            (EventKind::Bounce, 1),
        ] {
            story.event(&event(kind, "m1", attempt), None);
        }
        let missing = ["a suspension by a TSA rule", "the delivery of a message that had been deferred"];
        assert_eq!(story.missing(), missing);
        story.event(&event(EventKind::Delivery, "m1", 2), None);
        story.reactions.hear(Item::Added(suspension()), at(104));
        assert_eq!(story.missing(), Vec::<&str>::new());
    }

    fn suspension() -> Action {
        Action {
            id: "1".into(),
            rule: "shaping.toml: \"a.example\" #1".into(),
            scope: Some(Scope { site: "mx.a.example".into(), ..Scope::default() }),
            kind: ActionKind::Suspend.into(),
            expires: Some(timestamp(at(108))),
            ..Action::default()
        }
    }
}
