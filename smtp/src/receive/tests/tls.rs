//! STARTTLS: who is told what when, and that nothing said in the clear outlives the handshake.

use super::*;

impl Driver {
    fn with(tls: Tls) -> Self {
        Self::new(Config { tls, ..config() })
    }

    /// The client and the driver have done the handshake.
    fn shake(&mut self) {
        assert!(std::mem::take(&mut self.shaking), "a handshake is due");
        assert_eq!(self.session.phase(), Phase::Handshake);
        self.session.secured();
        self.said.clear();
        self.run();
    }

    fn offers_starttls(&mut self) -> bool {
        self.say("EHLO client\r\n");
        self.said.lines().any(|line| line.ends_with("STARTTLS"))
    }
}

#[test]
fn starttls_is_offered_where_it_can_be_done() {
    fn check(tls: Tls, offered: bool, in_tls: bool, expected: &str) {
        let mut driver = Driver::with(tls);
        assert_eq!(driver.offers_starttls(), offered, "{tls:?}");
        assert_eq!(driver.say("STARTTLS\r\n"), expected, "{tls:?}");
        assert_eq!(driver.shaking, in_tls, "{tls:?}");
    }
    check(Tls::Absent, false, false, "502 5.5.1");
    check(Tls::Offered, true, true, "220 2.0.0");
    check(Tls::Required, true, true, "220 2.0.0");
    check(Tls::Implicit, false, false, "503 5.5.1");
}

/// Each line is said on its own to a greeted session; `TLS` is the handshake.
#[test]
fn dialogues() {
    fn check(tls: Tls, lines: &[(&str, &str)]) {
        let mut driver = Driver::with(tls);
        driver.say("EHLO client\r\n");
        for (line, expected) in lines {
            match *line {
                "TLS" => driver.shake(),
                line => assert_eq!(driver.say(format!("{line}\r\n")), *expected, "{line} in {lines:?}, {tls:?}"),
            }
        }
    }
    let secured = [("STARTTLS", "220 2.0.0"), ("TLS", "")];
    let after = |lines: &[(&'static str, &'static str)]| [&secured[..], lines].concat();
    for tls in [Tls::Offered, Tls::Required] {
        // It must greet anew.
        check(tls, &after(&[("MAIL FROM:<a@b>", "503 5.5.1"), ("EHLO x", "250"), ("MAIL FROM:<a@b>", "250 2.1.0")]));
        check(tls, &after(&[("RCPT TO:<c@d>", "503 5.5.1"), ("DATA", "503 5.5.1"), ("NOOP", "250 2.0.0")]));
        check(tls, &after(&[("STARTTLS", "503 5.5.1"), ("EHLO x", "250"), ("STARTTLS", "503 5.5.1")]));
        check(tls, &[("STARTTLS now", "501 5.5.4"), ("STARTTLS", "220 2.0.0")]);
    }
    check(Tls::Offered, &[("MAIL FROM:<a@b>", "250 2.1.0"), ("STARTTLS", "503 5.5.1"), ("RCPT TO:<c@d>", "250 2.1.5")]);
    check(Tls::Offered, &[("MAIL FROM:<a@b>", "250 2.1.0"), ("RSET", "250 2.0.0"), ("STARTTLS", "220 2.0.0")]);
    check(Tls::Implicit, &[("STARTTLS", "503 5.5.1"), ("MAIL FROM:<a@b>", "250 2.1.0")]);
    let required = |lines: &[(&str, &str)]| check(Tls::Required, lines);
    required(&[("MAIL FROM:<a@b>", "530 5.7.0"), ("RCPT TO:<c@d>", "530 5.7.0"), ("DATA", "530 5.7.0")]);
    required(&[("VRFY x", "530 5.7.0"), ("RSET", "530 5.7.0"), ("AUTH PLAIN x", "530 5.7.0"), ("HELO x", "530 5.7.0")]);
    required(&[("NOOP", "250 2.0.0"), ("EHLO x", "250"), ("MAIL FROM:<", "501 5.1.7"), ("QUIT", "221 2.0.0")]);
    required(&[("BDAT 12 LAST\r\nMAIL FROM:<>NOOP", "502 5.5.1; 250 2.0.0"), ("STARTTLS", "220 2.0.0")]);
}

