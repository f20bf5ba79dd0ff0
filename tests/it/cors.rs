//! Other origins: preflights that the gate answers, and what answers and refusals say, over HTTP/1.1 and HTTP/2.

use crate::harness::{ADMIN, Answer, Ask, BOTH, Gate, Http, Setup};

const FRIEND: &str = "https://app.example.org";
const STRANGER: &str = "https://app.example.org.evil.example";

fn gate() -> Gate {
    Setup::level("minimal")
        .app(
            "/api",
            "answers",
            "methods = [\"password\", \"token\"]\n\
             [app.cors]\norigins = [\"https://app.example.org\", \"http://localhost:3000\"]\n\
             methods = [\"GET\", \"PUT\"]\nheaders = [\"authorization\", \"content-type\"]\nexpose = [\"etag\", \"x-total\"]\n\
             credentials = true\nmax_age = \"1h\"\n\
             [[allow]]\npath = \"/open/**\"\nwho = \"signed-in\"\n\
             [[deny]]\npath = \"/closed/**\"",
        )
        .app(
            "/public",
            "answers",
            "methods = \"unauthenticated\"\ndefault = \"anyone\"\n[app.cors]\norigins = \"any\"",
        )
        .app(
            "/own",
            "answers",
            "methods = \"unauthenticated\"\ndefault = \"anyone\"\n\
             [app.cors]\norigins = \"https://app.example.org\"\npreflight = \"application\"",
        )
        .app("/none", "answers", "methods = \"password\"\ndefault = \"signed-in\"")
        .start()
}

fn all(answer: &Answer, name: &str) -> String {
    answer.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>().join("; ")
}

/// Every header about origins, with what caches are told of it.
fn said(answer: &Answer) -> Vec<String> {
    let about = |name: &str| name.starts_with("access-control-") || name == "vary";
    let lines = answer.headers.iter().filter(|(name, _)| about(name.as_str()));
    let mut lines: Vec<_> = lines.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    lines.sort();
    lines
}

fn preflight<'g>(gate: &'g Gate, path: &str, origin: &str) -> Ask<'g> {
    gate.ask("OPTIONS", path).header("origin", origin).header("access-control-request-method", "PUT")
}

/// What distinguishes one answer from another, besides the request's id and the time.
fn shape(answer: &Answer) -> (u16, Vec<String>, String) {
    let ever_new = ["date", "portcullis-request"];
    let headers = answer.headers.iter().filter(|(name, _)| !ever_new.contains(&name.as_str()));
    let mut headers: Vec<_> = headers.map(|(name, value)| format!("{name}: {value:?}")).collect();
    headers.sort();
    let id = answer.header("portcullis-request").unwrap_or("-");
    (answer.code(), headers, answer.text().replace(id, ""))
}

#[tokio::test]
async fn a_preflight_is_answered_before_anybody_signs_in_and_never_reaches_the_application() {
    let gate = gate();
    for http in BOTH {
        let answer = preflight(&gate, "/api/open/x", FRIEND).over(http).await;
        assert_eq!((answer.code(), answer.text()), (204, String::new()));
        assert_eq!(
            said(&answer),
            [
                "access-control-allow-credentials: true".to_owned(),
                "access-control-allow-headers: authorization, content-type".to_owned(),
                "access-control-allow-methods: GET, PUT".to_owned(),
                format!("access-control-allow-origin: {FRIEND}"),
                "access-control-max-age: 3600".to_owned(),
                "vary: authorization".to_owned(),
                "vary: origin".to_owned(),
            ]
        );
        let answer = preflight(&gate, "/public/", STRANGER).over(http).await;
        assert_eq!((answer.code(), all(&answer, "access-control-allow-origin")), (204, "*".to_owned()));
        assert_eq!(all(&answer, "access-control-allow-methods"), "GET, HEAD, POST");
        assert_eq!(answer.header("access-control-allow-credentials"), None);
    }
    let line = gate.await_log("access.log", |line| line["application"] == "/api");
    assert_eq!((&line["decision"], &line["status"]), (&"none".into(), &204.into()), "{line}");
}

#[tokio::test]
async fn a_preflight_of_another_origin_is_refused_without_a_word_about_origins() {
    let gate = gate();
    for http in BOTH {
        for origin in
            [STRANGER, "http://app.example.org", "https://app.example.org:443", "HTTPS://app.example.org", "null"]
        {
            let answer = preflight(&gate, "/api/open/x", origin).over(http).await;
            assert_eq!((answer.code(), answer.reason()), (403, "origin-not-allowed"), "{origin}");
            assert_eq!(said(&answer), ["vary: origin"], "{origin}");
        }
        let twice = preflight(&gate, "/api/open/x", FRIEND).header("origin", FRIEND).over(http).await;
        assert_eq!((twice.code(), said(&twice)), (403, vec!["vary: origin".to_owned()]));
    }
    gate.await_log("access.log", |line| line["reason"] == "origin-not-allowed" && line["decision"] == "refused");
}

