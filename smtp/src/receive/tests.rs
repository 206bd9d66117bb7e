//! Whole dialogues at every chunking: what comes back is the same, in order, and nobody is asked twice.

mod tls;

use std::cell::RefCell;

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::reply::Reply;

/// A driver with a policy: `no@` is refused, `later@` put off, `bye@` sent away; messages are kept.
struct Driver {
    session: Session,
    input: BytesMut,
    said: String,
    kept: Vec<Transaction>,
    /// The client waits for the handshake.
    shaking: bool,
    closed: bool,
}

fn config() -> Config {
    Config {
        hostname: "mx.test".into(),
        size_bytes_max: 300,
        recipients_max: 3,
        errors_max: 5,
        idles_max: 8,
        messages_max: 3,
        line_bytes_max: 600,
        ..Config::default()
    }
}

impl Driver {
    fn new(config: Config) -> Self {
        let mut driver = Self {
            session: Session::new(config),
            input: BytesMut::new(),
            said: String::new(),
            kept: vec![],
            shaking: false,
            closed: false,
        };
        driver.run();
        driver
    }

    fn run(&mut self) {
        loop {
            let step = self.session.advance(&mut self.input);
            self.said += std::str::from_utf8(&self.session.output().split()).unwrap();
            match step {
                Step::NeedInput => return,
                Step::Close => {
                    self.closed = true;
                    return;
                }
                Step::StartTls => {
                    assert!(self.input.is_empty(), "what came in the clear is gone");
                    self.shaking = true;
                    return;
                }
                Step::Ask(ask) => {
                    let before = self.input.clone();
                    assert_eq!(self.session.advance(&mut self.input), Step::NeedInput);
                    assert_eq!(self.input, before, "nothing is consumed while an ask is open");
                    let verdict = self.decide(ask);
                    self.session.answer(verdict);
                }
            }
        }
    }

    fn decide(&mut self, ask: Ask) -> Verdict {
        let by_local = |local: &str| match local {
            "no" => Reply::new(550, (5, 7, 1), "No").into(),
            "later" => Reply::new(451, (4, 7, 1), "Later").into(),
            "bye" => Reply::new(421, (4, 7, 0), "Bye").into(),
            _ => Verdict::Accept,
        };
        match ask {
            Ask::Connect | Ask::Vrfy { .. } => Verdict::Accept,
            Ask::Helo(helo) => by_local(&helo.name),
            Ask::Mail { reverse_path, .. } => by_local(reverse_path.address().map_or("", |a| a.local())),
            Ask::Rcpt { address, .. } => by_local(address.local()),
            Ask::Message(transaction) => {
                let verdict = match transaction.body.starts_with(b"later") {
                    true => Reply::new(452, (4, 3, 1), "Full").into(),
                    false => Reply::new(250, (2, 0, 0), "Ok: queued").into(),
                };
                self.kept.push(transaction);
                verdict
            }
        }
    }

    /// Says something at once; gives the codes that came back.
    fn say(&mut self, text: impl AsRef<[u8]>) -> String {
        self.said.clear();
        self.input.extend_from_slice(text.as_ref());
        self.run();
        codes(&self.said)
    }
}

/// `250 2.1.0; 354` of a dialogue's replies, last lines only.
fn codes(said: &str) -> String {
    let last = said.lines().filter(|line| line.as_bytes()[3] == b' ');
    let code = |line: &str| {
        let word = line[4..].split(' ').next().filter(|word| crate::reply::Enhanced::parse(word).is_some());
        word.map_or(line[..3].to_owned(), |word| format!("{} {word}", &line[..3]))
    };
    last.map(code).collect::<Vec<_>>().join("; ")
}

fn greeted() -> Driver {
    let mut driver = Driver::new(config());
    driver.say("EHLO client\r\n");
    driver
}

fn in_data() -> Driver {
    let mut driver = greeted();
    assert_eq!(driver.say("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"), "250 2.1.0; 250 2.1.5; 354");
    driver
}

