//! Finds a host of a site that takes mail: by preference, equal ones in any order, each address in turn; encrypted as the
//! path asks.

use crate::crew::Crew;
use crate::dial::{Failure, Target};
use crate::limits::Tokens;
use crate::path::SitePath;
use crate::session::{NotSecured, Refused, Session};
use crate::shared::Shared;
use crate::site::Host;
use crate::tls::{Fault, Trust, When, Wish};
use crate::worker::End;
use crate::{classify, route::Route};
use godwit_kit::trace;
use godwit_proto::common::v1::{SmtpReply, TraceContext};
use godwit_proto::queue::v1::RecipientResult;
use godwit_smtp::{reply, submit};
use rand::seq::SliceRandom;
use std::time::Duration;
use tracing::field::Empty;
use tracing::{Instrument, Span};

/// Addresses that one connection may try.
const TARGETS_MAX: usize = 16;
/// How long it is known for the sake of the next connection that a host's TLS failed, after a limit has let it come.
const NEXT_CONNECTION: Duration = Duration::from_secs(60);

/// A session and how it came about.
pub struct Connected {
    pub session: Session,
    /// The name of the host.
    pub host: String,
    pub trace: TraceContext,
}

/// The first host that greets us.
///
/// # Errors
/// Why none does; a source that cannot send ends the search at once.
pub async fn connect(shared: &Shared, crew: &Crew) -> Result<Connected, End> {
    let span = tracing::info_span!(
        parent: None,
        "connect",
        otel.kind = "client",
        godwit.site = crew.site.name,
        godwit.source = crew.source.name,
        tls.established = Empty,
        tls.protocol.version = Empty,
        tls.cipher = Empty,
        tls.resumed = Empty,
        godwit.tls.verified = Empty,
        godwit.tls.fault = Empty,
    );
    trace::set_root(&span);
    let path = crew.path();
    let search = Search { shared, crew, path: &path };
    search.run().instrument(span.clone()).await.map(|(session, host)| {
        let trace = trace::of(&span);
        Connected { session, host, trace }
    })
}

/// One search, along one path.
struct Search<'a> {
    shared: &'a Shared,
    crew: &'a Crew,
    path: &'a SitePath,
}

/// Why a connection to a host came to nothing.
enum Miss {
    Failure(Failure),
    /// It is not encrypted as it was wished to be, and is closed.
    Insecure(Fault),
}

