//! Makes a message of a request's content: line ends, header fields, MIME parts. Pure.

use super::request::{Attachment, Content, Mailbox, Parts, Recipient};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use mail_builder::MessageBuilder;
use mail_builder::headers::address::Address;
use mail_builder::headers::raw::Raw;
use mail_builder::mime::MimePart;

/// A field that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {what}")]
pub struct Invalid {
    pub field: String,
    pub what: &'static str,
}

fn invalid(field: impl Into<String>, what: &'static str) -> Invalid {
    Invalid { field: field.into(), what }
}

/// Content that was checked: what is left to be wrong is in the recipients.
#[derive(Debug)]
pub enum Source<'c> {
    /// The same for all, and copied for none.
    Whole(Bytes),
    Parts(&'c Parts),
}

impl<'c> Source<'c> {
    /// # Errors
    /// The field that could end its header field early, or that is not what it says.
    pub fn new(content: &'c Content) -> Result<Self, Invalid> {
        match content {
            Content::Whole(text) => crlf(Bytes::copy_from_slice(text.as_bytes()))
                .map(Self::Whole)
                .ok_or(invalid("content", "mixes CRLF with bare CR or LF, or holds a NUL")),
            Content::Parts(parts) => check(parts).map(|()| Self::Parts(parts)),
        }
    }

    /// # Errors
    /// A field of the recipient that would end its header field early.
    pub fn check_recipient(&self, recipient: &Recipient) -> Result<(), Invalid> {
        match self {
            Self::Whole(_) => Ok(()),
            Self::Parts(_) => {
                plain("recipients.email", Some(&recipient.email))?;
                plain("recipients.name", recipient.name.as_deref())
            }
        }
    }

    /// The message for one recipient: header and body with CRLF line ends.
    ///
    /// # Errors
    /// As [`Source::check_recipient`]; an attachment that is not base64.
    pub fn message(&self, recipient: &Recipient) -> Result<Bytes, Invalid> {
        self.check_recipient(recipient)?;
        match self {
            Self::Whole(text) => Ok(text.clone()),
            Self::Parts(parts) => from_parts(parts, recipient),
        }
    }
}

/// Whether the content of a request uses what needs a template engine.
pub fn is_template(content: &Content) -> bool {
    let marked = |text: &str| text.contains("{{") || text.contains("{%");
    match content {
        Content::Whole(text) => marked(text),
        Content::Parts(parts) => [&parts.text_body, &parts.html_body, &parts.amp_html_body, &parts.subject]
            .into_iter()
            .flatten()
            .chain(parts.headers.values())
            .any(|text| marked(text)),
    }
}

/// Text whose line ends are all CRLF, or all LF and then made CRLF; `None` where they are mixed or a CR stands alone.
pub fn crlf(text: Bytes) -> Option<Bytes> {
    let lines = memchr::memchr_iter(b'\n', &text).count();
    let returns = memchr::memchr_iter(b'\r', &text).count();
    let pairs = memchr::memmem::find_iter(&text, b"\r\n").count();
    if memchr::memchr(0, &text).is_some() || returns != pairs {
        return None;
    }
    if lines == pairs {
        return Some(text);
    }
    if pairs > 0 {
        return None;
    }
    let mut whole = Vec::with_capacity(text.len() + lines);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        whole.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
        if line.ends_with(b"\n") {
            whole.extend_from_slice(b"\r\n");
        }
    }
    Some(whole.into())
}

fn from_parts(parts: &Parts, recipient: &Recipient) -> Result<Bytes, Invalid> {
    let mut message = MessageBuilder::new();
    if let Some(from) = &parts.from {
        message = message.from(address(from));
    }
    if let Some(reply_to) = &parts.reply_to {
        message = message.reply_to(address(reply_to));
    }
    if !has(parts, "To") {
        message = message.to(Address::new_address(recipient.name.as_deref(), recipient.email.as_str()));
    }
    if let Some(subject) = &parts.subject {
        message = message.subject(subject.as_str());
    }
    for (name, value) in &parts.headers {
        message = message.header(name.as_str(), Raw::new(value.as_str()));
    }
    let body = body(parts)?;
    message.body(body).write_to_vec().map(Bytes::from).map_err(|_| invalid("content", "cannot be written"))
}

