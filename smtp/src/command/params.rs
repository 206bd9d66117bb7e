//! The parameters of MAIL and RCPT (RFC 1870, 6152, 6531, 3461, 8689).

use crate::reply::Reply;

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

/// ORCPT: the recipient as first named, xtext decoded. Free of control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orcpt {
    /// Usually `rfc822`; lower case.
    pub kind: String,
    pub address: String,
}
