//! `godwit check`: every fault of the configuration at once.

use super::Source;
use crate::config::Config;
use anyhow::Result;

pub fn check(source: &Source) -> Result<()> {
    let config = Config::read(&source.load()?)?;
    let placed = [
        ("throttle", config.throttle.is_some()),
        ("tsa", config.tsa.is_some()),
        ("proxy", config.proxy.is_some()),
        ("queue", config.queue.is_some()),
        ("ingress", config.ingress.is_some()),
        ("egress", config.egress.is_some()),
        ("gateway", config.gateway.is_some()),
    ];
    let names: Vec<_> = placed.into_iter().filter(|(_, here)| *here).map(|(name, _)| name).collect();
    println!("the configuration is valid; this process would run {}", names.join(", "));
    Ok(())
}