#[tokio::test]
async fn a_preflight_tells_nobody_which_paths_there_are() {
    let gate = gate();
    for http in BOTH {
        for origin in [FRIEND, STRANGER] {
            let known = shape(&preflight(&gate, "/api/open/x", origin).over(http).await);
            for path in ["/api", "/api/closed/x", "/api/nothing", "/api/static/x", "/api/boom"] {
                assert_eq!(shape(&preflight(&gate, path, origin).over(http).await), known, "{origin} {path}");
                let with_credentials = preflight(&gate, path, origin).basic("nobody", "wrong").over(http).await;
                assert_eq!(shape(&with_credentials), known, "{origin} {path}: credentials change nothing");
            }
        }
    }
}

#[tokio::test]
async fn answers_and_refusals_say_which_origin_may_read_them() {
    let gate = gate();
    let about = |vary: &[&str]| {
        let mut lines = vec![
            "access-control-allow-credentials: true".to_owned(),
            format!("access-control-allow-origin: {FRIEND}"),
            "access-control-expose-headers: etag, x-total".to_owned(),
        ];
        lines.extend(vary.iter().map(|name| format!("vary: {name}")));
        lines
    };
    for http in BOTH {
        let ask = |path: &str, origin: &str| gate.get(path).header("origin", origin);
        let answer = ask("/api/open/", FRIEND).admin().over(http).await;
        assert_eq!((answer.code(), said(&answer)), (200, about(&["authorization", "origin"])));
        let refused = ask("/api/open/", FRIEND).over(http).await;
        assert_eq!((refused.code(), said(&refused)), (401, about(&["origin"])), "a script sees that it has to sign in");
        let wrong = ask("/api/open/", FRIEND).basic(ADMIN.0, "wrong").over(http).await;
        assert_eq!((wrong.code(), said(&wrong)), (401, about(&["origin"])));
        let denied = ask("/api/closed/x", FRIEND).admin().over(http).await;
        assert_eq!((denied.code(), said(&denied)), (403, about(&["origin"])));
        let failed = ask("/api/open/boom", FRIEND).admin().over(http).await;
        assert_eq!((failed.code(), said(&failed)), (500, about(&["origin"])));

        let stranger = ask("/api/open/", STRANGER).admin().over(http).await;
        assert_eq!(stranger.code(), 200, "the browser keeps it from the script, and the rules from everybody else");
        assert_eq!(said(&stranger), ["vary: authorization", "vary: origin"]);
        let none = gate.get("/api/open/").admin().over(http).await;
        assert_eq!(said(&none), ["vary: authorization", "vary: origin"], "caches must tell them apart");
        assert_eq!(said(&ask("/api/closed/x", STRANGER).over(http).await), ["vary: origin"]);
        let public = ask("/public/", STRANGER).over(http).await;
        assert_eq!(said(&public), ["access-control-allow-origin: *", "vary: authorization"]);
    }
}

#[tokio::test]
async fn the_policy_replaces_what_the_application_says_about_origins() {
    let gate = gate();
    let query = "?Access-Control-Allow-Origin=*&Access-Control-Allow-Credentials=true&Access-Control-Max-Age=9";
    for http in BOTH {
        let path = format!("/api/open/{query}");
        let answer = gate.get(&path).admin().header("origin", STRANGER).over(http).await;
        assert_eq!(
            (answer.code(), said(&answer)),
            (200, vec!["vary: authorization".to_owned(), "vary: origin".to_owned()])
        );
        let answer = gate.get(&path).admin().header("origin", FRIEND).over(http).await;
        assert_eq!(all(&answer, "access-control-allow-origin"), FRIEND, "once");
        assert_eq!(answer.header("access-control-max-age"), None);
        let untouched = gate.get(&format!("/none/{query}")).admin().header("origin", STRANGER).over(http).await;
        assert_eq!(all(&untouched, "access-control-allow-origin"), "*", "without [app.cors] it is the application's");
    }
}

#[tokio::test]
async fn options_are_judged_as_ever_where_the_gate_is_not_asked_for_permission() {
    let gate = gate();
    for http in BOTH {
        let ask = preflight(&gate, "/none/", FRIEND);
        assert_eq!(ask.over(http).await.reason(), "credentials-required", "no [app.cors]");
        assert_eq!(ask.admin().over(http).await.text(), "OPTIONS by the application");
        let half = gate.ask("OPTIONS", "/api/open/").header("origin", FRIEND);
        assert_eq!(half.over(http).await.reason(), "credentials-required", "no method is asked for");
        let half = gate.ask("OPTIONS", "/api/open/").header("access-control-request-method", "PUT");
        assert_eq!(half.admin().over(http).await.text(), "OPTIONS by the application", "no origin");
        let own = preflight(&gate, "/own/?Access-Control-Allow-Origin=https://other.example", STRANGER);
        let answer = own.over(http).await;
        assert_eq!(answer.text(), "OPTIONS by the application");
        assert_eq!(all(&answer, "access-control-allow-origin"), "https://other.example", "its own word stands here");
    }
    assert_eq!(gate.get("/own/").header("origin", FRIEND).over(Http::One).await.header("vary"), Some("authorization"));
}
