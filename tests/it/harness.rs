//! The real gateway on port 0 with TLS, a temporary store and real workers, and clients that speak to it.
//!
//! A [`Gate`] is built by a few words, started, asked, and checked for what it leaves behind when it is dropped.

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, mpsc},
    time::Duration,
};

use base64::Engine;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Version};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Longer than anything here takes; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The administrator that every installation here begins with.
pub const ADMIN: (&str, &str) = ("root", "correct horse battery");

/// What the harness tells `init` and `serve`.
pub struct Setup {
    level: &'static str,
    config: Vec<(&'static str, String)>,
    more: String,
    policies: Vec<(String, String)>,
    run_as: Option<u32>,
}

impl Setup {
    /// An installation of a level, without applications.
    pub fn level(level: &'static str) -> Self {
        let mut config = LEAST_PASSWORD_COST.map(|line| ("passwords", line.to_owned())).to_vec();
        // A story that says `reload` must not find that it has happened already.
        config.push(("gateway", UNWATCHED.to_owned()));
        Self { level, config, more: String::new(), policies: Vec::new(), run_as: None }
    }

    /// Has edits come into force by themselves, as they do by default.
    pub fn watching(mut self) -> Self {
        self.config.retain(|(_, line)| line != UNWATCHED);
        self
    }

    /// Adds a line to a section of `portcullis.toml`.
    pub fn config(mut self, section: &'static str, line: &str) -> Self {
        self.config.push((section, line.to_owned()));
        self
    }

    /// Declares a namespace.
    pub fn namespace(self, name: &str, lines: &str) -> Self {
        self.more(&format!("\n[namespace.{name}]\n{lines}\n"))
    }

    /// Adds whole sections to the end of `portcullis.toml`.
    pub fn more(mut self, toml: &str) -> Self {
        self.more.push_str(toml);
        self
    }

    /// Has everything run as another user, which only root can.
    pub fn run_as(mut self, uid: Option<u32>) -> Self {
        self.run_as = uid;
        self
    }

    /// Adds an application from `tests/apps`: its mount, its module, and more lines of its policy.
    pub fn app(self, mount: &str, module: &str, more: &str) -> Self {
        let directory = repository().join("tests/apps");
        self.app_in(mount, &directory, module, more)
    }

    /// Adds an application from any directory.
    pub fn app_in(mut self, mount: &str, directory: &Path, module: &str, more: &str) -> Self {
        let name = if mount == "/" { "root".to_owned() } else { mount.trim_matches('/').replace('/', "-") };
        let head =
            format!("[app]\nname = \"{mount}\"\ndirectory = \"{}\"\nmodule = \"{module}\"\n", directory.display());
        self.policies.push((name, format!("{head}{more}\n")));
        self
    }

    /// Makes the installation without starting it.
    pub fn install(self) -> Installation {
        let home = tempfile::tempdir().expect("a temporary directory");
        if self.run_as.is_some() {
            std::os::unix::fs::chown(home.path(), self.run_as, self.run_as).expect("root may give a directory away");
        }
        let installation = Installation { home, run_as: self.run_as };
        let mut init = installation.program();
        init.args(["init", "--level", self.level, "--listen", "127.0.0.1:0", "--admin", ADMIN.0])
            .args(["--admin-password-file", "-", "--dir"])
            .arg(installation.home.path());
        let output = run(init, ADMIN.1.as_bytes());
        assert!(output.status.success(), "init: {}", text(&output.stderr));
        let config = installation.path("portcullis.toml");
        let mut toml = std::fs::read_to_string(&config).expect("init writes portcullis.toml");
        for (section, line) in &self.config {
            let header = format!("\n[{section}]");
            let at = toml.find(&header).unwrap_or_else(|| panic!("no [{section}] in portcullis.toml")) + header.len();
            let end = at + toml[at..].find('\n').expect("the end of the header's line");
            toml.insert_str(end, &format!("\n{line}"));
        }
        toml.push_str(&self.more);
        std::fs::write(&config, toml).expect("portcullis.toml can be written");
        for (name, policy) in self.policies {
            installation.write_policy(&name, &policy);
        }
        installation
    }

