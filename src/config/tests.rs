//! The file as operators write it, well and badly.

use std::{fs, path::Path};

use super::*;
use crate::{model::Method, written::render};

fn read(text: &str) -> Result<(Config, Vec<Problem>), Vec<Problem>> {
    understand("portcullis.toml", text, Path::new("/srv/portcullis.toml"), Path::new("/srv"))
}

fn good(text: &str) -> Config {
    read(text).unwrap_or_else(|problems| panic!("{}", render(&problems, false))).0
}

/// The file is refused in one place with these words.
#[track_caller]
fn check(text: &str, words: &[&str]) {
    let problems = read(text).err().unwrap_or_default();
    let text = render(&problems, false);
    assert!(problems.len() == 1 && words.iter().all(|word| text.contains(word)), "{text}");
}

const FULL: &str = r#"[gateway]
listen = ["127.0.0.1:8443", "[::1]:8443"]
redirect_listen = "127.0.0.1:8080"
threads = 3
trusted_proxies = ["10.0.0.0/8", "192.0.2.7"]
proxy_protocol = "10.0.0.1"
hosts = ["Apps.Example.org."]

[forward_auth]
trusted = ["127.0.0.1", "10.0.0.7"]

[tls]
minimum = "1.3"

[[tls.certificate]]
certificate = "certs/a.pem"
key = "/etc/ssl/a-key.pem"

[security]
level = "minimal"
methods = ["password"]

[tokens]
issuer = "https://gate.example.org"

[limits]
header_bytes = "32KiB"
headers = 64
body_bytes = "1GiB"
connections = 500
queue = 10

[timeouts]
handshake = "5s"
head = 6
idle = "7s"
body = "8s"
request = "9s"
start = "2m"
stop = "500ms"

[passwords]
memory_kib = 20000
iterations = 3
parallelism = 2
hashing_threads = 4
queue = 5

[store]
path = "state/store.sqlite3"

[policies]
directory = "apps"

[data]
directory = "../data"

[logs]
directory = "log"
max_bytes = "1MiB"
keep = 9
level = "warn,portcullis::app=debug"

[workers]
environments = ["envs", "/opt/envs"]

[namespace.notes]
directory = "notes"
data = "notes-data"
database_url = "postgresql://notes:secret@db/notes"
user = "nobody"
group = "54322"
memory = "512MiB"
processes = 64
files = 1024
readable = ["shared", "/opt/fonts"]
writable = ["uploads"]
confined = false

[namespace.notes.environment]
MODE = "production"

[namespace.other]

[networks]
office = ["10.0.0.0/8", "2001:db8::/32"]
gate = "192.0.2.7"

[paths]
assets = ["/static/**", "/favicon.ico"]
"#;

