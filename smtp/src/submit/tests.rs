//! Dialogues with scripted peers, good and bad.

mod loopback;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::{
    address::ReversePath,
    command::{Notify, Orcpt, RcptParams, Ret},
    reply,
};

fn client() -> Client {
    Client::new(Config::new("me.test"))
}

fn transaction(recipients: &[&str], body: &str) -> Transaction {
    let recipients = recipients.iter().map(|text| text.parse().unwrap()).collect();
    Transaction::new("from@me.test".parse().unwrap(), recipients, Bytes::from(body.to_owned()))
}

/// What the client would have written, taken off.
fn written(client: &mut Client) -> String {
    let output = client.output().drain(..).collect::<Vec<_>>().concat();
    String::from_utf8(output).unwrap().replace("\r\n", "|")
}

/// A peer's words; `|` ends a line.
fn hear(client: &mut Client, words: &str) -> Option<Event> {
    let mut input = BytesMut::from(words.replace('|', "\r\n").as_str());
    client.feed(&mut input)
}

/// Greets with these extensions.
fn greeted(extensions: &str) -> Client {
    let mut client = client();
    assert_eq!(client.stage(), Stage::Banner);
    assert_eq!(hear(&mut client, "220 hi|"), None);
    assert_eq!(client.stage(), Stage::Ehlo);
    assert_eq!(written(&mut client), "EHLO me.test|");
    let offer = format!(
        "250-you{}|250 HELP|",
        extensions.split_whitespace().map(|e| format!("|250-{}", e.replace('_', " "))).collect::<String>()
    );
    assert!(matches!(hear(&mut client, &offer), Some(Event::Ready(_))));
    assert_eq!(client.stage(), Stage::Idle);
    client
}

fn begin(client: &mut Client, transaction: Transaction) {
    assert_eq!(client.start(transaction), Start::Sent);
}

/// `250@data-termination 550@rcpt +local +maybe; reusable`.
fn shown(outcome: &Outcome) -> String {
    let each = outcome.deliveries.iter().map(|d| {
        let flags = [(d.local, " local"), (d.maybe_delivered, " maybe")];
        let flags: String = flags.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
        format!("{}@{}{flags}", d.reply.code, d.stage)
    });
    format!("{}; {}", each.collect::<Vec<_>>().join(", "), if outcome.reusable { "reusable" } else { "spent" })
}

fn done(event: Option<Event>) -> String {
    match event {
        Some(Event::Done(outcome)) => shown(&outcome),
        other => format!("{other:?}"),
    }
}

#[test]
fn capabilities() {
    let client = greeted(
        "PIPELINING 8bitmime SIZE_1000 SMTPUTF8 CHUNKING STARTTLS ENHANCEDSTATUSCODES DSN REQUIRETLS AUTH_PLAIN_login XFOO",
    );
    let expected = Capabilities {
        esmtp: true,
        pipelining: true,
        eight_bit_mime: true,
        size: true,
        size_bytes_max: Some(1000),
        smtputf8: true,
        chunking: true,
        starttls: true,
        enhanced_status_codes: true,
        dsn: true,
        requiretls: true,
        auth: vec!["PLAIN".into(), "LOGIN".into()],
    };
    assert_eq!(client.capabilities(), &expected);
    let client = greeted("SIZE_0");
    assert!(client.capabilities().size && client.capabilities().size_bytes_max.is_none());
    assert_eq!(greeted("SIZE_x").capabilities().size_bytes_max, None);
}

#[test]
fn falls_back_to_helo() {
    let mut client = client();
    hear(&mut client, "220 hi|");
    written(&mut client);
    assert_eq!(hear(&mut client, "502 what|"), None);
    assert_eq!(written(&mut client), "HELO me.test|");
    assert_eq!(hear(&mut client, "250 ok|"), Some(Event::Ready(Capabilities::default())));
}

#[test]
fn greetings_refused() {
    fn check(words: &[&str], expected: Stage) {
        let mut client = client();
        let mut event = None;
        for word in words {
            event = hear(&mut client, word);
            written(&mut client);
        }
        assert!(matches!(event, Some(Event::Refused { stage, .. }) if stage == expected), "{words:?}: {event:?}");
        assert_eq!(client.stage(), Stage::Closed);
    }
    check(&["554 no|"], Stage::Banner);
    check(&["421 busy|"], Stage::Banner);
    check(&["220 hi|", "421 no|"], Stage::Ehlo);
    check(&["220 hi|", "450 no|"], Stage::Ehlo);
    check(&["220 hi|", "500 x|", "500 x|"], Stage::Ehlo);
}

