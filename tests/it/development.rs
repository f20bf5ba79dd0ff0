//! `reload = true`: what is saved is served, or its traceback is.

use std::{fs, path::Path, time::Instant};

use crate::{
    harness::{ADMIN, Answer, BOTH, Gate, Http, Installation, PATIENCE, Setup},
    load::Load,
};

const OPEN: &str = "methods = [\"unauthenticated\", \"password\"]\ndefault = \"anyone\"\nreload = true\n";

fn app_of(text: &str) -> String {
    format!(
        "{text}\ndef application(environ, start_response):\n    start_response('200 OK', [('Content-Type', 'text/plain')])\n    return [VERSION.encode()]\n"
    )
}

fn write(directory: &Path, name: &str, text: &str) {
    fs::write(directory.join(name), text).unwrap();
}

fn gate(code: &Path, more: &str) -> Gate {
    Setup::level("minimal").app_in("/app", code, "app", &format!("{OPEN}{more}")).start()
}

async fn ask(gate: &Gate) -> Answer {
    gate.get("/app/").over(Http::One).await
}

/// Asks until the answer is as wanted; gives all the answers before it, and it.
async fn until(gate: &Gate, wanted: impl Fn(&Answer) -> bool) -> (Vec<Answer>, Answer) {
    let deadline = Instant::now() + PATIENCE;
    let mut before = Vec::new();
    loop {
        let answer = ask(gate).await;
        if wanted(&answer) {
            return (before, answer);
        }
        assert!(Instant::now() < deadline, "still {} {}", answer.code(), answer.text());
        before.push(answer);
    }
}

async fn until_text(gate: &Gate, text: &str) {
    until(gate, |answer| answer.code() == 200 && answer.text() == text).await;
}

/// The changes that were noticed so far.
fn noticed(gate: &Installation) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(gate.path("logs/messages.log")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter(|line| line["message"] == "a file changed: reloading").collect()
}

#[tokio::test]
async fn a_changed_module_is_served_without_any_command() {
    let code = tempfile::tempdir().unwrap();
    write(code.path(), "app.py", &app_of("from inner.part import VERSION"));
    fs::create_dir(code.path().join("inner")).unwrap();
    write(code.path(), "inner/part.py", "VERSION = 'one'\n");
    let gate = gate(code.path(), "");
    until_text(&gate, "one").await;
    // Of the same length and within the same second, which is all that Python's bytecode cache looks at.
    for version in ["two", "six", "ten"] {
        write(code.path(), "inner/part.py", &format!("VERSION = '{version}'\n"));
        until_text(&gate, version).await;
    }
    let line = gate.await_log("messages.log", |line| line["message"] == "a file changed: reloading");
    assert_eq!((&line["application"], &line["file"]), (&"/app".into(), &"inner/part.py".into()), "{line}");
    assert!(gate.log("messages.log").iter().any(|line| line.to_string().contains("`reload` is for development")));
}

#[tokio::test]
async fn templates_settings_and_new_directories_count() {
    let code = tempfile::tempdir().unwrap();
    let read = "import pathlib\nhere = pathlib.Path(__file__).parent\n\
                files = sorted(str(p.relative_to(here)) for p in here.rglob('*') if p.is_file() and p.suffix != '.pyc')\n\
                VERSION = ' '.join(f'{name}={(here / name).read_text()}' for name in files if name != 'app.py')";
    write(code.path(), "app.py", &app_of(read));
    let gate = gate(code.path(), "");
    until_text(&gate, "").await;
    let mut expected = std::collections::BTreeMap::new();
    for (name, text) in [
        ("page.html", "a"),
        ("mail.j2", "b"),
        (".env", "c"),
        (".env.local", "d"),
        ("settings.toml", "e"),
        ("page.html", "f"),
    ] {
        write(code.path(), name, text);
        expected.insert(name, text);
        let all: Vec<_> = expected.iter().map(|(name, text)| format!("{name}={text}")).collect();
        until_text(&gate, &all.join(" ")).await;
    }
    // A directory is moved here with a file in it; what is in it later counts too; and what is gone is a change.
    let elsewhere = tempfile::tempdir().unwrap();
    fs::create_dir(elsewhere.path().join("later")).unwrap();
    write(elsewhere.path(), "later/x.ini", "g");
    fs::rename(elsewhere.path().join("later"), code.path().join("later")).unwrap();
    until(&gate, |answer| answer.text().contains("later/x.ini=g")).await;
    write(code.path(), "later/x.ini", "h");
    until(&gate, |answer| answer.text().contains("later/x.ini=h")).await;
    fs::remove_file(code.path().join("later/x.ini")).unwrap();
    until(&gate, |answer| !answer.text().contains("later")).await;
}

