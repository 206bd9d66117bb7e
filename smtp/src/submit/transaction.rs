//! One envelope and message to be sent.

use bytes::Bytes;

use crate::{
    address::{Address, ReversePath},
    command::{RcptParams, Ret},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    pub reverse_path: ReversePath,
    pub recipients: Vec<Recipient>,
    /// The message as it shall arrive. Sliced, never copied; bare CR and LF become CRLF.
    pub body: Bytes,
    /// The body has octets beyond ASCII, so the peer must offer 8BITMIME.
    pub body_8bit: bool,
    /// The header has UTF-8, so the peer must offer SMTPUTF8. Addresses are looked at anyway.
    pub smtputf8: bool,
    /// The peer must offer REQUIRETLS (RFC 8689).
    pub requiretls: bool,
    /// Passed on if the peer offers DSN.
    pub ret: Option<Ret>,
    /// Passed on if the peer offers DSN.
    pub envid: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    pub address: Address,
    /// Passed on if the peer offers DSN.
    pub params: RcptParams,
}

impl Transaction {
    /// A transaction without options; looks the body over for octets beyond ASCII.
    pub fn new(reverse_path: ReversePath, recipients: Vec<Address>, body: Bytes) -> Self {
        let recipients =
            recipients.into_iter().map(|address| Recipient { address, params: RcptParams::default() }).collect();
        let body_8bit = !body.is_ascii();
        Self { reverse_path, recipients, body, body_8bit, smtputf8: false, requiretls: false, ret: None, envid: None }
    }
}
