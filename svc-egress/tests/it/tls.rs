//! What is encrypted, to whom, and what goes in the clear (RFC 3207, RFC 7435).

use crate::dns::{Answer, Dns};
use crate::tls_peer::{Authority, Heard, Manner, Peer, Start};
use crate::world::{Setup, World};
use futures::future::join_all;
use godwit_kit::net::{Memory, Net};
use godwit_proto::queue::v1::{Outcome, RecipientResult};
use std::net::Ipv4Addr;
use std::time::Duration;
use svc_egress::{PoolConfig, SourceConfig};

const MESSAGE: &str = "Subject: x\r\n\r\nhello\r\n";

/// A TLS alert, as a server sends it that has no cipher in common.
const ALERT: &[u8] = &[21, 3, 3, 0, 2, 2, 40];

fn shaping(lines: &str) -> String {
    let patient = if lines.contains("starttls_timeout") { "" } else { "starttls_timeout = \"20s\"" };
    format!("[\"default\"]\n{patient}\n{lines}\n")
}

/// What came of one message, in words: `encrypted`, `encrypted to anybody`, `clear`, or why it waits.
async fn told(world: &World) -> String {
    world
        .queue
        .until("an outcome", |state| {
            let settled = state.settled_lanes.first().map(|settled| {
                assert_eq!(settled.result(), RecipientResult::Deferred, "TLS is no reason to bounce");
                settled.reply.as_ref().unwrap().line()
            });
            settled.or_else(|| state.outcomes.first().map(in_words))
        })
        .await
}

fn in_words(outcome: &Outcome) -> String {
    assert_eq!(outcome.recipients[0].result(), RecipientResult::Delivered);
    let Some(tls) = &outcome.tls else {
        assert_eq!(outcome.protocol, "ESMTP");
        return "clear".into();
    };
    assert_eq!(outcome.protocol, "ESMTPS");
    assert_eq!(tls.version, "TLSv1.3");
    assert!(tls.cipher.starts_with("TLS_") && tls.peer_subject.starts_with("CN="), "{tls:?}");
    if tls.verified { "encrypted".into() } else { "encrypted to anybody".into() }
}

/// One message to a peer, over the path that `lines` of a shaping file make.
async fn one(authority: &Authority, lines: &str, manner: Manner) -> (String, Heard) {
    let peer = Peer::start(manner).await;
    let world = Setup::to(peer.at).trusting(&authority.pem).shaping(&shaping(lines)).start().await;
    world.queue.put(&["a@d.example"], MESSAGE);
    let told = told(&world).await;
    world.finish().await;
    (told, peer.heard_in_the_end().await)
}

