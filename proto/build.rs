//! Compiles the contracts with a protobuf compiler in Rust (no protoc), and keeps the descriptors for reflection.
use prost::Message;
use std::{env, fs, path::PathBuf};

const FILES: [&str; 10] = [
    "godwit/common/v1/common.proto",
    "godwit/common/v1/event.proto",
    "godwit/queue/v1/queue.proto",
    "godwit/queue/v1/admin.proto",
    "godwit/ingress/v1/ingress.proto",
    "godwit/egress/v1/egress.proto",
    "godwit/tsa/v1/tsa.proto",
    "godwit/throttle/v1/throttle.proto",
    "godwit/proxy/v1/proxy.proto",
    "godwit/policy/v1/policy.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=godwit");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.binpb"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().build_transport(false).bytes(".").compile_fds(descriptors)?;
    Ok(())
}
