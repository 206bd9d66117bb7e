//! The contract in, the ledger asked, the answer out.

use crate::config::Config;
use crate::cursor::Step;
use crate::error::Error;
use crate::ledger::{Hit, Ledger, Op, hits};
use crate::request::Observed;
use crate::rules::Rules;
use crate::state::{Disk, Found};
use crate::watch::Watcher;
use crate::window::{instant, system_time};
use crate::writer::{BATCHES_MAX, Batch, Writer};
use godwit_kit::Host;
use godwit_kit::config::Faults;
use godwit_kit::metrics::{Counter, Gauge};
use godwit_proto::Replies;
use godwit_proto::common::v1::{NodeId, Page};
use godwit_proto::id::MessageId;
use godwit_proto::tsa::TsaService;
use godwit_proto::tsa::v1::*;
use godwit_shaping::Shaping;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tonic::{Request, Response, Status};

const PAGE_SIZE: u32 = 100;
const PAGE_SIZE_MAX: u32 = 1_000;

/// Traffic shaping automation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Service(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rules: Arc<Rules>,
    /// std's: held for moments, never across an await. The writer and the watchers hold it too.
    ledger: Arc<Mutex<Ledger>>,
    /// The board's version, for watchers to wake by.
    changed: watch::Sender<u64>,
    /// Wakes the task that lets time pass: there may be something to do sooner.
    looks: Notify,
    /// To the writer, in the order of the ledger's changes: sent to under the ledger's lock.
    inbox: mpsc::Sender<Batch>,
    windows_max: usize,
    host: Host,
    meters: Meters,
}

#[derive(Debug)]
struct Meters {
    events: Counter,
    hits: Counter,
    actions: Gauge,
    windows: Gauge,
    turned_away: Gauge,
}

