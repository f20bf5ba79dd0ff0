//! The three examples, unmodified, behind their prefixes.

use std::{
    collections::{BTreeSet, VecDeque},
    io::Write,
    process::Command,
    sync::OnceLock,
};

use http_body_util::{BodyExt, Empty, combinators::BoxBody};

use crate::harness::{ADMIN, Answer, BOTH, Gate, Http, Installation, PATIENCE, Setup, repository, text, venv};

const ANN: (&str, &str) = ("ann", "an ordinary passphrase");

/// An installation with these of the examples, their policies as they are in the repository but for two paths.
fn examples(names: &[&str]) -> Gate {
    let installation = Setup::level("normal").install();
    for name in names {
        let policy = std::fs::read_to_string(repository().join(format!("policies/{name}.toml"))).unwrap();
        let policy = policy
            .replace("\"../examples", &format!("\"{}", repository().join("examples").display()))
            .replace("\"../.venv\"", &format!("\"{}\"", venv().display()));
        installation.write_policy(name, &policy);
    }
    let mut config = std::fs::File::options().append(true).open(installation.path("portcullis.toml")).unwrap();
    write!(
        config,
        "\n[namespace.hello]\n[namespace.notes]\n[namespace.wiki]\nenvironment = {{ WIKI_ADMINS = \"{}\" }}\n",
        ADMIN.0
    )
    .unwrap();
    installation.user(ANN.0, ANN.1, &[]);
    if names.contains(&"wiki") {
        set_up_wiki(&installation);
    }
    installation.start()
}

