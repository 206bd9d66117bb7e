//! One command line, typed, or the reply that refuses it. Knows grammar only: order and policy are the session's.

mod params;
#[cfg(test)]
mod tests;
mod xtext;

use crate::{
    address::{DOMAIN_BYTES_MAX, ForwardPath, ReversePath},
    reply::Reply,
};

pub use params::{BodyType, MailParams, Notify, Orcpt, RcptParams, Ret};
pub use xtext::{decode as xtext_decode, encode as xtext_encode};

/// A command that parsed. The line it came from held no control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The name that the client gives itself: visible ASCII, unverified.
    Ehlo(String),
    Helo(String),
    Mail {
        reverse_path: ReversePath,
        params: MailParams,
    },
    Rcpt {
        forward_path: ForwardPath,
        params: RcptParams,
    },
    Data,
    Rset,
    Noop,
    Quit,
    Vrfy(String),
    Expn(String),
    Help(String),
    StartTls,
    Auth {
        mechanism: String,
        initial: Option<String>,
    },
    /// The chunk follows the line at once: whoever refuses this must still skip `size_bytes` (RFC 3030).
    Bdat {
        size_bytes: u64,
        last: bool,
    },
    /// A command that exists somewhere but not here (ETRN, XCLIENT, TURN ...), by its verb in upper case.
    Unimplemented(String),
}

impl Command {
    /// Takes a line without its CRLF. The error is the reply to send: 500 5.5.2 for what is no text, 500 5.5.1 for an unknown
    /// verb, 501 5.5.4 for bad arguments, 501 5.1.7 or 5.1.3 for a bad path, 553 5.6.7 for UTF-8 without SMTPUTF8,
    /// 555 5.5.4 for an unknown parameter.
    pub fn parse(line: &[u8]) -> Result<Self, Reply> {
        let text = text(line)?.trim_end_matches(' ');
        let (verb, argument) = match text.split_once(' ') {
            Some((verb, argument)) => (verb.to_ascii_uppercase(), argument.trim_start_matches(' ')),
            None => (text.to_ascii_uppercase(), ""),
        };
        match verb.as_str() {
            "EHLO" => client_name(argument).map(Self::Ehlo),
            "HELO" => client_name(argument).map(Self::Helo),
            "MAIL" => mail(argument),
            "RCPT" => rcpt(argument),
            "DATA" => bare(argument, Self::Data),
            "RSET" => bare(argument, Self::Rset),
            "NOOP" => Ok(Self::Noop),
            "QUIT" => bare(argument, Self::Quit),
            "VRFY" => named(argument).map(Self::Vrfy),
            "EXPN" => named(argument).map(Self::Expn),
            "HELP" => Ok(Self::Help(argument.to_owned())),
            "STARTTLS" => bare(argument, Self::StartTls),
            "AUTH" => auth(argument),
            "BDAT" => bdat(argument),
            verb if UNIMPLEMENTED.contains(&verb) => Ok(Self::Unimplemented(verb.to_owned())),
            _ => Err(Reply::new(500, (5, 5, 1), "Command unrecognized")),
        }
    }
}

/// Known from other servers and other times.
const UNIMPLEMENTED: [&str; 10] =
    ["LHLO", "ETRN", "ATRN", "TURN", "BURL", "SEND", "SOML", "SAML", "XCLIENT", "XFORWARD"];

/// True when a line is another protocol's opening (HTTP, TLS, SSH, PROXY): nothing good follows, close.
/// Judges a beginning too, since a TLS ClientHello need not hold a line's end.
pub fn is_foreign(line: &[u8]) -> bool {
    const VERBS: [&[u8]; 11] = [
        b"GET ",
        b"POST ",
        b"PUT ",
        b"HEAD ",
        b"DELETE ",
        b"OPTIONS ",
        b"CONNECT ",
        b"PATCH ",
        b"TRACE ",
        b"PRI ",
        b"PROXY ",
    ];
    const TLS_HANDSHAKE: &[u8] = &[0x16, 3];
    const PROXY_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    line.starts_with(b"SSH-")
        || line.starts_with(TLS_HANDSHAKE)
        || line.starts_with(PROXY_V2)
        || VERBS.iter().any(|verb| line.get(..verb.len()).is_some_and(|head| head.eq_ignore_ascii_case(verb)))
}