#[tokio::test]
async fn only_opportunistic_policies_fall_back() {
    const POLICIES: [&str; 6] = [
        "enable_tls = \"Opportunistic\"",
        "enable_tls = \"OpportunisticInsecure\"",
        "enable_tls = \"Opportunistic\"\nopportunistic_tls_reconnect_on_failed_handshake = false",
        "enable_tls = \"Required\"",
        "enable_tls = \"RequiredInsecure\"",
        "enable_tls = \"Disabled\"",
    ];
    let (ours, other) = (Authority::new(), Authority::new());
    let ip = "127.0.0.1";
    // `anew`: in the clear, over a second connection. What is not one of these words is why the mail waits.
    let (tls, any, clear, anew) = ("encrypted", "encrypted to anybody", "clear", "anew");
    let (none, refused) = ("does not offer it", "refused to start it: 454 4.7.0 not now");
    let (garbage, alert, closed) = ("is not TLS", "the alert HandshakeFailure", "the peer closed it");
    let (silent, late) = ("no answer in time", "Connection lost in the greeting");
    let (expired, name, issuer) = ("has expired", "is for another name", "is of an unknown issuer");
    let handshake = |config| Start::Handshake(config);
    let table: [(&str, Start, [&str; 6]); 12] = [
        ("valid", handshake(ours.host(ip)), [tls, any, tls, tls, any, clear]),
        ("not offered", Start::Mute, [clear, clear, clear, none, none, clear]),
        ("refused", Start::Answer("454 4.7.0 not now"), [clear, clear, clear, refused, refused, clear]),
        ("garbage", Start::Instead(&[0xff; 64]), [anew, anew, garbage, garbage, garbage, clear]),
        ("alert", Start::Instead(ALERT), [anew, anew, alert, alert, alert, clear]),
        ("closed", Start::Close, [anew, anew, closed, closed, closed, clear]),
        ("closed late", Start::HandshakeThenClose(ours.host(ip)), [anew, anew, late, late, late, clear]),
        ("silent", Start::Silence, [anew, anew, silent, silent, silent, clear]),
        ("mute", Start::Mute, [anew, anew, silent, silent, silent, clear]),
        ("expired", handshake(ours.host_until(ip, 2020)), [any, any, expired, expired, any, clear]),
        ("wrong name", handshake(ours.host("mx.example")), [any, any, name, name, any, clear]),
        ("unknown issuer", handshake(other.host(ip)), [any, any, issuer, issuer, any, clear]),
    ];
    for (situation, start, expected) in table {
        let mut manner = Manner::new(start);
        if situation == "not offered" {
            manner.clear = manner.encrypted;
        }
        let impatient = ["silent", "mute"].contains(&situation).then_some("\nstarttls_timeout = \"200ms\"");
        let lines = POLICIES.map(|policy| policy.to_string() + impatient.unwrap_or_default());
        let results = join_all(lines.iter().map(|lines| one(&ours, lines, manner.clone()))).await;
        for (((told, heard), expected), policy) in results.iter().zip(expected).zip(POLICIES) {
            let case = format!("{situation}, {policy}: {told}");
            let connections = 1 + usize::from(expected == anew);
            assert_eq!(heard.connection_count, connections, "{case}");
            match expected {
                "encrypted" | "encrypted to anybody" | "clear" => assert_eq!(told, expected, "{case}"),
                "anew" => assert_eq!(told, clear, "{case}"),
                why => assert!(told.starts_with("451 4.7.") && told.contains(why), "{case}"),
            }
            let is_encrypted = told.starts_with(tls);
            let expected: &[_] = if told.starts_with("451") { &[] } else { &[(is_encrypted, MESSAGE.into())] };
            assert_eq!(heard.messages, expected, "{case}");
            assert_eq!(heard.closed_count, usize::from(is_encrypted), "{case}");
        }
    }
}

/// T4: what is put between is neither read as the host's word, nor answered.
#[tokio::test]
async fn plaintext_behind_the_answer_to_starttls_is_never_heard() {
    let ours = Authority::new();
    let host = ours.host("127.0.0.1");
    for policy in ["Opportunistic", "OpportunisticInsecure", "Required", "RequiredInsecure"] {
        let lines = format!("enable_tls = \"{policy}\"\nremember_broken_tls = \"1h\"");
        let injected = b"250-peer.example\r\n250-AUTH PLAIN\r\n250 X\r\n";
        let starts =
            [Start::Injected(injected, host.clone()), Start::Instead(injected), Start::Instead(b"\r\n250 X\r\n")];
        for start in starts {
            let (told, heard) = one(&ours, &lines, Manner::new(start)).await;
            assert!(
                told.starts_with("451 4.7.5") && told.contains("plaintext followed the answer to STARTTLS"),
                "{told}"
            );
            assert_eq!(heard.connection_count, 1, "it is not tried in the clear");
            let commands: Vec<_> = heard.commands.iter().map(|(_, command)| command.as_str()).collect();
            assert_eq!(commands, ["EHLO egress.example", "STARTTLS"]);
            assert!(heard.messages.is_empty() && heard.names.is_empty());
            let said = String::from_utf8_lossy(&heard.instead).into_owned();
            assert!(!said.contains("MAIL") && !said.contains("EHLO"), "{said}");
        }
    }
}