#[tokio::test]
async fn modules_from_elsewhere_count_too_even_while_they_cannot_be_imported() {
    let (code, shared) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(code.path(), "app.py", &app_of("from shared_part import VERSION"));
    write(shared.path(), "shared_part.py", "VERSION = 'one'\n)\n");
    let more = format!("[app.environment]\nPYTHONPATH = \"{}\"\n", shared.path().display());
    // Workers are confined: until the operator says that they may, they read nothing there, and are told so.
    let closed = gate(code.path(), &more);
    until(&closed, |answer| answer.text().contains("cannot be read by this worker")).await;
    drop(closed);
    let readable = format!("readable = [\"{}\"]", shared.path().display());
    let gate = Setup::level("minimal")
        .namespace("own", &readable)
        .app_in("/app", code.path(), "app", &format!("{OPEN}namespace = \"own\"\n{more}"))
        .start();
    let (_, broken) = until(&gate, |answer| answer.text().contains("SyntaxError")).await;
    assert_eq!(broken.reason(), "application-unavailable");
    write(shared.path(), "shared_part.py", "VERSION = 'one'\n");
    until_text(&gate, "one").await;
    write(shared.path(), "shared_part.py", "VERSION = 'two'\n");
    until_text(&gate, "two").await;
    let files: Vec<_> = noticed(&gate).iter().map(|line| line["file"].as_str().unwrap().to_owned()).collect();
    assert!(files.iter().all(|file| file.ends_with("/shared_part.py") && Path::new(file).is_absolute()), "{files:?}");
}

#[tokio::test]
async fn an_application_that_writes_beside_its_code_is_not_reloaded() {
    let code = tempfile::tempdir().unwrap();
    for directory in ["uploads", "node_modules/x", ".git", "env/lib", "data", "static"] {
        fs::create_dir_all(code.path().join(directory)).unwrap();
    }
    write(code.path(), "env/pyvenv.cfg", "");
    let writes = "import os, sqlite3\nVERSION = 'one'\nhere = os.path.dirname(os.path.abspath(__file__))\n\
                  def touch(*names):\n    for name in names:\n        with open(os.path.join(here, name), 'w') as file: file.write('x')\n";
    let application = "\ndef application(environ, start_response):\n\
                       \x20   with sqlite3.connect(os.path.join(here, 'data.sqlite3')) as db: db.execute('create table if not exists t (x)')\n\
                       \x20   touch('uploads/photo.jpg', 'app.log', 'node_modules/x/index.json', '.git/config.py', 'env/lib/installed.py', 'data/state.json', 'static/page.html', '.app.py.swp', 'app.py~')\n\
                       \x20   import colorsys, late\n\
                       \x20   start_response('200 OK', [])\n    return [VERSION.encode()]\n";
    write(code.path(), "late.py", "");
    write(code.path(), "app.py", &format!("{writes}{application}"));
    let home = code.path().display();
    let namespace = format!("data = \"{home}/data\"\nwritable = [\"{home}\"]");
    let gate = Setup::level("minimal")
        .namespace("own", &namespace)
        .app_in("/app", code.path(), "app", &format!("{OPEN}namespace = \"own\"\nserve_files = \"always\"\n"))
        .start();
    until_text(&gate, "one").await;
    for _ in 0..10 {
        assert_eq!(ask(&gate).await.text(), "one");
    }
    assert!(code.path().join("data.sqlite3").exists() && code.path().join("__pycache__").exists());
    // A real change comes after all of those, and it is the first that is noticed.
    write(code.path(), "app.py", &format!("{writes}{application}").replace("'one'", "'two'"));
    until_text(&gate, "two").await;
    let noticed = noticed(&gate);
    assert_eq!(noticed.len(), 1, "{noticed:#?}");
    assert_eq!((&noticed[0]["file"], &noticed[0]["others"]), (&"app.py".into(), &0.into()));
}

