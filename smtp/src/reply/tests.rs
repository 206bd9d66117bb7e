//! Replies: what is sent cannot inject, what is received cannot exhaust, and the two agree.

use proptest::prelude::*;

use super::*;

fn encoded(reply: &Reply) -> String {
    let mut out = BytesMut::new();
    reply.encode(&mut out);
    String::from_utf8(out.to_vec()).unwrap()
}

fn parsed(input: &[u8]) -> Result<Option<Reply>, ParseError> {
    Parser::default().advance(&mut BytesMut::from(input))
}

#[test]
fn encodes() {
    fn check(reply: Reply, expected: &str) {
        assert_eq!(encoded(&reply), expected);
    }
    check(Reply::plain(220, "mx ESMTP"), "220 mx ESMTP\r\n");
    check(Reply::new(250, (2, 0, 0), "Ok"), "250 2.0.0 Ok\r\n");
    check(Reply::plain(250, "mx").line("SIZE 1").line("DSN"), "250-mx\r\n250-SIZE 1\r\n250 DSN\r\n");
    check(Reply::new(550, (5, 7, 1), "a").line("b"), "550-5.7.1 a\r\n550 5.7.1 b\r\n");
    check(Reply::new(550, (5, 0, 0), "x\r\n250 Ok\0\x1b[2J"), "550 5.0.0 x\\r\\n250 Ok\\u{0}\\u{1b}[2J\r\n");
    check(Reply::plain(550, "grüße"), "550 gr\\u{fc}\\u{df}e\r\n");
    check(Reply { code: 250, enhanced: None, lines: vec![] }, "250 \r\n");
    assert_eq!(encoded(&Reply::plain(250, "a".repeat(2000))).len(), 512);
    assert_eq!(encoded(&Reply::plain(250, "\n".repeat(2000))).len(), 512);
}

#[test]
fn parses() {
    fn check(input: &str, expected: &str, lines: usize) {
        let reply = parsed(input.as_bytes()).unwrap().unwrap();
        assert_eq!((reply.to_string().as_str(), reply.lines.len()), (expected, lines), "{input:?}");
    }
    check("250 Ok\r\n", "250 Ok", 1);
    check("250 Ok\n", "250 Ok", 1);
    check("250\r\n", "250 ", 1);
    check("250-\r\n250\r\n", "250  ", 2);
    check("250 2.1.0 Ok\r\n", "250 2.1.0 Ok", 1);
    check("550-5.1.1 no\r\n550 5.1.1 such user\r\n", "550 5.1.1 no such user", 2);
    check("550-no\r\n550 5.1.1 such user\r\n", "550 5.1.1 no such user", 2);
    check("550 2.1.0 liar\r\n", "550 2.1.0 liar", 1);
    check("550 5.1 x\r\n", "550 5.1 x", 1);
    check("550 a\0b\x1b[1m\rc\r\n", "550 a\\u{0}b\\u{1b}[1m\\rc", 1);
    assert_eq!(parsed(b"550 \xff\r\n").unwrap().unwrap().text(), "\u{fffd}");
    assert_eq!(parsed(b"550 2.1.0 liar\r\n").unwrap().unwrap().enhanced, None);
    assert_eq!(parsed(b"550 5.1.1 x\r\n").unwrap().unwrap().enhanced, Some(Enhanced::new(5, 1, 1)));
}

#[test]
fn refuses() {
    fn check(input: &[u8], expected: ParseError) {
        assert_eq!(parsed(input), Err(expected), "{}", input.escape_ascii());
    }
    check(b"hello\r\n", ParseError::Malformed);
    check(b"\r\n", ParseError::Malformed);
    check(b"25\r\n", ParseError::Malformed);
    check(b"25x a\r\n", ParseError::Malformed);
    check(b"150 a\r\n", ParseError::Malformed);
    check(b"650 a\r\n", ParseError::Malformed);
    check(b"250x\r\n", ParseError::Malformed);
    check(b"2500 x\r\n", ParseError::Malformed);
    check(b"250-a\r\n550 b\r\n", ParseError::CodeChanged);
    check(&[b'2'; 5000], ParseError::LineTooLong { limit: 2048 });
    check(&"250-\r\n".repeat(1000).into_bytes(), ParseError::TooManyLines { limit: 128 });
    check(&format!("250-{}\r\n", "a".repeat(1000)).repeat(100).into_bytes(), ParseError::TooLong { limit: 32768 });
}

#[test]
fn leaves_what_follows() {
    let mut input = BytesMut::from("250-a\r\n250 b\r\n354 go\r\n22");
    let mut parser = Parser::default();
    assert_eq!(parser.advance(&mut input).unwrap().unwrap().text(), "a b");
    assert_eq!(parser.advance(&mut input).unwrap().unwrap().kind(), Kind::Intermediate);
    assert_eq!(parser.advance(&mut input), Ok(None));
    assert_eq!(input, "22");
    assert!(!parser.is_partial());
}

proptest! {
    #[test]
    fn parses_what_it_encodes(code in 200u16..600, lines in proptest::collection::vec("[ -~]{0,40}", 1..5), cut in any::<prop::sample::Index>()) {
        let class = u8::try_from(code / 100).unwrap();
        let sent = Reply { code, enhanced: (class != 3).then(|| Enhanced::new(class, 1, 23)), lines };
        let wire = encoded(&sent);
        let at = cut.index(wire.len());
        let mut parser = Parser::default();
        let mut input = BytesMut::from(&wire.as_bytes()[..at]);
        prop_assert_eq!(parser.advance(&mut input), Ok(None));
        input.extend_from_slice(&wire.as_bytes()[at..]);
        prop_assert_eq!(parser.advance(&mut input), Ok(Some(sent)));
    }

    #[test]
    fn never_injects(code in 200u16..600, lines in proptest::collection::vec("(?s).{0,40}", 1..4)) {
        let wire = encoded(&Reply { code, enhanced: None, lines: lines.clone() });
        prop_assert_eq!(wire.matches('\n').count(), lines.len());
        prop_assert!(wire.split("\r\n").all(|line| line.chars().all(|c| !c.is_control())));
    }

    #[test]
    fn text_is_one_line(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        let mut input = BytesMut::from(&b"550 "[..]);
        input.extend_from_slice(&bytes);
        input.extend_from_slice(b"\r\n");
        if let Ok(Some(reply)) = Parser::default().advance(&mut input) {
            prop_assert!(reply.text().chars().all(|c| !c.is_control()));
        }
    }
}
