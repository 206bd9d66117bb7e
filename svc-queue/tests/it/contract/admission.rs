//! Enqueue, PutBody, ReadBody, Withdraw, Record.

use super::*;
use godwit_kit::call::surely_not_started;
use godwit_kit::config::Size;
use godwit_proto::queue::v1::withdraw_response::Outcome as Withdrawn;
use godwit_proto::queue::v1::{PutBodyRequest, ReadBodyRequest, RecordRequest, WithdrawRequest};
use svc_queue::spool::sim::{Call, EIO};
use tonic::Code;

async fn withdraw(world: &World, id: MessageId) -> Withdrawn {
    let request = WithdrawRequest { message_ids: vec![id.into()] };
    world.queue.withdraw(Request::new(request)).await.unwrap().into_inner().outcomes().next().unwrap()
}

#[tokio::test(start_paused = true)]
async fn each_message_has_its_own_answer_and_the_same_id_is_a_duplicate() {
    both(|world| async move {
        let (one, two) = (MessageId::new(), MessageId::new());
        let bad = EnqueueMessage { priority: 999, ..message(two, &["x@a.example"]) };
        let replies = world.enqueue(vec![message(one, &["x@a.example"]), bad, message(one, &["x@a.example"])]).await;
        assert_eq!(replies[0], reply(one, Accepted::Accepted));
        assert_eq!(
            (replies[1].outcome(), replies[1].reason.as_str()),
            (Accepted::Refused, "priority: not from -100 to 100")
        );
        assert_eq!(replies[2], reply(one, Accepted::Duplicate));
        assert_eq!(world.enqueue(vec![message(one, &["x@a.example"])]).await, [reply(one, Accepted::Duplicate)]);
        assert_eq!(world.kinds().await, [EventKind::Reception]);
        let event = world.events().await.remove(0);
        assert_eq!((event.recipients, event.metadata["k"].as_str()), (vec!["x@a.example".to_string()], "v"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_finished_id_stays_a_duplicate() {
    both(|world| async move {
        world.route().await;
        let id = world.accept(&["x@a.example"]).await;
        let leased = world.lease_one().await;
        world.settle(&leased, RecipientResult::Delivered).await;
        assert_eq!(world.enqueue(vec![message(id, &["x@a.example"])]).await, [reply(id, Accepted::Duplicate)]);
        assert_eq!(world.lease().await, []);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn concurrent_enqueues_of_one_id_accept_it_once() {
    both(|world| async move {
        world.route().await;
        let id = MessageId::new();
        let ask = || world.enqueue(vec![message(id, &["x@a.example"])]);
        let (one, two, three) = tokio::join!(ask(), ask(), ask());
        let accepted = [one, two, three].iter().filter(|replies| replies[0].outcome() == Accepted::Accepted).count();
        assert_eq!((accepted, world.lease().await.len()), (1, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_does_not_undo_it() {
    both(|world| async move {
        world.route().await;
        let id = MessageId::new();
        let request = EnqueueRequest { messages: vec![message(id, &["x@a.example"])] };
        {
            let call = world.queue.enqueue(Request::new(request));
            tokio::pin!(call);
            assert!(futures::poll!(call).is_pending());
        }
        assert_eq!(world.lease_one().await.message_id, Some(id.into()));
        assert_eq!(world.enqueue(vec![message(id, &["x@a.example"])]).await, [reply(id, Accepted::Duplicate)]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_senders_key_leads_to_the_first_message() {
    both(|world| async move {
        let keyed = |id, recipient| EnqueueMessage { idempotency_key: "k1".into(), ..message(id, &[recipient]) };
        let (one, two, three) = (MessageId::new(), MessageId::new(), MessageId::new());
        assert_eq!(world.enqueue(vec![keyed(one, "x@a.example")]).await, [reply(one, Accepted::Accepted)]);
        assert_eq!(world.enqueue(vec![keyed(two, "x@a.example")]).await, [reply(one, Accepted::Duplicate)]);
        assert_eq!(world.enqueue(vec![keyed(three, "y@a.example")]).await[0].outcome(), Accepted::Refused);
        let other = EnqueueMessage { tenant: "u".into(), ..keyed(two, "x@a.example") };
        assert_eq!(world.enqueue(vec![other]).await, [reply(two, Accepted::Accepted)]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn mistakes_of_the_caller_name_the_field() {
    both(|world| async move {
        let call = async |messages| world.queue.enqueue(Request::new(EnqueueRequest { messages })).await.unwrap_err();
        let status = call(vec![]).await;
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "messages: 0, not 1 to 1000"));
        let nameless = EnqueueMessage { message_id: None, ..message(MessageId::new(), &["x@a.example"]) };
        let status = call(vec![message(MessageId::new(), &["x@a.example"]), nameless]).await;
        assert!(status.message().starts_with("messages[1].message_id"), "{status:?}");
        let status = world.queue.lease(Request::new(world.ask(0))).await.unwrap_err();
        assert!(status.message().starts_with("messages_max"), "{status:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_bound_is_named_and_nothing_is_taken() {
    both_with(Config { deliveries_max: 2, ..Config::default() }, |world| async move {
        world.accept(&["x@a.example"]).await;
        let messages = vec![message(MessageId::new(), &["x@a.example", "x@b.example"])];
        let status = world.queue.enqueue(Request::new(EnqueueRequest { messages })).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "queue.deliveries_max is reached (2)"));
        let id = world.accept(&["x@a.example"]).await;
        // It needs no room: it is there.
        assert_eq!(world.enqueue(vec![message(id, &["x@a.example"])]).await, [reply(id, Accepted::Duplicate)]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_sick_disk_or_a_stop_refuses() {
    both(|world| async move {
        world.accept(&["x@a.example"]).await;
        world.disk.fail(Call::Write, 0, 1_000, EIO);
        let request = || EnqueueRequest { messages: vec![message(MessageId::new(), &["x@a.example"])] };
        let status = world.queue.enqueue(Request::new(request())).await.unwrap_err();
        // Nothing was written, or nobody knows: only the first may be brought elsewhere at once.
        assert!(matches!(status.code(), Code::Unavailable | Code::Internal), "{status:?}");
        assert_eq!(surely_not_started(&status), status.code() == Code::Unavailable, "{status:?}");
        world.host.health.watch().wait_for(|_| !world.host.health.causes().is_empty()).await.unwrap();
        assert_eq!(world.host.health.causes()[0].part, "spool");
        world.host.stop.request();
        let status = world.queue.enqueue(Request::new(request())).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "the queue is stopping"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_large_body_is_put_and_read_in_pieces() {
    both(|world| async move {
        world.route().await;
        let piece = |offset: usize, content: &Bytes| PutBodyRequest {
            upload_id: "up".into(),
            offset: offset as u64,
            content: content.clone(),
        };
        let pieces = [b'a', b'b', b'c'].map(|byte| Bytes::from(vec![byte; 700_000]));
        for (place, content) in pieces.iter().enumerate() {
            let put = world.queue.put_body(Request::new(piece(place * 700_000, content))).await.unwrap();
            assert_eq!(put.into_inner().size_bytes, (place as u64 + 1) * 700_000);
        }
        let id = MessageId::new();
        let body = Some(Body { content: Some(body::Content::UploadId("up".into())), size_bytes: 2_100_000 });
        let large = || EnqueueMessage { body: body.clone(), ..message(id, &["x@a.example"]) };
        assert_eq!(world.enqueue(vec![large()]).await, [reply(id, Accepted::Accepted)]);
        assert_eq!(world.enqueue(vec![large()]).await, [reply(id, Accepted::Duplicate)]);
        let leased = world.lease_one().await;
        let stored = leased.body.as_ref().unwrap();
        assert_eq!((&stored.content, stored.size_bytes), (&Some(body::Content::Stored(id.into())), 2_100_000));
        let request = ReadBodyRequest { message_id: Some(id.into()), offset: 699_999 };
        let replies = world.queue.read_body(Request::new(request.clone())).await.unwrap().into_inner();
        let read: Vec<u8> = replies.map(|reply| reply.unwrap().content).collect::<Vec<_>>().await.concat();
        assert!(read == pieces.concat()[699_999..]);
        world.settle(&leased, RecipientResult::Delivered).await;
        let Err(status) = world.queue.read_body(Request::new(request)).await else { panic!() };
        assert_eq!(status.code(), Code::NotFound);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_large_body_that_came_with_its_message_is_read_in_pieces() {
    both_with(Config { message_bytes_max: Size(5 << 20), ..Config::default() }, |world| async move {
        world.route().await;
        let content: Bytes = (0..5_u32 << 20).map(|place| (place / 7) as u8).collect::<Vec<_>>().into();
        let inline = |content: Bytes| Some(Body { content: Some(body::Content::Inline(content)), size_bytes: 0 });
        let larger = Bytes::from(vec![b'x'; (5 << 20) + 1]);
        let id = MessageId::new();
        let refused =
            world.enqueue(vec![EnqueueMessage { body: inline(larger), ..message(id, &["x@a.example"]) }]).await;
        let expected = "body: larger than queue.message_bytes_max (5242880)";
        assert_eq!((refused[0].outcome(), refused[0].reason.as_str()), (Accepted::Refused, expected));
        let large = EnqueueMessage { body: inline(content.clone()), ..message(id, &["x@a.example"]) };
        assert_eq!(world.enqueue(vec![large]).await, [reply(id, Accepted::Accepted)]);
        // From memory, and from the disk.
        let mut world = world;
        for crash in [false, true] {
            if crash {
                world = world.crash().await;
                world.route().await;
                world.pass(MINUTE).await;
            }
            let leased = world.lease_one().await;
            let stored = Body { content: Some(body::Content::Stored(id.into())), size_bytes: 5 << 20 };
            assert_eq!(leased.body, Some(stored));
            let request = ReadBodyRequest { message_id: Some(id.into()), offset: 0 };
            let replies = world.queue.read_body(Request::new(request)).await.unwrap().into_inner();
            let read: Vec<Bytes> = replies.map(|reply| reply.unwrap().content).collect().await;
            assert!(read.iter().all(|piece| piece.len() <= 1 << 20) && read.concat() == content);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_withdrawn_is_gone_or_refused_when_it_comes() {
    both(|world| async move {
        world.route().await;
        let id = world.accept(&["x@a.example", "x@b.example"]).await;
        assert_eq!(withdraw(&world, id).await, Withdrawn::Withdrawn);
        assert_eq!(world.lease().await, []);
        assert_eq!(withdraw(&world, id).await, Withdrawn::Withdrawn);
        let late = MessageId::new();
        assert_eq!(withdraw(&world, late).await, Withdrawn::Unknown);
        assert_eq!(world.enqueue(vec![message(late, &["x@a.example"])]).await[0].outcome(), Accepted::Refused);
        world.accept(&["x@a.example"]).await;
        let leased = world.lease_one().await;
        let id = MessageId::try_from(&leased.message_id).unwrap();
        assert_eq!(withdraw(&world, id).await, Withdrawn::TooLate);
        // A refusal outlives a crash.
        let world = world.crash().await;
        assert_eq!(world.enqueue(vec![message(late, &["x@a.example"])]).await[0].outcome(), Accepted::Refused);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn events_without_a_message_are_recorded_in_order() {
    both(|world| async move {
        let event =
            |text: &str| Event { kind: EventKind::Rejection.into(), recipients: vec![text.into()], ..Event::default() };
        let request = RecordRequest { events: vec![event("1"), event("2")] };
        let first = world.queue.record(Request::new(request)).await.unwrap().into_inner().first_seq;
        let events = world.events().await;
        assert_eq!(first, 1);
        assert_eq!(
            events.iter().map(|event| (event.seq, event.recipients[0].as_str())).collect::<Vec<_>>(),
            [(1, "1"), (2, "2")]
        );
        assert!(events[0].time.is_some());
    })
    .await;
}
