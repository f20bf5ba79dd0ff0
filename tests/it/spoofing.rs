//! The environ oracle: whatever a client writes about who it is, where it comes from or what it asks for, an
//! application sees what it would have seen without.

use std::collections::BTreeSet;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, combinators::BoxBody};
use serde_json::Value;

use crate::{
    harness::{ADMIN, BOTH, Gate, Http, Setup, repository, venv},
    raw::{Raw, tell},
};

const POLICY: &str = "methods = [\"unauthenticated\", \"password\"]\ndefault = \"anyone\"\nworkers = 1\n\
     [[allow]]\npath = \"/closed/**\"\nwho = \"signed-in\"\n\
     [[allow]]\npath = \"/read/**\"\nwho = \"signed-in\"\n\
     [[allow]]\npath = \"/read/*\"\nmethods = [\"GET\"]\nwho = \"anyone\"\n\
     [[allow]]\npath = \"/inside/**\"\nwho = \"anyone\"\nfrom = [\"10.0.0.0/8\"]\n\
     [[deny]]\npath = \"/never/**\"\n";

fn setup() -> Setup {
    Setup::level("minimal").app("/app", "environ_app", POLICY).app(
        "/told",
        "environ_app",
        "identity_headers = true\nserve_files = \"no\"\nmethods = [\"unauthenticated\", \"password\"]\n\
         default = \"anyone\"\nworkers = 1",
    )
}

/// Every header that some server, proxy or framework has read an identity, an address or a path from.
const KEYS: [&str; 38] = [
    "Remote-User",
    "Remote-Name",
    "Remote-Email",
    "Remote-Groups",
    "Remote-Roles",
    "Remote-Addr",
    "Auth-Type",
    "Authenticated-User",
    "X-Remote-User",
    "X-Forwarded-User",
    "X-Forwarded-Email",
    "X-Forwarded-Groups",
    "X-Forwarded-Preferred-Username",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Uri",
    "X-Forwarded-Method",
    "X-Auth-Request-User",
    "X-Auth-Request-Email",
    "X-Auth-Request-Groups",
    "X-Real-IP",
    "X-Client-IP",
    "X-Original-URL",
    "X-Original-URI",
    "X-Original-Method",
    "X-Rewrite-URL",
    "X-HTTP-Method-Override",
    "X-Method-Override",
    "X-Script-Name",
    "Script-Name",
    "Path-Info",
    "Forwarded",
    "Proxy",
    "Proxy-Authorization",
    "Portcullis-User",
];

/// The spellings of a key that could end in the same variable.
fn spellings(key: &str) -> Vec<String> {
    let folded = |separator: &str| key.replace('-', separator);
    let all = [
        key.to_owned(),
        key.to_lowercase(),
        key.to_uppercase(),
        folded("_"),
        folded("_").to_uppercase(),
        folded("."),
        key.replacen('-', "_", 1),
        format!("HTTP_{}", folded("_").to_uppercase()),
    ];
    all.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}

/// What an application saw, without what differs from request to request.
fn stable(mut document: Value) -> Value {
    for key in ["values", "types"] {
        let map = document[key].as_object_mut().unwrap();
        map.remove("portcullis.request_id");
        map.remove("REMOTE_PORT");
    }
    document
}

/// A kept-alive connection of either kind, and what an answer to it came to: an environ, or a status with a reason.
enum Client<'a> {
    One(&'a Gate, Raw),
    Two(hyper::client::conn::http2::SendRequest<BoxBody<Bytes, std::io::Error>>),
}

impl<'a> Client<'a> {
    async fn new(gate: &'a Gate, http: Http) -> Self {
        match http {
            Http::One => Self::One(gate, Raw::to(gate).await),
            Http::Two => Self::Two(gate.http2().await),
        }
    }

