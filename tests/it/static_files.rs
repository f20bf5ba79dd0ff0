//! Files that the gate serves: the right ones, to whom the rules allow, and never one that lies elsewhere.

use std::{os::unix::fs::symlink, path::Path};

use crate::{
    harness::{ADMIN, Answer, BOTH, Gate, Http, Setup, text},
    raw::Raw,
};

/// Every file of a small site, and what lies around it.
fn site() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let write = |path: &str, content: &[u8]| {
        let path = home.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    };
    std::fs::copy(crate::harness::repository().join("tests/apps/oracle.py"), home.path().join("oracle.py")).unwrap();
    write("secret.txt", b"outside");
    write("static/app.css", b"body { color: red }");
    write("static/app.js", b"1");
    write("static/app.js.gz", b"gzipped");
    write("static/app.js.br", b"brotlied");
    write("static/data.bin", b"0123456789");
    write("static/index.html", b"<p>");
    write("static/with space/caf\u{e9}.txt", b"named");
    write("static/100%.txt", b"percent");
    write("static/.hidden", b"hidden");
    write("static/.git/config", b"hidden");
    write("static/private/keys.txt", b"private");
    write("static/leaky.js", b"leaky");
    link("../secret.txt", home.path(), "static/out.txt");
    link("/etc/passwd", home.path(), "static/passwd");
    link("..", home.path(), "static/up");
    link("app.css", home.path(), "static/inside.css");
    link(".hidden", home.path(), "static/shown");
    link("private", home.path(), "static/folder");
    link("../secret.txt", home.path(), "static/leaky.js.gz");
    link("nothing", home.path(), "static/dangling");
    link("loop", home.path(), "static/loop");
    home
}

fn link(to: &str, home: &Path, at: &str) {
    symlink(to, home.join(at)).unwrap();
}

/// `/files` serves to all, `/secured` to those who may, `/app` lets the application do it.
fn gate(home: &Path) -> Gate {
    let rules =
        "[[allow]]\npath = \"/static/private/**\"\nwho = \"role:keeper\"\n[[deny]]\npath = \"/static/data.bin\"\n";
    let policy = |serve: &str, default: &str, rules: &str| {
        let methods = "methods = [\"unauthenticated\", \"password\"]\nworkers = 1";
        format!("serve_files = \"{serve}\"\n{methods}\ndefault = \"{default}\"\n{rules}")
    };
    let gate = Setup::level("minimal")
        .app_in("/files", home, "oracle", &policy("always", "anyone", ""))
        .app_in("/secured", home, "oracle", &policy("secured", "signed-in", rules))
        .app_in("/ruled", home, "oracle", &policy("always", "anyone", rules))
        .app_in("/app", home, "oracle", &policy("no", "anyone", ""))
        .start();
    gate.user("keeper", "a keeper's password", &["keeper"]);
    gate
}

#[tokio::test]
async fn files_come_with_their_type_and_what_caches_need() {
    let (home, date) = (site(), "Thu, 01 Jan 2099 00:00:00 GMT");
    let gate = gate(home.path());
    for http in BOTH {
        for (file, kind, content) in [
            ("app.css", "text/css", "body { color: red }"),
            ("app.js", "text/javascript", "1"),
            ("index.html", "text/html", "<p>"),
            ("data.bin", "application/octet-stream", "0123456789"),
            ("with%20space/caf%C3%A9.txt", "text/plain", "named"),
            ("100%25.txt", "text/plain", "percent"),
            ("inside.css", "text/css", "body { color: red }"),
            ("folder/keys.txt", "text/plain", "private"),
        ] {
            let path = format!("/files/static/{file}");
            let answer = gate.get(&path).over(http).await;
            assert_eq!((answer.code(), answer.text().as_str()), (200, content), "{file}");
            let sent = answer.header("content-type").unwrap();
            assert!(sent.starts_with(kind), "{file}: {sent}");
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
            assert_eq!(answer.header("cache-control"), Some("private, no-cache"));
            assert!(answer.header("last-modified").is_some(), "{file}");
            let fresh = gate.get(&path).header("if-modified-since", date).over(http).await;
            assert_eq!((fresh.code(), fresh.body.len()), (304, 0), "{file}");
            let head = gate.ask("HEAD", &path).over(http).await;
            assert_eq!((head.code(), head.body.len()), (200, 0));
            assert_eq!(head.header("content-length"), Some(content.len().to_string().as_str()), "{file}");
        }
    }
}

