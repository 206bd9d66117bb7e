//! The parameters of MAIL and RCPT (RFC 1870, 6152, 6531, 3461, 8689).

use super::xtext;
use crate::reply::Reply;

/// Octets an ENVID may have (RFC 3461 section 4.4).
const ENVID_BYTES_MAX: usize = 100;
/// Octets an ORCPT may have (RFC 3461 section 4.2).
const ORCPT_BYTES_MAX: usize = 500;

/// What MAIL FROM declares about the message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MailParams {
    /// SIZE: the sender's estimate of the message (RFC 1870).
    pub size_bytes: Option<u64>,
    /// BODY (RFC 6152, 3030).
    pub body: Option<BodyType>,
    /// SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// REQUIRETLS (RFC 8689).
    pub requiretls: bool,
    /// RET: how much of the message a failure report returns (RFC 3461).
    pub ret: Option<Ret>,
    /// ENVID, xtext decoded: printable ASCII (RFC 3461).
    pub envid: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyType {
    SevenBit,
    EightBitMime,
    BinaryMime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ret {
    Full,
    Headers,
}

/// What RCPT TO declares about one recipient (RFC 3461).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RcptParams {
    pub notify: Option<Notify>,
    pub orcpt: Option<Orcpt>,
}

/// When a delivery report is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notify {
    Never,
    On { success: bool, failure: bool, delay: bool },
}

/// ORCPT: the recipient as first named, xtext decoded: printable ASCII.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orcpt {
    /// Usually `rfc822`; lower case.
    pub kind: String,
    pub address: String,
}

/// Why a parameter is refused.
enum Fault {
    Unknown,
    Value,
}

impl MailParams {
    pub(super) fn parse(text: &str) -> Result<Self, Reply> {
        let mut params = Self::default();
        each(text, |keyword, value| params.set(keyword, value))?;
        Ok(params)
    }

    fn set(&mut self, keyword: &str, value: Option<&str>) -> Result<(), Fault> {
        match (keyword, value) {
            ("SIZE", Some(value)) => self.size_bytes = Some(digits(value)?),
            ("BODY", Some(value)) => self.body = Some(BodyType::parse(value)?),
            ("SMTPUTF8", None) => self.smtputf8 = true,
            ("REQUIRETLS", None) => self.requiretls = true,
            ("RET", Some(value)) => self.ret = Some(Ret::parse(value)?),
            ("ENVID", Some(value)) => self.envid = Some(envid(value)?),
            ("SIZE" | "BODY" | "SMTPUTF8" | "REQUIRETLS" | "RET" | "ENVID", _) => return Err(Fault::Value),
            (_, _) => return Err(Fault::Unknown),
        }
        Ok(())
    }
}

impl RcptParams {
    pub(super) fn parse(text: &str) -> Result<Self, Reply> {
        let mut params = Self::default();
        each(text, |keyword, value| params.set(keyword, value))?;
        Ok(params)
    }

    fn set(&mut self, keyword: &str, value: Option<&str>) -> Result<(), Fault> {
        match (keyword, value) {
            ("NOTIFY", Some(value)) => self.notify = Some(Notify::parse(value)?),
            ("ORCPT", Some(value)) => self.orcpt = Some(Orcpt::parse(value)?),
            ("NOTIFY" | "ORCPT", None) => return Err(Fault::Value),
            (_, _) => return Err(Fault::Unknown),
        }
        Ok(())
    }
}

/// Walks `KEYWORD[=value]` words, upper-casing keywords; a keyword given twice is refused.
fn each<'t>(text: &'t str, mut set: impl FnMut(&str, Option<&'t str>) -> Result<(), Fault>) -> Result<(), Reply> {
    if !text.is_empty() && !text.starts_with(' ') {
        return Err(Reply::new(501, (5, 5, 4), "Parameters must be set off by a space"));
    }
    let mut seen: Vec<String> = Vec::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let (keyword, value) = match word.split_once('=') {
            Some((keyword, value)) => (keyword.to_ascii_uppercase(), Some(value)),
            None => (word.to_ascii_uppercase(), None),
        };
        if seen.contains(&keyword) {
            return Err(Reply::new(501, (5, 5, 4), "Parameter given twice"));
        }
        set(&keyword, value).map_err(|fault| match fault {
            Fault::Unknown => Reply::new(555, (5, 5, 4), "Unsupported parameter"),
            Fault::Value => Reply::new(501, (5, 5, 4), "Bad parameter value"),
        })?;
        seen.push(keyword);
    }
    Ok(())
}

/// Digits alone: no sign, no space, and no more than 64 bits.
pub(super) fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn digits(value: &str) -> Result<u64, Fault> {
    number(value).ok_or(Fault::Value)
}

fn envid(value: &str) -> Result<String, Fault> {
    let sized = (1..=ENVID_BYTES_MAX).contains(&value.len());
    xtext::decode(value).filter(|_| sized).ok_or(Fault::Value)
}

impl BodyType {
    fn parse(value: &str) -> Result<Self, Fault> {
        match value.to_ascii_uppercase().as_str() {
            "7BIT" => Ok(Self::SevenBit),
            "8BITMIME" => Ok(Self::EightBitMime),
            "BINARYMIME" => Ok(Self::BinaryMime),
            _ => Err(Fault::Value),
        }
    }
}

impl Ret {
    fn parse(value: &str) -> Result<Self, Fault> {
        match value.to_ascii_uppercase().as_str() {
            "FULL" => Ok(Self::Full),
            "HDRS" => Ok(Self::Headers),
            _ => Err(Fault::Value),
        }
    }

    /// The word for MAIL FROM.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "FULL",
            Self::Headers => "HDRS",
        }
    }
}

impl Notify {
    fn parse(value: &str) -> Result<Self, Fault> {
        if value.eq_ignore_ascii_case("NEVER") {
            return Ok(Self::Never);
        }
        let (mut success, mut failure, mut delay) = (false, false, false);
        for word in value.split(',') {
            let flag = match word.to_ascii_uppercase().as_str() {
                "SUCCESS" => &mut success,
                "FAILURE" => &mut failure,
                "DELAY" => &mut delay,
                _ => return Err(Fault::Value),
            };
            *flag = true;
        }
        Ok(Self::On { success, failure, delay })
    }

    /// The words for RCPT TO.
    pub fn to_text(self) -> String {
        match self {
            Self::Never => "NEVER".into(),
            Self::On { success, failure, delay } => [(success, "SUCCESS"), (failure, "FAILURE"), (delay, "DELAY")]
                .iter()
                .filter(|(on, _)| *on)
                .map(|(_, word)| *word)
                .collect::<Vec<_>>()
                .join(","),
        }
    }
}

impl Orcpt {
    fn parse(value: &str) -> Result<Self, Fault> {
        let (kind, address) = value.split_once(';').ok_or(Fault::Value)?;
        let is_atom = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if value.len() > ORCPT_BYTES_MAX || !is_atom(kind) || address.is_empty() {
            return Err(Fault::Value);
        }
        let address = xtext::decode(address).ok_or(Fault::Value)?;
        Ok(Self { kind: kind.to_ascii_lowercase(), address })
    }

    /// The value for RCPT TO, in xtext. What cannot stand in a type is left out.
    pub fn to_text(&self) -> String {
        let kind: String = self.kind.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        format!("{kind};{}", xtext::encode(&self.address))
    }
}
