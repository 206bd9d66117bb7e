//! Two TSAs, both sent all events of every queue node: they hold the same actions, whatever was missed meanwhile.

use crate::dns::Domain;
use crate::world::{Client, HANG, Load, Placement, Process, Settings, World, arrived, of_kind, told, until};
use bench::sink::{Action as Answer, Behaviour};
use godwit_proto::common::v1::{Event, EventKind};
use godwit_proto::egress;
use godwit_proto::egress::v1::{ListSitesRequest, SiteSummary};
use godwit_proto::queue::v1::SinksRequest;
use godwit_proto::tsa::v1::{Action, ListRequest, StatusRequest};
use std::path::Path;
use std::time::Instant;
use tonic::Request;

/// Each a site of its own.
const TROUBLED: [(&str, &str); 6] = [
    ("t0.test", "mx-t0.test."),
    ("t1.test", "mx-t1.test."),
    ("t2.test", "mx-t2.test."),
    ("t3.test", "mx-t3.test."),
    ("t4.test", "mx-t4.test."),
    ("t5.test", "mx-t5.test."),
];
/// One rule that counts over both queue nodes, and one that fires at once: two actions a site.
const RULES: &str = r#"
[["default".automation]]
regex = "4\\.7\\.28"
action = "Suspend"
trigger = { Threshold = "3/1h" }
duration = "1h"
[["default".automation]]
regex = "4\\.7\\.28"
action = { SetConfig = { name = "connection_limit", value = 2 } }
duration = "1h"
"#;
const BOTH: [&str; 2] = ["queue", "queue-2"];

/// Has enough of whoever is busy.
struct Busy;

impl Behaviour for Busy {
    fn rcpt(&self, argument: &str) -> Answer {
        if argument.contains("busy@") { Answer::Reply("451 4.7.28 Too much mail".into()) } else { Answer::Usual }
    }
}

/// A world with two queue nodes and two TSAs, of which `tsa-2` is started by the test.
struct Pair {
    world: World,
    queue: Process,
    ingress: Process,
    egress: Process,
}

impl Pair {
    async fn start(placement: Placement, tsas: Vec<&'static str>) -> Self {
        let mut domains = Vec::new();
        for (domain, host) in TROUBLED {
            domains.push((domain, Domain { mx: vec![(10, host)], ..Domain::default() }));
            domains.push((host.trim_end_matches('.'), Domain { a: vec![[127, 0, 0, 1].into()], ..Domain::default() }));
        }
        let settings = Settings { without_egress: true, shaping: RULES.into(), domains, tsas, ..Settings::default() };
        let world = World::start(placement, Busy, settings).await;
        let queue = world.start_queue("queue-2").await;
        let ingress = world.start_ingress("ingress-2", &BOTH).await;
        let egress = world.start_egress("egress-1", &BOTH).await;
        Self { world, queue, ingress, egress }
    }

    /// Mail for these sites, over both queues, that they do not want.
    async fn trouble(&self, sites: &[(&str, &str)]) {
        let mut client = Client::connect(self.world.listener("ingress-2", "smtp")).await.unwrap();
        for (domain, _) in sites {
            for _ in 0..4 {
                client.send(&[&format!("busy@{domain}")], "Subject: x\r\n\r\ny").await.unwrap();
            }
        }
        client.quit().await.unwrap();
    }

    fn load(&self) -> Load {
        Load::start(2, self.world.listener("ingress-2", "smtp"), "a@one.test")
    }

    /// What a TSA holds; nothing where it does not answer.
    async fn actions(&self, tsa: &str) -> Vec<Action> {
        let listed = self.world.tsa_of(tsa).list(Request::new(ListRequest::default())).await;
        listed.map(|answer| answer.into_inner().actions).unwrap_or_default()
    }

    /// Until this TSA has two actions for each of so many sites.
    async fn acts(&self, tsa: &str, sites: usize) {
        until(&format!("actions of {tsa}"), async || (self.actions(tsa).await.len() == 2 * sites).then_some(())).await;
    }

    /// Until both TSAs have all events and hold the same: ids, scopes, beginnings, ends and evidence.
    async fn agree(&self, sites: usize) {
        let deadline = Instant::now() + HANG;
        loop {
            let told = self.is_told("queue").await && self.is_told("queue-2").await;
            let (first, second) = (self.actions("tsa").await, self.actions("tsa-2").await);
            if told && first == second && first.len() == 2 * sites {
                break;
            }
            assert!(Instant::now() < deadline, "told: {told}; {first:#?}\nis not\n{second:#?}");
            tokio::task::yield_now().await;
        }
        for tsa in ["tsa", "tsa-2"] {
            let status = self.world.tsa_of(tsa).status(Request::new(StatusRequest {})).await.unwrap().into_inner();
            assert_eq!(status.nodes.len(), BOTH.len(), "{tsa} is sent the events of every queue node: {status:?}");
        }
    }

    /// Whether both TSAs have all that this queue has told.
    async fn is_told(&self, queue: &str) -> bool {
        let listed = self.world.admin_of(queue).sinks(Request::new(SinksRequest {})).await.unwrap().into_inner();
        assert_eq!(listed.sinks.len(), 2, "{listed:?}");
        listed.sinks.iter().all(|sink| sink.lag_events == 0 && sink.last_error.is_empty())
    }

    async fn stop(self, second: Process) {
        self.egress.stop().await;
        self.ingress.stop().await;
        self.queue.stop().await;
        second.stop().await;
        self.world.stop().await;
    }
}

