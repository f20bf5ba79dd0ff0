//! Sockets, certificates, the redirect to HTTPS, and how a gateway starts and stops.

use std::{net::SocketAddr, sync::Arc};

use rustix::process::Signal;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{
    harness::{ADMIN, BOTH, Gate, Http, Installation, PATIENCE, Setup, await_gone, signal, text},
    raw::{Raw, tell},
};

const POLICY: &str = "methods = [\"unauthenticated\", \"password\"]\ndefault = \"anyone\"\nworkers = 1";

fn setup() -> Setup {
    Setup::level("minimal").app("/app", "environ_app", POLICY)
}

/// Believes every certificate: these stories ask which one is shown.
#[derive(Debug)]
struct Curious;

impl ServerCertVerifier for Curious {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// What a handshake agreed on.
#[derive(Debug)]
struct Shaken {
    certificate: Vec<u8>,
    alpn: Option<Vec<u8>>,
    version: rustls::ProtocolVersion,
}

async fn shake(
    gate: &Gate,
    name: &str,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&[u8]],
) -> std::io::Result<Shaken> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Curious))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let stream = TcpStream::connect(gate.address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let shaking = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let stream = tokio::time::timeout(PATIENCE, shaking).await.expect("a handshake in time")?;
    let session = stream.get_ref().1;
    Ok(Shaken {
        certificate: session.peer_certificates().unwrap()[0].to_vec(),
        alpn: session.alpn_protocol().map(<[u8]>::to_vec),
        version: session.protocol_version().unwrap(),
    })
}

async fn certificate_for(gate: &Gate, name: &str) -> Vec<u8> {
    shake(gate, name, &[&TLS13, &TLS12], &[]).await.unwrap().certificate
}

/// A new certificate for these names, in PEM and in DER.
fn certificate(names: &[&str]) -> (String, String, Vec<u8>) {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem(), made.cert.der().to_vec())
}

fn write_pair(installation: &Installation, name: &str, pem: &str, key: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(installation.path(&format!("certs/{name}.key")), key).unwrap();
    std::fs::set_permissions(installation.path(&format!("certs/{name}.key")), PermissionsExt::from_mode(0o600))
        .unwrap();
    std::fs::write(installation.path(&format!("certs/{name}.pem")), pem).unwrap();
}

/// Waits until a condition holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart_and_a_broken_one_never() {
    let gate = setup().start();
    let before = certificate_for(&gate, "localhost").await;
    let mut kept = gate.http1().await;
    // A certificate for another key: half a renewal, or a mistake.
    let (pem, key, der) = certificate(&["localhost"]);
    std::fs::write(gate.path("certs/localhost.pem"), &pem).unwrap();
    gate.await_log("messages.log", |line| line.to_string().contains("does not belong to the certificate"));
    assert_eq!(certificate_for(&gate, "localhost").await, before);
    write_pair(&gate, "localhost", &pem, &key);
    until("the new certificate is shown", async || certificate_for(&gate, "localhost").await == der).await;
    // A connection that was open stays open.
    assert!(kept.ready().await.is_ok());
    let status: serde_json::Value = serde_json::from_str(&gate.cli(&["status", "--json"])).unwrap();
    assert_eq!(
        (&status["certificates"][0]["names"][0], &status["reload_problem"]),
        (&"localhost".into(), &serde_json::Value::Null)
    );
    // Put back, because the gate's clients trust the old authority alone.
    drop(kept);
}

#[tokio::test]
async fn the_name_a_client_asks_for_chooses_the_certificate() {
    let installation = setup().install();
    let (pem, key, second) = certificate(&["apps.example.org", "*.wild.example.org"]);
    write_pair(&installation, "second", &pem, &key);
    let config = installation.path("portcullis.toml");
    let written = std::fs::read_to_string(&config).unwrap();
    let more = "\n[[tls.certificate]]\ncertificate = \"certs/second.pem\"\nkey = \"certs/second.key\"\n";
    std::fs::write(&config, written + more).unwrap();
    let gate = installation.start();
    let first = certificate_for(&gate, "localhost").await;
    assert_ne!(first, second);
    for (name, shown) in [
        ("apps.example.org", &second),
        ("APPS.example.org", &second),
        ("a.wild.example.org", &second),
        ("a.b.wild.example.org", &first),
        ("wild.example.org", &first),
        ("elsewhere.example", &first),
        ("127.0.0.1", &first),
    ] {
        assert!(certificate_for(&gate, name).await == *shown, "{name}");
    }
}

