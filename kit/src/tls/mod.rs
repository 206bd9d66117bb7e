//! TLS by rustls: material from PEM files, reloaded when they change; what a certificate says of its holder.
//!
//! The crypto provider is a value, never installed for the process. A reload that fails keeps what was there and says why.

mod client;
mod holder;
mod material;
mod reload;
mod server;

pub use client::{Client, ClientFiles};
pub use holder::{Holder, holder};
pub use server::{Server, ServerFiles};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use std::path::PathBuf;
use std::sync::Arc;

/// The one provider of all of Godwit's TLS.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Why there is no TLS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{}: {what}", path.display())]
    File { path: PathBuf, what: String },
    #[error("{} and {} do not go together: {what}", cert.display(), key.display())]
    Pair { cert: PathBuf, key: PathBuf, what: String },
    #[error("{0}")]
    Settings(String),
}

impl From<rustls::Error> for Error {
    fn from(error: rustls::Error) -> Self {
        Self::Settings(error.to_string())
    }
}
