//! What is broken off is seen as broken off, on either side and soon: uploads by clients, answers by applications, and
//! clients that leave.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::Frame;
use serde_json::Value;
use tokio::{io::AsyncWriteExt, sync::mpsc};

use crate::{
    harness::{BOTH, Gate, Http, PATIENCE, Setup, text, venv},
    stream::Stream,
};

const OPEN: &str = "methods = [\"unauthenticated\"]\ndefault = \"anyone\"\n";

/// How soon an application learns that its client has left. Without optimisation, beside other tests, everything takes
/// its time.
const SOON: Duration = if cfg!(debug_assertions) { Duration::from_millis(1000) } else { Duration::from_millis(100) };

fn gate(more: &str) -> Gate {
    Setup::level("minimal").app("/app", "aborts", &format!("{OPEN}{more}")).start()
}

/// What the application has noted since [`forget`], with the time of each note by the clock that `Instant` reads too.
async fn happened(gate: &Gate) -> Vec<(String, f64)> {
    let look = gate.get("/app/look").over(Http::One).await.json();
    let notes = look["happened"].as_array().expect("a list").iter();
    notes.map(|note| (note[0].as_str().unwrap().to_owned(), note[1].as_f64().unwrap())).collect()
}

async fn forget(gate: &Gate) {
    assert_eq!(gate.get("/app/forget").over(Http::One).await.code(), 200);
}

/// The clock of `time.monotonic()`.
pub fn monotonic() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    #[expect(clippy::cast_precision_loss, reason = "a fraction of a second")]
    let seconds = now.tv_sec as f64 + now.tv_nsec as f64 / 1e9;
    seconds
}

/// Waits until the application has noted something that begins so, and tells when that was.
async fn await_note(gate: &Gate, wanted: &[&str]) -> (String, f64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let notes = happened(gate).await;
        if let Some(found) = notes.iter().find(|(note, _)| wanted.iter().any(|wanted| note.starts_with(wanted))) {
            return found.clone();
        }
        assert!(Instant::now() < deadline, "none of {wanted:?} in {notes:?}");
    }
}

/// An upload that is begun: its body comes through the channel and breaks off when that is dropped.
struct Upload {
    body: mpsc::UnboundedSender<Result<Frame<Bytes>, std::io::Error>>,
    asked: tokio::task::JoinHandle<hyper::Result<hyper::Response<hyper::body::Incoming>>>,
}

impl Upload {
    async fn begin(gate: &Gate, http: Http, length: Option<u64>) -> Self {
        let (body, mut pieces) = mpsc::unbounded_channel();
        let stream = futures_util::stream::poll_fn(move |cx| pieces.poll_recv(cx));
        let request = http::Request::post(match http {
            Http::One => "/app/upload",
            Http::Two => "https://localhost/app/upload",
        });
        let request = match length {
            Some(length) => request.header("content-length", length),
            None => request,
        };
        let request = if http == Http::One { request.header("host", "localhost") } else { request };
        let request = request.body(BoxBody::new(StreamBody::new(stream).boxed())).expect("a request");
        let asked = match http {
            Http::One => {
                let mut sender = gate.http1().await;
                tokio::spawn(async move { sender.send_request(request).await })
            }
            Http::Two => {
                let mut sender = gate.http2().await;
                tokio::spawn(async move { sender.send_request(request).await })
            }
        };
        Self { body, asked }
    }

    fn send(&self, length: usize) {
        let _ = self.body.send(Ok(Frame::data(Bytes::from(vec![b'x'; length]))));
    }

    /// Breaks off: over HTTP/1 the connection is closed, over HTTP/2 the stream is reset.
    async fn abort(self) {
        let _ = self.body.send(Err(std::io::Error::other("the client has lost interest")));
        let answer = tokio::time::timeout(PATIENCE, self.asked).await.expect("an end in time").expect("no panic");
        assert!(answer.map_or(true, |answer| answer.status().as_u16() >= 400), "an upload that broke off was accepted");
    }
}

#[tokio::test]
async fn an_upload_that_breaks_off_raises_in_an_application_that_takes_it_as_it_comes() {
    let gate = gate("stream_bodies = true");
    for http in BOTH {
        for length in [Some(1_000_000), None] {
            forget(&gate).await;
            let upload = Upload::begin(&gate, http, length).await;
            upload.send(100_000);
            await_note(&gate, &["begun"]).await;
            let left = monotonic();
            upload.abort().await;
            let (what, when) = await_note(&gate, &["OSError", "ConnectionAbortedError", "complete"]).await;
            assert!(!what.starts_with("complete"), "{length:?} over {http:?}: a short body was taken for a whole one");
            assert!(when - left < SOON.as_secs_f64(), "{length:?} over {http:?}: {} s", when - left);
        }
    }
}