#[tokio::test]
async fn a_client_chooses_its_protocol() {
    let gate = setup().start();
    for (offered, agreed) in [
        (&[&b"h2"[..], b"http/1.1"][..], Some(&b"h2"[..])),
        (&[b"http/1.1", b"h2"], Some(b"h2")),
        (&[b"http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        let shaken = shake(&gate, "localhost", &[&TLS13], offered).await.unwrap();
        assert_eq!(shaken.alpn.as_deref(), agreed);
    }
    assert!(shake(&gate, "localhost", &[&TLS13], &[b"spdy/3"]).await.is_err(), "nothing in common");
    for http in BOTH {
        assert_eq!(gate.get("/app/x").over(http).await.code(), 200);
    }
}

#[tokio::test]
async fn the_oldest_tls_follows_the_level() {
    let normal = setup().start();
    assert_eq!(shake(&normal, "localhost", &[&TLS12], &[]).await.unwrap().version, rustls::ProtocolVersion::TLSv1_2);
    assert_eq!(
        shake(&normal, "localhost", &[&TLS12, &TLS13], &[]).await.unwrap().version,
        rustls::ProtocolVersion::TLSv1_3
    );
    let locked = Setup::level("locked-down")
        .app("/app", "environ_app", "methods = [\"token\"]\ndefault = \"signed-in\"")
        .start();
    assert!(shake(&locked, "localhost", &[&TLS12], &[]).await.is_err(), "1.2 is too old");
    assert!(shake(&locked, "localhost", &[&TLS13], &[]).await.is_ok());
    let token = locked.token(&["--user", ADMIN.0]);
    assert_eq!(locked.get("/app/x").bearer(&token).over(Http::Two).await.code(), 200);
    let raised = setup().config("tls", "minimum = \"1.3\"").start();
    assert!(shake(&raised, "localhost", &[&TLS12], &[]).await.is_err());
}

#[tokio::test]
async fn plain_http_is_told_where_https_is_and_nothing_else() {
    let gate = setup().config("gateway", "redirect_listen = [\"127.0.0.1:0\"]").start();
    let status: serde_json::Value = serde_json::from_str(&gate.cli(&["status", "--json"])).unwrap();
    let address: SocketAddr = status["redirect"][0].as_str().unwrap().parse().unwrap();
    let port = gate.address.port();
    let ask = async |request: &str| {
        let mut raw = Raw::plain(address).await;
        raw.send(request).await;
        raw.answers().await
    };
    for (request, location) in [
        ("GET /app/x?a=1 HTTP/1.1\r\nHost: localhost\r\n\r\n", format!("https://localhost:{port}/app/x?a=1")),
        ("GET /app/x HTTP/1.1\r\nHost: LOCALHOST:80\r\n\r\n", format!("https://localhost:{port}/app/x")),
        (
            "POST /app/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
            format!("https://localhost:{port}/app/x"),
        ),
        ("GET //evil.example HTTP/1.1\r\nHost: localhost\r\n\r\n", format!("https://localhost:{port}//evil.example")),
        (
            "GET /app/x HTTP/1.1\r\nHost: [::1]\r\nAuthorization: Basic eDp5\r\n\r\n",
            format!("https://[::1]:{port}/app/x"),
        ),
    ] {
        let answers = ask(&format!("{request}GET /app/second HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        assert_eq!(answers.len(), 1, "one answer, then the end: {request}");
        assert_eq!((answers[0].code, answers[0].header("location")), (308, Some(location.as_str())), "{request}");
        assert!(answers[0].body.is_empty());
    }
    for bad in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: user@evil\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: evil.example\\@localhost\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let answers = ask(bad).await;
        assert!(
            answers.iter().all(|answer| answer.code == 400 && answer.header("location").is_none()),
            "{bad:?}: {answers:?}"
        );
    }
    assert!(gate.log("access.log").is_empty(), "no request was judged");
}

#[tokio::test]
async fn a_hangup_reads_everything_again() {
    let gate = setup().start();
    assert_eq!(gate.get("/app/x").over(Http::One).await.code(), 200);
    let workers = gate.await_workers("/app", 1);
    let policy = std::fs::read_to_string(gate.path("policies/app.toml")).unwrap();
    gate.write_policy("app", &policy.replace("\"anyone\"", "\"signed-in\""));
    // A rotated log is opened again.
    gate.await_log("access.log", |line| line["status"] == 200);
    std::fs::rename(gate.path("logs/access.log"), gate.path("logs/access.log.old")).unwrap();
    signal(gate.pid(), Signal::HUP);
    until("the new policy is in force", async || gate.get("/app/x").over(Http::One).await.code() == 401).await;
    until("new workers", async || !gate.workers("/app").contains(&workers[0])).await;
    await_gone(workers[0]);
    assert_eq!(gate.get("/app/x").admin().over(Http::Two).await.code(), 200);
    gate.await_log("access.log", |line| line["status"] == 401);
    // With a mistake it goes on as it was.
    gate.write_policy("app", "nonsense");
    signal(gate.pid(), Signal::HUP);
    gate.await_log("messages.log", |line| line.to_string().contains("reload refused"));
    assert_eq!(gate.get("/app/x").admin().over(Http::One).await.code(), 200);
}

#[tokio::test]
async fn one_connection_too_many_is_closed_and_a_free_place_is_used() {
    let gate = setup().config("limits", "connections = 3").start();
    let tls = gate.tls(&[b"http/1.1"]);
    let mut inside = Vec::new();
    for _ in 0..3 {
        inside.push(Raw::with(&gate, &tls).await);
    }
    assert!(Raw::behind(&gate, &tls, b"").await.is_err(), "the fourth");
    for raw in &mut inside {
        raw.send("GET /app/x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(raw.answer().await.unwrap().code, 200, "who is in stays in");
    }
    drop(inside.pop());
    until("a place is free again", async || Raw::behind(&gate, &tls, b"").await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_who_says_nothing() {
    let mut gate = setup().start();
    assert_eq!(gate.get("/app/x").over(Http::One).await.code(), 200);
    let (_one, _two) = (gate.http1().await, gate.http2().await);
    let raw = Raw::to(&gate).await;
    let began = std::time::Instant::now();
    assert!(gate.stop().success());
    assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(raw.answers().await.is_empty());
    assert!(TcpStream::connect(gate.address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_stop_right_after_the_start_is_an_orderly_one() {
    for _ in 0..3 {
        assert!(setup().start().stop().success());
    }
}

#[tokio::test]
async fn a_second_gateway_on_one_installation_is_refused_and_the_first_goes_on() {
    let gate = setup().start();
    let second = gate.command(&["serve"]);
    assert!(!second.status.success());
    assert!(text(&second.stderr).contains("already running"), "{}", text(&second.stderr));
    assert!(text(&second.stderr).contains("portcullis status"), "{}", text(&second.stderr));
    assert_eq!(gate.get("/app/x").over(Http::One).await.code(), 200);
    assert!(gate.command(&["status"]).status.success(), "its control socket is its own still");
}

#[tokio::test]
async fn a_port_in_use_is_said_in_words() {
    let (first, second) = (setup().start(), setup().install());
    let output = second.command(&["serve", "--listen", &first.address.to_string()]);
    assert!(!output.status.success());
    let said = text(&output.stderr);
    assert!(said.contains(&first.address.to_string()) && said.contains("another program listens there"), "{said}");
    assert_eq!(tell(&first, "GET /app/x HTTP/1.0\r\n\r\n").await[0].code, 200);
}