/// The line as text without any control character.
fn text(line: &[u8]) -> Result<&str, Reply> {
    let Ok(text) = std::str::from_utf8(line) else {
        return Err(match line.get(..5).map(<[u8]>::to_ascii_uppercase).as_deref() {
            Some(b"MAIL " | b"RCPT ") => Reply::new(553, (5, 6, 7), "Address is not UTF-8"),
            Some(_) | None => Reply::new(500, (5, 5, 2), "Command is not text"),
        });
    };
    match text.chars().any(char::is_control) {
        true => Err(Reply::new(500, (5, 5, 2), "Command contains control characters")),
        false if text.is_empty() => Err(Reply::new(500, (5, 5, 2), "Command is empty")),
        false => Ok(text),
    }
}

fn bad_argument(text: &str) -> Reply {
    Reply::new(501, (5, 5, 4), text)
}

fn bare(argument: &str, command: Command) -> Result<Command, Reply> {
    if argument.is_empty() { Ok(command) } else { Err(bad_argument("Command takes no argument")) }
}

fn named(argument: &str) -> Result<String, Reply> {
    if argument.is_empty() { Err(bad_argument("Command needs an argument")) } else { Ok(argument.to_owned()) }
}

/// Any visible ASCII: names in the wild are seldom proper, and must not be refused for that (RFC 5321 section 4.1.4).
fn client_name(argument: &str) -> Result<String, Reply> {
    let visible = argument.bytes().all(|b| b.is_ascii_graphic());
    if argument.is_empty() || !visible || argument.len() > DOMAIN_BYTES_MAX {
        return Err(bad_argument("A host name or an address literal, please"));
    }
    Ok(argument.to_owned())
}

fn mail(argument: &str) -> Result<Command, Reply> {
    let path = after(argument, "FROM:").ok_or_else(|| bad_argument("Syntax: MAIL FROM:<address>"))?;
    let (reverse_path, rest) =
        ReversePath::take(path).map_err(|error| Reply::new(501, (5, 1, 7), format!("Bad sender address: {error}")))?;
    let params = MailParams::parse(rest)?;
    if !path.is_ascii() && !params.smtputf8 {
        return Err(utf8_refused());
    }
    Ok(Command::Mail { reverse_path, params })
}

fn rcpt(argument: &str) -> Result<Command, Reply> {
    let path = after(argument, "TO:").ok_or_else(|| bad_argument("Syntax: RCPT TO:<address>"))?;
    let (forward_path, rest) = ForwardPath::take(path)
        .map_err(|error| Reply::new(501, (5, 1, 3), format!("Bad recipient address: {error}")))?;
    let params = RcptParams::parse(rest)?;
    Ok(Command::Rcpt { forward_path, params })
}

/// RFC 6531 section 3.5.
pub(crate) fn utf8_refused() -> Reply {
    Reply::new(553, (5, 6, 7), "Address beyond ASCII needs SMTPUTF8")
}

/// What follows `FROM:` or `TO:`. Spaces before the path are against the grammar and common.
fn after<'t>(argument: &'t str, prefix: &str) -> Option<&'t str> {
    let (head, path) = argument.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| path.trim_start_matches(' '))
}

fn auth(argument: &str) -> Result<Command, Reply> {
    let mut words = argument.split(' ').filter(|word| !word.is_empty()).map(str::to_owned);
    match (words.next(), words.next(), words.next()) {
        (Some(mechanism), initial, None) => Ok(Command::Auth { mechanism: mechanism.to_ascii_uppercase(), initial }),
        (_, _, _) => Err(bad_argument("Syntax: AUTH mechanism [initial-response]")),
    }
}

fn bdat(argument: &str) -> Result<Command, Reply> {
    let (size, last) = match argument.split_once(' ') {
        Some((size, word)) => (size, word.trim_start_matches(' ').eq_ignore_ascii_case("LAST").then_some(true)),
        None => (argument, Some(false)),
    };
    match (params::number(size), last) {
        (Some(size_bytes), Some(last)) => Ok(Command::Bdat { size_bytes, last }),
        (_, _) => Err(bad_argument("Syntax: BDAT octets [LAST]")),
    }
}
