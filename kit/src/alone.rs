//! Runs one service in a process of its own, from the same document that a whole node reads: its own section runs here,
//! and what it needs is at its peers. Sections of other services are for other processes.

use crate::config::{Document, Faults, Peers, Section, Server, Telemetry};
use crate::house::{self, House};
use crate::tokens::Tokens;
use crate::{Host, disk, stop, telemetry};
use clap::Parser;
use futures::future::BoxFuture;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// How long a stop may take.
pub const GRACE: Duration = Duration::from_secs(30);
/// What of it is kept for what a service does last.
pub const CLOSING: Duration = Duration::from_secs(5);

/// What a service does once all of its tasks have ended.
pub type Closing = BoxFuture<'static, ()>;
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs one service of Godwit.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file; without one, defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, such as server.listen=127.0.0.1:50051. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Read the configuration, print every fault, and run nothing.
    #[arg(long)]
    check: bool,
}

/// The sections of such a process.
struct Config<C> {
    server: Server,
    telemetry: Telemetry,
    peers: Peers,
    own: C,
}

/// The whole of a service's `main`: `place` builds it in the house. Ends on SIGTERM or SIGINT.
pub fn main<C: Section>(
    needs: &'static [&'static str],
    place: impl AsyncFnOnce(&mut House, C) -> Result<Closing, Failure>,
) -> ExitCode {
    let arguments = Arguments::parse();
    let ran = read::<C>(&arguments, needs).map_err(Failure::from).and_then(|config| {
        if arguments.check {
            println!("the configuration is valid; this process would run {}", C::NAME);
            return Ok(());
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(run(config, place))
    });
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", C::NAME);
            ExitCode::FAILURE
        }
    }
}

fn read<C: Section>(arguments: &Arguments, needs: &[&str]) -> Result<Config<C>, Faults> {
    let mut document = Document::load(arguments.config.as_deref(), std::env::vars_os(), &arguments.set)?;
    document.ensure(C::NAME);
    let faults = &mut Faults::default();
    document.check_names(faults);
    let (server, telemetry) = (document.section_or_default::<Server>(faults), document.section_or_default(faults));
    let peers: Peers = document.section_or_default(faults);
    peers.check_plaintext(&server, faults);
    for need in needs.iter().filter(|need| peers.of(need).is_empty()) {
        faults.add(C::NAME, format!("needs {need}: give its address under peers.{need}"));
    }
    let own = document.section(faults);
    match own {
        Some(own) if faults.is_empty() => Ok(Config { server, telemetry, peers, own }),
        Some(_) | None => Err(std::mem::take(faults)),
    }
}

async fn run<C: Section>(
    config: Config<C>,
    place: impl AsyncFnOnce(&mut House, C) -> Result<Closing, Failure>,
) -> Result<(), Failure> {
    let Config { server, telemetry, peers, own } = config;
    let mut signals = stop::Signals::listen()?;
    let node = disk::node_id(&server.node_id, &server.data_dir)?;
    let traces = telemetry::init(&telemetry, &node.to_string())?;
    let host = Host::new(node);
    let mut house = House::new(&server, &peers, Tokens::default(), &host)?;
    let placed = match place(&mut house, own).await {
        Ok(closing) => open(house, &telemetry).await.map(|()| closing).map_err(Failure::from),
        Err(error) => Err(error),
    };
    let closing = match placed {
        Ok(closing) => closing,
        Err(error) => {
            host.stop.finish(GRACE).await;
            return Err(error);
        }
    };
    signals.received().await;
    tracing::info!("stopping");
    let finished = host.stop.finish(GRACE.saturating_sub(CLOSING)).await;
    let closed = tokio::time::timeout(CLOSING, closing).await.is_ok();
    tokio::task::spawn_blocking(move || traces.finish()).await?;
    if finished && closed { Ok(()) } else { Err(format!("some work still ran after {} s", GRACE.as_secs()).into()) }
}

async fn open(house: House, telemetry: &Telemetry) -> Result<(), house::Error> {
    let node = house.host.node;
    house.tell(telemetry).await?;
    let grpc = house.open().await?;
    tracing::info!(%node, %grpc, "runs");
    Ok(())
}