impl Service {
    /// Takes in what was on disk and starts the tasks.
    pub(crate) fn start(config: &Config, rules: Rules, (disk, found): (Disk, Found), host: &Host) -> Self {
        let rules = Arc::new(rules);
        let mut ledger = Ledger::new(rules.clone(), config.windows_max, instance_id());
        let now = instant(host.clock.now());
        found.cursors.into_iter().for_each(|(log, next_seq)| ledger.cursors.restore(log, next_seq, now));
        ledger.restore(found.records, now);
        let ledger = Arc::new(Mutex::new(ledger));
        let (sender, inbox) = mpsc::channel(BATCHES_MAX);
        let meters = Meters::new(host);
        let flush_seconds = host.metrics.distribution(
            "godwit_tsa_flush_seconds",
            "Time to bring a group of changes to disk",
            &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0],
        );
        let writer = Writer { disk: Arc::new(disk), ledger: ledger.clone(), inbox, flush_seconds, host: host.clone() };
        host.stop.spawn(writer.run());
        host.health.set("tsa", "state", Ok(()));
        let inner = Inner {
            rules,
            ledger,
            changed: watch::Sender::new(0),
            looks: Notify::new(),
            inbox: sender,
            windows_max: config.windows_max,
            host: host.clone(),
            meters,
        };
        let service = Self(Arc::new(inner));
        service.told(&service.lock());
        host.stop.spawn(service.clone().pass_time());
        service
    }

    /// Lets actions expire when they should, whether or not anybody calls.
    async fn pass_time(self) {
        let clock = &self.0.host.clock;
        loop {
            let look = self.lock().next_look();
            let due = async {
                match look {
                    Some(look) => clock.sleep_until(system_time(look)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.0.host.stop.requested() => return,
                () = self.0.looks.notified() => continue,
                () = due => {}
            }
            let mut ledger = self.lock();
            ledger.pass(instant(clock.now()));
            self.told(&ledger);
            // What is erased may wait for the next caller: expiry must not wait for the disk.
            if let Ok(permit) = self.0.inbox.try_reserve() {
                let ops = std::mem::take(&mut ledger.owed);
                permit.send(Batch { ops, done: oneshot::channel().0 });
            }
        }
    }

    #[tracing::instrument(name = "tsa.observe", skip_all, fields(event_count = request.events.len(), hit_count))]
    async fn take(&self, request: ObserveRequest) -> Result<ObserveResponse, Error> {
        let observed = Observed::parse(request)?;
        // Before anything is changed: from here on nothing waits until the change is handed to the writer.
        let permit = self.0.inbox.reserve().await.map_err(|_| Error::Stopping)?;
        let hits = self.hits(&observed);
        let (done, written) = oneshot::channel();
        {
            let mut ledger = self.lock();
            let now = instant(self.0.host.clock.now());
            let known = ledger.cursors.next_seq(&observed.log);
            let (step, displaced) = ledger.cursors.step(&observed.log, &observed.span, now)?;
            match step {
                Step::Hole => return Ok(ObserveResponse { next_seq: ledger.cursors.durable_seq(&observed.log) }),
                Step::On => {}
            }
            let mut ops = std::mem::take(&mut ledger.owed);
            ops.extend(displaced.map(Op::ForgetLog));
            ops.extend(ledger.absorb(hits, now));
            let next_seq = ledger.cursors.next_seq(&observed.log);
            if next_seq > known {
                ops.push(Op::Cursor((*observed.log).clone(), next_seq));
            }
            permit.send(Batch { ops, done });
            self.told(&ledger);
        }
        written.await.map_err(|_| Error::Stopping)?.map_err(Error::NotHeld)?;
        Ok(ObserveResponse { next_seq: self.lock().cursors.durable_seq(&observed.log) })
    }

    /// Of the events that are new, what the rules make of them.
    fn hits(&self, observed: &Observed) -> Vec<Hit> {
        let (known, log) = {
            let ledger = self.lock();
            let log = ledger.cursors.shared(&observed.log).unwrap_or_else(|| observed.log.clone());
            (ledger.cursors.next_seq(&log), log)
        };
        let span = tracing::Span::current();
        let mut found = Vec::new();
        for event in observed.events.iter().filter(|event| event.seq >= known) {
            let of_event = hits(&self.0.rules, event, &log);
            if let (false, Some(trace)) = (of_event.is_empty(), &event.trace) {
                godwit_kit::trace::link(&span, trace);
            }
            found.extend(of_event);
        }
        span.record("hit_count", found.len());
        self.0.meters.events.inc_by(observed.events.len() as u64);
        self.0.meters.hits.inc_by(found.len() as u64);
        found
    }

    /// Wakes whoever waits for a change of the ledger.
    fn told(&self, ledger: &Ledger) {
        let version = ledger.board.version();
        self.0.changed.send_if_modified(|told| std::mem::replace(told, version) != version);
        self.0.looks.notify_one();
        self.0.meters.actions.set(ledger.board.len() as i64);
        self.0.meters.windows.set(ledger.windows_count() as i64);
        if ledger.turned_away_count > 0 && self.0.meters.turned_away.get() == 0 {
            tracing::warn!(limit = self.0.windows_max, "events do not count: tsa.windows_max is reached");
        }
        self.0.meters.turned_away.set(i64::try_from(ledger.turned_away_count).unwrap_or(i64::MAX));
    }

    fn page(&self, page: &Page) -> Result<ListResponse, Error> {
        let size = match page.size {
            0 => PAGE_SIZE,
            size if size <= PAGE_SIZE_MAX => size,
            size => return Err(Error::invalid("page.size", format!("{size} is above {PAGE_SIZE_MAX}"))),
        };
        let ledger = self.lock();
        let mut actions: Vec<Action> =
            ledger.board.after(&page.token).take(size as usize + 1).map(|action| (**action).clone()).collect();
        let more = actions.len() > size as usize;
        actions.truncate(size as usize);
        let last = actions.last().filter(|_| more).map(|action| action.id.clone());
        Ok(ListResponse { actions, next_token: last.unwrap_or_default() })
    }

    fn summary(&self) -> StatusResponse {
        let ledger = self.lock();
        let node = |(log, next_seq): (&crate::window::Log, u64)| status_response::Node {
            node: Some(NodeId { value: log.node.clone() }),
            log_id: log.log_id.clone(),
            next_seq,
        };
        StatusResponse {
            nodes: ledger.cursors.durable().map(node).collect(),
            instance_id: ledger.board.instance_id.clone(),
            version: ledger.board.version(),
            rule_count: self.0.rules.len() as u32,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the rules would have made of the events, were nothing forgotten.
fn would_fire(request: &TryRequest) -> Result<TryResponse, Error> {
    let mut faults = Faults::default();
    let shaping = Shaping::parse(&request.rules, "rules", &mut faults);
    if !faults.is_empty() {
        return Err(Error::invalid("rules", faults));
    }
    let rules = Arc::new(Rules::new(&shaping));
    let found =
        Observed::tried(&request.events)?.into_iter().flat_map(|(log, event)| hits(&rules, event, &log)).collect();
    let mut ledger = Ledger::new(rules.clone(), usize::MAX, String::new());
    ledger.absorb(found, 0);
    Ok(TryResponse { actions: ledger.board.after("").map(|action| (**action).clone()).collect() })
}

/// New with each start: versions count from its beginning.
fn instance_id() -> String {
    MessageId::new().to_string().replacen("msg_", "tsa_", 1)
}

impl Meters {
    fn new(host: &Host) -> Self {
        let metrics = &host.metrics;
        Self {
            events: metrics.counter("godwit_tsa_events_total", "Events taken in"),
            hits: metrics.counter("godwit_tsa_hits_total", "Events that a rule matched, once a rule"),
            actions: metrics.gauge("godwit_tsa_actions_count", "Actions in force"),
            windows: metrics.gauge("godwit_tsa_windows_count", "Windows held, one a rule, site and source"),
            turned_away: metrics.gauge(
                "godwit_tsa_turned_away_count",
                "Hits that did not count because tsa.windows_max was reached, since the start",
            ),
        }
    }
}

#[tonic::async_trait]
impl TsaService for Service {
    type WatchStream = Replies<WatchResponse>;

    async fn observe(&self, request: Request<ObserveRequest>) -> Result<Response<ObserveResponse>, Status> {
        Ok(Response::new(self.take(request.into_inner()).await?))
    }

    #[tracing::instrument(name = "tsa.watch", skip_all)]
    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let WatchRequest { known_version, instance_id } = request.into_inner();
        let watcher = Watcher::new(self.0.ledger.clone(), self.0.changed.subscribe(), self.0.host.stop.clone());
        Ok(Response::new(watcher.stream(instance_id, known_version)))
    }

    #[tracing::instrument(name = "tsa.list", skip_all)]
    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        Ok(Response::new(self.page(&request.into_inner().page.unwrap_or_default())?))
    }

    #[tracing::instrument(name = "tsa.explain", skip_all)]
    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        let id = request.into_inner().action_id;
        let (action, events) = self.lock().explain(&id).ok_or(Error::NoAction(id))?;
        Ok(Response::new(ExplainResponse { action: Some((*action).clone()), events }))
    }

    async fn cancel(&self, _: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        Err(Error::NotYet("Cancel").into())
    }

    async fn add(&self, _: Request<AddRequest>) -> Result<Response<AddResponse>, Status> {
        Err(Error::NotYet("Add").into())
    }

    #[tracing::instrument(name = "tsa.try", skip_all)]
    async fn r#try(&self, request: Request<TryRequest>) -> Result<Response<TryResponse>, Status> {
        Ok(Response::new(would_fire(&request.into_inner())?))
    }

    #[tracing::instrument(name = "tsa.status", skip_all)]
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(self.summary()))
    }
}
