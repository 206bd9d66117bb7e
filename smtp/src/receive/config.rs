//! A session's limits and what it offers.

use crate::data;

/// Shared by all sessions of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The name in banner and EHLO reply, and the domain of `<postmaster>`.
    pub hostname: String,
    /// What follows the host name in the banner.
    pub banner: String,
    /// The largest message; offered as SIZE.
    pub size_bytes_max: usize,
    /// The longest line of a message, without CRLF.
    pub data_line_bytes_max: usize,
    /// The longest command line, with CRLF. RFC 5321 asks for 512 and more with extensions.
    pub line_bytes_max: usize,
    pub recipients_max: usize,
    /// Messages a connection may bring before it is asked to come again.
    pub messages_max: usize,
    /// Commands refused for good before the connection is closed; a message accepted forgives them.
    pub errors_max: usize,
    /// NOOP, RSET, VRFY and the like, and commands put off, before the connection is closed; a message accepted forgives them.
    pub idles_max: usize,
    pub extensions: Extensions,
    pub tls: Tls,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hostname: "localhost".into(),
            banner: "ESMTP".into(),
            size_bytes_max: data::Limits::default().size_bytes_max,
            data_line_bytes_max: data::Limits::default().line_bytes_max,
            line_bytes_max: 2048,
            recipients_max: 1000,
            messages_max: 1000,
            errors_max: 20,
            idles_max: 100,
            extensions: Extensions::default(),
            tls: Tls::default(),
        }
    }
}

/// Offered beyond PIPELINING, 8BITMIME, SIZE and ENHANCEDSTATUSCODES, which always are.
/// A parameter whose extension is not offered is refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extensions {
    pub smtputf8: bool,
    pub dsn: bool,
    /// Only within TLS (RFC 8689 section 2).
    pub requiretls: bool,
}

/// How a connection comes to TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tls {
    /// Not at all: STARTTLS is not offered.
    #[default]
    Absent,
    /// By STARTTLS (RFC 3207), if the client likes.
    Offered,
    /// By STARTTLS; nothing that leads to mail is done before it.
    Required,
    /// It is within TLS from its first octet on (RFC 8314).
    Implicit,
}
