//! The law of the queue, under everything at once: what was accepted is delivered, each recipient once, and then nothing is left.

use super::*;
use godwit_proto::queue::v1::ReleaseRequest;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

const PRODUCERS: usize = 8;
const MESSAGES: usize = 40;

/// Leases a few, and settles, releases or forgets them.
async fn work(world: Arc<World>, worker: usize, delivered: Arc<AtomicUsize>) {
    let total = PRODUCERS * MESSAGES * 3;
    let mut round = worker;
    while delivered.load(Ordering::SeqCst) < total {
        let request = LeaseRequest { wait_ms: 20, lease_ms: 40, ..world.ask(7) };
        for leased in world.lease_as(request).await.deliveries {
            round += 1;
            match round % 5 {
                0 => {}
                1 => {
                    let lease_ids = leased.lease_id.clone().into_iter().collect();
                    let egress_node = Some(world.egress.into());
                    let request = ReleaseRequest { egress_node, lease_ids, ..ReleaseRequest::default() };
                    world.queue.release(Request::new(request)).await.unwrap();
                }
                // Some tell the same outcome twice, at the same time.
                2 => {
                    let twice = tokio::join!(
                        world.settle(&leased, RecipientResult::Delivered),
                        world.settle(&leased, RecipientResult::Delivered)
                    );
                    let counted = [twice.0, twice.1].iter().filter(|verdict| counts(**verdict)).count();
                    delivered.fetch_add(counted * leased.recipients.len(), Ordering::SeqCst);
                }
                _ => {
                    if counts(world.settle(&leased, RecipientResult::Delivered).await) {
                        delivered.fetch_add(leased.recipients.len(), Ordering::SeqCst);
                    }
                }
            }
        }
    }
}

fn counts(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Applied | Verdict::LeaseExpiredApplied)
}

async fn produce(world: Arc<World>) -> Vec<MessageId> {
    let mut ids = Vec::new();
    for _ in 0..MESSAGES {
        ids.push(world.accept(&["x@a.example", "y@a.example", "z@b.example"]).await);
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_accepted_recipient_is_delivered_once() {
    // However many leases run out, nothing is held for long.
    let config = Config { lease_expirations_max: 255, ..Config::default() };
    let world = Arc::new(World::new(config, None, false).await);
    world.route().await;
    let delivered = Arc::new(AtomicUsize::new(0));
    let workers: Vec<_> = (0..6).map(|worker| tokio::spawn(work(world.clone(), worker, delivered.clone()))).collect();
    let producers: Vec<_> = (0..PRODUCERS).map(|_| tokio::spawn(produce(world.clone()))).collect();
    let mut expected: HashMap<Option<godwit_proto::common::v1::MessageId>, Vec<String>> = HashMap::new();
    for producer in producers {
        for id in producer.await.unwrap() {
            expected.insert(Some(id.into()), ["x@a.example", "y@a.example", "z@b.example"].map(String::from).to_vec());
        }
    }
    for worker in workers {
        worker.await.unwrap();
    }
    let mut seen: HashMap<_, Vec<String>> = HashMap::new();
    for event in world.events().await.into_iter().filter(|event| event.kind() == EventKind::Delivery) {
        seen.entry(event.message_id).or_default().extend(event.recipients);
    }
    seen.values_mut().for_each(|recipients| recipients.sort_unstable());
    assert!(seen == expected);
    let world = Arc::into_inner(world).unwrap().crash().await;
    world.route().await;
    let request = LeaseRequest { wait_ms: 0, ..world.ask(1) };
    assert_eq!(world.lease_as(request).await, LeaseResponse::default());
}
