//! Files in the format, from disk and from text: what they say, what is wrong with them, and where values come from.

#![allow(clippy::unwrap_used)] // helpers of tests are tests too

mod faults;
mod resolve;

use godwit_proto::id::MessageId;
use std::path::PathBuf;

/// A folder of its own, gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("godwit-shaping-{}", MessageId::new()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
