//! Generator, load and sink against each other, over pipes in memory: what is sent is what is taken, to the octet.

#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

use bench::account::Account;
use bench::generate::{ID_FIELD, Plan};
use bench::load::{Load, PATIENCE, Sent, Supply};
use bench::sink::{Action, Behaviour, Keep, Obliging, Sink};
use godwit_kit::net::{Memory, Net};
use sha2::{Digest, Sha256};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn plan(size_bytes: usize) -> Plan {
    Plan { seed: 7, size_bytes, domains: vec!["a.example".into(), "b.example".into()] }
}

fn load(to: SocketAddr, connections: usize, size_bytes: usize, count: usize) -> Load {
    Load { to: vec![to.to_string()], connections, plan: plan(size_bytes), first: 0, count, rate: None }
}

async fn exchange(keep: Keep, behaviour: impl Behaviour, count: usize) -> (Sink, Sent) {
    let net = Net::Memory(Memory::default());
    let sink = Sink::start(&net, ANY, keep, behaviour).await.unwrap();
    let load = load(sink.address(), 4, 3_000, count);
    let sent = load.start(&net, Supply::Made(load.make()), PATIENCE).finish().await;
    (sink, sent)
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_is_what_is_taken() {
    // One in 50 is awkward: lines of dots, 8-bit octets, lines of 998 octets.
    let (sink, sent) = exchange(Keep::Sums, Obliging, 500).await;
    let account = Account::of(&sent.accepted, &sink.sums());
    assert!(account.is_exact(), "{account}");
    assert_eq!((account.promised, sink.count(), sent.refused_count, sent.unknown.len()), (500, 500, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn messages_made_when_sent_are_the_same() {
    let net = Net::Memory(Memory::default());
    let sink = Sink::start(&net, ANY, Keep::Sums, Obliging).await.unwrap();
    let load = Load { first: 100, ..load(sink.address(), 3, 500, 60) };
    let running = load.start(&net, Supply::Fresh, PATIENCE);
    sink.wait_for(60).await;
    let sent = running.finish().await;
    let expected: Vec<_> = (100..160).map(|number| plan(500).message(number)).map(|m| (m.id, m.sum)).collect();
    assert!(Account::of(&expected, &sink.sums()).is_exact());
    assert!(Account::of(&expected, &sent.accepted).is_exact());
}

#[tokio::test(start_paused = true)]
async fn awkward_content_survives_to_the_octet() {
    let (sink, _) = exchange(Keep::Content, Obliging, 50).await;
    let awkward = plan(3_000).message(7);
    let taken = sink.taken().into_iter().find(|taken| taken.id().as_ref() == Some(&awkward.id)).unwrap();
    assert_eq!(<[u8; 32]>::from(Sha256::digest(&taken.content)), awkward.sum);
    assert_eq!(
        (taken.reverse_path.as_str(), taken.recipients.as_slice()),
        ("load@bench.example", &[awkward.recipient][..])
    );
    let lines: Vec<&[u8]> = taken.content.split(|octet| *octet == b'\n').collect();
    assert!(lines.contains(&[&b".".repeat(998)[..], b"\r"].concat().as_slice()));
    assert!(lines.contains(&&b".\r"[..]) && lines.contains(&&b"..\r"[..]) && lines.contains(&&b"...\r"[..]));
    assert!(taken.content.contains(&0xFF));
    assert!(lines.iter().all(|line| line.len() <= 999), "no line beyond 998 octets and its CR");
}

#[tokio::test(start_paused = true)]
async fn the_first_received_field_is_left_out_of_the_sum() {
    let net = Net::Memory(Memory::default());
    let sink = Sink::start(&net, ANY, Keep::Content, Obliging).await.unwrap();
    let rest = format!("{ID_FIELD}: x\r\n\r\nbody\r\n");
    let content = format!("Received: from a\r\n\tby b;\r\n Tue\r\n{rest}.\r\n");
    talk(&net, sink.address(), &format!("EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<x@y>\r\nDATA\r\n{content}QUIT\r\n")).await;
    let taken = sink.taken().remove(0);
    assert_eq!((taken.id().as_deref(), taken.sum()), (Some("x"), Sha256::digest(&rest).into()));
}

/// Sends `script` at once; the replies.
async fn talk(net: &Net, to: SocketAddr, script: &str) -> String {
    let mut stream = net.connect(to, None).await.unwrap().stream;
    stream.write_all(script.as_bytes()).await.unwrap();
    let mut replies = String::new();
    stream.read_to_string(&mut replies).await.unwrap();
    replies
}

#[tokio::test(start_paused = true)]
async fn only_crlf_dot_crlf_ends_content_wherever_reads_end() {
    let net = Net::Memory(Memory::default());
    let sink = Sink::start(&net, ANY, Keep::Content, Obliging).await.unwrap();
    let head = "EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<x@y>\r\nDATA\r\n";
    let content = "..\r\na\n.\n\r.\r\r\n..\r\n...\r\n.\r\n";
    let script = format!("{head}{content}QUIT\r\n");
    for piece in 1..=7 {
        let mut stream = net.connect(sink.address(), None).await.unwrap().stream;
        for part in script.as_bytes().chunks(piece) {
            stream.write_all(part).await.unwrap();
            tokio::task::yield_now().await;
        }
        stream.read_to_string(&mut String::new()).await.unwrap();
    }
    let taken = sink.taken();
    assert_eq!(taken.len(), 7);
    assert!(taken.iter().all(|taken| taken.content == ".\r\na\n.\n\r.\r\r\n.\r\n..\r\n"), "{:?}", taken[0].content);
}

#[tokio::test(start_paused = true)]
async fn empty_content_and_the_order_of_commands() {
    let net = Net::Memory(Memory::default());
    let sink = Sink::start(&net, ANY, Keep::Content, Obliging).await.unwrap();
    let script = "EHLO c\r\nRCPT TO:<x@y>\r\nMAIL FROM:<a@b>\r\nMAIL FROM:<a@b>\r\nDATA\r\nRCPT TO:<x@y>\r\nDATA\r\n.\r\n\
                  DATA\r\nQUIT\r\n";
    let replies = talk(&net, sink.address(), script).await;
    let codes: Vec<&str> = replies.lines().filter(|line| line.as_bytes()[3] == b' ').map(|line| &line[..3]).collect();
    assert_eq!(codes, ["220", "250", "503", "250", "503", "554", "250", "354", "250", "554", "221"]);
    assert!(sink.taken()[0].content.is_empty());
}

/// Refuses by turns at each step, and loses the reply to every tenth.
#[derive(Default)]
struct Moody(AtomicUsize, AtomicUsize);

impl Behaviour for Moody {
    fn mail(&self, _: &str) -> Action {
        match self.0.fetch_add(1, Ordering::Relaxed) % 4 {
            1 => Action::Reply("451 4.0.0 Not now".into()),
            _ => Action::Usual,
        }
    }
    fn rcpt(&self, argument: &str) -> Action {
        if argument.contains("r3") { Action::Reply("550 5.1.1 Nobody".into()) } else { Action::Usual }
    }
    fn dot(&self, _: &[u8]) -> Action {
        match self.1.fetch_add(1, Ordering::Relaxed) % 10 {
            5 => Action::TakeAndClose,
            7 => Action::Reply("452 4.3.1 Full".into()),
            _ => Action::Usual,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_are_no_promises_and_a_lost_reply_is_unknown() {
    let (sink, sent) = exchange(Keep::Sums, Moody::default(), 400).await;
    let account = Account::of(&sent.accepted, &sink.sums());
    assert_eq!(sent.accepted.len() + sent.refused_count + sent.unknown.len(), 400);
    assert!(sent.refused_count > 100 && !sent.unknown.is_empty());
    assert!(account.is_clean() && account.duplicates == 0, "{account}");
    assert_eq!(account.unpromised, sent.unknown.len());
}

#[tokio::test(start_paused = true)]
async fn a_load_without_a_server_ends() {
    let net = Net::Memory(Memory::default());
    let load = load("127.0.0.1:9".parse().unwrap(), 2, 100, 5);
    let sent = load.start(&net, Supply::Fresh, PATIENCE).finish().await;
    assert_eq!((sent.accepted.len(), sent.unknown.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn connections_go_to_all_servers_by_turns_and_on_from_one_that_is_gone() {
    let net = Net::Memory(Memory::default());
    let first = Sink::start(&net, ANY, Keep::Sums, Obliging).await.unwrap();
    let second = Sink::start(&net, ANY, Keep::Sums, Obliging).await.unwrap();
    let gone = "127.0.0.1:9".parse().unwrap();
    let to = [first.address(), gone, second.address()].map(|address: SocketAddr| address.to_string());
    // Slow enough that the first four have not sent everything before the others try again.
    let load = Load { to: to.to_vec(), rate: Some(500), ..load(first.address(), 6, 300, 600) };
    let sent = load.start(&net, Supply::Fresh, PATIENCE).finish().await;
    assert_eq!((sent.accepted.len(), first.count() + second.count()), (600, 600));
    assert_eq!((first.connection_count(), second.connection_count()), (2, 4), "the gone one's go to the next");
}

#[tokio::test(start_paused = true)]
async fn a_rate_holds_over_all_connections() {
    let net = Net::Memory(Memory::default());
    let sink = Sink::start(&net, ANY, Keep::Sums, Obliging).await.unwrap();
    let load = Load { rate: Some(50), ..load(sink.address(), 4, 300, 200) };
    let start = tokio::time::Instant::now();
    let sent = load.start(&net, Supply::Fresh, PATIENCE).finish().await;
    assert_eq!((sent.accepted.len(), start.elapsed().as_millis()), (200, 3_980), "the first at once, each after 20 ms");
    assert_eq!((sink.messages_per_second_max().0, sink.connections_max()), (50, 4));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_has_said_quit_is_over() {
    let net = Net::Memory(Memory::default());
    let sink = Sink::start(&net, ANY, Keep::Count, Obliging).await.unwrap();
    for _ in 0..20 {
        talk(&net, sink.address(), "EHLO c\r\nQUIT\r\n").await;
    }
    assert_eq!((sink.connection_count(), sink.connections_max(), sink.open_connection_count()), (20, 1, 0));
}
