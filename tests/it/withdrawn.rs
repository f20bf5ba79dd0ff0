//! What runs on after something has changed is judged anew, and ended within five seconds if it would not be allowed any
//! more; what would be goes on.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::Frame;
use tokio::sync::mpsc;

use crate::{
    harness::{Ask, BOTH, Gate, Http, PATIENCE, Setup},
    stream::Stream,
};

/// What is promised.
const PROMISED: Duration = Duration::from_secs(5);

const PASSWORD: &str = "a perfectly fine one";

const POLICY: &str = "methods = [\"password\", \"token\"]\ndefault = \"signed-in\"\nthreads = 32\n\
                      [[allow]]\npath = \"/stream\"\nwho = [\"role:reader\", \"service:robot\"]\n";

fn gate() -> Gate {
    let mut setup = Setup::level("normal").watching();
    for mount in ["/app", "/disabled", "/removed"] {
        setup = setup.app(mount, "events", POLICY);
    }
    setup.start()
}

/// An open stream of somebody.
struct Open {
    who: &'static str,
    http: Http,
    stream: Stream,
}

async fn open(ask: &Ask<'_>, who: &'static str, into: &mut Vec<Open>) {
    for http in BOTH {
        let mut stream = Stream::ask(ask, http).await;
        assert_eq!(stream.status, 200, "{who}");
        assert!(stream.piece().await.starts_with(": open"), "{who}");
        into.push(Open { who, http, stream });
    }
}

/// Reads until the stream breaks off; tells when.
async fn broken(mut open: Open) -> Instant {
    loop {
        match open.stream.next().await {
            Some(Ok(_)) => {}
            Some(Err(_)) => return Instant::now(),
            None => panic!("{} over {:?}: it looks whole", open.who, open.http),
        }
    }
}

/// Makes a change, and waits until the streams of whom it is about have broken off.
async fn cut_by(streams: &mut Vec<Open>, who: &str, change: impl FnOnce()) {
    let (theirs, others): (Vec<_>, Vec<_>) = streams.drain(..).partition(|open| open.who == who);
    *streams = others;
    assert_eq!(theirs.len(), BOTH.len(), "{who}");
    change();
    let changed = Instant::now();
    for open in theirs {
        let took = broken(open).await.saturating_duration_since(changed);
        assert!(took < PROMISED, "{who} went on for {took:?}");
    }
}

fn events(gate: &Gate, event: &str) -> Vec<serde_json::Value> {
    let listed = gate.cli(&["audit", "list", "--json", "--limit", "1000"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let records = listed.as_array().or_else(|| listed["records"].as_array()).expect("records").clone();
    records.into_iter().filter(|record| record["event"] == event).collect()
}

/// Waits until that many records of an event are in the audit.
fn await_events(gate: &Gate, event: &str, count: usize) -> Vec<serde_json::Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = events(gate, event);
        if found.len() >= count {
            return found;
        }
        assert!(Instant::now() < deadline, "{found:#?}");
    }
}

