//! What one decision costs, by the number of rules: `cargo bench --bench decision`.
//!
//! A policy as large installations have it: areas with a role each, some open to everybody who signed in, a deny for
//! every tenth of them. Asked is in the middle of it, by somebody with two roles.

use std::{
    collections::{BTreeMap, BTreeSet},
    hint::black_box,
    sync::Arc,
};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::Version;
use portcullis::{
    model::{Method, MethodSet, Name, Principal, SecurityLevel, Verified},
    policy::{Application, Context, Question, load, verdict},
    target::Target,
    written::Source,
};

fn application(rules: usize) -> Arc<Application> {
    let mut text = "[app]\nname = \"/app\"\ndirectory = \".\"\nmodule = \"app\"\nmethods = [\"password\", \"token\"]\n\
                    default = \"signed-in\"\n"
        .to_owned();
    for n in 0..rules {
        text.push_str(&match n % 10 {
            9 => format!("[[deny]]\npath = \"/area{}/*/secret/**\"\nunless_who = \"role:auditor\"\n", n - 1),
            8 => format!("[[allow]]\npath = \"/area{n}/**\"\nwho = \"signed-in\"\n"),
            _ => format!(
                "[[allow]]\npath = \"/area{n}/*/items/*\"\nmethods = [\"GET\", \"POST\"]\nwho = \"role:r{n}\"\n"
            ),
        });
    }
    let source = Source { file: "policies/app.toml".into(), text, base: "/".into() };
    let context = Context {
        system: MethodSet::ALL,
        level: SecurityLevel::Normal,
        namespaces: &BTreeSet::new(),
        networks: &BTreeMap::new(),
        paths: &BTreeMap::new(),
        known: None,
        is_directory: &|_| true,
    };
    let (mut applications, _) = load(&[source], context).expect("a good policy");
    applications.remove(0)
}

fn decision(criterion: &mut Criterion) {
    let name = |name: &str| Name::parse(name).expect("a name");
    let mut group = criterion.benchmark_group("decision");
    for rules in [10, 1000, 10_000] {
        let app = application(rules);
        let middle = rules / 20 * 10;
        let principal = Principal::User(Arc::new(Verified {
            name: name("ann"),
            display: String::new(),
            email: String::new(),
            roles: vec![name("staff"), name(&format!("r{middle}"))],
            method: Method::Password,
            credential: None,
            applications: None,
            validity: portcullis::model::Validity::default(),
            encoded: Bytes::new(),
        }));
        let question = Question {
            system: MethodSet::ALL,
            principal: &principal,
            method: &http::Method::GET,
            from: [192, 0, 2, 7].into(),
        };
        for (outcome, path) in [
            ("by a rule", format!("/app/area{middle}/7/items/42")),
            ("denied", format!("/app/area{}/7/secret/42", middle + 8)),
            ("by default", "/app/elsewhere/7".to_owned()),
        ] {
            let target = Target::parse(path.parse().expect("a URI"), Version::HTTP_11, Some(b"localhost"))
                .expect("a path with one reading");
            let is_denied = verdict(&app, &target, &question).is_err();
            assert_eq!(is_denied, outcome == "denied", "{outcome} with {rules} rules");
            group.bench_function(BenchmarkId::new(outcome, rules), |bencher| {
                bencher.iter(|| verdict(black_box(&app), black_box(&target), black_box(&question)).is_ok());
            });
        }
    }
    group.finish();
}

criterion_group!(benches, decision);
criterion_main!(benches);
