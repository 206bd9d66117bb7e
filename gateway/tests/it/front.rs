//! The front door: injection, metrics, health, and the command line's inject.

use crate::world::{HANG, Placement, Settings, World, of_kind};
use bench::sink::Obliging;
use godwit_proto::common::v1::EventKind;
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One request on a connection of its own: status and body.
pub async fn http(at: SocketAddr, request: &str, body: &str) -> (u16, String) {
    let exchange = async {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let length = body.len();
        let text =
            format!("{request} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_string())
    };
    tokio::time::timeout(HANG, exchange).await.unwrap()
}

async fn inject(world: &World, body: &Value) -> (u16, Value) {
    let (status, text) = http(world.http, "POST /api/inject/v1", &body.to_string()).await;
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn injection_delivers_a_message_to_each_recipient() {
    let world = World::start(Placement::Near, Obliging, Settings::default()).await;
    let (status, answer) = inject(
        &world,
        &json!({
            "envelope_sender": "sender@client.test",
            "recipients": [{"email": "a@one.test", "name": "A", "metadata": {"order": 7}}, {"email": "b@two.test"}, {"email": "no address"}],
            "content": {"subject": "Gr\u{fc}\u{df}e", "from": {"email": "s@client.test", "name": "S"}, "text_body": "hello\n.\n", "html_body": "<p>hello</p>"},
        }),
    )
    .await;
    assert_eq!((status, &answer["success_count"], &answer["fail_count"]), (200, &json!(2), &json!(1)), "{answer}");
    assert_eq!(answer["failed_recipients"], json!(["no address"]));
    let events = world.events_until(|events| of_kind(events, EventKind::Delivery).len() == 2).await;
    let with_metadata = of_kind(&events, EventKind::Reception)
        .into_iter()
        .filter(|event| event.metadata.get("order").is_some_and(|order| order == "7"));
    assert_eq!(with_metadata.count(), 1);
    let taken = world.sink.taken();
    assert!(taken.iter().all(|taken| taken.recipients.len() == 1));
    let content = String::from_utf8(taken[0].content.to_vec()).unwrap();
    assert!(content.contains("From: \"S\" <s@client.test>") && content.contains("multipart/alternative"), "{content}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_message_goes_as_it_is() {
    let world = World::start(Placement::Spread, Obliging, Settings::default()).await;
    let content = "Subject: whole\n\nline\n.dot\n";
    let request =
        json!({"envelope_sender": "s@client.test", "recipients": [{"email": "a@one.test"}], "content": content});
    assert_eq!(inject(&world, &request).await.0, 200);
    tokio::time::timeout(HANG, world.sink.wait_for(1)).await.unwrap();
    assert_eq!(world.sink.taken()[0].content, content.replace('\n', "\r\n"));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_name_the_field_and_queue_nothing() {
    let world = World::start(Placement::Near, Obliging, Settings::default()).await;
    let request = |change: Value| {
        let mut request = json!({"envelope_sender": "s@client.test", "recipients": [{"email": "a@one.test"}], "content": "Subject: x\r\n\r\ny"});
        request.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        request
    };
    for (change, status, named) in [
        (json!({"content": "Subject: x\r\n\r\na\nb"}), 422, "content"),
        (json!({"content": "Subject: x\r\n\r\na\u{0}b"}), 422, "content"),
        (json!({"content": {"subject": "x\r\nBcc: v@y"}}), 422, "content.subject"),
        (json!({"content": {"from": {"email": "a@b.c", "name": "\"\r\n"}}}), 422, "content.from.name"),
        (json!({"content": {"headers": {"X\r\nBcc": "v@y"}}}), 422, "content.headers"),
        (json!({"recipients": []}), 422, "recipients"),
        (json!({"recipients": [{"mail": "a@one.test"}]}), 400, "recipients[0]"),
        (json!({"content": "Subject: {{ x }}\r\n\r\ny"}), 422, "content"),
        (json!({"substitutions": {"x": 1}}), 422, "substitutions"),
        (json!({"spelling": 1}), 400, "spelling"),
        (json!({"recipients": vec![json!({"email": "a@one.test"}); 10_001]}), 422, "recipients"),
    ] {
        let (seen, answer) = inject(&world, &request(change.clone())).await;
        assert_eq!(seen, status, "{answer}");
        assert!(answer["error"].as_str().unwrap().contains(named), "{named} is not in {answer}");
    }
    // Addresses that would end their command early are refused one by one.
    let (status, answer) = inject(&world, &request(json!({"recipients": [{"email": "a@b>\r\nRCPT TO:<c@d"}]}))).await;
    assert!(status == 422 || answer["fail_count"] == json!(1), "{status} {answer}");
    assert_eq!(http(world.http, "POST /api/inject/v1", "{").await.0, 400);
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(http(world.http, "POST /api/inject/v1", &deep).await.0, 400);
    // Only this one is there.
    assert_eq!(inject(&world, &request(json!({}))).await.0, 200);
    let events = world.events_until(|events| !of_kind(events, EventKind::Delivery).is_empty()).await;
    assert_eq!(of_kind(&events, EventKind::Reception).len(), 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_gives_the_same_message() {
    let world = World::start(Placement::Near, Obliging, Settings::default()).await;
    let body = json!({"envelope_sender": "s@client.test", "recipients": [{"email": "a@one.test"}], "content": "Subject: x\r\n\r\ny"});
    for _ in 0..3 {
        let (status, _) =
            http(world.http, "POST /api/inject/v1 HTTP/1.1\r\nIdempotency-Key: k1\r\nX-Ignored:", &body.to_string())
                .await;
        assert_eq!(status, 200);
    }
    let events = world.events_until(|events| !of_kind(events, EventKind::Delivery).is_empty()).await;
    assert_eq!(of_kind(&events, EventKind::Reception).len(), 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_and_liveness() {
    let world = World::start(Placement::Near, Obliging, Settings::default()).await;
    world.send(&["a@one.test"], "Subject: x\r\n\r\ny").await;
    let (status, text) = http(world.http, "GET /metrics", "").await;
    assert_eq!(status, 200);
    for name in ["godwit_queue_", "godwit_ingress_", "godwit_egress_", "godwit_throttle_", "godwit_tsa_"] {
        assert!(text.contains(name), "{name} is not in\n{text}");
    }
    assert_eq!(http(world.http, "GET /healthz/live", "").await.0, 200);
    let (status, text) = http(world.http, "GET /healthz/ready", "").await;
    assert_eq!(status, 200, "{text}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dependency_that_stops_turns_readiness_and_not_liveness() {
    let mut world = World::start(Placement::Spread, Obliging, Settings::default()).await;
    let ready = async |expected: u16| {
        let asked = async {
            loop {
                let (status, text) = http(world.http, "GET /healthz/ready", "").await;
                if status == expected {
                    return text;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(HANG, asked).await.unwrap_or_else(|_| panic!("readiness does not become {expected}"))
    };
    ready(200).await;
    // The gateway's one dependency: ingress is the fifth process of the spread world.
    let ingress = world.processes.remove(4);
    ingress.stop().await;
    let text = ready(503).await;
    assert!(text.contains("gateway: ingress: "), "{text}");
    assert_eq!(http(world.http, "GET /healthz/live", "").await.0, 200);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_injects() {
    let world = World::start(Placement::Near, Obliging, Settings::default()).await;
    let file = world.folder.path().join("message.eml");
    std::fs::write(&file, "Subject: from a file\n\nhello\n").unwrap();
    let run = |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_godwit"));
        command.arg("inject").args(["--server", &world.queue_address, "--from", "s@client.test"]).args(arguments);
        command.output()
    };
    let output = run(&["--to", "a@one.test", file.to_str().unwrap()]).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let id: godwit_proto::id::MessageId = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    let events = world.events_until(|events| !of_kind(events, EventKind::Delivery).is_empty()).await;
    assert_eq!(events[0].message_id.clone().unwrap().value, id.to_string());
    let output = run(&["--to", "nobody", file.to_str().unwrap()]).await.unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("recipients"), "the field is not named");
    world.stop().await;
}
