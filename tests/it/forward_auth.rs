//! Applications that run elsewhere: nginx and Caddy, as Debian has them and with the configurations of `examples/`, ask
//! the gate about every request. They let through what `explain` allows, and pass on what was judged.

use std::{
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Instant,
};

use base64::Engine;
use rustls::ClientConfig;
use serde_json::Value;

use crate::{
    harness::{BOTH, Gate, Http, Installation, PATIENCE, Setup, repository, signal},
    raw::{Raw, RawAnswer},
};

const TICKETS: &str = r#"[app]
name      = "/tickets"
runs      = "elsewhere"
methods   = ["unauthenticated", "password", "token"]
default   = "signed-in"
app_roles = ["guest"]

[[allow]]
path = "/public/**"
who  = "anyone"

[[allow]]
path    = "/public/form"
methods = ["POST"]
who     = "role:editor"

[[allow]]
path = "/admin/**"
who  = "role:boss"
auth = "password"

[[allow]]
path = "/inside/**"
who  = "anyone"
from = "10.0.0.0/8"

[[deny]]
path       = "/admin/export/**"
unless_who = "role:auditor"
"#;

/// A gate with an application that runs here, and with proxies that may ask.
fn setup(trusted: &str) -> Setup {
    let anyone = "methods = [\"unauthenticated\", \"password\", \"token\"]\ndefault = \"anyone\"\nworkers = 1";
    let trusted = format!("trusted = [{trusted}]");
    Setup::level("minimal").config("forward_auth", &trusted).app("/here", "environ_app", anyone)
}

/// Those who ask, as `explain` names them, with what they send.
struct People(Vec<(String, Option<String>)>);

fn gate() -> (Gate, People) {
    let installation = setup("\"127.0.0.1\"").install();
    installation.write_policy("tickets", TICKETS);
    installation.write_policy("off", &TICKETS.replace("/tickets", "/off").replace("runs ", "enabled = false\nruns "));
    for (name, roles) in [("ann", &[][..]), ("bob", &["boss"]), ("eve", &["boss", "auditor"]), ("dan", &["editor"])] {
        installation.user(name, &password(name), roles);
    }
    installation.cli(&["service", "add", "robot"]);
    let token = installation.token(&["--service", "robot"]);
    let elsewhere = installation.token(&["--service", "robot", "--app", "/here"]);
    let listed: Value = serde_json::from_str(&installation.cli(&["--json", "token", "list"])).expect("JSON");
    let id = |narrow: bool| {
        let tokens = listed.as_array().expect("tokens").iter();
        let found = tokens.into_iter().find(|token| token["applications"].is_array() == narrow).expect("a token");
        found["id"].as_str().expect("an id").to_owned()
    };
    let mut people = vec![("anonymous".to_owned(), None)];
    people.extend(["ann", "bob", "eve", "dan"].map(|name| (name.to_owned(), Some(basic(name, &password(name))))));
    people.push((id(false), Some(format!("Bearer {token}"))));
    people.push((id(true), Some(format!("Bearer {elsewhere}"))));
    (installation.start(), People(people))
}

fn password(name: &str) -> String {
    format!("the long password of {name}")
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}")))
}

/// An application that runs elsewhere and tells what it received.
struct Elsewhere {
    child: Child,
    port: u16,
}

