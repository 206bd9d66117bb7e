//! `godwit check`, as an operator runs it.

use std::process::{Command, Output};

fn godwit(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_godwit"));
    command.args(arguments).envs(environment.iter().copied());
    command.output().unwrap()
}

fn faults(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A file in a folder of its own.
struct File(std::path::PathBuf);

impl File {
    fn new(text: &str) -> Self {
        let name = godwit_proto::id::MessageId::new().to_string();
        let path = std::env::temp_dir().join(format!("godwit-check-{name}.toml"));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn five_different_faults_are_printed_at_once_with_their_keys() {
    let file = File::new(
        r#"
        [queue]
        retry_interval = "soon"
        [[ingress.listeners]]
        listen = "127.0.0.1"
        relay_hosts = ["10.0.0.0/40"]
        [egress]
        spelling = true
        [throttle]
        [tsa]
        [server]
        listen = "0.0.0.0:50051"
        "#,
    );
    let faults = faults(&godwit(&["check", "--config", file.path()], &[]));
    for key in [
        "queue.retry_interval: ",
        "ingress.listeners[0].listen: ",
        "ingress.listeners[0].relay_hosts",
        "egress.spelling: no such key",
        "server.listen: ",
    ] {
        assert!(faults.contains(key), "{key} is not in\n{faults}");
    }
}

#[test]
fn a_needed_service_that_is_nowhere_is_refused_by_name() {
    for command in ["check", "serve"] {
        let file = File::new("[ingress]\n[egress]\n[peers]\ntsa = [\"http://127.0.0.1:1\"]\n");
        let faults = faults(&godwit(&[command, "--config", file.path()], &[]));
        for line in ["ingress: needs queue", "egress: needs queue", "egress: needs throttle"] {
            assert!(faults.contains(line), "{line} is not in\n{faults}");
        }
        assert!(!faults.contains("needs tsa"), "{faults}");
    }
}

#[test]
fn the_environment_and_settings_are_read() {
    let output = godwit(&["check"], &[("GODWIT__QUEUE__RETRY_INTERVAL", "soon")]);
    assert!(faults(&output).contains("queue.retry_interval"));
    let output = godwit(&["check", "--set", "queue.max_age=never"], &[("GODWIT__QUEUE__RETRY_INTERVAL", "5m")]);
    let faults = faults(&output);
    assert!(faults.contains("queue.max_age") && !faults.contains("retry_interval"), "{faults}");
}

#[test]
fn the_embedded_defaults_are_valid_and_run_everything() {
    let output = godwit(&["check"], &[]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    for service in ["throttle", "tsa", "proxy", "queue", "ingress", "egress", "gateway"] {
        assert!(text.contains(service), "{text}");
    }
}

#[test]
fn a_file_that_is_no_toml_is_named_with_the_line() {
    let file = File::new("[queue]\nretry_interval = \n");
    let faults = faults(&godwit(&["check", "--config", file.path()], &[]));
    assert!(faults.contains(file.path()) && faults.contains("line 2"), "{faults}");
}

/// The reference's first block holds every key, and every key of it is one.
#[test]
fn the_configuration_reference_is_whole_and_true() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let reference = std::fs::read_to_string(root.join("docs/configuration.md")).unwrap();
    let block = reference.split("```toml").nth(1).unwrap().split("```").next().unwrap();
    let file = File::new(block);
    let output = godwit(&["check", "--config", file.path()], &[]);
    assert!(output.status.success(), "{}", faults(&output));
    let mut keys = Vec::new();
    for path in ["kit/src/config/sections.rs", "gateway/src/config.rs", "svc-queue/src/events/sinks/config.rs"]
        .into_iter()
        .map(String::from)
        .chain(
            ["ingress", "queue", "egress", "tsa", "throttle", "proxy"].map(|name| format!("svc-{name}/src/config.rs")),
        )
    {
        let source = std::fs::read_to_string(root.join(&path)).unwrap();
        let fields = source.lines().filter_map(|line| line.strip_prefix("    pub ")?.split_once(": "));
        keys.extend(
            fields
                .map(|(name, _)| name.to_string())
                .filter(|name| name.chars().all(|c| c.is_lowercase() || c == '_' || c.is_numeric())),
        );
    }
    assert!(keys.len() > 90, "{}", keys.len());
    for key in keys {
        assert!(block.contains(&key), "{key} is not in docs/configuration.md");
    }
}
