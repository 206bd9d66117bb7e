//! The one file of this crate that says `std::fs`.

use anyhow::{Context, Result};
use godwit_proto::id::NodeId;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Reads a message to inject from a file.
///
/// # Errors
/// A file that cannot be read.
pub fn message(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

/// A file's text; `None` where there is no such file.
///
/// # Errors
/// A file that cannot be read.
pub fn read_text(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Writes a file, whole or not at all; its folder is made where it is not there.
///
/// # Errors
/// Where it cannot be written.
pub fn write_text(path: &Path, text: &str) -> Result<()> {
    write(path, text, 0o644)
}

/// The same for its owner's eyes only.
///
/// # Errors
/// Where it cannot be written.
pub fn write_secret(path: &Path, text: &str) -> Result<()> {
    write(path, text, 0o600)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let draft = path.with_extension("new");
    let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| {
        // One that was left behind would lend its mode.
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)
    });
    written.with_context(|| path.display().to_string())
}

/// A folder for a while, below the system's for temporary files: for its owner alone, and gone when dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// # Errors
    /// Where it cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("{name}-{}", NodeId::new()));
        fs::DirBuilder::new().mode(0o700).create(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Removes it with all that is in it.
    ///
    /// # Errors
    /// Where something is left.
    pub fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.0).with_context(|| format!("{} is not removed", self.0.display()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Gone already where it was removed; on other ways out there is nobody to be told.
        let _ = fs::remove_dir_all(&self.0);
    }
}
