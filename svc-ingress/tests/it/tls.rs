//! STARTTLS and implicit TLS over real sockets (hostile inputs, section 4.2: rows T1 to T3, T8).

use std::time::Duration;

use godwit_kit::{Host, net::Net, peers::Peers};
use godwit_proto::id::NodeId;
use svc_ingress::config::{Listener, Tls, TlsMode};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    smuggling,
    support::{Certificates, Client, FakeQueue, Road, Trust, World, client_hello, config, listener},
};

/// A server, the folder of its certificate, and what its clients need to believe.
struct Secure {
    world: World,
    certificates: Certificates,
    trust: Trust,
}

impl Secure {
    async fn new(mode: TlsMode) -> Self {
        Self::on(Net::Tcp, mode, &FakeQueue::new(), |_| {}).await
    }

    async fn with(mode: TlsMode, queue: &std::sync::Arc<FakeQueue>) -> Self {
        Self::on(Net::Tcp, mode, queue, |_| {}).await
    }

    async fn on(
        net: Net,
        mode: TlsMode,
        queue: &std::sync::Arc<FakeQueue>,
        change: impl FnOnce(&mut Listener),
    ) -> Self {
        let (certificates, tls, trust) = Certificates::with(mode);
        let mut listener = Listener { tls, ..listener() };
        change(&mut listener);
        let world = World::on(net, config(listener), &[queue], Road::Near).await;
        Self { world, certificates, trust }
    }

    /// A client that was told to go ahead with the handshake.
    async fn ready(&self) -> Client {
        let mut client = self.world.greeted().await;
        assert_eq!(client.say("STARTTLS\r\n", 1).await, ["220 2.0.0"]);
        client
    }

    async fn secured(&self) -> Client {
        self.world.greeted().await.secured(&self.trust).await
    }

    fn handshakes(&self, outcome: &str) -> String {
        self.world.metric(&format!("godwit_ingress_tls_handshakes_total{{outcome=\"{outcome}\"}}"))
    }
}

/// What EHLO offers.
async fn offers(client: &mut Client) -> Vec<String> {
    client.send("EHLO client.test\r\n").await;
    let mut offers = Vec::new();
    while offers.last().is_none_or(|line: &String| line.starts_with("250-")) {
        offers.push(client.line().await.unwrap());
    }
    offers.into_iter().map(|line| line[4..].to_string()).collect()
}