#[test]
fn every_key_is_read() {
    let config = good(FULL);
    assert_eq!(config.gateway.listen.len(), 2);
    assert_eq!(config.gateway.redirect_listen, ["127.0.0.1:8080".parse().unwrap()]);
    assert_eq!((config.gateway.threads, config.gateway.trusted_proxies.len()), (3, 2));
    assert_eq!(config.gateway.proxy_protocol, ["10.0.0.1/32".parse().unwrap()]);
    assert_eq!(config.gateway.hosts, ["apps.example.org".into()]);
    assert_eq!(config.forward_auth.trusted.len(), 2);
    assert_eq!(config.tls.minimum, TlsVersion::V13);
    assert_eq!(
        config.tls.certificates,
        [CertificateFiles { certificate: "/srv/certs/a.pem".into(), key: "/etc/ssl/a-key.pem".into() }]
    );
    assert_eq!(config.security.level, SecurityLevel::Minimal);
    assert_eq!(config.security.methods, MethodSet::NONE.with(Method::Password));
    assert_eq!(config.tokens.issuer, "https://gate.example.org");
    assert_eq!(
        (config.networks["office"].len(), config.networks["gate"][0].to_string()),
        (2, "192.0.2.7/32".to_owned())
    );
    assert_eq!(
        config.paths["assets"].iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["/static/**", "/favicon.ico"]
    );
    let limits = config.limits;
    assert_eq!((limits.header_bytes, limits.headers, limits.body_bytes), (32 << 10, 64, 1 << 30));
    assert_eq!((limits.connections, limits.queue), (500, 10));
    let times = config.timeouts;
    let seconds =
        [times.handshake, times.head, times.idle, times.body, times.request, times.start].map(|t| t.as_secs());
    assert_eq!((seconds, times.stop.as_millis()), ([5, 6, 7, 8, 9, 120], 500));
    let passwords = config.passwords;
    assert_eq!((passwords.memory_kib, passwords.iterations, passwords.parallelism), (20_000, 3, 2));
    assert_eq!((passwords.hashing_threads, passwords.queue), (4, 5));
    assert_eq!(config.store, Path::new("/srv/state/store.sqlite3"));
    assert_eq!((config.policies.as_path(), config.data.as_path()), (Path::new("/srv/apps"), Path::new("/data")));
    assert_eq!((config.logs.directory.as_path(), config.logs.keep), (Path::new("/srv/log"), 9));
    assert_eq!((config.logs.max_bytes, config.logs.level.as_str()), (1 << 20, "warn,portcullis::app=debug"));
    let notes = config.namespace("notes");
    assert_eq!(
        (notes.directory.as_deref(), notes.data.as_path()),
        (Some(Path::new("/srv/notes")), Path::new("/srv/notes-data"))
    );
    assert_eq!(
        (notes.database_url.as_str(), &*notes.environment["MODE"]),
        ("postgresql://notes:secret@db/notes", "production")
    );
    let account = notes.account.as_ref().unwrap();
    assert_eq!((account.name.as_str(), account.uid > 0, account.gid), ("nobody", true, 54_322));
    let limits = (notes.limits.memory, notes.limits.processes, notes.limits.files);
    assert_eq!(limits, (Some(512 << 20), Some(64), Some(1024)));
    assert_eq!(notes.readable, [Path::new("/srv/shared"), Path::new("/opt/fonts")]);
    assert_eq!((notes.writable, notes.confined), (vec!["/srv/uploads".into()], false));
    assert_eq!(config.environments, [Path::new("/srv/envs"), Path::new("/opt/envs")]);
    assert!(!format!("{config:?}").contains("secret"), "a password is shown");
    assert_eq!(config.namespaces.len(), 2);
}

#[test]
fn an_empty_file_is_a_working_system() {
    let config = good("");
    assert_eq!(config.gateway.listen, ["127.0.0.1:8443".parse().unwrap()]);
    assert!(config.gateway.redirect_listen.is_empty() && config.gateway.trusted_proxies.is_empty());
    assert!(config.gateway.proxy_protocol.is_empty() && config.gateway.hosts.is_empty() && config.gateway.threads >= 1);
    assert_eq!(config.security.methods, SecurityLevel::Normal.methods());
    assert_eq!((config.tls.minimum, config.tls.certificates.len()), (TlsVersion::V12, 1));
    assert_eq!(
        (config.passwords.memory_kib, config.passwords.iterations, config.passwords.parallelism),
        (19_456, 2, 1)
    );
    assert_eq!(config.limits.body_bytes, 100 << 20);
    assert_eq!(config.store, Path::new("/srv/data/portcullis.sqlite3"));
    let root = config.namespace("root");
    assert_eq!(root.data, Path::new("/srv/data/namespaces/root"));
    assert!(root.account.is_none() && root.confined && root.limits == WorkerLimits::default());
    assert_eq!(config.environments, [Path::new("/srv/venvs")]);
    assert_eq!(root.database_url, "sqlite:////srv/data/namespaces/root/database.sqlite3");
}

#[test]
fn the_level_chooses_methods_and_tls() {
    let config = good("[security]\nlevel = \"locked-down\"\n");
    assert_eq!(config.security.methods, SecurityLevel::LockedDown.methods());
    assert_eq!(config.tls.minimum, TlsVersion::V13);
    let (_, warnings) = read("[security]\nmethods = [\"unauthenticated\", \"password\"]\n").unwrap();
    assert_eq!(
        warnings[0].to_string(),
        "portcullis.toml:2:11: level `normal` is widened by: unauthenticated (the level itself permits: password, token)"
    );
}

