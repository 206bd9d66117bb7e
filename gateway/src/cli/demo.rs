//! `godwit demo`: a minute of mail in a make-believe internet, with nothing but this binary.

use crate::demo::{self, Wish};
use anyhow::Result;
use clap::{Args, value_parser};
use godwit_kit::config::Telemetry;
use godwit_kit::telemetry;
use std::time::Duration;

#[derive(Debug, Args)]
pub struct Demo {
    /// How long. Everything is to be seen within ten seconds.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Messages a second, as far as the disk keeps up.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = value_parser!(u32).range(1..=1_000))]
    rate: u32,
    /// Go on after that until Ctrl-C.
    #[arg(long)]
    keep: bool,
}

impl Demo {
    pub async fn run(self) -> Result<()> {
        // What is told goes to standard output. Here is only what goes wrong, and not that services which end miss each other.
        let quiet = Telemetry { log_filter: "error,gateway=warn".into(), ..Telemetry::default() };
        telemetry::init(&quiet, "")?;
        let length = Duration::from_secs(self.seconds);
        demo::run(Wish { length, messages_per_second: self.rate, keep: self.keep }).await
    }
}
