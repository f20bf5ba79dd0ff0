//! ASGI applications behind the gate: wrapped by a2wsgi, and as strict about what goes wrong as WSGI ones.

use crate::{
    harness::{BOTH, Gate, Http, Setup, repository, venv},
    stream::Stream,
};

const OPEN: &str = "methods = [\"unauthenticated\"]\ndefault = \"anyone\"\n";

fn with_a2wsgi(more: &str) -> String {
    format!("{OPEN}python = \"{}\"\n{more}\n", venv().display())
}

fn odd(callable: &str) -> Gate {
    let policy = with_a2wsgi(&format!("interface = \"asgi\"\ncallable = \"{callable}\""));
    Setup::level("minimal").app("/app", "asgi_odd", &policy).start()
}

fn fastapi(more: &str) -> Gate {
    let policy = with_a2wsgi(&format!("interface = \"asgi\"\ncallable = \"app\"\n{more}"));
    Setup::level("minimal").app_in("/app", &repository().join("tests/apps/frameworks"), "fastapi_app", &policy).start()
}

#[tokio::test]
async fn functions_instances_and_factories_are_called_as_asgi() {
    for callable in ["plain", "instance", "create_app()"] {
        let gate = odd(callable);
        for http in BOTH {
            let answer = gate.get("/app/").over(http).await;
            assert_eq!((answer.code(), answer.text().as_str()), (200, "plain"), "{callable} over {http:?}");
        }
    }
}

#[tokio::test]
async fn what_an_asgi_application_raises_is_500_or_a_visible_truncation_and_in_its_log() {
    let gate = odd("plain");
    for http in BOTH {
        for (path, said) in [("raise", "RuntimeError: before"), ("nothing", "returned before its answer was complete")]
        {
            let answer = gate.get(&format!("/app/{path}")).over(http).await;
            assert_eq!((answer.code(), answer.reason()), (500, "application-error"), "{path} over {http:?}");
            let request = answer.header("portcullis-request").unwrap();
            let line = gate.await_log("app/wsgi.log", |line| line["request"] == request);
            assert!(line["message"].as_str().unwrap().contains(said), "{line}");
        }
        for path in ["broken", "unfinished"] {
            let answer = gate.get(&format!("/app/{path}")).over(http).await;
            assert!(answer.cut || answer.code() == 500, "{path} over {http:?}: {answer:?}");
        }
    }
    let gate = fastapi("");
    let answer = gate.get("/app/raise").over(Http::One).await;
    assert_eq!((answer.code(), answer.text().as_str()), (500, "Internal Server Error"), "the framework's own page");
    gate.await_log("app/wsgi.log", |line| {
        line["message"].as_str().is_some_and(|text| text.contains("RuntimeError: before the answer"))
    });
    assert_eq!(gate.get("/app/background").over(Http::Two).await.text(), "answered");
    gate.await_log("app/wsgi.log", |line| line["message"] == "after the answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_whose_client_leaves_is_cancelled_in_the_application() {
    let gate = fastapi("");
    for (count, http) in BOTH.into_iter().enumerate() {
        let mut stream = Stream::open(&gate, http, "/app/endless").await;
        assert!(stream.piece().await.starts_with("data: x"));
        drop(stream);
        let left = |line: &serde_json::Value| line["message"] == "the stream was left";
        gate.await_log("app/wsgi.log", left);
        let deadline = std::time::Instant::now() + crate::harness::PATIENCE;
        while gate.log("app/wsgi.log").into_iter().filter(left).count() <= count {
            assert!(std::time::Instant::now() < deadline, "the stream over {http:?} goes on");
            std::thread::yield_now();
        }
    }
}

#[tokio::test]
async fn a_time_out_reaches_an_asgi_application_and_its_worker_stays() {
    let gate = fastapi("request_timeout = \"500ms\"\nthreads = 2");
    let workers = gate.await_workers("/app", 1);
    let answer = gate.get("/app/slow").over(Http::One).await;
    assert_eq!((answer.code(), answer.reason()), (504, "application-timeout"));
    gate.await_log("app/wsgi.log", |line| line["message"] == "the wait was cancelled");
    gate.await_log("app/wsgi.log", |line| line["message"].as_str().is_some_and(|text| text.contains("RequestTimeout")));
    assert_eq!(
        gate.get("/app/user").over(Http::One).await.code(),
        500,
        "the anonymous principal has no portcullis.user"
    );
    assert_eq!(gate.workers("/app"), workers);
}

#[tokio::test]
async fn workers_that_are_forked_from_one_import_have_a_loop_each() {
    let policy = with_a2wsgi("interface = \"asgi\"\ncallable = \"plain\"\npreload = true\nworkers = 2\nthreads = 1");
    let gate = Setup::level("minimal").app("/app", "asgi_odd", &policy).start();
    gate.await_workers("/app", 2);
    // More at a time than one worker has threads: both are asked.
    let ask = gate.get("/app/");
    for _ in 0..10 {
        let (a, b, c) = tokio::join!(ask.over(Http::One), ask.over(Http::Two), ask.over(Http::One));
        assert_eq!([a.text(), b.text(), c.text()], ["plain"; 3]);
    }
}

#[tokio::test]
async fn the_wrong_interface_is_an_error_that_says_what_to_write() {
    let bare = |more: &str| format!("{OPEN}{more}\n");
    let installation = Setup::level("minimal")
        .app("/taken", "asgi_odd", &bare("callable = \"plain\""))
        .app("/instance", "asgi_odd", &bare("callable = \"instance\""))
        .app("/factory", "asgi_odd", &bare("callable = \"create_app()\""))
        .app("/confused", "asgi_odd", &bare("callable = \"confused\""))
        .app("/wsgi", "asgi_odd", &with_a2wsgi("callable = \"wsgi\"\ninterface = \"asgi\""))
        .app("/alone", "asgi_odd", &bare("callable = \"plain\"\ninterface = \"asgi\""))
        .install();
    for (app, said) in [
        ("/taken", "`plain` of module `asgi_odd` is an ASGI application: write `interface = \"asgi\"` in its policy"),
        ("/instance", "write `interface = \"asgi\"` in its policy"),
        ("/factory", "write `interface = \"asgi\"` in its policy"),
        ("/confused", "write `def` instead of `async def`"),
        ("/wsgi", "leave `interface = \"asgi\"` out"),
        ("/alone", "-m pip install a2wsgi"),
    ] {
        let output = installation.command(&["app", "test", app]);
        let text = crate::harness::text(&[output.stdout, output.stderr].concat());
        assert!(!output.status.success() && text.contains(said), "{app}: {text}");
        assert!(!text.contains("Traceback"), "{app}: {text}");
    }
}
