//! What an application that has been taken over is kept from: everything it tries fails, and the gate goes on.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::harness::{Gate, Http, Setup, repository, text};

/// Debian's own: other users can read it, unlike one in root's home.
const PYTHON: &str = "/usr/bin/python3";

/// Nobody has these numbers, so nothing else on the machine counts against them.
const GATEWAY: u32 = 54_300;

/// Who is who.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum As {
    /// The gateway is root, and every namespace has a user of its own.
    Users,
    /// The gateway is an ordinary user, and so is everything it starts.
    Ordinary(Option<u32>),
}

/// Everything that can be tried on this machine by whoever runs the tests.
fn variants() -> Vec<As> {
    if rustix::process::geteuid().is_root() {
        return vec![As::Users, As::Ordinary(Some(GATEWAY))];
    }
    println!("not root: namespaces with a user of their own are NOT tested in this run");
    vec![As::Ordinary(None)]
}

/// A gate with an application that is hostile and one that it is after, each in a directory of its own.
struct Stage {
    gate: Gate,
    apps: tempfile::TempDir,
}

impl Stage {
    /// `users` are numbers nobody else uses; `lines` belong to the hostile one's namespace.
    fn set(variant: As, users: u32, lines: &str) -> Self {
        let apps = tempfile::tempdir().unwrap();
        open_up(apps.path());
        for name in ["evil", "victim"] {
            let directory = apps.path().join(name);
            std::fs::create_dir(&directory).unwrap();
            std::fs::copy(repository().join("tests/apps/hostile.py"), directory.join("hostile.py")).unwrap();
            std::fs::write(directory.join("secret"), "of its own").unwrap();
        }
        let policy = |namespace: &str| {
            format!(
                "methods = [\"unauthenticated\"]\ndefault = \"anyone\"\nnamespace = \"{namespace}\"\n\
                 python = \"{PYTHON}\"\nrequest_timeout = \"1m\"\n"
            )
        };
        let user = |number: u32| match variant {
            As::Users => format!("user = \"{number}\"\ngroup = \"{number}\"\n"),
            As::Ordinary(_) => String::new(),
        };
        let more = format!("\n[namespace.evil]\n{}{lines}\n[namespace.victim]\n{}\n", user(users), user(users + 1));
        let setup = Setup::level("minimal")
            .config("gateway", "threads = 2")
            .more(&more)
            .app_in("/evil", &apps.path().join("evil"), "hostile", &policy("evil"))
            .app_in("/victim", &apps.path().join("victim"), "hostile", &policy("victim"))
            .run_as(match variant {
                As::Users => None,
                As::Ordinary(user) => user,
            });
        let installation = setup.install();
        open_up(&installation.path(""));
        Self { gate: installation.start(), apps }
    }

    /// What the hostile application got, or that it was refused.
    async fn attempt(&self, act: &str) -> Result<serde_json::Value, String> {
        let answer = self.gate.get(&format!("/evil/{act}")).over(Http::One).await;
        assert_eq!(answer.code(), 200, "{act}: {}", answer.text());
        let came = answer.json();
        match came[0].as_str() {
            Some("got") => Ok(came[1].clone()),
            Some("refused") => Err(came[1].as_str().unwrap_or_default().to_owned()),
            _ => panic!("{act}: {came}"),
        }
    }

    async fn of_itself(&self, app: &str) -> serde_json::Value {
        self.gate.get(&format!("/{app}/self")).over(Http::One).await.json()
    }

    /// The process id of the victim's worker.
    fn victim(&self) -> i32 {
        self.gate.await_workers("/victim", 1)[0]
    }

    async fn assert_alive(&self, what: &str) {
        for app in ["evil", "victim"] {
            let answer = self.gate.get(&format!("/{app}/here")).over(Http::One).await;
            assert_eq!(answer.code(), 200, "after {what}: {}", answer.text());
        }
    }

