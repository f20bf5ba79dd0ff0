//! A policy is edited again and again while clients ask without a pause: every answer is explained by one version of it.
//!
//! Version N gives everybody the application role `vN`, lets in whoever has it, and has its rule in a line that tells N.
//! So a mixture of two versions lets nobody in, and the answer and the access log have to name the same one.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use base64::Engine;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, combinators::BoxBody};

use crate::harness::{ADMIN, Gate, Http, PATIENCE, Setup, effort, repository};

const CLIENTS: usize = 32;

/// Where the rule of version 0 stands.
const FIRST_LINE: u64 = 10;

fn policy(version: u64) -> String {
    let directory = repository().join("tests/apps");
    let head = format!(
        "[app]\nname = \"/app\"\ndirectory = \"{}\"\nmodule = \"environ_app\"\nmethods = [\"password\"]\n\
         identity_headers = true\napp_roles = [\"v{version}\"]\n",
        directory.display()
    );
    let gap = "\n".repeat(usize::try_from(FIRST_LINE + version).expect("a line") - 1 - head.lines().count());
    let rule = format!("[[allow]]\npath = \"/**\"\nwho = \"role:v{version}\"\n");
    format!("{head}{gap}{rule}[[deny]]\npath = \"/**\"\nunless_who = \"role:v{version}\"\n")
}

/// The versions that may explain an answer.
#[derive(Default)]
struct Versions {
    /// Written, or about to be.
    begun: AtomicU64,
    /// In force for certain.
    done: AtomicU64,
    over: std::sync::atomic::AtomicBool,
}

/// What one answer said: the id of the request and the version.
type Seen = Vec<(String, u64)>;

/// Asks without a pause until it is over.
async fn hammer(gate: &Gate, http: Http, versions: Arc<Versions>) -> tokio::task::JoinHandle<Seen> {
    let credentials = base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", ADMIN.0, ADMIN.1));
    let request = move || {
        let uri = if http == Http::One { "/app/x" } else { "https://localhost/app/x" };
        let mut request = http::Request::get(uri).header("authorization", format!("Basic {credentials}"));
        if http == Http::One {
            request = request.header("host", "localhost");
        }
        request.body(BoxBody::new(Empty::<Bytes>::new().map_err(|never| match never {}))).unwrap()
    };
    let (mut one, mut two) = (None, None);
    match http {
        Http::One => one = Some(gate.http1().await),
        Http::Two => two = Some(gate.http2().await),
    }
    tokio::spawn(async move {
        let mut seen = Seen::new();
        while !versions.over.load(Ordering::Acquire) {
            let oldest = versions.done.load(Ordering::Acquire);
            let answer = match (&mut one, &mut two) {
                (Some(one), _) => one.send_request(request()).await,
                (_, Some(two)) => two.send_request(request()).await,
                _ => unreachable!("one of them is connected"),
            };
            let answer = answer.expect("no request fails");
            let status = answer.status();
            let body = answer.into_body().collect().await.expect("a whole answer").to_bytes();
            let newest = versions.begun.load(Ordering::Acquire);
            assert_eq!(status, 200, "a mixture, or nothing, was in force: {}", String::from_utf8_lossy(&body));
            let values = &serde_json::from_slice::<serde_json::Value>(&body).expect("JSON")["values"];
            let roles = values["HTTP_REMOTE_ROLES"].as_str().expect("roles");
            let numbers: Vec<u64> = roles
                .split(',')
                .filter_map(|role| role.strip_prefix('v').and_then(|number| number.parse().ok()))
                .collect();
            assert_eq!(numbers.len(), 1, "{roles}");
            assert!((oldest..=newest).contains(&numbers[0]), "{} is none of {oldest} to {newest}", numbers[0]);
            seen.push((values["portcullis.request_id"].as_str().expect("an id").to_owned(), numbers[0]));
        }
        seen
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_policy_is_edited_every_answer_is_explained_by_one_version() {
    let edits = effort("PORTCULLIS_EDITS", 40);
    let gate = Setup::level("normal").watching().install();
    gate.write_policy("app", &policy(0));
    let gate = gate.start();
    gate.await_workers("/app", 1);
    let versions = Arc::new(Versions::default());
    let mut clients = Vec::new();
    for client in 0..CLIENTS {
        let http = if client % 2 == 0 { Http::One } else { Http::Two };
        clients.push(hammer(&gate, http, Arc::clone(&versions)).await);
    }
    for version in 1..=edits {
        versions.begun.store(version, Ordering::Release);
        gate.write_policy("app", &policy(version));
        if version % 10 == 0 {
            // By itself.
            let deadline = Instant::now() + PATIENCE;
            let role = format!("v{version}");
            while !gate.get("/app/x").admin().over(Http::One).await.text().contains(&role) {
                assert!(Instant::now() < deadline, "version {version} never comes into force");
            }
        } else {
            tokio::task::block_in_place(|| gate.cli(&["reload"]));
        }
        versions.done.store(version, Ordering::Release);
    }
    versions.over.store(true, Ordering::Release);
    let mut seen = HashMap::new();
    for client in clients {
        seen.extend(client.await.expect("no answer was unexplained"));
    }
    let different: std::collections::HashSet<_> = seen.values().collect();
    println!("{edits} edits, {} answers, {} versions seen", seen.len(), different.len());
    assert!(different.len() as u64 > edits / 2, "the clients have hardly seen any of {edits} versions: {different:?}");
    let mut checked = 0;
    let last = seen.keys().next().expect("answers").clone();
    gate.await_log("access.log", |line| line["request"] == last.as_str());
    for line in gate.log("access.log") {
        let Some(version) = line["request"].as_str().and_then(|id| seen.get(id)) else { continue };
        assert_eq!(line["rule"], format!("policies/app.toml:{}", FIRST_LINE + version), "{line}");
        checked += 1;
    }
    assert!(checked > seen.len() / 2, "{checked} of {} lines", seen.len());
}
