//! Which provider a destination belongs to, by its domain's suffix or by those of all of its mail hosts.

use toml::{Table, Value};

/// One way to know a provider. Compared as suffixes, without regard to case or to a final dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    MxSuffix(String),
    DomainSuffix(String),
    HostName(String),
}

impl Match {
    pub(crate) fn read(value: &Value) -> Result<Self, String> {
        let expected = || format!("expected {{ MXSuffix | DomainSuffix | HostName = \"…\" }}, found {value}");
        let table: &Table = value.as_table().ok_or_else(expected)?;
        let (kind, text) = match table.iter().collect::<Vec<_>>().as_slice() {
            [(kind, Value::String(text))] => (kind.as_str(), normal(text)),
            _ => return Err(expected()),
        };
        if text.is_empty() {
            return Err("an empty suffix would match everything".into());
        }
        match kind {
            "MXSuffix" => Ok(Self::MxSuffix(text)),
            "DomainSuffix" => Ok(Self::DomainSuffix(text)),
            "HostName" => Ok(Self::HostName(text)),
            _ => Err(expected()),
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::MxSuffix(text) | Self::DomainSuffix(text) | Self::HostName(text) => text,
        }
    }

    fn holds_for_domain(&self, domain: &str) -> bool {
        match self {
            Self::DomainSuffix(suffix) => domain.ends_with(suffix.as_str()),
            Self::MxSuffix(_) | Self::HostName(_) => false,
        }
    }

    fn holds_for_host(&self, host: &str) -> bool {
        match self {
            Self::MxSuffix(suffix) => host.ends_with(suffix.as_str()),
            Self::HostName(name) => host == name,
            Self::DomainSuffix(_) => false,
        }
    }
}

/// How closely the matches fit: the length of the longest that holds. `None` where they do not: neither does any suffix
/// of the domain hold, nor is each mail host matched by something. `domain` and `hosts` are [`normal`].
pub(crate) fn fit(matches: &[Match], domain: &str, hosts: &[String]) -> Option<usize> {
    let length = |found: &Match| found.text().len();
    let by_domain = matches.iter().filter(|found| found.holds_for_domain(domain)).map(length).max();
    let of_host = |host: &String| matches.iter().filter(|found| found.holds_for_host(host)).map(length).max();
    let by_hosts: Option<Vec<usize>> = hosts.iter().map(of_host).collect();
    by_domain.max(by_hosts.and_then(|lengths| lengths.into_iter().max()))
}

/// Lower case, without the root's dot.
pub(crate) fn normal(name: &str) -> String {
    name.trim_end_matches('.').to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_suffices_or_every_host_must_match() {
        let matches = [
            Match::MxSuffix(".mx.example".into()),
            Match::HostName("backup.example".into()),
            Match::DomainSuffix(".corp.example".into()),
        ];
        let check = |domain: &str, hosts: &[&str], expected: Option<usize>| {
            let hosts: Vec<_> = hosts.iter().map(|host| host.to_string()).collect();
            assert_eq!(fit(&matches, domain, &hosts), expected, "{domain} {hosts:?}");
        };
        check("a.test", &["1.mx.example", "backup.example"], Some(14));
        check("a.test", &["1.mx.example", "elsewhere.example"], None);
        check("a.test", &["1.mx.example"], Some(11));
        check("a.test", &["not-backup.example"], None);
        check("a.corp.example", &["elsewhere.example"], Some(13));
        check("a.test", &[], None);
    }
}