impl Elsewhere {
    fn start() -> Self {
        let script = repository().join("tests/apps/elsewhere.py");
        let mut child =
            Command::new("python3").arg(script).stdout(Stdio::piped()).spawn().expect("python3 is on the path");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("its port");
        Self { child, port: line.trim().parse().expect("a port") }
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file of `examples/forward-auth`.
fn example(file: &str) -> String {
    std::fs::read_to_string(repository().join("examples/forward-auth").join(file)).expect("the example")
}

/// A proxy with its configuration of `examples/forward-auth`, before a gate and an application.
struct Proxy {
    name: &'static str,
    child: Child,
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    home: tempfile::TempDir,
}

const PROXIES: [fn(&Gate, &Elsewhere) -> Proxy; 2] = [Proxy::nginx, Proxy::caddy];

impl Proxy {
    fn nginx(gate: &Gate, elsewhere: &Elsewhere) -> Self {
        Self::nginx_asking_about("$request_uri", gate, elsewhere)
    }

    fn nginx_asking_about(uri: &str, gate: &Gate, elsewhere: &Elsewhere) -> Self {
        let example = example("nginx.conf").replace("$request_uri;", &format!("{uri};"));
        Self::start("nginx", &example, gate, elsewhere, |home, own| {
            // What Debian's own nginx.conf says around it, with every path in this directory.
            let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
            let temporary = temporary.map(|kind| format!("{kind}_temp_path {}/{kind};", home.display())).join(" ");
            let main = format!(
                "daemon off; user root; pid {0}/pid; error_log stderr; events {{ }}\n\
                 http {{ access_log off; {temporary} include {1}; }}\n",
                home.display(),
                own.display()
            );
            let main_file = home.join("main.conf");
            std::fs::write(&main_file, main).expect("a file");
            let mut command = Command::new("nginx");
            command.arg("-e").arg("stderr").arg("-p").arg(home).arg("-c").arg(main_file);
            command
        })
    }

    fn caddy(gate: &Gate, elsewhere: &Elsewhere) -> Self {
        Self::start("caddy", &example("Caddyfile"), gate, elsewhere, |home, own| {
            let mut command = Command::new("caddy");
            command.args(["run", "--adapter", "caddyfile", "--config"]).arg(own);
            command.env("HOME", home).env("XDG_DATA_HOME", home).env("XDG_CONFIG_HOME", home);
            command
        })
    }

    fn start(
        name: &'static str,
        example: &str,
        gate: &Gate,
        elsewhere: &Elsewhere,
        command: impl Fn(&Path, &Path) -> Command,
    ) -> Self {
        // Neither can be told to take any port. One that was free a moment ago may be taken: then another.
        for _ in 0..10 {
            let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
            let certificates = format!("{}/", gate.path("certs").display());
            let own = [
                ("127.0.0.1:8443", gate.address.to_string()),
                ("127.0.0.1:9000", format!("127.0.0.1:{}", elsewhere.port)),
                ("127.0.0.1:8444", free.to_string()),
                ("https://:8444", format!("https://:{}", free.port())),
                ("/etc/portcullis/certs/", certificates),
            ]
            .into_iter()
            .fold(example.to_owned(), |text, (from, to)| text.replace(from, &to));
            let home = tempfile::tempdir().expect("a directory");
            let file = home.path().join("own");
            std::fs::write(&file, own).expect("a file");
            let said = std::fs::File::create(home.path().join("stderr")).expect("a file");
            let mut child = command(home.path(), &file)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(said)
                .spawn()
                .unwrap_or_else(|error| {
                    panic!(
                        "{name} is needed for this test ({error}): apt-get install nginx-light caddy, or `make system`"
                    )
                });
            if accepts(&mut child, free) {
                return Self { name, child, address: free, tls: gate.tls(&[b"http/1.1"]), home };
            }
            let said = std::fs::read_to_string(home.path().join("stderr")).unwrap_or_default();
            assert!(said.contains("in use"), "{name} does not start:\n{said}");
        }
        panic!("no port for {name}");
    }

    /// Sends a request as it is written, with more header lines and a body.
    async fn ask(&self, method: &str, target: &str, lines: &[String], body: &str) -> RawAnswer {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let request =
            format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}{length}\r\n{body}");
        let mut raw = Raw::at(self.address, &self.tls, b"").await.expect("TLS");
        raw.send(request).await;
        raw.answer().await.unwrap_or_else(|| panic!("{} says nothing to {method} {target}: {}", self.name, self.said()))
    }

    async fn get(&self, target: &str, credentials: Option<&str>) -> RawAnswer {
        self.ask("GET", target, &authorization(credentials), "").await
    }

    /// The end of what it said.
    fn said(&self) -> String {
        let said = std::fs::read_to_string(self.home.path().join("stderr")).unwrap_or_default();
        let lines: Vec<_> = said.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        signal(i32::try_from(self.child.id()).expect("a pid"), rustix::process::Signal::TERM);
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {} said:\n{}", self.name, self.said());
        }
    }
}

/// Whether a starting proxy listens; `false` when it has ended instead.
fn accepts(child: &mut Child, address: SocketAddr) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(address).is_err() {
        if child.try_wait().expect("a child").is_some() {
            return false;
        }
        assert!(Instant::now() < deadline, "nothing listens on {address}");
        std::thread::yield_now();
    }
    true
}

fn authorization(credentials: Option<&str>) -> Vec<String> {
    credentials.map(|credentials| format!("Authorization: {credentials}")).into_iter().collect()
}

/// What `explain` says: the status, and the reason as a client is told it.
fn explained(gate: &Installation, method: &str, path: &str, who: &str) -> (u16, String) {
    let said: Value = serde_json::from_str(&gate.cli(&["--json", "explain", method, path, "--as", who])).expect("JSON");
    let status = u16::try_from(said["status"].as_u64().expect("a status")).expect("a status");
    let reason = match said["reason"].as_str().unwrap_or_default() {
        "application-disabled" => "no-application",
        reason => reason,
    };
    (status, reason.to_owned())
}

