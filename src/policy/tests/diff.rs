//! What a change does, against brute force: every principal, every path of a universe, every method, every address.

use std::sync::Arc;

use proptest::{prelude::*, sample::select};

use super::{
    Asked, asked, read,
    reference::generate::{VERBS, policy},
    target,
};
use crate::{
    model::{Method, MethodSet},
    policy::{
        Application, Question,
        diff::{Asking, Comparison, Diff},
        verdict,
    },
};

/// Whether a request is let in, found as the gateway finds it.
fn allowed(apps: &[Arc<Application>], system: MethodSet, asked: &Asked) -> bool {
    let target = target(&asked.path);
    let owns = |app: &&Arc<Application>| app.mount.split(target.path()).is_some();
    let Some(app) = apps.iter().filter(owns).max_by_key(|app| app.name.trim_end_matches('/').len()) else {
        return false;
    };
    let question = Question { system, principal: &asked.principal, method: &asked.verb, from: asked.from };
    app.enabled && verdict(app, &target, &question).is_ok()
}

/// Everybody that the generator's rules can name, as the comparison and as a request calls them.
const EVERYBODY: [(&str, &str); 13] = [
    ("anonymous", "anonymous by password"),
    ("signed-in", "zed by password"),
    ("signed-in", "zed by token"),
    ("role:r", "zed+r by password"),
    ("role:r", "zed+r by token"),
    ("role:s", "zed+s by token"),
    ("user:ann", "ann by password"),
    ("user:ann", "ann by token"),
    ("service:bot", "service:bot by token"),
    ("token:tok_1", "zed by token:tok_1"),
    ("met", "ann+r+s by token:tok_1"),
    ("met", "service:bot+s by token:tok_1 only /m"),
    ("met", "yves+s+r by password"),
];

fn asking(who: &str) -> Asking {
    match who {
        "anonymous" => Asking::Anonymous,
        "signed-in" => Asking::SignedIn,
        named => Asking::Named(named.to_owned()),
    }
}

/// Versions that have much or little in common.
fn versions() -> impl Strategy<Value = (Vec<String>, Vec<String>)> {
    let version = || prop::collection::vec(policy(), 1..3);
    const EDITS: [(&str, &str); 7] = [
        ("10.0.0.0/8", "192.0.2.1"),
        ("\"office\"", "\"2001:db8::1\""),
        ("role:r", "role:s"),
        ("user:ann", "signed-in"),
        ("\"GET\"", "\"PROPFIND\""),
        ("auth = [\"password\"]", "auth = [\"token\"]"),
        ("mfa = \"15m\"", ""),
    ];
    let reworded = (version(), select(EDITS.to_vec())).prop_map(|(old, (from, to))| {
        let new = old.iter().map(|text| text.replace(from, to)).collect();
        (old, new)
    });
    let edited = (version(), 0usize..9).prop_map(|(old, drop)| {
        let edit = |text: &String| {
            let parts: Vec<&str> = text.split("[[").collect();
            let kept = parts.iter().enumerate().filter(|(number, _)| *number == 0 || *number != 1 + drop % parts.len());
            kept.map(|(_, part)| *part).collect::<Vec<_>>().join("[[")
        };
        let new = old.iter().map(edit).collect();
        (old, new)
    });
    prop_oneof![1 => (version(), version()), 1 => edited, 2 => reworded]
}

fn path() -> impl Strategy<Value = String> {
    let segments = prop::collection::vec(select(vec!["a", "b", "c"]), 0..5);
    (select(vec!["", "/m", "/m/n", "/o"]), segments, any::<bool>()).prop_map(|(mount, segments, slash)| {
        let path = mount.to_owned() + &segments.iter().map(|segment| format!("/{segment}")).collect::<String>();
        if path.is_empty() || slash { path + "/" } else { path }
    })
}

