//! The DATA phase at every chunking: what is written is read, and nothing but CRLF.CRLF ends a message.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { size_bytes_max: 200, line_bytes_max: 20 };

/// What sound receivers must not take for the end (hostile-input section 4.1).
const SMUGGLED: [&[u8]; 13] = [
    b"\n.\n",
    b"\n.\r\n",
    b"\n.\r",
    b"\r.\r",
    b"\r.\n",
    b"\r.\r\n",
    b"\r\n.\n",
    b"\r\n.\r",
    b"\r\n.\r\r\n",
    b"\r\r\n.\r\r\n",
    b"\r\n\0.\r\n",
    b"\r\n.\0\r\n",
    b"\r\n\r.\r\n",
];

type Read = Option<(Result<Bytes, Fault>, Vec<u8>)>;

/// Feeds `wire` in pieces of `chunk` octets; gives the result and what was left of the input.
fn read(wire: &[u8], chunk: usize, limits: Limits) -> Read {
    let mut reader = Reader::new(limits, None);
    let mut input = BytesMut::new();
    let mut pieces = wire.chunks(chunk);
    while let Some(piece) = pieces.next() {
        input.extend_from_slice(piece);
        if let Some(result) = reader.advance(&mut input) {
            pieces.for_each(|rest| input.extend_from_slice(rest));
            return Some((result, input.to_vec()));
        }
        assert!(input.len() <= 2, "the reader holds input back: {input:?}");
    }
    None
}

fn stuffed(body: &[u8], endings: LineEndings) -> Result<Vec<u8>, Fault> {
    stuff(&Bytes::copy_from_slice(body), endings).map(|pieces| pieces.concat())
}

#[test]
fn reads() {
    fn check(wire: &[u8], expected: Result<&[u8], Fault>, rest: &[u8]) {
        for chunk in 1..=wire.len() {
            let expected = Some((expected.map(Bytes::copy_from_slice), rest.to_vec()));
            assert_eq!(read(wire, chunk, LIMITS), expected, "{} by {chunk}", wire.escape_ascii());
        }
    }
    check(b".\r\n", Ok(b""), b"");
    check(b".\r\nQUIT\r\n", Ok(b""), b"QUIT\r\n");
    check(b"a\r\n.\r\n.\r\n", Ok(b"a\r\n"), b".\r\n");
    check(b"..\r\n...\r\n.x\r\n\r\n..\r\n.\r\n", Ok(b".\r\n..\r\nx\r\n\r\n.\r\n"), b"");
    check(b"a\nb\r\n.\r\n", Err(Fault::BareLf), b"");
    check(b"a\rb\r\n.\r\n", Err(Fault::BareCr), b"");
    check(b"a\r\r\n.\r\n", Err(Fault::BareCr), b"");
    check(b"a\n\0\r\n.\r\n", Err(Fault::BareLf), b"");
    check(b"a\0\r\n.\r\n", Err(Fault::Nul), b"");
    check(b"12345678901234567890\r\n.\r\n", Ok(b"12345678901234567890\r\n"), b"");
    check(b".12345678901234567890\r\n.\r\n", Ok(b"12345678901234567890\r\n"), b"");
    check(b"123456789012345678901\r\n.\r\n", Err(Fault::LineTooLong), b"");
    check(
        &[&b"1234567\r\n".repeat(22)[..], b"\r\n.\r\n"].concat(),
        Ok(&[&b"1234567\r\n".repeat(22)[..], b"\r\n"].concat()),
        b"",
    );
    check(&[&b"1234567\r\n".repeat(23)[..], b".\r\nX"].concat(), Err(Fault::TooLarge), b"X");
    check(&[&b"1234567\r\n".repeat(23)[..], b"\n\r\n.\r\nX"].concat(), Err(Fault::BareLf), b"X");
}

#[test]
fn only_the_real_end_ends() {
    for eod in SMUGGLED {
        let wire = [b"A", eod, b"MAIL FROM:<evil@x>\r\nRCPT TO:<v@y>\r\nDATA\r\nevil"].concat();
        for chunk in 1..=wire.len() {
            assert_eq!(read(&wire, chunk, LIMITS), None, "{} by {chunk}", eod.escape_ascii());
        }
        let whole = [&wire[..], b"\r\n.\r\nQUIT\r\n"].concat();
        for chunk in 1..=whole.len() {
            let (result, rest) = read(&whole, chunk, LIMITS).expect("the real end ends it");
            assert!(result.is_err(), "{}", eod.escape_ascii());
            assert_eq!(rest, b"QUIT\r\n");
        }
    }
}

/// At the very start of a message too: an early end is one only as `.` CR LF.
#[test]
fn only_the_real_end_ends_at_the_start() {
    for eod in SMUGGLED {
        assert_eq!(read(&[eod, b"NOOP\r\n"].concat(), 1, LIMITS), None, "{}", eod.escape_ascii());
    }
}

#[test]
fn a_faulty_body_takes_no_memory() {
    let mut reader = Reader::new(LIMITS, Some(u64::MAX));
    for _ in 0..1000 {
        assert_eq!(reader.advance(&mut BytesMut::from(&[b'x'; 4096][..])), None);
        assert!(reader.held_bytes() <= LIMITS.size_bytes_max);
    }
    assert_eq!(reader.advance(&mut BytesMut::from("\r\n.\r\n")), Some(Err(Fault::LineTooLong)));
}

