//! A stop finishes what is being sent, gives back the rest, settles and says QUIT.

use crate::sink::{Data, Script, Sink};
use crate::world::Setup;
use godwit_proto::queue::v1::RecipientResult;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

const MESSAGE: &str = "Subject: x\r\n\r\nhello\r\n";

#[tokio::test]
async fn what_is_in_hand_is_finished_or_given_back() {
    let gate = Arc::new(Semaphore::new(0));
    let sink = Sink::start(Script { data: Data::Wait(gate.clone()), ..Script::default() }).await;
    let setup = Setup::to(sink.at).shaping("[\"default\"]\nconnection_limit = 1\n");
    for _ in 0..5 {
        setup.queue.put(&["a@d.example"], MESSAGE);
    }
    let world = setup.start().await;
    world.queue.until("a lease", |state| (state.lease_calls > 0).then_some(())).await;
    while sink.heard().messages.is_empty() {
        tokio::task::yield_now().await;
    }
    world.host.stop.request();
    gate.add_permits(1);
    let queue = world.queue.clone();
    world.finish().await;
    let (outcomes, released) = queue.change(|state| (state.outcomes.clone(), state.released));
    assert_eq!(outcomes.len(), 1);
    assert_eq!(outcomes[0].recipients[0].result(), RecipientResult::Delivered);
    assert_eq!(released, 4);
    assert_eq!(sink.heard().quit_count, 1);
}

#[tokio::test]
async fn a_peer_that_never_answers_is_left_after_the_grace() {
    let gate = Arc::new(Semaphore::new(0));
    let sink = Sink::start(Script { data: Data::Wait(gate), ..Script::default() }).await;
    let mut setup = Setup::to(sink.at);
    setup.config.stop_grace = Duration::from_millis(50);
    let world = setup.start().await;
    world.queue.put(&["a@d.example"], MESSAGE);
    while sink.heard().messages.is_empty() {
        tokio::task::yield_now().await;
    }
    let queue = world.queue.clone();
    world.finish().await;
    let outcome = queue.change(|state| state.outcomes.remove(0));
    assert_eq!(outcome.recipients[0].result(), RecipientResult::Deferred);
    assert!(outcome.recipients[0].maybe_delivered);
}
