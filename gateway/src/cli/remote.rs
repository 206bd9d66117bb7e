//! The process that a command speaks to, and how it shows who it is.

use anyhow::{Context, Result, bail};
use clap::Args;
use godwit_kit::connect::{self, Road};
use godwit_kit::tls;
use std::path::PathBuf;
use tonic::Request;

/// Where, and with which credentials.
#[derive(Debug, Args)]
pub struct Remote {
    /// The gRPC listener of a process; https:// for TLS.
    #[arg(long, env = "GODWIT_SERVER", value_name = "URL", default_value = "http://127.0.0.1:50051")]
    pub server: String,
    /// The authority of its certificate: a PEM file.
    #[arg(long, env = "GODWIT_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Our own certificate, whose organizational unit is our role; with --key.
    #[arg(long, env = "GODWIT_CERT", value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    #[arg(long, env = "GODWIT_KEY", value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// A token of its [[gateway.tokens]].
    #[arg(long, env = "GODWIT_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    token: Option<String>,
}

impl Remote {
    /// # Errors
    /// An address or certificates that cannot be used.
    pub fn road(&self) -> Result<Road> {
        let tls = match (&self.ca, &self.cert, &self.key) {
            (None, None, None) => None,
            (None, Some(_), _) | (None, _, Some(_)) => bail!("--cert needs --ca, the authority of the server"),
            (Some(ca), cert, key) => {
                let identity = cert.clone().zip(key.clone());
                Some(tls::Client::load(tls::ClientFiles { ca: ca.clone(), identity })?)
            }
        };
        connect::road(&self.server, tls.as_ref()).context("--server")
    }

    /// The request with the token, where there is one.
    ///
    /// # Errors
    /// A token that cannot stand in a header.
    pub fn request<T>(&self, message: T) -> Result<Request<T>> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            let value = format!("Bearer {token}").parse().context("--token: must be visible ASCII")?;
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}