#[test]
fn greets_and_offers() {
    let mut driver = Driver::new(config());
    assert_eq!(driver.said, "220 mx.test ESMTP\r\n");
    driver.say("EHLO client\r\n");
    assert_eq!(
        driver.said,
        "250-mx.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SIZE 300\r\n250 ENHANCEDSTATUSCODES\r\n"
    );
    driver.say("HELO client\r\n");
    assert_eq!(driver.said, "250 mx.test\r\n");
    let extensions = Extensions { smtputf8: true, dsn: true, requiretls: true };
    let mut driver = Driver::new(Config { extensions, tls: Tls::Implicit, ..config() });
    driver.say("EHLO client\r\n");
    assert!(driver.said.ends_with("250-SMTPUTF8\r\n250-DSN\r\n250 REQUIRETLS\r\n"));
}

#[test]
fn takes_a_message() {
    let mut driver = in_data();
    assert_eq!(driver.say("..x\r\n.\r\nQUIT\r\n"), "250 2.0.0; 221 2.0.0");
    assert!(driver.closed);
    let [message] = &driver.kept[..] else { panic!("one message") };
    assert_eq!(message.body, ".x\r\n");
    assert_eq!(message.helo, Helo { name: "client".into(), esmtp: true });
    assert_eq!(message.reverse_path.to_string(), "<a@b>");
    assert_eq!(message.recipients[0].address.to_string(), "c@d");
}

/// Each line is said on its own to a greeted session.
#[test]
fn dialogues() {
    fn check(lines: &[(&str, &str)]) {
        let mut driver = greeted();
        for (line, expected) in lines {
            assert_eq!(driver.say(format!("{line}\r\n")), *expected, "{line} in {lines:?}");
        }
    }
    check(&[("RCPT TO:<c@d>", "503 5.5.1"), ("DATA", "503 5.5.1")]);
    check(&[("MAIL FROM:<a@b>", "250 2.1.0"), ("MAIL FROM:<a@b>", "503 5.5.1"), ("DATA", "503 5.5.1")]);
    check(&[("MAIL FROM:<a@b>", "250 2.1.0"), ("RSET", "250 2.0.0"), ("RCPT TO:<c@d>", "503 5.5.1")]);
    check(&[("MAIL FROM:<a@b>", "250 2.1.0"), ("EHLO x", "250"), ("RCPT TO:<c@d>", "503 5.5.1")]);
    check(&[("MAIL FROM:<no@b>", "550 5.7.1"), ("MAIL FROM:<later@b>", "451 4.7.1"), ("MAIL FROM:<>", "250 2.1.0")]);
    check(&[("MAIL FROM:<>", "250 2.1.0"), ("RCPT TO:<no@d>", "550 5.7.1"), ("DATA", "554 5.5.1")]);
    check(&[("MAIL FROM:<>", "250 2.1.0"), ("RCPT TO:<later@d>", "451 4.7.1"), ("DATA", "554 5.5.1")]);
    check(&[("MAIL FROM:<>", "250 2.1.0"), ("RCPT TO:<bye@d>", "421 4.7.0"), ("NOOP", "")]);
    check(&[
        ("MAIL FROM:<>", "250 2.1.0"),
        ("RCPT TO:<1@d>", "250 2.1.5"),
        ("RCPT TO:<no@d>", "550 5.7.1"),
        ("RCPT TO:<2@d>", "250 2.1.5"),
        ("RCPT TO:<postmaster>", "250 2.1.5"),
        ("RCPT TO:<4@d>", "452 4.5.3"),
        ("DATA", "354"),
        ("hello\r\n.", "250 2.0.0"),
    ]);
    check(&[("EHLO no", "550 5.7.1"), ("NOOP x", "250 2.0.0"), ("VRFY x", "252 2.5.0"), ("HELP", "214 2.0.0")]);
    check(&[("STARTTLS", "502 5.5.1"), ("AUTH PLAIN x", "502 5.5.1"), ("EXPN x", "502 5.5.1"), ("XYZZY", "500 5.5.1")]);
    check(&[("MAIL FROM:<> SIZE=301", "552 5.3.4"), ("MAIL FROM:<> SIZE=300", "250 2.1.0")]);
    check(&[("MAIL FROM:<> RET=FULL", "555 5.5.4"), ("MAIL FROM:<> ENVID=x", "555 5.5.4")]);
    check(&[("MAIL FROM:<> SMTPUTF8", "555 5.5.4"), ("MAIL FROM:<> REQUIRETLS", "555 5.5.4")]);
    check(&[("MAIL FROM:<> BODY=BINARYMIME", "555 5.5.4"), ("MAIL FROM:<> BODY=8BITMIME", "250 2.1.0")]);
    check(&[("MAIL FROM:<>", "250 2.1.0"), ("RCPT TO:<c@d> NOTIFY=NEVER", "555 5.5.4"), ("DATA", "554 5.5.1")]);
    check(&[("MAIL FROM:<ü@x>", "553 5.6.7"), ("VRFY x", "252 2.5.0"), ("DATA", "503 5.5.1")]);
    check(&[("MAIL FROM:<>", "250 2.1.0"), ("RCPT TO:<ü@x>", "553 5.6.7"), ("DATA", "554 5.5.1")]);
    check(&[
        ("", "500 5.5.2"),
        ("NO\0OP", "500 5.5.2"),
        ("NOOP\rNOOP", "500 5.5.2"),
        ("NOOP\nNOOP", "500 5.5.2; 250 2.0.0"),
    ]);
    check(&[("GET / HTTP/1.1", "421 4.7.0"), ("Host: x", "")]);
    check(&[("PROXY TCP4 1.2.3.4 1.2.3.4 1 2", "421 4.7.0"), ("NOOP", "")]);
    check(&[("XCLIENT ADDR=1.2.3.4", "502 5.5.1"), ("LHLO x", "502 5.5.1")]);
}

