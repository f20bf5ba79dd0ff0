//! The same with `wsgiref.validate` around the application: it raises where either side breaks PEP 3333.

use super::OPEN;
use crate::harness::{Answer, BOTH, Http, Setup};

#[tokio::test]
async fn wsgiref_validate_has_nothing_to_complain_about() {
    let gate = Setup::level("minimal").app("/app", "validated", OPEN).app("/", "validated", OPEN).start();
    let check = |answer: &Answer, text: &str| {
        assert!(answer.code() == 200 && !answer.cut && answer.text() == text, "{answer:?}, not {text:?}");
    };
    let lines = "first\nsecond\nthird";
    for http in BOTH {
        for mount in ["/app", ""] {
            let ask = |method: &str, path: &str| gate.ask(method, &format!("{mount}{path}"));
            check(&ask("GET", "/").over(http).await, "read 0");
            check(&ask("HEAD", "/").over(http).await, "");
            check(
                &ask("GET", "/?a=b&c=%20").header("x-a", "b").header("cookie", "a=b").admin().over(http).await,
                "read 0",
            );
            let post = ask("POST", "/").header("content-type", "text/plain").body(lines);
            check(&post.over(http).await, "read 18");
            check(&post.over_without_length(http).await, "read 18");
            for method in ["PUT", "DELETE", "OPTIONS"] {
                check(&ask(method, "/").body("x").over(http).await, "read 1");
            }
            let stream = ask("POST", "/stream").body(lines);
            check(&stream.over(http).await, lines);
            check(&stream.over_without_length(http).await, lines);
            let long = "0123456789abcde\n".repeat(20_000);
            check(&ask("POST", "/stream").body(long.clone()).over_without_length(http).await, &long);
            check(&ask("POST", "/stream").body(long.clone()).over(http).await, &long);
            check(&ask("GET", "/early").over(http).await, "one two");
            check(&ask("HEAD", "/early").over(http).await, "");
            check(&ask("GET", "/write").over(http).await, "written returned");
            check(&ask("GET", "/multi_chunks").over(http).await, "abcdef");
            check(&ask("GET", "/wrapped").over(http).await, "wrapped file");
            check(&ask("GET", "/closing").over(http).await, "one two");
            check(&ask("GET", "/errors").over(http).await, "logged");
            check(&ask("POST", "/reading").body(lines).over(http).await, "first\n|sec|ond\n|third");
            check(&ask("POST", "/reading").body(lines).over_without_length(http).await, "first\n|sec|ond\n|third");
            for (path, code, text) in
                [("/replaced", 503, "replaced"), ("/nothing", 204, ""), ("/not_modified", 304, "")]
            {
                let answer = ask("GET", path).over(http).await;
                assert_eq!((answer.code(), answer.text().as_str(), answer.cut), (code, text, false), "{path} {http:?}");
            }
        }
    }
    check(&gate.get("/early").over(Http::One).await, "one two");
    let not_written = |line: &serde_json::Value| !matches!(line["message"].as_str(), Some("validated" | "and more"));
    for log in ["app/wsgi.log", "=root/wsgi.log"] {
        let said: Vec<_> =
            gate.log(log).into_iter().filter(|line| line["source"] != "gate").filter(not_written).collect();
        assert_eq!(said, Vec::<serde_json::Value>::new(), "{log}");
    }
}
