//! One measured run: from the first connection until everything that was promised is at the sink.

use super::Work;
use crate::mta::Mta;
use crate::tools::{SmtpSink, SmtpSource};
use crate::watch;
use anyhow::{Result, ensure};
use bench::load::{Load, PATIENCE, Sent, Supply};
use bench::sink::Sink;
use godwit_kit::net::Net;
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

/// So long nothing may come after the last: a second delivery takes its time.
pub const QUIET: Duration = Duration::from_secs(2);
/// For the wait above, when it never gets quiet.
pub const QUIET_TIME_MAX: Duration = Duration::from_secs(60);

/// What a run took.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    pub messages: usize,
    pub seconds: f64,
    /// Of the MTA, not of load and sink.
    pub cpu_seconds: f64,
}

impl Figures {
    pub fn per_second(&self) -> f64 {
        self.messages as f64 / self.seconds
    }

    pub fn cpu_per_thousand(&self) -> f64 {
        self.cpu_seconds * 1_000.0 / self.messages as f64
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, rate, cpu) = (self.seconds, self.per_second(), self.cpu_per_thousand());
        write!(f, "{seconds:.2} s, {rate:.0} delivered messages/s, {cpu:.2} CPU s per 1,000")
    }
}

/// Takes the time and, where there is an MTA, its CPU time.
struct Meter {
    start: Instant,
    cpu_seconds: f64,
}

impl Meter {
    fn start(mta: Option<&Mta>) -> Self {
        Self { start: Instant::now(), cpu_seconds: mta.map_or(0.0, Mta::cpu_seconds) }
    }

    fn read(&self, mta: Option<&Mta>, messages: usize) -> Figures {
        let seconds = self.start.elapsed().as_secs_f64();
        Figures { messages, seconds, cpu_seconds: mta.map_or(0.0, Mta::cpu_seconds) - self.cpu_seconds }
    }
}

/// Our own load and sink. What was sent is told even where not everything came.
pub async fn own(mut mta: Option<&mut Mta>, load: &Load, sink: &Sink, stall: Duration) -> (Sent, Result<Figures>) {
    let supply = Supply::Made(load.make());
    let meter = Meter::start(mta.as_deref());
    let running = load.start(&Net::Tcp, supply, PATIENCE);
    let done = || {
        mta.as_deref_mut().map_or(Ok(()), Mta::check)?;
        Ok(running.is_done() && sink.count() >= running.accepted_count())
    };
    let result = watch::until("delivery", stall, done, || sink.count() + running.accepted_count()).await;
    let figures = result.map(|()| meter.read(mta.as_deref(), running.accepted_count()));
    watch::quiet(QUIET, QUIET_TIME_MAX, || sink.count()).await;
    (running.end().await, figures)
}

/// Postfix's load and sink. Fails unless exactly as many came as were promised.
pub async fn tools(
    mut mta: Option<&mut Mta>,
    work: &Work,
    (sink, folder): (&SmtpSink, &Path),
    stall: Duration,
) -> Result<Figures> {
    let to = mta.as_deref().map_or(sink.address(), Mta::smtp);
    let counts = [work.messages as usize, work.size as usize, work.connections as usize];
    let meter = Meter::start(mta.as_deref());
    let mut source = SmtpSource::start(folder, to, counts)?;
    let done = || {
        mta.as_deref_mut().map_or(Ok(()), Mta::check)?;
        Ok(source.is_done()? && sink.count() >= counts[0])
    };
    watch::until("delivery to smtp-sink", stall, done, || sink.count()).await?;
    let figures = meter.read(mta.as_deref(), counts[0]);
    watch::quiet(QUIET, QUIET_TIME_MAX, || sink.count()).await;
    ensure!(sink.count() == counts[0], "promised {} and came {}", counts[0], sink.count());
    Ok(figures)
}
