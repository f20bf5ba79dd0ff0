//! `environ`: what is in it, what is not, and of which type. Behaviours 1 to 8.

use serde_json::{Value, json};

use super::OPEN;
use crate::harness::{ADMIN, BOTH, Gate, Http, Setup, text};

fn gate() -> Gate {
    Setup::level("minimal").app("/app", "environ_app", OPEN).start()
}

/// The answer of `environ_app` inside what came back on a raw connection.
fn raw_environ(answer: &[u8]) -> Value {
    let answer = text(answer);
    let body = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no body: {answer}")).1;
    serde_json::from_str::<Value>(body).unwrap_or_else(|error| panic!("{error}: {answer}"))["values"].clone()
}

#[tokio::test]
async fn environ_is_a_dict_with_every_required_key_of_its_type() {
    let gate = gate();
    for (http, protocol) in [(Http::One, "HTTP/1.1"), (Http::Two, "HTTP/2")] {
        let answer = gate.get("/app/a?b=c").over(http).await.json();
        assert_eq!(answer["exact_dict"], true);
        assert_eq!(answer["version"], json!([1, 0]));
        let (values, types) = (&answer["values"], &answer["types"]);
        for (key, value) in [
            ("REQUEST_METHOD", json!("GET")),
            ("SCRIPT_NAME", json!("/app")),
            ("PATH_INFO", json!("/a")),
            ("QUERY_STRING", json!("b=c")),
            ("REQUEST_URI", json!("/app/a?b=c")),
            ("SERVER_NAME", json!("localhost")),
            ("SERVER_PORT", json!("443")),
            ("SERVER_PROTOCOL", json!(protocol)),
            ("REMOTE_ADDR", json!("127.0.0.1")),
            ("HTTP_HOST", json!("localhost")),
            ("wsgi.url_scheme", json!("https")),
            ("wsgi.input_terminated", json!(true)),
            ("wsgi.run_once", json!(false)),
            ("wsgi.multithread", json!(true)),
            ("wsgi.multiprocess", json!(false)),
            ("portcullis.application", json!("/app")),
            ("portcullis.namespace", json!("app")),
        ] {
            assert_eq!(values[key], value, "{key} over {http:?}");
        }
        for (key, kind) in [("wsgi.version", "tuple"), ("wsgi.file_wrapper", "type"), ("wsgi.multithread", "bool")] {
            assert_eq!(types[key], kind, "{key}");
        }
        for key in ["REMOTE_PORT", "SERVER_SOFTWARE", "portcullis.request_id"] {
            assert!(values[key].as_str().is_some_and(|value| !value.is_empty()), "{key}: {values}");
        }
        assert!(values["REMOTE_PORT"].as_str().unwrap().bytes().all(|byte| byte.is_ascii_digit()));
        for key in ["wsgi.input", "wsgi.errors"] {
            assert!(types.get(key).is_some(), "{key}");
        }
        for absent in ["PATH", "HOME", "DATABASE_URL", "CONTENT_TYPE", "CONTENT_LENGTH", "HTTP_CONTENT_LENGTH"] {
            assert!(types.get(absent).is_none(), "{absent} does not belong into environ: {types}");
        }
        let strings = types.as_object().unwrap().iter().filter(|(key, _)| !key.contains('.'));
        for (key, kind) in strings {
            assert_eq!(kind, "str", "{key}");
        }
    }
}

#[tokio::test]
async fn the_flags_about_threads_and_processes_tell_the_truth() {
    let gate = Setup::level("minimal")
        .app("/single", "environ_app", &format!("{OPEN}threads = 1"))
        .app("/several", "environ_app", &format!("{OPEN}threads = 1\nworkers = 2"))
        .start();
    let single = gate.get("/single/").over(Http::One).await.environ();
    assert_eq!((&single["wsgi.multithread"], &single["wsgi.multiprocess"]), (&json!(false), &json!(false)));
    let several = gate.get("/several/").over(Http::One).await.environ();
    assert_eq!((&several["wsgi.multithread"], &several["wsgi.multiprocess"]), (&json!(false), &json!(true)));
}

#[tokio::test]
async fn path_info_is_decoded_once_into_latin_1_and_the_query_stays_raw() {
    let gate = Setup::level("minimal").app("/app", "environ_app", OPEN).app("/", "environ_app", OPEN).start();
    for (asked, script_name, path_info, query) in [
        ("/app", "/app", "", ""),
        ("/app/", "/app", "/", ""),
        ("/app?", "/app", "", ""),
        ("/app/caf%C3%A9%20x", "/app", "/caf\u{c3}\u{a9} x", ""),
        ("/app/100%25", "/app", "/100%", ""),
        ("/app/a+b;c=d", "/app", "/a+b;c=d", ""),
        ("/app/x?q=%C3%A9&a=b%20c+d?e/f", "/app", "/x", "q=%C3%A9&a=b%20c+d?e/f"),
        ("/application/x", "", "/application/x", ""),
        ("/", "", "/", ""),
    ] {
        for http in BOTH {
            let environ = gate.get(asked).over(http).await.environ();
            let seen = ["SCRIPT_NAME", "PATH_INFO", "QUERY_STRING"].map(|key| environ[key].as_str().unwrap());
            assert_eq!(seen, [script_name, path_info, query], "{asked} over {http:?}");
        }
    }
}