/// Values that an application could take for who it is or what was asked, however the name is written.
fn told<'a>(received: &'a Value, name: &str) -> Vec<&'a str> {
    let folded = |name: &str| name.to_lowercase().replace(['_', '.'], "-");
    let headers = received["headers"].as_array().expect("headers").iter();
    let named = headers.filter(|header| folded(header[0].as_str().expect("a name")) == folded(name));
    named.map(|header| header[1].as_str().expect("a value")).filter(|value| !value.is_empty()).collect()
}

#[tokio::test]
async fn through_nginx_and_caddy_the_decisions_are_those_of_explain() {
    let (gate, people) = gate();
    let elsewhere = Elsewhere::start();
    let proxies = PROXIES.map(|start| start(&gate, &elsewhere));
    let paths = [
        "/tickets",
        "/tickets/",
        "/tickets/7?as=root",
        "/tickets/public/a",
        "/tickets/public/form",
        "/tickets/admin",
        "/tickets/admin/users",
        "/tickets/admin/export/all",
        "/tickets/inside/x",
        "/ticketsx/public/a",
        "/off/public/a",
        "/nowhere",
        "/.portcullis/check",
        "/tickets//public/a",
    ];
    for path in paths {
        for method in ["GET", "POST", "OPTIONS", "DELETE"] {
            for (who, credentials) in &people.0 {
                let (status, reason) = explained(&gate, method, path.split('?').next().unwrap(), who);
                for proxy in &proxies {
                    let answer = proxy.ask(method, path, &authorization(credentials.as_deref()), "").await;
                    let seen = (answer.code, answer.reason().to_owned());
                    // What nginx itself does not let anybody ask has no reason.
                    let own = proxy.name == "nginx" && path.starts_with("/.portcullis/") && answer.code == 404;
                    assert!(
                        seen == (status, reason.clone()) || own,
                        "{method} {path} as {who} through {}: {seen:?}, and explain says {status} {reason}",
                        proxy.name
                    );
                    if status == 200 {
                        let received = answer.json();
                        assert_eq!((&received["method"], &received["target"]), (&method.into(), &path.into()));
                    }
                }
            }
        }
    }
    for proxy in &proxies {
        for wrong in [basic("ann", "wrong"), basic("nobody", "wrong"), "Bearer ptc_wrong".to_owned()] {
            for path in ["/tickets/", "/tickets/public/a"] {
                let answer = proxy.get(path, Some(&wrong)).await;
                assert_eq!((answer.code, answer.reason()), (401, "credentials-rejected"), "{} {wrong}", proxy.name);
                assert!(answer.header("www-authenticate").is_some(), "{}: {}", proxy.name, answer.head);
            }
        }
        // What runs here is not somebody else's to serve, whatever its rules say.
        let answer = proxy.get("/here/", None).await;
        assert_eq!((answer.code, answer.reason()), (403, "application-here"), "{}", proxy.name);
    }
}

#[tokio::test]
async fn the_application_is_told_who_it_is_and_never_how_they_proved_it() {
    let (gate, people) = gate();
    let elsewhere = Elsewhere::start();
    for start in PROXIES {
        let proxy = start(&gate, &elsewhere);
        let as_eve = people.0.iter().find(|(who, _)| who == "eve").and_then(|(_, sends)| sends.as_deref());
        let received = proxy.get("/tickets/7", as_eve).await.json();
        assert_eq!(told(&received, "Remote-User"), ["eve"], "{}", proxy.name);
        assert_eq!(told(&received, "Remote-Groups"), ["auditor,boss,guest"], "{}", proxy.name);
        assert_eq!(told(&received, "Authorization"), [""; 0], "{}", proxy.name);
        let received = proxy.get("/tickets/public/a", None).await.json();
        assert_eq!(told(&received, "Remote-User"), [""; 0], "{}", proxy.name);
        assert_eq!(told(&received, "Remote-Groups"), ["guest"], "{}", proxy.name);
        let large = "x".repeat(100_000);
        let answer = proxy.ask("POST", "/tickets/7", &authorization(as_eve), &large).await;
        assert_eq!((answer.code, &answer.json()["body"]), (200, &100_000.into()), "{}", proxy.name);
        let answer = proxy.ask("POST", "/tickets/7", &[], &large).await;
        assert_eq!(answer.code, 401, "{}", proxy.name);
    }
}