fn load(version: &[String]) -> Option<Vec<Arc<Application>>> {
    let files: Vec<_> = version.iter().enumerate().map(|(number, text)| (format!("{number}.toml"), text)).collect();
    let files: Vec<_> = files.iter().map(|(file, text)| (file.as_str(), text.as_str())).collect();
    read(&files, MethodSet::ALL).ok().map(|(apps, _)| apps)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_comparison_says_what_brute_force_finds(
        (old, new) in versions(),
        paths in prop::collection::vec(path(), 12),
        system in prop::sample::subsequence(Method::ALL.to_vec(), 1..=3),
    ) {
        let system: MethodSet = system.into_iter().collect();
        let (Some(before), Some(after)) = (load(&old), load(&new)) else { return Ok(()) };
        let mut comparison = Comparison::new(&before, &after, system);
        for (_, request) in EVERYBODY.iter().filter(|(who, _)| *who == "met") {
            comparison.meet((*request).to_owned(), &asked(&format!("GET / as {request}")).principal);
        }
        let diff = comparison.finish().unwrap();
        diff.check();
        for (who, request) in EVERYBODY {
            let asking = asking(who);
            let is = |found: &Asking| match found {
                Asking::Real(labels) => labels.iter().any(|label| label == request),
                named => *named == asking,
            };
            let named = match &asking {
                Asking::Named(name) if who != "met" => (old.concat() + &new.concat()).contains(&format!("\"{name}\"")),
                _ => true,
            };
            for path in paths.iter().filter(|_| named) {
                for verb in VERBS.iter().chain(&["MADE-UP"]) {
                    for from in ["10.1.2.3", "192.0.2.1", "2001:db8::1", "::ffff:10.1.2.3", "::1"] {
                        let asked = asked(&format!("{verb} {path} as {request} from {from}"));
                        if !system.contains(asked.principal.method()) && who != "anonymous" {
                            continue;
                        }
                        let (could, can) = (allowed(&before, system, &asked), allowed(&after, system, &asked));
                        let expected = if could == can { vec![] } else { vec![can] };
                        prop_assert_eq!(
                            diff.of(is, &asked), expected,
                            "{} {} as {} from {}\n{}\n---\n{}", verb, path, request, from, old.join("--\n"), new.join("--\n")
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_comes_of_nothing(old in prop::collection::vec(policy(), 1..3)) {
        let Some(apps) = load(&old) else { return Ok(()) };
        let again = load(&old).unwrap();
        prop_assert!(Comparison::new(&apps, &again, MethodSet::ALL).finish().unwrap().changes().is_empty());
    }
}

const HEAD: &str = "[app]\nname = \"/notes\"\ndirectory = \"d\"\nmodule = \"m\"\nmethods = [\"password\", \"token\"]\n";

fn told(old: &str, new: &str) -> Vec<String> {
    let load = |text: &str| match text {
        "" => Vec::new(),
        text => load(&[format!("{HEAD}{text}")]).unwrap(),
    };
    let (old, new) = (load(old), load(new));
    let diff = Comparison::new(&old, &new, MethodSet::ALL).finish().unwrap();
    diff.changes().iter().map(|change| line(&diff, change)).collect()
}

fn line(diff: &Diff<'_>, change: &crate::policy::diff::Change) -> String {
    let who = match &change.who {
        Asking::Anonymous => "anonymous".to_owned(),
        Asking::SignedIn => "signed-in".to_owned(),
        Asking::Named(name) => name.clone(),
        Asking::Real(names) => names.join(", "),
    };
    let verbs = diff.verbs(change).map_or_else(|| "every method".to_owned(), |verbs| verbs.join(", "));
    let by = change.by.map(|by| format!(" by {by}")).unwrap_or_default();
    let from = diff.from(change).map(|from| format!(" from {from}")).unwrap_or_default();
    let sign = if change.gained { '+' } else { '-' };
    format!("{who} {sign} {verbs} {}{by}{from}", diff.paths(change).join(" and "))
}

#[test]
fn changes_are_told_in_few_words() {
    let admin = "[[allow]]\npath = \"/admin/**\"\nwho = \"role:admin\"\n";
    assert_eq!(told(admin, admin), [""; 0]);
    assert_eq!(told("", admin), ["role:admin + every method /notes/admin/**"]);
    assert_eq!(told(admin, "enabled = false"), ["role:admin - every method /notes/admin/**"]);
    let narrower = "[[allow]]\npath = \"/admin/**\"\nwho = \"role:admin\"\nauth = \"token\"\nfrom = \"10.0.0.0/8\"\n";
    assert_eq!(
        told(admin, narrower),
        [
            "role:admin - every method /notes/admin/** by password",
            "role:admin - every method /notes/admin/** by token from anywhere but 10.0.0.0/8",
        ]
    );
    let export = format!("{admin}[[deny]]\npath = \"/admin/export/**\"\n");
    assert_eq!(told("", &export), ["role:admin + every method /notes/admin/** but not /notes/admin/export/**"]);
    let below = format!("{admin}[[deny]]\npath = \"/admin/*\"\n");
    assert_eq!(told(admin, &below), ["role:admin - every method /notes/admin/ and /notes/admin/*",]);
    let reading = "default = \"signed-in\"\n[[allow]]\npath = \"/**\"\nmethods = [\"GET\"]\nwho = \"signed-in\"\n";
    let writing = format!(
        "{reading}[[allow]]\npath = \"/**\"\nmethods = [\"POST\", \"PUT\", \"PATCH\", \"DELETE\"]\nwho = \"role:editor\"\n"
    );
    assert_eq!(told(reading, &writing), ["signed-in - POST, PUT, DELETE, PATCH /notes/**"]);
}

#[test]
fn every_word_of_a_rule_makes_a_difference() {
    let rule = |keys: &str| format!("default = \"signed-in\"\n[[allow]]\npath = \"/x\"\n{keys}\n");
    let pairs = [
        ("who = \"role:a\"", "who = \"role:b\""),
        ("who = \"role:a\"\nauth = \"token\"", "who = \"role:a\"\nauth = \"password\""),
        ("who = \"role:a\"\nfrom = \"10.0.0.0/8\"", "who = \"role:a\"\nfrom = \"10.0.0.0/9\""),
        ("who = \"role:a\"\nmfa = \"15m\"", "who = \"role:a\""),
        ("who = \"role:a\"\nmode = \"report\"", "who = \"role:a\""),
        ("who = \"role:a\"\nmethods = \"GET\"", "who = \"role:a\""),
    ];
    for (old, new) in pairs {
        assert_ne!(told(&rule(old), &rule(new)), [""; 0], "{old} and {new}");
    }
    let deny = |keys: &str| format!("default = \"signed-in\"\n[[deny]]\npath = \"/x\"\n{keys}\n");
    assert_ne!(told(&deny("unless_who = \"role:a\""), &deny("unless_who = \"role:b\"")), [""; 0]);
    for (old, new) in
        [("default = \"deny\"", "default = \"signed-in\""), ("app_roles = [\"a\"]", "app_roles = [\"b\"]")]
    {
        let with = |key: &str| format!("{key}\n[[allow]]\npath = \"/x\"\nwho = \"role:a\"\n");
        assert_ne!(told(&with(old), &with(new)), [""; 0], "{old} and {new}");
    }
}

#[test]
fn an_application_mounted_inside_another_takes_its_paths() {
    let outer = format!("{HEAD}default = \"signed-in\"\n");
    let inner = outer.replace("/notes", "/notes/v2").replace("signed-in", "role:new");
    let (old, new) = (load(std::slice::from_ref(&outer)).unwrap(), load(&[outer, inner]).unwrap());
    let diff = Comparison::new(&old, &new, MethodSet::ALL).finish().unwrap();
    let lines: Vec<_> =
        diff.changes().iter().map(|change| format!("{} {}", change.application, line(&diff, change))).collect();
    assert_eq!(lines, ["/notes/v2 signed-in - every method /notes/v2/**"]);
}

#[test]
fn too_many_kinds_of_paths_are_refused_and_not_counted_out() {
    let names = |prefix: char| (0..40).map(|n| format!("{prefix}{n}")).collect::<Vec<_>>();
    let mut text = String::from(HEAD);
    for depth in 0..4 {
        for name in names('x') {
            text += &format!("[[allow]]\npath = \"{}/{name}\"\nwho = \"signed-in\"\n", "/*".repeat(depth));
        }
    }
    let apps = load(&[text]).unwrap();
    let refused = Comparison::new(&[], &apps, MethodSet::ALL).finish().err().unwrap().to_string();
    assert!(refused.contains("more than 100000 kinds of paths"), "{refused}");
}
