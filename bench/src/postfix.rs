//! Postfix in a folder of its own, beside whatever Postfix the machine may run.

use crate::place;
use anyhow::{Context, Result, bail, ensure};
use bench::process;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

const START_TIME_MAX: Duration = Duration::from_secs(30);
/// The services that a relay needs; none in a chroot, as many of each as the limit allows.
const SERVICES: &str = "\
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp      unix  - - n - - smtp
relay     unix  - - n - - smtp
showq     unix  n - n - - showq
error     unix  - - n - - error
retry     unix  - - n - - error
discard   unix  - - n - - discard
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
";

/// Stopped when dropped, and what does not stop is killed.
#[derive(Debug)]
pub struct Postfix {
    smtp: SocketAddr,
    folder: PathBuf,
    master: u32,
}

impl Postfix {
    /// Runs in `folder`, relays everything to `sink`.
    ///
    /// # Errors
    /// Postfix is not installed, we are not root, or it does not start.
    pub async fn start(folder: &Path, sink: SocketAddr) -> Result<Self> {
        let [smtp] = place::ports()?;
        configure(folder, smtp, sink)?;
        // Put together before the start, so that a start that fails half-way is cleaned up as well.
        let mut postfix = Self { smtp, folder: folder.into(), master: 0 };
        let output = postfix.run("start")?;
        ensure!(output.status.success(), "postfix start: {}\n{}", text(&output), place::tail(&folder.join("maillog")));
        postfix.master = postfix.read_master().context("postfix left no master.pid")?;
        process::listening(smtp, START_TIME_MAX).await.context("postfix")?;
        Ok(postfix)
    }

    /// # Errors
    /// It has ended.
    pub fn check(&self) -> Result<()> {
        match alive(self.master) {
            true => Ok(()),
            false => bail!("postfix has ended; the end of its log:\n{}", place::tail(&self.folder.join("maillog"))),
        }
    }

    pub fn smtp(&self) -> SocketAddr {
        self.smtp
    }

    /// Master waits for its children, so that what has ended is counted as well.
    pub fn cpu_seconds(&self) -> f64 {
        process::cpu_seconds(&process::tree(self.master))
    }

    fn run(&self, verb: &str) -> Result<Output> {
        let output = Command::new("postfix").arg("-c").arg(self.folder.join("etc")).arg(verb).output();
        output.context("postfix: not found; install the Debian package postfix")
    }

    fn read_master(&self) -> Option<u32> {
        std::fs::read_to_string(self.folder.join("spool/pid/master.pid")).ok()?.trim().parse().ok()
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        let Some(master) = self.read_master() else { return };
        let ours = process::tree(master);
        let _ = self.run("stop");
        for id in ours.into_iter().filter(|id| alive(*id)) {
            if let Some(id) = pid(id) {
                let _ = kill_process(id, Signal::KILL);
            }
        }
    }
}

fn pid(id: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(id).ok()?)
}

fn alive(id: u32) -> bool {
    pid(id).is_some_and(|id| test_kill_process(id).is_ok())
}

fn configure(folder: &Path, smtp: SocketAddr, sink: SocketAddr) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "postfix needs root");
    let etc = folder.join("etc");
    for name in ["etc", "spool", "lib"] {
        std::fs::create_dir(folder.join(name))?;
    }
    let owned = Command::new("chown").arg("postfix").arg(folder.join("lib")).output()?;
    ensure!(owned.status.success(), "no user postfix: install the Debian package postfix");
    let at = folder.display();
    let (port, sink_host, sink_port) = (smtp.port(), sink.ip(), sink.port());
    // Where Postfix's defaults would hold it back (look-ups, limits on one client or one destination), they are lifted.
    let main = format!(
        "compatibility_level = 3.6\nqueue_directory = {at}/spool\ndata_directory = {at}/lib\n\
         maillog_file = {at}/maillog\nmaillog_file_prefixes = {at}\nmyhostname = relay.bench.example\n\
         mydestination =\nlocal_recipient_maps =\nalias_maps =\nalias_database =\ninet_interfaces = 127.0.0.1\n\
         inet_protocols = ipv4\nmynetworks = 127.0.0.0/8\nrelayhost = [{sink_host}]:{sink_port}\n\
         smtpd_recipient_restrictions = permit_mynetworks, reject\nsmtpd_peername_lookup = no\n\
         smtpd_client_connection_count_limit = 0\ndefault_process_limit = 300\n\
         default_destination_concurrency_limit = 100\ninitial_destination_concurrency = 20\n\
         smtp_dns_support_level = disabled\nsmtp_tls_security_level = none\nsmtpd_tls_security_level = none\n\
         smtp_connection_cache_destinations = [{sink_host}]:{sink_port}\nbiff = no\nmaximal_queue_lifetime = 1h\n"
    );
    std::fs::write(etc.join("main.cf"), main)?;
    std::fs::write(etc.join("master.cf"), format!("127.0.0.1:{port} inet n - n - - smtpd\n{SERVICES}"))?;
    Ok(())
}

/// What a command has said.
fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|part| String::from_utf8_lossy(part).trim().to_string()).join(" ")
}
