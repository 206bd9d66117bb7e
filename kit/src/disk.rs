//! The one file of this crate that says `std::fs`: texts, and the node's id, made once and kept in the data folder.

use godwit_proto::id::NodeId;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const FILE: &str = "node_id";

/// Why a node has no id.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("server.node_id: {0}")]
    Configured(String),
    #[error("server.data_dir: {}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{}: {what}", path.display())]
    Kept { path: PathBuf, what: String },
}

/// # Errors
/// A file that cannot be read, or is not UTF-8.
pub fn text(path: &Path) -> io::Result<String> {
    fs::read_to_string(path)
}

/// The id from the configuration, or from the folder, or a new one that the folder keeps.
///
/// # Errors
/// A folder that cannot be made or written, or a file that holds no id.
pub fn node_id(configured: &str, data_dir: &Path) -> Result<NodeId, Error> {
    if !configured.is_empty() {
        return configured.parse().map_err(|_| Error::Configured(format!("{configured:?} is no node id")));
    }
    let path = data_dir.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|_| Error::Kept { path, what: "holds no node id".into() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(data_dir, path),
        Err(error) => Err(Error::Io { path, error }),
    }
}

/// For tests: files in a folder of their own.
#[cfg(test)]
pub(crate) fn write_all(dir: &Path, files: &[(&str, &str)]) {
    fs::create_dir_all(dir).unwrap();
    files.iter().for_each(|(name, text)| fs::write(dir.join(name), text).unwrap());
}

#[cfg(test)]
pub(crate) fn remove_all(dir: &Path) {
    fs::remove_dir_all(dir).unwrap();
}

fn make(data_dir: &Path, path: PathBuf) -> Result<NodeId, Error> {
    let id = NodeId::new();
    // Whole or not at all: a crash must not leave an empty id.
    let draft = path.with_extension("new");
    let made = fs::create_dir_all(data_dir)
        .and_then(|()| fs::write(&draft, format!("{id}\n")))
        .and_then(|()| fs::File::open(&draft)?.sync_all())
        .and_then(|()| fs::rename(&draft, &path));
    made.map(|()| id).map_err(|error| Error::Io { path, error })
}
