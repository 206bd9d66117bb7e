//! Tables for command lines: what parses, and which reply refuses the rest.

use proptest::prelude::*;

use super::*;
use crate::address::Address;

fn refusal(line: &[u8]) -> String {
    match Command::parse(line) {
        Ok(command) => format!("{command:?}"),
        Err(reply) => format!("{} {}", reply.code, reply.enhanced.expect("every refusal has an enhanced code")),
    }
}

fn mail(path: &str, params: MailParams) -> Command {
    Command::Mail { reverse_path: path.parse().unwrap(), params }
}

fn rcpt(path: &str, params: RcptParams) -> Command {
    Command::Rcpt { forward_path: ForwardPath::Address(Address::parse(path).unwrap()), params }
}

#[test]
fn parses() {
    fn check(line: &str, expected: Command) {
        assert_eq!(Command::parse(line.as_bytes()), Ok(expected), "{line:?}");
    }
    check("EHLO mx.example.com", Command::Ehlo("mx.example.com".into()));
    check("helo [192.0.2.1]", Command::Helo("[192.0.2.1]".into()));
    check("MAIL FROM:<>", mail("", MailParams::default()));
    check("mail from: <a@b>  ", mail("a@b", MailParams::default()));
    check(
        "MAIL FROM:<a@b> size=10 BODY=8bitmime RET=HDRS ENVID=a+2Bb REQUIRETLS",
        mail(
            "a@b",
            MailParams {
                size_bytes: Some(10),
                body: Some(BodyType::EightBitMime),
                ret: Some(Ret::Headers),
                envid: Some("a+b".into()),
                requiretls: true,
                smtputf8: false,
            },
        ),
    );
    check("MAIL FROM:<ü@x> SMTPUTF8", mail("ü@x", MailParams { smtputf8: true, ..MailParams::default() }));
    check("RCPT TO:<a@b>", rcpt("a@b", RcptParams::default()));
    check(
        "RCPT TO:<a@b> NOTIFY=SUCCESS,delay ORCPT=RFC822;x+20y@z",
        rcpt(
            "a@b",
            RcptParams {
                notify: Some(Notify::On { success: true, failure: false, delay: true }),
                orcpt: Some(Orcpt { kind: "rfc822".into(), address: "x y@z".into() }),
            },
        ),
    );
    check("RCPT TO:<a@b> NOTIFY=NEVER", rcpt("a@b", RcptParams { notify: Some(Notify::Never), orcpt: None }));
    check(
        "RCPT TO:<Postmaster>",
        Command::Rcpt { forward_path: ForwardPath::Postmaster, params: RcptParams::default() },
    );
    check("data", Command::Data);
    check("RSET", Command::Rset);
    check("NOOP whatever", Command::Noop);
    check("QUIT ", Command::Quit);
    check("VRFY joe", Command::Vrfy("joe".into()));
    check("EXPN list", Command::Expn("list".into()));
    check("HELP", Command::Help(String::new()));
    check("STARTTLS", Command::StartTls);
    check("AUTH plain AGEAYg==", Command::Auth { mechanism: "PLAIN".into(), initial: Some("AGEAYg==".into()) });
    check("BDAT 10", Command::Bdat { size_bytes: 10, last: false });
    check("bdat 0 last", Command::Bdat { size_bytes: 0, last: true });
    check("XCLIENT ADDR=1.2.3.4", Command::Unimplemented("XCLIENT".into()));
}