#[test]
fn the_template_loads_and_says_the_defaults() {
    for level in SecurityLevel::ALL {
        let text = template("0.0.0.0:443".parse().unwrap(), level, "certs/it's.pem", DEFAULT_KEY);
        let (config, problems) = read(&text).unwrap();
        assert_eq!(problems, []);
        assert_eq!((config.security.level, config.security.methods), (level, level.methods()));
        assert_eq!(config.gateway.listen, ["0.0.0.0:443".parse().unwrap()]);
        assert_eq!(config.tls.certificates[0].certificate, Path::new("/srv/certs/it's.pem"));
        // What is commented out is a key with its default: taking the marks away changes nothing but the machine's own.
        let uncommented: String = text
            .lines()
            .take_while(|line| !line.starts_with("# [namespace"))
            .map(|line| line.strip_prefix("# ").filter(|rest| rest.contains(" = ")).unwrap_or(line).to_owned() + "\n")
            .collect();
        let mut full = good(&uncommented);
        full.gateway.threads = config.gateway.threads;
        full.passwords.hashing_threads = config.passwords.hashing_threads;
        assert_eq!(format!("{full:?}"), format!("{config:?}"));
        let example = text.split_once("has one of its own, named like it.\n").unwrap().1;
        let example: String = example.lines().map(|line| format!("{}\n", line.trim_start_matches("# "))).collect();
        let example = example.replace("What rules", "# What rules");
        let example = good(&example);
        let sizes = (example.namespaces.len(), example.networks["office"].len(), example.paths["assets"].len());
        assert_eq!(sizes, (1, 2, 2));
    }
}

#[test]
fn every_slip_in_every_key_is_reported_where_it_stands() {
    let mut tried = 0;
    for (number, line) in FULL.lines().enumerate() {
        let header = line.starts_with('[');
        let Some(word) = line.trim_matches(['[', ']']).split([' ', '.']).next().filter(|word| !word.is_empty()) else {
            continue;
        };
        if ["MODE", "office", "gate", "assets"].contains(&word) || (header && ["tls", "namespace"].contains(&word)) {
            continue;
        }
        let column = 1 + line.find(word).unwrap();
        for at in 0..word.len() {
            for slip in [format!("{}{}", &word[..at], &word[at + 1..]), format!("{}q{}", &word[..at], &word[at + 1..])]
            {
                if slip == word {
                    continue;
                }
                let mut lines: Vec<&str> = FULL.lines().collect();
                let slipped = line.replacen(word, &slip, 1);
                lines[number] = &slipped;
                let problems = read(&lines.join("\n")).err().unwrap_or_default();
                let expected = format!("portcullis.toml:{}:{column}: unknown key `{slip}`", number + 1);
                let text = problems.iter().map(|problem| format!("{problem}\n")).collect::<String>();
                let found = text
                    .lines()
                    .any(|line| line.starts_with(&expected) && line.contains(&format!("did you mean `{word}`?")));
                assert!(found && problems.len() == 1, "{slipped}:\n{text}");
                tried += 1;
            }
        }
    }
    assert!(tried > 400, "only {tried}");
}

