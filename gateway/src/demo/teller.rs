//! Watches the queue and the TSA by gRPC while the load runs, and prints what the story makes of it.

use super::lines::Lines;
use super::plan::{DOMAINS, Plan};
use super::story::Story;
use super::{Wish, load};
use crate::compose::Running;
use anyhow::{Context, Result, ensure};
use godwit_kit::stop::{Signals, Stop};
use godwit_kit::{call, connect};
use godwit_proto::common::v1::{Cursor, Event};
use godwit_proto::convert::system_time;
use godwit_proto::queue::v1::watch_events_response::Item as Told;
use godwit_proto::queue::v1::{InspectRequest, WatchEventsRequest, WatchEventsResponse};
use godwit_proto::queue::{self, QueueAdmin};
use godwit_proto::tsa::v1::{WatchRequest, WatchResponse};
use godwit_proto::{Replies, ingress, tsa};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, sleep_until};
use tokio_stream::StreamExt;
use tonic::Request;

const TABLE_EVERY: Duration = Duration::from_secs(5);
/// With `keep`, once the time is over.
const TABLE_LATER: Duration = Duration::from_secs(30);
/// So long before the end no more mail comes in, and the queue empties.
const LOAD_ENDS_BEFORE: Duration = Duration::from_secs(3);
/// What the load has in hand is handed in.
const LOAD_GRACE: Duration = Duration::from_secs(10);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Tells until the time is over or a signal comes.
///
/// # Errors
/// The time was over, and something was not to be seen; or nothing can be seen or told at all.
pub async fn tell(wish: Wish, plan: Plan, (mta, dns): (&Running, SocketAddr), signals: &mut Signals) -> Result<()> {
    let wire = connect::road(&format!("http://{}", mta.grpc), None)?.wire;
    let load = Stop::new();
    let began = mta.host.clock.now();
    let (queue, tsa) = (queue::at(wire.clone()), tsa::at(wire.clone()));
    let from_the_oldest = WatchEventsRequest { cursor: Some(Cursor::default()), filter: None };
    let events = queue.watch_events(Request::new(from_the_oldest));
    let actions = tsa.watch(Request::new(WatchRequest::default()));
    let mut teller = Teller {
        wish,
        mta,
        story: Story::new(Lines(began), &DOMAINS),
        admin: queue::admin_at(wire.clone()),
        events: call::within(CALL_TIMEOUT, events).await?.into_inner(),
        actions: call::within(CALL_TIMEOUT, actions).await?.into_inner(),
        load: load.clone(),
    };
    say(&[plan.explanation(), teller.where_to_look(dns)])?;
    load::start(plan, *mta.smtp.first().context("no SMTP listener")?, ingress::at(wire), &load);
    let told = teller.watch(signals).await;
    ensure!(load.finish(LOAD_GRACE).await, "the load did not end");
    told
}

struct Teller<'a> {
    wish: Wish,
    mta: &'a Running,
    story: Story,
    admin: QueueAdmin,
    events: Replies<WatchEventsResponse>,
    actions: Replies<WatchResponse>,
    load: Stop,
}

impl Teller<'_> {
    async fn watch(&mut self, signals: &mut Signals) -> Result<()> {
        let end = Instant::now() + self.wish.length;
        let mut load_end = (!self.wish.keep).then(|| end - LOAD_ENDS_BEFORE.min(self.wish.length / 4));
        let mut table = Instant::now() + TABLE_EVERY;
        let mut over = false;
        loop {
            tokio::select! {
                biased;
                () = signals.received() => return self.interrupted(),
                () = sleep_until(end), if !over => {
                    over = true;
                    table = Instant::now() + TABLE_LATER;
                    self.conclude()?;
                    if !self.wish.keep {
                        return Ok(());
                    }
                }
                () = sleep_until(load_end.unwrap_or(end)), if load_end.is_some() => {
                    load_end = None;
                    self.load.request();
                    self.line("load ends", "no more mail comes in; what is queued goes on its way")?;
                }
                () = sleep_until(table) => {
                    table = Instant::now() + if over { TABLE_LATER } else { TABLE_EVERY };
                    say(&self.story.table(self.now()))?;
                }
                answer = self.actions.next() => {
                    let item = answer.context("the TSA's actions ended")??.item;
                    let now = self.now();
                    say(&item.map(|item| self.story.reactions.hear(item, now)).unwrap_or_default())?;
                }
                answer = self.events.next() => self.hear_queue(answer.context("the queue's events ended")??).await?,
            }
        }
    }

    async fn hear_queue(&mut self, answer: WatchEventsResponse) -> Result<()> {
        match answer.item {
            Some(Told::Events(batch)) => {
                for event in batch.events {
                    let again = if self.story.asks_when(&event) { self.due_again(&event).await } else { None };
                    say(self.story.event(&event, again).as_slice())?;
                }
            }
            Some(Told::Gap(gap)) => {
                self.line("gap", &format!("events {} to {} are not in the log any more", gap.from, gap.to))?;
            }
            Some(Told::CaughtUp(_)) | None => {}
        }
        Ok(())
    }

    /// As the queue knows it; not, where the message is on its way again, or gone.
    async fn due_again(&self, event: &Event) -> Option<SystemTime> {
        let request = InspectRequest { message_id: event.message_id.clone(), body_bytes_max: 0 };
        let answer = call::within(CALL_TIMEOUT, self.admin.inspect(Request::new(request))).await.ok()?.into_inner();
        answer.message?.deliveries.first()?.due.as_ref().and_then(system_time)
    }

    /// The time is over.
    fn conclude(&self) -> Result<()> {
        let now = self.now();
        say(&self.story.table(now))?;
        say(&self.story.balance(now))?;
        let (seconds, missing) = (self.wish.length.as_secs(), self.story.missing());
        // With `keep` it may still come.
        if self.wish.keep && !missing.is_empty() {
            return say(&[format!("\nNot seen so far: {}. It goes on until Ctrl-C.", missing.join(", "))]);
        }
        ensure!(missing.is_empty(), "not seen within {seconds} s: {}", missing.join(", "));
        let seen = "\nSeen: acceptance, deferral, a suspension by the TSA, delivery after a deferral, a bounce.";
        let next = if self.wish.keep {
            "It goes on until Ctrl-C."
        } else {
            "With --keep it goes on, to be looked at. Without make-believe: godwit serve, see README.md."
        };
        say(&[seen, next])
    }

    fn interrupted(&self) -> Result<()> {
        say(&self.story.balance(self.now()))
    }

    fn where_to_look(&self, dns: SocketAddr) -> String {
        let Running { grpc, http, smtp, .. } = self.mta;
        let http = http.map(|at| at.to_string()).unwrap_or_default();
        let smtp = smtp.first().map(SocketAddr::to_string).unwrap_or_default();
        format!(
            "While it runs, from another terminal (gRPC {grpc}, HTTP {http}, SMTP {smtp}, the DNS {dns}):\n\
             \n    grpcurl -plaintext {grpc} list\
             \n    grpcurl -plaintext {grpc} godwit.tsa.v1.TsaService/Watch\
             \n    curl http://{http}/metrics\n"
        )
    }

    fn line(&self, verb: &str, text: &str) -> Result<()> {
        say(&[self.story.lines.line(self.now(), verb, text)])
    }

    fn now(&self) -> SystemTime {
        self.mta.host.clock.now()
    }
}

fn say(lines: &[impl AsRef<str>]) -> Result<()> {
    let mut out = io::stdout().lock();
    lines.iter().try_for_each(|line| writeln!(out, "{}", line.as_ref())).context("standard output")
}