#[test]
fn writes() {
    fn check(body: &[u8], refuse: Result<&[u8], Fault>, normalise: &[u8]) {
        assert_eq!(stuffed(body, LineEndings::Refuse), refuse.map(<[u8]>::to_vec), "{}", body.escape_ascii());
        assert_eq!(stuffed(body, LineEndings::Normalise), Ok(normalise.to_vec()), "{}", body.escape_ascii());
    }
    check(b"", Ok(b".\r\n"), b".\r\n");
    check(b"a", Ok(b"a\r\n.\r\n"), b"a\r\n.\r\n");
    check(b"a\r\n", Ok(b"a\r\n.\r\n"), b"a\r\n.\r\n");
    check(b".", Ok(b"..\r\n.\r\n"), b"..\r\n.\r\n");
    check(b".\r\n..\r\nx", Ok(b"..\r\n...\r\nx\r\n.\r\n"), b"..\r\n...\r\nx\r\n.\r\n");
    check(b"a\n.\nb", Err(Fault::BareLf), b"a\r\n..\r\nb\r\n.\r\n");
    check(b"a\r.\r\n", Err(Fault::BareCr), b"a\r\n..\r\n.\r\n");
    check(b"a\r", Err(Fault::BareCr), b"a\r\n.\r\n");
    check(b"a\n", Err(Fault::BareLf), b"a\r\n.\r\n");
    check(b"a\r\r\n.\r\n", Err(Fault::BareCr), b"a\r\n\r\n..\r\n.\r\n");
}

#[test]
fn the_body_is_not_copied() {
    let body = Bytes::from("line\r\n.dot\r\nline\r\n".repeat(100));
    let within = body.as_ptr_range();
    let pieces = stuff(&body, LineEndings::Refuse).unwrap();
    let sliced: usize = pieces.iter().filter(|piece| within.contains(&piece.as_ptr())).map(Bytes::len).sum();
    assert_eq!(sliced, body.len());
}

#[test]
fn absurd_bodies_stay_in_few_pieces() {
    let body = Bytes::from("\n.".repeat(100_000));
    let pieces = stuff(&body, LineEndings::Normalise).unwrap();
    assert!(pieces.len() < 1024 + body.len() / 64 + 8);
    assert_eq!(pieces.concat(), ["\r\n..".repeat(100_000), "\r\n.\r\n".into()].concat().into_bytes());
}

#[test]
fn checks() {
    fn judge(body: &[u8], expected: Result<(), Fault>) {
        assert_eq!(check(body, &LIMITS), expected, "{}", body.escape_ascii());
    }
    judge(b"", Ok(()));
    judge(b"a\r\n.\r\nb", Ok(()));
    judge(b"a\r\n\0", Err(Fault::Nul));
    judge(b"a\r", Err(Fault::BareCr));
    judge(b"a\nb\0", Err(Fault::BareLf));
    judge(&[b'x'; 20], Ok(()));
    judge(&[b'x'; 21], Err(Fault::LineTooLong));
    judge(&b"x\r\n".repeat(67), Err(Fault::TooLarge));
}

/// Bodies made of what matters here.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(vec![
        &b"\r\n"[..],
        b".",
        b"x",
        b"\r",
        b"\n",
        b"\r\n.",
        b".\r\n",
        b"\0",
        b"long line",
        b"\xff",
    ]);
    prop::collection::vec(pieces, 0..30).prop_map(|pieces| pieces.concat())
}

/// The same without loose ends.
fn clean_bodies() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(vec![&b"\r\n"[..], b".", b"x", b"..", b"\r\n.", b".\r\n", b"\xff"]);
    prop::collection::vec(pieces, 0..30).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn reader_undoes_writer(body in clean_bodies()) {
        let wire = stuffed(&body, LineEndings::Refuse).unwrap();
        let mut expected = body;
        if !expected.is_empty() && !expected.ends_with(b"\r\n") {
            expected.extend_from_slice(b"\r\n");
        }
        for chunk in 1..=wire.len() {
            let limits = Limits::default();
            prop_assert_eq!(read(&wire, chunk, limits), Some((Ok(Bytes::from(expected.clone())), vec![])));
        }
    }

    #[test]
    fn chunking_changes_nothing(wire in bodies(), chunk in 1usize..40) {
        prop_assert_eq!(read(&wire, chunk, LIMITS), read(&wire, 1, LIMITS));
    }

    #[test]
    fn normalised_output_is_sound(body in bodies()) {
        let wire = stuffed(&body, LineEndings::Normalise).unwrap();
        let lines = wire.strip_suffix(b".\r\n").unwrap();
        prop_assert!(line_ends(&wire).all(|end| matches!(end, LineEnd::CrLf(_))));
        prop_assert!(lines.is_empty() || lines.ends_with(b"\r\n"));
        prop_assert!(!lines.starts_with(b".\r\n") && !lines.windows(5).any(|w| w == b"\r\n.\r\n"));
    }

    #[test]
    fn check_agrees_with_reader(body in bodies()) {
        let mut wire = body.clone();
        wire.extend_from_slice(b"\r\n.\r\n");
        if let Some((result, rest)) = read(&wire, 7, LIMITS) && rest.is_empty() && !body.contains(&b'.') {
            let whole = [&body[..], b"\r\n"].concat();
            prop_assert_eq!(check(&whole, &LIMITS), result.map(|_| ()));
        }
    }
}
