//! The wire to Redis: pooled connections, each call with a deadline, scripts by their hash. The one file that knows the
//! client's crate.
//!
//! A call's commands go out together and their answers are waited for together: one round trip. Connections carry calls of
//! many at once, so that none is waited for and none is tested before use; when one fails, all of its age are replaced.

use crate::config::Config;
use bb8_redis::RedisConnectionManager;
use futures::future::join_all;
use godwit_kit::metrics::{Counter, Metrics};
use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{Client, Cmd, ConnectionAddr, IntoConnectionInfo, Pipeline, RedisError, TlsCertificates, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A script, known to Redis by its hash.
#[derive(Debug)]
pub struct Script {
    text: String,
    hash: String,
}

impl Script {
    pub fn new(text: String) -> Self {
        let hash = redis::Script::new(&text).get_hash().to_string();
        Self { text, hash }
    }
}

/// One run of a script.
#[derive(Debug, Clone)]
pub struct Call {
    pub script: Arc<Script>,
    pub keys: Vec<String>,
    pub args: Vec<String>,
}

/// What a script answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Nil,
    Int(i64),
    Text(String),
    List(Vec<Item>),
}

/// Why a command was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It may have forgotten more.
    #[error("it does not know the script")]
    NoScript,
    #[error("{0}")]
    Other(String),
}

/// Redis did not answer; whether the commands were done is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Away(pub String);

pub type Answers = Vec<Result<Item, Refused>>;

pub struct Wire {
    pool: Pool,
    timeout: Duration,
    address: String,
    round_trips: Counter,
}

enum Pool {
    Single(Connections<RedisConnectionManager>),
    /// Its keys are on several nodes: what is for one goes in one piece, all pieces at once.
    Cluster(Connections<ClusterClient>),
}

impl Wire {
    /// Connects in the background.
    ///
    /// # Errors
    /// An address or a certificate that cannot be read.
    pub fn open(config: &Config, metrics: &Metrics) -> Result<Self, String> {
        let (addresses, certificates) = (config.addresses()?, certificates(config)?);
        let infos = addresses.iter().map(|address| connection_info(address, certificates.as_ref()));
        let infos: Vec<_> = infos.collect::<Result<_, _>>()?;
        let address = infos.iter().map(|info| info.addr().to_string()).collect::<Vec<_>>().join(", ");
        let (timeout, count) = (config.redis_timeout, config.redis_connections);
        let pool = if config.cluster {
            let mut builder = ClusterClient::builder(infos)
                .connection_timeout(timeout)
                .response_timeout(timeout)
                .retries(3)
                .min_retry_wait(10)
                .max_retry_wait(100);
            if let Some(certificates) = certificates {
                builder = builder.certs(certificates);
            }
            Pool::Cluster(Connections::new(builder.build().map_err(told)?, timeout, count))
        } else {
            let info = infos.into_iter().next().ok_or("no address")?;
            Pool::Single(Connections::new(RedisConnectionManager::new(info).map_err(told)?, timeout, count))
        };
        let round_trips = metrics.counter("godwit_throttle_redis_round_trips_total", "Calls that Redis was waited for");
        Ok(Self { pool, timeout, address, round_trips })
    }

    /// Runs scripts, those of one key in their order: one round trip.
    pub async fn run(&self, calls: &[Call]) -> Result<Answers, Away> {
        if calls.is_empty() {
            return Ok(Answers::new());
        }
        self.round_trips.inc();
        match &self.pool {
            Pool::Single(pool) => self.asked(pool, |connection| run_pipeline(connection, calls.iter())).await,
            Pool::Cluster(pool) => self.asked(pool, |connection| run_by_key(connection, calls)).await,
        }
    }

    /// Runs one script with its text, which makes it known.
    pub async fn run_text(&self, call: &Call) -> Result<Result<Item, Refused>, Away> {
        let cmd = command("EVAL", &call.script.text, call);
        self.round_trips.inc();
        match &self.pool {
            Pool::Single(pool) => {
                self.asked(pool, |mut connection| async move { query(&cmd, &mut connection).await }).await
            }
            Pool::Cluster(pool) => {
                self.asked(pool, |mut connection| async move { query(&cmd, &mut connection).await }).await
            }
        }
    }

