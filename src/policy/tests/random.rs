//! Random policies and requests: the live decision, its explanation and the slow reference agree.

use proptest::{prelude::*, sample::select};

use super::{Asked, all, answer, asked, read, reference::Reference};
use crate::{
    model::{Method, MethodSet},
    policy::Application,
};
use std::sync::Arc;

pub(super) const VERBS: [&str; 5] = ["GET", "POST", "HEAD", "OPTIONS", "PROPFIND"];
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
fn rule(effect: &'static str, methods: &[&'static str]) -> impl Strategy<Value = String> + use<> {
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
    (paths, some(&VERBS, 0), who, unless, auth, from, mode, mfa).prop_map(
        move |(paths, verbs, who, unless, auth, from, mode, mfa)| {
            let one = |values: &[&'static str]| values.first().map(|value| (*value).to_owned());
            let keys = [
                one(&mode).map(|mode| format!("mode = {mode:?}\n")).unwrap_or_default(),
                one(&mfa).map(|age| format!("mfa = {age:?}\n")).unwrap_or_default(),
                key("methods", &verbs),
                key("who", &who),
                key("unless_who", &unless),
                key("auth", &auth),
                key("from", &from),
            ];
            format!("[[{effect}]]\npath = {paths:?}\n{}", keys.concat())
        },
    )
}

pub(super) fn policy() -> impl Strategy<Value = String> {
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

fn line() -> impl Strategy<Value = String> {
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

fn below(mount: &str, line: &str) -> Asked {
    let mut asked = asked(line);
    asked.from = asked.from.to_canonical();
    if mount != "/" {
        asked.path = if asked.path == "/" { mount.to_owned() } else { format!("{mount}{}", asked.path) };
    }
    asked
}

/// Everybody there could be, by one method, asking the same.
fn somebody_gets_in(app: &Arc<Application>, system: MethodSet, line: &str, by: Method) -> bool {
    let (head, from) = line.split_once(" as ").unwrap();
    let from = from.split_once(" from ").unwrap().1;
    let ids: &[&str] = if by == Method::Token { &["token", "token:tok_1"] } else { &["password"] };
    let users = ["ann", "zed", "service:bot"].into_iter().filter(|who| by == Method::Token || !who.contains(':'));
    let everybody = users.flat_map(|who| ["", "+r", "+s", "+r+s"].map(|roles| format!("{who}{roles}")));
    everybody
        .flat_map(|who| ids.iter().map(move |id| format!("{head} as {who} by {id} from {from}")))
        .any(|line| answer(app, system, &below(app.mount.as_str(), &line)).starts_with("allowed"))
}

fn agrees(live: &str, reference: &str) -> bool {
    let reference = reference.replace("40?", &live[..3]);
    if reference.contains(", would be ") {
        return live == reference;
    }
    live == reference || live.strip_prefix(&reference).is_some_and(|rest| rest.starts_with(' '))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn decide_explain_and_the_reference_agree(
        text in policy(),
        lines in prop::collection::vec(line(), 8),
        system in prop::sample::subsequence(Method::ALL.to_vec(), 0..=3),
    ) {
        let system: MethodSet = system.into_iter().collect();
        let reference = Reference::read(&text);
        let (apps, _) = match read(&[("p.toml", &text)], system) {
            Ok(loaded) => loaded,
            Err(problems) => {
                prop_assert!(reference.overlaps(), "refused for nothing: {}", all(&problems));
                return Ok(());
            }
        };
        prop_assert!(!reference.overlaps(), "two allows decide:\n{}", text);
        for line in &lines {
            let (app, asked) = (&apps[0], below(apps[0].mount.as_str(), line));
            let live = answer(app, system, &asked);
            let slow = reference.answer(system, &asked);
            prop_assert!(agrees(&live, &slow), "{}\nlive {}\nslow {}\n{}", line, live, slow, text);
            if live.contains("allowed by") || !line.contains(" as anonymous ") {
                prop_assert!(!live.starts_with("401"), "{} {}", line, live);
                continue;
            }
            // 401 is a promise that signing in can help, 403 that it cannot.
            for by in [Method::Password, Method::Token] {
                let (helps, offered) = (somebody_gets_in(app, system, line, by), live.starts_with("401") && live.contains(by.word()));
                prop_assert!(offered || !helps, "{line}: {live} does not offer {by}\n{text}");
                prop_assert!(helps || !offered || reference.has_denies() || text.contains("mfa = "), "{line}: {live} offers {by} for nothing\n{text}");
            }
        }
    }

    #[test]
    fn a_deny_never_allows(text in policy(), deny in rule("deny", &["password", "token"]), lines in prop::collection::vec(line(), 8)) {
        let more = format!("{text}{deny}");
        let (Ok((before, _)), Ok((after, _))) = (read(&[("p.toml", &text)], MethodSet::ALL), read(&[("p.toml", &more)], MethodSet::ALL))
        else { return Ok(()) };
        for line in &lines {
            let asked = below(before[0].mount.as_str(), line);
            let enforced = |app| answer(app, MethodSet::ALL, &asked).split(", would be ").next().unwrap().to_owned();
            let (before, after) = (enforced(&before[0]), enforced(&after[0]));
            prop_assert!(before == after || after.contains("denied-by-rule"), "{line}: {before} became {after}\n{more}");
        }
    }

    #[test]
    fn the_order_of_rules_decides_nothing(text in policy(), turn in 1usize..9, lines in prop::collection::vec(line(), 8)) {
        let mut parts: Vec<&str> = text.split("[[").collect();
        parts[1..].reverse();
        let count = parts.len() - 1;
        if count > 0 { parts[1..].rotate_left(turn % count); }
        let turned = parts.join("[[");
        let (Ok((first, _)), Ok((second, _))) = (read(&[("p.toml", &text)], MethodSet::ALL), read(&[("p.toml", &turned)], MethodSet::ALL))
        else { return Ok(()) };
        for line in &lines {
            let asked = below(first[0].mount.as_str(), line);
            // When several denies hold, which is named follows the file; that they hold does not.
            let verdict = |app| {
                let answer = answer(app, MethodSet::ALL, &asked);
                let enforced = answer.split(", would be ").next().unwrap();
                if enforced.contains("denied-by-rule") { enforced[..3].to_owned() } else { enforced.to_owned() }
            };
            prop_assert_eq!(verdict(&first[0]), verdict(&second[0]));
        }
    }
}
