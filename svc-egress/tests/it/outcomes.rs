//! What a peer does, and what the queue is told of it.

use crate::sink::{Data, Script, Sink};
use crate::world::Setup;
use godwit_proto::queue::v1::{Outcome, RecipientResult};
use std::sync::Arc;
use std::time::Duration;
use svc_egress::{PoolConfig, SourceConfig};
use tokio::sync::Semaphore;

const MESSAGE: &str = "Subject: x\r\n\r\nhello\r\n.dot\r\n";

fn results(outcome: &Outcome) -> Vec<(u32, RecipientResult, u32)> {
    let code = |reply: &Option<godwit_proto::common::v1::SmtpReply>| reply.as_ref().unwrap().code;
    outcome.recipients.iter().map(|recipient| (recipient.index, recipient.result(), code(&recipient.reply))).collect()
}

/// Sends one message to `to` and gives the first outcome.
async fn one(script: Script, to: &[&str], message: &str) -> (Outcome, crate::sink::Heard) {
    let sink = Sink::start(script).await;
    let world = Setup::to(sink.at).start().await;
    world.queue.put(to, message);
    let outcome = world.queue.outcomes(1).await.remove(0);
    world.finish().await;
    (outcome, sink.heard())
}

#[tokio::test]
async fn delivered() {
    let (outcome, heard) = one(Script::default(), &["a@d.example"], MESSAGE).await;
    assert_eq!(results(&outcome), [(0, RecipientResult::Delivered, 250)]);
    assert_eq!(heard.messages, [MESSAGE]);
    assert!(heard.commands.contains(&"EHLO egress.example".to_string()), "{:?}", heard.commands);
    assert_eq!(outcome.protocol, "ESMTP");
    assert_eq!((outcome.source.as_str(), outcome.egress_pool.as_str()), ("unspecified", "default"));
    assert_eq!((outcome.source_address.as_str(), outcome.size_bytes), ("127.0.0.1", MESSAGE.len() as u64));
    assert_eq!(heard.quit_count, 1);
}

#[tokio::test]
async fn refused_for_now_and_for_good() {
    let deferring = Script { data: Data::Reply("451 4.7.1 later"), ..Script::default() };
    let (outcome, _) = one(deferring, &["a@d.example"], MESSAGE).await;
    assert_eq!(results(&outcome), [(0, RecipientResult::Deferred, 451)]);
    assert!(!outcome.recipients[0].maybe_delivered);
    let bouncing = Script { rcpt: |_| "550 5.1.1 nobody", ..Script::default() };
    let (outcome, _) = one(bouncing, &["a@d.example"], MESSAGE).await;
    assert_eq!(results(&outcome), [(0, RecipientResult::Bounced, 550)]);
    assert_eq!(outcome.recipients[0].bounce_class, "InvalidRecipient");
    assert_eq!(outcome.recipients[0].reply.as_ref().unwrap().command, "RCPT");
}

#[tokio::test]
async fn some_recipients_refused() {
    let script = Script {
        rcpt: |address| match address {
            "b@d.example" => "550 5.1.1 nobody",
            "c@d.example" => "452 4.2.2 full",
            _ => "250 2.1.5 ok",
        },
        ..Script::default()
    };
    let (outcome, heard) = one(script, &["a@d.example", "b@d.example", "c@d.example", "not an address"], MESSAGE).await;
    let mut results = results(&outcome);
    results.sort_by_key(|(index, _, _)| *index);
    use RecipientResult::{Bounced, Deferred, Delivered};
    assert_eq!(results, [(0, Delivered, 250), (1, Bounced, 550), (2, Deferred, 452), (3, Bounced, 553)]);
    assert_eq!(heard.messages.len(), 1);
}