    fn path(&self, file: &str) -> String {
        self.gate.path(file).display().to_string()
    }
}

fn open_up(directory: &Path) {
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Files of the gate and of the other application that must not be read, and places that must not be written.
fn forbidden(stage: &Stage) -> (Vec<String>, Vec<String>) {
    let read = [
        "portcullis.toml",
        "data/portcullis.sqlite3",
        "data/control.key",
        "data/control.lock",
        "certs/localhost.key",
        "certs/ca.key",
        "policies/evil.toml",
        "policies/victim.toml",
        "logs/messages.log",
        "logs/access.log",
    ];
    let victim = stage.apps.path().join("victim/secret").display().to_string();
    let read = read.map(|file| stage.path(file)).into_iter().chain([victim, "/etc/shadow".to_owned()]);
    let write = [
        stage.path("portcullis.toml"),
        stage.path("policies/evil.toml"),
        stage.path("policies/new.toml"),
        stage.path("data/new"),
        stage.path("data/namespaces/new"),
        stage.path("data/namespaces/victim/new"),
        stage.path("logs/new"),
        stage.apps.path().join("evil/hostile.py").display().to_string(),
        stage.apps.path().join("victim/new").display().to_string(),
        "/tmp/portcullis-was-here".to_owned(),
        "/var/tmp/portcullis-was-here".to_owned(),
    ];
    (read.collect(), write.to_vec())
}

#[tokio::test]
async fn a_hostile_application_reads_and_writes_nothing_that_is_not_its_own() {
    for variant in variants() {
        let stage = Stage::set(variant, 54_310, "");
        let victims = stage.of_itself("victim").await;
        stage.gate.await_log("access.log", |line| line["application"] == "/victim");
        let (read, write) = forbidden(&stage);
        for file in &read {
            assert!(Path::new(file).exists(), "{file} is not there to be refused");
            for act in ["read", "link"] {
                let came = stage.attempt(&format!("{act}?path={file}")).await;
                assert!(came.is_err(), "{variant:?}: {act} {file}: {came:?}");
            }
        }
        for file in &write {
            for act in ["write", "make"] {
                let came = stage.attempt(&format!("{act}?path={file}")).await;
                assert!(came.is_err(), "{variant:?}: {act} {file}: {came:?}");
            }
        }
        for directory in
            [stage.path("data"), stage.path("policies"), stage.path("data/namespaces/victim"), "/tmp".into()]
        {
            let came = stage.attempt(&format!("list?path={directory}")).await;
            assert!(came.is_err(), "{variant:?}: {directory}: {came:?}");
        }
        // What is its own it has.
        let data = stage.path("data/namespaces/evil");
        let own = stage.apps.path().join("evil/secret");
        for act in [
            format!("read?path={}", own.display()),
            format!("write?path={data}/new"),
            format!("write?path={data}/tmp/new"),
            "read?path=/etc/passwd".to_owned(),
            "write?path=/dev/null".to_owned(),
        ] {
            assert!(stage.attempt(&act).await.is_ok(), "{variant:?}: {act}");
        }
        assert_eq!(victims["environ"]["TMPDIR"], stage.path("data/namespaces/victim/tmp"));
        stage.assert_alive("reading and writing").await;
    }
}

#[tokio::test]
async fn a_hostile_application_reaches_no_other_process() {
    for variant in variants() {
        let stage = Stage::set(variant, 54_320, "");
        for pid in [stage.gate.pid(), stage.victim()] {
            for act in ["ptrace", "memory_of", "environment_of", "descriptors_of", "root_of", "vm_read"] {
                let came = stage.attempt(&format!("{act}?pid={pid}")).await;
                assert!(came.is_err(), "{variant:?}: {act} of {pid}: {came:?}");
            }
            for act in ["signal", "pidfd", "group"] {
                for signal in [0, 19, 15, 9] {
                    let came = stage.attempt(&format!("{act}?pid={pid}&signal={signal}")).await;
                    assert!(came.is_err(), "{variant:?}: {act} {signal} to {pid}: {came:?}");
                }
            }
        }
        stage.assert_alive("signals and ptrace").await;
    }
}

#[tokio::test]
async fn a_hostile_application_gives_no_orders_over_the_control_socket() {
    for variant in variants() {
        let stage = Stage::set(variant, 54_330, "");
        let socket = stage.path("data/control.sock");
        for first in ["", "%0A", &format!("{}%0A", "0".repeat(64))] {
            let lines = format!("{first}%7B%22command%22%3A%22status%22%7D%0A");
            let came = stage.attempt(&format!("control?path={socket}&lines={lines}")).await;
            assert!(came.is_err(), "{variant:?}: {came:?}");
        }
        stage.assert_alive("orders").await;
        let refused = |line: &serde_json::Value| line.to_string().contains("without the key");
        match variant {
            // Another user does not even get as far as that.
            As::Users => assert!(!stage.gate.log("messages.log").iter().any(refused)),
            As::Ordinary(_) => drop(stage.gate.await_log("messages.log", refused)),
        }
    }
}

#[tokio::test]
async fn rights_are_given_up_for_good() {
    for variant in variants() {
        let stage = Stage::set(variant, 54_340, "");
        let own = stage.of_itself("evil").await;
        let user = match variant {
            As::Users => 54_340,
            As::Ordinary(Some(user)) => user,
            As::Ordinary(None) => rustix::process::getuid().as_raw(),
        };
        assert_eq!(own["uid"], serde_json::json!([user, user, user]), "{variant:?}");
        if variant == As::Users {
            assert_eq!((&own["gid"], &own["groups"]), (&serde_json::json!([user, user, user]), &serde_json::json!([])));
        }
        assert_eq!((&own["no_new_privs"][0], &own["core"]), (&"1".into(), &serde_json::json!([0, 0])), "{variant:?}");
        for act in ["setuid", "setgroups"] {
            let came = stage.attempt(act).await;
            assert!(came.is_err(), "{variant:?}: {act}: {came:?}");
        }
        if rustix::process::geteuid().is_root() {
            // A program that would make root of anybody, and does: of anybody but a worker.
            let program = stage.apps.path().join("evil/whoami");
            std::fs::copy("/usr/bin/id", &program).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o4755)).unwrap();
            let mut elsewhere = std::process::Command::new(&program);
            std::os::unix::process::CommandExt::uid(elsewhere.arg("-u"), GATEWAY);
            assert_eq!(text(&elsewhere.output().unwrap().stdout).trim(), "0", "set-user-id means something here");
            let came = stage.attempt(&format!("run?path={}", program.display())).await;
            assert_eq!(came.unwrap(), user.to_string(), "{variant:?}");
        }
    }
}