#[test]
fn pipelined_flight() {
    let mut client = greeted("PIPELINING SIZE_1000 8BITMIME");
    begin(&mut client, transaction(&["a@x", "b@x"], "..hé\r\n.\r\nend"));
    assert_eq!(client.stage(), Stage::Mail);
    assert_eq!(
        written(&mut client),
        "MAIL FROM:<from@me.test> SIZE=13 BODY=8BITMIME|RCPT TO:<a@x>|RCPT TO:<b@x>|DATA|"
    );
    assert_eq!(hear(&mut client, "250 ok|250 ok|"), None);
    assert_eq!(client.stage(), Stage::Rcpt);
    assert_eq!(hear(&mut client, "550 5.1.1 no|"), None);
    assert_eq!(client.stage(), Stage::DataInit);
    assert_eq!(hear(&mut client, "354 go|"), None);
    assert_eq!(client.stage(), Stage::DataBlock);
    assert_eq!(written(&mut client), "...hé|..|end|.|");
    assert_eq!(client.stage(), Stage::Dot);
    assert_eq!(done(hear(&mut client, "250 2.0.0 queued|")), "250@data-termination, 550@rcpt; reusable");
    assert_eq!(client.stage(), Stage::Idle);
    client.quit();
    assert_eq!(written(&mut client), "QUIT|");
    assert_eq!(client.stage(), Stage::Quit);
    assert_eq!(hear(&mut client, "221 bye|"), Some(Event::Closed(Closed::Quit)));
}

/// Each line: what the peer says, then what the client writes.
#[test]
fn dialogues() {
    fn check(extensions: &str, lines: &[(&str, &str)], expected: &str) {
        let mut client = greeted(extensions);
        begin(&mut client, transaction(&["a@x", "b@x"], "hi\r\n"));
        written(&mut client);
        let mut event = None;
        for (words, answer) in lines {
            assert_eq!(event, None, "{lines:?}");
            event = hear(&mut client, words);
            assert_eq!(written(&mut client), *answer, "after {words:?} in {lines:?}");
        }
        assert_eq!(done(event), expected, "{lines:?}");
    }
    let (one, all) = ("", "PIPELINING");
    // One at a time.
    check(
        one,
        &[
            ("250 ok|", "RCPT TO:<a@x>|"),
            ("250 ok|", "RCPT TO:<b@x>|"),
            ("250 ok|", "DATA|"),
            ("354 go|", "hi|.|"),
            ("250 ok|", ""),
        ],
        "250@data-termination, 250@data-termination; reusable",
    );
    check(one, &[("550 no|", "")], "550@mail, 550@mail; reusable");
    check(
        one,
        &[("250 ok|", "RCPT TO:<a@x>|"), ("550 no|", "RCPT TO:<b@x>|"), ("450 no|", "")],
        "550@rcpt, 450@rcpt; reusable",
    );
    check(
        one,
        &[("250 ok|", "RCPT TO:<a@x>|"), ("550 no|", "RCPT TO:<b@x>|"), ("250 ok|", "DATA|"), ("451 no|", "")],
        "550@rcpt, 451@data-initiation; reusable",
    );
    // In one flight.
    check(
        all,
        &[("250 ok|250 ok|250 ok|354 go|", "hi|.|"), ("452 full|", "")],
        "452@data-termination, 452@data-termination; reusable",
    );
    check(all, &[("550 no|503 x|503 x|503 x|", "")], "550@mail, 550@mail; reusable");
    check(all, &[("550 no|250 x|250 x|354 go|", ".|"), ("250 ok|", "")], "550@mail, 550@mail; reusable");
    check(all, &[("250 ok|550 no|451 no|554 none|", "")], "550@rcpt, 451@rcpt; reusable");
    check(all, &[("250 ok|550 no|451 no|354 go|", ".|"), ("554 nobody|", "")], "550@rcpt, 451@rcpt; reusable");
    check(all, &[("250 ok|550 no|451 no|354 go|", ".|"), ("250 queued|", "")], "550@rcpt, 451@rcpt; reusable");
    check(all, &[("250 ok|250 ok|550 no|554 no|", "")], "554@data-initiation, 550@rcpt; reusable");
    // The peer closes.
    check(all, &[("421 bye|", "")], "421@mail, 421@mail; spent");
    check(all, &[("250 ok|550 no|421 bye|", "")], "550@rcpt, 421@rcpt; spent");
    check(
        all,
        &[("250 ok|250 ok|250 ok|354 go|", "hi|.|"), ("421 bye|", "")],
        "421@data-termination, 421@data-termination; spent",
    );
    check(
        all,
        &[("250 ok|250 ok|250 ok|354 go|", "hi|.|"), ("250 ok|421 bye|", "")],
        "250@data-termination, 250@data-termination; spent",
    );
    check(all, &[("250 ok|550 no|550 no|354 go|", ".|"), ("421 bye|", "")], "550@rcpt, 550@rcpt; spent");
    // The peer breaks the protocol: never is a reply taken for another's.
    let broken = |stage: &str| format!("451@{stage} local, 451@{stage} local; spent");
    check(one, &[("250 ok|250 ok|", "")], &broken("rcpt"));
    check(one, &[("250 ok|25", "")], "None");
    check(one, &[("354 go|", "")], &broken("mail"));
    check(one, &[("250 ok|421 bye|", "")], "421@rcpt, 421@rcpt; spent");
    check(all, &[("250 ok|250 ok|250 ok|250 ok|", "")], &broken("data-initiation"));
    check(all, &[("250 ok|250 ok|354 go|", "")], &broken("rcpt"));
    check(all, &[("250 ok|250 ok|250 ok|354 go|250 ok|", "")], &broken("data-block"));
    check(all, &[("garbage|", "")], &broken("mail"));
    check(
        all,
        &[("250 ok|250 ok|250 ok|354 go|", "hi|.|"), ("354 again|", "")],
        "451@data-termination local maybe, 451@data-termination local maybe; spent",
    );
    check(
        all,
        &[("250 ok|250 ok|250 ok|354 go|", "hi|.|"), ("\0\0|", "")],
        "451@data-termination local maybe, 451@data-termination local maybe; spent",
    );
    check(
        all,
        &[("250 ok|250 ok|250 ok|354 go|", "hi|.|"), ("250 ok|250 ok|", "")],
        "250@data-termination, 250@data-termination; spent",
    );
    check(all, &[(&"250-x|".repeat(200), "")], &broken("mail"));
}