    /// Makes the installation and starts the gateway.
    pub fn start(self) -> Gate {
        self.install().start()
    }
}

/// Password hashing at the least cost that configuration accepts; a test in `password.rs` proves that the default is
/// the real one.
const LEAST_PASSWORD_COST: [&str; 3] = ["memory_kib = 7168", "iterations = 1", "parallelism = 1"];

/// Edits wait for `reload`.
pub const UNWATCHED: &str = "watch = false";

/// A directory that `init` made.
pub struct Installation {
    home: tempfile::TempDir,
    run_as: Option<u32>,
}

impl Installation {
    /// The program, to be run as whom the installation is for.
    fn program(&self) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(program());
        if let Some(uid) = self.run_as {
            command.uid(uid).gid(uid);
        }
        command
    }

    /// A file of it.
    pub fn path(&self, file: &str) -> PathBuf {
        self.home.path().join(file)
    }

    /// Writes `policies/NAME.toml`.
    pub fn write_policy(&self, name: &str, policy: &str) {
        std::fs::write(self.path(&format!("policies/{name}.toml")), policy).expect("a policy can be written");
    }

    /// Runs a command on it.
    pub fn command(&self, args: &[&str]) -> Output {
        self.command_with(args, b"")
    }

    /// Runs a command that reads `input`.
    pub fn command_with(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.program();
        command.arg("--config").arg(self.path("portcullis.toml")).args(args);
        run(command, input)
    }

    /// Runs a command that has to work and returns what it printed.
    pub fn cli(&self, args: &[&str]) -> String {
        self.cli_with(args, b"")
    }

    /// The same, reading `input`.
    pub fn cli_with(&self, args: &[&str], input: &[u8]) -> String {
        let output = self.command_with(args, input);
        assert!(output.status.success(), "{args:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// Adds a user with a password and roles.
    pub fn user(&self, name: &str, password: &str, roles: &[&str]) {
        let mut args = vec!["user", "add", name, "--password-file", "-"];
        for role in roles {
            if !self.command(&["role", "show", role]).status.success() {
                self.cli(&["role", "add", role]);
            }
            args.extend(["--role", role]);
        }
        self.cli_with(&args, password.as_bytes());
    }

    /// Makes an API token.
    pub fn token(&self, args: &[&str]) -> String {
        let all: Vec<_> = ["token", "create"].iter().chain(args).copied().collect();
        self.cli(&all).trim().to_owned()
    }

    /// Starts the gateway and waits until it listens.
    pub fn start(self) -> Gate {
        let mut child = self
            .program()
            .arg("--config")
            .arg(self.path("portcullis.toml"))
            .arg("serve")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(std::fs::File::create(self.path("stderr")).expect("a file for stderr")))
            .spawn()
            .expect("the gateway starts");
        let address = listening(&mut child).unwrap_or_else(|| {
            let _ = child.kill();
            panic!("the gateway did not start: {}", std::fs::read_to_string(self.path("stderr")).unwrap_or_default())
        });
        Gate { installation: self, child, address }
    }
}

/// The first address that a starting gateway says it listens on.
fn listening(child: &mut Child) -> Option<SocketAddr> {
    let stdout = BufReader::new(child.stdout.take()?);
    let (said, heard) = mpsc::channel();
    std::thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            if let Some(address) = line.strip_prefix("listening on https://") {
                let _ = said.send(address.parse().ok());
            }
        }
    });
    heard.recv_timeout(PATIENCE).ok().flatten()
}

/// A running gateway.
pub struct Gate {
    pub installation: Installation,
    child: Child,
    pub address: SocketAddr,
}

impl std::ops::Deref for Gate {
    type Target = Installation;
    fn deref(&self) -> &Installation {
        &self.installation
    }
}

