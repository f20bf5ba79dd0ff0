//! What loading makes of a file, and what it refuses.

use std::{sync::Arc, time::Duration};

use super::{super::Python, all, read, read_at};
use crate::{
    model::{Method, MethodSet, Name, SecurityLevel},
    policy::{Default_, Interface, Known, Limit, ServeFiles},
};

/// Every key there is.
const FULL: &str = r#"[app]
name = "/notes"
title = "Team notes"
runs = "here"
namespace = "notes"
directory = "../examples/notes"
module = "notes.wsgi"
callable = "create_app()"
interface = "wsgi"
python = "../.venv"
methods = ["password", "token"]
serve_files = "always"
workers = 2
threads = 8
default = "role:reader"
enabled = true
app_roles = ["Reader"]
pass_authorization = true
identity_headers = true
stream_bodies = true
body_bytes = "10MiB"
request_timeout = "30s"
start_timeout = "1m"
stop_timeout = 5
queue_timeout = "10s"
deadlock_timeout = "2m"
max_requests = 1000
max_memory = "512MiB"
preload = false
reload = false
limit = "600/m per address"

[app.environment]
MODE = "production"

[[allow]]
path = ["/orders/*", "assets"]
methods = ["GET"]
who = ["role:sales", "user:ann"]
auth = "password"
from = ["10.0.0.0/8", "office"]
limit = ["60/m per user", "9/d per token"]
mode = "enforce"

[[allow]]
path = "/vault/**"
who = "signed-in"
mfa = "15m"

[[deny]]
path = "/admin/export/**"
methods = "POST"
who = "signed-in"
unless_who = "role:auditor"
auth = "password"
from = "10.0.0.0/8"
mode = "report"

[[deny]]
path = "/orders/*"
unless_methods = ["GET"]

[[expect]]
request = "GET /notes/orders/7"
from = "10.1.2.3"
by = "password"
as = { anonymous = "sign-in", "user:ann" = "allow", "role:sales role:auditor" = "allow", signed-in = "deny" }

[[expect]]
request = "GET /notes/vault/x"
as = { "user:ann" = "mfa", "service:bot" = "mfa" }

[app.headers]
hsts = "30d"
frame = "deny"
nosniff = true
referrer = "no-referrer"
cache = "as-is"

[app.cors]
origins = ["https://app.example.org"]
methods = ["GET", "PUT"]
headers = ["authorization"]
expose = "etag"
credentials = true
max_age = "1h"
preflight = "application"
"#;

const SMALL: &str = "[app]\nname = \"/notes\"\ndirectory = \"../notes\"\nmodule = \"app\"\nmethods = \"password\"\n";

fn refused(files: &[(&str, &str)]) -> String {
    match read(files, MethodSet::ALL) {
        Ok(_) => "loads".to_owned(),
        Err(problems) => problems.iter().map(|problem| format!("{problem}\n")).collect(),
    }
}

/// The file with some lines more is refused in one place, with these words.
#[track_caller]
fn check(text: &str, words: &[&str]) {
    let refused = refused(&[("policies/notes.toml", text)]);
    assert!(words.iter().all(|words| refused.contains(words)), "{text}\nis refused with\n{refused}");
    assert_eq!(refused.lines().count(), 1, "{text}\nis refused with\n{refused}");
}

#[test]
fn every_key_is_read() {
    let (apps, warnings) =
        read(&[("policies/notes.toml", FULL)], MethodSet::ALL).unwrap_or_else(|p| panic!("{}", all(&p)));
    assert_eq!(all(&warnings).matches("warning: ").count(), 1, "{}", all(&warnings));
    let app = &apps[0];
    assert_eq!((&*app.name, app.title.as_str(), app.namespace.as_str()), ("/notes", "Team notes", "notes"));
    assert_eq!(app.directory.to_str(), Some("/srv/examples/notes"));
    assert_eq!(app.python, Some(Python::Path("/srv/.venv".into())));
    assert_eq!((app.module.as_str(), app.callable.as_str()), ("notes.wsgi", "create_app()"));
    assert_eq!(app.interface, Interface::Wsgi);
    assert_eq!(app.methods, [Method::Password, Method::Token].into_iter().collect());
    assert_eq!((app.serve_files, app.workers, app.threads), (ServeFiles::Always, 2, 8));
    assert_eq!(app.default, Default_::Role(Name::parse("reader").unwrap()));
    assert_eq!(app.app_roles, [Name::parse("reader").unwrap()]);
    assert!(app.enabled && app.pass_authorization && app.identity_headers && app.stream_bodies);
    assert_eq!((app.body_bytes, app.request_timeout), (Some(10 << 20), Some(Duration::from_secs(30))));
    assert_eq!((app.start_timeout, app.stop_timeout), (Some(Duration::from_mins(1)), Some(Duration::from_secs(5))));
    assert_eq!(app.environment["MODE"], "production");
    assert_eq!(app.hygiene.hsts().unwrap(), "max-age=2592000");
    assert!(app.cors.as_ref().is_some_and(|cors| !cors.at_gate()) && app.limits.len() == 1);
    let rules: Vec<_> = app.rules.iter().map(|rule| format!("{} {rule}", rule.id())).collect();
    assert_eq!(
        rules,
        [
            "policies/notes.toml:36 allow GET /orders/*, assets who role:sales, user:ann by password from 10.0.0.0/8, office \
             limit 60/m per user, 9/d per token",
            "policies/notes.toml:45 allow /vault/** who signed-in with a second factor within 15m",
            "policies/notes.toml:50 deny POST /admin/export/** who signed-in unless role:auditor by password from 10.0.0.0/8 (report only)",
            "policies/notes.toml:59 deny /orders/* but GET",
        ]
    );
}