impl Search<'_> {
    async fn run(&self) -> Result<(Session, String), End> {
        let attempts = &self.shared.meters.attempts_to_connect;
        let mut last: Option<SmtpReply> = None;
        let mut forbidden: Option<SmtpReply> = None;
        let mut tried_count = 0;
        for host in in_order(&self.crew.site.route()) {
            let targets = match self.shared.dialer.targets(&host, &self.path.path, &self.crew.source).await {
                Ok(targets) => targets,
                Err(Failure::Forbidden(reply)) => {
                    attempts.with_label_values(&["forbidden"]).inc();
                    forbidden = Some(reply);
                    continue;
                }
                Err(Failure::Host(reply)) => {
                    last = Some(reply);
                    continue;
                }
                Err(Failure::Source(why)) => return Err(End::SourceDown(why)),
                Err(Failure::Throttled { wait, key }) => return Err(End::Throttled { wait, key }),
            };
            for target in targets.into_iter().take(TARGETS_MAX - tried_count) {
                tried_count += 1;
                match self.one(&target).await {
                    Ok(session) => {
                        attempts.with_label_values(&["greeted"]).inc();
                        return Ok((session, target.name));
                    }
                    Err(Failure::Source(why)) => {
                        attempts.with_label_values(&["source"]).inc();
                        return Err(End::SourceDown(why));
                    }
                    Err(Failure::Throttled { wait, key }) => {
                        attempts.with_label_values(&["throttled"]).inc();
                        return Err(End::Throttled { wait, key });
                    }
                    Err(Failure::Host(reply) | Failure::Forbidden(reply)) => {
                        attempts.with_label_values(&["refused"]).inc();
                        tracing::debug!(
                            site = %self.crew.site.name, to = %target.at, reply = %reply.line(), "host not usable"
                        );
                        last = Some(reply);
                    }
                }
            }
        }
        // Only where every host is forbidden is it for good.
        Err(match (last, forbidden) {
            (Some(reply), _) => End::Unreachable { result: RecipientResult::Deferred, reply },
            (None, Some(reply)) => End::Unreachable { result: RecipientResult::Bounced, reply },
            (None, None) => {
                let reply = SmtpReply::internal(451, (4, 4, 4), "No host to connect to");
                End::Unreachable { result: RecipientResult::Deferred, reply }
            }
        })
    }

    /// A host whose TLS does not work is of no use to a path that requires it. To one that does not, it is spoken to in
    /// the clear, over a new connection: the first is closed.
    async fn one(&self, target: &Target) -> Result<Session, Failure> {
        let (connector, policy) = (&self.shared.tls, &self.path.path.tls);
        let mut wish = Wish::of(policy);
        // What other paths remember is not for one whose mail waits rather than goes in the clear.
        let minds = wish.when == When::Offered && (wish.falls_back || policy.remember_broken_tls.is_some());
        if minds && connector.is_broken(target, wish.trust) {
            self.count("remembered");
            wish = Wish::CLEAR;
        }
        let fault = match self.open(target, wish).await {
            Ok(session) => return Ok(session),
            Err(Miss::Failure(failure)) => return Err(failure),
            Err(Miss::Insecure(fault)) => fault,
        };
        Span::current().record("godwit.tls.fault", fault.label());
        let given_up = Failure::Host(fault.reply(&target.name));
        // Somebody stands between who wants to be heard in the host's place: nothing is said to him.
        if wish.when != When::Offered || fault == Fault::Injected {
            return Err(given_up);
        }
        if let Some(time) = policy.remember_broken_tls {
            connector.remember_broken(target, wish.trust, time);
        }
        if !wish.falls_back {
            return Err(given_up);
        }
        tracing::info!(site = %self.crew.site.name, to = %target.at, ?fault, "TLS failed: mail goes in the clear");
        self.take_token(target, wish.trust).await?;
        self.open(target, Wish::CLEAR).await.map_err(|miss| match miss {
            Miss::Failure(failure) => failure,
            Miss::Insecure(fault) => Failure::Host(fault.reply(&target.name)),
        })
    }

    /// A second connection to a host counts like the first. Where it must wait for its turn, this search is over, and what
    /// it has learned is known until the next: else that one would use up its turn on a handshake that fails.
    async fn take_token(&self, target: &Target, trust: Trust) -> Result<(), Failure> {
        match self.shared.limits.tokens(&self.path.connection_rates, 1).await {
            Tokens::Granted(_) => Ok(()),
            Tokens::Wait { wait, key } => {
                self.shared.tls.remember_broken(target, trust, wait + NEXT_CONNECTION);
                Err(Failure::Throttled { wait, key })
            }
        }
    }

    /// One connection: greeted, and encrypted as wished.
    async fn open(&self, target: &Target, wish: Wish) -> Result<Session, Miss> {
        let path = &self.path.path;
        let connection = self.shared.dialer.open(&self.crew.source, target, path.timeouts.connect).await?;
        let ehlo_domain = path.protocol.ehlo_domain.as_ref().or(self.crew.source.ehlo_domain.as_ref());
        let ehlo_domain = ehlo_domain.unwrap_or(&self.shared.ehlo_domain).clone();
        let config = submit::Config { ehlo_domain, reply: reply::Limits::default() };
        let mut session = Session::greet(connection, config, path).await?;
        if wish.when == When::Never {
            return Ok(session);
        }
        let fault = match session.secure(&self.shared.tls, target, wish.trust).await {
            Ok(()) => {
                self.note_secured(&session);
                return Ok(session);
            }
            Err(NotSecured::Peer(refused)) => return Err(refused.into()),
            Err(NotSecured::Tls(fault)) => fault,
        };
        self.count(fault.label());
        let goes_on = matches!(fault, Fault::NotOffered | Fault::Refused(_));
        if goes_on && wish.when == When::Offered {
            return Ok(session);
        }
        session.quit().await;
        Err(Miss::Insecure(fault))
    }

    fn note_secured(&self, session: &Session) {
        let Some(tls) = &session.tls else { return };
        self.count(if tls.verified { "verified" } else { "unverified" });
        let span = Span::current();
        span.record("tls.established", true);
        span.record("tls.protocol.version", tls.version.trim_start_matches("TLSv"));
        span.record("tls.cipher", &tls.cipher);
        span.record("tls.resumed", session.resumed);
        span.record("godwit.tls.verified", tls.verified);
    }

    fn count(&self, outcome: &str) {
        self.shared.meters.tls.with_label_values(&[outcome]).inc();
    }
}

impl From<Failure> for Miss {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<Refused> for Miss {
    fn from(Refused { reply, stage, local }: Refused) -> Self {
        Self::Failure(Failure::Host(classify::wire_reply(&reply, classify::command(stage), local)))
    }
}

/// By preference; shuffled within.
fn in_order(route: &Route) -> Vec<Host> {
    let mut hosts = route.hosts.clone();
    hosts.shuffle(&mut rand::rng());
    hosts.sort_by_key(|host| host.preference);
    hosts
}