impl Gate {
    /// Its process.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id")
    }

    /// Resident memory of the gateway process, KiB.
    pub fn resident_kib(&self) -> u64 {
        resident_kib(self.pid())
    }

    /// How many descriptors the gateway has open.
    pub fn open_descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the gateway runs").count()
    }

    /// Process ids of an application's ready workers.
    pub fn workers(&self, app: &str) -> Vec<i32> {
        let status: serde_json::Value = serde_json::from_str(&self.cli(&["status", "--json"])).expect("JSON");
        let apps = status["applications"].as_array().expect("applications");
        let app = apps.iter().find(|entry| entry["name"] == app).unwrap_or_else(|| panic!("no {app} in {status}"));
        let pids = app["workers"].as_array().expect("workers").iter();
        pids.filter_map(|worker| worker["pid"].as_i64()).map(|pid| i32::try_from(pid).expect("a pid")).collect()
    }

    /// Waits until an application has that many ready workers.
    pub fn await_workers(&self, app: &str, count: usize) -> Vec<i32> {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let pids = self.workers(app);
            if pids.len() == count {
                return pids;
            }
            assert!(std::time::Instant::now() < deadline, "{app} has workers {pids:?}, not {count}");
        }
    }

    /// Waits until what `status` says of an application fulfils `wanted`.
    pub fn await_status(&self, app: &str, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let status: serde_json::Value = serde_json::from_str(&self.cli(&["status", "--json"])).expect("JSON");
            let apps = status["applications"].as_array().expect("applications");
            let found =
                apps.iter().find(|entry| entry["name"] == app).unwrap_or_else(|| panic!("no {app} in {status}"));
            if wanted(found) {
                return found.clone();
            }
            assert!(std::time::Instant::now() < deadline, "{found}");
        }
    }

    /// A request to be sent.
    pub fn ask(&self, method: &str, path: &str) -> Ask<'_> {
        let headers = HeaderMap::new();
        let (method, path, host) = (method.to_owned(), path.to_owned(), "localhost".to_owned());
        Ask { gate: self, method, path, host, headers, body: Bytes::new() }
    }

    /// A GET to be sent.
    pub fn get(&self, path: &str) -> Ask<'_> {
        self.ask("GET", path)
    }

    /// Sends bytes over a fresh TLS connection (http/1.1) and returns everything that came back until it was closed.
    pub async fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect(&[b"http/1.1"]).await;
        // A gateway that refuses in the middle of what we send closes early: what it said still counts.
        let _ = stream.write_all(bytes).await;
        let _ = stream.flush().await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the gateway closes");
        answer
    }

    /// The status line's code of a raw answer.
    pub async fn raw_status(&self, bytes: &[u8]) -> u16 {
        let answer = self.raw(bytes).await;
        let line = String::from_utf8_lossy(&answer).lines().next().unwrap_or("").to_owned();
        line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no status: {line:?}"))
    }

    /// A TLS connection that offers these protocols.
    pub async fn connect(&self, alpn: &[&[u8]]) -> TlsStream<TcpStream> {
        let connector = TlsConnector::from(self.tls(alpn));
        let stream = TcpStream::connect(self.address).await.expect("the gateway accepts");
        stream.set_nodelay(true).expect("nodelay");
        connector.connect(ServerName::try_from("localhost").expect("a name"), stream).await.expect("TLS")
    }

    /// A client that trusts the development CA and offers these protocols.
    pub fn tls(&self, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let ca = self.path("certs/ca.pem");
        for certificate in CertificateDer::pem_file_iter(ca).expect("the CA's file") {
            roots.add(certificate.expect("a certificate")).expect("a CA");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }

    /// A kept-alive HTTP/1.1 connection.
    pub async fn http1(&self) -> hyper::client::conn::http1::SendRequest<BoxBody<Bytes, std::io::Error>> {
        let stream = self.connect(&[b"http/1.1"]).await;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("an HTTP/1.1 connection");
        tokio::spawn(connection);
        sender
    }

    /// An HTTP/2 connection.
    pub async fn http2(&self) -> hyper::client::conn::http2::SendRequest<BoxBody<Bytes, std::io::Error>> {
        let stream = self.connect(&[b"h2"]).await;
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("an HTTP/2 connection");
        tokio::spawn(connection);
        sender
    }

    /// Ends it as a service manager would and tells how it ended.
    pub fn stop(&mut self) -> ExitStatus {
        if let Ok(Some(status)) = self.child.try_wait() {
            return status;
        }
        signal(self.pid(), rustix::process::Signal::TERM);
        self.wait()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let pid = self.pid();
        let (done, ended) = mpsc::channel::<()>();
        let watchdog = std::thread::spawn(move || {
            if ended.recv_timeout(PATIENCE).is_err() {
                signal(pid, rustix::process::Signal::KILL);
            }
        });
        let status = self.child.wait().expect("the gateway ends");
        let _ = done.send(());
        let _ = watchdog.join();
        status
    }

    /// The lines of one of its logs, as JSON.
    pub fn log(&self, file: &str) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.path(&format!("logs/{file}"))).unwrap_or_default();
        // The last line may still be being written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"))).collect()
    }

    /// Waits until so many lines of a log fulfil `wanted`; each data thread writes its own in batches.
    pub fn await_lines(
        &self,
        file: &str,
        count: usize,
        wanted: impl Fn(&serde_json::Value) -> bool,
    ) -> Vec<serde_json::Value> {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let found: Vec<_> = self.log(file).into_iter().filter(|line| wanted(line)).collect();
            if found.len() >= count {
                return found;
            }
            let said = || format!("{} of {count} such lines in {file}: {:#?}", found.len(), self.log(file));
            assert!(std::time::Instant::now() < deadline, "{}", said());
            std::thread::yield_now();
        }
    }

    /// Waits until a line of a log fulfils `wanted`.
    pub fn await_log(&self, file: &str, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        self.await_lines(file, 1, wanted).swap_remove(0)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let workers: Vec<i32> = children(self.pid());
        let status = self.stop();
        if std::thread::panicking() {
            eprintln!("--- the gateway said:\n{}", std::fs::read_to_string(self.path("stderr")).unwrap_or_default());
            return;
        }
        assert!(status.success() || status.signal() == Some(9), "the gateway ended badly: {status}");
        let said = std::fs::read_to_string(self.path("stderr")).unwrap_or_default();
        assert!(!said.contains("were still"), "the gateway waited in vain for something to end:\n{said}");
        // A worker that was still importing is killed, and the kernel needs a moment to take it apart.
        let deadline = std::time::Instant::now() + Duration::from_secs(2);
        for worker in workers {
            while is_alive(worker) {
                assert!(std::time::Instant::now() < deadline, "worker {worker} was left behind");
                std::thread::yield_now();
            }
        }
    }
}

