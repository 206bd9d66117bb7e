//! One end of data, and one only (hostile inputs, section 4.1: rows S1, S7, S8, S9).

use crate::support::{Client, FakeQueue, World, config, listener};

/// Row S1: what other servers have taken for the end.
pub const ENDS: [&str; 13] = [
    "\n.\n",
    "\n.\r\n",
    "\n.\r",
    "\r.\r",
    "\r.\n",
    "\r.\r\n",
    "\r\n.\n",
    "\r\n.\r",
    "\r\n.\r\r\n",
    "\r\r\n.\r\r\n",
    "\r\n\0.\r\n",
    "\r\n.\0\r\n",
    "\r\n\r.\r\n",
];

/// The one reply after the real end; the session is in order then.
pub async fn sends(client: &mut Client, content: &str) -> String {
    client.open().await;
    let codes = client.say(format!("{content}\r\n.\r\nNOOP\r\n"), 2).await;
    assert_eq!(codes[1], "250 2.0.0", "one reply to the message, then NOOP's: {content:?}");
    codes[0].clone()
}

#[tokio::test(start_paused = true)]
async fn nothing_else_ends_a_message() {
    let queue = FakeQueue::new();
    let world = World::new(config(listener()), &[&queue]).await;
    for end in ENDS {
        let mut client = world.greeted().await;
        let smuggled = format!("A{end}MAIL FROM:<evil@x>\r\nRCPT TO:<v@y>\r\nDATA\r\nB");
        let code = sends(&mut client, &smuggled).await;
        let expected = if end.contains('\0') { "554 5.6.0" } else { "550 5.5.2" };
        assert_eq!(code, expected, "{end:?}");
        assert_eq!(client.say_last("QUIT\r\n").await, ["221 2.0.0"], "{end:?}");
    }
    assert_eq!(queue.call_count(), 0);
    queue.until(|queue| queue.events.lock().unwrap().len() == ENDS.len()).await;
}

#[tokio::test(start_paused = true)]
async fn the_real_end_ends_it_once() {
    let queue = FakeQueue::new();
    let world = World::new(config(listener()), &[&queue]).await;
    let mut client = world.greeted().await;
    client.open().await;
    let codes = client.say("A\r\n.\r\nMAIL FROM:<evil@x>\r\nRCPT TO:<v@y>\r\nDATA\r\nB\r\n.\r\n", 4).await;
    assert_eq!(codes, ["250 2.0.0", "250 2.1.0", "250 2.1.5", "554 5.5.0"], "data before 354 closes");
    assert_eq!((client.rest().await.len(), queue.kept().len()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn nul_is_taken_nowhere() {
    let queue = FakeQueue::new();
    let world = World::new(config(listener()), &[&queue]).await;
    let mut client = world.greeted().await;
    assert_eq!(client.say("NO\0OP\r\nMAIL FROM:<a\0@b>\r\n", 2).await, ["500 5.5.2", "500 5.5.2"]);
    assert_eq!(sends(&mut client, "Subject: a\0b\r\n\r\nx").await, "554 5.6.0");
    assert_eq!(sends(&mut client, "Subject: x\r\n\r\na\0b").await, "554 5.6.0");
    assert_eq!(queue.call_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn long_commands_are_refused_and_end_the_session_in_the_end() {
    let queue = FakeQueue::new();
    let world = World::new(config(listener()), &[&queue]).await;
    let mut client = world.greeted().await;
    let noop = |bytes: usize| format!("NOOP {}\r\n", "x".repeat(bytes - 7));
    for (line, expected) in [(noop(512), "250 2.0.0"), (noop(513), "250 2.0.0"), (noop(4_096), "500 5.5.2")] {
        assert_eq!(client.say(&line, 1).await, [expected], "{}", line.len());
    }
    assert_eq!(client.say(format!("EHLO {}\r\n", "a".repeat(100_000)), 1).await, ["500 5.5.2"]);
    assert_eq!(client.say(format!("RCPT TO:<{}@x>\r\n", "a".repeat(100_000)), 1).await, ["500 5.5.2"]);
    let mut endless = world.connect().await;
    for _ in 0..16 {
        endless.send("x".repeat(64 << 10)).await;
    }
    assert_eq!(endless.say("\r\nNOOP\r\n", 2).await, ["500 5.5.2", "250 2.0.0"]);
    let codes = client.say_last("FOO\r\n".repeat(30)).await;
    assert_eq!((codes.last().unwrap().as_str(), codes.len() < 30), ("421 4.7.0", true));
}

#[tokio::test(start_paused = true)]
async fn long_lines_of_content_are_refused() {
    let queue = FakeQueue::new();
    let world = World::new(config(listener()), &[&queue]).await;
    let mut client = world.greeted().await;
    for (length, expected) in [(998, "250 2.0.0"), (999, "554 5.6.0"), (1_001, "554 5.6.0"), (10 << 20, "554 5.6.0")] {
        assert_eq!(sends(&mut client, &"x".repeat(length)).await, expected, "{length}");
    }
    assert_eq!(queue.kept().len(), 1);
}
