//! Tells one queue node which site each routing domain leads to: the newest word for each domain, many in one call.

use crate::plan;
use crate::shared::{Event, Shared};
use godwit_kit::call;
use godwit_proto::queue::v1::{RouteRequest, route_request::Entry};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tonic::Request;

const ENTRIES_MAX: usize = 1_000;
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// What is still to be told; at most one entry a domain. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Announcer(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    entries: Mutex<HashMap<String, (String, Duration)>>,
    added: Notify,
}

impl Announcer {
    pub fn add(&self, domain: &str, site: &str, ttl: Duration) {
        self.lock().insert(domain.into(), (site.into(), ttl));
        self.0.added.notify_one();
    }

    /// Calls until the stop, and tells the dispatcher what the queue has taken.
    pub async fn run(self, shared: Arc<Shared>, node: usize) {
        let (queue, host) = (shared.nodes[node].queue.clone(), shared.host.clone());
        let mut failures = 0;
        loop {
            tokio::select! {
                () = self.0.added.notified() => {}
                () = host.stop.requested() => return,
            }
            loop {
                let entries = self.next();
                if entries.is_empty() || host.stop.is_requested() {
                    break;
                }
                let request = RouteRequest { entries: entries.clone() };
                match call::within(CALL_TIMEOUT, queue.route(Request::new(request))).await {
                    Ok(_) => {
                        failures = 0;
                        let entries = entries.into_iter().map(|entry| (entry.routing_domain, entry.site)).collect();
                        shared.say(Event::Announced { node, entries }).await;
                    }
                    Err(status) => {
                        failures += 1;
                        tracing::warn!(%status, failures, "routes not told");
                        self.put_back(entries);
                        tokio::select! {
                            () = host.clock.sleep(plan::call_backoff(failures)) => {}
                            () = host.stop.requested() => return,
                        }
                    }
                }
            }
        }
    }

    fn next(&self) -> Vec<Entry> {
        let mut entries = self.lock();
        let domains: Vec<String> = entries.keys().take(ENTRIES_MAX).cloned().collect();
        let entry = |domain: String| {
            let (site, ttl) = entries.remove(&domain)?;
            Some(Entry { routing_domain: domain, site, ttl_ms: ttl.as_millis() as u64 })
        };
        domains.into_iter().filter_map(entry).collect()
    }

    /// Unless something newer is there.
    fn put_back(&self, failed: Vec<Entry>) {
        let mut entries = self.lock();
        for Entry { routing_domain, site, ttl_ms } in failed {
            entries.entry(routing_domain).or_insert((site, Duration::from_millis(ttl_ms)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (String, Duration)>> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
