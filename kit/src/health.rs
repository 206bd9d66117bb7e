//! Who is ready: what each service needs, whether it is there, and why not.

use crate::connect::Road;
use crate::{Host, call};
use futures::future::join_all;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::pb::{self, HealthCheckRequest, health_client::HealthClient};
use tonic_health::server::HealthReporter;

const PROBE_EVERY: Duration = Duration::from_secs(1);
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// Services' own reports and those on their dependencies. Cheap to clone; one a process.
#[derive(Debug, Clone)]
pub struct Board {
    causes: Arc<Mutex<Causes>>,
    changed: watch::Sender<u64>,
}

/// By service and part: why it is not in order, if it is not.
type Causes = BTreeMap<(&'static str, String), Option<String>>;

/// Why a service is not ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// `queue`, `egress` ...
    pub service: &'static str,
    /// What it lacks: a dependency's name, or a part of its own.
    pub part: String,
    pub reason: String,
}

impl Default for Board {
    fn default() -> Self {
        Self { causes: Arc::default(), changed: watch::Sender::new(0) }
    }
}

impl Board {
    /// Says that `part` of `service` is in order, or why it is not.
    pub fn set(&self, service: &'static str, part: &str, state: Result<(), String>) {
        let state = state.err();
        let before = self.lock().insert((service, part.to_string()), state.clone());
        if before.as_ref() != Some(&state) {
            match &state {
                Some(reason) => tracing::warn!(service, part, %reason, "not ready"),
                None => tracing::info!(service, part, "ready"),
            }
            self.changed.send_modify(|version| *version += 1);
        }
    }

    /// What keeps the process from being ready; empty: it is.
    pub fn causes(&self) -> Vec<Cause> {
        let lacking = |((service, part), reason): (&(&'static str, String), &Option<String>)| {
            reason.clone().map(|reason| Cause { service, part: part.clone(), reason })
        };
        self.lock().iter().filter_map(lacking).collect()
    }

    /// The services that have said anything.
    pub fn services(&self) -> Vec<&'static str> {
        let mut services: Vec<_> = self.lock().keys().map(|(service, _)| *service).collect();
        services.dedup();
        services
    }

    /// Tells of every change; the value itself means nothing.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Causes> {
        self.causes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The services' names in the contracts, as health checks ask for them.
pub fn contract_names(service: &str) -> &'static [&'static str] {
    match service {
        "ingress" => &["godwit.ingress.v1.IngressService"],
        "queue" => &["godwit.queue.v1.QueueService", "godwit.queue.v1.QueueAdminService"],
        "egress" => &["godwit.egress.v1.EgressService"],
        "tsa" => &["godwit.tsa.v1.TsaService"],
        "throttle" => &["godwit.throttle.v1.ThrottleService"],
        "proxy" => &["godwit.proxy.v1.ProxyService"],
        _ => &[],
    }
}

/// Keeps the gRPC health service saying what the board says, until the host stops. A stopping process serves nobody new.
pub(crate) async fn report(host: Host, reporter: HealthReporter) {
    let mut changed = host.health.watch();
    loop {
        changed.borrow_and_update();
        let stopping = host.stop.is_requested();
        let causes = host.health.causes();
        reporter.set_service_status("", status(!stopping && causes.is_empty())).await;
        for service in host.health.services() {
            let ready = !stopping && causes.iter().all(|cause| cause.service != service);
            for name in contract_names(service) {
                reporter.set_service_status(*name, status(ready)).await;
            }
        }
        if stopping {
            return;
        }
        tokio::select! {
            _ = changed.changed() => {}
            () = host.stop.requested() => {}
        }
    }
}

fn status(ready: bool) -> ServingStatus {
    if ready { ServingStatus::Serving } else { ServingStatus::NotServing }
}

/// Watches a dependency that is elsewhere: `dependents` are ready while at least one of its `roads` answers that it serves.
/// Also teaches each road which node it leads to. Runs until the host stops.
pub async fn probe(host: Host, dependents: Vec<&'static str>, dependency: &'static str, roads: Vec<Road>) {
    let mut doubles = Vec::new();
    loop {
        let answers = join_all(roads.iter().map(|road| ask(road, dependency))).await;
        roads.iter().zip(&answers).for_each(|(road, answer)| road.set_up(answer.is_ok()));
        note_doubles(dependency, &roads, &mut doubles);
        let state = if answers.iter().any(Result::is_ok) {
            Ok(())
        } else {
            Err(answers.into_iter().filter_map(Result::err).collect::<Vec<_>>().join("; "))
        };
        for dependent in &dependents {
            host.health.set(dependent, dependency, state.clone());
        }
        tokio::select! {
            () = host.clock.sleep(PROBE_EVERY) => {}
            () = host.stop.requested() => return,
        }
    }
}

/// Says, once, which addresses lead to a node that another leads to already: each node is used by its first. Where that
/// was not meant, two nodes have the same id.
fn note_doubles(dependency: &str, roads: &[Road], noted: &mut Vec<usize>) {
    for (place, road) in roads.iter().enumerate() {
        let Some(node) = road.node.get() else { continue };
        let Some(first) = roads[..place].iter().find(|before| before.node.get() == Some(node)) else {
            noted.retain(|other| *other != place);
            continue;
        };
        if !noted.contains(&place) {
            noted.push(place);
            let (address, first) = (&road.address, &first.address);
            tracing::warn!(dependency, address, first, %node, "two addresses of one node: the first is used");
        }
    }
}

async fn ask(road: &Road, dependency: &str) -> Result<(), String> {
    let service = contract_names(dependency).first().copied().unwrap_or_default().to_string();
    let mut client = HealthClient::new(road.wire.clone());
    let asked = client.check(HealthCheckRequest { service });
    match call::within(PROBE_LIMIT, asked).await {
        Ok(answer) if answer.get_ref().status() == pb::health_check_response::ServingStatus::Serving => Ok(()),
        Ok(_) => Err(format!("{} does not serve {dependency}", road.address)),
        Err(status) => Err(format!("{}: {}", road.address, status.message())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_ready_when_nothing_is_amiss() {
        let board = Board::default();
        board.set("queue", "spool", Ok(()));
        assert!(board.causes().is_empty());
        board.set("queue", "spool", Err("disk full".into()));
        let cause = Cause { service: "queue", part: "spool".into(), reason: "disk full".into() };
        assert_eq!(board.causes(), [cause]);
        assert_eq!(board.services(), ["queue"]);
    }
}