#[tokio::test]
async fn a_worker_holds_its_own_sockets_and_its_own_environment_and_nothing_more() {
    for variant in variants() {
        let stage = Stage::set(variant, 54_350, "environment = { MODE = \"evil\" }");
        let own = stage.of_itself("evil").await;
        let open: Vec<(u64, String)> = serde_json::from_value(own["at_import"].clone()).unwrap();
        let kinds: Vec<&str> = open.iter().map(|(_, kind)| kind.as_str()).collect();
        assert_eq!(kinds[..3], ["/dev/null", "pipe", "pipe"], "{open:?}");
        // The control socket, and a lane of two sockets to each of two data threads.
        assert_eq!(kinds[3..], ["socket"; 5], "{open:?}");
        let names: Vec<&str> = own["environ"].as_object().unwrap().keys().map(String::as_str).collect();
        let known = [
            "DATABASE_URL",
            "HOME",
            "LANG",
            "LC_ALL",
            "LC_CTYPE",
            "MODE",
            "PATH",
            "PORTCULLIS_DATA_DIR",
            "PORTCULLIS_NAMESPACE",
            "TMPDIR",
            "TZ",
        ];
        assert!(names.iter().all(|name| known.contains(name)), "{names:?}");
        let private = stage.gate.path("data/namespaces/evil/tmp").metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(private, 0o700);
    }
}