#[tokio::test]
async fn what_was_offered_in_the_clear_is_forgotten() {
    let ours = Authority::new();
    let start = Start::Handshake(ours.host("127.0.0.1"));
    let rich: &[&str] = &["STARTTLS", "PIPELINING", "SIZE 10", "8BITMIME", "AUTH PLAIN"];
    let manner = Manner { clear: rich, encrypted: &[], start: start.clone() };
    let (told, heard) = one(&ours, "", manner).await;
    assert_eq!(told, "encrypted");
    let commands: Vec<_> = heard.commands.iter().filter(|(encrypted, _)| *encrypted).map(|(_, c)| c.as_str()).collect();
    let expected = ["EHLO egress.example", "MAIL FROM:<from@sender.example>", "RCPT TO:<a@d.example>", "DATA", "QUIT"];
    assert_eq!(commands, expected, "no size, one command at a time");
    let manner = Manner { clear: &["STARTTLS"], encrypted: &["SIZE 1000", "PIPELINING"], start };
    let (told, heard) = one(&ours, "", manner).await;
    assert_eq!(told, "encrypted");
    assert!(heard.commands.iter().any(|(_, command)| command.starts_with("MAIL") && command.contains("SIZE=")));
}

/// RFC 8689: not to whoever shows a certificate, and not in the clear, whatever is said there.
#[tokio::test]
async fn mail_that_requires_tls_goes_only_to_who_has_shown_who_he_is() {
    let (ours, other) = (Authority::new(), Authority::new());
    let known = Start::Handshake(ours.host("127.0.0.1"));
    let stranger = Start::Handshake(other.host("127.0.0.1"));
    for (start, code) in [(known, 250), (stranger, 550), (Start::Answer("454 4.7.0 not now"), 550)] {
        let offered: &[&str] = &["STARTTLS", "REQUIRETLS"];
        let peer = Peer::start(Manner { clear: offered, encrypted: offered, start }).await;
        let world = Setup::to(peer.at).trusting(&ours.pem).start().await;
        world.queue.put_with(&["a@d.example"], MESSAGE, |delivery| {
            delivery.envelope.as_mut().unwrap().requiretls = true;
        });
        let outcome = world.queue.outcomes(1).await.remove(0);
        assert_eq!(outcome.recipients[0].reply.as_ref().unwrap().code, code);
        world.finish().await;
        let asked = peer.heard().commands.iter().any(|(_, command)| command.ends_with(" REQUIRETLS"));
        assert_eq!((asked, peer.heard().messages.len()), (code == 250, usize::from(code == 250)));
    }
}

#[tokio::test]
async fn the_certificate_must_be_the_mx_hosts() {
    let ours = Authority::new();
    for (certified, expected) in [("mx.d.example", "encrypted"), ("d.example", "is for another name")] {
        let peer = Peer::start(Manner::new(Start::Handshake(ours.host(certified)))).await;
        let hosts =
            [("d.example", Answer::Mx(vec![(10, "mx.d.example")])), ("mx.d.example", Answer::A(Ipv4Addr::LOCALHOST))];
        let dns = Dns::start(&hosts).await;
        let lines = format!("smtp_port = {}\nenable_tls = \"Required\"", peer.at.port());
        let mut setup = Setup::new().trusting(&ours.pem).shaping(&shaping(&lines));
        setup.config.allow_networks = vec!["127.0.0.0/8".parse().unwrap()];
        setup.config.dns_servers = vec![dns.at.to_string()];
        let world = setup.start().await;
        world.queue.put(&["a@d.example"], MESSAGE);
        let told = told(&world).await;
        assert!(told.contains(expected), "{told}");
        world.finish().await;
        if certified == "mx.d.example" {
            assert_eq!(peer.heard().names, [Some("mx.d.example".to_string())], "the host is told whom we want");
        }
    }
}

#[tokio::test]
async fn only_authorities_that_are_configured_are_believed() {
    let (ours, other) = (Authority::new(), Authority::new());
    let peer = Peer::start(Manner::new(Start::Handshake(ours.host("127.0.0.1")))).await;
    let world = Setup::to(peer.at).trusting(&other.pem).shaping(&shaping("enable_tls = \"Required\"")).start().await;
    world.queue.put(&["a@d.example"], MESSAGE);
    let told = told(&world).await;
    assert!(told.contains("unknown issuer"), "{told}");
    world.finish().await;
}

