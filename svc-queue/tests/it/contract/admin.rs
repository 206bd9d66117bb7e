//! What an operator sees and does.

use super::*;
use godwit_proto::common::v1::{Lane, Page, Selector};
use godwit_proto::queue::v1::{
    FlushRequest, InspectRequest, ListMessagesRequest, ReportLaneRequest, SearchRequest, SinksRequest,
    SummariseRequest, report_lane_request::State, sinks_response::Sink,
};
use godwit_proto::queue::{QueueAdmin, QueueAdminServiceServer, admin_at};
use svc_queue::events::sinks;
use tonic::Code;

fn admin(world: &World) -> QueueAdmin {
    if !world.far {
        return world.service.clone();
    }
    admin_at(godwit_proto::wire(QueueAdminServiceServer::from_arc(world.service.clone())))
}

fn all() -> Option<Selector> {
    Some(Selector { all: true, ..Selector::default() })
}

#[tokio::test(start_paused = true)]
async fn counts_and_reasons_by_queue() {
    both(|world| async move {
        world.route().await;
        for recipient in ["x@a.example", "y@a.example", "z@b.example"] {
            world.accept(&[recipient]).await;
        }
        world.lease_as(world.ask(1)).await;
        let report = ReportLaneRequest {
            egress_node: Some(world.egress.into()),
            lane: Some(Lane { routing_domain: "a.example".into(), egress_pool: "default".into() }),
            state: State::Throttled.into(),
            reason: "max_message_rate".into(),
            until: None,
        };
        world.queue.report_lane(Request::new(report)).await.unwrap();
        let request = SummariseRequest { selector: all(), ..SummariseRequest::default() };
        let answer = admin(&world).summarise(Request::new(request)).await.unwrap().into_inner();
        assert_eq!((answer.message_count, answer.delivery_count, answer.due_count, answer.leased_count), (3, 3, 2, 1));
        let first = &answer.queues[0];
        assert_eq!((first.queue_name.as_ref().unwrap().domain.as_str(), first.delivery_count), ("a.example", 2));
        assert_eq!(first.waiting_for, "throttled: max_message_rate");
        let nothing = admin(&world).summarise(Request::new(SummariseRequest::default())).await.unwrap().into_inner();
        assert_eq!(nothing.queues, []);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn messages_are_listed_in_pages_and_inspected() {
    both(|world| async move {
        let mut ids = Vec::new();
        for _ in 0..3 {
            ids.push(world.accept(&["x@a.example", "y@b.example"]).await);
        }
        let mut listed = Vec::new();
        let mut token = String::new();
        loop {
            let page = Some(Page { size: 2, token });
            let request = ListMessagesRequest { selector: all(), page };
            let answer = admin(&world).list_messages(Request::new(request)).await.unwrap().into_inner();
            listed.extend(answer.messages.into_iter().flat_map(|message| message.deliveries));
            token = answer.next_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(listed.len(), 6);
        let inspect = |id: MessageId| InspectRequest { message_id: Some(id.into()), body_bytes_max: 9_999 };
        let seen = admin(&world).inspect(Request::new(inspect(ids[1]))).await.unwrap().into_inner();
        let message = seen.message.unwrap();
        assert_eq!((message.reverse_path.as_str(), message.deliveries.len()), ("sender@s.example", 2));
        assert_eq!(message.deliveries[0].recipients[0].address, "x@a.example");
        assert!(seen.headers.ends_with(b"\r\n\r\n") && seen.body.ends_with(b"hello\r\n"));
        let status = admin(&world).inspect(Request::new(inspect(MessageId::new()))).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn flush_makes_due_what_waits_durably() {
    both(|world| async move {
        world.route().await;
        world.accept(&["x@a.example"]).await;
        let leased = world.lease_one().await;
        world.settle(&leased, RecipientResult::Deferred).await;
        let ask = |dry_run| FlushRequest { selector: all(), dry_run, reason: "now".into() };
        let counted = admin(&world).flush(Request::new(ask(true))).await.unwrap().into_inner().matched_count;
        assert_eq!((counted, world.lease().await), (1, vec![]));
        let counted = admin(&world).flush(Request::new(ask(false))).await.unwrap().into_inner().matched_count;
        assert_eq!((counted, world.kinds().await.last().copied()), (1, Some(EventKind::Audit)));
        let world = world.crash().await;
        world.route().await;
        world.pass(MINUTE).await;
        assert_eq!(world.lease_one().await.attempt, 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn sinks_say_where_they_are() {
    let sink = |dir: &str| sinks::Config { dir: dir.into(), ..sinks::Config::default() };
    // The second one's folder cannot be: its name is too long.
    let sinks = vec![sink("events"), sinks::Config { name: "sick".into(), ..sink(&"x".repeat(300)) }];
    both_with(Config { sinks, ..Config::default() }, |world| async move {
        world.accept(&["x@a.example"]).await;
        world.accept(&["x@a.example"]).await;
        let list = || async {
            let answer = admin(&world).sinks(Request::new(SinksRequest {})).await.unwrap().into_inner();
            <[Sink; 2]>::try_from(answer.sinks).unwrap()
        };
        // Their disk is a real one.
        let (well, sick) = loop {
            let [well, sick] = list().await;
            if well.lag_events == 0 && !sick.last_error.is_empty() {
                break (well, sick);
            }
            world.pass(Duration::from_secs(1)).await;
            tokio::task::spawn_blocking(std::thread::yield_now).await.unwrap();
        };
        assert_eq!((well.name.as_str(), well.cursor.unwrap().seq, well.last_error.as_str()), ("events", 2, ""));
        assert_eq!((sick.name.as_str(), sick.lag_events), ("sick", 2));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_to_come_says_so() {
    both(|world| async move {
        let status = admin(&world).search(Request::new(SearchRequest::default())).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
    })
    .await;
}