/// The id of the only token of somebody.
fn token_id(gate: &Gate, owner: &[&str]) -> String {
    let listed = gate.cli(&[&["token", "list", "--json"], owner].concat());
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let list = listed.as_array().or_else(|| listed["tokens"].as_array()).expect("a list");
    list[0]["id"].as_str().expect("an id").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_would_not_be_allowed_any_more_is_cut_and_others_go_on() {
    let gate = gate();
    let people = ["dora", "rene", "rolf", "paul", "tina", "nora", "stay", "app"];
    for name in people {
        gate.user(name, PASSWORD, &["reader"]);
    }
    gate.cli(&["service", "add", "robot"]);
    let (tinas, stays, robots) =
        (gate.token(&["--user", "tina"]), gate.token(&["--user", "stay"]), gate.token(&["--service", "robot"]));
    let id = token_id(&gate, &["--user", "tina"]);
    let ask = |path| gate.get(path);
    let mut streams = Vec::new();
    for who in ["dora", "rene", "rolf", "paul", "nora"] {
        open(&ask("/app/stream").basic(who, PASSWORD), who, &mut streams).await;
    }
    open(&ask("/app/stream").bearer(&tinas), "tina", &mut streams).await;
    open(&ask("/app/stream").bearer(&robots), "robot", &mut streams).await;
    open(&ask("/disabled/stream").basic("app", PASSWORD), "disabled", &mut streams).await;
    open(&ask("/removed/stream").basic("app", PASSWORD), "removed", &mut streams).await;
    // By a token, which does not end with the password.
    open(&ask("/app/stream").bearer(&stays), "stay", &mut streams).await;

    let cli = |args: &[&str]| drop(gate.cli(args));
    cut_by(&mut streams, "dora", || cli(&["user", "disable", "dora"])).await;
    cut_by(&mut streams, "rene", || cli(&["user", "remove", "rene"])).await;
    cut_by(&mut streams, "rolf", || cli(&["user", "revoke", "rolf", "reader"])).await;
    cut_by(&mut streams, "tina", || cli(&["token", "revoke", &id])).await;
    cut_by(&mut streams, "robot", || cli(&["service", "disable", "robot"])).await;
    cut_by(&mut streams, "paul", || {
        for name in ["stay", "paul"] {
            gate.cli_with(&["user", "set-password", name, "--password-file", "-"], b"another fine one");
        }
    })
    .await;
    let edit = |name: &str, from: &str, to: &str| {
        let policy = std::fs::read_to_string(gate.path(&format!("policies/{name}.toml"))).unwrap();
        gate.write_policy(name, &policy.replacen(from, to, 1));
    };
    cut_by(&mut streams, "nora", || {
        let policy = std::fs::read_to_string(gate.path("policies/app.toml")).unwrap();
        gate.write_policy("app", &format!("{policy}[[deny]]\npath = \"/stream\"\nwho = \"user:nora\"\n"));
    })
    .await;
    cut_by(&mut streams, "disabled", || edit("disabled", "[app]\n", "[app]\nenabled = false\n")).await;
    cut_by(&mut streams, "removed", || std::fs::remove_file(gate.path("policies/removed.toml")).unwrap()).await;

    for open in &mut streams {
        assert_eq!(open.who, "stay");
        for _ in 0..2 {
            assert!(open.stream.piece().await.starts_with(": still here"), "goes on");
        }
    }
    let expected = [
        ("app", "application-disabled"),
        ("app", "no-application"),
        ("dora", "credentials-rejected"),
        ("nora", "denied-by-rule"),
        ("paul", "credentials-rejected"),
        ("rene", "credentials-rejected"),
        ("robot", "credentials-rejected"),
        ("rolf", "not-allowed-by-rule"),
        ("tina", "credentials-rejected"),
    ];
    let twice: Vec<_> =
        expected.iter().flat_map(|one| [one; 2]).map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    let records = await_events(&gate, "stream-cut", twice.len());
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let mut cut: Vec<_> = records.iter().map(|record| (text(&record["actor"]), text(&record["reason"]))).collect();
    cut.sort();
    assert_eq!(cut, twice, "one record for each");
    let rule = records.iter().find(|record| record["actor"] == "nora").expect("a record");
    assert!(rule["rule"].as_str().is_some_and(|rule| rule.starts_with("policies/app.toml:")), "{rule}");
    let is_cut = |line: &serde_json::Value| line.to_string().contains("an answer was cut");
    assert_eq!(gate.await_lines("messages.log", twice.len(), is_cut).len(), twice.len());
    let withdrawn = gate.await_lines("access.log", twice.len(), |line| line["withdrawn"].is_string());
    assert_eq!(withdrawn.len(), twice.len(), "one line for each");
    assert!(withdrawn.iter().all(|line| line["cut"] == true && line["decision"] == "allowed" && line["status"] == 200));
    // The application has seen clients that left.
    let deadline = Instant::now() + PATIENCE;
    while gate.get("/app/").bearer(&stays).over(Http::One).await.text() != "2" {
        assert!(Instant::now() < deadline, "generators go on without their clients");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_with_the_token_that_it_was_opened_by() {
    let gate = gate();
    gate.user("ann", PASSWORD, &["reader"]);
    let (ends, stays) = (gate.token(&["--user", "ann"]), gate.token(&["--user", "ann", "--name", "stays"]));
    let mut streams = Vec::new();
    open(&gate.get("/app/stream").bearer(&ends), "ends", &mut streams).await;
    open(&gate.get("/app/stream").bearer(&stays), "stays", &mut streams).await;
    cut_by(&mut streams, "ends", || {
        let script = "import sqlite3, sys, time\nstore = sqlite3.connect(sys.argv[1], timeout=10)\n\
                      store.execute(\"UPDATE tokens SET expires = ? WHERE label = ''\", (int(time.time() * 1000) + 4000,))\n\
                      store.commit()\n";
        let store = gate.path("data/portcullis.sqlite3");
        let status = Command::new("python3").args(["-c", script]).arg(store).status().expect("Python runs");
        assert!(status.success());
        // Has the gate look at the store: from then on nothing else happens but time.
        gate.cli(&["user", "enable", "ann"]);
    })
    .await;
    for open in &mut streams {
        assert!(open.stream.piece().await.starts_with(": still here"));
    }
    assert_eq!(await_events(&gate, "stream-cut", 2).len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_nobody_can_say_who_may_go_on_nobody_does() {
    let gate = gate();
    gate.user("ann", PASSWORD, &["reader"]);
    let mut streams = Vec::new();
    open(&gate.get("/app/stream").basic("ann", PASSWORD), "ann", &mut streams).await;
    // Somebody else's hand in the store: nobody is told, and what is asked for is not there.
    cut_by(&mut streams, "ann", || {
        let script = "import sqlite3, sys\nstore = sqlite3.connect(sys.argv[1], timeout=10)\n\
                      store.execute('ALTER TABLE user_roles RENAME TO elsewhere')\n\
                      store.execute(\"UPDATE meta SET value = value + 1 WHERE key = 'version'\")\nstore.commit()\n";
        let store = gate.path("data/portcullis.sqlite3");
        let status = Command::new("python3").args(["-c", script]).arg(store).status().expect("Python runs");
        assert!(status.success());
    })
    .await;
    for record in await_events(&gate, "stream-cut", 2) {
        assert_eq!(record["reason"], "store-unavailable");
    }
}

/// A request whose body is sent piece by piece.
async fn upload(gate: &Gate, http: Http, path: &str, authorization: &str) -> (mpsc::Sender<Bytes>, Answering) {
    let (sender, mut pieces) = mpsc::channel::<Bytes>(1);
    let stream = futures_util::stream::poll_fn(move |cx| {
        pieces.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    });
    let body = BoxBody::new(StreamBody::new(stream).map_err(|error: std::io::Error| error));
    let request = http::Request::post(match http {
        Http::One => path.to_owned(),
        Http::Two => format!("https://localhost{path}"),
    });
    let request = request.header("authorization", authorization);
    let answering: Answering = match http {
        Http::One => {
            let mut connection = gate.http1().await;
            let request = request.header("host", "localhost").body(body).unwrap();
            tokio::spawn(async move { connection.send_request(request).await })
        }
        Http::Two => {
            let mut connection = gate.http2().await;
            let request = request.body(body).unwrap();
            tokio::spawn(async move { connection.send_request(request).await })
        }
    };
    (sender, answering)
}

type Answering = tokio::task::JoinHandle<Result<http::Response<hyper::body::Incoming>, hyper::Error>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_without_an_answer_is_refused_and_an_upload_ends() {
    let policy = "methods = [\"token\"]\ndefault = \"signed-in\"\nthreads = 16\n";
    let gate = Setup::level("normal")
        .app("/app", "contract", &format!("{policy}stream_bodies = true\n"))
        .app("/whole", "contract", policy)
        .start();
    gate.user("ann", PASSWORD, &[]);
    let bearer = format!("Bearer {}", gate.token(&["--user", "ann"]));
    let piece = Bytes::from(vec![b'x'; 40_000]);
    let (mut uploads, mut echoes, mut sleepers) = (Vec::new(), Vec::new(), Vec::new());
    for http in BOTH {
        for path in ["/app/count", "/whole/count"] {
            let (sender, answering) = upload(&gate, http, path, &bearer).await;
            for _ in 0..3 {
                sender.send(piece.clone()).await.expect("it is taken");
            }
            uploads.push((sender, answering));
        }
        // One that is answered while it comes.
        let (sender, answering) = upload(&gate, http, "/app/stream_echo", &bearer).await;
        // It asks for 64 KiB before it answers.
        for _ in 0..2 {
            sender.send(piece.clone()).await.expect("it is taken");
        }
        let mut answer = answering.await.unwrap().expect("an answer");
        assert_eq!(answer.status().as_u16(), 200);
        answer.body_mut().frame().await.expect("a piece").expect("whole");
        echoes.push((sender, answer));
        let connection = gate.get("/whole/sleep?ms=30000").header("authorization", &bearer);
        sleepers.push((connection, http));
    }
    let slept = futures_util::future::join_all(sleepers.iter().map(|(ask, http)| ask.over(*http)));
    let change = async {
        // They are under way once they have been counted.
        let counted = || {
            let status: serde_json::Value = serde_json::from_str(&gate.cli(&["status", "--json"])).expect("JSON");
            status["requests"].as_u64().unwrap_or(0) >= 8
        };
        while !counted() {
            tokio::task::yield_now().await;
        }
        gate.cli(&["user", "disable", "ann"]);
        Instant::now()
    };
    let (slept, changed) = tokio::join!(slept, change);
    for answer in slept {
        assert_eq!((answer.code(), answer.reason()), (401, "credentials-rejected"));
    }
    for (_sender, answering) in uploads {
        let answer = answering.await.unwrap().expect("an answer");
        assert_eq!(answer.status().as_u16(), 401);
    }
    for (_sender, answer) in echoes {
        assert!(answer.into_body().collect().await.is_err(), "it looks whole");
    }
    assert!(changed.elapsed() < PROMISED, "{:?}", changed.elapsed());
    assert_eq!(await_events(&gate, "stream-cut", 2).len(), 2);
    let refused = |record: &&serde_json::Value| record["reason"] == "credentials-rejected";
    assert_eq!(events(&gate, "sign-in").iter().filter(refused).count(), 6, "one record for each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_is_cut_although_its_client_reads_nothing() {
    let apps = tempfile::tempdir().unwrap();
    std::fs::copy(crate::harness::repository().join("tests/apps/contract.py"), apps.path().join("contract.py"))
        .unwrap();
    std::fs::create_dir(apps.path().join("static")).unwrap();
    let big = std::fs::File::create(apps.path().join("static/big.bin")).unwrap();
    big.set_len(200 << 20).unwrap();
    let policy = "methods = [\"token\"]\ndefault = \"signed-in\"\nserve_files = \"secured\"\nthreads = 8\n";
    let gate = Setup::level("normal").app_in("/app", apps.path(), "contract", policy).start();
    gate.user("ann", PASSWORD, &[]);
    let token = gate.token(&["--user", "ann"]);
    let mut downloads = Vec::new();
    for http in BOTH {
        for path in ["/app/static/big.bin", "/app/disk_file?kib=65536", "/app/big_stream?mib=100"] {
            let stream = Stream::ask(&gate.get(path).bearer(&token), http).await;
            assert_eq!(stream.status, 200);
            downloads.push((path, http, stream));
        }
    }
    gate.cli(&["user", "disable", "ann"]);
    let changed = Instant::now();
    assert_eq!(await_events(&gate, "stream-cut", downloads.len()).len(), downloads.len());
    assert!(changed.elapsed() < PROMISED, "{:?}", changed.elapsed());
    for (path, http, mut stream) in downloads {
        let mut length = 0;
        loop {
            match stream.next().await {
                Some(Ok(piece)) => length += piece.len(),
                Some(Err(_)) => break,
                None => panic!("{path} over {http:?} is whole"),
            }
        }
        // What had left the gate by then: buffers of sockets and windows.
        assert!(length < 32 << 20, "{path} over {http:?}: {length} bytes");
    }
}
