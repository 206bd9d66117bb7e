//! xtext (RFC 3461 section 4): `+` and two hex digits for what a parameter cannot hold.

use std::fmt::Write;

/// `None` for a bad escape, and for anything that decodes to other than printable ASCII: it would end in a report's header.
pub fn decode(text: &str) -> Option<String> {
    let mut decoded = String::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'+' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            b'=' | ..=b' ' => return None,
            byte => byte,
        };
        if !(b' '..=b'~').contains(&byte) {
            return None;
        }
        decoded.push(char::from(byte));
    }
    Some(decoded)
}

/// The opposite; `+`, `=`, space and what is beyond ASCII are escaped.
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'+' | b'=' | ..=b' ' | 0x7f.. => {
                write!(encoded, "+{byte:02X}").expect("a String takes whatever is written to it");
            }
            byte => encoded.push(char::from(byte)),
        }
    }
    encoded
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes() {
        fn check(text: &str, expected: Option<&str>) {
            assert_eq!(decode(text).as_deref(), expected, "{text:?}");
        }
        check("abc", Some("abc"));
        check("a+2Bb+3Dc+20d", Some("a+b=c d"));
        check("", Some(""));
        check("a=b", None);
        check("a b", None);
        check("+0D+0A", None);
        check("+00", None);
        check("+7F", None);
        check("+FF", None);
        check("+4", None);
        check("+GG", None);
        check("ü", None);
        assert_eq!(decode(&encode("a+b=c d~!")).as_deref(), Some("a+b=c d~!"));
    }
}