#[tokio::test]
async fn a_large_message_arrives_unchanged() {
    let ours = Authority::new();
    let peer = Peer::start(Manner::new(Start::Handshake(ours.host("127.0.0.1")))).await;
    let lines = shaping("connection_limit = 1");
    let world = Setup::to(peer.at).trusting(&ours.pem).shaping(&lines).start().await;
    let mut content = String::from("Subject: large\r\n\r\n");
    while content.len() < 6 << 20 {
        content.push_str(&format!("{}\r\n.{}\r\n..\r\n", content.len(), "y".repeat(900)));
    }
    world.queue.put_stored("a@d.example", content.clone().into());
    world.queue.put(&["a@d.example"], MESSAGE);
    let outcomes = world.queue.outcomes(2).await;
    assert_eq!(outcomes.iter().map(in_words).collect::<Vec<_>>(), ["encrypted", "encrypted"]);
    world.finish().await;
    let heard = peer.heard();
    assert_eq!(heard.connection_count, 1);
    assert!(heard.messages.contains(&(true, content.into_bytes())), "not byte for byte what was sent");
    assert!(heard.messages.contains(&(true, MESSAGE.into())));
}

/// Through a pipe that holds 256 KiB, so that in some of these messages nothing is left to be written but what the
/// encryption has taken and not passed on.
#[tokio::test]
async fn the_end_of_a_message_does_not_stay_behind_whatever_its_length() {
    let (ours, net) = (Authority::new(), Net::Memory(Memory::default()));
    let peer = Peer::start_on(&net, Manner::new(Start::Handshake(ours.host("127.0.0.1")))).await;
    let mut setup = Setup::to(peer.at).trusting(&ours.pem).shaping(&shaping("connection_limit = 1"));
    setup.net = net;
    let world = setup.start().await;
    let lengths = (14..=22).map(|n| n * (16 << 10));
    for (count, length) in lengths.enumerate() {
        let content = "x".repeat(62) + "\r\n";
        let content = content.repeat(length / content.len());
        world.queue.put(&["a@d.example"], &content);
        world.queue.outcomes(count + 1).await;
        assert!(peer.heard().messages.last() == Some(&(true, content.into_bytes())), "{length}");
    }
    world.finish().await;
}

#[tokio::test]
async fn sessions_are_resumed_and_what_they_are_worth_is_known() {
    let (ours, other) = (Authority::new(), Authority::new());
    for (authority, expected) in [(&ours, "encrypted"), (&other, "encrypted to anybody")] {
        let peer = Peer::start(Manner::new(Start::Handshake(authority.host("127.0.0.1")))).await;
        let lines = "max_deliveries_per_connection = 1\nconnection_limit = 1";
        let world = Setup::to(peer.at).trusting(&ours.pem).shaping(&shaping(lines)).start().await;
        for count in 1..=3 {
            world.queue.put(&["a@d.example"], MESSAGE);
            world.queue.outcomes(count).await;
        }
        let outcomes = world.queue.outcomes(3).await;
        assert!(outcomes.iter().all(|outcome| in_words(outcome) == expected));
        let metrics = world.host.metrics.clone();
        world.finish().await;
        assert_eq!((peer.heard().connection_count, peer.heard().resumed_count), (3, 2));
        let label = if expected == "encrypted" { "verified" } else { "unverified" };
        let counted = format!("godwit_egress_tls_handshakes_total{{outcome=\"{label}\"}} 3");
        assert!(metrics.text().contains(&counted), "{}", metrics.text());
    }
}

/// Two sources to one host: what one learned of it, the other knows; unless it requires TLS.
#[tokio::test]
async fn broken_tls_is_remembered_for_who_does_not_require_it() {
    let ours = Authority::new();
    let peer = Peer::start(Manner::new(Start::Instead(ALERT))).await;
    let lines = "remember_broken_tls = \"1h\"\nmax_deliveries_per_connection = 1\nconnection_limit = 1\n\
                 [\"default\".sources.\"strict\"]\nenable_tls = \"Required\"";
    let mut setup = Setup::to(peer.at).trusting(&ours.pem).shaping(&shaping(lines));
    setup.config.sources.insert("strict".into(), SourceConfig::default());
    setup.config.pools.insert("strict".into(), PoolConfig { sources: [("strict".to_string(), 1)].into() });
    let world = setup.start().await;
    let starts = |heard: &Heard| heard.commands.iter().filter(|(_, command)| command == "STARTTLS").count();
    for (count, connections) in [(1, 2), (2, 3), (3, 4)] {
        world.queue.put(&["a@d.example"], MESSAGE);
        let outcomes = world.queue.outcomes(count).await;
        assert_eq!(in_words(&outcomes[count - 1]), "clear");
        assert_eq!((peer.heard().connection_count, starts(&peer.heard())), (connections, 1));
    }
    world.queue.put_in("strict", &["a@d.example"], MESSAGE);
    let settled = world.queue.settled_lane().await;
    assert!(settled.reply.unwrap().text.contains("the alert HandshakeFailure"));
    world.finish().await;
    assert_eq!((starts(&peer.heard()), peer.heard().messages.len()), (2, 3));
}