#[test]
fn needs_a_greeting_first() {
    let mut driver = Driver::new(config());
    assert_eq!(driver.say("MAIL FROM:<>\r\n"), "503 5.5.1");
    assert_eq!(driver.say("HELO x\r\nMAIL FROM:<>\r\n"), "250; 250 2.1.0");
}

#[test]
fn extensions_when_offered() {
    let extensions = Extensions { smtputf8: true, dsn: true, requiretls: true };
    let mut driver = Driver::new(Config { extensions, tls: Tls::Implicit, ..config() });
    driver.say("EHLO client\r\n");
    assert_eq!(driver.say("MAIL FROM:<ü@x> SMTPUTF8 RET=HDRS ENVID=a+2Bb REQUIRETLS\r\n"), "250 2.1.0");
    assert_eq!(driver.say("RCPT TO:<ö@x> NOTIFY=FAILURE ORCPT=rfc822;o@x\r\nDATA\r\n"), "250 2.1.5; 354");
    assert_eq!(driver.say("x\r\n.\r\n"), "250 2.0.0");
    assert_eq!(driver.kept[0].params.envid.as_deref(), Some("a+b"));
    assert_eq!(driver.kept[0].recipients[0].params.orcpt.as_ref().map(|o| o.address.as_str()), Some("o@x"));
}

#[test]
fn faulty_bodies_get_one_answer_after_the_end() {
    fn check(body: &str, expected: &str) {
        let mut driver = in_data();
        assert_eq!(driver.say(body), "", "{body:?}");
        assert_eq!(driver.say("\r\n.\r\n"), expected, "{body:?}");
        assert!(driver.kept.is_empty());
        assert_eq!(driver.say("RCPT TO:<c@d>\r\nMAIL FROM:<>\r\n"), "503 5.5.1; 250 2.1.0");
    }
    check("a\n.\nMAIL FROM:<evil@x>", "550 5.5.2");
    check("a\r.\r\nMAIL FROM:<evil@x>", "550 5.5.2");
    check("a\0", "554 5.6.0");
    check(&"x".repeat(999), "554 5.6.0");
    check(&"x\r\n".repeat(200), "552 5.3.4");
}

#[test]
fn data_before_354_closes() {
    fn check(text: &str, expected: &str) {
        let mut driver = greeted();
        assert_eq!(driver.say(text), expected, "{text:?}");
        assert!(driver.closed && driver.kept.is_empty());
    }
    check("MAIL FROM:<>\r\nRCPT TO:<c@d>\r\nDATA\r\nhello\r\n.\r\n", "250 2.1.0; 250 2.1.5; 554 5.5.0");
    check("MAIL FROM:<>\r\nRCPT TO:<no@d>\r\nDATA\r\nMAIL FROM:<evil@x>\r\n", "250 2.1.0; 550 5.7.1; 554 5.5.0");
}

