//! xtext (RFC 3461 section 4): `+` and two hex digits for what a parameter cannot hold.

/// `None` for a bad escape, and for anything that decodes to a control character: it would end in a report's header.
pub fn decode(text: &str) -> Option<String> {
    todo!()
}

/// The opposite; `+`, `=`, space and what is beyond ASCII are escaped.
pub fn encode(text: &str) -> String {
    todo!()
}