#[tokio::test]
async fn a_message_says_that_it_came_over_tls() {
    let queue = FakeQueue::new();
    let secure = Secure::with(TlsMode::Optional, &queue).await;
    for (trust, version, cipher) in [
        (&secure.trust, "TLSv1.3", "TLS_AES_256_GCM_SHA384"),
        (&secure.trust.old(), "TLSv1.2", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
    ] {
        let mut client = secure.world.connect().await;
        assert!(offers(&mut client).await.contains(&"STARTTLS".to_string()));
        let mut client = client.secured(trust).await;
        assert!(!offers(&mut client).await.contains(&"STARTTLS".to_string()));
        assert_eq!(client.message().await, "250 2.0.0");
        // Closed in good order: without TLS's own goodbye, this read would fail.
        assert_eq!(client.say_last("QUIT\r\n").await, ["221 2.0.0"]);
        let received = queue.kept().pop().unwrap().received.unwrap();
        let tls = received.tls.unwrap();
        assert_eq!(
            (received.protocol.as_str(), tls.version.as_str(), tls.cipher.as_str()),
            ("ESMTPS", version, cipher)
        );
        let content = queue.contents().pop().unwrap();
        let head = format!(
            "Received: from client.test ([127.0.0.1])\r\n\t(using {version} with cipher {cipher})\r\n\
             \tby mx.test (Godwit) with ESMTPS id "
        );
        assert_eq!(std::str::from_utf8(&content[..head.len()]).unwrap(), head);
    }
    assert_eq!(secure.handshakes("completed"), "2");
    // In the clear all is as ever.
    let mut client = secure.world.greeted().await;
    assert_eq!(client.message().await, "250 2.0.0");
    let received = queue.kept().pop().unwrap().received.unwrap();
    assert_eq!((received.protocol.as_str(), received.tls), ("ESMTP", None));
    assert!(secure.world.host.stop.finish(Duration::from_secs(30)).await);
}

#[tokio::test]
async fn a_rejection_says_that_it_was_over_tls() {
    let queue = FakeQueue::new();
    let secure = Secure::with(TlsMode::Optional, &queue).await;
    let stranger = secure.world.connect_from(Some("127.0.0.2".parse().unwrap())).await;
    let mut stranger = stranger.secured(&secure.trust).await;
    assert_eq!(stranger.say("MAIL FROM:<a@b>\r\nRCPT TO:<t@third>\r\n", 2).await[1], "550 5.7.1");
    queue.until(|queue| !queue.events.lock().unwrap().is_empty()).await;
    assert_eq!(queue.events.lock().unwrap()[0].tls.as_ref().unwrap().version, "TLSv1.3");
}

/// Row T1: each in one segment with STARTTLS. The last is no whole line, and would spoil the first that comes after.
#[tokio::test]
async fn what_follows_starttls_in_the_clear_is_never_answered() {
    let secure = Secure::new(TlsMode::Optional).await;
    for injected in ["NOOP\r\n", "RSET\r\n", "EHLO evil\r\nMAIL FROM:<evil@x>\r\n", "QUIT\r\n", "NOOP "] {
        let mut client = secure.world.greeted().await;
        assert_eq!(client.say(format!("STARTTLS\r\n{injected}"), 1).await, ["220 2.0.0"]);
        let mut client = client.handshake(&secure.trust).await.unwrap();
        client.send("EHLO client.test\r\n").await;
        assert_eq!(client.line().await.unwrap(), "250-mx.test", "the first words after {injected:?}");
        while client.line().await.unwrap().starts_with("250-") {}
        assert_eq!(client.say("RCPT TO:<v@y>\r\n", 1).await, ["503 5.5.1"], "{injected:?}");
        assert_eq!(client.message().await, "250 2.0.0", "{injected:?}");
    }
}

/// Row T2.
#[tokio::test]
async fn what_was_said_before_tls_is_forgotten() {
    let secure = Secure::new(TlsMode::Optional).await;
    let mut client = secure.ready().await.handshake(&secure.trust).await.unwrap();
    let early = "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";
    assert_eq!(client.say(early, 2).await, ["503 5.5.1", "503 5.5.1"]);
    assert_eq!(client.say("EHLO client.test\r\n", 1).await, ["250"]);
    assert_eq!(client.message().await, "250 2.0.0");
}

/// Row T3, and a server that requires TLS, or has none.
#[tokio::test]
async fn starttls_has_its_one_place() {
    let secure = Secure::new(TlsMode::Optional).await;
    let mut client = secure.world.greeted().await;
    let dialogue = "STARTTLS now\r\nMAIL FROM:<a@b>\r\nSTARTTLS\r\nRCPT TO:<c@d>\r\nRSET\r\n";
    let codes = ["501 5.5.4", "250 2.1.0", "503 5.5.1", "250 2.1.5", "250 2.0.0"];
    assert_eq!(client.say(dialogue, 5).await, codes);
    let mut client = client.secured(&secure.trust).await;
    assert_eq!(client.say("STARTTLS\r\nNOOP\r\n", 2).await, ["503 5.5.1", "250 2.0.0"]);

    let implicit = Secure::new(TlsMode::Implicit).await;
    let client = implicit.world.connect_silently(None).await;
    let mut client = client.handshake(&implicit.trust).await.unwrap();
    assert_eq!(client.replies(1).await, ["220"]);
    assert!(!offers(&mut client).await.contains(&"STARTTLS".to_string()));
    assert_eq!(client.say("STARTTLS\r\nNOOP\r\n", 2).await, ["503 5.5.1", "250 2.0.0"]);

    let plain = World::on(Net::Tcp, config(listener()), &[&FakeQueue::new()], Road::Near).await;
    let mut client = plain.greeted().await;
    assert!(!offers(&mut client).await.contains(&"STARTTLS".to_string()));
    assert_eq!(client.say("STARTTLS\r\nNOOP\r\n", 2).await, ["502 5.5.1", "250 2.0.0"]);
}

#[tokio::test]
async fn mail_waits_for_tls_where_it_is_required() {
    let queue = FakeQueue::new();
    let secure = Secure::with(TlsMode::Required, &queue).await;
    let mut client = secure.world.greeted().await;
    assert!(offers(&mut client).await.contains(&"STARTTLS".to_string()));
    let early = "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n";
    assert_eq!(client.say(early, 3).await, ["530 5.7.0", "530 5.7.0", "530 5.7.0"]);
    assert_eq!(client.secured(&secure.trust).await.message().await, "250 2.0.0");
    assert_eq!(queue.kept().len(), 1);
}

#[tokio::test]
async fn implicit_tls_takes_mail_and_nothing_in_the_clear() {
    let queue = FakeQueue::new();
    let secure = Secure::with(TlsMode::Implicit, &queue).await;
    let client = secure.world.connect_silently(None).await;
    let mut client = client.handshake(&secure.trust).await.unwrap();
    assert_eq!(client.replies(1).await, ["220"]);
    assert_eq!(client.say("EHLO client.test\r\n", 1).await, ["250"]);
    assert_eq!(client.message().await, "250 2.0.0");
    assert_eq!(queue.kept()[0].received.as_ref().unwrap().protocol, "ESMTPS");

    let strangers = [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], b"EHLO client.test\r\n", b"\0\0\0\0\0\0\0\0"];
    for said in strangers {
        let mut client = secure.world.connect_silently(None).await;
        client.send(said).await;
        assert_is_alert(&client.bytes().await);
    }
    assert_eq!((secure.handshakes("completed"), secure.handshakes("failed")), ("1".into(), "3".into()));
}