#[test]
fn rset_clears_an_abandoned_transaction() {
    let mut client = greeted("");
    begin(&mut client, transaction(&["a@x"], "hi\r\n"));
    written(&mut client);
    hear(&mut client, "250 ok|");
    written(&mut client);
    assert_eq!(done(hear(&mut client, "550 no|")), "550@rcpt; reusable");
    begin(&mut client, transaction(&["b@x"], "hi\r\n"));
    assert_eq!((written(&mut client).as_str(), client.stage()), ("RSET|", Stage::Rset));
    assert_eq!(hear(&mut client, "250 ok|"), None);
    assert_eq!(written(&mut client), "MAIL FROM:<from@me.test>|");
    hear(&mut client, "550 no|");
    begin(&mut client, transaction(&["c@x"], "hi\r\n"));
    assert_eq!(written(&mut client), "MAIL FROM:<from@me.test>|");

    let mut client = greeted("PIPELINING");
    begin(&mut client, transaction(&["a@x"], "hi\r\n"));
    written(&mut client);
    assert_eq!(done(hear(&mut client, "250 ok|550 no|554 no|")), "550@rcpt; reusable");
    begin(&mut client, transaction(&["b@x"], "hi\r\n"));
    assert_eq!(written(&mut client), "RSET|MAIL FROM:<from@me.test>|RCPT TO:<b@x>|DATA|");
    assert_eq!(done(hear(&mut client, "500 what|")), "451@rset local; spent");
}

#[test]
fn obstacles_are_found_before_sending() {
    fn check(extensions: &str, change: impl Fn(&mut Transaction), expected: &str) {
        let mut client = greeted(extensions);
        let mut transaction = transaction(&["a@x", "b@x"], "hi\r\n");
        change(&mut transaction);
        let Start::Refused(outcome) = client.start(transaction) else { panic!("sent, not {expected}") };
        let enhanced = outcome.deliveries[0].reply.enhanced.unwrap();
        assert_eq!(format!("{enhanced} {}", shown(&outcome)), expected);
        assert!(client.output().is_empty() && client.stage() == Stage::Idle);
    }
    check("SIZE_3", |_| {}, "5.3.4 552@mail local, 552@mail local; reusable");
    check("", |t| t.body_8bit = true, "5.6.3 554@mail local, 554@mail local; reusable");
    check("", |t| t.smtputf8 = true, "5.6.7 553@mail local, 553@mail local; reusable");
    check("", |t| t.reverse_path = "ü@x".parse().unwrap(), "5.6.7 553@mail local, 553@mail local; reusable");
    check("", |t| t.requiretls = true, "5.7.30 550@mail local, 550@mail local; reusable");
    let utf8 = |t: &mut Transaction| t.recipients.iter_mut().for_each(|r| r.address = "ü@x".parse().unwrap());
    check("", utf8, "5.6.7 553@rcpt local, 553@rcpt local; reusable");
}

