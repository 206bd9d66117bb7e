//! Shaping files from disk: TOML, or JSON where the name ends in `.json`.

use crate::merge::Shaping;
use godwit_kit::config::Faults;
use std::path::{Path, PathBuf};
use toml::Table;

/// The largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 16 << 20;

impl Shaping {
    /// Reads the files in order, later ones over earlier ones. All faults are noted, with file, block and key; what is
    /// sound still counts.
    pub fn load(files: &[PathBuf], faults: &mut Faults) -> Self {
        let mut shaping = Self::default();
        for path in files {
            let name = path.display().to_string();
            match text_of(path) {
                Ok(text) if path.extension().is_some_and(|extension| extension == "json") => {
                    match serde_json::from_str::<Table>(&text) {
                        Ok(table) => shaping.merge(Self::read(table, &name, faults)),
                        Err(error) => faults.add(name, error),
                    }
                }
                Ok(text) => shaping.merge(Self::parse(&text, &name, faults)),
                Err(what) => faults.add(name, what),
            }
        }
        shaping
    }
}

fn text_of(path: &Path) -> Result<String, String> {
    if path.starts_with("http:") || path.starts_with("https:") {
        return Err("files from a URL are not in this version".into());
    }
    let size_bytes = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size_bytes > FILE_BYTES_MAX {
        return Err(format!("larger than {FILE_BYTES_MAX} bytes"));
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}
