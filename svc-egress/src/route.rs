//! Finds the hosts that take mail for a routing domain (RFC 5321 section 5.1, RFC 7505). The one file that knows the
//! resolver; it caches, within bounds, what it learned.

use crate::config::{Config, host_and_port};
use crate::site::{self, Host};
use godwit_proto::common::v1::SmtpReply;
use godwit_proto::queue::v1::RecipientResult;
use godwit_shaping::IpLookupStrategy;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Hosts of one domain that are kept; the others are the worst preferred.
const HOSTS_MAX: usize = 20;
/// Addresses of one host that are kept.
const ADDRESSES_MAX: usize = 8;
const CACHE_ENTRIES_MAX: u64 = 16_384;
/// What we hold on to a route, whatever its records say.
const TTL_MIN: Duration = Duration::from_secs(60);
const TTL_MAX: Duration = Duration::from_secs(3_600);
const NEGATIVE_TTL: Duration = Duration::from_secs(300);
/// How long a lookup that failed is not repeated.
const FAILURE_TTL: Duration = Duration::from_secs(30);
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(20);

/// Where mail for a routing domain goes.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    Route(Arc<Route>),
    Refused(Refusal),
}

#[derive(Debug, PartialEq, Eq)]
pub struct Route {
    pub site: String,
    /// By preference.
    pub hosts: Vec<Host>,
    pub ttl: Duration,
}

/// There is no way: what the mail is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// Deferred or bounced.
    pub result: RecipientResult,
    pub reply: SmtpReply,
    /// When to look again.
    pub ttl: Duration,
}

/// Configured routes first, then DNS. Cheap to clone.
#[derive(Clone)]
pub struct Router(Arc<Inner>);

struct Inner {
    routes: HashMap<String, Arc<Route>>,
    any: Option<Arc<Route>>,
    dns: Option<TokioResolver>,
    why_no_dns: String,
}

impl Router {
    /// A resolver that cannot be set up is said at each lookup, and mail is deferred: configured routes work without.
    pub fn new(config: &Config) -> Self {
        let route = |hosts: &Vec<String>| Arc::new(configured(hosts));
        let mut routes: HashMap<_, _> =
            config.routes.iter().map(|(domain, to)| (domain.to_lowercase(), route(&to.hosts))).collect();
        let any = routes.remove("*");
        let (dns, why_no_dns) = match resolver(&config.dns_servers()) {
            Ok(dns) => (Some(dns), String::new()),
            Err(error) => (None, error.to_string()),
        };
        Self(Arc::new(Inner { routes, any, dns, why_no_dns }))
    }

    pub async fn find(&self, routing_domain: &str) -> Found {
        if let Some(route) = self.0.routes.get(routing_domain).or(self.0.any.as_ref()) {
            return Found::Route(route.clone());
        }
        let Some((name, port)) = host_and_port(routing_domain) else {
            return bounce(550, (5, 1, 2), format!("{routing_domain} is not a domain"));
        };
        if name.parse::<IpAddr>().is_ok() {
            return found(vec![Host { name, port, preference: 0, trusted: false }], TTL_MAX);
        }
        match self.mail_hosts(&name).await {
            Ok((mut hosts, ttl)) => {
                hosts.iter_mut().for_each(|host| host.port = port);
                found(hosts, ttl)
            }
            Err(refusal) => Found::Refused(refusal),
        }
    }

    /// The domain has no site of its own: it goes where everything goes.
    pub fn is_catch_all(&self, routing_domain: &str) -> bool {
        self.0.any.is_some() && !self.0.routes.contains_key(routing_domain)
    }