#[tokio::test]
async fn disconnected_within_and_after_the_message() {
    let (outcome, _) =
        one(Script { data: Data::DisconnectWithin, ..Script::default() }, &["a@d.example"], MESSAGE).await;
    assert_eq!(outcome.recipients[0].result(), RecipientResult::Deferred);
    let (outcome, _) =
        one(Script { data: Data::DisconnectAfter, ..Script::default() }, &["a@d.example"], MESSAGE).await;
    assert_eq!(outcome.recipients[0].result(), RecipientResult::Deferred);
    assert!(outcome.recipients[0].maybe_delivered);
}

#[tokio::test]
async fn what_the_peer_cannot_take_is_not_sent() {
    let eight_bit = "Subject: x\r\n\r\nh\u{e9}llo\r\n";
    let plain = Script { extensions: &["PIPELINING"], ..Script::default() };
    let (outcome, _) = one(plain, &["a@d.example"], eight_bit).await;
    assert_eq!(results(&outcome), [(0, RecipientResult::Bounced, 554)]);
    let (outcome, heard) = one(Script::default(), &["a@d.example"], eight_bit).await;
    assert_eq!(outcome.recipients[0].result(), RecipientResult::Delivered);
    let mail = heard.commands.iter().find(|command| command.starts_with("MAIL")).unwrap();
    assert!(mail.contains("BODY=8BITMIME") && mail.contains("SIZE="), "{mail}");
    let small = Script { extensions: &["SIZE 10"], ..Script::default() };
    let (outcome, heard) = one(small, &["a@d.example"], MESSAGE).await;
    assert_eq!(results(&outcome), [(0, RecipientResult::Bounced, 552)]);
    assert!(!heard.commands.iter().any(|command| command.starts_with("MAIL")));
}

#[tokio::test]
async fn a_slow_peer_is_waited_for_and_the_lease_renewed() {
    let gate = Arc::new(Semaphore::new(0));
    let sink = Sink::start(Script { data: Data::Wait(gate.clone()), ..Script::default() }).await;
    let mut setup = Setup::to(sink.at);
    setup.config.lease = Duration::from_millis(300);
    let world = setup.start().await;
    world.queue.put(&["a@d.example"], MESSAGE);
    world.queue.until("renewal", |state| (state.renewed >= 3).then_some(())).await;
    gate.add_permits(1);
    let outcome = world.queue.outcomes(1).await.remove(0);
    assert_eq!(outcome.recipients[0].result(), RecipientResult::Delivered);
    world.finish().await;
}

#[tokio::test]
async fn what_was_not_renewed_in_time_is_not_begun() {
    let gate = Arc::new(Semaphore::new(0));
    let sink = Sink::start(Script { data: Data::WaitIfSlow(gate.clone()), ..Script::default() }).await;
    let mut setup = Setup::to(sink.at).shaping("[\"default\"]\nconnection_limit = 1\n");
    setup.config.lease = Duration::from_millis(1_500);
    setup.queue.put(&["a@d.example"], "Subject: slow\r\n\r\nx\r\n");
    setup.queue.put(&["a@d.example"], "Subject: lost\r\n\r\nx\r\n");
    setup.queue.change(|state| state.renew_fails = true);
    let world = setup.start().await;
    // From the first on there is one each third of a lease.
    world.queue.until("a lease's length without word", |state| (state.renew_failures >= 4).then_some(())).await;
    assert_eq!(sink.heard().messages.len(), 1, "the peer takes its time");
    world.queue.change(|state| state.renew_fails = false);
    gate.add_permits(1);
    world.queue.outcomes(1).await;
    world.queue.put(&["a@d.example"], MESSAGE);
    let outcomes = world.queue.outcomes(2).await;
    let ids: Vec<_> = outcomes.iter().map(|outcome| outcome.delivery_id.as_ref().unwrap().value.as_str()).collect();
    assert_eq!(ids, ["dlv_1", "dlv_5"], "what was begun is told of, what was not is another's");
    let metrics = world.host.metrics.clone();
    world.finish().await;
    assert!(!sink.heard().messages.iter().any(|message| message.contains("lost")));
    assert!(metrics.text().contains("godwit_egress_dropped_messages_total 1"), "{}", metrics.text());
}