#[test]
fn long_lines_are_bounded() {
    let mut driver = greeted();
    for _ in 0..1000 {
        assert_eq!(driver.say([b'x'; 4096]), "");
        assert!(driver.input.len() <= 600);
    }
    assert_eq!(driver.say("\r\nNOOP\r\n"), "500 5.5.2; 250 2.0.0");
    assert_eq!(driver.say(format!("NOOP {}\r\n", "x".repeat(593))), "250 2.0.0");
    assert_eq!(driver.say(format!("NOOP {}\r\n", "x".repeat(594))), "500 5.5.2");
}

#[test]
fn foreign_openings_close_without_a_line() {
    for opening in [&b"\x16\x03\x01\x02\0"[..], b"\r\n\r\n\0\r\nQUIT\n!", b"SSH-2.0-x", b"GET /"] {
        let mut driver = Driver::new(config());
        assert_eq!(driver.say(opening), "421 4.7.0", "{}", opening.escape_ascii());
        assert!(driver.closed);
    }
}

#[test]
fn junk_is_limited() {
    fn check(line: &str, tolerated: usize, expected: &str) {
        let mut driver = greeted();
        for _ in 0..tolerated {
            assert_eq!(driver.say(line), expected);
        }
        assert_eq!(driver.say(line), "421 4.7.0", "{line:?}");
        assert!(driver.closed);
    }
    check("FOO\r\n", 5, "500 5.5.1");
    check("EHLO no\r\n", 5, "550 5.7.1");
    check("NOOP\r\n", 7, "250 2.0.0");
    check("RSET\r\n", 7, "250 2.0.0");
    check("VRFY x\r\n", 7, "252 2.5.0");
    check("MAIL FROM:<later@x>\r\n", 7, "451 4.7.1");
}

/// Recipients put off: as many as may be accepted cost nothing, then each counts like an idle command.
#[test]
fn recipients_put_off_are_limited() {
    let mut driver = greeted();
    driver.say("MAIL FROM:<>\r\n");
    for _ in 0..3 + 7 {
        assert_eq!(driver.say("RCPT TO:<later@d>\r\n"), "451 4.7.1");
    }
    assert_eq!(driver.say("RCPT TO:<later@d>\r\n"), "421 4.7.0");
}

#[test]
fn a_message_forgives_junk_and_too_many_messages_do_not() {
    let mut driver = greeted();
    for _ in 0..3 {
        assert_eq!(driver.say("RSET\r\n".repeat(6)), ["250 2.0.0"; 6].join("; "));
        driver.say("MAIL FROM:<>\r\nRCPT TO:<c@d>\r\nDATA\r\n");
        assert_eq!(driver.say("x\r\n.\r\n"), "250 2.0.0");
    }
    assert_eq!(driver.say("MAIL FROM:<>\r\n"), "421 4.7.0");
    assert!(driver.closed);
}

#[test]
fn unwanted_chunks_are_skipped() {
    let mut driver = greeted();
    assert_eq!(driver.say("BDAT 12 LAST\r\nMAIL FROM:<>NOOP\r\n"), "502 5.5.1; 250 2.0.0");
    assert_eq!(driver.say("BDAT 18446744073709551615\r\nNOOP\r\n"), "502 5.5.1");
    // No message: the driver neither waits for it as for one, nor takes its end for a message's.
    assert_eq!(driver.session.phase(), Phase::Command);
    let mut driver = greeted();
    assert_eq!(driver.say("BDAT 0 LAST\r\nNOOP\r\n"), "502 5.5.1; 250 2.0.0");
}

#[test]
fn any_number_of_recipients_too_many_is_put_off() {
    let mut driver = greeted();
    driver.say("MAIL FROM:<a@b>\r\nRCPT TO:<1@d>\r\nRCPT TO:<2@d>\r\nRCPT TO:<3@d>\r\n");
    assert_eq!(driver.say("RCPT TO:<4@d>\r\n".repeat(100)), ["452 4.5.3"; 100].join("; "));
    assert_eq!(driver.say("DATA\r\n"), "354");
    assert_eq!(driver.say("x\r\n.\r\n"), "250 2.0.0");
    assert_eq!(driver.kept[0].recipients.len(), 3);
}