#[tokio::test]
async fn a_broken_version_is_shown_and_a_mended_one_takes_over() {
    let code = tempfile::tempdir().unwrap();
    write(code.path(), "app.py", &app_of("VERSION = 'one'"));
    let gate = gate(code.path(), "workers = 2\n");
    until_text(&gate, "one").await;
    write(code.path(), "app.py", &app_of("VERSION = 'two'\nraise ValueError('</pre><script>alert(1)</script>')"));
    let (_, broken) = until(&gate, |answer| answer.code() == 503).await;
    assert_eq!(broken.reason(), "application-unavailable");
    assert!(
        broken.text().contains("app.py\", line 2, in <module>") && broken.text().contains("reason: "),
        "{}",
        broken.text()
    );
    for http in BOTH {
        let page = gate.get("/app/").header("accept", "text/html,*/*;q=0.1").over(http).await;
        assert_eq!((page.code(), page.header("content-type")), (503, Some("text/html; charset=utf-8")));
        assert!(page.text().contains("<b>ValueError: &lt;/pre&gt;&lt;script&gt;"), "{}", page.text());
        assert!(!page.text().contains("<script"), "{}", page.text());
        let policy = page.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("script-src"), "{policy}");
        assert_eq!(page.header("cache-control"), Some("no-store"));
        let json = gate.get("/app/").header("accept", "application/json").over(http).await;
        assert!(json.json()["traceback"].as_str().unwrap().contains("</script>"), "{}", json.text());
        let head = gate.ask("HEAD", "/app/").over(http).await;
        assert_eq!((head.code(), head.reason(), head.body.len()), (503, "application-unavailable", 0));
        let post = gate.ask("POST", "/app/").body("x").over(http).await;
        assert_eq!((post.code(), post.reason()), (503, "application-unavailable"));
    }
    assert!(gate.cli(&["status"]).contains("ValueError"));
    let reload = gate.command(&["app", "reload", "/app"]);
    assert!(!reload.status.success() && String::from_utf8_lossy(&reload.stderr).contains("until a change mends it"));
    write(code.path(), "app.py", &app_of("VERSION = 'six'"));
    let (before, _) = until(&gate, |answer| answer.text() == "six").await;
    assert!(before.iter().all(|answer| answer.code() == 503), "after a mistake, never an older version");
    assert_eq!(gate.await_workers("/app", 2).len(), 2);
}

/// Of two workers that start together one takes long, and is done after a mistake was saved.
#[tokio::test]
async fn a_worker_of_an_older_version_that_is_late_hides_no_mistake() {
    let code = tempfile::tempdir().unwrap();
    let data = code.path().join("data");
    fs::create_dir(&data).unwrap();
    let late = "import os, time\nVERSION = 'one'\nhere = os.environ['PORTCULLIS_DATA_DIR'] + '/'\n\
                try:\n    os.mkdir(here + 'first')\nexcept FileExistsError:\n\
                \x20   with open(here + 'new', 'w') as file: file.write(str(os.getpid()))\n    os.rename(here + 'new', here + 'late')\n\
                \x20   while not os.path.exists(here + 'go'): time.sleep(0.01)\n";
    write(code.path(), "app.py", &app_of(late));
    let gate = Setup::level("minimal")
        .namespace("own", &format!("data = \"{}\"", data.display()))
        .app_in("/app", code.path(), "app", &format!("{OPEN}namespace = \"own\"\nworkers = 2\n"))
        .start();
    until_text(&gate, "one").await;
    let deadline = Instant::now() + PATIENCE;
    let until = |what: &str, holds: &dyn Fn() -> bool| {
        while !holds() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::yield_now();
        }
    };
    until("the second worker starts", &|| data.join("late").exists());
    let process = Path::new("/proc").join(fs::read_to_string(data.join("late")).unwrap());
    write(code.path(), "app.py", "a mistake");
    self::until(&gate, |answer| answer.code() == 503).await;
    write(&data, "go", "");
    until("it ends instead of serving", &|| !process.exists());
    assert!(ask(&gate).await.text().contains("SyntaxError"));
    assert_eq!(gate.workers("/app").len(), 1);
    write(code.path(), "app.py", &app_of("VERSION = 'two'"));
    until_text(&gate, "two").await;
    gate.await_workers("/app", 2);
}