/// What one source has learned lets no mail of another go in the clear that would wait, or be encrypted.
#[tokio::test]
async fn broken_tls_is_not_remembered_for_who_wishes_otherwise() {
    let (ours, other) = (Authority::new(), Authority::new());
    let start = async |start, lines: &str| {
        let peer = Peer::start(Manner::new(start)).await;
        let mut setup = Setup::to(peer.at).trusting(&ours.pem).shaping(&shaping(lines));
        setup.config.sources.insert("own".into(), SourceConfig::default());
        setup.config.pools.insert("own".into(), PoolConfig { sources: [("own".to_string(), 1)].into() });
        let world = setup.start().await;
        world.queue.put_in("own", &["a@d.example"], MESSAGE);
        (world, peer)
    };
    let reconnects = "opportunistic_tls_reconnect_on_failed_handshake";
    let own = "[\"default\".sources.\"own\"]\nremember_broken_tls = \"1h\"";
    let why = async |world: &World| world.queue.settled_lane().await.reply.unwrap().text;

    let lines = format!("{reconnects} = false\n{own}\n{reconnects} = true");
    let (world, _peer) = start(Start::Instead(ALERT), &lines).await;
    assert_eq!(in_words(&world.queue.outcomes(1).await[0]), "clear");
    world.queue.put(&["b@d.example"], MESSAGE);
    assert!(why(&world).await.contains("the alert HandshakeFailure"));
    world.finish().await;

    let lines = format!("{own}\n{reconnects} = false");
    let (world, _peer) = start(Start::Handshake(other.host("127.0.0.1")), &lines).await;
    assert!(why(&world).await.contains("unknown issuer"));
    world.queue.put(&["b@d.example"], MESSAGE);
    assert_eq!(in_words(&world.queue.outcomes(1).await[0]), "encrypted to anybody");
    world.finish().await;
}

#[tokio::test]
async fn without_a_memory_tls_is_tried_each_time() {
    let ours = Authority::new();
    let peer = Peer::start(Manner::new(Start::Instead(ALERT))).await;
    let lines = shaping("max_deliveries_per_connection = 1\nconnection_limit = 1");
    let world = Setup::to(peer.at).trusting(&ours.pem).shaping(&lines).start().await;
    for count in 1..=3 {
        world.queue.put(&["a@d.example"], MESSAGE);
        world.queue.outcomes(count).await;
    }
    world.finish().await;
    assert_eq!(peer.heard().connection_count, 6);
}

#[tokio::test]
async fn the_second_connection_counts_against_the_limit_like_the_first() {
    let ours = Authority::new();
    let peer = Peer::start(Manner::new(Start::Close)).await;
    let setup = Setup::to(peer.at).trusting(&ours.pem).shaping(&shaping("max_connection_rate = \"100/s\""));
    {
        let mut script = setup.throttle.0.lock().unwrap();
        (script.granted_first, script.waits) = (1, vec![Duration::from_millis(50)]);
    }
    let world = setup.start().await;
    world.queue.put(&["a@d.example"], MESSAGE);
    assert_eq!(told(&world).await, "clear");
    let script = world.throttle.clone();
    world.finish().await;
    let script = script.0.lock().unwrap();
    let keys: Vec<_> = script.acquired.iter().map(|asked| asked.requests[0].limits[0].key.as_str()).collect();
    let key = format!("egress:connecting:{}:unspecified", peer.at);
    assert_eq!(keys, [&key; 3], "one for the handshake, one that had to wait, one for the clear");
    assert_eq!(peer.heard().connection_count, 2, "what was learned is not learned again");
    assert_eq!((script.slots_given, script.slots_released), (2, 2), "none is kept while waiting");
}
