//! `godwit health`: whether a process, or one service of it, is ready; for container health checks.

use super::remote::Remote;
use anyhow::{Result, anyhow, bail};
use clap::Args;
use godwit_kit::{call, health};
use std::time::Duration;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

#[derive(Debug, Args)]
pub struct Health {
    #[command(flatten)]
    remote: Remote,
    /// One service: queue, egress …, or its name in the contracts; without it, all that run there.
    #[arg(long, default_value = "")]
    service: String,
    /// How long to wait for the answer, in milliseconds.
    #[arg(long, default_value_t = 5_000)]
    timeout_ms: u64,
}

impl Health {
    /// # Errors
    /// Not reached, or not ready.
    pub async fn run(self) -> Result<()> {
        let service = match (health::contract_names(&self.service).first(), self.service.contains('.')) {
            (Some(name), _) => name.to_string(),
            (None, true) => self.service.clone(),
            (None, false) if self.service.is_empty() => String::new(),
            (None, false) => bail!("--service {}: no such service", self.service),
        };
        let mut client = HealthClient::new(self.remote.road()?.wire);
        let asked = client.check(HealthCheckRequest { service });
        let answer = call::within(Duration::from_millis(self.timeout_ms), asked).await;
        let answer = answer.map_err(|status| anyhow!("{}: {}", self.remote.server, status.message()))?;
        match answer.get_ref().status() {
            ServingStatus::Serving => {
                println!("ready");
                Ok(())
            }
            ServingStatus::Unknown | ServingStatus::NotServing | ServingStatus::ServiceUnknown => {
                bail!("{}: not ready", self.remote.server)
            }
        }
    }
}