#[test]
fn what_is_left_out_has_a_safe_default() {
    let (apps, _) = read(&[("policies/notes.toml", SMALL)], MethodSet::ALL).unwrap();
    let app = &apps[0];
    assert_eq!((app.title.as_str(), app.namespace.as_str(), app.callable.as_str()), ("/notes", "notes", "application"));
    assert_eq!(
        (app.default.clone(), app.serve_files, app.workers, app.threads),
        (Default_::Deny, ServeFiles::No, 1, 4)
    );
    assert!(app.enabled && !app.pass_authorization && !app.identity_headers && !app.stream_bodies);
    assert!(app.python.is_none() && app.body_bytes.is_none() && app.environment.is_empty() && app.app_roles.is_empty());
}

/// Every one-letter slip of a word, but for those that make another word of the same table.
fn slips(word: &str) -> Vec<String> {
    let letters: Vec<char> = word.chars().collect();
    let mut slips = vec![word.to_uppercase(), word.replace('_', "-"), word.replace('_', "")];
    for i in 0..letters.len() {
        let (before, after) = (&letters[..i], &letters[i + 1..]);
        slips.push(before.iter().chain(after).collect());
        slips.push(before.iter().chain([&letters[i], &letters[i]]).chain(after).collect());
        slips.push(before.iter().chain([&'q']).chain(after).collect());
        if let [next, after @ ..] = after {
            slips.push(before.iter().chain([next, &letters[i]]).chain(after).collect());
        }
    }
    slips.retain(|slip| slip != word && !slip.is_empty());
    slips
}

#[test]
fn every_slip_in_every_key_is_reported_where_it_stands_with_what_was_meant() {
    let mut tried = 0;
    for (number, line) in FULL.lines().enumerate() {
        let Some(word) = line.trim_matches(['[', ']']).split([' ', '.']).next().filter(|word| !word.is_empty()) else {
            continue;
        };
        if word == "MODE" || line.starts_with("[app.") {
            continue;
        }
        let column = 1 + line.find(word).unwrap();
        let is_a_key = |slip: &String| FULL.lines().any(|line| line.starts_with(&format!("{slip} = ")));
        for slip in slips(word).into_iter().filter(|slip| !is_a_key(slip)) {
            let slipped = line.replacen(word, &slip, 1);
            let mut lines: Vec<&str> = FULL.lines().collect();
            lines[number] = &slipped;
            if word == "app" {
                lines.truncate(lines.iter().position(|line| *line == "[app.headers]").unwrap());
                lines.retain(|line| *line != "[app.environment]" && !line.starts_with("MODE"));
            }
            let problems = refused(&[("p.toml", &lines.join("\n"))]);
            let expected = format!("p.toml:{}:{column}: unknown key `{slip}`", number + 1);
            let found = problems.lines().find(|problem| problem.starts_with(&expected));
            let meant = format!("did you mean `{word}`?");
            assert!(found.is_some_and(|found| found.contains(&meant)), "{slipped}: {problems}");
            assert_eq!(problems.lines().count(), 1, "one slip is one mistake: {problems}");
            tried += 1;
        }
    }
    assert!(tried > 800, "only {tried} slips");
}