#[test]
fn one_obstructed_recipient_does_not_stop_the_rest() {
    let mut client = greeted("PIPELINING");
    begin(&mut client, transaction(&["ü@x", "b@bücher.example"], "hi\r\n"));
    assert_eq!(written(&mut client), "MAIL FROM:<from@me.test>|RCPT TO:<b@xn--bcher-kva.example>|DATA|");
    hear(&mut client, "250 ok|250 ok|354 go|");
    written(&mut client);
    assert_eq!(done(hear(&mut client, "250 ok|")), "553@rcpt local, 250@data-termination; reusable");
}

#[test]
fn options_go_out_when_offered() {
    fn check(extensions: &str, mail: &str, rcpt: &str) {
        let mut client = greeted(&format!("PIPELINING {extensions}"));
        let mut transaction = transaction(&["a@x"], "hi\r\n");
        transaction.reverse_path = ReversePath::Null;
        (transaction.ret, transaction.envid) = (Some(Ret::Headers), Some("a+b\r\nX".into()));
        let notify = Some(Notify::On { success: true, failure: true, delay: false });
        let orcpt = Some(Orcpt { kind: "rfc822".into(), address: "o=p@x".into() });
        transaction.recipients[0].params = RcptParams { notify, orcpt };
        begin(&mut client, transaction);
        assert_eq!(written(&mut client), format!("MAIL FROM:<>{mail}|RCPT TO:<a@x>{rcpt}|DATA|"));
    }
    check("", "", "");
    check("SMTPUTF8 8BITMIME REQUIRETLS", "", "");
    check("SIZE DSN", " SIZE=4 RET=HDRS ENVID=a+2Bb+0D+0AX", " NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;o+3Dp@x");
    let mut client = greeted("PIPELINING SMTPUTF8 REQUIRETLS");
    let mut transaction = transaction(&["ü@x"], "hi\r\n");
    transaction.requiretls = true;
    begin(&mut client, transaction);
    assert_eq!(written(&mut client), "MAIL FROM:<from@me.test> SMTPUTF8 REQUIRETLS|RCPT TO:<ü@x>|DATA|");
}

#[test]
fn lost_connections() {
    fn check(words: &str, write: bool, expected: &str) {
        let mut client = greeted("PIPELINING");
        begin(&mut client, transaction(&["a@x", "b@x"], "hi\r\n"));
        written(&mut client);
        assert_eq!(hear(&mut client, words), None);
        if write {
            written(&mut client);
        }
        assert_eq!(shown(&client.lost(Lost::Disconnected).unwrap()), expected, "{words:?}");
        assert_eq!(client.stage(), Stage::Closed);
        assert_eq!(client.lost(Lost::TimedOut), None);
    }
    check("", true, "421@mail local, 421@mail local; spent");
    check("250 ok|550 no|", true, "550@rcpt, 421@rcpt local; spent");
    check("250 ok|550 no|250 ok|", true, "550@rcpt, 421@data-initiation local; spent");
    check("250 ok|550 no|250 ok|354 go|", false, "550@rcpt, 421@data-block local; spent");
    check("250 ok|550 no|250 ok|354 go|", true, "550@rcpt, 421@data-termination local maybe; spent");
    check("250 ok|550 no|550 no|354 go|", true, "550@rcpt, 550@rcpt; spent");
    assert_eq!(client().lost(Lost::TimedOut), None);
}

/// A message is in doubt only when its last octet was handed out.
#[test]
fn partly_written() {
    let mut client = greeted("PIPELINING");
    begin(&mut client, transaction(&["a@x"], "hi\r\n.\r\n"));
    written(&mut client);
    hear(&mut client, "250 ok|250 ok|354 go|");
    client.wrote("hi\r\n..\r\n.\r".len());
    assert_eq!(client.stage(), Stage::DataBlock);
    client.wrote(1);
    assert_eq!(client.stage(), Stage::Dot);

    let answer = |words: &str| {
        let mut client = greeted("PIPELINING");
        begin(&mut client, transaction(&["a@x"], "hi\r\n"));
        written(&mut client);
        hear(&mut client, "250 ok|250 ok|354 go|");
        client.wrote(2);
        done(hear(&mut client, words))
    };
    assert_eq!(answer("552 too big|"), "552@data-block; spent");
    assert_eq!(answer("250 thanks|"), "451@data-block local; spent");

    let mut client = greeted("PIPELINING");
    begin(&mut client, transaction(&["a@x"], "hi\r\n"));
    assert_eq!(done(hear(&mut client, "250 ok|")), "451@mail local; spent");
    let mut client = greeted("PIPELINING");
    begin(&mut client, transaction(&["a@x"], "hi\r\n"));
    client.wrote("MAIL FROM:<from@me.test>\r\nRCPT".len());
    assert_eq!(hear(&mut client, "250 ok|"), None);
    assert_eq!(done(hear(&mut client, "250 ok|")), "451@rcpt local; spent");
}