pub async fn two_tsas_agree(placement: Placement) {
    let pair = Pair::start(placement, vec!["tsa", "tsa-2"]).await;
    let second = pair.world.start_tsa("tsa-2").await;
    let load = pair.load();
    pair.trouble(&TROUBLED).await;
    pair.acts("tsa", 6).await;
    load.finish().await;
    pair.agree(6).await;
    pair.stop(second).await;
}

pub async fn tsa_away_under_load(placement: Placement) {
    let pair = Pair::start(placement, vec!["tsa", "tsa-2"]).await;
    let second = pair.world.start_tsa("tsa-2").await;
    let load = pair.load();
    pair.trouble(&TROUBLED[..3]).await;
    pair.acts("tsa-2", 3).await;
    second.kill().await;
    pair.trouble(&TROUBLED[3..]).await;
    pair.acts("tsa", 6).await;
    load.goes_on(50).await;
    let second = pair.world.start_tsa("tsa-2").await;
    load.goes_on(50).await;
    load.finish().await;
    pair.agree(6).await;
    pair.stop(second).await;
}

pub async fn tsa_with_an_empty_folder(placement: Placement) {
    let pair = Pair::start(placement, vec!["tsa", "tsa-2"]).await;
    let second = pair.world.start_tsa("tsa-2").await;
    pair.trouble(&TROUBLED).await;
    pair.acts("tsa-2", 6).await;
    pair.agree(6).await;
    second.kill().await;
    std::fs::remove_dir_all(pair.world.released("tsa-2").await).unwrap();
    let second = pair.world.start_tsa("tsa-2").await;
    // Although there is nothing new to send.
    pair.acts("tsa-2", 6).await;
    pair.agree(6).await;
    pair.stop(second).await;
}

pub async fn tsa_restored_from_a_backup(placement: Placement) {
    let pair = Pair::start(placement, vec!["tsa", "tsa-2"]).await;
    let second = pair.world.start_tsa("tsa-2").await;
    pair.trouble(&TROUBLED[..3]).await;
    pair.acts("tsa-2", 3).await;
    second.stop().await;
    let (folder, backup) = (pair.world.released("tsa-2").await, pair.world.folder.path().join("backup"));
    copy(&folder, &backup);
    let second = pair.world.start_tsa("tsa-2").await;
    pair.trouble(&TROUBLED[3..]).await;
    pair.acts("tsa-2", 6).await;
    pair.agree(6).await;
    second.stop().await;
    std::fs::remove_dir_all(pair.world.released("tsa-2").await).unwrap();
    copy(&backup, &folder);
    // What it confirmed since it holds no longer, and says so.
    let second = pair.world.start_tsa("tsa-2").await;
    pair.acts("tsa-2", 6).await;
    pair.agree(6).await;
    pair.stop(second).await;
}

pub async fn tsa_that_is_watched_dies(placement: Placement) {
    let pair = Pair::start(placement, vec!["tsa-2", "tsa"]).await;
    let second = pair.world.start_tsa("tsa-2").await;
    pair.trouble(&TROUBLED[..1]).await;
    pair.suspended("t0.test").await;
    second.kill().await;
    pair.trouble(&TROUBLED[..1]).await;
    pair.trouble(&TROUBLED[1..2]).await;
    pair.suspended("t1.test").await;
    pair.suspended("t0.test").await;
    pair.left_alone().await;
    let second = pair.world.start_tsa("tsa-2").await;
    pair.stop(second).await;
}

pub async fn no_tsa_left(placement: Placement) {
    let pair = Pair::start(placement, vec!["tsa-2"]).await;
    let second = pair.world.start_tsa("tsa-2").await;
    pair.trouble(&TROUBLED[..1]).await;
    pair.suspended("t0.test").await;
    second.kill().await;
    let health = &pair.egress.running.host.health;
    let lacks = async || health.causes().iter().any(|cause| cause.part == "tsa").then_some(());
    until("word that egress has no TSA", lacks).await;
    // Mail flows under what is known: the site is left alone, others are served.
    pair.trouble(&TROUBLED[..1]).await;
    let load = pair.load();
    load.goes_on(50).await;
    let accepted = load.finish().await;
    arrived(&pair.world.sink, &accepted).await;
    pair.left_alone().await;
    let second = pair.world.start_tsa("tsa-2").await;
    let listens = async || health.causes().is_empty().then_some(());
    until("an egress that listens again", listens).await;
    pair.suspended("t0.test").await;
    pair.left_alone().await;
    pair.stop(second).await;
}

impl Pair {
    /// What came for the first site since it was suspended was not even tried.
    async fn left_alone(&self) {
        let mut attempts = 0;
        for queue in BOTH {
            let events = told(&self.world.queue_of(queue)).await;
            let to_first = |event: &&&Event| event.recipients == ["busy@t0.test"];
            attempts += of_kind(&events, EventKind::TransientFailure).iter().filter(to_first).count();
        }
        assert!(attempts <= 4, "{attempts} attempts at a site that is suspended");
    }

    /// Until the egress holds back mail for a site.
    async fn suspended(&self, domain: &str) {
        let egress = egress::at(self.world.wire("egress-1"));
        let leads_there = |site: &SiteSummary| site.lanes.iter().any(|lane| lane.routing_domain == domain);
        let look = async || {
            let listed = egress.list_sites(Request::new(ListSitesRequest::default())).await.unwrap().into_inner();
            let site = listed.sites.into_iter().find(leads_there)?;
            (site.waiting_for.contains("4.7.28") && site.until.is_some()).then_some(())
        };
        until(&format!("suspension of {domain}"), look).await;
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
