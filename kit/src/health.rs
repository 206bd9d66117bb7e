//! Who is ready: what each service needs, whether it is there, and why not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Services' own reports and those on their dependencies. Cheap to clone; one a process.
#[derive(Debug, Clone)]
pub struct Board {
    causes: Arc<Mutex<BTreeMap<(&'static str, String), Option<String>>>>,
    changed: watch::Sender<u64>,
}

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

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(&'static str, String), Option<String>>> {
        self.causes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