    /// Makes scripts known to every node.
    pub async fn load(&self, scripts: &[Arc<Script>]) -> Result<(), Away> {
        let loads = |script: &Arc<Script>| {
            let mut cmd = redis::cmd("SCRIPT");
            cmd.arg("LOAD").arg(&script.text);
            cmd
        };
        for cmd in scripts.iter().map(loads) {
            self.round_trips.inc();
            let loaded = match &self.pool {
                Pool::Single(pool) => {
                    self.asked(pool, |mut connection| async move { query(&cmd, &mut connection).await }).await
                }
                Pool::Cluster(pool) => {
                    self.asked(pool, |mut connection| async move { query(&cmd, &mut connection).await }).await
                }
            };
            loaded?.map_err(|refused| self.away(&refused.to_string()))?;
        }
        Ok(())
    }

    /// The names of all keys that match, in pieces. In a Cluster, those of each node.
    pub async fn scan(&self, pattern: &str, mut found: impl FnMut(Vec<String>)) -> Result<(), Away> {
        match &self.pool {
            Pool::Single(pool) => {
                let mut cursor = 0;
                loop {
                    let scan = scan_command(cursor, pattern);
                    let page =
                        self.asked(pool, |mut connection| async move { scan.query_async(&mut connection).await });
                    let (next, keys): (u64, Vec<String>) = page.await?;
                    found(keys);
                    cursor = next;
                    if cursor == 0 {
                        return Ok(());
                    }
                }
            }
            Pool::Cluster(pool) => {
                let nodes = self.asked(pool, cluster::masters).await?;
                for node in nodes {
                    let mut cursor = 0;
                    loop {
                        let scan = scan_command(cursor, pattern);
                        let page = self.asked(pool, |connection| cluster::at(connection, node.clone(), scan)).await?;
                        found(page.1);
                        cursor = page.0;
                        if cursor == 0 {
                            break;
                        }
                    }
                }
                Ok(())
            }
        }
    }

    /// One call with its deadline; a connection that fails is not used again.
    async fn asked<M, T, F>(&self, pool: &Connections<M>, call: impl FnOnce(M::Connection) -> F) -> Result<T, Away>
    where
        M: Manager,
        F: Future<Output = Result<T, RedisError>>,
    {
        let asked = async {
            let (connection, age) = pool.connection().await?;
            call(connection).await.map_err(|error| {
                pool.retire(age);
                self.away(&told(error))
            })
        };
        match tokio::time::timeout(self.timeout, asked).await {
            Ok(answer) => answer,
            Err(_) => {
                pool.retire_all();
                let reason =
                    pool.reason().unwrap_or_else(|| format!("no answer within {} ms", self.timeout.as_millis()));
                Err(self.away(&reason))
            }
        }
    }

    /// With where it leads, without secrets.
    pub fn away(&self, reason: &str) -> Away {
        Away(format!("{}: {reason}", self.address))
    }
}

/// Connections that are shared: whoever wants one takes a handle of it and puts it back at once.
struct Connections<M: Manager> {
    pool: bb8::Pool<Aged<M>>,
    state: Arc<Ages>,
}

/// Connections of an age before the present one are not used.
#[derive(Default)]
struct Ages {
    present: AtomicU64,
    /// Why the last try to connect failed.
    reason: Mutex<Option<String>>,
}

impl<M: Manager> Connections<M> {
    fn new(manager: M, timeout: Duration, count: u32) -> Self {
        let state = Arc::new(Ages::default());
        let pool = bb8::Pool::builder()
            .max_size(count)
            .min_idle(count)
            .connection_timeout(timeout)
            .test_on_check_out(false)
            .build_unchecked(Aged { manager, timeout, state: state.clone() });
        Self { pool, state }
    }

    async fn connection(&self) -> Result<(M::Connection, u64), Away> {
        loop {
            let pooled = match self.pool.get().await {
                Ok(pooled) => pooled,
                Err(_) => return Err(Away(self.reason().unwrap_or_else(|| "no connection".into()))),
            };
            if !self.state.is_retired(pooled.1) {
                return Ok((pooled.0.clone(), pooled.1));
            }
        }
    }