/// What a client may write to be taken for somebody else, or to be judged by something else.
const CLAIMS: [(&str, &str); 18] = [
    ("Remote-User", "root"),
    ("Remote-Groups", "boss"),
    ("Remote-Name", "Root"),
    ("Remote-Email", "root@example.org"),
    ("Portcullis-Request", "0000000000000000"),
    ("X-Forwarded-User", "root"),
    ("X-Remote-User", "root"),
    ("X-Auth-Request-User", "root"),
    ("X-Forwarded-Uri", "/tickets/public/a"),
    ("X-Forwarded-Method", "GET"),
    ("X-Forwarded-Host", "elsewhere.example.org"),
    ("X-Forwarded-For", "10.0.0.1"),
    ("Forwarded", "for=10.0.0.1"),
    ("X-Real-IP", "10.0.0.1"),
    ("X-Original-URL", "/tickets/public/a"),
    ("X-Original-Method", "GET"),
    ("X-Rewrite-URL", "/tickets/public/a"),
    ("X-HTTP-Method-Override", "DELETE"),
];

fn spellings(name: &str) -> [String; 4] {
    let folded = name.replace('-', "_");
    [name.to_owned(), name.to_uppercase(), folded.to_lowercase(), folded.to_uppercase()]
}

#[tokio::test]
async fn nothing_that_a_client_says_about_itself_changes_the_decision_or_reaches_the_application() {
    let (gate, _) = gate();
    let elsewhere = Elsewhere::start();
    let ann = format!("Authorization: {}", basic("ann", &password("ann")));
    for start in PROXIES {
        let proxy = start(&gate, &elsewhere);
        for (name, value) in CLAIMS {
            for spelling in spellings(name) {
                let once = format!("{spelling}: {value}");
                let claims = [
                    vec![once.clone()],
                    vec![
                        once.clone(),
                        once.clone(),
                        format!("Connection: {spelling}, {name}, Remote-User, X-Forwarded-Uri"),
                    ],
                ];
                for claim in claims {
                    let refused = proxy.ask("POST", "/tickets/admin/x", &claim, "").await;
                    assert_eq!(
                        (refused.code, refused.reason()),
                        (401, "credentials-required"),
                        "{} {claim:?}",
                        proxy.name
                    );
                    let inside = proxy.get_with("/tickets/inside/x", &claim).await;
                    assert_eq!(
                        (inside.code, inside.reason()),
                        (403, "network-not-allowed"),
                        "{} {claim:?}",
                        proxy.name
                    );
                    let public = proxy.get_with("/tickets/public/a", &claim).await.json();
                    let mut as_ann = claim.clone();
                    as_ann.push(ann.clone());
                    let signed_in = proxy.get_with("/tickets/7", &as_ann).await.json();
                    for (received, who) in [(&public, &[][..]), (&signed_in, &["ann"])] {
                        assert_eq!(told(received, "Remote-User"), who, "{} {claim:?}: {received}", proxy.name);
                        assert_eq!(told(received, "Remote-Groups"), ["guest"], "{} {claim:?}: {received}", proxy.name);
                        assert_eq!(told(received, "X-Forwarded-For"), ["127.0.0.1"], "{} {claim:?}", proxy.name);
                        assert!(
                            !told(received, name).contains(&value),
                            "{} passes {claim:?} on: {received}",
                            proxy.name
                        );
                    }
                }
            }
        }
        // Two sets of credentials are no credentials.
        let two = [ann.clone(), format!("Authorization: {}", basic("bob", &password("bob")))];
        let answer = proxy.get_with("/tickets/7", &two).await;
        assert_eq!(answer.code, 400, "{}: {}", proxy.name, answer.head);
    }
}

impl Proxy {
    async fn get_with(&self, target: &str, lines: &[String]) -> RawAnswer {
        self.ask("GET", target, lines, "").await
    }
}