#[tokio::test]
async fn what_is_used_up_is_the_applications_own() {
    for variant in variants() {
        let processes = if variant == As::Users { "processes = 24\n" } else { "" };
        let stage = Stage::set(variant, 54_360, &format!("memory = \"256MiB\"\nfiles = 192\n{processes}"));
        let mut acts = vec![("memory?count=1024", "MemoryError"), ("files?count=500", "Too many open files")];
        if variant == As::Users {
            acts.push(("processes?count=60", "temporarily unavailable"));
        }
        for (act, why) in acts {
            let came = stage.attempt(act).await;
            assert!(came.as_ref().is_err_and(|said| said.contains(why)), "{variant:?}: {act}: {came:?}");
            stage.assert_alive(act).await;
        }
        assert!(stage.attempt("memory?count=32").await.is_ok() && stage.attempt("files?count=20").await.is_ok());
    }
}

#[tokio::test]
async fn without_landlock_the_same_attempts_succeed_and_check_warns() {
    // What the tests above prove depends on this: it is the wall that stops them, and not something else.
    for variant in variants().into_iter().filter(|variant| *variant != As::Users) {
        let stage = Stage::set(variant, 54_370, "confined = false");
        let key = std::fs::read_to_string(stage.gate.path("data/control.key")).unwrap();
        let socket = stage.path("data/control.sock");
        for act in [
            format!("read?path={}", stage.path("data/portcullis.sqlite3")),
            format!("read?path={}", stage.path("certs/localhost.key")),
            format!("write?path={}", stage.path("data/new")),
            format!("signal?pid={}&signal=0", stage.gate.pid()),
            format!("signal?pid={}&signal=0", stage.victim()),
            format!("control?path={socket}&lines={key}%0A%7B%22command%22%3A%22status%22%7D%0A"),
        ] {
            let came = stage.attempt(&act).await;
            assert!(came.is_ok(), "{act}: {came:?}");
        }
        // Not even then does it get at the gateway's memory.
        for act in ["ptrace", "memory_of", "vm_read", "environment_of"] {
            let came = stage.attempt(&format!("{act}?pid={}", stage.gate.pid())).await;
            assert!(came.is_err(), "{act}: {came:?}");
        }
        let status: serde_json::Value = serde_json::from_str(&stage.gate.cli(&["status", "--json"])).unwrap();
        let app =
            |name: &str| status["applications"].as_array().unwrap().iter().find(|app| app["name"] == name).unwrap();
        assert_eq!(app("/evil")["isolation"]["summary"], "no Landlock: `confined = false`");
        let checked = text(&stage.gate.command(&["check"]).stderr);
        assert!(checked.contains("[namespace.evil] is not confined"), "{checked}");
    }
}

#[tokio::test]
async fn what_keeps_a_worker_is_said_in_the_log_and_in_the_status() {
    for variant in variants() {
        let stage = Stage::set(variant, 54_380, "");
        let status: serde_json::Value = serde_json::from_str(&stage.gate.cli(&["status", "--json"])).unwrap();
        let app = status["applications"].as_array().unwrap().iter().find(|app| app["name"] == "/evil").unwrap();
        let isolation = &app["isolation"];
        let summary = isolation["summary"].as_str().unwrap();
        println!("{variant:?}: {summary}");
        assert_eq!(isolation["user"].as_str(), (variant == As::Users).then_some("54380"));
        let version = isolation["landlock"].as_u64().expect("these tests need a kernel with Landlock");
        assert!(summary.contains(&format!("Landlock ABI {version}: files")), "{summary}");
        assert!(stage.gate.cli(&["status"]).contains(summary));
        stage.gate.await_log("messages.log", |line| {
            let text = line["message"].as_str().unwrap_or_default();
            text.contains("worker started") && text.contains(summary)
        });
    }
}

