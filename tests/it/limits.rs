//! How often: budgets per user, address and token, over HTTP/1.1 and HTTP/2. The windows are long enough that nothing
//! comes back while a test runs.

use crate::harness::{ADMIN, Answer, Ask, BOTH, Gate, Http, Setup, repository};

fn setup(more: &str) -> Setup {
    Setup::level("minimal").config("gateway", "trusted_proxies = [\"127.0.0.1\"]").app(
        "/notes",
        "answers",
        &format!("methods = [\"unauthenticated\", \"password\", \"token\"]\ndefault = \"anyone\"\n{more}"),
    )
}

/// What so many requests are answered with, over HTTP/1.1 and HTTP/2 in turn.
async fn codes<'g>(count: usize, ask: impl Fn(usize) -> Ask<'g>) -> Vec<u16> {
    let mut codes = Vec::new();
    for number in 0..count {
        codes.push(ask(number).over(BOTH[number % 2]).await.code());
    }
    codes
}

/// What stands in the audit; a gate that has stopped has written it all.
fn refusals(gate: &mut Gate) -> Vec<serde_json::Value> {
    gate.stop();
    let lines = gate.cli(&["audit", "export"]);
    let records = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    records.filter(|record| record["reason"] == "rate-limited").collect()
}

fn retry_after(answer: &Answer) -> u64 {
    answer.header("retry-after").and_then(|seconds| seconds.parse().ok()).expect("whole seconds")
}

#[tokio::test]
async fn one_request_too_many_is_429_and_says_when_to_come_again() {
    let gate = setup("limit = \"3/h per user\"").start();
    assert_eq!(codes(3, |_| gate.get("/notes/").admin()).await, [200; 3], "whichever way they come");
    for http in BOTH {
        let answer = gate.get("/notes/").admin().over(http).await;
        assert_eq!((answer.code(), answer.reason()), (429, "rate-limited"), "{http:?}");
        // Three an hour: the next one comes back after twenty minutes at the latest.
        assert!((1000..=1200).contains(&retry_after(&answer)), "{}", retry_after(&answer));
    }
    gate.installation.user("ann", "correct horse", &[]);
    let ann = gate.get("/notes/").basic("ann", "correct horse").over(Http::One).await;
    assert_eq!(ann.code(), 200, "everybody has a budget of their own");
    gate.await_log("access.log", |line| line["status"] == 429 && line["reason"] == "rate-limited");
}

#[tokio::test]
async fn a_budget_is_shared_by_all_data_threads() {
    let gate = setup("limit = \"5/d per user\"").config("gateway", "threads = 2").start();
    // Connections spread over the threads by themselves; whichever takes one, there are five in all.
    let answers = codes(24, |_| gate.get("/notes/").admin()).await;
    assert_eq!(answers.iter().filter(|code| **code == 200).count(), 5, "{answers:?}");
}

