//! Who gets in between services: certificates, their roles, tokens, and what the refused are told.

use crate::world::{Folder, HANG, Process};
use gateway::certs::{Authority, Pair, Subject};
use godwit_kit::call::surely_not_started;
use godwit_kit::roles::Role;
use godwit_kit::{connect, tls};
use godwit_proto::throttle::v1::{AcquireRequest, ListRequest};
use godwit_proto::throttle::{self, Throttle};
use sha2::{Digest, Sha256};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::http;
use tonic::{Code, Request, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

fn subject(name: &str, role: Role) -> Subject {
    Subject { name: name.into(), role, hosts: Vec::new(), days: 1 }
}

fn write(folder: &Path, name: &str, pair: &Pair) -> (PathBuf, PathBuf) {
    let (cert, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
    std::fs::write(&cert, &pair.cert).unwrap();
    std::fs::write(&key, &pair.key).unwrap();
    (cert, key)
}

/// A throttle behind mutual TLS, and the authority that it believes.
struct Guarded {
    folder: Folder,
    authority: Authority,
    process: Process,
}

impl Guarded {
    async fn start() -> Self {
        let folder = Folder::new();
        let (authority, own) = Authority::create().unwrap();
        write(folder.path(), "ca", &own);
        write(folder.path(), "server", &authority.issue(&subject("server", Role::Peer)).unwrap());
        let digest: String = Sha256::digest("sesame").iter().map(|byte| format!("{byte:02x}")).collect();
        let at = folder.path().display();
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\ndata_dir = \"{at}/data\"\n\
             tls = {{ cert = \"{at}/server.pem\", key = \"{at}/server.key\", client_ca = \"{at}/ca.pem\" }}\n\
             [throttle]\n[peers]\ningress = \"http://127.0.0.1:1\"\n\
             [gateway]\nlisten = \"127.0.0.1:0\"\ntokens = [{{ name = \"sre\", sha256 = \"{digest}\", role = \"operate\" }}]\n"
        );
        let process = Process::start(&text).await.unwrap();
        Self { folder, authority, process }
    }

    /// A caller with a certificate of `authority`, or without one.
    fn caller(&self, shown: Option<(&Authority, &str, Role)>) -> Throttle {
        throttle::at(self.road(shown).wire)
    }

    fn road(&self, shown: Option<(&Authority, &str, Role)>) -> connect::Road {
        let identity = shown.map(|(authority, name, role)| {
            write(self.folder.path(), name, &authority.issue(&subject(name, role)).unwrap())
        });
        let files = tls::ClientFiles { ca: self.folder.path().join("ca.pem"), identity };
        let tls = tls::Client::load(files).unwrap();
        connect::road(&format!("https://localhost:{}", self.process.running.grpc.port()), Some(&tls)).unwrap()
    }
}

async fn list(throttle: &Throttle, token: Option<&str>) -> Result<(), Status> {
    let mut request = Request::new(ListRequest::default());
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    throttle.list(request).await.map(|_| ())
}

async fn acquire(throttle: &Throttle) -> Result<(), Status> {
    let node = Some(godwit_proto::id::NodeId::new().into());
    throttle.acquire(Request::new(AcquireRequest { node, requests: Vec::new() })).await.map(|_| ())
}

fn refused(answer: Result<(), Status>, code: Code, says: &[&str]) {
    let status = answer.expect_err("let in");
    assert_eq!(status.code(), code, "{status:?}");
    for words in says {
        assert!(status.message().contains(words), "{words:?} is not in {:?}", status.message());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_reach_as_far_as_their_certificate_or_token_says() {
    let guarded = Guarded::start().await;
    let own = &guarded.authority;
    let peer = guarded.caller(Some((own, "queue-1", Role::Peer)));
    acquire(&peer).await.unwrap();
    list(&peer, None).await.unwrap();

    let reader = guarded.caller(Some((own, "grafana", Role::Read)));
    list(&reader, None).await.unwrap();
    refused(acquire(&reader).await, Code::PermissionDenied, &["role read", "Acquire", "needs the role peer"]);

    let nobody = guarded.caller(None);
    refused(list(&nobody, None).await, Code::PermissionDenied, &["no client certificate", "needs the role read"]);
    list(&nobody, Some("sesame")).await.unwrap();
    refused(list(&nobody, Some("simsim")).await, Code::PermissionDenied, &["token is not known"]);
    // Who shows a token is held to it, whatever the certificate.
    refused(list(&peer, Some("simsim")).await, Code::PermissionDenied, &["token is not known"]);

    let health = HealthClient::new(guarded.road(None).wire).check(HealthCheckRequest::default()).await;
    assert!(health.is_ok(), "health is for everyone: {health:?}");
    guarded.process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_is_refused_before_any_call() {
    let guarded = Guarded::start().await;
    let (stranger, _) = Authority::create().unwrap();
    let caller = guarded.caller(Some((&stranger, "queue-1", Role::Peer)));
    for _ in 0..20 {
        let status = acquire(&caller).await.expect_err("let in");
        assert!(surely_not_started(&status), "{status:?}");
        refused(Err(status), Code::Unavailable, &["the server refused our certificate", "UnknownCA"]);
    }
    // The other way round: a caller does not believe a server of another authority.
    let (_, their) = Authority::create().unwrap();
    std::fs::write(guarded.folder.path().join("ca.pem"), their.cert).unwrap();
    let caller = guarded.caller(None);
    refused(list(&caller, Some("sesame")).await, Code::Unavailable, &["UnknownIssuer"]);
    guarded.process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_without_tls_is_not_served() {
    let guarded = Guarded::start().await;
    let plain = throttle::at(connect::road(&guarded.process.address(), None).unwrap().wire);
    assert!(acquire(&plain).await.is_err());
    guarded.process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_without_a_restart_and_bad_ones_are_not_taken() {
    let guarded = Guarded::start().await;
    let folder = guarded.folder.path();
    std::fs::write(folder.join("server.pem"), "no certificate").unwrap();
    acquire(&guarded.caller(Some((&guarded.authority, "queue-1", Role::Peer)))).await.unwrap();

    let (next, pair) = Authority::create().unwrap();
    write(folder, "server", &next.issue(&subject("server", Role::Peer)).unwrap());
    write(folder, "ca", &pair);
    let renewed = async {
        // A road of its own each time: a new connection.
        while acquire(&guarded.caller(Some((&next, "queue-1", Role::Peer)))).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(HANG, renewed).await.expect("the new certificates are used");
    guarded.process.stop().await;
}

#[test]
fn certificates_that_cannot_be_used_are_named_with_their_files() {
    let (folder, check) = (Folder::new(), |text: &str| {
        let mut faults = godwit_kit::config::Faults::default();
        let document = godwit_kit::config::Document::parse(text, "test", &mut faults);
        gateway::config::Config::read(&document).expect_err("taken").to_string()
    });
    let at = folder.path().display().to_string();
    let (authority, own) = Authority::create().unwrap();
    write(folder.path(), "ca", &own);
    write(folder.path(), "one", &authority.issue(&subject("one", Role::Peer)).unwrap());
    write(folder.path(), "two", &authority.issue(&subject("two", Role::Peer)).unwrap());
    let server = |cert: &str, key: &str| {
        format!("[throttle]\n[server.tls]\ncert = \"{at}/{cert}\"\nkey = \"{at}/{key}\"\nclient_ca = \"{at}/ca.pem\"\n")
    };
    for (text, says) in [
        (server("nowhere.pem", "one.key"), "nowhere.pem: No such file"),
        (server("one.key", "one.key"), "one.key: no certificate in it"),
        (server("one.pem", "two.key"), "do not go together"),
        ("[throttle]\n[server.tls]\ncert = \"x\"\n".into(), "server.tls.client_ca: must name a file"),
        (
            "[throttle]\n[peers]\nqueue = \"https://a:1\"\n".into(),
            "peers.queue[0]: https://a:1 asks for TLS: set peers.tls",
        ),
        ("[throttle]\n[peers]\nqueue = \"http://127.0.0.1:500511\"\n".into(), "its port must be 1 to 65535"),
        ("[throttle]\n[peers]\nqueue = \"http://a:1\"\n".into(), "peers.queue[0]: http://a:1 is beyond loopback"),
        ("[throttle]\n[server]\nlisten = \"0.0.0.0:1\"\n".into(), "server.listen: gRPC without TLS beyond loopback"),
    ] {
        let faults = check(&text);
        assert!(faults.contains(says), "{says:?} is not in\n{faults}");
    }
}

#[test]
fn the_command_makes_certificates_that_are_believed_or_none() {
    let folder = Folder::new();
    let certs = |dir: &str, name: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_godwit"));
        let output = command.args(["certs", name, "--dir"]).arg(folder.path().join(dir)).output().unwrap();
        if output.status.success() { Ok(()) } else { Err(String::from_utf8(output.stderr).unwrap()) }
    };
    let mode = |file: &str| std::fs::metadata(folder.path().join(file)).unwrap().permissions().mode() & 0o777;
    certs("one", "queue").unwrap();
    // What a run that was cut short left behind.
    std::fs::write(folder.path().join("one/egress.new"), "").unwrap();
    certs("one", "egress").unwrap();
    for key in ["ca", "queue", "egress"] {
        assert_eq!(mode(&format!("one/{key}.key")), 0o600, "{key}");
    }
    for name in ["", "..", ".x", "a/b", "*", "ü", "ca"] {
        let refused = certs("one", name).expect_err(name);
        assert!(refused.contains(if name == "ca" { "own name" } else { "must be a host's name" }), "{refused}");
    }
    certs("two", "queue").unwrap();
    std::fs::copy(folder.path().join("two/ca.key"), folder.path().join("one/ca.key")).unwrap();
    let refused = certs("one", "tsa").expect_err("signed by the wrong key");
    assert!(refused.contains("ca.pem") && refused.contains("do not go together"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_hands_calls_on_and_judges_the_callers_itself() {
    let guarded = Guarded::start().await;
    let at = guarded.folder.path().display();
    write(guarded.folder.path(), "gateway", &guarded.authority.issue(&subject("gateway", Role::Peer)).unwrap());
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\ndata_dir = \"{at}/gateway\"\n\
         tls = {{ cert = \"{at}/gateway.pem\", key = \"{at}/gateway.key\", client_ca = \"{at}/ca.pem\" }}\n\
         [gateway]\nlisten = \"127.0.0.1:0\"\n[peers]\ningress = \"https://127.0.0.1:1\"\n\
         throttle = \"https://127.0.0.1:{}\"\n\
         tls = {{ ca = \"{at}/ca.pem\", cert = \"{at}/gateway.pem\", key = \"{at}/gateway.key\" }}\n",
        guarded.process.running.grpc.port()
    );
    let gateway = Process::start(&text).await.unwrap();
    let files = |name: &str, role| {
        let pair = guarded.authority.issue(&subject(name, role)).unwrap();
        let identity = Some(write(guarded.folder.path(), name, &pair));
        tls::Client::load(tls::ClientFiles { ca: guarded.folder.path().join("ca.pem"), identity }).unwrap()
    };
    let address = format!("https://localhost:{}", gateway.running.grpc.port());
    let caller = |tls: tls::Client| throttle::at(connect::road(&address, Some(&tls)).unwrap().wire);

    let reader = caller(files("reader", Role::Read));
    list(&reader, None).await.unwrap();
    // Who may not is refused at the door, although the gateway itself may.
    refused(acquire(&reader).await, Code::PermissionDenied, &["role read"]);
    // Nor does it hand on what it does not know: the service behind it may.
    let unknown = http::Request::builder().method("POST").uri("/godwit.throttle.v1.ThrottleService/Later");
    let mut wire = connect::road(&address, Some(&files("other", Role::Read))).unwrap().wire;
    std::future::poll_fn(|context| GrpcService::poll_ready(&mut wire, context)).await.unwrap();
    let answer = GrpcService::call(&mut wire, unknown.body(Body::empty()).unwrap()).await;
    let refusal = answer.map_or_else(|status| status, |answer| Status::from_header_map(answer.headers()).unwrap());
    refused(Err(refusal), Code::PermissionDenied, &["role read", "Later", "needs the role peer"]);
    let peer = caller(files("peer", Role::Peer));
    acquire(&peer).await.unwrap();
    let answer = peer.list(Request::new(ListRequest::default())).await.unwrap();
    let says = answer.metadata().get(connect::NODE_ID).unwrap().to_str().unwrap().to_string();
    assert_eq!(says, guarded.process.running.host.node.to_string(), "whose answer it is");

    let mut request = Request::new(ListRequest::default());
    request.metadata_mut().insert(connect::NODE_ID, "node_00000000000000000000000000".parse().unwrap());
    let status = peer.list(request).await.expect_err("no such node");
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    gateway.stop().await;
    guarded.process.stop().await;
}
