//! `godwit serve`: runs until SIGTERM or SIGINT, then ends gracefully.

use super::Source;
use crate::compose;
use crate::config::Config;
use anyhow::{Context, Result, ensure};
use godwit_kit::{Host, disk, stop, telemetry};

pub async fn serve(source: &Source) -> Result<()> {
    let config = Config::read(&source.load()?)?;
    let mut signals = stop::Signals::listen().context("signals")?;
    let id = disk::node_id(&config.server.node_id, &config.server.data_dir)?;
    let traces = telemetry::init(&config.telemetry, &id.to_string())?;
    let running = compose::start_on(config, Host::new(id)).await?;
    signals.received().await;
    tracing::info!("stopping");
    let clean = running.stop().await;
    tokio::task::spawn_blocking(move || traces.finish()).await?;
    ensure!(clean, "some work was still running after {} s", compose::GRACE.as_secs());
    Ok(())
}