#[test]
fn unasked_words_end_an_idle_connection() {
    fn check(words: &str, expected: impl Fn(&Closed) -> bool) {
        let mut client = greeted("PIPELINING");
        let event = hear(&mut client, words);
        assert!(matches!(&event, Some(Event::Closed(closed)) if expected(closed)), "{event:?}");
        let Start::Refused(outcome) = client.start(transaction(&["a@x"], "hi\r\n")) else { panic!("sent") };
        assert_eq!(shown(&outcome), "451@mail local; spent");
    }
    check("421 idle too long|", |closed| matches!(closed, Closed::Unsolicited(reply) if reply.code == 421));
    check("250 ok|", |closed| matches!(closed, Closed::Unsolicited(reply) if reply.code == 250));
    check("x|", |closed| *closed == Closed::Protocol(Violation::Reply(reply::ParseError::Malformed)));
    let mut client = client();
    assert!(matches!(hear(&mut client, "220 hi|250 early|"), Some(Event::Closed(Closed::Unsolicited(_)))));
    let mut client = greeted("");
    assert_eq!(hear(&mut client, "421-half|"), None);
    let Start::Refused(outcome) = client.start(transaction(&["a@x"], "hi\r\n")) else { panic!("sent") };
    assert!(!outcome.reusable, "half a reply is unasked too");
}

#[test]
fn starttls() {
    let mut client = greeted("PIPELINING STARTTLS");
    assert!(client.start_tls());
    assert_eq!((written(&mut client).as_str(), client.stage()), ("STARTTLS|", Stage::StartTls));
    assert_eq!(hear(&mut client, "220 go|"), Some(Event::TlsReady));
    assert!(matches!(client.start(transaction(&["a@x"], "hi\r\n")), Start::Refused(_)));
    client.secured();
    assert_eq!(client.capabilities(), &Capabilities::default());
    assert_eq!((written(&mut client).as_str(), client.stage()), ("EHLO me.test|", Stage::Ehlo));
    assert!(matches!(hear(&mut client, "250-you|250 SIZE 10|"), Some(Event::Ready(_))));
    assert!(!client.start_tls(), "not offered again");

    let mut client = greeted("STARTTLS");
    client.start_tls();
    written(&mut client);
    assert!(matches!(hear(&mut client, "454 later|"), Some(Event::TlsRefused(_))));
    assert_eq!(client.stage(), Stage::Idle);
    client.start_tls();
    written(&mut client);
    let injected = Some(Event::Closed(Closed::Protocol(Violation::Injected)));
    assert_eq!(hear(&mut client, "220 go|250-AUTH|250 X|"), injected);
    let mut client = greeted("STARTTLS");
    client.start_tls();
    written(&mut client);
    assert_eq!(hear(&mut client, "220 go|"), Some(Event::TlsReady));
    assert_eq!(hear(&mut client, "250 X|"), injected);
}

proptest! {
    #[test]
    fn no_peer_makes_it_panic_or_believe(
        words in prop::collection::vec(prop::sample::select(vec!["250 ok|", "250-ok|", "354 go|", "550 no|", "421 bye|", "x|", "2", "|"]), 0..14),
        pipelining in any::<bool>(),
    ) {
        let mut client = greeted(if pipelining { "PIPELINING" } else { "" });
        begin(&mut client, transaction(&["a@x", "b@x"], "hi\r\n"));
        let (mut handed, mut said) = (written(&mut client), String::new());
        for word in words {
            said += word;
            let event = hear(&mut client, word);
            if let Some(Event::Done(outcome)) = event {
                let delivered = outcome.deliveries.iter().any(|d| d.reply.is_positive());
                prop_assert!(!delivered || handed.contains("hi|.|"), "{} after {}", shown(&outcome), said);
                break;
            }
            handed += &written(&mut client);
        }
    }
}