#[test]
fn refuses() {
    fn check(line: &[u8], expected: &str) {
        assert_eq!(refusal(line), expected, "{}", line.escape_ascii());
    }
    check(b"", "500 5.5.2");
    check(b"NO\0OP", "500 5.5.2");
    check(b"EHLO \x1b[2J", "500 5.5.2");
    check(b"NOOP\rNOOP", "500 5.5.2");
    check(b"VRFY \xff", "500 5.5.2");
    check(b"FOO bar", "500 5.5.1");
    check(b"EHLO", "501 5.5.4");
    check(b"EHLO a b", "501 5.5.4");
    check("EHLO ü".as_bytes(), "501 5.5.4");
    check(format!("EHLO {}", "a".repeat(256)).as_bytes(), "501 5.5.4");
    check(b"DATA now", "501 5.5.4");
    check(b"MAIL", "501 5.5.4");
    check(b"MAIL <a@b>", "501 5.5.4");
    check(b"MAIL FROM:a@b", "501 5.1.7");
    check(b"MAIL FROM:< a@b>", "501 5.1.7");
    check(b"MAIL FROM:<spam>", "501 5.1.7");
    check(b"MAIL FROM:<;for i in 0 1 2 3;do read r;done;sh;exit 0;>", "501 5.1.7");
    check("MAIL FROM:<ü@x>".as_bytes(), "553 5.6.7");
    check("MAIL FROM:<a@ü>".as_bytes(), "553 5.6.7");
    check(b"MAIL FROM:<\xfc@x>", "553 5.6.7");
    check(b"RCPT TO:<\xfc@x>", "553 5.6.7");
    check(b"MAIL FROM:<a@b>SIZE=1", "501 5.5.4");
    check(b"MAIL FROM:<a@b> SIZE=-1", "501 5.5.4");
    check(b"MAIL FROM:<a@b> SIZE=+1", "501 5.5.4");
    check(b"MAIL FROM:<a@b> SIZE=", "501 5.5.4");
    check(b"MAIL FROM:<a@b> SIZE", "501 5.5.4");
    check(b"MAIL FROM:<a@b> SIZE=99999999999999999999", "501 5.5.4");
    check(b"MAIL FROM:<a@b> SIZE=1 size=1", "501 5.5.4");
    check(b"MAIL FROM:<a@b> BODY=9BIT", "501 5.5.4");
    check(b"MAIL FROM:<a@b> SMTPUTF8=1", "501 5.5.4");
    check(b"MAIL FROM:<a@b> RET=ALL", "501 5.5.4");
    check(b"MAIL FROM:<a@b> ENVID=+0D+0A", "501 5.5.4");
    check(b"MAIL FROM:<a@b> ENVID=+4", "501 5.5.4");
    check(b"MAIL FROM:<a@b> FOO=1", "555 5.5.4");
    check(b"RCPT TO:a@b", "501 5.1.3");
    check(b"RCPT TO:<>", "501 5.1.3");
    check(b"RCPT TO:<third!t>", "501 5.1.3");
    check(b"RCPT TO:<a@b> ORCPT=rfc822;a+0D+0Ab", "501 5.5.4");
    check(b"RCPT TO:<a@b> ORCPT=a@b", "501 5.5.4");
    check(b"RCPT TO:<a@b> NOTIFY=NEVER,SUCCESS", "501 5.5.4");
    check(b"RCPT TO:<a@b> NOTIFY=", "501 5.5.4");
    check(b"RCPT TO:<a@b> SIZE=1", "555 5.5.4");
    check(b"VRFY", "501 5.5.4");
    check(b"BDAT -1", "501 5.5.4");
    check(b"BDAT 1e3", "501 5.5.4");
    check(b"BDAT 18446744073709551616", "501 5.5.4");
    check(b"BDAT 1 FIRST", "501 5.5.4");
    check(b"BDAT", "501 5.5.4");
    check(b"AUTH", "501 5.5.4");
}

#[test]
fn foreign() {
    fn check(line: &[u8], expected: bool) {
        assert_eq!(is_foreign(line), expected, "{}", line.escape_ascii());
    }
    check(b"GET / HTTP/1.1", true);
    check(b"post /x HTTP/1.0", true);
    check(b"CONNECT a:25 HTTP/1.1", true);
    check(b"PRI * HTTP/2.0", true);
    check(b"SSH-2.0-OpenSSH_9", true);
    check(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2", true);
    check(b"\x16\x03\x01\x02\x00", true);
    check(b"\r\n\r\n\0\r\nQUIT\n\x21\x11", true);
    check(b"GETTING", false);
    check(b"NOOP", false);
    check(b"", false);
}

proptest! {
    #[test]
    fn nothing_panics(line in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = Command::parse(&line);
    }

    #[test]
    fn params_never_hold_controls(value in "(\\+[0-9A-F]{2}|[a-z]){0,20}") {
        if let Ok(Command::Mail { params, .. }) = Command::parse(format!("MAIL FROM:<> ENVID={value}").as_bytes()) {
            prop_assert!(params.envid.unwrap().bytes().all(|b| (b' '..=b'~').contains(&b)));
        }
    }
}