#[tokio::test]
async fn content_type_and_length_are_there_just_when_they_were_sent() {
    let gate = gate();
    for http in BOTH {
        let answer = gate.ask("POST", "/app/").header("content-type", "text/x-a; b=c").body("12345").over(http).await;
        let environ = answer.environ();
        assert_eq!((&environ["CONTENT_TYPE"], &environ["CONTENT_LENGTH"]), (&json!("text/x-a; b=c"), &json!("5")));
        assert!(environ.get("HTTP_CONTENT_TYPE").is_none() && environ.get("HTTP_CONTENT_LENGTH").is_none());
        assert_eq!(answer.json()["body"], "12345");
        let answer = gate.ask("POST", "/app/").header("content-length", "0").over(http).await;
        assert_eq!(answer.environ()["CONTENT_LENGTH"], "0", "over {http:?}");
    }
}

#[tokio::test]
async fn a_body_without_a_length_gets_one() {
    let gate = gate();
    // Inline, in memory, in a file.
    for length in [5, 100_000, 3_000_000] {
        for http in BOTH {
            let answer = gate.ask("POST", "/app/").body(vec![b'x'; length]).over_without_length(http).await;
            let environ = answer.environ();
            assert_eq!(environ["CONTENT_LENGTH"], length.to_string(), "{length} over {http:?}");
            assert!(environ.get("HTTP_TRANSFER_ENCODING").is_none(), "{environ}");
            assert_eq!(answer.json()["body"].as_str().unwrap().len(), length);
        }
    }
}

#[tokio::test]
async fn duplicate_headers_are_joined_and_cookies_in_their_own_way() {
    let gate = gate();
    for http in BOTH {
        let ask = gate.get("/app/").header("x-list", "a").header("x-list", "b, c").header("cookie", "a=1");
        let environ = ask.header("cookie", "b=2").over(http).await.environ();
        assert_eq!(environ["HTTP_X_LIST"], "a,b, c", "over {http:?}");
        assert_eq!(environ["HTTP_COOKIE"], "a=1; b=2", "over {http:?}");
    }
}

