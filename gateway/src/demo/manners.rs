//! How a make-believe mail host treats those who bring mail. Pure: time comes in as an argument.

use godwit_smtp::Reply;
use godwit_smtp::receive::{Ask, Verdict};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// How long who is greylisted must stay away.
const GREYLISTED: Duration = Duration::from_secs(1);
/// Recipients whose mail is to come again; beyond, all are forgotten, and their mail is put off once more.
const GREYLIST_MAX: usize = 10_000;
const SECOND: Duration = Duration::from_secs(1);
/// Names that the choosy host does not know begin so.
pub const NOBODY: &str = "nobody";

/// One kind of host.
#[derive(Debug)]
pub enum Manners {
    /// Takes everything.
    Obliging,
    /// Puts off what comes to a recipient first, takes it when it comes again.
    Greylisting(HashMap<String, Instant>),
    /// Takes so many messages in any second, and closes the connection of those who bring more.
    Limiting { per_second: usize, taken: VecDeque<Instant> },
    /// Does not know some of its recipients.
    Choosy,
}

impl Manners {
    pub fn greylisting() -> Self {
        Self::Greylisting(HashMap::new())
    }

    pub fn limiting(per_second: usize) -> Self {
        Self::Limiting { per_second, taken: VecDeque::new() }
    }

    pub fn decide(&mut self, ask: &Ask, now: Instant) -> Verdict {
        let refusal = match self {
            Self::Obliging => None,
            Self::Greylisting(known) => recipient(ask).and_then(|name| greylist(known, name, now)),
            Self::Limiting { per_second, taken } => limit(ask, *per_second, taken, now),
            Self::Choosy => recipient(ask).filter(|name| name.starts_with(NOBODY)).map(|_| unknown()),
        };
        refusal.map_or(Verdict::Accept, Verdict::Reply)
    }
}

fn recipient(ask: &Ask) -> Option<&str> {
    match ask {
        Ask::Rcpt { address, .. } => Some(address.local()),
        Ask::Connect | Ask::Helo(_) | Ask::Mail { .. } | Ask::Vrfy { .. } | Ask::Message(_) => None,
    }
}

/// Who has been taken is forgotten: the list is as long as what is still to come again.
fn greylist(known: &mut HashMap<String, Instant>, name: &str, now: Instant) -> Option<Reply> {
    if known.get(name).is_some_and(|first| *first + GREYLISTED <= now) {
        known.remove(name);
        return None;
    }
    if known.len() >= GREYLIST_MAX {
        known.clear();
    }
    known.entry(name.into()).or_insert(now);
    Some(Reply::new(451, (4, 7, 1), "Greylisted, please come again in a second"))
}

/// Counted at the end of a message, where the large providers do it.
fn limit(ask: &Ask, per_second: usize, taken: &mut VecDeque<Instant>, now: Instant) -> Option<Reply> {
    if !matches!(ask, Ask::Message(_)) {
        return None;
    }
    while taken.front().is_some_and(|first| *first + SECOND <= now) {
        taken.pop_front();
    }
    if taken.len() < per_second {
        taken.push_back(now);
        return None;
    }
    Some(Reply::new(421, (4, 7, 28), "Unusual rate of mail from you, slow down"))
}

fn unknown() -> Reply {
    Reply::new(550, (5, 1, 1), "No such user here")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use godwit_smtp::command::{MailParams, RcptParams};
    use godwit_smtp::receive::{Helo, Transaction};
    use godwit_smtp::{Address, ReversePath};

    fn to(name: &str) -> Ask {
        Ask::Rcpt { address: Address::parse(&format!("{name}@x.example")).unwrap(), params: RcptParams::default() }
    }

    fn message() -> Ask {
        Ask::Message(Transaction {
            helo: Helo { name: "client".into(), esmtp: true },
            reverse_path: ReversePath::Null,
            params: MailParams::default(),
            recipients: Vec::new(),
            body: Bytes::new(),
        })
    }

    fn code(manners: &mut Manners, ask: &Ask, at: Instant) -> u16 {
        match manners.decide(ask, at) {
            Verdict::Accept => 250,
            Verdict::Reply(reply) => reply.code,
        }
    }

    #[test]
    fn greylisted_once_and_only_who_waits_is_taken() {
        let (mut host, start) = (Manners::greylisting(), Instant::now());
        let mut check = |name, ms, expected| {
            assert_eq!(code(&mut host, &to(name), start + Duration::from_millis(ms)), expected, "{name} at {ms}");
        };
        check("a", 0, 451);
        check("b", 500, 451);
        check("a", 999, 451);
        check("a", 1_000, 250);
        check("b", 1_000, 451);
        check("b", 1_500, 250);
        check("a", 2_000, 451);
    }

    #[test]
    fn a_greylist_is_bounded() {
        let (mut known, now) = (HashMap::new(), Instant::now());
        for number in 0..=GREYLIST_MAX {
            greylist(&mut known, &number.to_string(), now);
        }
        assert_eq!(known.len(), 1);
    }

    #[test]
    fn so_many_in_any_second() {
        let (mut host, start) = (Manners::limiting(2), Instant::now());
        let mut check = |ms, expected| {
            assert_eq!(code(&mut host, &message(), start + Duration::from_millis(ms)), expected, "at {ms}");
        };
        for (ms, expected) in [(0, 250), (600, 250), (900, 421), (1_000, 250), (1_001, 421), (1_600, 250)] {
            check(ms, expected);
        }
        assert_eq!(code(&mut host, &to("a"), start), 250, "only messages count");
    }

    #[test]
    fn nobody_is_unknown() {
        assert_eq!(code(&mut Manners::Choosy, &to("nobody-7"), Instant::now()), 550);
        assert_eq!(code(&mut Manners::Choosy, &to("reader-7"), Instant::now()), 250);
        assert_eq!(code(&mut Manners::Obliging, &to("nobody-7"), Instant::now()), 250);
    }
}