    async fn outcome(&mut self, method: &str, path: &str, headers: &[(String, String)]) -> Value {
        let (code, reason, body) = match self {
            Self::One(gate, raw) => {
                let fields: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                raw.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")).await;
                let answer = raw.answer().await.expect("an answer");
                if answer.header("connection").is_some() {
                    *raw = Raw::to(gate).await;
                }
                (answer.code, answer.reason().to_owned(), answer.body.clone())
            }
            Self::Two(sender) => {
                let mut request = http::Request::builder().method(method).uri(format!("https://localhost{path}"));
                for (name, value) in headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("connection")) {
                    request = request.header(name.to_lowercase(), value);
                }
                let body = BoxBody::new(Empty::<Bytes>::new().map_err(|never| match never {}));
                let response = sender.send_request(request.body(body).unwrap()).await.expect("an answer");
                let reason =
                    response.headers().get("portcullis-reason").map(|reason| reason.to_str().unwrap().to_owned());
                let code = response.status().as_u16();
                (code, reason.unwrap_or_default(), response.into_body().collect().await.unwrap().to_bytes().to_vec())
            }
        };
        match code {
            200 => stable(serde_json::from_slice(&body).unwrap()),
            code => serde_json::json!([code, reason]),
        }
    }
}

fn basic(name: &str, password: &str) -> (String, String) {
    use base64::Engine;
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
    ("Authorization".to_owned(), format!("Basic {encoded}"))
}