/// Request-targets that some parser on the way might read differently from another.
fn targets() -> Vec<String> {
    let pieces = [
        "//",
        "/./",
        "/../",
        "/%2e/",
        "/%2e%2e/",
        "/.%2e/",
        "/..%2f",
        "/%2f",
        "/%2F..%2F",
        "/%5c",
        "/\\",
        "/..\\",
        "/;/",
        "/..;/",
        "/;x=1/",
        "/%3b/",
        "/%00/",
        "/%0a",
        "/%09/",
        "/%7f",
        "/%25",
        "/%252e%252e/",
        "/%2561/",
        "/%c0%ae/",
        "/%ff/",
        "/caf%C3%A9/",
        "/cafe%CC%81/",
        "/%",
        "/%zz/",
        "/%41/",
        "/%7E/",
        "/~/",
        "/+/",
        "/%20/",
        "/&/",
        "/=/",
        "/'/",
        "/(a)/",
        "/a:b/",
        "/@/",
        "/%3F/",
        "/%23/",
        "/#/",
        "/|/",
        "/^/",
        "/\"/",
        "/<a>/",
        "/{a}/",
        "/[a]/",
        "/`/",
        "/*/",
        "/$/",
        "/,/",
        "/!/",
        "/caf\u{e9}/",
        "/ADMIN/",
        "/admin%2f",
        "/admin;x/",
        "/admin/..;/",
        "/./admin/",
        "/%61dmin/",
        "/admin//",
    ];
    let mut targets: Vec<String> = Vec::new();
    for piece in pieces {
        targets.push(format!("/tickets{piece}"));
        targets.push(format!("/tickets{piece}x"));
        targets.push(format!("/tickets/public{piece}x?q=%2e%2e//{{}}"));
        targets.push(format!("/tickets/public{piece}..{piece}admin/x"));
        targets.push(format!("{piece}tickets/public/x"));
    }
    targets.extend((0..=255).map(|byte| format!("/tickets/public/%{byte:02x}x")));
    for odd in [
        "/tickets/public/a?",
        "/tickets/public/a?#",
        "/tickets/public/a?x#/../admin",
        "/tickets/public/a#/../../admin",
        "https://localhost/tickets/public/a",
        "https://localhost/tickets/public/../admin/x",
        "http://elsewhere.example.org/tickets/public/a",
        "/here/../tickets/public/a",
        "/tickets/public/a/../../../here/",
        "/.portcullis/check/../../tickets/public/a",
        "/.portcullis/check",
        "/.portcullis/check/tickets/public/a",
        "/%2eportcullis/check",
        "tickets/public/a",
        "*",
    ] {
        targets.push(odd.to_owned());
    }
    targets
}

#[tokio::test]
async fn the_path_that_the_application_gets_is_the_path_that_was_judged() {
    let (gate, _) = gate();
    for start in PROXIES {
        let elsewhere = Elsewhere::start();
        let proxy = start(&gate, &elsewhere);
        let mut passed = Vec::new();
        let mut refused = 0;
        for target in targets() {
            for method in ["GET", "OPTIONS"] {
                let answer = proxy.ask(method, &target, &[], "").await;
                if target == "*" && method == "OPTIONS" && answer.code == 200 {
                    // It asks about the proxy itself, which may answer: with nothing of the application's.
                    assert!(answer.body.is_empty(), "{}: {answer:?}", proxy.name);
                } else if answer.code == 200 {
                    passed.push((target.clone(), answer.json()));
                } else {
                    assert!((400..=503).contains(&answer.code), "{} {target}: {}", proxy.name, answer.head);
                    refused += 1;
                }
            }
        }
        assert!(passed.len() > 200 && refused > 300, "{}: {} passed, {refused} refused", proxy.name, passed.len());
        for (target, received) in &passed {
            let [request] = told(received, "Portcullis-Request")[..] else { panic!("{target}: {received}") };
            let judged = gate.await_log("access.log", |line| line["request"] == request);
            assert_eq!((&judged["status"], &judged["asked_by"]), (&200.into(), &"127.0.0.1".into()), "{judged}");
            let got = received["target"].as_str().expect("a target").split('?').next().unwrap_or_default();
            assert_eq!(decoded(got), judged["path"], "{} got {target} and passed {received} on", proxy.name);
            let path = judged["path"].as_str().unwrap_or_default();
            assert!(path.starts_with("/tickets/public/"), "{target} is nothing for anybody: {judged}");
            assert_eq!(received["method"], judged["method"], "{target}");
            // Caddy encodes what should have been, such as `|`: for the gate and for the application alike.
            if proxy.name == "nginx" && target.starts_with('/') {
                let sent: String = target.bytes().map(char::from).collect();
                assert_eq!(received["target"], sent, "nginx changed the path on the way");
            }
        }
        // The application has seen no other request.
        let last = proxy.get("/tickets/public/last", None).await.json();
        assert_eq!(last["number"], passed.len() + 1, "{} passed on what it answered otherwise", proxy.name);
    }
}