    fn retire(&self, age: u64) {
        let _ = self.state.present.compare_exchange(age, age + 1, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn retire_all(&self) {
        self.state.present.fetch_add(1, Ordering::Relaxed);
    }

    fn reason(&self) -> Option<String> {
        self.state.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Ages {
    fn is_retired(&self, age: u64) -> bool {
        age < self.present.load(Ordering::Relaxed)
    }
}

/// Makes connections, each with its age and a deadline.
struct Aged<M> {
    manager: M,
    timeout: Duration,
    state: Arc<Ages>,
}

impl<M: Manager> bb8::ManageConnection for Aged<M> {
    type Connection = (M::Connection, u64);
    type Error = RedisError;

    async fn connect(&self) -> Result<Self::Connection, RedisError> {
        let age = self.state.present.load(Ordering::Relaxed);
        let connect = async {
            let mut connection = self.manager.connect().await?;
            // Once, so that who may not use it is told so, and not what becomes of a long command.
            self.manager.is_valid(&mut connection).await.map(|()| connection)
        };
        let connected = match tokio::time::timeout(self.timeout, connect).await {
            Ok(connected) => connected,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        };
        let reason = connected.as_ref().err().map(|error| told(error.clone()));
        *self.state.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason;
        let mut connection = connected?;
        connection.set_deadline(self.timeout);
        Ok((connection, age))
    }

    async fn is_valid(&self, connection: &mut Self::Connection) -> Result<(), RedisError> {
        self.manager.is_valid(&mut connection.0).await
    }

    fn has_broken(&self, connection: &mut Self::Connection) -> bool {
        self.state.is_retired(connection.1)
    }
}

/// Makes connections of which many can use one at once.
trait Manager: bb8::ManageConnection<Error = RedisError, Connection: Deadline + Clone + Sync> {}

impl<M: bb8::ManageConnection<Error = RedisError, Connection: Deadline + Clone + Sync>> Manager for M {}

/// The crate's own deadline must not come before ours.
trait Deadline {
    fn set_deadline(&mut self, timeout: Duration);
}

impl Deadline for MultiplexedConnection {
    fn set_deadline(&mut self, timeout: Duration) {
        self.set_response_timeout(2 * timeout);
    }
}

impl Deadline for ClusterConnection {
    fn set_deadline(&mut self, _: Duration) {}
}

fn command(verb: &str, script: &str, call: &Call) -> Cmd {
    let mut cmd = redis::cmd(verb);
    cmd.arg(script).arg(call.keys.len()).arg(&call.keys).arg(&call.args);
    cmd
}

async fn run_pipeline<'a, C: redis::aio::ConnectionLike>(
    mut connection: C,
    calls: impl Iterator<Item = &'a Call>,
) -> Result<Answers, RedisError> {
    let mut pipeline = Pipeline::new();
    calls.for_each(|call| {
        pipeline.add_command(command("EVALSHA", &call.script.hash, call));
    });
    pipeline.ignore_errors();
    let answers: Vec<Result<Value, RedisError>> = pipeline.query_async(&mut connection).await?;
    answers.into_iter().map(answer).collect()
}

/// Calls on one key together, all keys at once.
async fn run_by_key(connection: ClusterConnection, calls: &[Call]) -> Result<Answers, RedisError> {
    let mut by_key: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (place, call) in calls.iter().enumerate() {
        by_key.entry(call.keys.first().map_or("", String::as_str)).or_default().push(place);
    }
    let runs =
        by_key.values().map(|places| run_pipeline(connection.clone(), places.iter().map(|place| &calls[*place])));
    let mut answers: Answers = vec![Err(Refused::Other(String::new())); calls.len()];
    for (places, run) in by_key.values().zip(join_all(runs).await) {
        for (place, answer) in places.iter().zip(run?) {
            answers[*place] = answer;
        }
    }
    Ok(answers)
}

async fn query<C: redis::aio::ConnectionLike>(
    cmd: &Cmd,
    connection: &mut C,
) -> Result<Result<Item, Refused>, RedisError> {
    answer(cmd.query_async(connection).await)
}

/// An answer, or what the server refuses; what fails on the way fails the whole call.
fn answer(answer: Result<Value, RedisError>) -> Result<Result<Item, Refused>, RedisError> {
    match answer {
        Ok(value) => Ok(Ok(item(value))),
        Err(error) => match error.kind() {
            redis::ErrorKind::Server(redis::ServerErrorKind::NoScript) => Ok(Err(Refused::NoScript)),
            redis::ErrorKind::Server(redis::ServerErrorKind::ResponseError) | redis::ErrorKind::Extension => {
                Ok(Err(Refused::Other(told(error))))
            }
            _ => Err(error),
        },
    }
}

fn item(value: Value) -> Item {
    match value {
        Value::Int(number) => Item::Int(number),
        Value::BulkString(bytes) => Item::Text(String::from_utf8_lossy(&bytes).into_owned()),
        Value::SimpleString(text) => Item::Text(text),
        Value::Okay => Item::Text("OK".into()),
        Value::Array(values) => Item::List(values.into_iter().map(item).collect()),
        _ => Item::Nil,
    }
}

fn told(error: RedisError) -> String {
    error.to_string()
}

fn scan_command(cursor: u64, pattern: &str) -> Cmd {
    let mut cmd = redis::cmd("SCAN");
    cmd.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(1_000);
    cmd
}

/// Reads an address.
///
/// # Errors
/// What is wrong with it, without the secrets in it.
pub fn check_address(address: &str) -> Result<(), String> {
    connection_info(address, None).map(drop)
}

fn connection_info(address: &str, certificates: Option<&TlsCertificates>) -> Result<redis::ConnectionInfo, String> {
    let not_ours = || "must be redis://[user:password@]host[:port][/db], or rediss:// for TLS".to_string();
    let info = address.into_connection_info().map_err(|_| not_ours())?;
    match (info.addr(), certificates) {
        (ConnectionAddr::Tcp(..), _) | (ConnectionAddr::TcpTls { .. }, None) => Ok(info),
        (ConnectionAddr::TcpTls { .. }, Some(certificates)) => {
            let client = Client::build_with_tls(info, certificates.clone()).map_err(told)?;
            Ok(client.get_connection_info().clone())
        }
        _ => Err(not_ours()),
    }
}

fn certificates(config: &Config) -> Result<Option<TlsCertificates>, String> {
    let root_cert = config.authority()?;
    Ok(root_cert.map(|root_cert| TlsCertificates { client_tls: None, root_cert: Some(root_cert) }))
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("address", &self.address).finish_non_exhaustive()
    }
}

/// What only a Cluster has: nodes to be asked by their address.
mod cluster {
    use super::*;
    use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};

    pub type Node = (String, u16);

    /// The nodes that hold keys.
    pub async fn masters(mut connection: ClusterConnection) -> Result<Vec<Node>, RedisError> {
        let mut cmd = redis::cmd("CLUSTER");
        cmd.arg("NODES");
        let text: String = redis::from_redis_value(
            connection.route_command(cmd, RoutingInfo::SingleNode(SingleNodeRoutingInfo::Random)).await?,
        )?;
        Ok(text.lines().filter_map(master).collect())
    }

    /// `id host:port@bus flags …`
    fn master(line: &str) -> Option<Node> {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (address, flags) = (words.next()?, words.next()?);
        let (host, port) = address.split('@').next()?.rsplit_once(':')?;
        let flags: Vec<&str> = flags.split(',').collect();
        (flags.contains(&"master") && !flags.contains(&"fail")).then(|| Some((host.into(), port.parse().ok()?)))?
    }

    pub async fn at(
        mut connection: ClusterConnection,
        (host, port): Node,
        cmd: Cmd,
    ) -> Result<(u64, Vec<String>), RedisError> {
        let routing = RoutingInfo::SingleNode(SingleNodeRoutingInfo::ByAddress { host, port });
        Ok(redis::from_redis_value(connection.route_command(cmd, routing).await?)?)
    }
}