    /// A host's addresses, as its path wants them; empty where it has none.
    ///
    /// # Errors
    /// Why it is not known.
    pub async fn addresses(&self, host: &str, strategy: IpLookupStrategy) -> Result<Vec<IpAddr>, String> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![address]);
        }
        let dns = self.0.dns.as_ref().ok_or_else(|| self.0.why_no_dns.clone())?;
        match timely(dns.lookup_ip(format!("{host}."))).await {
            Ok(found) => Ok(ordered(found.iter().collect(), strategy)),
            Err(error) if error.is_no_records_found() => Ok(Vec::new()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The MX hosts, or the domain itself where it has none but an address.
    async fn mail_hosts(&self, domain: &str) -> Result<(Vec<Host>, Duration), Refusal> {
        let Some(dns) = &self.0.dns else {
            return Err(failed(domain, &self.0.why_no_dns));
        };
        match timely(dns.lookup(format!("{domain}."), RecordType::MX)).await {
            Ok(answer) => {
                let of_mx = answer.answers().iter().filter_map(|record| match &record.data {
                    RData::MX(mx) => Some((mx.preference, mx.exchange.to_ascii(), record.ttl)),
                    _ => None,
                });
                let of_mx: Vec<_> = of_mx.collect();
                // An alias whose target has no MX: the answer is not empty, and yet has none.
                if of_mx.is_empty() { self.implicit_host(domain, dns).await } else { of_records(domain, of_mx) }
            }
            Err(error) if error.is_nx_domain() => Err(Refusal {
                result: RecipientResult::Bounced,
                reply: SmtpReply::internal(550, (5, 1, 2), format!("Domain {domain} does not exist")),
                ttl: NEGATIVE_TTL,
            }),
            Err(error) if error.is_no_records_found() => self.implicit_host(domain, dns).await,
            Err(error) => Err(failed(domain, &error.to_string())),
        }
    }

    async fn implicit_host(&self, domain: &str, dns: &TokioResolver) -> Result<(Vec<Host>, Duration), Refusal> {
        match timely(dns.lookup_ip(format!("{domain}."))).await {
            Ok(_) => Ok((vec![host(domain, 0)], TTL_MIN)),
            Err(error) if error.is_no_records_found() => Err(Refusal {
                result: RecipientResult::Bounced,
                reply: SmtpReply::internal(550, (5, 4, 4), format!("Domain {domain} has no mail host and no address")),
                ttl: NEGATIVE_TTL,
            }),
            Err(error) => Err(failed(domain, &error.to_string())),
        }
    }
}

/// Judges MX records: preference, exchange, time to live in seconds.
fn of_records(domain: &str, records: Vec<(u16, String, u32)>) -> Result<(Vec<Host>, Duration), Refusal> {
    let ttl = records.iter().map(|(_, _, ttl)| *ttl).min().unwrap_or_default();
    let mut hosts: Vec<Host> = records
        .into_iter()
        .map(|(preference, exchange, _)| host(exchange.trim_end_matches('.'), preference))
        .filter(|host| !host.name.is_empty())
        .collect();
    if hosts.is_empty() {
        return Err(Refusal {
            result: RecipientResult::Bounced,
            reply: SmtpReply::internal(556, (5, 1, 10), format!("Domain {domain} does not accept mail (null MX)")),
            ttl: NEGATIVE_TTL,
        });
    }
    hosts.sort_by(|a, b| (a.preference, &a.name).cmp(&(b.preference, &b.name)));
    hosts.dedup_by(|a, b| a.name == b.name);
    hosts.truncate(HOSTS_MAX);
    Ok((hosts, Duration::from_secs(ttl.into()).clamp(TTL_MIN, TTL_MAX)))
}

/// Tries in turn what the configuration lists.
fn configured(hosts: &[String]) -> Route {
    let hosts = hosts.iter().enumerate().filter_map(|(place, text)| {
        let (name, port) = host_and_port(text)?;
        Some(Host { name, port, preference: u16::try_from(place).unwrap_or(u16::MAX), trusted: true })
    });
    let hosts: Vec<Host> = hosts.collect();
    Route { site: site::name(&hosts), hosts, ttl: TTL_MAX }
}

fn host(name: &str, preference: u16) -> Host {
    Host { name: name.to_ascii_lowercase(), port: None, preference, trusted: false }
}

fn found(hosts: Vec<Host>, ttl: Duration) -> Found {
    Found::Route(Arc::new(Route { site: site::name(&hosts), hosts, ttl }))
}

fn bounce(code: u32, enhanced: (u32, u32, u32), text: String) -> Found {
    let reply = SmtpReply::internal(code, enhanced, text);
    Found::Refused(Refusal { result: RecipientResult::Bounced, reply, ttl: NEGATIVE_TTL })
}

/// The server did not know, or did not answer: that says nothing of the domain.
fn failed(domain: &str, why: &str) -> Refusal {
    Refusal {
        result: RecipientResult::Deferred,
        reply: SmtpReply::internal(451, (4, 4, 3), format!("DNS lookup of {domain} failed: {why}")),
        ttl: FAILURE_TTL,
    }
}

async fn timely<T>(lookup: impl Future<Output = Result<T, NetError>>) -> Result<T, NetError> {
    tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await.unwrap_or(Err(NetError::Timeout))
}

fn ordered(addresses: Vec<IpAddr>, strategy: IpLookupStrategy) -> Vec<IpAddr> {
    let (mut v4, mut v6): (Vec<_>, Vec<_>) = addresses.into_iter().partition(IpAddr::is_ipv4);
    v4.truncate(ADDRESSES_MAX);
    v6.truncate(ADDRESSES_MAX);
    match strategy {
        IpLookupStrategy::Ipv4Only => v4,
        IpLookupStrategy::Ipv6Only => v6,
        IpLookupStrategy::Ipv6ThenIpv4 => [v6, v4].concat(),
        IpLookupStrategy::Ipv4AndIpv6 | IpLookupStrategy::Ipv4ThenIpv6 => [v4, v6].concat(),
    }
}

fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let mut builder = match servers {
        [] => TokioResolver::builder_tokio()?,
        servers => {
            let config = ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(name_server).collect());
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.cache_size = CACHE_ENTRIES_MAX;
    options.positive_max_ttl = Some(TTL_MAX);
    options.negative_max_ttl = Some(NEGATIVE_TTL);
    if !servers.is_empty() {
        options.use_hosts_file = ResolveHosts::Never;
    }
    builder.build()
}

fn name_server(server: &SocketAddr) -> NameServerConfig {
    let at = |mut connection: ConnectionConfig| {
        connection.port = server.port();
        connection
    };
    NameServerConfig::new(server.ip(), true, vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(of: &[(u16, &str)]) -> Vec<(u16, String, u32)> {
        of.iter().map(|(preference, exchange)| (*preference, (*exchange).into(), 300)).collect()
    }

    #[test]
    fn hosts_are_ordered_by_preference_and_listed_once() {
        let (hosts, ttl) = of_records("d", records(&[(20, "B.x."), (10, "c.x."), (10, "a.x."), (20, "b.x.")])).unwrap();
        let names: Vec<_> = hosts.iter().map(|host| (host.preference, host.name.as_str())).collect();
        assert_eq!(names, [(10, "a.x"), (10, "c.x"), (20, "b.x")]);
        assert_eq!(ttl, Duration::from_secs(300));
    }

    #[test]
    fn the_null_mx_is_a_bounce() {
        let refusal = of_records("d", records(&[(0, ".")])).unwrap_err();
        assert_eq!((refusal.result, refusal.reply.code), (RecipientResult::Bounced, 556));
        assert_eq!(of_records("d", records(&[(0, "."), (5, "a.")])).unwrap().0.len(), 1);
    }

    #[tokio::test]
    async fn routes_go_before_dns_and_the_exact_one_first() {
        let mut config = Config::default();
        for (domain, hosts) in [("*", "127.0.0.1:2526"), ("A.example", "relay.example")] {
            config.routes.insert(domain.into(), crate::config::Route { hosts: vec![hosts.into()] });
        }
        let router = Router::new(&config);
        for (domain, site) in [("a.example", "relay.example:25"), ("b.example", "127.0.0.1:2526")] {
            let Found::Route(route) = router.find(domain).await else { panic!("{domain} has no route") };
            assert_eq!(route.site, site);
            assert_eq!(router.is_catch_all(domain), domain == "b.example");
            assert!(route.hosts[0].trusted);
        }
    }

    #[tokio::test]
    async fn literals_need_no_dns_and_are_not_trusted() {
        let router = Router::new(&Config::default());
        let Found::Route(route) = router.find("[10.0.0.1]:2525").await else { panic!("no route") };
        assert_eq!(route.hosts, [Host { name: "10.0.0.1".into(), port: Some(2525), preference: 0, trusted: false }]);
    }
}