/// A path decoded once, as every server does it.
fn decoded(path: &str) -> String {
    // The application shows bytes as Latin-1.
    let bytes: Vec<u8> = path.chars().map(|c| u8::try_from(u32::from(c)).expect("a byte")).collect();
    let mut decoded = Vec::new();
    let mut rest = &bytes[..];
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%'
            && let Some(hex) = after.get(..2).and_then(|hex| str::from_utf8(hex).ok())
            && let Ok(byte) = u8::from_str_radix(hex, 16)
        {
            decoded.push(byte);
            rest = &after[2..];
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).expect("what is accepted is UTF-8")
}

#[tokio::test]
async fn without_the_gate_nothing_gets_through() {
    let (mut gate, _) = gate();
    let elsewhere = Elsewhere::start();
    let proxies = PROXIES.map(|start| start(&gate, &elsewhere));
    for proxy in &proxies {
        assert_eq!(proxy.get("/tickets/public/a", None).await.code, 200, "{}", proxy.name);
    }
    gate.stop();
    for proxy in &proxies {
        for credentials in [None, Some(basic("bob", &password("bob")))] {
            let answer = proxy.get("/tickets/public/a", credentials.as_deref()).await;
            assert!((500..=503).contains(&answer.code), "{}: {}", proxy.name, answer.head);
            assert!(!answer.body.starts_with(b"{"), "{}: the application was asked", proxy.name);
        }
    }
}

#[tokio::test]
async fn a_limit_counts_what_proxies_ask_about() {
    let installation = setup("\"127.0.0.1\"").install();
    let limited = TICKETS.replace("who  = \"anyone\"\n\n", "who  = \"anyone\"\nlimit = \"2/d per address\"\n\n");
    installation.write_policy("tickets", &limited);
    let gate = installation.start();
    for (uri, code) in [("/tickets/public/a", 200), ("/tickets/public/b", 200), ("/tickets/public/c", 429)] {
        let answer = question(&gate, "GET", uri).over(Http::One).await;
        assert_eq!(answer.code(), code, "{uri}");
        assert_eq!(answer.header("retry-after").is_some(), code == 429);
    }
    // Behind nginx and Caddy the client has another address, and a budget of its own; they share it.
    let elsewhere = Elsewhere::start();
    let (nginx, caddy) = (Proxy::nginx(&gate, &elsewhere), Proxy::caddy(&gate, &elsewhere));
    for (proxy, code) in [(&nginx, 200), (&caddy, 200), (&nginx, 429), (&caddy, 429)] {
        assert_eq!(proxy.get("/tickets/public/d", None).await.code, code, "{}", proxy.name);
    }
}

/// A question as a proxy asks it.
fn question<'a>(gate: &'a Gate, method: &str, uri: &str) -> crate::harness::Ask<'a> {
    gate.get("/.portcullis/check")
        .header("x-forwarded-method", method)
        .header("x-forwarded-uri", uri)
        .header("x-forwarded-host", "apps.example.org")
        .header("x-forwarded-for", "192.0.2.7")
}

#[tokio::test]
async fn an_answer_names_who_it_is_and_every_header_is_there() {
    let (gate, _) = gate();
    for http in BOTH {
        let nobody = question(&gate, "GET", "/tickets/public/a").over(http).await;
        let told = |answer: &crate::harness::Answer, name| answer.header(name).map(str::to_owned);
        assert_eq!((nobody.code(), nobody.text().as_str()), (200, ""));
        for (name, value) in
            [("remote-user", ""), ("remote-groups", "guest"), ("remote-name", ""), ("remote-email", "")]
        {
            assert_eq!(told(&nobody, name).as_deref(), Some(value), "{name}");
        }
        let eve = question(&gate, "GET", "/tickets/7").basic("eve", &password("eve")).over(http).await;
        assert_eq!(told(&eve, "remote-user").as_deref(), Some("eve"));
        assert_eq!(told(&eve, "remote-groups").as_deref(), Some("auditor,boss,guest"));
        assert_eq!(told(&eve, "cache-control").as_deref(), Some("no-store"));
        assert_eq!(told(&eve, "portcullis-request").map(|id| id.len()), Some(16));
    }
}

