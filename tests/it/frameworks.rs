//! The usual frameworks below a prefix, each with the same six things: a page, a redirect, a form, an upload, a stream,
//! and who asks. Their versions are pinned in `tests/requirements.txt` and `examples/requirements.txt`.

use crate::{
    harness::{ADMIN, Ask, BOTH, Gate, Http, Installation, Setup, repository, venv},
    stream::Stream,
};

const MOUNT: &str = "/team/app";

/// What is uploaded: 1 MiB that no pattern of blocks can hide a mistake in.
fn file() -> Vec<u8> {
    (0..1u32 << 20).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

fn installation(module: &str, more: &str) -> Installation {
    let policy = format!(
        "methods = [\"password\"]\ndefault = \"signed-in\"\nbody_bytes = \"4MiB\"\npython = \"{}\"\n{more}",
        venv().display()
    );
    Setup::level("normal").app_in(MOUNT, &repository().join("tests/apps/frameworks"), module, &policy).install()
}

fn ask<'a>(gate: &'a Gate, method: &str, path: &str) -> Ask<'a> {
    gate.ask(method, &format!("{MOUNT}{path}")).admin()
}

/// All six, over both versions of HTTP.
async fn check(gate: &Gate) {
    for http in BOTH {
        let page = ask(gate, "GET", "/page").over(http).await;
        assert_eq!((page.code(), page.text()), (200, format!("page for {}", ADMIN.0)), "over {http:?}");

        let go = ask(gate, "GET", "/go").over(http).await;
        assert!(matches!(go.code(), 302 | 303), "{go:?}");
        let location = go.header("location").unwrap_or_else(|| panic!("no Location: {go:?}"));
        let path = location.strip_prefix("https://localhost").unwrap_or(location);
        assert_eq!(path, format!("{MOUNT}/page"), "over {http:?}");

        let form = ask(gate, "POST", "/form").header("content-type", "application/x-www-form-urlencoded");
        assert_eq!(form.body("name=Ann+B%26C").over(http).await.text(), "form of Ann B&C", "over {http:?}");

        let (file, boundary) = (file(), "a-boundary");
        let mut body = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.bin\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        )
        .into_bytes();
        body.extend_from_slice(&file);
        body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        let upload = ask(gate, "POST", "/upload")
            .header("content-type", &format!("multipart/form-data; boundary={boundary}"))
            .body(body);
        let expected = format!("a.bin {}", format_args!("{:08x}", crc32fast::hash(&file)));
        for answer in [upload.over(http).await, upload.over_without_length(http).await] {
            assert_eq!((answer.code(), answer.text()), (200, expected.clone()), "over {http:?}");
        }

        let mut stream = Stream::ask(&ask(gate, "GET", "/stream"), http).await;
        assert_eq!((stream.status, stream.piece().await.as_str()), (200, "one\n"), "over {http:?}");
        assert_eq!(ask(gate, "GET", "/tell").over(http).await.text(), "told");
        assert_eq!(stream.piece().await, "two\n");
        assert!(stream.next().await.is_none());
    }
}

#[tokio::test]
async fn flask_is_served_below_a_prefix() {
    check(&installation("flask_app", "").start()).await;
}

#[tokio::test]
async fn django_is_served_below_a_prefix() {
    check(&installation("django_app", "").start()).await;
}

#[tokio::test]
async fn falcon_is_served_below_a_prefix() {
    check(&installation("falcon_app", "").start()).await;
}

#[tokio::test]
async fn bottle_is_served_below_a_prefix() {
    check(&installation("bottle_app", "").start()).await;
}

#[tokio::test]
async fn pyramid_is_served_below_a_prefix() {
    check(&installation("pyramid_app", "callable = \"create_app()\"").start()).await;
}

#[tokio::test]
async fn dash_is_served_below_a_prefix_with_its_scripts_and_callbacks() {
    let policy = format!("environment = {{ DASH_REQUESTS_PATHNAME_PREFIX = \"{MOUNT}/\" }}");
    let gate = installation("dash_app", &policy).start();
    check(&gate).await;
    let index = ask(&gate, "GET", "/").over(Http::Two).await;
    let (page, prefix) = (index.text(), format!("src=\"{MOUNT}"));
    assert_eq!(index.code(), 200, "{page}");
    let scripts: Vec<_> =
        page.match_indices(&prefix).map(|(at, _)| page[at + 5..].split('"').next().unwrap()).collect();
    assert!(scripts.len() > 3, "{page}");
    for script in scripts {
        let script = gate.get(&script.replace("&amp;", "&")).admin().over(Http::Two).await;
        assert!(script.code() == 200 && !script.cut, "{script:?}");
    }
    let call = r#"{"output":"out.children","outputs":{"id":"out","property":"children"},
        "inputs":[{"id":"in","property":"value","value":"a word"}],"changedPropIds":["in.value"]}"#;
    for http in BOTH {
        let called =
            ask(&gate, "POST", "/_dash-update-component").header("content-type", "application/json").body(call);
        let answer = called.over(http).await.json();
        assert_eq!(answer["response"]["out"]["children"], "called with a word", "{answer}");
    }
}

#[tokio::test]
async fn fastapi_is_served_below_a_prefix_with_its_documentation() {
    let gate = installation("fastapi_app", "callable = \"app\"\ninterface = \"asgi\"").start();
    check(&gate).await;
    for http in BOTH {
        let docs = ask(&gate, "GET", "/docs").over(http).await;
        assert!(docs.code() == 200 && docs.text().contains(&format!("'{MOUNT}/openapi.json'")), "{}", docs.text());
        let api = ask(&gate, "GET", "/openapi.json").over(http).await.json();
        assert_eq!(api["servers"][0]["url"], MOUNT, "{api}");
        assert!(api["paths"].get("/page").is_some(), "{api}");
        let user = ask(&gate, "GET", "/user").over(http).await;
        assert_eq!(user.text(), format!("{} administrator 127.0.0.1 https", ADMIN.0));
        let missing = ask(&gate, "GET", "/missing").over(http).await;
        assert_eq!((missing.code(), missing.json()["detail"].as_str()), (404, Some("nothing here")));
        let body = ask(&gate, "POST", "/body").body(vec![b'x'; 300_000]);
        assert_eq!(body.over(http).await.text(), "300000");
        assert_eq!(body.over_without_length(http).await.text(), "300000");
    }
}