#[tokio::test]
async fn who_has_not_signed_in_is_counted_by_address() {
    let gate = setup("limit = \"2/h per user\"").start();
    let ask = async |address: &str| gate.get("/notes/").header("x-forwarded-for", address).over(Http::One).await.code();
    for (first, same, other) in
        [("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"), ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:db8:1:3::1")]
    {
        assert_eq!([ask(first).await, ask(same).await, ask(first).await, ask(same).await], [200, 200, 429, 429]);
        assert_eq!(ask(other).await, 200, "{other} is somebody else");
    }
}

#[tokio::test]
async fn a_limit_per_address_counts_before_passwords_are_checked() {
    let gate = setup("limit = \"4/d per address\"").start();
    let guess = |number| gate.get("/notes/").basic(ADMIN.0, &format!("guess {number}"));
    assert_eq!(codes(6, guess).await, [401, 401, 401, 401, 429, 429]);
    let right = gate.get("/notes/").admin().over(Http::One).await;
    assert_eq!(right.code(), 429, "whoever is right is not told so either");
    let elsewhere = gate.get("/notes/").admin().header("x-forwarded-for", "192.0.2.1").over(Http::Two).await;
    assert_eq!(elsewhere.code(), 200);
}

#[tokio::test]
async fn every_token_has_a_budget_of_its_own() {
    let gate = setup("limit = \"2/h per token\"").start();
    let (first, second) = (gate.token(&["--user", ADMIN.0]), gate.token(&["--user", ADMIN.0]));
    assert_eq!(codes(3, |_| gate.get("/notes/").bearer(&first)).await, [200, 200, 429]);
    assert_eq!(codes(3, |_| gate.get("/notes/").bearer(&second)).await, [200, 200, 429]);
    assert_eq!(codes(3, |_| gate.get("/notes/").admin()).await, [200, 200, 429], "by name without one");
}

#[tokio::test]
async fn the_rule_that_decides_counts_and_no_other() {
    let mut gate = setup(
        "[[allow]]\npath = \"/search/**\"\nwho = \"anyone\"\nlimit = [\"2/h per user\", \"9/d per address\"]\n\
         [[allow]]\npath = \"/search/cheap\"\nwho = \"anyone\"\n\
         [[deny]]\npath = \"/search/closed\"",
    )
    .start();
    let mut seen = Vec::new();
    for path in ["/notes/search/closed", "/notes/search/cheap", "/notes/search/a", "/notes/search/b", "/notes/search/c"]
    {
        seen.push(gate.get(path).over(Http::Two).await.code());
    }
    assert_eq!(seen, [403, 200, 200, 200, 429], "what another rule decided has cost nothing");
    assert_eq!(gate.get("/notes/").over(Http::One).await.code(), 200, "nor is the rest limited");
    let record = &refusals(&mut gate)[0];
    assert_eq!(record["rule"], "policies/notes.toml:7", "{record}");
}

#[tokio::test]
async fn budgets_survive_a_reload_of_something_else() {
    let limited = |limit: &str, more: &str| {
        format!(
            "[app]\nname = \"/notes\"\ndirectory = \"{}\"\nmodule = \"answers\"\nmethods = \"unauthenticated\"\n\
             default = \"anyone\"\n{more}\n[[allow]]\npath = \"/x\"\nwho = \"anyone\"\nlimit = \"{limit}\"\n",
            repository().join("tests/apps").display()
        )
    };
    let installation = Setup::level("minimal").install();
    installation.write_policy("notes", &limited("1/d per user", ""));
    let gate = installation.start();
    assert_eq!(codes(2, |_| gate.get("/notes/x")).await, [200, 429]);
    gate.write_policy("notes", &limited("1/d per user", "title = \"Notes\"\n\n# and a line more"));
    gate.cli(&["reload"]);
    assert_eq!(gate.get("/notes/x").over(Http::One).await.code(), 429, "the title has nothing to do with it");
    gate.write_policy("notes", &limited("2/d per user", ""));
    gate.cli(&["reload"]);
    assert_eq!(codes(3, |_| gate.get("/notes/x")).await, [200, 200, 429], "another limit counts anew");
    gate.write_policy("notes", &limited("1/d per user", ""));
    gate.cli(&["reload"]);
    assert_eq!(codes(2, |_| gate.get("/notes/x")).await, [200, 429], "what was gone is forgotten");
}

#[tokio::test]
async fn a_flood_of_refusals_is_one_audit_record_and_a_line_each() {
    let mut gate = setup("limit = \"1/d per user\"").start();
    let answers = codes(40, |_| gate.get("/notes/").admin()).await;
    assert_eq!(answers.iter().filter(|code| **code == 429).count(), 39);
    let lines = gate.await_lines("access.log", 39, |line| line["reason"] == "rate-limited");
    assert_eq!(lines.len(), 39);
    let records = refusals(&mut gate);
    assert_eq!(records.len(), 1, "{records:#?}");
    let record = &records[0];
    assert_eq!((&record["actor"], &record["application"]), (&ADMIN.0.into(), &"/notes".into()), "{record}");
}

#[tokio::test]
async fn a_script_of_an_allowed_origin_can_read_that_it_asked_too_often_and_preflights_cost_nothing() {
    let gate = setup("limit = \"2/h per address\"\n[app.cors]\norigins = \"https://app.example.org\"").start();
    let preflight = |_| {
        gate.ask("OPTIONS", "/notes/")
            .header("origin", "https://app.example.org")
            .header("access-control-request-method", "POST")
    };
    assert_eq!(codes(5, preflight).await, [204; 5]);
    let ask = |_| gate.get("/notes/").header("origin", "https://app.example.org");
    assert_eq!(codes(2, ask).await, [200; 2]);
    let answer = gate.get("/notes/").header("origin", "https://app.example.org").over(Http::Two).await;
    assert_eq!(answer.code(), 429);
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example.org"));
}