#[test]
fn connect_may_be_refused() {
    let mut session = Session::new(config());
    let mut input = BytesMut::from("EHLO x\r\nQUIT\r\n");
    assert_eq!(session.advance(&mut input), Step::Ask(Ask::Connect));
    session.answer(Reply::new(554, (5, 7, 1), "Go away"));
    assert_eq!(session.advance(&mut input), Step::Close);
    assert_eq!(codes(std::str::from_utf8(session.output()).unwrap()), "554; 503 5.5.1; 221 2.0.0");
    let mut session = Session::new(config());
    session.advance(&mut input);
    session.answer(Reply::new(421, (4, 7, 0), "Busy"));
    assert_eq!(session.advance(&mut input), Step::Close);
    assert_eq!(session.output(), "421 Busy\r\n");
}

#[test]
fn shutdown_finishes_the_message() {
    let mut driver = in_data();
    driver.session.shutdown();
    assert_eq!(driver.session.phase(), Phase::Data);
    assert_eq!(driver.say("x\r\n.\r\nNOOP\r\nNOOP\r\n"), "250 2.0.0; 421 4.3.2");
    assert!(driver.closed);
}

#[test]
fn timeout_closes() {
    let mut driver = in_data();
    driver.session.timeout();
    driver.session.timeout();
    assert_eq!(driver.say(""), "421 4.4.2");
    assert!(driver.closed && driver.session.phase() == Phase::Closed);
}

#[test]
fn a_refused_message_is_answered_so() {
    let mut driver = in_data();
    assert_eq!(driver.say("later\r\n.\r\n"), "452 4.3.1");
    assert_eq!(driver.say("DATA\r\n"), "503 5.5.1");
}

/// Dialogues without DATA, since what may follow DATA depends on when it comes.
fn scripts() -> impl Strategy<Value = Vec<u8>> {
    let lines = prop::sample::select(vec![
        "EHLO x\r\n",
        "EHLO no\r\n",
        "MAIL FROM:<a@b>\r\n",
        "RCPT TO:<c@d>\r\n",
        "RCPT TO:<no@d>\r\n",
        "RSET\r\n",
        "NOOP\r\n",
        "FOO\r\n",
        "\r\n",
        "\n",
        "\r",
        "x",
        "VRFY x\r\n",
        "BDAT 5\r\n",
        "12345",
        "RCPT TO:<bye@d>\r\n",
        "MAIL FROM:<ü@x>\r\n",
        "GET / HTTP/1.1\r\n",
        "\0",
        "QUIT\r\n",
    ]);
    prop::collection::vec(lines, 0..20).prop_map(|lines| lines.concat().into_bytes())
}

proptest! {
    #[test]
    fn chunking_changes_no_answer(script in scripts(), chunk in 1usize..20) {
        let whole = RefCell::new(Driver::new(config()));
        whole.borrow_mut().say(&script);
        let mut pieces = Driver::new(config());
        let said: String = script.chunks(chunk).map(|piece| { pieces.say(piece); pieces.said.clone() }).collect();
        prop_assert_eq!(&whole.borrow().said, &said);
        prop_assert_eq!(whole.borrow().closed, pieces.closed);
    }

    #[test]
    fn a_message_arrives_at_any_chunking(body in "([a-z.]{0,8}\r\n){0,8}", chunk in 1usize..20) {
        let wire = crate::data::stuff(&body.clone().into(), crate::data::LineEndings::Refuse).unwrap().concat();
        let mut driver = in_data();
        let said: String = wire.chunks(chunk).map(|piece| driver.say(piece)).collect();
        prop_assert_eq!(said, "250 2.0.0");
        prop_assert_eq!(&driver.kept[0].body, &body);
    }

    #[test]
    fn garbage_never_panics(garbage in prop::collection::vec(any::<u8>(), 0..400), chunk in 1usize..50) {
        let mut driver = greeted();
        garbage.chunks(chunk).for_each(|piece| { driver.say(piece); });
        prop_assert!(driver.input.len() <= 600);
    }
}