/// A record that holds one fatal alert, and nothing else.
fn assert_is_alert(bytes: &[u8]) {
    assert!(matches!(bytes, [21, 3, _, 0, 2, 2, _]), "{bytes:?}");
}

/// Row T8.
#[tokio::test]
async fn tls_1_0_is_refused() {
    // A record with a ClientHello of version 3.1 without extensions, that offers TLS_RSA_WITH_AES_128_CBC_SHA.
    let mut hello = vec![22, 3, 1, 0, 45, 1, 0, 0, 41, 3, 1];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0, 0x2f, 1, 0]);
    let secure = Secure::new(TlsMode::Optional).await;
    let mut client = secure.ready().await;
    client.send(&hello).await;
    assert_is_alert(&client.bytes().await);
    assert_eq!(secure.handshakes("failed"), "1");
}

#[tokio::test]
async fn a_handshake_that_fails_ends_the_connection() {
    let secure = Secure::new(TlsMode::Optional).await;
    let mut client = secure.ready().await;
    // So much that most of it is unread when the handshake has failed; the alert arrives for all that.
    client.send("EHLO client.test\r\nMAIL FROM:<a@b>\r\n".repeat(10_000)).await;
    assert_is_alert(&client.bytes().await);
    let stranger = Certificates::new().renew();
    assert!(secure.ready().await.handshake(&stranger).await.is_err(), "a certificate that the client does not believe");
    while secure.handshakes("failed") != "2" {
        tokio::task::yield_now().await;
    }
    assert_eq!(secure.secured().await.message().await, "250 2.0.0");
}

/// Row T8.
#[tokio::test]
async fn silence_in_the_handshake_has_an_end() {
    for mode in [TlsMode::Optional, TlsMode::Implicit] {
        let soon = |listener: &mut Listener| {
            listener.tls.handshake_timeout = Duration::from_millis(50);
        };
        let secure = Secure::on(Net::Tcp, mode, &FakeQueue::new(), soon).await;
        for hello in [vec![], client_hello(&secure.trust)] {
            let mut client = match mode {
                TlsMode::Implicit => secure.world.connect_silently(None).await,
                TlsMode::Optional | TlsMode::Required => secure.ready().await,
            };
            client.send(&hello).await;
            let answer = timeout(Duration::from_secs(60), client.bytes()).await.expect("an end");
            assert_eq!(answer.is_empty(), hello.is_empty(), "the server's half of the handshake at most");
        }
        assert_eq!(secure.handshakes("timed_out"), "2");
    }
}