fn has(parts: &Parts, name: &str) -> bool {
    parts.headers.keys().any(|known| known.eq_ignore_ascii_case(name))
}

fn address(mailbox: &Mailbox) -> Address<'_> {
    Address::new_address(mailbox.name.as_deref(), mailbox.email.as_str())
}

/// Text, HTML and AMP are alternatives of each other; attachments stand beside them.
fn body(parts: &Parts) -> Result<MimePart<'_>, Invalid> {
    let texts =
        [("text/plain", &parts.text_body), ("text/x-amp-html", &parts.amp_html_body), ("text/html", &parts.html_body)];
    let given = texts.into_iter().filter_map(|(kind, text)| Some(MimePart::new(kind, text.as_deref()?)));
    let mut alternatives: Vec<_> = given.collect();
    let text = match alternatives.len() {
        0 => MimePart::new("text/plain", ""),
        1 => alternatives.remove(0),
        _ => MimePart::new("multipart/alternative", alternatives),
    };
    if parts.attachments.is_empty() {
        return Ok(text);
    }
    let mut mixed = vec![text];
    for (place, attachment) in parts.attachments.iter().enumerate() {
        mixed.push(attached(attachment, place)?);
    }
    Ok(MimePart::new("multipart/mixed", mixed))
}

fn attached(attachment: &Attachment, place: usize) -> Result<MimePart<'_>, Invalid> {
    let data = if attachment.base64 {
        STANDARD
            .decode(&attachment.data)
            .map_err(|_| invalid(format!("content.attachments[{place}].data"), "is not base64"))?
    } else {
        attachment.data.clone().into_bytes()
    };
    let mut part = MimePart::new(attachment.content_type.as_str(), data);
    if let Some(id) = &attachment.content_id {
        part = part.inline().cid(id.as_str());
    }
    Ok(match &attachment.file_name {
        Some(name) if attachment.content_id.is_none() => part.attachment(name.as_str()),
        Some(_) | None => part,
    })
}

/// Nothing that goes into a header field may end it.
fn check(parts: &Parts) -> Result<(), Invalid> {
    plain("content.subject", parts.subject.as_deref())?;
    check_mailbox("content.from", parts.from.as_ref())?;
    check_mailbox("content.reply_to", parts.reply_to.as_ref())?;
    for (name, value) in &parts.headers {
        plain(format!("content.headers.{name}"), Some(value))?;
    }
    for (place, attachment) in parts.attachments.iter().enumerate() {
        let key = |name: &str| format!("content.attachments[{place}].{name}");
        plain(key("content_type"), Some(&attachment.content_type))?;
        plain(key("content_id"), attachment.content_id.as_deref())?;
        plain(key("file_name"), attachment.file_name.as_deref())?;
        if attachment.content_type.trim_start().to_ascii_lowercase().starts_with("multipart/") {
            return Err(invalid(key("content_type"), "has parts of its own, which an attachment cannot have"));
        }
        if attachment.content_id.as_ref().is_some_and(|id| id.contains(['<', '>', ' '])) {
            return Err(invalid(key("content_id"), "holds a space or an angle bracket"));
        }
    }
    check_names(parts)
}

fn plain(field: impl Into<String>, text: Option<&str>) -> Result<(), Invalid> {
    match text.is_some_and(|text| text.chars().any(char::is_control)) {
        true => Err(invalid(field, "holds a control character")),
        false => Ok(()),
    }
}

/// One address, and not a list of them.
fn check_mailbox(field: &str, mailbox: Option<&Mailbox>) -> Result<(), Invalid> {
    let Some(mailbox) = mailbox else { return Ok(()) };
    plain(format!("{field}.name"), mailbox.name.as_deref())?;
    plain(format!("{field}.email"), Some(&mailbox.email))?;
    match godwit_smtp::Address::parse(&mailbox.email) {
        Ok(_) => Ok(()),
        Err(_) => Err(invalid(format!("{field}.email"), "is no address")),
    }
}

