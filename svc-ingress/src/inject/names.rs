//! The names that a message may carry: parts of a queue name, pools.

use godwit_smtp::{Address, address};

use super::Refused;

const LABEL_BYTES_MAX: usize = 255;

/// Visible, and without what separates the parts of a queue name (`campaign:tenant@domain!routing_domain`).
pub fn check_label(field: &str, label: &str) -> Result<(), Refused> {
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && !":@!".contains(c);
    if label.len() > LABEL_BYTES_MAX || !label.chars().all(plain) {
        let what = format!("must be at most {LABEL_BYTES_MAX} bytes without white space, `:`, `@` and `!`");
        return Err(Refused::field(field, what));
    }
    Ok(())
}

/// A host name or address literal, with a port perhaps, in lower case.
pub fn routing_domain(text: &str) -> Result<String, Refused> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let refuse = || Refused::field("routing_domain", "must be a host name or an address literal, with a port perhaps");
    // An IPv6 literal has colons too, all of them before its bracket.
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        Some(_) | None => (text, None),
    };
    let host = match host.starts_with('[') {
        true => Address::postmaster(host).map_err(|_| refuse())?.domain().to_owned(),
        false => address::to_a_labels(host).map_err(|_| refuse())?,
    };
    match port.map(str::parse::<std::num::NonZeroU16>) {
        None => Ok(host),
        Some(Ok(port)) => Ok(format!("{host}:{port}")),
        Some(Err(_)) => Err(refuse()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routing_domains() {
        let check =
            |text: &str, expected: Option<&str>| assert_eq!(routing_domain(text).ok().as_deref(), expected, "{text}");
        check("", Some(""));
        check("Relay.Example", Some("relay.example"));
        check("relay.example:2525", Some("relay.example:2525"));
        check("[192.0.2.1]:25", Some("[192.0.2.1]:25"));
        check("[IPv6:2001:DB8::1]", Some("[IPv6:2001:db8::1]"));
        check("[ipv6:::1]:25", Some("[IPv6:::1]:25"));
        for text in ["a b", "relay:", "relay:0", "relay:65536", ":25", "a@b", "a\r\nb", "[1.2.3]", "2001:db8::1"] {
            check(text, None);
        }
    }

    #[test]
    fn labels() {
        for (label, good) in
            [("", true), ("Über-42_x.y", true), ("a b", false), ("a:b", false), ("a@b", false), ("a\nb", false)]
        {
            assert_eq!(check_label("tenant", label).is_ok(), good, "{label}");
        }
        assert!(check_label("tenant", &"x".repeat(256)).is_err());
    }
}
