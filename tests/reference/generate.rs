//! Random policies and requests for them.

use proptest::{prelude::*, sample::select};

pub const VERBS: [&str; 5] = ["GET", "POST", "HEAD", "OPTIONS", "PROPFIND"];
const WHO: [&str; 7] = ["anyone", "signed-in", "role:r", "role:s", "user:ann", "service:bot", "token:tok_1"];

fn path() -> impl Strategy<Value = String> {
    (prop::collection::vec(select(vec!["a", "b", "*"]), 0..4), any::<bool>()).prop_map(|(segments, below)| {
        let path =
            segments.iter().map(|segment| format!("/{segment}")).collect::<String>() + if below { "/**" } else { "" };
        if path.is_empty() { "/".to_owned() } else { path }
    })
}

fn some(of: &'static [&'static str], least: usize) -> impl Strategy<Value = Vec<&'static str>> {
    prop::sample::subsequence(of, least..=of.len().min(2))
}

fn key(name: &str, values: &[&str]) -> String {
    if values.is_empty() { String::new() } else { format!("{name} = {values:?}\n") }
}

/// A rule as text; `auth` is cut down to the methods that the application has.
pub fn rule(effect: &'static str, methods: &[&'static str]) -> impl Strategy<Value = String> + use<> {
    let methods = methods.to_vec();
    let who = if effect == "allow" { some(&WHO, 1).boxed() } else { some(&WHO, 0).boxed() };
    let unless = if effect == "deny" { some(&WHO[1..], 0).boxed() } else { Just(vec![]).boxed() };
    let auth = prop_oneof![3 => Just(vec![]), 1 => prop::sample::subsequence(methods.clone(), 1..=methods.len())];
    let from = prop_oneof![6 => Just(vec![]), 1 => Just(vec!["10.0.0.0/8"]), 1 => Just(vec!["192.0.2.1", "office"])];
    let paths = prop_oneof![
        8 => path().prop_map(|path| vec![path]),
        1 => (path(), path()).prop_map(|(a, b)| if a == b { vec![a] } else { vec![a, b] }),
        1 => path().prop_map(|path| vec!["assets".to_owned(), path]),
    ];
    let mode = prop_oneof![6 => Just(vec![]), 1 => Just(vec!["report"])];
    let mfa = prop_oneof![8 => Just(vec![]), 1 => Just(if effect == "allow" { vec!["15m"] } else { vec![] })];
    let spares = prop_oneof![5 => Just(false), 1 => Just(effect == "deny")];
    (paths, (some(&VERBS, 0), spares), who, unless, auth, from, mode, mfa).prop_map(
        move |(paths, (verbs, spares), who, unless, auth, from, mode, mfa)| {
            let one = |values: &[&'static str]| values.first().map(|value| (*value).to_owned());
            let keys = [
                one(&mode).map(|mode| format!("mode = {mode:?}\n")).unwrap_or_default(),
                one(&mfa).map(|age| format!("mfa = {age:?}\n")).unwrap_or_default(),
                key(if spares { "unless_methods" } else { "methods" }, &verbs),
                key("who", &who),
                key("unless_who", &unless),
                key("auth", &auth),
                key("from", &from),
            ];
            format!("[[{effect}]]\npath = {paths:?}\n{}", keys.concat())
        },
    )
}

/// A policy as text, mounted at `/`, `/m` or `/m/n`.
pub fn policy() -> impl Strategy<Value = String> {
    let methods = prop::sample::subsequence(vec!["unauthenticated", "password", "token"], 1..=3);
    let default = select(vec!["deny", "signed-in", "anyone", "role:r"]);
    (methods, default, some(&["r", "s"], 0), select(vec!["/", "/m", "/m/n"])).prop_flat_map(
        |(methods, default, app_roles, mount)| {
            let allows = prop::collection::vec(rule("allow", &methods), 0..7);
            let denies = prop_oneof![1 => Just(vec![]), 1 => prop::collection::vec(rule("deny", &methods), 0..4)];
            (allows, denies).prop_map(move |(allows, denies)| {
                format!(
                    "[app]\nname = {mount:?}\ndirectory = \"d\"\nmodule = \"m\"\ndefault = {default:?}\nmethods = {methods:?}\n{}{}{}",
                    key("app_roles", &app_roles),
                    allows.concat(),
                    denies.concat()
                )
            })
        },
    )
}

/// A request in one line: `GET /a/b as ann+r by password from 10.1.2.3`.
pub fn line() -> impl Strategy<Value = String> {
    let path = prop::collection::vec(select(vec!["a", "b", "c"]), 0..5);
    let who = select(vec!["anonymous", "anonymous", "ann", "ann+r", "zed", "zed+r+s", "service:bot", "service:bot+s"]);
    let by = select(vec!["password", "token", "token:tok_1"]);
    let from = select(vec!["10.1.2.3", "192.0.2.1", "::ffff:10.1.2.3", "2001:db8::1"]);
    (select(VERBS.to_vec()), path, any::<bool>(), who, by, from).prop_map(|(verb, path, slash, who, by, from)| {
        let by = if who.starts_with("service:") && by == "password" { "token" } else { by };
        let slash = if slash && !path.is_empty() { "/" } else { "" };
        format!("{verb} /{}{slash} as {who} by {by} from {from}", path.join("/"))
    })
}
