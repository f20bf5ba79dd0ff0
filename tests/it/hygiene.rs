//! Headers that keep answers where they belong, over HTTP/1.1 and HTTP/2.

use crate::harness::{Answer, BOTH, Gate, Setup, repository};

/// What is added to every answer that says nothing itself.
const ADDED: [(&str, &str); 3] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "SAMEORIGIN"),
    ("referrer-policy", "strict-origin-when-cross-origin"),
];

/// The files it serves are gone with the second.
fn gate() -> (Gate, tempfile::TempDir) {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("static")).unwrap();
    std::fs::write(home.path().join("static/style.css"), "body {}").unwrap();
    std::fs::copy(repository().join("tests/apps/answers.py"), home.path().join("answers.py")).unwrap();
    let open = "methods = [\"unauthenticated\", \"password\"]\ndefault = \"anyone\"";
    let closed = "methods = \"password\"\ndefault = \"signed-in\"\n[app.headers]";
    let odd = "hsts = \"0s\"\nframe = \"deny\"\nnosniff = false\nreferrer = \"no-referrer\"\ncache = \"as-is\"";
    let gate = Setup::level("minimal")
        .app("/notes", "answers", &format!("{open}\n[[allow]]\npath = \"/private\"\nwho = \"signed-in\""))
        .app("/odd", "answers", &format!("{closed}\n{odd}"))
        .app("/plain", "answers", &format!("{closed}\nhsts = false"))
        .app_in("/files", home.path(), "answers", &format!("{open}\nserve_files = \"always\""))
        .start();
    (gate, home)
}

fn all(answer: &Answer, name: &str) -> Vec<String> {
    answer.headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn answers_of_an_application_have_a_safe_set_of_headers_once() {
    let (gate, _home) = gate();
    for http in BOTH {
        for (path, signed_in) in [("/notes/", true), ("/notes/", false), ("/files/static/style.css", true)] {
            let ask = gate.get(path);
            let answer = if signed_in { ask.admin() } else { ask }.over(http).await;
            assert_eq!(answer.code(), 200, "{path}: {}", answer.text());
            for (name, value) in ADDED {
                assert_eq!(all(&answer, name), [value], "{path} {http:?} {name}");
            }
        }
        let answer = gate.get("/odd/").admin().over(http).await;
        assert_eq!(all(&answer, "x-frame-options"), ["DENY"]);
        assert_eq!(all(&answer, "referrer-policy"), ["no-referrer"]);
        assert_eq!((all(&answer, "x-content-type-options"), all(&answer, "vary")), (vec![], vec![]));
    }
}

#[tokio::test]
async fn what_an_application_says_itself_stands() {
    let (gate, _home) = gate();
    let own = "/notes/?X-Frame-Options=ALLOWALL&Referrer-Policy=origin&X-Content-Type-Options=sniff&\
               Strict-Transport-Security=max-age%3D1&Cache-Control=public,%20max-age%3D60";
    for http in BOTH {
        let answer = gate.get(own).admin().host("notes.example.org").over(http).await;
        for (name, value) in [
            ("x-frame-options", "ALLOWALL"),
            ("referrer-policy", "origin"),
            ("x-content-type-options", "sniff"),
            ("strict-transport-security", "max-age=1"),
            ("cache-control", "public, max-age=60"),
        ] {
            assert_eq!(all(&answer, name), [value], "{http:?} {name}");
        }
    }
}

#[tokio::test]
async fn a_protected_answer_is_in_no_shared_cache_unless_the_application_says_so() {
    let (gate, _home) = gate();
    for http in BOTH {
        let cached = async |path: &str, signed_in: bool| {
            let ask = gate.get(path);
            let answer = if signed_in { ask.admin() } else { ask }.over(http).await;
            (all(&answer, "cache-control").join("; "), all(&answer, "vary").join("; "))
        };
        let pair = |cache: &str, vary: &str| (cache.to_owned(), vary.to_owned());
        for path in ["/notes/", "/notes/private", "/notes/?ETag=1&Expires=0", "/plain/"] {
            assert_eq!(cached(path, true).await, pair("private", "authorization"), "{path}");
        }
        assert_eq!(cached("/notes/", false).await, pair("", "authorization"), "the same address for nobody");
        assert_eq!(cached("/notes/?Vary=Accept", true).await, pair("private", "Accept; authorization"));
        assert_eq!(cached("/notes/?Vary=Cookie,Authorization", true).await, pair("private", "Cookie,Authorization"));
        assert_eq!(cached("/notes/?Vary=*", true).await, pair("private", "*"));
        assert_eq!(cached("/notes/?Cache-Control=public", true).await, pair("public", ""), "the application says so");
        assert_eq!(cached("/odd/", true).await, pair("", ""), "its policy says that it knows best");
        for signed_in in [true, false] {
            let (cache, _) = cached("/files/static/style.css", signed_in).await;
            assert_eq!(cache, "private, no-cache");
        }
        assert_eq!(cached("/notes/private", false).await, pair("no-store", ""), "a refusal");
        assert_eq!(cached("/notes/boom", true).await, pair("no-store", ""), "an application that failed");
    }
}

#[tokio::test]
async fn browsers_are_told_to_come_by_https_where_they_should_remember_it() {
    let (gate, _home) = gate();
    for http in BOTH {
        let hsts = async |path: &str, host: &str| {
            let answer = gate.get(path).admin().host(host).over(http).await;
            (answer.code(), all(&answer, "strict-transport-security").join("; "))
        };
        let year = || "max-age=31536000".to_owned();
        assert_eq!(hsts("/notes/", "notes.example.org").await, (200, year()));
        assert_eq!(hsts("/files/static/style.css", "notes.example.org").await, (200, year()));
        assert_eq!(hsts("/files/static/none.css", "notes.example.org").await, (404, year()), "refusals say it too");
        assert_eq!(hsts("/notes/boom", "notes.example.org").await, (500, year()));
        assert_eq!(hsts("/odd/", "notes.example.org").await, (200, "max-age=0".to_owned()));
        assert_eq!(hsts("/plain/", "notes.example.org").await, (200, String::new()));
        for host in ["localhost", "localhost:8443", "notes.localhost", "127.0.0.1", "[::1]:8443"] {
            assert_eq!(hsts("/notes/", host).await, (200, String::new()), "{host}");
        }
    }
}

#[tokio::test]
async fn refusals_keep_their_own_stricter_set() {
    let (gate, _home) = gate();
    for http in BOTH {
        for path in ["/odd/", "/odd/boom"] {
            let ask = gate.get(path);
            let answer = if path.ends_with("boom") { ask.admin() } else { ask }.over(http).await;
            assert!(matches!(answer.code(), 401 | 500), "{}", answer.text());
            assert_eq!(all(&answer, "x-content-type-options"), ["nosniff"]);
            assert_eq!(all(&answer, "referrer-policy"), ["no-referrer"]);
            assert_eq!(all(&answer, "cache-control"), ["no-store"]);
            assert!(answer.header("content-security-policy").unwrap().contains("frame-ancestors 'none'"));
        }
    }
}
