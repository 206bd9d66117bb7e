//! `godwit inject`: one message, by gRPC, to whichever process runs an ingress.

use super::remote::Remote;
use anyhow::{Context, Result, bail};
use clap::Args;
use godwit_kit::call;
use godwit_proto::common::v1::{Body, BodyType, Envelope, Recipient, body::Content};
use godwit_proto::ingress::v1::{InjectMessage, InjectRequest, inject_response::Outcome};
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub struct Inject {
    /// A process that runs an ingress.
    #[command(flatten)]
    remote: Remote,
    /// The reverse-path; empty for the null one.
    #[arg(long)]
    from: String,
    /// A recipient. May be repeated.
    #[arg(long, required = true)]
    to: Vec<String>,
    #[arg(long, default_value = "")]
    tenant: String,
    #[arg(long, default_value = "")]
    campaign: String,
    /// The same key again gives the same message.
    #[arg(long, default_value = "")]
    idempotency_key: String,
    /// The message, header and body; standard input where it is not given. Line ends may be LF.
    file: Option<PathBuf>,
}

impl Inject {
    pub async fn run(self) -> Result<()> {
        let content = match &self.file {
            Some(path) => crate::node::message(path)?,
            None => read_input()?,
        };
        let ingress = godwit_proto::ingress::at(self.remote.road()?.wire);
        let request = InjectRequest { messages: vec![self.message(content)?], ..InjectRequest::default() };
        let answer = call::within(DEADLINE, ingress.inject(self.remote.request(request)?)).await;
        let results = answer.map_err(|status| anyhow::anyhow!("{}: {}", self.remote.server, status.message()))?;
        for result in results.into_inner().results {
            let id = result.message_id.clone().unwrap_or_default().value;
            match result.outcome() {
                Outcome::Accepted => println!("{id}"),
                Outcome::Duplicate => println!("{id} (was there already)"),
                Outcome::Refused | Outcome::Unspecified => {
                    bail!("{}: {}", result.field, result.reply.unwrap_or_default().line())
                }
            }
        }
        Ok(())
    }

    fn message(&self, content: Vec<u8>) -> Result<InjectMessage> {
        let content = crate::http::content::crlf(content.into()).context("the message has bare CR or LF line ends")?;
        let recipients = self.to.iter().map(|address| Recipient { address: address.clone(), ..Recipient::default() });
        let body_type = if content.is_ascii() { BodyType::SevenBit } else { BodyType::EightBitMime };
        Ok(InjectMessage {
            envelope: Some(Envelope {
                reverse_path: self.from.clone(),
                recipients: recipients.collect(),
                body_type: body_type.into(),
                ..Envelope::default()
            }),
            body: Some(Body { size_bytes: content.len() as u64, content: Some(Content::Inline(content)) }),
            tenant: self.tenant.clone(),
            campaign: self.campaign.clone(),
            idempotency_key: self.idempotency_key.clone(),
            received_header: true,
            ..InjectMessage::default()
        })
    }
}

fn read_input() -> Result<Vec<u8>> {
    let mut content = Vec::new();
    std::io::stdin().read_to_end(&mut content).context("standard input")?;
    Ok(content)
}
