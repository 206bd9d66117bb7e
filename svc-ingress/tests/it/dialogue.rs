//! What a well-behaved client sees, over TCP and with the queue near and far.

use godwit_kit::net::Net;
use godwit_proto::common::v1::BodyType;

use crate::support::{FakeQueue, Road, World, config, listener};

async fn whole_dialogue(road: Road) {
    let queue = FakeQueue::new();
    let world = World::on(Net::Tcp, config(listener()), &[&queue], road).await;
    let mut client = world.connect().await;
    client.send("EHLO client.test\r\n").await;
    let mut offered = Vec::new();
    while offered.len() < 5 {
        offered.push(client.line().await.unwrap());
    }
    let expected = ["250-mx.test", "250-PIPELINING", "250-8BITMIME", "250-SIZE 26214400", "250 ENHANCEDSTATUSCODES"];
    assert_eq!(offered, expected);

    let first = "NOOP x\r\nVRFY someone\r\nHELP\r\nEXPN list\r\nSTARTTLS\r\nMAIL FROM:<a@example.com>\r\nRSET\r\n\
                 RCPT TO:<b@example.net>\r\nMAIL FROM:<a@example.com> SIZE=100 BODY=8BITMIME\r\nRCPT TO:<b@example.net>\r\n\
                 RCPT TO:<\"c d\"@EXAMPLE.org>\r\nRCPT TO:<postmaster>\r\nDATA\r\n";
    let codes = [
        "250 2.0.0",
        "252 2.5.0",
        "214 2.0.0",
        "502 5.5.1",
        "502 5.5.1",
        "250 2.1.0",
        "250 2.0.0",
        "503 5.5.1",
        "250 2.1.0",
        "250 2.1.5",
        "250 2.1.5",
        "250 2.1.5",
        "354",
    ];
    assert_eq!(client.say(first, codes.len()).await, codes);
    let second = "Subject: ü\r\n\r\n..dot\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n";
    assert_eq!(client.say(second, 4).await, ["250 2.0.0", "250 2.1.0", "250 2.1.5", "354"]);
    assert_eq!(client.say_last("\r\nx\r\n.\r\nQUIT\r\n").await, ["250 2.0.0", "221 2.0.0"]);

    let [eight_bit, bounce] = &queue.kept()[..] else { panic!("two messages") };
    let envelope = eight_bit.envelope.as_ref().unwrap();
    let recipients: Vec<&str> = envelope.recipients.iter().map(|recipient| recipient.address.as_str()).collect();
    assert_eq!(recipients, ["b@example.net", "\"c d\"@example.org", "postmaster@mx.test"]);
    assert_eq!((envelope.reverse_path.as_str(), envelope.body_type()), ("a@example.com", BodyType::EightBitMime));
    let envelope = bounce.envelope.as_ref().unwrap();
    assert_eq!((envelope.reverse_path.as_str(), envelope.body_type()), ("", BodyType::SevenBit));
    let received = bounce.received.as_ref().unwrap();
    assert_eq!((received.protocol.as_str(), received.helo.as_str()), ("ESMTP", "client.test"));
    assert_eq!(received.peer.as_ref().unwrap().address, "127.0.0.1");
    assert!(received.session_id.starts_with("session_"));
    assert_eq!(queue.bodies(), ["Subject: ü\r\n\r\n.dot\r\n", "\r\nx\r\n"]);
    assert_eq!(world.metric("godwit_ingress_messages_total{door=\"smtp\",outcome=\"accepted\"}"), "2");
    assert!(world.host.stop.finish(std::time::Duration::from_secs(30)).await);
}

#[tokio::test]
async fn the_whole_verb_table_pipelined_with_the_queue_near() {
    whole_dialogue(Road::Near).await;
}

#[tokio::test]
async fn the_whole_verb_table_pipelined_with_the_queue_far() {
    whole_dialogue(Road::Far).await;
}

#[tokio::test(start_paused = true)]
async fn the_received_field_is_on_top() {
    let queue = FakeQueue::new();
    let world = World::new(config(listener()), &[&queue]).await;
    let mut client = world.connect().await;
    client.say("HELO (evil)\r\n", 1).await;
    assert_eq!(client.message().await, "250 2.0.0");
    let id = queue.kept().remove(0).message_id.unwrap().value;
    let expected = format!(
        "Received: from ?evil? ([127.0.0.1])\r\n\tby mx.test (Godwit) with SMTP id {id}\r\n\tfor <b@example.net>;\r\n\
         \tTue, 14 Nov 2023 22:13:20 +0000\r\nSubject: x\r\n\r\nhello\r\n"
    );
    assert_eq!(queue.contents(), [expected]);
}

#[tokio::test(start_paused = true)]
async fn sizes_are_limited_when_declared_and_when_sent() {
    let queue = FakeQueue::new();
    let listener = svc_ingress::config::Listener { max_message_size: godwit_kit::config::Size(64 << 10), ..listener() };
    let world = World::new(config(listener), &[&queue]).await;
    let mut client = world.greeted().await;
    assert_eq!(client.say("MAIL FROM:<a@b> SIZE=65537\r\n", 1).await, ["552 5.3.4"]);
    client.open().await;
    assert_eq!(client.say(format!("{}.\r\n", "0123456789abcd\r\n".repeat(4_097)), 1).await, ["552 5.3.4"]);
    client.open().await;
    assert_eq!(client.say(format!("{}.\r\n", "0123456789abcd\r\n".repeat(4_096)), 1).await, ["250 2.0.0"]);
    assert_eq!(queue.bodies()[0].len(), 64 << 10);
    assert_eq!(world.metric("godwit_ingress_messages_total{door=\"smtp\",outcome=\"faulty\"}"), "1");
}

/// Row S6 of the hostile inputs.
#[tokio::test(start_paused = true)]
async fn dots_survive_any_chunking() {
    let body = ".\r\n..\r\n.x\r\n\r\n..\r\n...x\r\nend.\r\n";
    let stuffed = "..\r\n...\r\n..x\r\n\r\n...\r\n....x\r\nend.\r\n.\r\n";
    let queue = FakeQueue::new();
    let world = World::new(config(listener()), &[&queue]).await;
    let mut client = world.greeted().await;
    for size in 1..=stuffed.len() {
        client.open().await;
        for chunk in stuffed.as_bytes().chunks(size) {
            client.send(chunk).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(client.replies(1).await, ["250 2.0.0"], "{size}");
    }
    assert_eq!(queue.bodies(), vec![body; stuffed.len()]);
}