#[test]
fn limits_stand_in_the_application_and_in_allows_and_nowhere_else() {
    let rule = |kind: &str, more: &str| format!("{SMALL}[[{kind}]]\npath = \"/\"\n{more}\n");
    let allow = rule("allow", "who = \"anyone\"\nlimit = [\"3/h per user\", \"9/d per token\"]");
    let (apps, _) =
        read(&[("p.toml", &allow.replace("[[", "limit = \"5/s per address\"\n[["))], MethodSet::ALL).unwrap();
    let texts = |limits: &[Limit]| limits.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(texts(&apps[0].limits), ["5/s per address"]);
    let limits = apps[0].rules.iter().next().unwrap().limits();
    assert_eq!(texts(limits), ["3/h per user", "9/d per token"]);
    // Where a rule stands is nothing that its counts depend on.
    let (moved, _) = read(&[("p.toml", &allow.replace("[[", "# a line more\n\n[["))], MethodSet::ALL).unwrap();
    let ids = |limits: &[Limit]| limits.iter().map(|limit| Arc::clone(&limit.id)).collect::<Vec<_>>();
    assert_eq!(ids(moved[0].rules.iter().next().unwrap().limits()), ids(limits));
    let words = ["policies/notes.toml:8:1:", "`limit` on a deny", "put it into an [[allow]]"];
    check(&rule("deny", "limit = \"3/h per user\""), &words);
    check(&format!("{SMALL}limit = 3\n"), &["policies/notes.toml:6:9:", "has to be a string, not a whole number"]);
    let reports = rule("allow", "who = \"signed-in\"\nmode = \"report\"\nlimit = \"3/h per user\"");
    let (_, warnings) = read(&[("p.toml", &reports)], MethodSet::ALL).unwrap();
    assert!(warnings.iter().any(|warning| warning.to_string().contains("only reports counts nothing")), "{warnings:?}");
}

/// The slips above are tried for each key that there is: those that are documented, and no others are.
#[test]
fn every_documented_key_is_among_those_that_are_tried() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let documented = std::fs::read_to_string(root.join("docs/policy.md")).unwrap();
    let cells = documented.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let plain = |key: &&str| key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let levels = ["minimal", "normal"];
    let keys: Vec<&str> = cells.map(|(key, _)| key).filter(plain).filter(|key| !levels.contains(key)).collect();
    assert!(keys.len() > 50, "{keys:?}");
    for key in keys {
        let is_tried =
            FULL.lines().any(|line| line.starts_with(&format!("{key} = ")) || line == format!("[app.{key}]"));
        assert!(is_tried, "`{key}` is documented and not tried");
    }
}

#[test]
fn an_asgi_application_cannot_have_its_bodies_streamed() {
    let (apps, _) = read(&[("p.toml", &format!("{SMALL}interface = \"asgi\"\n"))], MethodSet::ALL).unwrap();
    assert_eq!(apps[0].interface, Interface::Asgi);
    let words = ["policies/notes.toml:6:13:", "do not go together", "leave stream_bodies out"];
    check(&format!("{SMALL}interface = \"asgi\"\nstream_bodies = true\n"), &words);
    check(&format!("{SMALL}interface = \"ASGI\"\n"), &["policies/notes.toml:6:13:", "did you mean `asgi`?"]);
}

#[test]
fn two_allows_that_could_both_decide_are_refused_with_both_lines() {
    let allow = |path: &str, methods: &str| format!("[[allow]]\npath = {path:?}\nwho = \"anyone\"\n{methods}\n");
    let (get, post, head) = ("methods = [\"GET\"]", "methods = [\"POST\", \"GET\"]", "methods = [\"HEAD\"]");
    for (first, second) in [("", ""), ("", get), (get, post)] {
        check(
            &format!("{SMALL}{}{}", allow("/a/*", first), allow("/a/*", second)),
            &["lines 6 and 10", "`/a/*`", ":11:8:"],
        );
    }
    for (a, first, b, second) in
        [("/a", get, "/a", head), ("/a/*", "", "/a/**", ""), ("/a", "", "/*", ""), ("/a", "", "/A", "")]
    {
        let text = format!("{SMALL}{}{}", allow(a, first), allow(b, second));
        assert_eq!(refused(&[("p.toml", &text)]), "loads", "{a} {b}");
    }
}

#[test]
fn patterns_have_one_spelling() {
    for (path, words) in [
        ("/admin/", "ends with a slash"),
        ("//admin", "empty segment"),
        ("/a/../b", "`.` or `..` segment"),
        ("/%61dmin", "write it decoded"),
        ("/a?b=1", "no rule sees"),
        ("/a*", "never a part of one"),
        ("/**/a", "only be the last"),
        ("/a\\\\b", "backslash"),
        ("", "does not begin with `/`"),
    ] {
        let text = format!("{SMALL}[[allow]]\nwho = \"anyone\"\npath = \"{path}\"\n");
        check(&text, &["policies/notes.toml:8:8:", "is not a path", words]);
    }
    let deep = "/a".repeat(65);
    check(&format!("{SMALL}[[deny]]\npath = \"{deep}\"\n"), &["more than 64 segments"]);
}

