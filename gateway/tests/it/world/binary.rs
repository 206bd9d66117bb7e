//! A process of a test that is one: the binary itself.

use super::HANG;
use std::path::Path;
use std::process::Stdio;
use tokio::process::{Child, Command};

/// Runs `godwit serve`. Killed when dropped.
pub struct Binary {
    name: String,
    child: Child,
}

impl Binary {
    pub fn start(folder: &Path, name: &str, config: &str) -> Self {
        let file = folder.join(format!("{name}.toml"));
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_godwit"));
        command.args(["serve", "--config"]).arg(file).current_dir(folder).kill_on_drop(true);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        Self { name: name.into(), child }
    }

    /// As an operator ends it.
    pub async fn stop(mut self) {
        let id = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
        let status = tokio::time::timeout(HANG, self.child.wait()).await.expect("it ends").unwrap();
        assert!(status.success(), "{}: {status}", self.name);
    }
}