#[tokio::test]
async fn what_must_come_once_and_comes_twice_is_refused() {
    let gate = gate();
    for (name, head) in [
        ("Host", "Host: localhost\r\nHost: localhost\r\n"),
        ("Content-Length", "Host: localhost\r\nContent-Length: 0\r\nContent-Length: 1\r\n"),
        ("Content-Type", "Host: localhost\r\nContent-Type: a/b\r\nContent-Type: a/b\r\n"),
        ("no Host", ""),
    ] {
        let request = format!("POST /app/ HTTP/1.1\r\n{head}Connection: close\r\n\r\n");
        assert_eq!(gate.raw_status(request.as_bytes()).await, 400, "{name}");
    }
    for method in ["CONNECT", "TRACE"] {
        let request = format!("{method} /app/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert!(matches!(gate.raw_status(request.as_bytes()).await, 400 | 405), "{method}");
    }
    let answer = gate.raw_status(b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert_eq!(answer, 204, "OPTIONS * is about the server");
}

#[tokio::test]
async fn no_spelling_of_a_header_reaches_the_name_of_another() {
    let gate = gate();
    for http in BOTH {
        let ask = gate
            .get("/app/")
            .header("x_tint", "under")
            .header("x-tint", "dash")
            .header("x.tint", "dot")
            .header("x_only", "under")
            .header("x_after", "under")
            .header("x-after", "dash")
            .header("x-before", "dash")
            .header("x_before", "under")
            .header("proxy", "http://evil.example")
            .header("remote_user", "mallory")
            .header("remote-user", "mallory")
            .header("x-remote-user", "mallory")
            .header("x-forwarded-user", "mallory")
            .header("script-name", "/evil")
            .header("x-name", "Andr\u{e9}");
        let environ = ask.over(http).await.environ();
        for key in ["HTTP_X_TINT", "HTTP_X_BEFORE", "HTTP_X_AFTER"] {
            assert_eq!(environ[key], "dash", "{key} over {http:?}");
        }
        assert_eq!(environ["HTTP_X_NAME"], "Andr\u{c3}\u{a9}", "bytes as latin-1");
        assert_eq!(environ["SCRIPT_NAME"], "/app");
        let all = environ.to_string();
        assert!(!all.contains("mallory") && !all.contains("evil") && !all.contains("under"), "{all}");
    }
    let latin1 = b"GET /app/ HTTP/1.1\r\nHost: localhost\r\nX-Name: Andr\xe9\r\nConnection: close\r\n\r\n";
    assert_eq!(raw_environ(&gate.raw(latin1).await)["HTTP_X_NAME"], "Andr\u{e9}");
}

#[tokio::test]
async fn headers_of_the_connection_stay_with_the_connection() {
    let gate = gate();
    let request = "POST /app/ HTTP/1.1\r\nHost: localhost\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\n\
                   Keep-Alive: 5\r\nTE: trailers\r\nUpgrade: h2c\r\nProxy-Connection: close\r\nTrailer: X-T\r\n\
                   X-Kept: yes\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: trailer\r\n\r\n";
    let answer = gate.raw(request.as_bytes()).await;
    let environ = raw_environ(&answer);
    assert_eq!((&environ["HTTP_X_KEPT"], &environ["CONTENT_LENGTH"]), (&json!("yes"), &json!("3")));
    for absent in [
        "CONNECTION",
        "X_MINE",
        "KEEP_ALIVE",
        "TE",
        "UPGRADE",
        "PROXY_CONNECTION",
        "TRAILER",
        "TRANSFER_ENCODING",
        "X_T",
    ] {
        assert!(environ.get(format!("HTTP_{absent}")).is_none(), "{absent}: {environ}");
    }
}

#[tokio::test]
async fn identity_is_complete_when_there_is_one_and_absent_when_not() {
    let gate = Setup::level("minimal")
        .app("/app", "environ_app", OPEN)
        .app("/headers", "environ_app", &format!("{OPEN}identity_headers = true\napp_roles = [\"reader\"]"))
        .app("/passed", "environ_app", &format!("{OPEN}pass_authorization = true"))
        .start();
    for http in BOTH {
        let anonymous = gate.get("/app/").header("remote-user", "mallory").over(http).await.json();
        for absent in ["REMOTE_USER", "AUTH_TYPE", "HTTP_REMOTE_USER", "HTTP_AUTHORIZATION", "portcullis.user"] {
            assert!(anonymous["types"].get(absent).is_none(), "{absent} over {http:?}");
        }

        let known = gate.get("/app/").admin().over(http).await.json();
        let values = &known["values"];
        assert_eq!((&values["REMOTE_USER"], &values["AUTH_TYPE"]), (&json!(ADMIN.0), &json!("Basic")));
        assert!(values.get("HTTP_AUTHORIZATION").is_none() && values.get("HTTP_REMOTE_USER").is_none());
        let user = &known["user"];
        assert_eq!(
            (&user["name"], &user["method"], &user["kind"]),
            (&json!(ADMIN.0), &json!("password"), &json!("user"))
        );
        assert!(user["roles"].as_array().unwrap().contains(&json!("administrator")), "{user}");

        let headers = gate.get("/headers/").admin().header("remote-user", "mallory").over(http).await.json();
        assert_eq!(headers["values"]["HTTP_REMOTE_USER"], ADMIN.0);
        assert_eq!(headers["values"]["HTTP_REMOTE_ROLES"], "administrator,reader");
        let anonymous = gate.get("/headers/").header("remote-user", "mallory").over(http).await.environ();
        assert!(anonymous.get("HTTP_REMOTE_USER").is_none(), "{anonymous}");

        let passed = gate.get("/passed/").admin().over(http).await.environ();
        assert!(passed["HTTP_AUTHORIZATION"].as_str().is_some_and(|value| value.starts_with("Basic ")));
    }
}

#[tokio::test]
async fn over_http_1_0_there_may_be_no_host_but_always_a_server_name() {
    let gate = gate();
    let environ = raw_environ(&gate.raw(b"GET /app/ HTTP/1.0\r\n\r\n").await);
    assert_eq!(environ["SERVER_PROTOCOL"], "HTTP/1.0");
    assert!(environ.get("HTTP_HOST").is_none(), "{environ}");
    // PEP 3333: "can never be empty strings".
    for key in ["SERVER_NAME", "SERVER_PORT"] {
        assert!(environ[key].as_str().is_some_and(|value| !value.is_empty()), "{key}: {environ}");
    }
}

#[tokio::test]
async fn the_host_and_its_port_are_those_of_the_request() {
    let gate = gate();
    let request = b"GET /app/ HTTP/1.1\r\nHost: Shop.Example:8443\r\nConnection: close\r\n\r\n";
    let environ = raw_environ(&gate.raw(request).await);
    assert_eq!((&environ["SERVER_NAME"], &environ["SERVER_PORT"]), (&json!("shop.example"), &json!("8443")));
    assert_eq!(environ["HTTP_HOST"].as_str().unwrap().to_ascii_lowercase(), "shop.example:8443");
    let absolute = b"GET https://localhost/app/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(raw_environ(&gate.raw(absolute).await)["HTTP_HOST"], "localhost");
    let torn = b"GET https://localhost/app/ HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n";
    assert_eq!(gate.raw_status(torn).await, 400);
}
