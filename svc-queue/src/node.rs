//! What the queue's calls share: the core behind its lock, the spool, and who waits for what.
//!
//! std's mutex: it is held for microseconds and never across an await. Everything that a change of the core sets off outside
//! of it is done in one place, [`Node::with`].

use crate::config::Config;
use crate::core::Core;
use crate::error::Error;
use crate::events::Log;
use crate::idempotency::Keys;
use crate::intake::{Limits, since_epoch_ms};
use crate::metrics::Metrics;
use crate::spool::{Record, Spool};
use godwit_kit::Host;
use godwit_proto::throttle::Throttle;
use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, oneshot, watch};
use tracing::Instrument;

pub struct Node {
    pub config: Config,
    pub limits: Limits,
    core: Mutex<Core>,
    pub spool: Spool,
    pub log: Log,
    pub keys: Keys,
    pub throttle: Option<Throttle>,
    pub host: Host,
    pub metrics: Metrics,
    pub uploads: crate::bodies::Uploads,
    /// Told when an operation has ended, for those that found its deliveries busy.
    freed: Notify,
    /// The newest change of a lane, for watchers.
    changed: watch::Sender<u64>,
    /// Those who wait for mail of a site, by the pools that they serve.
    hungry: Mutex<HashMap<u32, Vec<Hunger>>>,
    /// Until when the driver sleeps.
    armed_ms: AtomicU64,
    rearm: Notify,
    pub watchers: AtomicUsize,
}

/// Who wait for mail of the same pools, and what wakes one of them.
struct Hunger {
    egress_pools: Vec<String>,
    bell: Arc<Notify>,
}

/// What a node is made of.
pub struct Parts {
    pub config: Config,
    pub core: Core,
    pub spool: Spool,
    pub log: Log,
    pub keys: Keys,
    pub throttle: Option<Throttle>,
    pub host: Host,
    pub metrics: Metrics,
}

impl Node {
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { config, core, spool, log, keys, throttle, host, metrics } = parts;
        let limits = Limits { schedule: config.schedule(), message_bytes_max: config.message_bytes_max.0 };
        Arc::new(Self {
            uploads: crate::bodies::Uploads::new(config.upload_bytes_max.0, config.message_bytes_max.0),
            limits,
            config,
            core: Mutex::new(core),
            spool,
            log,
            keys,
            throttle,
            host,
            metrics,
            freed: Notify::new(),
            changed: watch::Sender::new(0),
            hungry: Mutex::default(),
            armed_ms: AtomicU64::new(0),
            rearm: Notify::new(),
            watchers: AtomicUsize::new(0),
        })
    }

    pub fn now_ms(&self) -> u64 {
        since_epoch_ms(self.host.clock.now())
    }

    /// Changes the core, and then wakes whoever is concerned.
    pub fn with<R>(&self, change: impl FnOnce(&mut Core, u64) -> R) -> R {
        let now_ms = self.now_ms();
        let mut core = lock(&self.core);
        let result = change(&mut core, now_ms);
        let (fed, freed) = (core.lanes.take_fed(), core.take_freed());
        let (version, wake) = (core.lanes.version(), core.next_wake());
        drop(core);
        if !fed.is_empty() {
            let hungry = lock(&self.hungry);
            fed.iter().filter_map(|site| hungry.get(site)).flatten().for_each(|hungry| hungry.bell.notify_one());
        }
        if freed {
            self.freed.notify_waiters();
        }
        self.changed.send_if_modified(|seen| std::mem::replace(seen, version.max(*seen)) < version);
        if wake.is_some_and(|wake| wake < self.armed_ms.load(Ordering::Acquire)) {
            self.rearm.notify_one();
        }
        result
    }

    /// Returns when an operation ends. To be made before looking, and awaited after having found something busy.
    pub fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.freed.notified()
    }

    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What tells of new mail for a site, whose key is held by whoever asks.
    pub fn hunger(&self, site: u32, egress_pools: &[String]) -> Arc<Notify> {
        let mut hungry = lock(&self.hungry);
        let all = hungry.entry(site).or_default();
        if let Some(alike) = all.iter().find(|hunger| hunger.egress_pools == egress_pools) {
            return alike.bell.clone();
        }
        let bell = Arc::<Notify>::default();
        all.push(Hunger { egress_pools: egress_pools.to_vec(), bell: bell.clone() });
        bell
    }

    /// One waits at this site no more; takes the bell, so that the last one to leave is seen to be the last.
    pub fn sated(&self, site: u32, bell: Arc<Notify>) {
        let mut hungry = lock(&self.hungry);
        drop(bell);
        let Some(all) = hungry.get_mut(&site) else { return };
        all.retain(|hunger| Arc::strong_count(&hunger.bell) > 1);
        if all.is_empty() {
            hungry.remove(&site);
        }
    }

    /// Sleeps until the core has something to do at `wake_ms`, or sooner if that changes, or until the stop.
    pub async fn sleep_until(&self, wake_ms: u64) {
        self.armed_ms.store(wake_ms, Ordering::Release);
        // It may have changed before it was armed.
        let sooner = lock(&self.core).next_wake().is_some_and(|wake| wake < wake_ms);
        if sooner {
            return;
        }
        tokio::select! {
            () = self.host.clock.sleep_until(std::time::UNIX_EPOCH + std::time::Duration::from_millis(wake_ms)) => {}
            () = self.rearm.notified() => {}
            () = self.host.stop.requested() => {}
        }
    }

    /// Runs work that must not end halfway in a task of the queue's own, and waits for it.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        self.host.stop.spawn(work.in_current_span()).await.map_err(|_| Error::Lost)?
    }

    /// The same; `unwanted` gets what nobody waits for any more.
    pub async fn run_for<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
        unwanted: impl FnOnce(T) + Send + 'static,
    ) -> Result<T, Error> {
        let (send, receive) = oneshot::channel();
        self.host.stop.spawn(
            async move {
                if let Err(Ok(result)) = send.send(work.await) {
                    unwanted(result);
                }
            }
            .in_current_span(),
        );
        receive.await.map_err(|_| Error::Lost)?
    }

    /// Writes records that nobody waits for; a failure is logged.
    pub fn append_later(self: &Arc<Self>, records: Vec<Record>, what: &'static str) {
        if records.is_empty() {
            return;
        }
        let node = self.clone();
        self.host.stop.spawn(async move {
            if let Err(error) = node.spool.append(records).await {
                tracing::warn!(%error, what, "not written");
            }
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
