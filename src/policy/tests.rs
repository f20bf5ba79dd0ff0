//! Tables through one `check`, random policies against a slow reference, and what loading refuses.

mod diff;
mod loading;
mod random;
#[path = "../../tests/reference/mod.rs"]
mod reference;
mod tables;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    sync::Arc,
};

use http::{Method as Verb, Version};

use super::{Application, Context, Known, Question, decide, explain, load, rule::list};
use crate::{
    model::{Method, MethodSet, Name, Principal, SecurityLevel, Verified},
    target::{Pattern, Target},
    written::{Problem, Source},
};

/// A request in one line: `GET /notes/admin/x as ann+sales by token:tok_1 from 10.0.0.5`.
///
/// `as` is `anonymous`, `ann+role+role` or `service:bot+role`; `by` is `password` (the default), `token` or `token:ID`;
/// `only` names the applications a token is good for.
pub(super) struct Asked {
    pub verb: Verb,
    pub path: String,
    pub principal: Principal,
    pub from: IpAddr,
}

pub(super) fn asked(line: &str) -> Asked {
    let mut words = line.split(' ');
    let verb = Verb::from_bytes(words.next().unwrap().as_bytes()).unwrap();
    let path = words.next().unwrap().to_owned();
    let (mut who, mut by, mut from, mut only) = ("anonymous", "password", "127.0.0.1", None);
    while let Some(word) = words.next() {
        let value = words.next().unwrap();
        match word {
            "as" => who = value,
            "by" => by = value,
            "from" => from = value,
            "only" => only = Some(value),
            _ => panic!("{word} in {line}"),
        }
    }
    Asked { verb, path, principal: principal(who, by, only), from: from.parse().unwrap() }
}

/// The same for the slow reference.
pub(super) fn naive(asked: &Asked) -> reference::Naive {
    let verified = asked.principal.verified();
    reference::Naive {
        verb: asked.verb.to_string(),
        path: target(&asked.path).path().to_string(),
        name: asked.principal.name().map(ToOwned::to_owned),
        is_service: matches!(asked.principal, Principal::Service(_)),
        roles: verified.map(|v| v.roles.iter().map(ToString::to_string).collect()).unwrap_or_default(),
        by: asked.principal.method().word().to_owned(),
        credential: verified.and_then(|v| v.credential.as_deref().map(ToOwned::to_owned)),
        from: asked.from.to_canonical(),
        only: verified.and_then(|v| v.applications.as_ref()).map(|only| only.iter().map(ToString::to_string).collect()),
    }
}

fn principal(who: &str, by: &str, only: Option<&str>) -> Principal {
    if who == "anonymous" {
        return Principal::Anonymous;
    }
    let mut parts = who.trim_start_matches("service:").split('+');
    let (by, id) = by.split_once(':').map_or((by, None), |(by, id)| (by, Some(id)));
    let verified = Arc::new(Verified {
        name: Name::parse(parts.next().unwrap()).unwrap(),
        display: String::new(),
        email: String::new(),
        roles: parts.map(|role| Name::parse(role).unwrap()).collect(),
        method: Method::from_word(by).unwrap(),
        credential: (by == "token").then(|| id.unwrap_or("tok_9").into()),
        validity: crate::model::Validity::default(),
        applications: only.map(|only| only.split(',').map(Into::into).collect()),
        encoded: bytes::Bytes::new(),
    });
    if who.starts_with("service:") { Principal::Service(verified) } else { Principal::User(verified) }
}

pub(super) fn target(path: &str) -> Target {
    Target::parse(path.parse().unwrap(), Version::HTTP_11, Some(b"localhost")).unwrap()
}

pub(super) fn read(files: &[(&str, &str)], system: MethodSet) -> super::Loaded {
    read_at(files, system, SecurityLevel::Normal)
}

pub(super) fn read_at(files: &[(&str, &str)], system: MethodSet, level: SecurityLevel) -> super::Loaded {
    read_knowing(files, system, level, None)
}

pub(super) fn read_knowing(
    files: &[(&str, &str)],
    system: MethodSet,
    level: SecurityLevel,
    known: Option<&Known>,
) -> super::Loaded {
    let sources: Vec<_> = files
        .iter()
        .map(|(file, text)| Source { file: (*file).into(), text: (*text).to_owned(), base: "/srv/policies".into() })
        .collect();
    let namespaces = BTreeSet::from(["notes".to_owned(), "shared".to_owned()]);
    let is_directory = |path: &Path| !path.ends_with("missing");
    let networks =
        BTreeMap::from([("office".to_owned(), ["10.0.0.0/8", "2001:db8::/32"].map(|n| n.parse().unwrap()).into())]);
    let paths = BTreeMap::from([("assets".to_owned(), ["/b/**", "/a/*"].map(|p| Pattern::parse(p).unwrap()).into())]);
    load(
        &sources,
        Context {
            system,
            level,
            namespaces: &namespaces,
            networks: &networks,
            paths: &paths,
            known,
            is_directory: &is_directory,
        },
    )
}

pub(super) fn application(text: &str) -> Arc<Application> {
    let (mut applications, _) =
        read(&[("policies/notes.toml", text)], MethodSet::ALL).unwrap_or_else(|problems| panic!("{}", all(&problems)));
    applications.remove(0)
}

pub(super) fn all(problems: &[Problem]) -> String {
    crate::written::render(problems, false)
}

/// The live decision in one line: `allowed by /admin/**`, `403 denied-by-rule /x`, `401 credentials-required default token`.
pub(super) fn answer(app: &Arc<Application>, system: MethodSet, asked: &Asked) -> String {
    let q = Question { system, principal: &asked.principal, method: &asked.verb, from: asked.from };
    let explained = explain(app, &target(&asked.path), &q);
    let pattern = |id: Option<&crate::model::RuleId>| {
        let rule = id.and_then(|id| app.rules.iter().find(|rule| rule.id() == id));
        rule.map_or_else(|| "default".to_owned(), |rule| list(&rule.paths))
    };
    let mut reported = None;
    let live = match decide(app, target(&asked.path), &q) {
        Ok(permit) => {
            reported = permit.would_refuse().cloned();
            assert_eq!(format!("{}{}", permit.script_name(), permit.path_info()), permit.target().path().as_str());
            let would = permit
                .would_refuse()
                .map(|denial| format!(", would be {} {}", denial.reason, pattern(denial.rule.as_ref())));
            format!("allowed by {}{}", pattern(permit.rule()), would.unwrap_or_default())
        }
        Err(denial) => {
            let status = if denial.sign_in.is_some() { "401" } else { "403" };
            let methods = denial.sign_in.map(|methods| format!(" {methods}")).unwrap_or_default();
            format!("{status} {} {}{methods}", denial.reason, pattern(denial.rule.as_ref()))
        }
    };
    assert_eq!(explained.allowed, live.starts_with("allowed"), "explain differs from {live}:\n{explained}");
    let told = explained.would_refuse.as_ref().map(|would| would.reason);
    assert_eq!(told, reported.map(|denial| denial.reason.id()), "explain differs from {live}:\n{explained}");
    if let Some(reason) = explained.reason {
        assert!(
            live.starts_with(&format!("{} {reason} ", explained.status)),
            "explain differs from {live}:\n{explained}"
        );
    }
    live
}