#[test]
fn what_was_pipelined_in_the_clear_is_neither_answered_nor_kept() {
    for injected in
        ["NOOP\r\n", "RSET\r\n", "EHLO evil\r\nMAIL FROM:<evil@x>\r\n", "NOOP ", "QUIT\r\n", &"x".repeat(2000)]
    {
        let mut driver = Driver::with(Tls::Offered);
        assert_eq!(driver.say(format!("EHLO client\r\nSTARTTLS\r\n{injected}")), "250; 220 2.0.0", "{injected:?}");
        // What comes before the handshake is as lost.
        assert_eq!(driver.say(injected), "", "{injected:?}");
        driver.shake();
        assert_eq!(driver.said, "", "{injected:?}");
        assert_eq!(driver.say("RCPT TO:<v@y>\r\nMAIL FROM:<a@b>\r\n"), "503 5.5.1; 503 5.5.1", "{injected:?}");
        assert_eq!(driver.say("EHLO client\r\nMAIL FROM:<a@b>\r\n"), "250; 250 2.1.0", "{injected:?}");
    }
}

#[test]
fn requiretls_is_offered_within_tls_only() {
    let extensions = Extensions { requiretls: true, ..Extensions::default() };
    let mut driver = Driver::new(Config { extensions, tls: Tls::Offered, ..config() });
    driver.say("EHLO client\r\n");
    assert!(!driver.said.contains("REQUIRETLS"), "{}", driver.said);
    assert_eq!(driver.say("MAIL FROM:<a@b> REQUIRETLS\r\nSTARTTLS\r\n"), "555 5.5.4; 220 2.0.0");
    driver.shake();
    driver.say("EHLO client\r\n");
    assert!(driver.said.contains("REQUIRETLS"), "{}", driver.said);
    assert_eq!(driver.say("MAIL FROM:<a@b> REQUIRETLS\r\n"), "250 2.1.0");
}

#[test]
fn a_message_within_tls_names_the_client_as_it_is_now() {
    let mut driver = Driver::with(Tls::Offered);
    driver.say("EHLO before\r\nSTARTTLS\r\n");
    driver.shake();
    driver.say("EHLO after\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n");
    assert_eq!(driver.say("x\r\n.\r\n"), "250 2.0.0");
    assert_eq!(driver.kept[0].helo.name, "after");
}

#[test]
fn refusals_are_not_forgiven_by_tls() {
    let mut driver = Driver::with(Tls::Offered);
    assert_eq!(driver.say("FOO\r\n".repeat(5)), ["500 5.5.1"; 5].join("; "));
    driver.say("STARTTLS\r\n");
    driver.shake();
    assert_eq!(driver.say("FOO\r\n"), "421 4.7.0");
    assert!(driver.closed);
}

#[test]
fn a_stop_is_said_before_and_after_the_handshake() {
    let mut driver = Driver::with(Tls::Offered);
    driver.session.shutdown();
    assert_eq!(driver.say("STARTTLS\r\n"), "421 4.3.2");
    assert!(driver.closed && !driver.shaking);
    let mut driver = Driver::with(Tls::Offered);
    driver.say("STARTTLS\r\n");
    driver.session.shutdown();
    driver.shake();
    assert_eq!(driver.say("EHLO client\r\n"), "421 4.3.2");
}

#[test]
fn a_handshake_that_was_not_asked_for_changes_nothing() {
    let mut driver = Driver::with(Tls::Offered);
    assert!(driver.offers_starttls());
    driver.session.secured();
    assert_eq!(driver.say("MAIL FROM:<a@b>\r\n"), "250 2.1.0");
    driver.say("RSET\r\n");
    assert!(driver.offers_starttls());
}

#[test]
fn a_client_that_was_turned_away_gets_no_tls() {
    let mut session = Session::new(Config { tls: Tls::Offered, ..config() });
    let mut input = BytesMut::from("STARTTLS\r\nQUIT\r\n");
    session.advance(&mut input);
    session.answer(Reply::new(554, (5, 7, 1), "Go away"));
    assert_eq!(session.advance(&mut input), Step::Close);
    assert_eq!(codes(std::str::from_utf8(session.output()).unwrap()), "554; 503 5.5.1; 221 2.0.0");
}