#[test]
fn values_out_of_reason_are_refused_with_the_reason() {
    check("[gateway]\nlisten = \":8443\"", &["`:8443` is not an address and a port", "[::]:443"]);
    check("[gateway]\nlisten = []", &["empty list"]);
    check("[forward_auth]\ntrusted = \"0.0.0.0/0\"", &["`0.0.0.0/0` is everybody"]);
    check("[forward_auth]\ntrusted = \"::/0\"", &["`::/0` is everybody"]);
    check("[gateway]\nlisten = [\"1.2.3.4:1\", \"1.2.3.4:1\"]", &["twice"]);
    check("[gateway]\nlisten = \"1.2.3.4:1\"\nredirect_listen = \"1.2.3.4:1\"", &["in `listen` too"]);
    check("[gateway]\ntrusted_proxies = \"10.0.0.1/8\"", &["did you mean `10.0.0.0/8`?"]);
    check("[gateway]\nhosts = \"a:443\"", &["has a port"]);
    check("[gateway]\nhosts = \"a b\"", &["is not a host name"]);
    check("[gateway]\nthreads = 0", &["from 1 to 64"]);
    check("[tls]\nminimum = \"1.1\"", &["is not a version of TLS that is spoken here", "did you mean `1.2`?"]);
    check("[[tls.certificate]]\ncertificate = \"a.pem\"", &["[tls.certificate] has no `key`"]);
    check("[security]\nlevel = \"lockeddown\"", &["did you mean `locked-down`?"]);
    check("[security]\nmethods = []", &["nobody could get in"]);
    check("[passwords]\nmemory_kib = 64", &["from 7168 to 4194304"]);
    check("[limits]\nbody_bytes = \"100MB\"", &["`body_bytes` has to be a size, not `100MB`", "100MiB"]);
    check("[timeouts]\nidle = \"never\"", &["`idle` has to be a duration, not `never`"]);
    check("[logs]\nlevel = \"verbose\"", &["is not a log level"]);
    check("[namespace.\"../x\"]", &["`../x` is not the name of a namespace"]);
    check("[namespace.x]\ndatabase_url = \"s3cret\"", &["`database_url` is not the URL"]);
    check("[namespace.x]\nuser = \"no such user\"", &["`no such user` is no user of /etc/passwd"]);
    check("[namespace.x]\nuser = \"root\"", &["`root` is root, from which nothing could be kept"]);
    check("[namespace.x]\ngroup = \"54322\"", &["[namespace.x] has no `user`"]);
    check("[namespace.x]\nprocesses = 64", &["[namespace.x] has no `user`"]);
    check("[namespace.x]\nmemory = \"1MiB\"", &["`memory`"]);
    check("[namespace.x]\nfiles = 3", &["`files`"]);
    check("namespace = 3", &["`namespace` has to be a table, not a whole number"]);
    let secret = read("[namespace.x]\ndatabase_url = \"s3cret\"").unwrap_err();
    assert!(!secret[0].to_string().contains("s3cret"));
}

#[test]
fn files_that_cannot_be_read_say_why() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let refused = |name: &str| load(&at(name)).unwrap_err()[0].clone();
    let missing = refused("portcullis.toml");
    assert!(
        missing.to_string().contains("portcullis.toml: cannot be read: no such file or directory (`portcullis init`")
    );
    fs::create_dir(at("dir.toml")).unwrap();
    assert!(refused("dir.toml").message.contains("is a directory"));
    fs::write(at("large.toml"), vec![b'#'; (4 << 20) + 1]).unwrap();
    assert!(refused("large.toml").message.contains("larger than 4 MiB"));
    fs::write(at("largest.toml"), vec![b'#'; 4 << 20]).unwrap();
    assert!(load(&at("largest.toml")).is_ok());
    fs::write(at("latin1.toml"), b"[tokens]\nissuer = \"caf\xe9\"\n").unwrap();
    let latin1 = refused("latin1.toml");
    assert_eq!((latin1.line, latin1.column), (2, 14), "{}", render(std::slice::from_ref(&latin1), false));
    assert!(latin1.message.contains("byte 0xe9"));
}

#[test]
fn groups_have_names_that_are_nothing_else_and_something_in_them() {
    for (text, words) in [
        ("[networks]\nOffice = \"10.0.0.0/8\"\n", "`Office` is not the name of a group"),
        ("[networks]\n\"10\" = \"10.0.0.0/8\"\n", "`10` is not the name of a group"),
        ("[networks]\noffice = []\n", "the group `office` is empty"),
        ("[networks]\noffice = \"10.0.0.1/8\"\n", "did you mean `10.0.0.0/8`?"),
        ("[paths]\nassets = \"static\"\n", "`static` is not a path: it does not begin with `/`"),
        ("[paths]\nassets = [\"/a\", \"/b*\"]\n", "never a part of one"),
    ] {
        check(text, &[words, "portcullis.toml:2:"]);
    }
}