/// What `examples/demo.sh` does: the wiki's tables in its namespace, its static files beside it.
fn set_up_wiki(installation: &Installation) {
    let data = installation.path("data/namespaces/wiki");
    std::fs::create_dir_all(&data).unwrap();
    let manage = |command: &[&str]| {
        let output = Command::new(venv().join("bin/python"))
            .arg(repository().join("examples/wiki/manage.py"))
            .args(command)
            .env("PORTCULLIS_DATA_DIR", &data)
            .env("DATABASE_URL", format!("sqlite:///{}/database.sqlite3", data.display()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
    };
    static COLLECTED: OnceLock<()> = OnceLock::new();
    COLLECTED.get_or_init(|| manage(&["collectstatic", "--noinput", "--verbosity", "0"]));
    manage(&["migrate", "--noinput", "--verbosity", "0"]);
}

/// Somebody with a cookie jar.
struct Browser<'a> {
    gate: &'a Gate,
    http: Http,
    user: (&'a str, &'a str),
    cookies: std::cell::RefCell<Vec<(String, String)>>,
}

impl<'a> Browser<'a> {
    fn new(gate: &'a Gate, http: Http, user: (&'a str, &'a str)) -> Self {
        Self { gate, http, user, cookies: Vec::new().into() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "", Vec::new()).await
    }

    /// Sends a form and follows the redirect that it has to answer with.
    async fn post(&self, path: &str, fields: &[(&str, &str)]) -> (String, Answer) {
        let body: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let kind = "application/x-www-form-urlencoded";
        let answer = self.send("POST", path, kind, body.join("&").into_bytes()).await;
        self.follow(path, &answer).await
    }

    async fn follow(&self, path: &str, answer: &Answer) -> (String, Answer) {
        assert!(answer.status.is_redirection(), "{path}: {} {}", answer.code(), answer.text());
        let place = under_prefix(path, answer.header("location").unwrap()).expect("a redirect to this site");
        let answer = self.get(&place).await;
        assert_eq!(answer.code(), 200, "{place}");
        (place, answer)
    }

    async fn send(&self, method: &str, path: &str, kind: &str, body: Vec<u8>) -> Answer {
        let mut ask = self.gate.ask(method, path).basic(self.user.0, self.user.1).header("accept", "text/html");
        let jar: Vec<_> = self.cookies.borrow().iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !jar.is_empty() {
            ask = ask.header("cookie", &jar.join("; "));
        }
        if !kind.is_empty() {
            ask = ask.header("content-type", kind).header("origin", "https://localhost").body(body);
        }
        let answer = ask.over(self.http).await;
        for cookie in answer.headers.get_all("set-cookie") {
            let cookie = cookie.to_str().unwrap();
            let prefix = format!("Path=/{}", path.split('/').nth(1).unwrap());
            assert!(cookie.split("; ").any(|part| part == prefix), "{path} sets {cookie:?} beyond {prefix}");
            assert!(cookie.contains("Secure") || cookie.contains("Max-Age=0"), "{cookie}");
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            let mut jar = self.cookies.borrow_mut();
            jar.retain(|(kept, _)| kept != name);
            jar.push((name.to_owned(), value.to_owned()));
        }
        answer
    }
}

fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// The values of that attribute in a page.
fn attributes(page: &str, name: &str) -> Vec<String> {
    let begin = format!(" {name}=\"");
    let unescape = |text: &str| text.replace("&quot;", "\"").replace("&#x27;", "'").replace("&amp;", "&");
    page.split(&begin).skip(1).filter_map(|rest| rest.split_once('"')).map(|(value, _)| unescape(value)).collect()
}

/// The value of a hidden field.
fn hidden(page: &str, name: &str) -> String {
    let (_, rest) =
        page.split_once(&format!("name=\"{name}\" value=\"")).unwrap_or_else(|| panic!("no {name}: {page}"));
    rest.split('"').next().unwrap().to_owned()
}

/// Where a link on `page` leads, which must be below the prefix of that page; `None` for one that leaves the site or
/// stays on the page.
fn under_prefix(page: &str, link: &str) -> Option<String> {
    // Django's "view on site" names the host.
    let link = link.strip_prefix("https://localhost").filter(|rest| rest.starts_with('/')).unwrap_or(link);
    if link.starts_with('#') || link.starts_with("data:") || link.starts_with("javascript:") || link.starts_with("http")
    {
        return None;
    }
    let path = page.split('?').next().unwrap();
    let target = match link {
        "" => path.to_owned(),
        query if query.starts_with('?') => format!("{path}{query}"),
        absolute if absolute.starts_with('/') => absolute.to_owned(),
        relative => {
            let mut segments: Vec<_> = path.split('/').collect();
            segments.pop();
            for segment in relative.split('/') {
                match segment {
                    ".." => drop(segments.pop()),
                    "." => {}
                    other => segments.push(other),
                }
            }
            segments.join("/")
        }
    };
    let prefix = format!("/{}/", path.split('/').nth(1).unwrap());
    let inside = target.starts_with(&prefix) || format!("{target}/") == prefix;
    assert!(inside, "{page} links to {link:?}, which is not below {prefix}");
    Some(target.split('#').next().unwrap().to_owned())
}

/// Visits everything that can be reached by links, and returns what was visited.
async fn crawl(browser: &Browser<'_>, start: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::from([start.to_owned()]);
    let mut queue = VecDeque::from([start.to_owned()]);
    while let Some(page) = queue.pop_front() {
        assert!(seen.len() < 400, "there is no end to it: {seen:?}");
        let answer = browser.get(&page).await;
        let mut links = Vec::new();
        if answer.status.is_redirection() {
            links.push(answer.header("location").expect("a location").to_owned());
        } else {
            assert_eq!(answer.code(), 200, "{page}: {}", answer.text());
        }
        if answer.header("content-type").is_some_and(|kind| kind.starts_with("text/html")) {
            let html = answer.text();
            assert!(answer.status.is_redirection() || html.contains("</html>"), "{page} is not whole");
            links.extend(attributes(&html, "href"));
            links.extend(attributes(&html, "src"));
            for action in attributes(&html, "action") {
                under_prefix(&page, &action);
            }
        }
        for link in links.iter().filter_map(|link| under_prefix(&page, link)) {
            // Lists can be sorted and filtered in endless combinations; three of each page are enough.
            let path = link.split('?').next().unwrap_or("");
            let variants = seen.iter().filter(|visited| visited.split('?').next() == Some(path)).count();
            if variants < 3 && seen.insert(link.clone()) {
                queue.push_back(link);
            }
        }
    }
    seen
}

fn assert_visited(seen: &BTreeSet<String>, wanted: &[&str]) {
    for path in wanted {
        assert!(seen.contains(*path), "{path} is not among {seen:#?}");
    }
}

#[tokio::test]
async fn hello_greets_by_name_and_every_link_stays_under_its_prefix() {
    let gate = examples(&["hello"]);
    for (http, user) in [(Http::One, ADMIN), (Http::Two, ANN)] {
        let browser = Browser::new(&gate, http, user);
        assert!(browser.get("/hello/").await.text().contains(&format!("<h1>Hello, {}</h1>", user.0)));
        let seen = crawl(&browser, "/hello/").await;
        assert_visited(&seen, &["/hello/?format=json", "/hello/?format=text", "/hello/static/gate.svg"]);
        assert_eq!(browser.get("/hello/plain").await.text(), "Hello, World!\n");
        assert_eq!(browser.get("/hello/nothing").await.code(), 404);
        assert!(browser.get("/hello").await.text().contains("src=\"/hello/static/gate.svg\""));
    }
    for http in BOTH {
        assert_eq!(gate.get("/hello/").over(http).await.code(), 401);
        assert_eq!(gate.ask("HEAD", "/hello/plain").admin().over(http).await.header("content-length"), Some("14"));
    }
}

#[tokio::test]
async fn notes_are_written_by_form_and_every_link_stays_under_its_prefix() {
    let gate = examples(&["notes"]);
    for (http, user) in [(Http::One, ADMIN), (Http::Two, ANN)] {
        let browser = Browser::new(&gate, http, user);
        let index = browser.get("/notes/").await.text();
        let token = hidden(&index, "token");
        let body = "two\r\nlines, caf\u{e9} & <b>";
        let fields = [("token", token.as_str()), ("title", "First \u{2713}"), ("body", body)];
        let (place, note) = browser.post("/notes/", &fields).await;
        assert!(
            note.text().contains("First \u{2713}") && note.text().contains("caf\u{e9} &amp; &lt;b&gt;"),
            "{note:?}"
        );
        let stale = browser
            .send("POST", "/notes/", "application/x-www-form-urlencoded", b"token=wrong&title=x&body=y".to_vec())
            .await;
        assert_eq!((stale.code(), stale.reason()), (403, ""), "the application's own refusal");

        let (_, edited) = browser.post(&format!("{place}/edit"), &[fields[0], ("title", "Second"), ("body", "")]).await;
        assert!(edited.text().contains("Second"));
        let seen = crawl(&browser, "/notes/").await;
        assert_visited(&seen, &[&place, &format!("{place}/edit"), "/notes/static/notes.css", "/notes/static/note.svg"]);

        let created =
            browser.send("POST", "/notes/api/notes", "application/json", br#"{"title": "api"}"#.to_vec()).await;
        assert_eq!(created.code(), 201, "{}", created.text());
        let api = created.header("location").unwrap().to_owned();
        assert_eq!(created.json()["url"], api.as_str());
        assert!(api.starts_with("/notes/"), "{api}");
        assert_eq!(browser.get("/notes/api/notes").await.json()["notes"].as_array().unwrap().len(), 2);
        browser.post(&format!("{api}/delete"), &[fields[0]]).await;
        assert_eq!(browser.get(&api).await.code(), 404);
    }
    let admin = gate.get("/notes/admin/").admin().over(Http::One).await;
    assert!(admin.code() == 200 && admin.text().contains("<td>ann</td>"), "{}", admin.text());
    for path in ["/notes/admin/", "/notes/admin", "/notes/admin/?x=1"] {
        let answer = gate.get(path).basic(ANN.0, ANN.1).over(Http::Two).await;
        assert_eq!((answer.code(), answer.reason()), (403, "not-allowed-by-rule"), "{path}");
    }
}

#[tokio::test]
async fn a_file_of_20_mib_comes_back_byte_for_byte() {
    let gate = examples(&["notes"]);
    let file: Vec<u8> = (0u32..20 << 18).flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    for http in BOTH {
        let browser = Browser::new(&gate, http, ANN);
        let token = hidden(&browser.get("/notes/").await.text(), "token");
        let (note, _) = browser.post("/notes/", &[("token", &token), ("title", "With a file"), ("body", "")]).await;
        let boundary = "----portcullis";
        let mut body = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"token\"\r\n\r\n{token}\r\n--{boundary}\r\n\
             Content-Disposition: form-data; name=\"file\"; filename=\"d\u{e4}ta.bin\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        )
        .into_bytes();
        body.extend_from_slice(&file);
        body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        let path = format!("{note}/files");
        let kind = format!("multipart/form-data; boundary={boundary}");
        let answer = browser.send("POST", &path, &kind, body).await;
        let (_, page) = browser.follow(&path, &answer).await;
        assert!(page.text().contains("20.0 MiB"), "{}", page.text());
        let link = attributes(&page.text(), "href").into_iter().find(|link| link.contains("/files/")).unwrap();
        let download = browser.get(&link).await;
        assert_eq!((download.code(), download.header("content-length")), (200, Some("20971520")));
        assert!(download.header("content-disposition").unwrap().contains("d%C3%A4ta.bin"));
        assert!(download.body == file && !download.cut, "{} bytes over {http:?}", download.body.len());
        let other = gate.get(&link).admin().over(http).await;
        assert_eq!(other.code(), 404, "it belongs to somebody else");
    }
}

/// Reads `/notes/download/MIB` without keeping it, and returns the gateway's largest resident size, KiB.
async fn download(gate: &Gate, http: Http, mib: u64) -> u64 {
    let body = BoxBody::new(Empty::<bytes::Bytes>::new().map_err(|never| match never {}));
    let path = format!("/notes/download/{mib}");
    let request = http::Request::get(if http == Http::One { path } else { format!("https://localhost{path}") })
        .header("host", "localhost")
        .header("authorization", "Basic cm9vdDpjb3JyZWN0IGhvcnNlIGJhdHRlcnk=")
        .body(body)
        .unwrap();
    let sent = match http {
        Http::One => gate.http1().await.send_request(request).await,
        Http::Two => gate.http2().await.send_request(request).await,
    };
    let response = sent.expect("an answer");
    assert_eq!(response.status(), 200);
    // The application repeats the 256 bytes; a piece may begin anywhere in them.
    let pattern: Vec<u8> = (0..=255).cycle().take(256 + (64 << 10)).collect();
    let (mut body, mut received, mut largest) = (response.into_body(), 0u64, 0);
    while let Some(frame) = tokio::time::timeout(PATIENCE, body.frame()).await.expect("more in time") {
        let data = frame.expect("a whole body").into_data().unwrap_or_default();
        for piece in data.chunks(64 << 10) {
            let phase = (received % 256) as usize;
            assert!(piece == &pattern[phase..phase + piece.len()], "wrong bytes after {received}");
            if received % (32 << 20) < piece.len() as u64 {
                largest = largest.max(gate.resident_kib());
            }
            received += piece.len() as u64;
        }
    }
    assert_eq!(received, mib << 20);
    largest.max(gate.resident_kib())
}

#[tokio::test]
async fn a_gibibyte_streams_through_and_the_gateway_stays_small() {
    let gate = examples(&["notes"]);
    // A data thread's first large HTTP/2 stream makes its heap some 13 MiB larger, once; further ones do not.
    for (http, mib, most) in [(Http::One, 1024, 16), (Http::Two, 256, 32)] {
        download(&gate, http, 8).await;
        let before = gate.resident_kib();
        let began = std::time::Instant::now();
        let largest = download(&gate, http, mib).await;
        println!("{mib} MiB over {http:?} in {:?}: {before} KiB, at most {largest} KiB", began.elapsed());
        assert!(largest < before + (most << 10), "the gateway grew from {before} to {largest} KiB over {http:?}");
    }
}

#[tokio::test]
async fn the_wiki_is_written_by_form_and_every_link_stays_under_its_prefix() {
    let gate = examples(&["wiki"]);
    for (http, user, title, slug) in
        [(Http::One, ADMIN, "First page", "first-page"), (Http::Two, ANN, "Caf\u{e9}", "caf%C3%A9")]
    {
        let browser = Browser::new(&gate, http, user);
        let page = format!("/wiki/page/{slug}/");
        let new = browser.get(&format!("/wiki/new/?title={}", encoded(title))).await;
        let (edit, form) = browser.follow("/wiki/new/", &new).await;
        assert!(edit.starts_with(&format!("{page}edit/")), "{edit}");
        let token = hidden(&form.text(), "csrfmiddlewaretoken");
        let fields = [
            ("csrfmiddlewaretoken", token.as_str()),
            ("text", "See [[Elsewhere]].\n\n<b>"),
            ("summary", "new"),
            ("base", ""),
        ];
        let (place, saved) = browser.post(&edit, &fields).await;
        assert_eq!(place, page);
        assert!(
            saved.text().contains(&format!("by {}", user.0)) && saved.text().contains("&lt;b&gt;"),
            "{}",
            saved.text()
        );

        let forged = gate
            .ask("POST", &edit)
            .basic(user.0, user.1)
            .header("content-type", "application/x-www-form-urlencoded")
            .header("origin", "https://evil.example")
            .body("text=x")
            .over(http)
            .await;
        assert_eq!((forged.code(), forged.reason()), (403, ""), "the application's own refusal");

        // What [[Elsewhere]] names is not written yet: a page that says so, with links of its own.
        let missing = browser.get("/wiki/page/elsewhere/").await;
        assert_eq!((missing.code(), missing.reason()), (404, ""));
        let link = attributes(&missing.text(), "href").into_iter().find(|link| link.contains("/edit/")).unwrap();
        assert_eq!(link, "/wiki/page/elsewhere/edit/");
    }
    let browser = Browser::new(&gate, Http::Two, ANN);
    let form = browser.get("/wiki/page/elsewhere/edit/").await.text();
    let fields = [("csrfmiddlewaretoken", &*hidden(&form, "csrfmiddlewaretoken")), ("text", "Here."), ("base", "")];
    browser.post("/wiki/page/elsewhere/edit/", &fields).await;
    let again = browser.get("/wiki/page/elsewhere/edit/").await.text();
    let (page, _) =
        browser.post("/wiki/page/elsewhere/edit/", &[fields[0], ("text", "There."), ("base", &number(&again))]).await;
    assert!(browser.get(&page).await.text().contains("There."));
    let seen = crawl(&browser, "/wiki/").await;
    assert_visited(&seen, &["/wiki/static/pages/wiki.css", "/wiki/page/caf%C3%A9/", "/wiki/page/elsewhere/history/"]);
    assert!(seen.iter().any(|path| path.contains("edit/?from=")), "older versions can be edited: {seen:#?}");
}

/// The revision that an edit form was made from.
fn number(form: &str) -> String {
    let field = form.split("<input").find(|input| input.contains("name=\"base\"")).expect("a hidden field");
    attributes(field, "value").pop().expect("its value")
}

#[tokio::test]
async fn djangos_admin_knows_the_gates_user() {
    let gate = examples(&["wiki"]);
    for http in BOTH {
        let admin = Browser::new(&gate, http, ADMIN);
        let index = admin.get("/wiki/admin/").await;
        assert_eq!(index.code(), 200, "signed in without a form of Django's: {:?}", index.header("location"));
        assert!(
            index.text().contains("Site administration") && index.text().contains("<strong>root</strong>"),
            "{}",
            index.text()
        );
        for path in ["/wiki/admin/", "/wiki/admin", "/wiki/admin/pages/page/"] {
            let answer = gate.get(path).basic(ANN.0, ANN.1).over(http).await;
            assert_eq!((answer.code(), answer.reason()), (403, "not-allowed-by-rule"), "{path}");
        }
        assert!(!Browser::new(&gate, http, ANN).get("/wiki/").await.text().contains("Administration"));
        // A session that was begun by one user does not serve another.
        let thief = Browser { gate: &gate, http, user: ANN, cookies: admin.cookies.clone() };
        let page = thief.get("/wiki/").await.text();
        assert!(page.contains(">ann<") && !page.contains("Administration"), "{page}");
    }
    let admin = Browser::new(&gate, Http::One, ADMIN);
    let form = admin.get("/wiki/admin/pages/page/add/").await.text();
    let token = hidden(&form, "csrfmiddlewaretoken");
    let fields = [("csrfmiddlewaretoken", token.as_str()), ("slug", "by-admin"), ("title", "By admin")];
    let (place, list) = admin.post("/wiki/admin/pages/page/add/", &fields).await;
    assert!(place == "/wiki/admin/pages/page/" && list.text().contains("By admin"), "{place}");
    let edit = admin.get("/wiki/page/by-admin/edit/").await.text();
    let token = hidden(&edit, "csrfmiddlewaretoken");
    let fields = [("csrfmiddlewaretoken", token.as_str()), ("text", "Text."), ("base", "")];
    admin.post("/wiki/page/by-admin/edit/", &fields).await;
    let seen = crawl(&admin, "/wiki/admin/").await;
    assert_visited(&seen, &["/wiki/admin/pages/revision/", "/wiki/static/admin/css/base.css", "/wiki/"]);
}

#[tokio::test]
async fn static_files_are_those_of_the_examples() {
    let gate = examples(&["hello", "notes", "wiki"]);
    for (path, file, kind) in [
        ("/hello/static/gate.svg", "hello/static/gate.svg", "image/svg+xml"),
        ("/notes/static/notes.css", "notes/static/notes.css", "text/css"),
        ("/wiki/static/pages/wiki.css", "wiki/pages/static/pages/wiki.css", "text/css"),
        ("/wiki/static/admin/css/base.css", "wiki/static/admin/css/base.css", "text/css"),
    ] {
        let expected = std::fs::read(repository().join("examples").join(file)).unwrap();
        for http in BOTH {
            let answer = gate.get(path).basic(ANN.0, ANN.1).over(http).await;
            assert_eq!((answer.code(), answer.header("content-type")), (200, Some(kind)), "{path}");
            assert!(answer.body == expected, "{path} over {http:?}");
            let known = answer.header("etag").or(answer.header("last-modified")).expect("something to ask again with");
            let name = if answer.header("etag").is_some() { "if-none-match" } else { "if-modified-since" };
            let again = gate.get(path).basic(ANN.0, ANN.1).header(name, known).over(http).await;
            assert_eq!((again.code(), again.body.len()), (304, 0), "{path}");
        }
    }
    for path in ["/hello/static/../app.py", "/notes/static/%2e%2e/app.py", "/wiki/static/nothing.css", "/notes/app.py"]
    {
        let code = gate.get(path).admin().over(Http::One).await.code();
        assert!(matches!(code, 400 | 404), "{path}: {code}");
    }
}