#[tokio::test]
async fn an_entity_tag_saves_sending_it_again() {
    let home = site();
    let gate = gate(home.path());
    for http in BOTH {
        let answer = gate.get("/files/static/app.css").over(http).await;
        let tag = answer.header("etag").expect("an ETag").to_owned();
        let again = gate.get("/files/static/app.css").header("if-none-match", &tag).over(http).await;
        assert_eq!((again.code(), again.body.len()), (304, 0));
        let other = gate.get("/files/static/app.css").header("if-none-match", "\"other\"").over(http).await;
        assert_eq!(other.code(), 200);
    }
}

#[tokio::test]
async fn a_range_is_a_part_and_an_impossible_one_is_416() {
    let home = site();
    let gate = gate(home.path());
    let range = async |range: &str, http| gate.get("/files/static/data.bin").header("range", range).over(http).await;
    for http in BOTH {
        for (asked, part, sent) in [
            ("bytes=2-4", "234", "bytes 2-4/10"),
            ("bytes=7-", "789", "bytes 7-9/10"),
            ("bytes=-2", "89", "bytes 8-9/10"),
        ] {
            let answer = range(asked, http).await;
            assert_eq!((answer.code(), answer.text().as_str()), (206, part), "{asked}");
            assert_eq!(answer.header("content-range"), Some(sent));
        }
        for asked in ["bytes=10-", "bytes=99-100", "bytes=18446744073709551615-"] {
            let answer = range(asked, http).await;
            assert_eq!(answer.code(), 416, "{asked}");
            assert_eq!(answer.header("content-range"), Some("bytes */10"), "{asked}");
        }
        // Never more than the file, whatever the arithmetic: many ranges and nonsense are the whole of it, or refused.
        for asked in [
            "bytes=0-0,1-1,2-2",
            "bytes=5-2",
            "lines=1-2",
            "bytes=a-b",
            "bytes=-0",
            "bytes=0-99999999999999999999",
            "bytes",
        ] {
            let answer = range(asked, http).await;
            assert!(matches!(answer.code(), 200 | 206 | 416) && answer.body.len() <= 10, "{asked}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_compressed_sibling_is_sent_to_whom_takes_it() {
    let home = site();
    let gate = gate(home.path());
    for http in BOTH {
        for (accepts, encoding, content) in [
            ("br", Some("br"), "brotlied"),
            ("gzip", Some("gzip"), "gzipped"),
            ("gzip, br", Some("br"), "brotlied"),
            ("identity", None, "1"),
            ("br;q=0, gzip;q=0", None, "1"),
        ] {
            let answer = gate.get("/files/static/app.js").header("accept-encoding", accepts).over(http).await;
            assert_eq!((answer.code(), answer.text().as_str()), (200, content), "{accepts}");
            assert_eq!(answer.header("content-encoding"), encoding, "{accepts}");
            assert!(answer.header("content-type").unwrap().starts_with("text/javascript"));
            let vary = answer.header("vary").unwrap_or_default().to_ascii_lowercase();
            assert!(vary.contains("accept-encoding"), "a cache must know: {vary:?}");
        }
        let leaky = gate.get("/files/static/leaky.js").header("accept-encoding", "gzip").over(http).await;
        assert!(leaky.code() == 404 || leaky.text() == "leaky", "the sibling is a link to the outside: {leaky:?}");
    }
}

#[tokio::test]
async fn nothing_hidden_and_nothing_outside_is_ever_served() {
    let home = site();
    let gate = gate(home.path());
    for http in BOTH {
        for file in [
            "nothing.txt",
            ".hidden",
            ".git/config",
            "shown",
            "out.txt",
            "passwd",
            "up/secret.txt",
            "up/static/app.css/",
            "dangling",
            "loop",
            "private",
            "private/",
            "",
            "folder",
            "app.css/",
            "app.css/x",
            "APP.CSS",
            "app.css%20",
            "app.css;x",
            "data.bin%7C",
        ] {
            let answer = gate.get(&format!("/files/static/{file}")).over(http).await;
            assert_eq!((answer.code(), answer.reason()), (404, "no-file"), "{file}: {}", answer.text());
        }
        for file in [
            "../secret.txt",
            "..%2fsecret.txt",
            "%2e%2e/secret.txt",
            "%2e%2e%2fsecret.txt",
            "private/../../secret.txt",
            "..%5csecret.txt",
            "%252e%252e/secret.txt",
            ".%2e/secret.txt",
            "app.css%00.txt",
            "app.css%00",
            "/etc/passwd",
            "%2fetc/passwd",
            "./app.css",
            "%2e/app.css",
            "%c0%ae%c0%ae/secret.txt",
            "app.css%ff",
        ] {
            let answer = gate.get(&format!("/files/static/{file}")).over(http).await;
            assert_eq!((answer.code(), answer.reason()), (400, "bad-path"), "{file}: {}", answer.text());
        }
    }
    let mut raw = Raw::to(&gate).await;
    raw.send("GET /files/static/..\\secret.txt HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(raw.answer().await.unwrap().code, 400);
}

#[tokio::test]
async fn a_file_is_read_and_nothing_else() {
    let home = site();
    let gate = gate(home.path());
    for http in BOTH {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"] {
            let answer = gate.ask(method, "/files/static/app.css").over(http).await;
            assert_eq!((answer.code(), answer.header("allow")), (405, Some("GET, HEAD")), "{method}");
        }
    }
}

#[tokio::test]
async fn rules_hold_for_files_too() {
    let home = site();
    let gate = gate(home.path());
    for http in BOTH {
        let code = async |path: &str| gate.get(path).over(http).await.code();
        assert_eq!(code("/ruled/static/app.css").await, 200);
        assert_eq!(code("/ruled/static/private/keys.txt").await, 401);
        assert_eq!(code("/ruled/static/private/nothing").await, 401, "what is not there looks the same");
        assert_eq!(code("/ruled/static/data.bin").await, 403, "a deny wins");
        let keeper = gate.get("/ruled/static/private/keys.txt").basic("keeper", "a keeper's password").over(http).await;
        assert_eq!(keeper.text(), "private");
        let other = gate.get("/ruled/static/private/keys.txt").basic(ADMIN.0, ADMIN.1).over(http).await;
        assert_eq!((other.code(), other.reason()), (403, "not-allowed-by-rule"));
    }
}

#[tokio::test]
async fn a_secured_file_that_one_may_not_have_does_not_exist() {
    let home = site();
    let gate = gate(home.path());
    for http in BOTH {
        let anonymous = gate.get("/secured/static/app.css").over(http).await;
        assert_eq!((anonymous.code(), anonymous.challenges()), (401, vec!["Basic"]));
        assert_eq!(gate.get("/secured/static/app.css").admin().over(http).await.text(), "body { color: red }");
        // Refused and missing look alike, down to the last header but the request's number.
        let shape = |answer: Answer| {
            let mut headers = answer.headers.clone();
            headers.remove("portcullis-request");
            headers.remove("date");
            let body: Vec<_> =
                text(&answer.body).lines().filter(|line| !line.starts_with("request:")).map(str::to_owned).collect();
            (answer.code(), headers, body)
        };
        let missing = shape(gate.get("/secured/static/nothing").admin().over(http).await);
        assert_eq!(missing.0, 404);
        for file in ["private/keys.txt", "private/nothing", "data.bin", ".hidden", "out.txt"] {
            let refused = shape(gate.get(&format!("/secured/static/{file}")).admin().over(http).await);
            assert_eq!(refused, missing, "{file}");
        }
        let keeper =
            gate.get("/secured/static/private/keys.txt").basic("keeper", "a keeper's password").over(http).await;
        assert_eq!(keeper.text(), "private");
        assert_eq!(gate.get("/secured/x").over(http).await.code(), 401, "only files are hidden");
    }
    let line = gate.await_log("access.log", |line| line["path"] == "/secured/static/data.bin");
    assert_eq!((&line["status"], &line["reason"]), (&404.into(), &"denied-by-rule".into()), "the log knows");
}

#[tokio::test]
async fn without_serve_files_the_application_is_asked() {
    let home = site();
    let gate = gate(home.path());
    for http in BOTH {
        let answer = gate.get("/app/static/app.css").over(http).await;
        assert_eq!(answer.json()["path"], "/static/app.css");
        for path in ["/files/static", "/files/statics/app.css", "/files/x/static/app.css", "/files/Static/app.css"] {
            assert_eq!(gate.get(path).over(http).await.json()["script"], "/files", "{path} is no file");
        }
    }
    assert_eq!(gate.get("/files/static/new.txt").over(Http::One).await.code(), 404);
    std::fs::write(home.path().join("static/new.txt"), "new").unwrap();
    assert_eq!(gate.get("/files/static/new.txt").over(Http::One).await.text(), "new", "no restart for a new file");
}
