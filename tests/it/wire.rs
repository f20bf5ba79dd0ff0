//! What is not HTTP, or HTTP in two readings: refused and closed, and nothing that was smuggled behind it ever runs.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    harness::{ADMIN, BOTH, Gate, Http, PATIENCE, Setup},
    raw::{Raw, RawAnswer, tell},
};

/// The oracle counts its calls; one process, so that it counts all of them.
fn setup() -> Setup {
    Setup::level("minimal").app(
        "/app",
        "oracle",
        "methods = [\"unauthenticated\", \"password\", \"token\"]\ndefault = \"anyone\"\nworkers = 1\n\
         [[allow]]\npath = \"/closed/**\"\nwho = \"signed-in\"\n",
    )
}

/// How often a path was called.
async fn calls(gate: &Gate, path: &str) -> u64 {
    let counts = gate.get("/app/count").over(Http::One).await.json();
    counts[path].as_u64().unwrap_or(0)
}

fn codes(answers: &[RawAnswer]) -> Vec<u16> {
    answers.iter().map(|answer| answer.code).collect()
}

const SMUGGLED: &str = "GET /app/smuggled HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn a_request_of_two_lengths_ends_its_connection_and_what_follows_never_runs() {
    let gate = setup().start();
    // The head behind `POST /app/first HTTP/1.1` and `Host`, the body, and what may be answered.
    let table: &[(&str, &str, &[u16])] = &[
        // RFC 9112 section 6.3 would let Transfer-Encoding win; whoever stands in front of us may read it the other way.
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n", &[400]),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", "0\r\n\r\n", &[400]),
        ("Content-Length: 5\r\nContent-Length: 6", "hello", &[400]),
        ("Content-Length: 5, 6", "hello", &[400]),
        ("Content-Length: 5, 5", "hello", &[400]),
        ("Content-Length: +5", "hello", &[400]),
        ("Content-Length: -5", "hello", &[400]),
        ("Content-Length: 0x5", "hello", &[400]),
        ("Content-Length: 5 5", "hello", &[400]),
        ("Content-Length: ", "hello", &[400]),
        ("Content-Length: 99999999999999999999999999", "hello", &[400]),
        ("Content-Length: 18446744073709551615", "hello", &[431]),
        ("Transfer-Encoding: xchunked", "0\r\n\r\n", &[400]),
        ("Transfer-Encoding: chunked, identity", "0\r\n\r\n", &[400]),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "0\r\n\r\n", &[400]),
        ("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", "0\r\n\r\n", &[400]),
        ("Transfer-Encoding: \x0bchunked", "0\r\n\r\n", &[400]),
        ("Transfer-Encoding : chunked", "0\r\n\r\n", &[400]),
        ("Content-Length : 5", "hello", &[400]),
        ("Transfer-Encoding\t: chunked", "0\r\n\r\n", &[400]),
        ("X: a\r\n Transfer-Encoding: chunked", "", &[400]),
        ("X: a\r\n\tb", "", &[400]),
        (" Transfer-Encoding: chunked", "", &[400]),
        ("X: a\0b", "", &[400]),
        ("X\0: a", "", &[400]),
        ("X: a\rContent-Length: 5", "", &[400]),
        ("Transfer-Encoding: chunked", "+5\r\nhello\r\n0\r\n\r\n", &[400]),
        ("Transfer-Encoding: chunked", "-5\r\nhello\r\n0\r\n\r\n", &[400]),
        ("Transfer-Encoding: chunked", "0x5\r\nhello\r\n0\r\n\r\n", &[400]),
        ("Transfer-Encoding: chunked", "g\r\nhello\r\n0\r\n\r\n", &[400]),
        ("Transfer-Encoding: chunked", "ffffffffffffffffff\r\nhello\r\n0\r\n\r\n", &[400]),
        ("Transfer-Encoding: chunked", "5\r\nhelloX\r\n0\r\n\r\n", &[400]),
        ("Transfer-Encoding: chunked", "5\nhello\r\n0\r\n\r\n", &[400]),
        ("Transfer-Encoding: chunked", "5;a=\n\r\nhello\r\n0\r\n\r\n", &[400]),
    ];
    let mut wrong = Vec::new();
    for (fields, body, expected) in table {
        let first = format!("POST /app/first HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n\r\n{body}");
        let answers = tell(&gate, format!("{first}{SMUGGLED}")).await;
        if codes(&answers) != *expected {
            wrong.push(format!("{fields:?} {body:?}: {:?}, not {expected:?}", codes(&answers)));
        }
        let ran = calls(&gate, "/smuggled").await;
        assert_eq!(ran, 0, "{fields:?} {body:?} let a second request in");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn the_same_length_twice_is_refused() {
    // RFC 9110 section 8.6 would let us take identical ones for one; whoever stands in front of us may not.
    let gate = setup().start();
    let first =
        "POST /app/first HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello".to_owned();
    assert_eq!(codes(&tell(&gate, first + SMUGGLED).await), [400]);
    assert_eq!((calls(&gate, "/first").await, calls(&gate, "/smuggled").await), (0, 0));
}

#[tokio::test]
async fn http_1_0_has_no_chunks_and_is_not_kept_alive() {
    let gate = setup().start();
    let chunked = "POST /app/first HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(codes(&tell(&gate, format!("{chunked}{SMUGGLED}")).await), [400]);
    assert_eq!(codes(&tell(&gate, format!("GET /app/first HTTP/1.0\r\n\r\n{SMUGGLED}")).await), [200]);
    assert_eq!(calls(&gate, "/smuggled").await, 0);
}

#[tokio::test]
async fn lines_that_are_not_http_are_400_and_the_end_of_the_connection() {
    let gate = setup().start();
    let mut wrong = Vec::new();
    for line in [
        "GET /app/first",
        "GET /app/first HTTP/3.0",
        "GET /app/first HTTP/1.2",
        "GET /app/first http/1.1",
        "GET  /app/first HTTP/1.1",
        "GET /app/first  HTTP/1.1",
        "GET /app/fi rst HTTP/1.1",
        "GET\t/app/first HTTP/1.1",
        " GET /app/first HTTP/1.1",
        "G(T /app/first HTTP/1.1",
        "\0GET /app/first HTTP/1.1",
        "GET /app/first\0 HTTP/1.1",
    ] {
        let answers = tell(&gate, format!("{line}\r\nHost: localhost\r\n\r\n{SMUGGLED}")).await;
        if codes(&answers) != [400] {
            wrong.push(format!("{line:?}: {:?}", codes(&answers)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!((calls(&gate, "/smuggled").await, calls(&gate, "/first").await), (0, 0));
}

#[tokio::test]
async fn a_line_that_ends_without_a_carriage_return_is_refused() {
    // RFC 9112 section 2.2 lets a recipient take a bare LF for the end of a line, and hyper does; others do not.
    let gate = setup().start();
    let answers = tell(&gate, "GET /app/closed/x HTTP/1.1\nHost: localhost\nConnection: close\n\n").await;
    assert_eq!((codes(&answers), answers[0].reason()), (vec![400], "bad-request"));
    let hidden =
        format!("GET /app/first HTTP/1.1\r\nHost: localhost\r\nX: a\nContent-Length: {}\r\n\r\n", SMUGGLED.len());
    let answers = tell(&gate, format!("{hidden}{SMUGGLED}GET /app/last HTTP/1.0\r\n\r\n")).await;
    assert_eq!(codes(&answers), [400]);
    assert_eq!((calls(&gate, "/first").await, calls(&gate, "/smuggled").await), (0, 0));
}

#[tokio::test]
async fn a_raw_fragment_is_400_wherever_it_stands() {
    let gate = setup().start();
    let request = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    for target in ["/app/a#b", "/app/a?b#c", "https://localhost/app/a#b", "/app/#"] {
        let answers = tell(&gate, request("/app/plain") + &request(target) + SMUGGLED).await;
        assert_eq!((codes(&answers), answers[1].reason()), (vec![200, 400], "bad-request"), "{target}");
    }
    assert_eq!(calls(&gate, "/smuggled").await, 0);
    // A `#` elsewhere is nobody's business.
    let fields =
        "GET /app/plain HTTP/1.1\r\nHost: localhost\r\nX: GET /app/plain#x HTTP/1.1\r\nConnection: close\r\n\r\n";
    assert_eq!(codes(&tell(&gate, fields).await), [200]);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let gate = setup().config("limits", "header_bytes = \"16KiB\"").config("limits", "headers = 20").start();
    let head = |fields: &str| format!("GET /app/first HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    let long = head(&format!("X: {}\r\n", "x".repeat(64 * 1024)));
    let many = head(&(0..40).map(|n| format!("X-{n}: 1\r\n")).collect::<String>());
    let target = format!("GET /app/{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(70_000));
    for request in [long, many, target] {
        let answers = tell(&gate, request).await;
        assert!(codes(&answers).iter().all(|code| matches!(code, 400 | 414 | 431)), "{:?}", codes(&answers));
    }
    let big = gate.get("/app/first").header("x", &"x".repeat(40_000)).over(Http::Two).await;
    assert_eq!(big.code(), 431);
    assert_eq!(calls(&gate, "/first").await, 0);
}

#[tokio::test]
async fn a_head_that_does_not_come_is_not_waited_for() {
    let gate = setup().config("timeouts", "head = \"300ms\"").config("timeouts", "idle = \"1h\"").start();
    let began = std::time::Instant::now();
    for beginning in ["GET /app/first HTTP/1.1\r\nHost: loc", "G", "\r\n\r\n"] {
        assert_eq!(codes(&tell(&gate, beginning).await), Vec::<u16>::new());
    }
    // Behind an answered request it is the same.
    let mut raw = Raw::to(&gate).await;
    raw.send("GET /app/first HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(raw.answer().await.unwrap().code, 200);
    raw.send("GET /app/second HT").await;
    assert_eq!(codes(&raw.answers().await), Vec::<u16>::new());
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_answer_does_not_wait_for_the_rest_of_the_next_request() {
    let gate = setup().start();
    let mut raw = Raw::to(&gate).await;
    raw.send("GET /app/first HTTP/1.1\r\nHost: localhost\r\n\r\nGET /app/sec").await;
    assert_eq!(raw.answer().await.unwrap().json()["path"], "/first");
    raw.send("ond HTTP/1.1\r\nHost: localhost\r\n\r\n\r\n").await;
    assert_eq!(raw.answer().await.unwrap().json()["path"], "/second");
    raw.send("GET /app/third HTTP/1.1\r\nHost: localhost\r\n\r\nnonsense\r\n\r\n").await;
    assert_eq!(codes(&raw.answers().await), [200, 400], "an answer survives the nonsense behind it");
}

#[tokio::test]
async fn odd_credentials_are_rejected_and_never_anonymous() {
    let gate = setup().start();
    let encoded = |text: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
    let good = encoded(format!("{}:{}", ADMIN.0, ADMIN.1).as_bytes());
    let mut wrong = Vec::new();
    let odd = [
        "Basic".to_owned(),
        "Basic ".to_owned(),
        "Basic !!!".to_owned(),
        format!("Basic {}", encoded(b"no colon")),
        format!("Basic {}", encoded(b":")),
        format!("Basic {}", encoded(b":password")),
        format!("Basic {}", encoded(b"root:")),
        format!("Basic {}", encoded(b"\xff\xfe:x")),
        format!("Basic {}", encoded(b"root\0:correct horse battery")),
        format!("Basic {}", encoded(b"root:correct horse battery\n")),
        format!("Basic {good} x"),
        format!("Basic {good},Bearer x"),
        format!("Basic{good}"),
        format!("Basic={good}"),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        "Bearer \u{e9}".to_owned(),
        "Bearer a b".to_owned(),
        "Bearer ..".to_owned(),
        "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJyb290In0.".to_owned(),
        format!("Bearer {}", "a".repeat(10_000)),
        "Digest username=\"root\"".to_owned(),
        "Negotiate x".to_owned(),
        String::new(),
    ];
    for authorization in odd {
        let shown: String = authorization.chars().take(60).collect();
        let head = format!("Host: localhost\r\nAuthorization: {authorization}\r\nConnection: close\r\n\r\n");
        for path in ["/app/closed/x", "/app/open"] {
            let answers = tell(&gate, format!("GET {path} HTTP/1.1\r\n{head}")).await;
            if !matches!(codes(&answers)[..], [400 | 401 | 403]) {
                wrong.push(format!("{path} {shown:?}: {:?}", codes(&answers)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for scheme in ["basic", "BASIC", "Basic"] {
        let head = format!("Host: localhost\r\nAuthorization: {scheme} {good}\r\nConnection: close\r\n\r\n");
        assert_eq!(codes(&tell(&gate, format!("GET /app/closed/x HTTP/1.1\r\n{head}")).await), [200], "{scheme}");
    }
}

#[tokio::test]
async fn a_refusal_does_not_wait_for_a_gigabyte() {
    let gate = setup().start();
    for (target, fields, code) in [
        ("/app/closed/x", "", 401),
        ("/app/closed/x", "Expect: 100-continue\r\n", 401),
        ("/app//x", "Expect: 100-continue\r\n", 400),
        ("/app/open", "Expect: 100-continue\r\n", 413),
        ("/nowhere#", "", 400),
    ] {
        let head = format!("POST {target} HTTP/1.1\r\nHost: localhost\r\n{fields}Content-Length: 1073741824\r\n\r\n");
        let answers = tell(&gate, head).await;
        assert_eq!(codes(&answers), [code], "{target} {fields}: the answer alone, then the end");
    }
    assert_eq!(calls(&gate, "/open").await, 0);
    // Who may go on is told so.
    let mut raw = Raw::to(&gate).await;
    raw.send("POST /app/open HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await;
    assert_eq!(raw.answer().await.unwrap().code, 100);
    raw.send("hello").await;
    assert_eq!(raw.answer().await.unwrap().json()["body"], "hello");
}

#[tokio::test]
async fn an_unread_body_is_never_the_next_request() {
    let gate = setup().start();
    let first = format!("POST /app/closed/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", SMUGGLED.len());
    let answers = tell(&gate, format!("{first}{SMUGGLED}GET /app/last HTTP/1.0\r\n\r\n")).await;
    assert_eq!(answers[0].code, 401);
    assert!(answers.len() <= 2, "{answers:?}");
    assert_eq!(calls(&gate, "/smuggled").await, 0);
}

#[tokio::test]
async fn garbage_instead_of_http2_or_tls_ends_that_connection_alone() {
    let gate = setup().start();
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        &[0; 4096],
    ] {
        let mut stream = gate.connect(&[b"h2"]).await;
        let _ = stream.write_all(bytes).await;
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the gateway closes");
        let mut plain = tokio::net::TcpStream::connect(gate.address).await.unwrap();
        plain.write_all(bytes).await.unwrap();
        let _ = tokio::time::timeout(PATIENCE, plain.read_to_end(&mut rest)).await.expect("the gateway closes");
    }
    let answers = tell(&gate, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(codes(&answers).iter().all(|code| *code == 400), "HTTP/2 without having agreed on it: {answers:?}");
    for http in BOTH {
        assert_eq!(gate.get("/app/open").over(http).await.code(), 200);
    }
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_not_waited_for() {
    let gate = setup().config("timeouts", "handshake = \"200ms\"").start();
    let mut silent = tokio::net::TcpStream::connect(gate.address).await.unwrap();
    let mut rest = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(20), silent.read_to_end(&mut rest)).await;
    assert!(end.is_ok() && rest.is_empty(), "{end:?}");
}
