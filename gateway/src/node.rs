//! The node's id: made once, kept in the data folder. The one file of this crate that says `std::fs`.

use anyhow::{Context, Result};
use godwit_proto::id::NodeId;
use std::fs;
use std::path::Path;

const FILE: &str = "node_id";

/// The id from the configuration, or from the folder, or a new one that the folder keeps.
///
/// # Errors
/// A folder that cannot be made or written, or a file that holds no id.
pub fn id(configured: &str, data_dir: &Path) -> Result<NodeId> {
    if !configured.is_empty() {
        return configured.parse().context("server.node_id");
    }
    let path = data_dir.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().with_context(|| path.display().to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => make(data_dir, &path),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

fn make(data_dir: &Path, path: &Path) -> Result<NodeId> {
    let id = NodeId::new();
    fs::create_dir_all(data_dir).with_context(|| format!("server.data_dir = {}", data_dir.display()))?;
    // Whole or not at all: a crash must not leave an empty id.
    let draft = path.with_extension("new");
    let written = fs::write(&draft, format!("{id}\n")).and_then(|()| fs::File::open(&draft)?.sync_all());
    written.and_then(|()| fs::rename(&draft, path)).with_context(|| path.display().to_string())?;
    Ok(id)
}

/// Reads a message to inject from a file.
///
/// # Errors
/// A file that cannot be read.
pub fn message(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}