/// Row T8: whatever comes, the whole handshake has one deadline.
#[tokio::test(start_paused = true)]
async fn a_handshake_a_byte_at_a_time_has_an_end() {
    let secure = Secure::on(Net::Memory(Default::default()), TlsMode::Optional, &FakeQueue::new(), |_| {}).await;
    let mut client = secure.ready().await;
    let start = Instant::now();
    for byte in client_hello(&secure.trust) {
        if client.try_send([byte]).await.is_err() {
            break;
        }
        sleep(Duration::from_secs(10)).await;
    }
    assert_eq!(client.bytes().await, b"");
    assert!((30..=40).contains(&start.elapsed().as_secs()), "{:?} of the test's own clock", start.elapsed());
    assert_eq!(secure.handshakes("timed_out"), "1");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_handshake() {
    let secure = Secure::new(TlsMode::Optional).await;
    let mut client = secure.ready().await;
    client.send(&client_hello(&secure.trust)[..10]).await;
    let mut idle = secure.secured().await;
    assert!(secure.world.host.stop.finish(Duration::from_secs(30)).await);
    assert_eq!(client.bytes().await, b"");
    assert_eq!(idle.rest().await, ["421 4.3.2"], "within TLS, and closed in good order");
}

#[tokio::test]
async fn a_large_message_arrives_as_it_was_sent() {
    let queue = FakeQueue::new();
    let secure = Secure::with(TlsMode::Optional, &queue).await;
    let mut client = secure.secured().await;
    let body: String = (0..300_000).map(|line| format!("{line} x.y ü\r\n.{line}\r\n")).collect();
    let stuffed = body.replace("\r\n.", "\r\n..");
    for _ in 0..2 {
        client.open().await;
        let codes = client.say(format!("{stuffed}.\r\nNOOP\r\nRSET\r\n"), 3).await;
        assert_eq!(codes, ["250 2.0.0", "250 2.0.0", "250 2.0.0"]);
    }
    assert!(queue.bodies().iter().all(|kept| kept == body.as_bytes()) && queue.bodies().len() == 2);
}

/// Row S1, within TLS.
#[tokio::test]
async fn nothing_else_ends_a_message_within_tls() {
    let queue = FakeQueue::new();
    let secure = Secure::with(TlsMode::Optional, &queue).await;
    for end in smuggling::ENDS {
        let mut client = secure.secured().await;
        let smuggled = format!("A{end}MAIL FROM:<evil@x>\r\nRCPT TO:<v@y>\r\nDATA\r\nB");
        let code = smuggling::sends(&mut client, &smuggled).await;
        assert!(["550 5.5.2", "554 5.6.0"].contains(&code.as_str()), "{code} {end:?}");
    }
    assert_eq!(queue.call_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_renewed_certificate_is_used_and_a_broken_one_is_not() {
    let patient = |listener: &mut Listener| listener.client_timeout = Duration::from_secs(3_600);
    let secure = Secure::on(Net::Memory(Default::default()), TlsMode::Optional, &FakeQueue::new(), patient).await;
    let mut before = secure.secured().await;
    let renewed = secure.certificates.renew();
    // Longer than the files are ever left alone.
    sleep(Duration::from_secs(60)).await;
    assert_eq!(secure.world.greeted().await.secured(&renewed).await.message().await, "250 2.0.0");
    assert!(secure.ready().await.handshake(&secure.trust).await.is_err(), "the old one is gone");
    std::fs::write(secure.certificates.cert(), "no certificate").unwrap();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(secure.world.greeted().await.secured(&renewed).await.message().await, "250 2.0.0");
    assert_eq!(before.message().await, "250 2.0.0");
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_named() {
    let certificates = Certificates::new();
    let build = async |tls: Tls| {
        let config = config(Listener { tls, ..listener() });
        let built = svc_ingress::build(config, Peers::new(vec![]), &Host::new(NodeId::new())).await;
        built.map(|_| ()).unwrap_err().to_string()
    };
    let error = build(certificates.tls(TlsMode::Optional)).await;
    let path = certificates.cert().display().to_string();
    assert!(error.starts_with("ingress.listeners[0].tls: ") && error.contains(&path), "{error}");
    certificates.renew();
    let other = Certificates::new();
    other.renew();
    let error = build(Tls { key: other.key(), ..certificates.tls(TlsMode::Optional) }).await;
    let path = other.key().display().to_string();
    assert!(error.starts_with("ingress.listeners[0].tls: ") && error.contains(&path), "{error}");
}

#[tokio::test]
async fn one_client_too_many_is_told_nothing_where_only_tls_is_spoken() {
    let narrow = |listener: &mut Listener| listener.max_connections = 1;
    let secure = Secure::on(Net::Tcp, TlsMode::Implicit, &FakeQueue::new(), narrow).await;
    let first = secure.world.connect_silently(None).await;
    let mut first = first.handshake(&secure.trust).await.unwrap();
    assert_eq!(first.replies(1).await, ["220"]);
    assert_eq!(secure.world.connect_silently(None).await.bytes().await, b"");
}
