//! Names the set of hosts that lanes share. Pure: the same hosts give the same name on every node, whatever their order.

use std::fmt::Write;

/// Octets of a name; a longer one is cut and ends in a hash of the whole.
const NAME_BYTES_MAX: usize = 128;

/// One host that takes mail for a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// A host name in A-labels and lower case, or an address as text.
    pub name: String,
    /// What the configuration or the routing domain says; else the path's.
    pub port: Option<u16>,
    /// Lower is tried first; equal ones in any order.
    pub preference: u16,
    /// Named by the configuration: may be an address that strangers may not choose.
    pub trusted: bool,
}

impl Host {
    /// `mx.example`, `mx.example/2525` where a sender chose the port, `relay:2525` where the configuration named the
    /// host: a stranger's DNS cannot lead to the name of a configured site.
    fn text(&self) -> String {
        match (self.trusted, self.port) {
            (true, port) => format!("{}:{}", self.name, port.unwrap_or(25)),
            (false, Some(port)) => format!("{}/{port}", self.name),
            (false, None) => self.name.clone(),
        }
    }
}

/// `mx.example`, `(a|b).example`, `(|alt1|alt2).mx.example`: the common end, and before it what differs, sorted.
/// Different sets have different names.
pub fn name(hosts: &[Host]) -> String {
    let mut texts: Vec<String> = hosts.iter().map(Host::text).collect();
    texts.sort_unstable();
    texts.dedup();
    let name = match texts.as_slice() {
        [] => String::new(),
        [only] => only.clone(),
        [first, rest @ ..] => {
            let shared = rest.iter().fold(first.as_str(), |shared, text| common_end(shared, text));
            let starts = texts.iter().map(|text| text[..text.len() - shared.len()].trim_end_matches('.'));
            let starts = starts.collect::<Vec<_>>().join("|");
            if shared.is_empty() { format!("({starts})") } else { format!("({starts}).{shared}") }
        }
    };
    bounded(name)
}

/// The labels that both names end in.
fn common_end<'a>(one: &'a str, other: &str) -> &'a str {
    let shared = one.rsplit('.').zip(other.rsplit('.')).take_while(|(a, b)| a == b).map(|(label, _)| label.len() + 1);
    let bytes = shared.sum::<usize>().saturating_sub(1);
    &one[one.len() - bytes..]
}

fn bounded(mut name: String) -> String {
    if name.len() > NAME_BYTES_MAX {
        let hash = fnv1a(name.as_bytes());
        name.truncate(name.floor_char_boundary(NAME_BYTES_MAX - 17));
        let _ = write!(name, "#{hash:016x}");
    }
    name
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> String {
        let host = |name: &&str| Host { name: (*name).into(), port: None, preference: 0, trusted: false };
        name(&names.iter().map(host).collect::<Vec<_>>())
    }

    #[test]
    fn names_are_readable_and_do_not_depend_on_the_order() {
        assert_eq!(of(&["mx.example"]), "mx.example");
        assert_eq!(of(&["b.example", "a.example", "b.example"]), "(a|b).example");
        assert_eq!(of(&["mx.l.example", "alt1.mx.l.example"]), "(alt1|).mx.l.example");
        assert_eq!(of(&["a.x", "b.y"]), "(a.x|b.y)");
        assert_eq!(of(&["ma.x", "a.x"]), "(a|ma).x");
    }

    #[test]
    fn different_sets_have_different_names() {
        assert_ne!(of(&["a.x", "b.y"]), of(&["a.y", "b.x"]));
        let host = |port, trusted| Host { name: "relay".into(), port, preference: 0, trusted };
        let names: Vec<_> =
            [(None, false), (Some(26), false), (Some(26), true)].map(|(p, t)| name(&[host(p, t)])).into();
        assert_eq!(names, ["relay", "relay/26", "relay:26"]);
    }

    #[test]
    fn a_long_name_is_cut_and_stays_its_own() {
        let many = |last: &str| {
            let names: Vec<String> = (0..30).map(|n| format!("mail{n}.example")).chain([last.into()]).collect();
            of(&names.iter().map(String::as_str).collect::<Vec<_>>())
        };
        assert_eq!(many("z.example").len(), NAME_BYTES_MAX);
        assert_ne!(many("z.example"), many("zz.example"));
    }
}