#[tokio::test]
async fn a_question_that_could_mean_two_things_is_refused() {
    let (gate, _) = gate();
    let whole = || question(&gate, "GET", "/tickets/public/a");
    for (doubled, value) in [
        ("x-forwarded-method", "POST"),
        ("x-forwarded-uri", "/tickets/public/a"),
        ("x-forwarded-host", "apps.example.org"),
        ("x-forwarded-for", "192.0.2.7"),
    ] {
        let answer = whole().header(doubled, value).over(Http::One).await;
        assert_eq!((answer.code(), answer.reason()), (400, "bad-request"), "{doubled}");
        assert!(answer.text().to_lowercase().contains(doubled), "{}", answer.text());
    }
    let bare = gate.get("/.portcullis/check").header("x-original-url", "/tickets/public/a").over(Http::Two).await;
    assert_eq!((bare.code(), bare.reason()), (400, "bad-request"));
    let body = whole().body("the body of the original request").over(Http::One).await;
    assert_eq!((body.code(), body.reason()), (400, "bad-request"));
    for (uri, reason) in [("/tickets/%2e%2e/", "bad-path"), ("/tickets/a#b", "bad-request"), ("//tickets/", "bad-path")]
    {
        let answer = question(&gate, "GET", uri).over(Http::Two).await;
        assert_eq!((answer.code(), answer.reason()), (400, reason), "{uri}");
    }
    let trace = question(&gate, "TRACE", "/tickets/public/a").over(Http::One).await;
    assert_eq!((trace.code(), trace.reason()), (405, "http-method-refused"));
}

#[tokio::test]
async fn only_the_proxies_that_are_named_may_ask_and_for_all_others_nothing_is_there() {
    for trusted in ["", "\"192.0.2.1\", \"10.0.0.0/8\""] {
        let anyone = "methods = [\"unauthenticated\"]\ndefault = \"anyone\"\nworkers = 1";
        let setup = setup(trusted).app("/", "environ_app", anyone);
        let installation = setup.install();
        installation.write_policy("tickets", TICKETS);
        let gate = installation.start();
        for http in BOTH {
            let nothing = gate.get("/.portcullis/else").over(http).await;
            assert_eq!((nothing.code(), nothing.reason()), (404, "no-application"));
            let asked =
                question(&gate, "GET", "/tickets/public/a").header("x-forwarded-for", "10.0.0.1").over(http).await;
            assert_eq!((asked.code(), asked.reason()), (404, "no-application"));
            assert_eq!(asked.headers.keys().collect::<Vec<_>>(), nothing.headers.keys().collect::<Vec<_>>());
            for (path, status) in
                [("/.portcullis", 404), ("/%2eportcullis/x", 404), ("/.portcullisx", 200), ("/x", 200)]
            {
                assert_eq!(gate.get(path).over(http).await.code(), status, "{path}");
            }
        }
    }
}

#[tokio::test]
async fn an_application_that_runs_elsewhere_is_not_to_be_had_here() {
    let (gate, _) = gate();
    for http in BOTH {
        for credentials in [None, Some(("bob", password("bob")))] {
            let mut ask = gate.get("/tickets/public/a");
            if let Some((name, password)) = &credentials {
                ask = ask.basic(name, password);
            }
            let answer = ask.over(http).await;
            assert_eq!((answer.code(), answer.reason()), (404, "application-elsewhere"));
        }
    }
    let listed: Value = serde_json::from_str(&gate.cli(&["--json", "app", "list"])).expect("JSON");
    let of = |name: &str| {
        let found = listed.as_array().expect("applications").iter().find(|app| app["name"] == name).expect("it");
        found["running"]["state"].as_str().expect("a state").to_owned()
    };
    assert_eq!([of("/tickets"), of("/off")], ["elsewhere", "disabled"]);
    assert!(gate.cli(&["status"]).contains("elsewhere"));
    let shown = gate.cli(&["app", "show", "tickets"]);
    assert!(shown.contains("elsewhere; proxies ask the gate") && !shown.contains("python"), "{shown}");
    for command in ["test", "reload"] {
        let output = gate.command(&["app", command, "/tickets"]);
        let said = crate::harness::text(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains("runs elsewhere"), "{said}");
    }
    assert!(gate.cli(&["check"]).contains("good"), "nothing is imported of what runs elsewhere");
    assert!(gate.cli(&["explain", "GET", "/tickets/7"]).contains("runs elsewhere"));
    // Nothing in them has to be prepared, so nothing in them can keep a reload from happening.
    gate.write_policy("tickets", &TICKETS.replace("\"role:boss\"", "\"role:auditor\""));
    let reloaded: Value = serde_json::from_str(&gate.cli(&["--json", "reload"])).expect("JSON");
    assert_eq!(reloaded["restarted"], Value::Array(Vec::new()));
    let bob = question(&gate, "GET", "/tickets/admin/x").basic("bob", &password("bob")).over(Http::One).await;
    assert_eq!(
        (bob.code(), bob.reason()),
        (403, "not-allowed-by-rule"),
        "the next question is judged by the new rules"
    );
}

