//! The walls of the house, checked in the source itself.

use std::fs;
use std::path::{Path, PathBuf};

const SERVICES: [&str; 6] = ["svc-ingress", "svc-queue", "svc-egress", "svc-tsa", "svc-throttle", "svc-proxy"];
const GROUND: [&str; 4] = ["proto", "kit", "smtp", "shaping"];

/// The pure cores: no socket, no disk, no clock.
const CORES: [&str; 19] = [
    "smtp/src",
    "svc-throttle/src/bucket.rs",
    "svc-throttle/src/grain.rs",
    "svc-throttle/src/lease.rs",
    "svc-throttle/src/redis/memo.rs",
    "svc-throttle/src/share.rs",
    "svc-throttle/src/take.rs",
    "svc-throttle/src/tenure.rs",
    "svc-tsa/src/rules.rs",
    "svc-tsa/src/window.rs",
    "svc-proxy/src/source.rs",
    "svc-queue/src/schedule.rs",
    "svc-queue/src/lease.rs",
    "svc-queue/src/lane.rs",
    "svc-queue/src/spool/record.rs",
    "svc-egress/src/site.rs",
    "svc-egress/src/classify.rs",
    "svc-egress/src/path.rs",
    "svc-egress/src/plan.rs",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn crates() -> impl Iterator<Item = &'static str> {
    SERVICES.into_iter().chain(GROUND).chain(["gateway"])
}

/// The Rust files below a path, or the path itself.
fn sources(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_path_buf()];
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| sources(&entry.path()))
        .filter(|path| path.extension().is_some_and(|kind| kind == "rs"))
        .collect()
}

/// The code of a file without comments and without its tests, which come last.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    let lines = text[..end].lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The names under one heading of a manifest.
fn dependencies(krate: &str, heading: &str) -> Vec<String> {
    let manifest: toml::Table = fs::read_to_string(root().join(krate).join("Cargo.toml")).unwrap().parse().unwrap();
    let table = manifest.get(heading).and_then(|table| table.as_table());
    table.into_iter().flat_map(|table| table.keys().cloned()).collect()
}

#[test]
fn no_service_depends_on_another() {
    for service in SERVICES {
        for heading in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let others: Vec<_> =
                dependencies(service, heading).into_iter().filter(|name| SERVICES.contains(&name.as_str())).collect();
            assert!(others.is_empty(), "{service} depends on {others:?}");
        }
    }
}

#[test]
fn the_ground_knows_nothing_above_it() {
    for krate in GROUND {
        let above: Vec<_> = dependencies(krate, "dependencies")
            .into_iter()
            .filter(|name| SERVICES.contains(&name.as_str()) || name == "gateway")
            .collect();
        assert!(above.is_empty(), "{krate} depends on {above:?}");
    }
    let ours = dependencies("proto", "dependencies").into_iter().filter(|name| name.starts_with("godwit"));
    assert_eq!(ours.count(), 0, "the contracts depend on no crate of ours");
    for foreign in ["tokio", "tonic", "prost", "godwit-kit", "godwit-proto"] {
        assert!(!dependencies("smtp", "dependencies").contains(&foreign.to_string()), "smtp depends on {foreign}");
    }
}

#[test]
fn one_file_a_crate_says_each_replaceable_thing() {
    for krate in crates() {
        for word in ["sled::", "redis::", "hickory_resolver::", "std::fs"] {
            let says: Vec<_> = sources(&root().join(krate).join("src"))
                .into_iter()
                .filter(|path| code(path).contains(word) && !path.components().any(|part| part.as_os_str() == "tests"))
                .collect();
            assert!(says.len() <= 1, "{word} in {says:?}");
        }
    }
}

#[test]
fn pure_cores_see_no_socket_no_disk_and_no_clock() {
    for core in CORES {
        let path = root().join(core);
        assert!(path.exists(), "{core} is not there");
        for file in sources(&path) {
            let code = code(&file);
            for word in ["tokio::", "tonic::", "std::fs", "std::thread", "SystemTime::now", "Instant::now", "TcpStream"]
            {
                assert!(!code.contains(word), "{word} in {}", file.display());
            }
        }
    }
}

#[test]
fn nothing_is_process_wide() {
    for krate in crates() {
        for file in sources(&root().join(krate).join("src")) {
            for line in code(&file).lines() {
                let shared = ["Mutex", "RwLock", "OnceLock", "LazyLock", "OnceCell", "Atomic"];
                let is_static = line.trim_start().trim_start_matches("pub ").starts_with("static ");
                let held = is_static && shared.iter().any(|kind| line.contains(kind));
                assert!(!held && !line.contains("thread_local!"), "{}: {line}", file.display());
            }
        }
    }
}

#[test]
fn services_take_the_time_from_their_host() {
    for service in SERVICES {
        for file in sources(&root().join(service).join("src")) {
            // The spool's threads keep files by their age on the disk, which only the machine's clock knows.
            if file.components().any(|part| part.as_os_str() == "spool") {
                continue;
            }
            let code = code(&file);
            let tells = ["SystemTime::now", "std::time::Instant::now"];
            assert!(!tells.iter().any(|word| code.contains(word)), "{} looks at the clock itself", file.display());
        }
    }
}

#[test]
fn files_open_with_their_one_idea_and_are_small() {
    for krate in crates().chain(["bench"]) {
        for file in sources(&root().join(krate)) {
            let text = fs::read_to_string(&file).unwrap();
            assert!(text.starts_with("//!"), "{} does not say what it is", file.display());
            assert!(text.lines().count() <= 500, "{} is past 500 lines", file.display());
        }
    }
}

#[test]
fn every_service_has_the_same_rooms() {
    for service in SERVICES {
        let src = root().join(service).join("src");
        for room in ["lib", "config", "error", "service"] {
            let found = src.join(format!("{room}.rs")).exists() || src.join(room).join("mod.rs").exists();
            assert!(found, "{service} has no {room}");
        }
    }
}

#[test]
fn nothing_is_left_to_do() {
    for krate in crates().chain(["bench"]) {
        for file in sources(&root().join(krate).join("src")) {
            let code = code(&file);
            for word in ["todo!(", "unimplemented!(", "unsafe "] {
                assert!(!code.contains(word), "{word} in {}", file.display());
            }
        }
    }
}
