//! Finds a host of a site that takes mail: by preference, equal ones in any order, each address in turn.

use crate::crew::Crew;
use crate::dial::{Failure, Target};
use crate::path::SitePath;
use crate::session::{Refused, Session};
use crate::shared::Shared;
use crate::site::Host;
use crate::worker::End;
use crate::{classify, route::Route};
use godwit_kit::trace;
use godwit_proto::common::v1::{SmtpReply, TraceContext};
use godwit_proto::queue::v1::RecipientResult;
use godwit_shaping::EnableTls;
use godwit_smtp::{reply, submit};
use rand::seq::SliceRandom;
use tracing::Instrument;

/// Addresses that one connection may try.
const TARGETS_MAX: usize = 16;

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
    );
    trace::set_root(&span);
    let path = crew.path();
    if matches!(path.path.tls.enable_tls, EnableTls::Required | EnableTls::RequiredInsecure) {
        let reply = SmtpReply::internal(451, (4, 7, 4), "This path requires TLS, which is not part of this version");
        return Err(End::Unreachable { result: RecipientResult::Deferred, reply });
    }
    search(shared, crew, &path).instrument(span.clone()).await.map(|(session, host)| {
        let trace = trace::of(&span);
        Connected { session, host, trace }
    })
}

async fn search(shared: &Shared, crew: &Crew, path: &SitePath) -> Result<(Session, String), End> {
    let attempts = &shared.meters.attempts_to_connect;
    let mut last: Option<SmtpReply> = None;
    let mut forbidden: Option<SmtpReply> = None;
    let mut tried_count = 0;
    for host in in_order(&crew.site.route()) {
        let targets = match shared.dialer.targets(&host, &path.path, &crew.source).await {
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
        };
        for target in targets.into_iter().take(TARGETS_MAX - tried_count) {
            tried_count += 1;
            match one(shared, crew, path, &target).await {
                Ok(session) => {
                    attempts.with_label_values(&["greeted"]).inc();
                    return Ok((session, target.name));
                }
                Err(Failure::Source(why)) => {
                    attempts.with_label_values(&["source"]).inc();
                    return Err(End::SourceDown(why));
                }
                Err(Failure::Host(reply) | Failure::Forbidden(reply)) => {
                    attempts.with_label_values(&["refused"]).inc();
                    tracing::debug!(site = %crew.site.name, to = %target.at, reply = %reply.line(), "host not usable");
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

async fn one(shared: &Shared, crew: &Crew, path: &SitePath, target: &Target) -> Result<Session, Failure> {
    let connection = shared.dialer.open(&crew.source, target, path.path.timeouts.connect).await?;
    let ehlo_domain = path.path.protocol.ehlo_domain.as_ref().or(crew.source.ehlo_domain.as_ref());
    let ehlo_domain = ehlo_domain.unwrap_or(&shared.ehlo_domain).clone();
    let config = submit::Config { ehlo_domain, reply: reply::Limits::default() };
    let greeted = Session::greet(connection, config, &path.path).await;
    greeted.map_err(|Refused { reply, stage, local }| {
        Failure::Host(classify::wire_reply(&reply, classify::command(stage), local))
    })
}

/// By preference; shuffled within.
fn in_order(route: &Route) -> Vec<Host> {
    let mut hosts = route.hosts.clone();
    hosts.shuffle(&mut rand::rng());
    hosts.sort_by_key(|host| host.preference);
    hosts
}