#[tokio::test]
async fn mail_goes_over_an_idle_connection_while_another_is_busy() {
    let gate = Arc::new(Semaphore::new(0));
    let sink = Sink::start(Script { data: Data::WaitIfSlow(gate.clone()), ..Script::default() }).await;
    let world = Setup::to(sink.at).shaping("[\"default\"]\nconnection_limit = 2\n").start().await;
    world.queue.put(&["a@d.example"], "Subject: slow\r\n\r\nx\r\n");
    while sink.heard().messages.is_empty() {
        tokio::task::yield_now().await;
    }
    for count in 1..=5 {
        world.queue.put(&["a@d.example"], MESSAGE);
        world.queue.outcomes(count).await;
    }
    gate.add_permits(1);
    world.queue.outcomes(6).await;
    world.finish().await;
    assert_eq!(sink.heard().connection_count, 2);
}

#[tokio::test]
async fn a_body_that_is_stored_is_read_and_sent_unchanged() {
    let sink = Sink::start(Script { extensions: &["PIPELINING", "8BITMIME"], ..Script::default() }).await;
    let world = Setup::to(sink.at).start().await;
    let mut content = String::from("Subject: large\r\n\r\n");
    while content.len() < 3 << 20 {
        content.push_str(&format!("{}\r\n.{}\r\n", content.len(), "y".repeat(900)));
    }
    world.queue.put_stored("a@d.example", content.clone().into());
    let outcome = world.queue.outcomes(1).await.remove(0);
    assert_eq!(results(&outcome), [(0, RecipientResult::Delivered, 250)]);
    assert_eq!(outcome.size_bytes, content.len() as u64);
    // One that cannot be read holds up nothing, and is told nothing.
    world.queue.put_stored("a@d.example", content.into());
    world.queue.change(|state| state.stored.clear());
    world.queue.put(&["a@d.example"], MESSAGE);
    let outcomes = world.queue.outcomes(2).await;
    assert_eq!(outcomes[1].delivery_id.as_ref().unwrap().value, "dlv_4");
    world.finish().await;
    assert_eq!(sink.heard().messages.len(), 2);
    assert!(sink.heard().messages[0].len() > 3 << 20 && sink.heard().messages[0].ends_with("y\r\n"));
}

#[tokio::test]
async fn one_outcome_that_is_refused_costs_no_other() {
    let sink = Sink::start(Script::default()).await;
    let setup = Setup::to(sink.at);
    setup.queue.change(|state| {
        state.settle_refused = Some("dlv_150".into());
        state.settle_failures = 8;
    });
    for n in 0..300 {
        setup.queue.put(&["a@d.example"], &format!("Subject: {n}\r\n\r\nx\r\n"));
    }
    let world = setup.start().await;
    let outcomes = world.queue.outcomes(299).await;
    assert!(outcomes.iter().all(|outcome| outcome.delivery_id.as_ref().unwrap().value != "dlv_150"));
    let dropped = "godwit_egress_settlements_total{result=\"dropped\"} 1";
    let (text, queue) = (world.host.metrics.clone(), world.queue.clone());
    world.finish().await;
    assert!(text.text().contains(dropped), "{}", text.text());
    assert_eq!(queue.change(|state| state.outcomes.len()), 299);
}

#[tokio::test]
async fn what_a_peer_says_is_kept_within_bounds() {
    let long: &'static str = Box::leak(format!("451 4.7.1 {}", "x".repeat(1_900)).into_boxed_str());
    let (outcome, _) = one(Script { data: Data::Reply(long), ..Script::default() }, &["a@d.example"], MESSAGE).await;
    assert_eq!(results(&outcome), [(0, RecipientResult::Deferred, 451)]);
    assert_eq!(outcome.recipients[0].reply.as_ref().unwrap().text.len(), 1_024);
}