#[test]
fn walls_with_gaps_are_named_before_anything_starts() {
    let setup = |more: &str| {
        let policy =
            format!("methods = [\"password\"]\ndefault = \"signed-in\"\nnamespace = \"evil\"\npython = \"{PYTHON}\"\n");
        Setup::level("normal").more(more).app("/evil", "environ_app", &policy).install()
    };
    let said = |installation: &crate::harness::Installation| {
        let output = installation.command(&["check", "--no-import"]);
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let installation = setup("\n[namespace.evil]\nreadable = [\"data\"]\nwritable = [\".\"]\n");
    let (code, text) = said(&installation);
    assert_eq!(code, Some(0), "{text}");
    for what in ["the store", "the key of a certificate", "the policies", "the logs", "the configuration"] {
        assert!(text.contains(&format!("/evil may reach {what} (")), "{what}: {text}");
    }
    if !rustix::process::geteuid().is_root() {
        println!("not root: whether another user is refused to an ordinary gateway is tested as that one");
    }
    let ordinary = rustix::process::geteuid().is_root().then_some(GATEWAY);
    let policy = format!("methods = [\"password\"]\nnamespace = \"evil\"\npython = \"{PYTHON}\"\n");
    let installation = Setup::level("normal")
        .more("\n[namespace.evil]\nuser = \"54999\"\ngroup = \"54999\"\n")
        .app("/evil", "environ_app", &policy)
        .run_as(ordinary)
        .install();
    let (code, text) = said(&installation);
    assert_eq!(code, Some(3), "{text}");
    assert!(
        text.contains("[namespace.evil] the gateway may not start workers as user 54999: start it as root"),
        "{text}"
    );
}

#[tokio::test]
async fn a_directory_that_is_closed_to_the_user_is_named() {
    if !rustix::process::geteuid().is_root() {
        println!("not root: namespaces with a user of their own are NOT tested in this run");
        return;
    }
    let apps = tempfile::tempdir().unwrap();
    std::fs::copy(repository().join("tests/apps/environ_app.py"), apps.path().join("environ_app.py")).unwrap();
    let policy = format!("methods = [\"password\"]\nnamespace = \"evil\"\npython = \"{PYTHON}\"\n");
    let installation = Setup::level("normal")
        .more("\n[namespace.evil]\nuser = \"54390\"\ngroup = \"54390\"\n")
        .app_in("/evil", apps.path(), "environ_app", &policy)
        .install();
    open_up(&installation.path(""));
    std::fs::set_permissions(apps.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let inner = apps.path().join("inner");
    let test = || {
        let output = installation.command(&["app", "test", "/evil"]);
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    };
    let (good, said) = test();
    assert!(good, "{said}");
    // The data directory of another user is not taken over.
    let data: PathBuf = installation.path("data/namespaces/evil");
    std::os::unix::fs::chown(&data, Some(0), Some(0)).unwrap();
    let (good, said) = test();
    assert!(!good && said.contains("belongs to user 0 and not to 54390"), "{said}");
    std::os::unix::fs::chown(&data, Some(54_390), Some(54_390)).unwrap();
    // And a closed directory on the way is called by its name.
    std::fs::create_dir(&inner).unwrap();
    std::fs::rename(apps.path().join("environ_app.py"), inner.join("environ_app.py")).unwrap();
    let policy =
        format!("[app]\nname = \"/evil\"\ndirectory = \"{}\"\nmodule = \"environ_app\"\n{policy}", inner.display());
    installation.write_policy("evil", &policy);
    std::fs::set_permissions(apps.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let (good, said) = test();
    assert!(!good && said.contains("user 54390 cannot reach") && said.contains("chmod o+x"), "{said}");
}