#[test]
fn values_that_mean_nothing_are_refused_with_what_was_meant() {
    for (line, words) in [
        ("who = \"rol:x\"", "did you mean `role`?"),
        ("who = \"signedin\"", "did you mean `signed-in`?"),
        ("who = \"ann\"", "names nobody"),
        ("who = \"role:\"", "has no name after the colon"),
        ("who = \"token:ptc_secret\"", "its public id begins with tok_"),
        ("who = []", "is an empty list"),
        ("who = 3", "has to be a string, not a whole number"),
        ("who = \"anyone\"\nmethods = [\"get\"]", "did you mean `GET`?"),
        ("who = \"anyone\"\nmethods = []", "is an empty list"),
        ("who = \"anyone\"\nauth = \"pasword\"", "did you mean `password`?"),
        ("who = \"anyone\"\nauth = \"token\"", "token is not among them"),
        ("who = \"anyone\"\nfrom = \"10.0.0.1/8\"", "did you mean `10.0.0.0/8`?"),
        ("who = \"anyone\"\nfrom = \"::ffff:10.0.0.0/104\"", "write it as IPv4"),
        ("who = \"anyone\"\nfrom = \"localhost\"", "there is no group of networks `localhost`"),
        ("who = \"anyone\"\nfrom = \"ofice\"", "did you mean `office`?"),
        ("who = \"anyone\"\nmfa = \"soon\"", "has to be a duration"),
        ("who = \"anyone\"\nmfa = \"1s\"", "from 1m to 90d"),
        ("who = \"anyone\"\nmode = \"reprot\"", "did you mean `report`?"),
    ] {
        check(&format!("{SMALL}[[allow]]\npath = \"/x\"\n{line}\n"), &[words]);
    }
    check(&format!("{SMALL}[[deny]]\npath = \"/x\"\nunless_who = \"anyone\"\n"), &["never denies"]);
    for (key, value, words) in [
        ("name", "\"/notes/\"", "ends with a slash"),
        ("name", "\"/n*\"", "mounted at one path"),
        ("name", "\"/café\"", "no namespace can be called `café`"),
        ("module", "\"app.py\"", "leave .py out"),
        ("module", "\"../app\"", "is not a module"),
        ("callable", "\"os.system('x')\"", "is not a callable"),
        ("methods", "[]", "is an empty list"),
        ("methods", "[\"passwrd\"]", "did you mean `password`?"),
        ("namespace", "\"note\"", "did you mean `notes`?"),
        ("serve_files", "\"secure\"", "did you mean `secured`?"),
        ("workers", "0", "from 1 to 256"),
        ("default", "\"everyone\"", "is not a default"),
        ("default", "\"roles:x\"", "is not a default"),
        ("app_roles", "\"role:x\"", "leave `role:` out"),
        ("title", "\"a\\nb\"", "control character"),
        ("environment", "{ PORTCULLIS_X = \"1\" }", "set by the gate itself"),
        ("environment", "{ \"A=B\" = \"1\" }", "is not the name of a variable"),
        ("environment", "{ A = 1 }", "has to be a string, not a whole number"),
        ("request_timeout", "\"soon\"", "has to be a duration"),
    ] {
        let others: String =
            SMALL.lines().filter(|line| !line.starts_with(key)).map(|line| format!("{line}\n")).collect();
        check(&format!("{others}{key} = {value}\n"), &[words]);
    }
}

#[test]
fn what_is_missing_is_said_once_for_each_key() {
    let missing = refused(&[("p.toml", "[app]\n")]);
    for key in ["name", "directory", "module", "methods"] {
        assert!(missing.contains(&format!("[app] has no `{key}`")), "{missing}");
    }
    assert_eq!(missing.lines().count(), 4, "{missing}");
    check("", &["the file has no `app`"]);
    check(&format!("{SMALL}[[allow]]\nwho = \"anyone\"\n"), &[":6:1:", "[allow] has no `path`"]);
    check(&format!("{SMALL}[[allow]]\npath = \"/\"\n"), &["[allow] has no `who`"]);
    check(&format!("{SMALL}[allow]\npath = \"/\"\nwho = \"anyone\"\n"), &["begin each with [[allow]]"]);
}

