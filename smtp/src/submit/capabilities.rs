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
        let mut offered = Self { esmtp: true, ..Self::default() };
        for line in reply.lines.iter().skip(1) {
            let line = line.to_ascii_uppercase();
            let mut words = line.split([' ', '=']).filter(|word| !word.is_empty());
            match words.next().unwrap_or_default() {
                "PIPELINING" => offered.pipelining = true,
                "8BITMIME" => offered.eight_bit_mime = true,
                "SIZE" => {
                    offered.size = true;
                    // Zero means no fixed maximum (RFC 1870 section 4).
                    offered.size_bytes_max = words.next().and_then(|size| size.parse().ok()).filter(|size| *size > 0);
                }
                "SMTPUTF8" => offered.smtputf8 = true,
                "CHUNKING" => offered.chunking = true,
                "STARTTLS" => offered.starttls = true,
                "ENHANCEDSTATUSCODES" => offered.enhanced_status_codes = true,
                "DSN" => offered.dsn = true,
                "REQUIRETLS" => offered.requiretls = true,
                "AUTH" => offered.auth.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        offered
    }
}