/// RFC 5322 section 2.2: printable characters without the colon. Section 3.6: no field that is written already, which
/// readers would take now from the one and now from the other.
fn check_names(parts: &Parts) -> Result<(), Invalid> {
    let written = [
        ("Content-Type", true),
        ("Content-Transfer-Encoding", true),
        ("MIME-Version", true),
        ("From", parts.from.is_some()),
        ("Reply-To", parts.reply_to.is_some()),
        ("Subject", parts.subject.is_some()),
    ];
    if let Some((name, _)) = written.into_iter().find(|(name, written)| *written && has(parts, name)) {
        return Err(invalid(format!("content.headers.{name}"), "is written already"));
    }
    for name in parts.headers.keys() {
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':') {
            return Err(invalid("content.headers", "a field's name may hold printable characters but no colon"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipient() -> Recipient {
        serde_json::from_str(r#"{"email": "b@example.net", "name": "B"}"#).unwrap()
    }

    fn built(content: &str) -> Result<String, String> {
        let content: Content = serde_json::from_str(content).unwrap();
        Source::new(&content)
            .and_then(|source| source.message(&recipient()))
            .map(|b| String::from_utf8(b.to_vec()).unwrap())
            .map_err(|invalid| invalid.field)
    }

    #[test]
    fn line_ends() {
        let check = |text: &'static str, expected: Option<&'static str>| {
            assert_eq!(
                crlf(Bytes::from_static(text.as_bytes())),
                expected.map(|text| Bytes::from_static(text.as_bytes())),
                "{text:?}"
            );
        };
        check("a\r\n\r\nb", Some("a\r\n\r\nb"));
        check("a\n\nb", Some("a\r\n\r\nb"));
        check("a\r\nb\n.\n", None);
        check("a\rb", None);
        check("a\0b", None);
        check("\n\r", None);
    }

    #[test]
    fn parts_become_a_message() {
        let message = built(
            r#"{"subject": "Grüße", "from": {"email": "a@example.com", "name": "A"}, "text_body": "t", "html_body": "<p>h</p>",
                "headers": {"X-One": "1"}, "attachments": [{"data": "aGk=", "base64": true, "content_type": "text/plain", "file_name": "f.txt"}]}"#,
        )
        .unwrap();
        for expected in [
            "From: \"A\" <a@example.com>",
            "To: \"B\" <b@example.net>",
            "X-One: 1",
            "multipart/mixed",
            "multipart/alternative",
            "f.txt",
            "Message-ID: ",
            "Date: ",
        ] {
            assert!(message.contains(expected), "{expected} is not in\n{message}");
        }
        assert!(
            crlf(message.clone().into_bytes().into()).is_some_and(|whole| whole.len() == message.len()),
            "{message:?}"
        );
    }

    #[test]
    fn nothing_ends_a_header_field_early() {
        let check = |content: &str, field: &str| assert_eq!(built(content), Err(field.to_string()), "{content}");
        check(r#"{"subject": "x\r\nBcc: v@y"}"#, "content.subject");
        check(r#"{"from": {"email": "a@b.c", "name": "n\"\r\n"}}"#, "content.from.name");
        check(r#"{"from": {"email": "a@b>, <c@d"}}"#, "content.from.email");
        check(r#"{"headers": {"X\r\nBcc": "v@y"}}"#, "content.headers");
        check(r#"{"headers": {"content-type": "text/html"}}"#, "content.headers.Content-Type");
        check(r#"{"headers": {"FROM": "c@d"}, "from": {"email": "a@b.c"}}"#, "content.headers.From");
        check(
            r#"{"attachments": [{"data": "", "content_type": "multipart/mixed"}]}"#,
            "content.attachments[0].content_type",
        );
        check(
            r#"{"attachments": [{"data": "", "content_type": "a/b", "content_id": "<a> b"}]}"#,
            "content.attachments[0].content_id",
        );
        check(r#"{"headers": {"X": "1\r\nBcc: v@y"}}"#, "content.headers.X");
        check(
            r#"{"attachments": [{"data": "", "content_type": "text/plain\r\nX: y"}]}"#,
            "content.attachments[0].content_type",
        );
        check(
            r#"{"attachments": [{"data": "?", "base64": true, "content_type": "text/plain"}]}"#,
            "content.attachments[0].data",
        );
        check(r#""Subject: x\r\n\r\na\nb""#, "content");
    }
}