#[test]
fn applications_do_not_meet_by_accident() {
    let named = |name: &str, more: &str| SMALL.replace("/notes", name).replace("../", "../x") + more;
    let (shared, root, nested) = ("namespace = \"shared\"\n", named("/root", ""), named("/team/a", ""));
    let clash = |first: &str, second: &str| refused(&[("policies/a.toml", first), ("policies/b.toml", second)]);
    let same = clash(&named("/a", ""), &named("/a", ""));
    assert!(same.starts_with("policies/b.toml:2:8: the name `/a` is taken by policies/a.toml:2"), "{same}");
    assert!(clash(&root, &named("/", "")).contains("its namespace would be `root`, which policies/a.toml runs in too"));
    assert!(clash(&nested, &named("/team-a", "")).contains("its namespace would be `team-a`"));
    assert_eq!(clash(&named("/a", shared), &named("/b", shared)), "loads");
    assert_eq!(clash(&named("/a", ""), &named("/a/b", "")), "loads");
}

#[test]
fn one_report_holds_the_mistakes_of_every_file() {
    let problems =
        refused(&[("policies/a.toml", "[app]\nnaem = 1\n"), ("policies/b.toml", "x = \n"), ("policies/c.toml", SMALL)]);
    assert!(problems.contains("policies/a.toml:2:1:") && problems.contains("policies/b.toml:1:"), "{problems}");
}

