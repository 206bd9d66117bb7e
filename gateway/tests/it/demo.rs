//! `godwit demo` as a newcomer runs it: the binary, its lines, its end.

use crate::world::{Folder, HANG};
use std::process::{ExitStatus, Stdio};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// One that runs, its temporary files in a folder of the test. Killed when dropped.
struct Demo {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    seen: Vec<String>,
    folder: Folder,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let folder = Folder::new();
        let mut command = Command::new(env!("CARGO_BIN_EXE_godwit"));
        command.arg("demo").args(arguments).env("TMPDIR", folder.path()).kill_on_drop(true);
        // Whatever is set for other commands does not reach it.
        command.env("GODWIT__QUEUE__RETRY_INTERVAL", "1h").env("GODWIT__EGRESS__NO_SUCH_KEY", "1");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, seen: Vec::new(), folder }
    }

    /// Reads on until a line is there that has all the words.
    async fn until(&mut self, words: &[&str]) {
        let has_all = |line: &String| words.iter().all(|word| line.contains(word));
        while !self.seen.last().is_some_and(has_all) {
            let line = tokio::time::timeout(HANG, self.lines.next_line()).await;
            let line = line.unwrap_or_else(|_| panic!("no {words:?} in {:#?}", self.seen)).unwrap();
            self.seen.push(line.unwrap_or_else(|| panic!("no {words:?} in {:#?}", self.seen)));
        }
    }

    /// Ctrl-C.
    async fn interrupt(&self) {
        let id = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().await.unwrap().success());
    }

    /// Reads to its end: exit status, and standard error.
    async fn end(&mut self) -> (ExitStatus, String) {
        let ending = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                self.seen.push(line);
            }
            let mut errors = String::new();
            self.child.stderr.take().unwrap().read_to_string(&mut errors).await.unwrap();
            (self.child.wait().await.unwrap(), errors)
        };
        tokio::time::timeout(HANG, ending).await.expect("it does not end")
    }

    /// The place of the first line that tells of this, and its words after time and verb.
    fn told(&self, verb: &str, about: &str) -> (usize, Vec<&str>) {
        for (place, line) in self.seen.iter().enumerate().filter(|(_, line)| line.contains(about)) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words[0].starts_with('+') && words[1] == verb {
                return (place, words[2..].to_vec());
            }
        }
        panic!("no {verb:?} of {about:?} in {:#?}", self.seen)
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.folder.path()).unwrap().count()
    }
}

/// Two at once: neither disturbs the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_sees_all_of_it() {
    let (mut timed, mut kept) = (Demo::start(&["--seconds", "20"]), Demo::start(&["--keep", "--rate", "5"]));
    let watched = async {
        kept.until(&["deferred", "421 4.7.28"]).await;
        let throttled = kept.told("deferred", "421 4.7.28").1[0].to_string();
        kept.until(&["delivered", &throttled]).await;
        kept.interrupt().await;
        kept.end().await
    };
    let (by_time, by_signal) = tokio::join!(timed.end(), watched);
    for (demo, (status, errors)) in [(&timed, by_time), (&kept, by_signal)] {
        assert_eq!(status.code(), Some(0), "{errors}\n{:#?}", demo.seen);
        assert_eq!(demo.files(), 0, "files are left");
        a_deferral_a_suspension_a_bounce(demo);
        adds_up(&demo.told("in", "accepted = ").1);
    }
    after_the_suspension(&kept);
}

fn a_deferral_a_suspension_a_bounce(demo: &Demo) {
    let (accepted, words) = demo.told("accepted", "@defers.example");
    let id = words[0];
    assert!(id.starts_with("msg_"), "{words:?}");
    let (deferred, words) = demo.told("deferred", id);
    assert!(words.join(" ").contains("451 4.7.1 Greylisted"), "{words:?}");
    let (delivered, words) = demo.told("delivered", id);
    assert!(words.join(" ").contains("attempts: 250 2.0.0"), "{words:?}");
    assert!(accepted < deferred && deferred < delivered, "{:#?}", demo.seen);

    let (_, words) = demo.told("suspended", "mx.throttles.example");
    let rule = "by rule shaping.toml: \"throttles.example\" #1, after 3 answers such as \"421 4.7.28 Unusual rate";
    assert!(words.join(" ").contains(rule), "{words:?}");
    // The text by which a newcomer finds the rule.
    assert!(demo.seen.iter().any(|line| line.trim() == r#"regex = "4\\.7\\.28""#), "{:#?}", demo.seen);

    let (_, words) = demo.told("bounced", "nobody-0@bounces.example");
    assert!(words.join(" ").ends_with("550 5.1.1 No such user here"), "{words:?}");
}

fn after_the_suspension(demo: &Demo) {
    let (deferred, words) = demo.told("deferred", "421 4.7.28");
    let (suspended, _) = demo.told("suspended", "mx.throttles.example");
    let (slowed, _) = demo.told("slowed", "max_message_rate");
    let (resumed, _) = demo.told("resumed", "mx.throttles.example");
    let (delivered, words) = demo.told("delivered", words[0]);
    assert!(words.join(" ").contains("attempts: 250 2.0.0"), "{words:?}");
    assert!(deferred < delivered && suspended < resumed && slowed < resumed && resumed < delivered, "{:#?}", demo.seen);
}

/// `sum 9 accepted = 5 delivered + 2 bounced + 2 still queued`
fn adds_up(words: &[&str]) {
    let numbers: Vec<u64> = words.iter().filter_map(|word| word.parse().ok()).collect();
    assert_eq!(numbers.len(), 4, "{words:?}");
    assert_eq!(numbers[0], numbers[1..].iter().sum::<u64>(), "{words:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_seen_is_named_and_fails() {
    let mut demo = Demo::start(&["--seconds", "1"]);
    let (status, errors) = demo.end().await;
    assert_eq!(status.code(), Some(1), "{errors}");
    assert!(errors.contains("godwit: not seen within 1 s: a suspension by a TSA rule, "), "{errors}");
    assert_eq!(demo.files(), 0, "files are left");
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_when_it_is_told_to() {
    let mut demo = Demo::start(&["--keep"]);
    demo.until(&["delivered", "@defers.example", "after 2 attempts"]).await;
    assert_eq!(demo.files(), 1);
    demo.interrupt().await;
    let (status, errors) = demo.end().await;
    assert_eq!((status.code(), errors.as_str()), (Some(0), ""), "{:#?}", demo.seen);
    assert_eq!(demo.files(), 0, "files are left");
    adds_up(&demo.told("in", "accepted = ").1);
}