#[tokio::test]
async fn two_lanes_of_a_site_share_a_connection() {
    let sink = Sink::start(Script::default()).await;
    let setup = Setup::to(sink.at).shaping("[\"default\"]\nconnection_limit = 1\n");
    let queue = setup.queue.clone();
    queue.put(&["a@one.example"], MESSAGE);
    queue.put(&["b@two.example"], MESSAGE);
    let world = setup.start().await;
    let outcomes = world.queue.outcomes(2).await;
    assert!(outcomes.iter().all(|outcome| outcome.site == sink.at.to_string()));
    assert_eq!(outcomes[0].session_id, outcomes[1].session_id);
    world.finish().await;
    assert_eq!(sink.heard().connection_count, 1);
}

#[tokio::test]
async fn outcomes_are_settled_again_until_the_queue_takes_them() {
    let sink = Sink::start(Script::default()).await;
    let world = Setup::to(sink.at).start().await;
    world.queue.change(|state| state.settle_failures = 2);
    world.queue.put(&["a@d.example"], MESSAGE);
    let outcomes = world.queue.outcomes(1).await;
    assert_eq!(outcomes.len(), 1);
    world.finish().await;
    assert_eq!(sink.heard().messages.len(), 1);
}

#[tokio::test]
async fn many_messages_go_over_several_connections_each_once() {
    let sink = Sink::start(Script::default()).await;
    let world = Setup::to(sink.at).start().await;
    for n in 0..300 {
        world.queue.put(&["a@d.example"], &format!("Subject: {n}\r\n\r\nx\r\n"));
    }
    let outcomes = world.queue.outcomes(300).await;
    assert!(outcomes.iter().all(|outcome| outcome.recipients[0].result() == RecipientResult::Delivered));
    world.finish().await;
    let mut messages = sink.heard().messages;
    messages.sort();
    messages.dedup();
    assert_eq!(messages.len(), 300);
    assert!(sink.heard().connection_count <= 32);
}

#[tokio::test]
async fn a_queue_that_comes_back_is_told_what_is_held() {
    let gate = Arc::new(Semaphore::new(0));
    let sink = Sink::start(Script { data: Data::Wait(gate.clone()), ..Script::default() }).await;
    let world = Setup::to(sink.at).start().await;
    world.queue.put(&["a@d.example"], MESSAGE);
    world.queue.until("a lease", |state| (state.lease_calls > 0).then_some(())).await;
    world.queue.change(|state| state.streams_broken = 1);
    let held = world.queue.until("a new stream", |state| state.watched.get(1).map(|asked| asked.held.clone())).await;
    assert_eq!(held[0].delivery_id.as_ref().unwrap().value, "dlv_1");
    gate.add_permits(2);
    world.queue.put(&["b@d.example"], MESSAGE);
    world.queue.outcomes(2).await;
    world.finish().await;
}

#[tokio::test]
async fn a_pool_shares_its_mail_by_weight() {
    let sink = Sink::start(Script::default()).await;
    let mut setup = Setup::to(sink.at);
    for (name, address) in [("a", "127.0.0.2"), ("b", "127.0.0.3")] {
        let source = SourceConfig { source_address: Some(address.parse().unwrap()), ..SourceConfig::default() };
        setup.config.sources.insert(name.into(), source);
    }
    let weights = [("a".to_string(), 1), ("b".to_string(), 3)];
    setup.config.pools.insert("p".into(), PoolConfig { sources: weights.into() });
    for _ in 0..1000 {
        setup.queue.put_in("p", &["x@d.example"], MESSAGE);
    }
    let world = setup.start().await;
    let outcomes = world.queue.outcomes(1000).await;
    let of_a = outcomes.iter().filter(|outcome| outcome.source == "a").count();
    // 250, give or take the lead that a source may have and a lease on top.
    assert!((120..=380).contains(&of_a), "{of_a}");
    assert!(
        outcomes
            .iter()
            .all(|outcome| outcome.source_address == if outcome.source == "a" { "127.0.0.2" } else { "127.0.0.3" })
    );
    world.finish().await;
}