#[test]
fn what_works_but_surprises_is_a_warning() {
    let normal = MethodSet::ALL.without(MethodSet::NONE.with(Method::Unauthenticated));
    let warned = |text: &str| {
        let (_, warnings) = read(&[("p.toml", text)], normal).unwrap_or_else(|p| panic!("{}", all(&p)));
        assert!(warnings.iter().all(|warning| !warning.is_error()));
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(warned(SMALL), "");
    let public = warned(&SMALL.replace("\"password\"", "\"unauthenticated\""));
    assert!(
        public.contains("p.toml:5:11: the system policy forbids: unauthenticated (every request is refused"),
        "{public}"
    );
    let mixed = warned(&SMALL.replace("\"password\"", "[\"unauthenticated\", \"password\"]"));
    assert!(mixed.contains("nobody gets in that way"), "{mixed}");
    let doubled = warned(&format!("{SMALL}[[allow]]\npath = \"/notes/admin/**\"\nwho = \"signed-in\"\n"));
    assert!(
        doubled.contains("`/notes/admin/**` is /notes/notes/admin/**") && doubled.contains("write `/admin/**`"),
        "{doubled}"
    );
    assert!(warned(&SMALL.replace("../notes", "missing")).contains("there is no directory `missing`"));
}

#[test]
fn development_is_warned_of_and_refused_where_everything_is_locked_down() {
    let files = [("policies/notes.toml", &*format!("{SMALL}reload = true\n"))];
    let (apps, warnings) = read(&files, MethodSet::ALL).unwrap();
    let said = all(&warnings);
    assert!(apps[0].reload && said.contains("policies/notes.toml:6:10") && said.contains("for development"), "{said}");
    let problems = read_at(&files, MethodSet::ALL, SecurityLevel::LockedDown).unwrap_err();
    assert!(all(&problems).contains("the security level is locked-down"), "{}", all(&problems));
    let off = [("policies/notes.toml", &*format!("{SMALL}reload = false\ndefault = \"deny\"\n"))];
    let (apps, warnings) = read_at(&off, MethodSet::ALL, SecurityLevel::LockedDown).unwrap();
    assert!(!apps[0].reload && warnings.is_empty());
}

const ELSEWHERE: &str = "[app]\nname = \"/tickets\"\nruns = \"elsewhere\"\nmethods = \"password\"\n";

#[test]
fn an_application_that_runs_elsewhere_has_rules_and_nothing_to_run() {
    let two = [("a.toml", ELSEWHERE), ("b.toml", &ELSEWHERE.replace("/tickets", "/t\u{e9}l\u{e9}phone"))];
    let (apps, warnings) = read(&two, MethodSet::ALL).unwrap_or_else(|problems| panic!("{}", all(&problems)));
    assert!(warnings.is_empty() && apps.iter().all(|app| app.elsewhere && app.module.is_empty()));
    let slip = refused(&[("p.toml", &ELSEWHERE.replace("\"elsewhere", "\"elsewere"))]);
    assert!(slip.contains("p.toml:3:8: `elsewere` is not a place to run (did you mean `elsewhere`?)"), "{slip}");
}

#[test]
fn what_nobody_here_would_enforce_is_refused_for_an_application_that_runs_elsewhere() {
    let (_, keys) = FULL.split_once("namespace").unwrap();
    let keys = format!("namespace{}", keys.split("\n[").next().unwrap());
    let shared = ["methods", "default", "enabled", "app_roles", "limit"];
    for key in keys.lines().filter(|line| line.contains(" = ") && !line.starts_with("MODE")) {
        let word = key.split(' ').next().unwrap();
        if !shared.contains(&word) {
            check(&format!("{ELSEWHERE}{key}\n"), &[&format!("`{word}` is about an application that runs here")]);
        }
    }
    let more = [
        ("queue_timeout", "1"),
        ("deadlock_timeout", "1"),
        ("preload", "true"),
        ("reload", "false"),
        ("max_requests", "1"),
        ("max_memory", "\"16MiB\""),
    ];
    for (key, value) in more {
        check(&format!("{ELSEWHERE}{key} = {value}\n"), &[&format!("`{key}` is about an application that runs here")]);
    }
    let environment = format!("{ELSEWHERE}[app.environment]\nMODE = \"x\"\n");
    check(&environment, &["`environment` is about an application that runs here"]);
    for (table, line) in [("headers", "frame = \"deny\""), ("cors", "origins = \"any\"")] {
        let told = format!("{ELSEWHERE}[app.{table}]\n{line}\n");
        check(&told, &[&format!("`{table}` is about an application that runs here")]);
    }
}

#[test]
fn no_application_is_mounted_where_the_gate_itself_answers() {
    for name in ["/.portcullis", "/.portcullis/check", "/.portcullis/x/y"] {
        check(&SMALL.replace("/notes\"\nd", &format!("{name}\"\nd")), &["`.portcullis`, is the gate's own"]);
    }
    assert_eq!(
        refused(&[(
            "p.toml",
            &SMALL.replace("/notes\"\nd", "/.portcullisx\"\nd").replace("methods", "namespace = \"notes\"\nmethods")
        )]),
        "loads"
    );
}

/// The warnings of a policy that loads, one a line.
fn warned(more: &str) -> String {
    let text = format!("{}{more}", SMALL.replace("\"password\"", "[\"password\", \"token\"]"));
    let (_, warnings) = read(&[("p.toml", &text)], MethodSet::ALL).unwrap_or_else(|p| panic!("{}", all(&p)));
    warnings.iter().map(|warning| format!("{warning}\n")).collect()
}

#[test]
fn an_allow_that_never_decides_is_named_with_those_that_do() {
    let allow = |path: &str, more: &str| format!("[[allow]]\npath = {path}\nwho = \"signed-in\"\n{more}");
    let get = "methods = [\"GET\"]\n";
    // The first of two is always taken by others; the rules begin at line 6.
    for (rules, lines) in [
        ([allow("\"/a/**\"", ""), allow("[\"/a\", \"/a/*\", \"/a/*/**\"]", "")].concat(), "line 9"),
        ([allow("\"/a/**\"", get), allow("[\"/a\", \"/a/*\", \"/a/*/**\"]", "")].concat(), "line 10"),
        (
            [allow("\"/*/**\"", ""), allow("\"/*\"", ""), allow("\"/*/*\"", ""), allow("\"/*/*/**\"", "")].concat(),
            "lines 9, 12, 15",
        ),
    ] {
        let said = warned(&rules);
        assert!(said.starts_with("p.toml:7:8: this allow never decides: "), "{rules}{said}");
        let are = if lines.starts_with("lines") { "are" } else { "is" };
        assert!(said.contains(&format!("{lines} {are} always more specific")), "{rules}{said}");
        assert_eq!(said.lines().count(), 1, "{rules}{said}");
    }
    for rules in [
        [allow("\"/a/**\"", ""), allow("[\"/a\", \"/a/*\"]", "")].concat(),
        [allow("\"/a/**\"", ""), allow("[\"/a\", \"/a/b\", \"/a/*/**\"]", get)].concat(),
        [allow("\"/a/**\"", get), allow("[\"/a\", \"/a/b\", \"/a/b/**\"]", "")].concat(),
        [allow("\"/a/*\"", get), allow("\"/a/*\"", "methods = [\"HEAD\"]\n")].concat(),
        allow("\"/**\"", "methods = [\"PROPFIND\"]\n") + &allow("\"/*/**\"", get),
    ] {
        assert_eq!(warned(&rules), "", "{rules}");
    }
}

#[test]
fn an_allow_that_leaves_other_methods_to_something_more_open_says_so() {
    let get =
        |who: &str, more: &str| format!("[[allow]]\npath = \"/r/**\"\nmethods = [\"GET\"]\nwho = \"{who}\"\n{more}");
    let open = |default: &str, rules: &str| warned(&format!("default = \"{default}\"\n{rules}"));
    let said = open("signed-in", &get("role:finance", ""));
    assert!(
        said.contains("for other methods than GET the default, signed-in, decides here, and lets in more"),
        "{said}"
    );
    assert!(said.contains("[[deny]] path = \"/r/**\", unless_methods = [\"GET\"]"), "{said}");
    let spared = "[[deny]]\npath = \"/r/**\"\nunless_methods = [\"GET\"]\n";
    for silent in [
        open("signed-in", &(get("role:finance", "") + spared)),
        open("deny", &get("role:finance", "")),
        open("role:staff", &get("role:finance", "")),
        open("signed-in", &get("signed-in", "")),
    ] {
        assert_eq!(silent, "");
    }
    assert!(open("signed-in", &get("signed-in", "from = \"10.0.0.0/8\"\n")).contains("lets in more"));
    let above = get("role:x", "") + "[[allow]]\npath = \"/**\"\nwho = \"signed-in\"\n";
    assert!(
        open("deny", &above).contains("for other methods than GET line 11 decides here"),
        "{}",
        open("deny", &above)
    );
}

#[test]
fn a_deny_holds_for_all_methods_or_some_or_all_but_some() {
    let text = format!("{SMALL}[[deny]]\npath = \"/x\"\nmethods = \"GET\"\nunless_methods = \"POST\"\n");
    check(&text, &["`unless_methods` stands beside `methods`"]);
    check(
        &format!("{SMALL}[[allow]]\npath = \"/x\"\nwho = \"anyone\"\nunless_methods = \"GET\"\n"),
        &["unknown key `unless_methods`"],
    );
    check(&format!("{SMALL}[[deny]]\npath = \"/x\"\nunless_methods = \"get\"\n"), &["did you mean `GET`?"]);
}

#[test]
fn a_deny_that_nobody_passes_is_named_where_it_hides_an_allow() {
    let allow = "[[allow]]\npath = \"/a/**\"\nwho = \"signed-in\"\n";
    let deny = |path: &str, more: &str| format!("{allow}[[deny]]\npath = {path}\n{more}");
    let hidden = warned(&deny("[\"/a\", \"/a/**\"]", ""));
    assert_eq!(
        hidden,
        "p.toml:7:8: nobody gets this far: the deny of line 9 holds for everybody (it can go, unless the deny was meant to spare somebody (`unless_who`))\n"
    );
    let everything = warned(&deny("\"/**\"", ""));
    assert!(everything.starts_with("p.toml:10:8: this deny shadows everything") && everything.lines().count() == 1);
    for rules in [
        deny("\"/a/*\"", ""),
        deny("\"/a/**\"", "unless_who = \"role:x\"\n"),
        deny("\"/a/**\"", "methods = [\"GET\"]\n"),
        deny("\"/a/**\"", "from = \"10.0.0.0/8\"\n"),
        deny("\"/a/**\"", "auth = \"password\"\n"),
        deny("\"/a/**\"", "mode = \"report\"\n"),
        deny("\"/**\"", "who = \"user:ann\"\n"),
    ] {
        assert_eq!(warned(&rules), "", "{rules}");
    }
    let spared =
        warned("[[deny]]\npath = \"/a\"\nwho = [\"user:ann\", \"role:x\"]\nunless_who = [\"signed-in\", \"role:x\"]\n");
    assert!(spared.contains("spares everybody it names"), "{spared}");
}

#[test]
fn a_rule_that_nobody_can_meet_says_why() {
    for (rule, words) in [
        ("who = \"service:bot\"\nauth = \"password\"", "service:bot can only come by token"),
        ("who = \"anyone\"", "`anyone` means everybody who signed in here"),
        ("who = \"signed-in\"\nmfa = \"15m\"", "nobody can meet `mfa`"),
        ("who = \"signed-in\"\nmethods = [\"GET\", \"TRACE\"]", "TRACE never reaches an application"),
    ] {
        let said = warned(&format!("[[allow]]\npath = \"/a\"\n{rule}\n"));
        assert!(said.contains(words) && said.lines().count() == 1, "{rule}: {said}");
    }
}

#[test]
fn who_is_not_there_is_named_when_somebody_looked() {
    let rules = "[[allow]]\npath = \"/a\"\nwho = [\"role:sales\", \"role:slaes\", \"user:bob\", \"service:bot\", \"token:tok_1\"]\n";
    let text = SMALL.replace("\"password\"", "\"token\"") + "default = \"role:staff\"\n" + rules;
    let name = |name: &str| Name::parse(name).unwrap();
    let known = Known {
        roles: [name("sales")].into(),
        users: [name("ann")].into(),
        services: [name("bot")].into(),
        tokens: [].into(),
    };
    let (_, warnings) =
        super::read_knowing(&[("p.toml", &text)], MethodSet::ALL, SecurityLevel::Normal, Some(&known)).unwrap();
    let said: String = warnings.iter().map(|warning| format!("{warning}\n")).collect();
    for words in [
        "p.toml:6:11: there is no role `staff` (nobody can meet this until there is: `portcullis role add staff`)",
        "there is no role `slaes` (nobody can meet this; did you mean `role:sales`?)",
        "there is no user `bob`",
        "there is no token `tok_1`",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(said.lines().count(), 4, "{said}");
}

#[test]
fn a_group_holds_wherever_its_name_stands() {
    check(
        &format!("{SMALL}[[deny]]\npath = \"asets\"\n"),
        &[":7:8: there is no group of paths `asets`", "did you mean `assets`?"],
    );
    check(&format!("{SMALL}[[deny]]\npath = \"admin\"\n"), &["a path begins with a slash: `/admin`"]);
    check(&format!("{SMALL}[[deny]]\npath = [\"/a\", \"/a\"]\n"), &["`/a` stands twice"]);
    let twice = "[[allow]]\npath = \"assets\"\nwho = \"anyone\"\n[[allow]]\npath = \"/a/*\"\nwho = \"anyone\"\n";
    check(&format!("{SMALL}{twice}"), &["two allows for `/a/*` and every method: lines 6 and 9"]);
}

#[test]
fn where_everything_is_locked_down_the_default_is_written() {
    let problems = read_at(&[("p.toml", SMALL)], MethodSet::ALL, SecurityLevel::LockedDown).unwrap_err();
    assert!(all(&problems).contains("/notes has no `default`") && problems[0].line == 2, "{}", all(&problems));
    let written = format!("{SMALL}default = \"deny\"\n");
    assert!(read_at(&[("p.toml", &written)], MethodSet::ALL, SecurityLevel::LockedDown).is_ok());
}

#[test]
fn what_a_policy_expects_of_itself_has_to_hold() {
    let expect = |request: &str, more: &str| {
        format!("{SMALL}default = \"signed-in\"\n[[expect]]\nrequest = \"{request}\"\n{more}\n")
    };
    for good in [
        "as = { anonymous = \"sign-in\", signed-in = \"allow\", \"user:ann role:x\" = \"allow\" }",
        "as = { \"service:bot\" = \"deny\", \"token:tok_1\" = \"deny\" }",
        "by = \"token\"\nas = { signed-in = \"deny\" }",
    ] {
        assert_eq!(refused(&[("p.toml", &expect("GET /notes/x", good))]), "loads", "{good}");
    }
    check(
        &expect("GET /notes/x", "as = { signed-in = \"deny\" }"),
        &[
            ":9:20: signed-in is expected to get `deny`, and gets `allow`",
            "as somebody (password): decided by the default, signed-in",
        ],
    );
    // Routed like a request: what is the gate's own is nobody's, not even of an application at `/`.
    let root = expect("GET /.portcullis/check", "as = { signed-in = \"allow\" }").replace("/notes\"\nd", "/\"\nd");
    check(&root, &["`GET /.portcullis/check` is a path of no application, not of /"]);
    for (request, more, words) in [
        ("GET /notes/x", "", "[expect] has no `as`"),
        ("GET notes/x", "as = { anonymous = \"deny\" }", "it does not begin with `/`"),
        ("GET /notes/x", "as = {}", "`as` names nobody"),
        ("GET /notes/x", "as = { nobody = \"deny\" }", "`nobody` names nobody"),
        ("GET /notes/x", "as = { anyone = \"deny\" }", "`anyone` is nobody in particular"),
        ("GET /notes/x", "as = { \"user:a user:b\" = \"deny\" }", "names two at once"),
        ("GET /notes/x", "as = { anonymous = \"refuse\" }", "one of: allow, deny, sign-in, mfa"),
        ("GET /notes/x", "as = { anonymous = \"signin\" }", "did you mean `sign-in`?"),
        ("GET /notes/x", "from = \"here\"\nas = { anonymous = \"deny\" }", "`here` is not an address"),
        ("GET /notes/../x", "as = { anonymous = \"deny\" }", "is refused for everybody"),
        ("get /notes/x", "as = { anonymous = \"deny\" }", "did you mean `GET`?"),
        ("/notes/x", "as = { anonymous = \"deny\" }", "is not a method and a path"),
        ("GET /other/x", "as = { anonymous = \"deny\" }", "is a path of no application, not of /notes"),
    ] {
        check(&expect(request, more), &[words]);
    }
}