/// Resident memory of a process, KiB.
pub fn resident_kib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a resident size");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Whether a process exists and is no zombie.
pub fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
}

/// Waits until a process is gone.
pub fn await_gone(pid: i32) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while is_alive(pid) {
        assert!(std::time::Instant::now() < deadline, "process {pid} is still there");
        std::thread::yield_now();
    }
}

/// Direct children of a process.
pub fn children(pid: i32) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Sends a signal.
pub fn signal(pid: i32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Which HTTP a request is sent over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http {
    One,
    Two,
}

/// Both, for tests that hold for either.
pub const BOTH: [Http; 2] = [Http::One, Http::Two];

/// A request to be sent.
#[derive(Clone)]
pub struct Ask<'a> {
    gate: &'a Gate,
    method: String,
    path: String,
    host: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Ask<'_> {
    /// To another name of this gate than `localhost`.
    pub fn host(mut self, host: &str) -> Self {
        self.host = host.to_owned();
        self
    }

    /// With name and password.
    pub fn basic(self, name: &str, password: &str) -> Self {
        let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
        self.header("authorization", &format!("Basic {encoded}"))
    }

    /// As the administrator.
    pub fn admin(self) -> Self {
        self.basic(ADMIN.0, ADMIN.1)
    }

    /// With a token.
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// With a header, beside others of that name.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a header name");
        self.headers.append(name, http::HeaderValue::from_bytes(value.as_bytes()).expect("a header value"));
        self
    }

    /// With a body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends it over a connection of its own.
    pub async fn over(&self, http: Http) -> Answer {
        self.send(http, false).await
    }

    /// Sends it with a body whose length is not announced.
    pub async fn over_without_length(&self, http: Http) -> Answer {
        self.send(http, true).await
    }

    /// Sends it where a connection that breaks is an outcome: the status, and whether the body broke off.
    pub async fn try_over(&self, http: Http) -> Result<(u16, bool), hyper::Error> {
        let response = self.exchange(http, false).await?;
        let (code, body) = (response.status().as_u16(), response.into_body().collect());
        let body = tokio::time::timeout(PATIENCE, body).await.expect("a body in time");
        Ok((code, body.is_err()))
    }

    async fn send(&self, http: Http, unmeasured: bool) -> Answer {
        let response = self.exchange(http, unmeasured).await;
        let (parts, body) = response.expect("an answer").into_parts();
        let body = tokio::time::timeout(PATIENCE, body.collect()).await.expect("a body in time");
        let (body, cut) = match body {
            Ok(body) => (body.to_bytes(), false),
            Err(_) => (Bytes::new(), true),
        };
        Answer { status: parts.status, headers: parts.headers, body, cut }
    }

    /// Sends it over a connection of its own and waits for the head of the answer only.
    pub async fn begin(&self, http: Http, unmeasured: bool) -> http::Response<Incoming> {
        self.exchange(http, unmeasured).await.expect("an answer")
    }

    async fn exchange(&self, http: Http, unmeasured: bool) -> Result<http::Response<Incoming>, hyper::Error> {
        let body = Full::new(self.body.clone()).map_err(|never| match never {});
        let body = if unmeasured { BoxBody::new(Unmeasured(body)) } else { BoxBody::new(body) };
        let mut request = Request::builder().method(self.method.as_str());
        let exchange = async {
            match http {
                Http::One => {
                    request = request.uri(self.path.as_str()).version(Version::HTTP_11);
                    let mut request = request.body(body).expect("a request");
                    *request.headers_mut() = self.headers.clone();
                    request.headers_mut().entry("host").or_insert_with(|| self.host.parse().expect("a host"));
                    self.gate.http1().await.send_request(request).await
                }
                Http::Two => {
                    request = request.uri(format!("https://{}{}", self.host, self.path)).version(Version::HTTP_2);
                    let mut request = request.body(body).expect("a request");
                    *request.headers_mut() = self.headers.clone();
                    self.gate.http2().await.send_request(request).await
                }
            }
        };
        tokio::time::timeout(PATIENCE, exchange).await.expect("an answer in time")
    }
}

