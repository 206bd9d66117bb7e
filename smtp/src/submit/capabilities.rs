//! What a peer offers in its EHLO reply.

use crate::reply::Reply;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// False after falling back to HELO.
    pub esmtp: bool,
    pub pipelining: bool,
    pub eight_bit_mime: bool,
    /// SIZE was offered.
    pub size: bool,
    /// The largest message, if SIZE named one.
    pub size_bytes_max: Option<u64>,
    pub smtputf8: bool,
    pub chunking: bool,
    pub starttls: bool,
    pub enhanced_status_codes: bool,
    pub dsn: bool,
    pub requiretls: bool,
    /// AUTH mechanisms, in upper case.
    pub auth: Vec<String>,
}

impl Capabilities {
    /// Reads a positive EHLO reply; its first line is the greeting.
    pub fn parse(reply: &Reply) -> Self {
        todo!()
    }
}