#[tokio::test]
async fn an_upload_that_breaks_off_never_reaches_an_application_that_takes_whole_ones() {
    let gate = gate("");
    for http in BOTH {
        for length in [Some(1_000_000), None] {
            let upload = Upload::begin(&gate, http, length).await;
            upload.send(100_000);
            upload.abort().await;
        }
    }
    let whole = gate.ask("POST", "/app/upload").body(vec![b'x'; 70_000]).over(Http::One).await;
    assert_eq!(whole.text(), "70000");
    let notes: Vec<_> = happened(&gate).await.into_iter().map(|(note, _)| note).collect();
    assert_eq!(notes, ["begun", "complete 70000"], "only the whole one");
}

/// Runs curl and gives its exit status and what it received.
fn curl(gate: &Gate, http: Http, path: &str) -> (Option<i32>, String) {
    let output = Command::new("curl")
        .args(["--silent", "--no-buffer", if http == Http::One { "--http1.1" } else { "--http2" }])
        .arg("--cacert")
        .arg(gate.path("certs/ca.pem"))
        .args(["--resolve", &format!("localhost:{}:127.0.0.1", gate.address.port())])
        .arg(format!("https://localhost:{}{path}", gate.address.port()))
        .output()
        .expect("curl runs");
    (output.status.code(), text(&output.stdout))
}

#[tokio::test]
async fn curl_and_python_see_an_answer_that_breaks_off_as_broken_off() {
    let gate = gate("");
    // CURLE_PARTIAL_FILE; CURLE_HTTP2_STREAM
    for (http, codes) in [(Http::One, 18), (Http::Two, 92)] {
        for path in ["/app/raises", "/app/short"] {
            let (code, received) = curl(&gate, http, path);
            assert_eq!((code, received.as_str()), (Some(codes), "some more"), "{path} over {http:?}");
        }
        let (code, _) = curl(&gate, http, "/app/look");
        assert_eq!(code, Some(0), "over {http:?}");
    }
    let script = "
import http.client, ssl, sys
for path in ('/app/raises', '/app/short'):
    connection = http.client.HTTPSConnection('localhost', int(sys.argv[1]), context=ssl.create_default_context(cafile=sys.argv[2]))
    connection.request('GET', path)
    try:
        print('whole', connection.getresponse().read())
    except http.client.IncompleteRead as error:
        print('incomplete', error.partial)
";
    let output = Command::new(venv().join("bin/python"))
        .args(["-c", script, &gate.address.port().to_string()])
        .arg(gate.path("certs/ca.pem"))
        .output()
        .expect("python runs");
    assert_eq!(text(&output.stdout), "incomplete b'some more'\n".repeat(2), "{}", text(&output.stderr));
}

/// A client that has read a little and leaves, over its own connection.
async fn leave(gate: &Gate, http: Http, path: &str) -> f64 {
    match http {
        Http::One => {
            let mut stream = gate.connect(&[b"http/1.1"]).await;
            stream
                .write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
                .await
                .expect("asked");
            let mut some = [0; 64];
            tokio::time::timeout(PATIENCE, tokio::io::AsyncReadExt::read_exact(&mut stream, &mut some))
                .await
                .expect("an answer in time")
                .expect("an answer");
            settle(gate, path).await;
            let left = monotonic();
            drop(stream);
            left
        }
        Http::Two => {
            let mut stream = Stream::open(gate, http, path).await;
            stream.piece().await;
            settle(gate, path).await;
            let left = monotonic();
            drop(stream);
            left
        }
    }
}

/// Lets an application that sends for ever fill every window, so that it waits for credit: each look takes a turn of
/// everything between.
async fn settle(gate: &Gate, path: &str) {
    if path.contains("full") {
        for _ in 0..20 {
            happened(gate).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_is_noticed_soon_wherever_the_application_is() {
    let gate = gate("threads = 4\nstream_bodies = true");
    for http in BOTH {
        for (path, wanted) in [
            ("/app/full", &["close"][..]),
            ("/app/full_write", &["ConnectionAbortedError", "OSError", "BrokenPipeError"]),
            ("/app/ticks", &["close"]),
            ("/app/ticks_write", &["ConnectionAbortedError", "OSError", "BrokenPipeError"]),
        ] {
            forget(&gate).await;
            let left = leave(&gate, http, path).await;
            let (_, when) = await_note(&gate, wanted).await;
            let took = when - left;
            println!("{path} over {http:?}: {:.1} ms", took * 1e3);
            assert!(took < SOON.as_secs_f64(), "{path} over {http:?}: {took} s");
            let notes = happened(&gate).await;
            assert_eq!(notes.len(), 1, "{path} over {http:?}: once: {notes:?}");
        }
        // Reading a body.
        forget(&gate).await;
        let upload = Upload::begin(&gate, http, Some(1_000_000)).await;
        upload.send(5000);
        await_note(&gate, &["begun"]).await;
        let left = monotonic();
        upload.abort().await;
        let (_, when) = await_note(&gate, &["OSError", "ConnectionAbortedError"]).await;
        println!("reading over {http:?}: {:.1} ms", (when - left) * 1e3);
        assert!(when - left < SOON.as_secs_f64(), "reading over {http:?}: {} s", when - left);
    }
    let aborted = |line: &Value| line["status"] == 200 && line["path"] == "/app/ticks";
    gate.await_log("access.log", aborted);
}