#[tokio::test]
async fn the_log_and_the_audit_name_the_original_request_and_who_asked() {
    let (gate, _) = gate();
    let refused =
        question(&gate, "DELETE", "/tickets/admin/7?secret=1").basic("ann", &password("ann")).over(Http::One).await;
    assert_eq!((refused.code(), refused.reason()), (403, "not-allowed-by-rule"));
    let request = refused.header("portcullis-request").expect("an id").to_owned();
    let line = gate.await_log("access.log", |line| line["request"] == *request);
    for (field, value) in [
        ("client", "192.0.2.7"),
        ("asked_by", "127.0.0.1"),
        ("method", "DELETE"),
        ("path", "/tickets/admin/7"),
        ("application", "/tickets"),
        ("principal", "ann"),
        ("decision", "refused"),
        ("reason", "not-allowed-by-rule"),
        ("rule", "policies/tickets.toml:17"),
    ] {
        assert_eq!(line[field], value, "{line}");
    }
    assert_eq!(gate.log("access.log").iter().filter(|line| line["request"] == *request).count(), 1);
    let bad = question(&gate, "GET", "/tickets/..?secret=1").over(Http::One).await;
    let id = bad.header("portcullis-request").expect("an id");
    let line = gate.await_log("access.log", |line| line["request"] == id);
    assert_eq!([&line["path"], &line["client"]], ["/tickets/..", "192.0.2.7"], "{line}");

    let audited = |event: &str| {
        let text = gate.cli(&["audit", "export"]);
        let records = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        records
            .filter(|record| record["event"] == event && record["details"]["request"] == *request)
            .collect::<Vec<_>>()
    };
    let deadline = Instant::now() + PATIENCE;
    while audited("refusal").is_empty() {
        assert!(Instant::now() < deadline, "no audit record");
    }
    let [record] = &audited("refusal")[..] else { panic!("one record for one refusal") };
    assert_eq!([&record["target"], &record["address"]], ["DELETE /tickets/admin/7", "192.0.2.7"], "{record}");
    assert_eq!(record["details"]["asked_by"], "127.0.0.1", "{record}");
    let here = gate.get("/here/").over(Http::One).await;
    assert_eq!(here.code(), 200);
    let line = gate.await_log("access.log", |line| line["path"] == "/here/");
    assert!(line.get("asked_by").is_none(), "{line}");
}

#[tokio::test]
async fn the_policy_of_the_example_loads_and_says_whom_it_lets_in() {
    let installation = Setup::level("normal").config("forward_auth", "trusted = [\"127.0.0.1\"]").install();
    installation.write_policy("tickets", &example("tickets.toml"));
    let checked = installation.command(&["check"]);
    assert!(checked.status.success() && checked.stderr.is_empty(), "{}", crate::harness::text(&checked.stderr));
    assert_eq!(explained(&installation, "GET", "/tickets/admin", "root"), (200, String::new()));
    assert_eq!(explained(&installation, "GET", "/tickets/", "anonymous"), (401, "credentials-required".to_owned()));
    // Without a proxy that may ask, the policy lets nobody in, and `check` says so.
    let config = installation.path("portcullis.toml");
    let toml = std::fs::read_to_string(&config).expect("it").replace("trusted = [\"127.0.0.1\"]", "");
    std::fs::write(&config, toml).expect("it can be written");
    let warned = crate::harness::text(&installation.command(&["check"]).stderr);
    assert!(warned.contains("no proxy may ask about what runs elsewhere: /tickets"), "{warned}");
}

#[tokio::test]
async fn an_application_with_a_host_of_its_own_is_judged_under_its_name() {
    let (gate, _) = gate();
    let elsewhere = Elsewhere::start();
    let proxy = Proxy::nginx_asking_about("/tickets$request_uri", &gate, &elsewhere);
    for (target, status) in [
        ("/public/a?x", 200),
        ("/public/", 200),
        ("/7", 401),
        ("/", 401),
        ("/admin", 401),
        ("/../tickets/public/a", 400),
        ("//public/a", 400),
        ("/public/../public/a", 400),
        ("/here/", 401),
    ] {
        let answer = proxy.get(target, None).await;
        assert_eq!(answer.code, status, "{target}: {}", answer.head);
        if status == 200 {
            assert_eq!(answer.json()["target"], target);
        }
    }
}

#[test]
fn what_is_documented_is_what_is_tested() {
    let page = std::fs::read_to_string(repository().join("docs/forward-auth.md")).expect("the page");
    for file in ["nginx.conf", "Caddyfile", "tickets.toml"] {
        assert!(
            page.contains(&example(file)),
            "docs/forward-auth.md does not have examples/forward-auth/{file} as it is"
        );
    }
}