#[tokio::test]
async fn a_version_that_never_started_is_shown_and_starts_with_the_change_that_mends_it() {
    let code = tempfile::tempdir().unwrap();
    write(code.path(), "app.py", "import a_package_that_is_not_installed\n");
    let gate = gate(code.path(), "");
    let (_, broken) = until(&gate, |answer| answer.code() == 503).await;
    assert!(broken.text().contains("No module named 'a_package_that_is_not_installed'"), "{}", broken.text());
    write(code.path(), "app.py", &app_of("VERSION = 'mended'"));
    until_text(&gate, "mended").await;
    // By the change, not by the next of the attempts that come later and later.
    gate.await_log("messages.log", |line| line["message"] == "reloaded");
}

#[tokio::test]
async fn only_who_may_use_the_application_sees_its_traceback() {
    let code = tempfile::tempdir().unwrap();
    write(code.path(), "app.py", "secret_name_of_a_module_that_is_not_there\n");
    let policy = "methods = [\"password\"]\ndefault = \"role:administrator\"\nreload = true\n";
    let gate = Setup::level("normal")
        .app_in("/app", code.path(), "app", policy)
        .app("/plain", "broken_import", &policy.replace("reload = true", ""))
        .start();
    gate.user("ann", "a good long password", &[]);
    let (one, html) = (Http::One, "text/html");
    let admin = gate.get("/app/").header("accept", html).basic(ADMIN.0, ADMIN.1).over(one).await;
    assert!(admin.code() == 503 && admin.text().contains("secret_name"), "{}", admin.text());
    for (answer, code) in [
        (gate.get("/app/").header("accept", html).over(one).await, 401),
        (gate.get("/app/").header("accept", html).basic("ann", "a good long password").over(one).await, 403),
        (gate.get("/app/").header("accept", html).basic(ADMIN.0, "wrong password").over(one).await, 401),
        (gate.get("/app/%2e%2e/").header("accept", html).basic(ADMIN.0, ADMIN.1).over(one).await, 400),
        (gate.get("/plain/").header("accept", html).basic(ADMIN.0, ADMIN.1).over(one).await, 503),
    ] {
        assert_eq!(answer.code(), code, "{}", answer.text());
        assert!(!answer.text().contains("secret_name") && !answer.text().contains("Traceback"), "{}", answer.text());
    }
    assert!(gate.get("/plain/").admin().over(one).await.text().contains("not running at the moment"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_under_load_lose_no_request() {
    let code = tempfile::tempdir().unwrap();
    write(code.path(), "app.py", &app_of("VERSION = '0'"));
    let gate = gate(code.path(), "workers = 2\n");
    until_text(&gate, "0").await;
    let load = Load::start(&gate, "/app/", 4).await;
    for version in 1..=4 {
        write(code.path(), "app.py", &app_of(&format!("VERSION = '{version}'")));
        until_text(&gate, &version.to_string()).await;
    }
    let codes = load.finish().await;
    assert!(codes.len() > 50 && Load::failures(&codes).is_empty(), "{:?} of {}", Load::failures(&codes), codes.len());
}

#[tokio::test]
async fn turning_it_off_in_the_policy_ends_it() {
    let code = tempfile::tempdir().unwrap();
    write(code.path(), "app.py", &app_of("VERSION = 'one'"));
    let gate = gate(code.path(), "");
    until_text(&gate, "one").await;
    let policy = fs::read_to_string(gate.path("policies/app.toml")).unwrap();
    gate.write_policy("app", &policy.replace("reload = true", "reload = false"));
    gate.cli(&["reload"]);
    write(code.path(), "app.py", "not even Python");
    assert!(!gate.command(&["app", "reload", "/app"]).status.success());
    assert_eq!(ask(&gate).await.text(), "one", "the old version goes on");
    // And on again, with the mistake still there: refused as a whole, like any policy whose application does not start.
    gate.write_policy("app", &policy);
    assert_eq!(gate.command(&["reload"]).status.code(), Some(3));
    write(code.path(), "app.py", &app_of("VERSION = 'two'"));
    gate.cli(&["reload"]);
    until_text(&gate, "two").await;
    write(code.path(), "app.py", &app_of("VERSION = 'six'"));
    until_text(&gate, "six").await;
}
