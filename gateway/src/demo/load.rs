//! The mail: a steady trickle by SMTP to most domains, and now and then a mailing by gRPC to the one that throttles.

use super::client::Client;
use super::manners::NOBODY;
use super::plan::{BOUNCES, MAILING_AFTER, MAILING_EVERY, Plan, THROTTLES};
use anyhow::{Result, ensure};
use bytes::Bytes;
use godwit_kit::call;
use godwit_kit::stop::Stop;
use godwit_proto::common::v1::{Body, BodyType, Envelope, Recipient, body::Content};
use godwit_proto::ingress::Ingress;
use godwit_proto::ingress::v1::{InjectMessage, InjectRequest, inject_response::Outcome};
use godwit_smtp::Address;
use godwit_smtp::submit::Transaction;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};

const SENDER: &str = "news@sender.example";
const INJECT_TIMEOUT: Duration = Duration::from_secs(30);
/// After mail that could not be handed in.
const TROUBLE_WAIT: Duration = Duration::from_secs(1);

/// Starts it; it ends when `stop` is requested, with what it has in hand handed in.
pub fn start(plan: Plan, smtp: SocketAddr, ingress: Ingress, stop: &Stop) {
    for (domain, every) in plan.trickles() {
        stop.spawn(trickle(domain, every, smtp, stop.clone()));
    }
    stop.spawn(mailings(plan.mailing_count, ingress, stop.clone()));
}

async fn trickle(domain: &'static str, every: Duration, smtp: SocketAddr, stop: Stop) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection: Option<Client> = None;
    for number in 0u64.. {
        tokio::select! {
            biased;
            () = stop.requested() => break,
            _ = ticks.tick() => {}
        }
        match hand_in(connection.take(), smtp, domain, number).await {
            Ok(client) => connection = Some(client),
            Err(error) => {
                tracing::warn!(domain, error = format!("{error:#}"), "a message could not be handed in");
                tokio::time::sleep(TROUBLE_WAIT).await;
            }
        }
    }
    if let Some(client) = connection {
        client.quit().await;
    }
}

/// Over the connection that is there, else over a new one.
async fn hand_in(connection: Option<Client>, smtp: SocketAddr, domain: &str, number: u64) -> Result<Client> {
    let recipient = recipient(domain, number);
    let content = content(&recipient, number);
    let sender = Address::parse(SENDER)?;
    let transaction = Transaction::new(sender.into(), vec![Address::parse(&recipient)?], content);
    let mut client = match connection {
        Some(client) => client,
        None => Client::connect(smtp).await?,
    };
    client.send(transaction).await?;
    Ok(client)
}

async fn mailings(count: u32, ingress: Ingress, stop: Stop) {
    let mut ticks = interval_at(Instant::now() + MAILING_AFTER, MAILING_EVERY);
    for mailing in 0u64.. {
        tokio::select! {
            biased;
            () = stop.requested() => return,
            _ = ticks.tick() => {}
        }
        let first = mailing * u64::from(count);
        if let Err(error) = mail(&ingress, first..first + u64::from(count)).await {
            tracing::warn!(error = format!("{error:#}"), "a mailing could not be handed in");
        }
    }
}

/// One call for all: they share one commit.
async fn mail(ingress: &Ingress, numbers: std::ops::Range<u64>) -> Result<()> {
    let messages = numbers.map(|number| letter(&recipient(THROTTLES, number), number)).collect();
    let request = InjectRequest { messages, ..InjectRequest::default() };
    let answer = call::within(INJECT_TIMEOUT, ingress.inject(tonic::Request::new(request))).await?;
    for result in answer.into_inner().results {
        let reply = result.reply.clone().unwrap_or_default().line();
        ensure!(result.outcome() == Outcome::Accepted, "{}: {reply}", result.field);
    }
    Ok(())
}

fn letter(recipient: &str, number: u64) -> InjectMessage {
    let content = content(recipient, number);
    let recipient = Recipient { address: recipient.into(), ..Recipient::default() };
    InjectMessage {
        envelope: Some(Envelope {
            reverse_path: SENDER.into(),
            recipients: vec![recipient],
            body_type: BodyType::SevenBit.into(),
            ..Envelope::default()
        }),
        body: Some(Body { size_bytes: content.len() as u64, content: Some(Content::Inline(content)) }),
        received_header: true,
        ..InjectMessage::default()
    }
}

/// Each has a message of its own. Every other one at the domain that bounces is somebody it does not know.
fn recipient(domain: &str, number: u64) -> String {
    let name = if domain == BOUNCES && number.is_multiple_of(2) { NOBODY } else { "reader" };
    format!("{name}-{number}@{domain}")
}

fn content(recipient: &str, number: u64) -> Bytes {
    format!("From: <{SENDER}>\r\nTo: <{recipient}>\r\nSubject: No. {number}\r\n\r\nHello.\r\n").into()
}