/// A body that does not tell its length.
struct Unmeasured<B>(B);

impl<B: hyper::body::Body + Unpin> hyper::body::Body for Unmeasured<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<B::Data>, B::Error>>> {
        std::pin::Pin::new(&mut self.0).poll_frame(cx)
    }
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The body broke off.
    pub cut: bool,
}

impl Answer {
    /// The status as a number.
    pub fn code(&self) -> u16 {
        self.status.as_u16()
    }

    /// A header, or nothing.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The reason id of a refusal.
    pub fn reason(&self) -> &str {
        self.header("portcullis-reason").unwrap_or("")
    }

    /// The schemes of the challenges, in order.
    pub fn challenges(&self) -> Vec<&str> {
        let all = self.headers.get_all("www-authenticate").iter();
        all.filter_map(|value| value.to_str().ok()?.split(' ').next()).collect()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        text(&self.body)
    }

    /// What `environ_app` received: the values of its environ that are strings.
    pub fn environ(&self) -> serde_json::Value {
        self.json()["values"].clone()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.text()))
    }
}

/// How long or how often something is tried: what `make soak` says in that variable, or less.
#[allow(clippy::disallowed_methods, reason = "how long a test tries is up to who runs it")]
pub fn effort(variable: &str, less: u64) -> u64 {
    std::env::var(variable).map_or(less, |number| number.parse().expect("a number"))
}

/// The program under test.
pub fn program() -> &'static str {
    env!("CARGO_BIN_EXE_portcullis")
}

/// The repository.
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The virtualenv with Flask and Django that `make test` makes.
pub fn venv() -> PathBuf {
    let venv = repository().join(".venv");
    assert!(venv.join("bin/python").exists(), "there is no .venv: run the tests with `make test`, which makes it");
    venv
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn run(mut command: Command, input: &[u8]) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    // A command that does not read its input closes it.
    let _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().expect("the program ends")
}
