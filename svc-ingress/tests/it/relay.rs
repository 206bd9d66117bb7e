//! Nobody but the listener's relay hosts sends anywhere, however the address is dressed up (hostile inputs, section 4.4).

use crate::support::{FakeQueue, World, config, listener};

const RCPT: [&str; 19] = [
    "<t@third>",
    "<t%third@our.dom>",
    "<t%third@[192.0.2.1]>",
    "<\"t@third\">",
    "<\"t%third\">",
    "<\"t@third\"@our.dom>",
    "<t@third@our.dom>",
    "<@our.dom:t@third>",
    "<@[192.0.2.1]:t@third>",
    "<third!t>",
    "<third!t@our.dom>",
    "<third!t@[192.0.2.1]>",
    "<t@third.>",
    "<t@THIRD>",
    "<t@third%our.dom>",
    "<\"t\"@third>",
    "<t@[127.0.0.1]>",
    "<t@[IPv6:::1]>",
    "<postmaster>",
];
const MAIL: [&str; 5] = ["<>", "<spam@our.dom>", "<spam@localhost>", "<spam@[192.0.2.1]>", "<spam@third>"];

#[tokio::test(start_paused = true)]
async fn strangers_are_refused_in_every_form() {
    let queue = FakeQueue::new();
    let world = World::new(config(listener()), &[&queue]).await;
    for mail in MAIL {
        for rcpt in RCPT {
            let mut client = world.connect_from(Some("192.0.2.9".parse().unwrap())).await;
            assert_eq!(client.say(format!("EHLO x\r\nMAIL FROM:{mail}\r\n"), 2).await, ["250", "250 2.1.0"]);
            let [code] = &client.say(format!("RCPT TO:{rcpt}\r\n"), 1).await[..] else { panic!("one reply") };
            assert!(["550 5.7.1", "501 5.1.3"].contains(&code.as_str()), "{mail} {rcpt}: {code}");
            assert_eq!(client.say_last("DATA\r\nQUIT\r\n").await.last().unwrap(), "554 5.5.0", "{mail} {rcpt}");
        }
    }
    assert_eq!(queue.call_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stranger_gets_no_354_and_the_refusal_is_recorded() {
    let queue = FakeQueue::new();
    let world = World::new(config(listener()), &[&queue]).await;
    let mut client = world.connect_from(Some("192.0.2.9".parse().unwrap())).await;
    let dialogue = "EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<t@third>\r\n";
    assert_eq!(client.say(dialogue, 3).await, ["250", "250 2.1.0", "550 5.7.1"]);
    assert_eq!(client.say("DATA\r\n", 1).await, ["554 5.5.1"]);
    queue.until(|queue| !queue.events.lock().unwrap().is_empty()).await;
    let events = queue.events.lock().unwrap().clone();
    assert_eq!(
        (events[0].recipients.as_slice(), events[0].reverse_path.as_str()),
        (&["t@third".to_string()][..], "a@b")
    );
    assert_eq!(events[0].reply.as_ref().unwrap().line(), "550 5.7.1 Relaying denied");
    assert_eq!(events[0].peer.as_ref().unwrap().address, "192.0.2.9");
}

#[tokio::test(start_paused = true)]
async fn relay_hosts_are_judged_by_the_final_address() {
    let hosts = ["10.0.0.0/8", "2001:db8::/32"].map(|host| host.parse().unwrap());
    let listener = svc_ingress::config::Listener { relay_hosts: hosts.into(), ..listener() };
    let queue = FakeQueue::new();
    let world = World::new(config(listener), &[&queue]).await;
    for (from, expected) in [("10.1.2.3", "250 2.1.5"), ("2001:db8::9", "250 2.1.5"), ("127.0.0.1", "550 5.7.1")] {
        let mut client = world.connect_from(Some(from.parse().unwrap())).await;
        let codes = client.say("EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<@our.dom:t%x@third>\r\n", 3).await;
        assert_eq!(codes[2], expected, "{from}");
    }
    let mut client = world.connect_from(Some("10.1.2.3".parse().unwrap())).await;
    client.say("EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<@our.dom:t%x@third>\r\nDATA\r\n", 4).await;
    assert_eq!(client.say("x\r\n.\r\n", 1).await, ["250 2.0.0"]);
    assert_eq!(queue.kept()[0].envelope.as_ref().unwrap().recipients[0].address, "t%x@third");
}
