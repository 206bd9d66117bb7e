//! Who is in the make-believe internet, how much mail each gets, and what the MTA is told. Pure.

use super::manners::Manners;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

pub const ACCEPTS: &str = "accepts.example";
pub const DEFERS: &str = "defers.example";
pub const THROTTLES: &str = "throttles.example";
pub const BOUNCES: &str = "bounces.example";
pub const DOMAINS: [&str; 4] = [ACCEPTS, DEFERS, THROTTLES, BOUNCES];

/// When the first mailing comes: by then the trickle has shown how mail flows.
pub const MAILING_AFTER: Duration = Duration::from_secs(3);
pub const MAILING_EVERY: Duration = Duration::from_secs(20);
/// Of one mailing; a fourth of it comes in any second for the host that throttles to take.
const MAILING_MIN: u32 = 12;
const MAILING_MAX: u32 = 100;

/// How much of everything, for so many messages a second in sum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// Messages to the domain that throttles, handed in at once.
    pub mailing_count: u32,
    /// What the host that throttles takes in a second.
    pub taken_per_second: u32,
    /// What the TSA slows mail to it down to.
    slowed_per_second: u32,
    /// The rest, a second.
    trickle: f64,
}

impl Plan {
    pub fn new(messages_per_second: u32) -> Self {
        let mailing_count = (messages_per_second * 4).clamp(MAILING_MIN, MAILING_MAX);
        let of_mailings = f64::from(mailing_count) / MAILING_EVERY.as_secs_f64();
        Self {
            mailing_count,
            taken_per_second: mailing_count / 4,
            slowed_per_second: mailing_count / 6,
            trickle: f64::from(messages_per_second) - of_mailings,
        }
    }

    /// The domains of the trickle, each with the time between two messages to it.
    pub fn trickles(&self) -> [(&'static str, Duration); 3] {
        let every = |share: f64| Duration::from_secs_f64(1.0 / (self.trickle * share));
        [(ACCEPTS, every(0.5)), (DEFERS, every(0.25)), (BOUNCES, every(0.25))]
    }

    pub fn manners(&self, domain: &str) -> Manners {
        match domain {
            DEFERS => Manners::greylisting(),
            THROTTLES => Manners::limiting(self.taken_per_second as usize),
            BOUNCES => Manners::Choosy,
            _ => Manners::Obliging,
        }
    }

    /// The rules by which the TSA answers the host that throttles.
    pub fn rules(&self) -> String {
        let slowed = self.slowed_per_second;
        format!(
            r#"[["{THROTTLES}".automation]]
regex = "4\\.7\\.28"
trigger = {{ Threshold = "3/10s" }}
action = "Suspend"
duration = "5s"

[["{THROTTLES}".automation]]
regex = "4\\.7\\.28"
trigger = {{ Threshold = "3/10s" }}
action = {{ SetConfig = {{ name = "max_message_rate", value = "{slowed}/s,max_burst=1" }} }}
duration = "30s"
"#
        )
    }

    /// The shaping file: the port of each domain's host, and the rules.
    pub fn shaping(&self, ports: &[(&str, u16)]) -> String {
        let port = |(domain, port): &(&str, u16)| format!("[{domain:?}]\nconnection_limit = 8\nsmtp_port = {port}\n\n");
        ports.iter().map(port).chain([self.rules()]).collect()
    }

    /// What a newcomer is told first.
    pub fn explanation(&self) -> String {
        let Self { mailing_count, taken_per_second, .. } = self;
        let every_seconds = MAILING_EVERY.as_secs();
        let rules = self.rules().trim_end().replace('\n', "\n    ").replace("    \n", "\n");
        format!(
            "An MTA with a make-believe internet around it, all in this process: nothing leaves this machine.\n\
             \n    {ACCEPTS:<18} takes everything\
             \n    {DEFERS:<18} greylists: puts a recipient's first message off, takes it when it comes again\
             \n    {THROTTLES:<18} takes {taken_per_second} messages a second, says 421 4.7.28 to what is above\
             \n    {BOUNCES:<18} does not know half of its recipients\n\
             \nMail trickles in by SMTP, and every {every_seconds} s a mailing of {mailing_count} to {THROTTLES} by gRPC: too \
             much for it.\nIt answers 421; traffic shaping automation (TSA) hears that, and acts by these rules of the \
             shaping file:\n\n    {rules}\n"
        )
    }
}

/// The MTA's configuration: every service, on free ports of loopback.
pub fn configuration(folder: &Path, shaping: &Path, dns: SocketAddr) -> String {
    format!(
        r#"
[server]
listen = "127.0.0.1:0"
data_dir = {folder:?}
[ingress]
hostname = "mta.example"
[[ingress.listeners]]
listen = "127.0.0.1:0"
hostname = "mta.example"
[queue]
retry_interval = "2s"
max_retry_interval = "2s"
[egress]
hostname = "mta.example"
shaping_files = [{shaping:?}]
dns_servers = ["{dns}"]
allow_networks = ["127.0.0.0/8"]
[tsa]
[throttle]
[proxy]
listen = "127.0.0.1:0"
[gateway]
listen = "127.0.0.1:0"
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, SERVICES};
    use godwit_kit::config::{Document, Faults};

    #[test]
    fn trickle_and_mailings_are_as_many_as_was_asked_for() {
        for asked in [1, 5, 20, 1_000] {
            let plan = Plan::new(asked);
            let trickle: f64 = plan.trickles().iter().map(|(_, every)| 1.0 / every.as_secs_f64()).sum();
            let mailings = f64::from(plan.mailing_count) / MAILING_EVERY.as_secs_f64();
            assert!((trickle + mailings - f64::from(asked)).abs() < 0.01, "{asked}: {trickle} and {mailings}");
            let above = plan.mailing_count - plan.taken_per_second;
            assert!(above >= 3, "a mailing of {} does not fire the rules", plan.mailing_count);
            let rest_seconds = above / plan.slowed_per_second;
            assert!(rest_seconds + 5 < MAILING_EVERY.as_secs() as u32, "one mailing is not over when the next comes");
        }
    }

    #[test]
    fn what_the_mta_is_told_has_no_fault() {
        let some_file = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let text = configuration(Path::new("/data"), &some_file, ([127, 0, 0, 1], 53).into());
        let mut faults = Faults::default();
        let document = Document::parse(&text, "demo", &mut faults);
        assert!(faults.is_empty(), "{faults}");
        let config = Config::read(&document).unwrap();
        assert!(SERVICES.iter().all(|service| document.has(service)));
        assert_eq!(config.queue.map(|queue| queue.retry_interval), Some(Duration::from_secs(2)));
    }
}