fn headers(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Method, path and whether with credentials: allowed, public, refused, static and unknown.
const EVERYWHERE: [(&str, &str, bool); 8] = [
    ("GET", "/told/x", true),
    ("GET", "/app/open?a=1", false),
    ("GET", "/app/closed/x", true),
    ("GET", "/app/closed/x", false),
    ("GET", "/app/never/x", true),
    ("OPTIONS", "/app/open", false),
    ("GET", "/told/static/x", false),
    ("GET", "/nowhere", false),
];

/// Sends what a client could write, and asserts that nobody noticed.
async fn assert_unseen(gate: &Gate, lies: &[Vec<(String, String)>], places: &[(&str, &str, bool)]) {
    for http in BOTH {
        let mut client = Client::new(gate, http).await;
        for (method, path, signed_in) in places.iter().copied() {
            let honest: Vec<_> = signed_in.then(|| basic(ADMIN.0, ADMIN.1)).into_iter().collect();
            let expected = client.outcome(method, path, &honest).await;
            for lie in lies {
                let seen = client.outcome(method, path, &[&honest[..], lie].concat()).await;
                assert_eq!(seen, expected, "{http:?} {method} {path} {lie:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identity_in_any_spelling_leaves_environ_as_it_was() {
    let gate = setup().start();
    let (mut alone, mut together) = (Vec::new(), Vec::new());
    for key in KEYS {
        let all: Vec<_> = spellings(key).into_iter().map(|spelling| (spelling, "root".to_owned())).collect();
        alone.extend(all.iter().map(|one| vec![one.clone()]));
        // Twice, and all at once: none may slip in behind another.
        together.push([&all[..1], &all[..1]].concat());
        together.push(all);
    }
    assert_unseen(&gate, &alone, &EVERYWHERE[..1]).await;
    assert_unseen(&gate, &together, &EVERYWHERE).await;
}

/// What frameworks make of their environ, with user, address, headers and the address of the page.
#[tokio::test]
async fn identity_in_any_spelling_leaves_flask_and_django_as_they_were() {
    let policy = format!(
        "methods = [\"unauthenticated\", \"password\"]\ndefault = \"anyone\"\npython = \"{}\"\n",
        venv().display()
    );
    let frameworks = repository().join("tests/apps/frameworks");
    let gate = Setup::level("minimal")
        .app_in("/flask", &frameworks, "oracle_flask", &policy)
        .app_in("/django", &frameworks, "oracle_django", &policy)
        .start();
    let lies: Vec<Vec<_>> = KEYS
        .map(|key| spellings(key).into_iter().map(|spelling| (spelling, "root".to_owned())).collect())
        .into_iter()
        .collect();
    let places = [
        ("GET", "/flask/environ", false),
        ("GET", "/flask/environ", true),
        ("GET", "/django/environ", false),
        ("GET", "/django/environ", true),
    ];
    assert_unseen(&gate, &lies, &places).await;
}

#[tokio::test]
async fn identity_named_by_connection_leaves_environ_as_it_was() {
    let gate = setup().start();
    let lies: Vec<_> = ["Remote-User", "X-Forwarded-User", "X-Forwarded-For", "Remote_User"]
        .iter()
        .map(|key| headers(&[("Connection", &format!("keep-alive, {key}")), (key, "root")]))
        .collect();
    assert_unseen(&gate, &lies, &EVERYWHERE).await;
}

#[tokio::test]
async fn connection_cannot_take_away_who_asks() {
    let gate = setup().start();
    let mut raw = Raw::to(&gate).await;
    let (name, value) = basic(ADMIN.0, ADMIN.1);
    let named = "Connection: keep-alive, Authorization, Host, Remote-User, X-Secret\r\nX-Secret: 1\r\nX-Plain: 1";
    raw.send(format!("GET /told/x HTTP/1.1\r\nHost: localhost\r\n{name}: {value}\r\n{named}\r\n\r\n")).await;
    let environ = raw.answer().await.unwrap().json()["values"].clone();
    assert_eq!(environ["REMOTE_USER"], ADMIN.0);
    assert_eq!(environ["HTTP_REMOTE_USER"], ADMIN.0);
    assert_eq!(environ["SERVER_NAME"], "localhost");
    assert_eq!((environ.get("HTTP_X_SECRET"), &environ["HTTP_X_PLAIN"]), (None, &Value::from("1")));
}

#[tokio::test]
async fn trailers_never_become_environ() {
    let gate = setup().start();
    let mut raw = Raw::to(&gate).await;
    let mut ask = async |trailers: &str| {
        let announced = "Trailer: Remote-User, X-Forwarded-User, Authorization, X-Plain\r\n";
        let head = format!("POST /told/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n{announced}\r\n");
        raw.send(format!("{head}5\r\nhello\r\n0\r\n{trailers}\r\n")).await;
        stable(raw.answer().await.unwrap().json())
    };
    let without = ask("").await;
    assert_eq!(without["body"], "hello");
    let (name, value) = basic(ADMIN.0, ADMIN.1);
    let with = ask(&format!("Remote-User: root\r\nX-Forwarded-User: root\r\nX-Plain: 1\r\n{name}: {value}\r\n")).await;
    assert_eq!(with, without);
}

#[tokio::test]
async fn credentials_stay_at_the_gate_and_duplicates_are_400() {
    let gate = setup().start();
    for http in BOTH {
        let environ = gate.get("/told/x").admin().over(http).await.environ();
        assert!(environ.get("HTTP_AUTHORIZATION").is_none(), "{environ}");
        for second in [basic(ADMIN.0, ADMIN.1).1, "Basic eDp5".to_owned(), "Bearer x".to_owned()] {
            let answer = gate.get("/told/x").admin().header("authorization", &second).over(http).await;
            assert_eq!((answer.code(), answer.reason()), (400, "ambiguous-credentials"), "{second}");
        }
        // Cookies may be many (RFC 9113 section 8.2.3): joined, and none of them is an identity.
        let answer = gate.get("/told/x").header("cookie", "a=1").header("cookie", "REMOTE_USER=root").over(http).await;
        assert_eq!(answer.environ()["HTTP_COOKIE"], "a=1; REMOTE_USER=root");
        assert!(answer.environ().get("REMOTE_USER").is_none());
    }
}

#[tokio::test]
async fn headers_that_name_another_path_or_method_change_nothing() {
    let gate = setup().start();
    let mut lies = Vec::new();
    for key in [
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-Original-URI",
        "X-Forwarded-Uri",
        "X-Forwarded-Prefix",
        "Script-Name",
        "Path-Info",
    ] {
        for value in ["/app/open", "/app/closed/x", "/", "//"] {
            lies.push(headers(&[(key, value)]));
        }
    }
    for key in ["X-HTTP-Method-Override", "X-Method-Override", "X-Forwarded-Method", "X-Original-Method"] {
        for value in ["GET", "POST", "DELETE"] {
            lies.push(headers(&[(key, value)]));
        }
    }
    assert_unseen(&gate, &lies, &EVERYWHERE).await;
    let answer = gate.ask("POST", "/app/read/x").header("x-http-method-override", "GET").over(Http::One).await;
    assert_eq!(answer.code(), 401, "a POST is judged as a POST");
}

#[tokio::test]
async fn every_method_is_judged_as_what_it_is() {
    let gate = setup().start();
    for http in BOTH {
        for method in ["GET", "HEAD", "OPTIONS"] {
            assert_eq!(gate.ask(method, "/app/read/x").over(http).await.code(), 200, "{method} is like GET");
            assert_eq!(gate.ask(method, "/app/closed/x").over(http).await.code(), 401, "{method}");
            assert_eq!(gate.ask(method, "/app/never/x").admin().over(http).await.code(), 403, "{method}");
        }
        for method in ["POST", "PUT", "PATCH", "DELETE", "get", "Get", "options", "PROPFIND", "BREW", "GETS", "QUERY"] {
            let answer = gate.ask(method, "/app/read/x").over(http).await;
            assert_eq!((answer.code(), answer.reason()), (401, "credentials-required"), "{method} is not GET");
            let answer = gate.ask(method, "/app/read/x").admin().over(http).await;
            assert_eq!(answer.environ()["REQUEST_METHOD"], method, "as it was sent");
        }
        for path in ["/app/open", "/app/closed/x", "/nowhere"] {
            let answer = gate.ask("TRACE", path).admin().over(http).await;
            assert_eq!((answer.code(), answer.reason()), (405, "http-method-refused"), "{path}");
        }
    }
    let mut raw = Raw::to(&gate).await;
    raw.send("CONNECT localhost:443 HTTP/1.1\r\nHost: localhost:443\r\n\r\n").await;
    assert_eq!(raw.answer().await.unwrap().code, 405);
}

#[tokio::test]
async fn one_host_in_one_spelling_or_400() {
    let gate = setup().start();
    let code = async |fields: &str| {
        let answers = tell(&gate, format!("GET /app/open HTTP/1.1\r\n{fields}Connection: close\r\n\r\n")).await;
        assert_eq!(answers.len(), 1, "{fields}");
        let name = (answers[0].code == 200).then(|| answers[0].json()["values"]["SERVER_NAME"].clone());
        (answers[0].code, name.unwrap_or(Value::from(answers[0].reason())))
    };
    for host in ["localhost", "LOCALHOST", "localhost.", "LocalHost.:8443", "localhost:1"] {
        assert_eq!(code(&format!("Host: {host}\r\n")).await, (200, Value::from("localhost")), "{host}");
    }
    for bad in [
        "",
        "Host: \r\n",
        "Host: localhost\r\nHost: localhost\r\n",
        "Host: localhost\r\nhost: elsewhere\r\n",
        "Host: a,b\r\n",
        "Host: a b\r\n",
        "Host: user@localhost\r\n",
        "Host: localhost/x\r\n",
        "Host: localhost#x\r\n",
        "Host: localhost:\r\n",
        "Host: localhost:99999\r\n",
        "Host: localhost:+1\r\n",
        "Host: [::1\r\n",
        "Host: ..\r\n",
        "Host: 0127.0.0.1\r\n",
        "Host: %6cocalhost\r\n",
        "Host: l\u{f6}calhost\r\n",
    ] {
        assert_eq!(code(bad).await, (400, Value::from("bad-host")), "{bad:?}");
    }
    let old = tell(&gate, "GET /app/open HTTP/1.0\r\n\r\n").await;
    assert_eq!(old[0].code, 200, "HTTP/1.0 may name none");
    for (host, code) in [("localhost", 200), ("LOCALHOST:443", 200), ("elsewhere", 400), ("localhost:444", 400)] {
        let answer = gate.get("/app/open").header("host", host).over(Http::Two).await;
        assert_eq!(answer.code(), code, ":authority localhost, host {host}");
    }
}

#[tokio::test]
async fn a_host_that_is_not_served_is_421_for_every_protocol() {
    let gate = setup().config("gateway", "hosts = [\"apps.example.org\"]").start();
    let mut raw = Raw::to(&gate).await;
    for (host, code) in [
        ("apps.example.org", 200),
        ("APPS.example.org.:8443", 200),
        ("localhost", 421),
        ("127.0.0.1", 421),
        ("x.apps.example.org", 421),
        ("apps.example.org.evil.example", 421),
    ] {
        raw.send(format!("GET /app/open HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-Host: apps.example.org\r\n\r\n")).await;
        assert_eq!(raw.answer().await.unwrap().code, code, "{host}");
    }
    let answer = gate.get("/app/open").header("x-forwarded-host", "apps.example.org").over(Http::Two).await;
    assert_eq!((answer.code(), answer.reason()), (421, "host-not-served"));
}

#[tokio::test]
async fn an_untrusted_peer_is_who_it_is() {
    let gate = setup().start();
    for http in BOTH {
        for (name, value) in [
            ("x-forwarded-for", "10.1.1.1"),
            ("forwarded", "for=10.1.1.1"),
            ("x-real-ip", "10.1.1.1"),
            ("x-client-ip", "10.1.1.1"),
            ("true-client-ip", "10.1.1.1"),
        ] {
            let answer = gate.get("/app/open").header(name, value).over(http).await;
            assert_eq!(answer.environ()["REMOTE_ADDR"], "127.0.0.1", "{name}");
            let answer = gate.get("/app/inside/x").header(name, value).over(http).await;
            assert_eq!((answer.code(), answer.reason()), (403, "network-not-allowed"), "{name}");
        }
    }
    let line = gate.await_log("access.log", |line| line["reason"] == "network-not-allowed");
    assert_eq!(line["client"], "127.0.0.1");
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_right_most_foreign_hop_is_the_client() {
    let gate = setup().config("gateway", "trusted_proxies = [\"127.0.0.0/8\", \"192.0.2.0/24\"]").start();
    for http in BOTH {
        for (name, value, client) in [
            ("x-forwarded-for", "198.51.100.7", "198.51.100.7"),
            ("x-forwarded-for", "10.1.1.1, 198.51.100.7", "198.51.100.7"),
            ("x-forwarded-for", "10.1.1.1, 198.51.100.7, 192.0.2.9", "198.51.100.7"),
            ("x-forwarded-for", "::ffff:198.51.100.7", "198.51.100.7"),
            ("x-forwarded-for", "[2001:db8::7]:99", "2001:db8::7"),
            ("x-forwarded-for", "10.1.1.1, nonsense", "127.0.0.1"),
            ("forwarded", "for=10.1.1.1, for=198.51.100.7;proto=https", "198.51.100.7"),
            ("x-real-ip", "10.1.1.1", "127.0.0.1"),
        ] {
            let answer = gate.get("/app/open").header(name, value).over(http).await;
            assert_eq!(answer.environ()["REMOTE_ADDR"], client, "{name}: {value}");
        }
        let inside = gate.get("/app/inside/x").header("x-forwarded-for", "10.1.1.1").over(http).await;
        assert_eq!(inside.code(), 200, "the proxy says so");
        let outside = gate.get("/app/inside/x").header("x-forwarded-for", "10.1.1.1, 198.51.100.7").over(http).await;
        assert_eq!((outside.code(), outside.reason()), (403, "network-not-allowed"));
    }
}

#[tokio::test]
async fn what_a_proxy_passed_on_unread_is_not_its_word() {
    // Most proxies append to X-Forwarded-For and pass a client's own Forwarded through; some do it the other way round.
    let gate = setup().config("gateway", "trusted_proxies = [\"127.0.0.0/8\"]").start();
    for http in BOTH {
        let ask = |forwarded: &str, for_: &str| {
            gate.get("/app/inside/x").header("forwarded", forwarded).header("x-forwarded-for", for_)
        };
        for (forwarded, for_) in
            [("for=10.1.1.1", "198.51.100.7"), ("for=198.51.100.7", "10.1.1.1"), ("for=_x", "10.1.1.1")]
        {
            let answer = ask(forwarded, for_).over(http).await;
            assert_eq!((answer.code(), answer.reason()), (400, "bad-request"), "{forwarded} {for_}");
        }
        assert_eq!(ask("for=\"10.1.1.1:80\"", "10.1.1.1").over(http).await.code(), 200, "both say the same");
    }
}

#[tokio::test]
async fn the_proxy_protocol_is_believed_and_required_where_it_is_configured() {
    let gate = setup().config("gateway", "proxy_protocol = [\"127.0.0.0/8\"]").start();
    let tls = gate.tls(&[b"http/1.1"]);
    let second = |command: u8, family: u8, addresses: &[u8]| {
        let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
        [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[0x20 | command, family], &length, addresses].concat()
    };
    let v4 = [10, 1, 1, 1, 127, 0, 0, 1, 0, 99, 1, 187];
    for (header, client) in [
        (b"PROXY TCP4 10.1.1.1 127.0.0.1 99 443\r\n".to_vec(), "10.1.1.1"),
        (b"PROXY TCP6 2001:db8::7 ::1 99 443\r\n".to_vec(), "2001:db8::7"),
        (b"PROXY TCP6 ::ffff:10.1.1.1 ::1 99 443\r\n".to_vec(), "10.1.1.1"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (second(1, 0x11, &v4), "10.1.1.1"),
        (second(0, 0x11, &v4), "127.0.0.1"),
        (second(1, 0x11, &[&v4[..], &[4, 0, 1, 0]].concat()), "10.1.1.1"),
    ] {
        let mut raw = Raw::behind(&gate, &tls, &header).await.expect("TLS behind the header");
        raw.send("GET /app/open HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 10.9.9.9\r\n\r\n").await;
        let answer = raw.answer().await.unwrap();
        assert_eq!(answer.json()["values"]["REMOTE_ADDR"], client, "{}", String::from_utf8_lossy(&header));
    }
    for bad in [
        &b""[..],
        b"PROXY TCP4 10.1.1.1\r\n",
        b"PROXY TCP4 999.1.1.1 127.0.0.1 99 443\r\n",
        b"PROXI TCP4 10.1.1.1 127.0.0.1 99 443\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        assert!(Raw::behind(&gate, &tls, bad).await.is_err(), "{}", String::from_utf8_lossy(bad));
    }
}

#[tokio::test]
async fn nobody_comes_in_by_looking_harmless() {
    let gate =
        Setup::level("normal").app("/", "environ_app", "methods = [\"password\"]\ndefault = \"signed-in\"").start();
    for http in BOTH {
        for path in [
            "/",
            "/health",
            "/healthz",
            "/ping",
            "/-/ready",
            "/favicon.ico",
            "/robots.txt",
            "/.well-known/acme-challenge/x",
            "/login",
            "/static/x",
            "/metrics",
            "/portcullis",
            "/oauth2/callback",
            "/ping.gif",
            "/index.css",
        ] {
            for method in ["GET", "HEAD", "OPTIONS"] {
                assert_eq!(gate.ask(method, path).over(http).await.code(), 401, "{method} {path}");
            }
        }
        for (name, value) in [
            ("user-agent", "kube-probe/1.30"),
            ("user-agent", "ELB-HealthChecker/2.0"),
            ("user-agent", "GoogleHC/1.0"),
            ("user-agent", "curl/8"),
            ("x-requested-with", "XMLHttpRequest"),
            ("upgrade-insecure-requests", "1"),
            ("access-control-request-method", "GET"),
            ("origin", "https://localhost"),
            ("referer", "https://localhost/"),
            ("x-forwarded-for", "127.0.0.1"),
            ("sec-fetch-mode", "navigate"),
        ] {
            let answer = gate.get("/").header(name, value).header("accept", "text/html").over(http).await;
            assert_eq!((answer.code(), answer.reason()), (401, "credentials-required"), "{name}: {value}");
            assert!(answer.header("location").is_none());
        }
    }
}

#[tokio::test]
async fn a_proxy_header_never_becomes_a_proxy_variable() {
    let gate = setup().start();
    let lies: Vec<_> = ["Proxy", "PROXY", "proxy", "Http_Proxy", "Proxy-Connection", "Proxy-Authorization"]
        .iter()
        .map(|key| headers(&[(key, "http://evil.example")]))
        .collect();
    assert_unseen(&gate, &lies, &EVERYWHERE).await;
    let environ = gate.get("/app/open").header("http-proxy", "http://evil.example").over(Http::One).await.environ();
    assert!(environ.get("HTTP_PROXY").is_none(), "{environ}");
}
