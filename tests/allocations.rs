//! What the request path asks of the allocator. A program of its own, because it counts for the whole process.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use http::Version;
use portcullis::{
    model::{Method, MethodSet, Name, Principal, SecurityLevel, Verified},
    policy::{Context, Question, decide, load, verdict},
    target::Target,
    written::Source,
};

const POLICY: &str = r#"[app]
name = "/app"
directory = "."
module = "app"
methods = ["password", "token"]
default = "role:staff"

[[allow]]
path = ["/orders/*", "/orders/*/items/**"]
methods = ["GET", "PROPFIND"]
who = ["user:bob", "role:sales"]
from = ["10.0.0.0/8", "2001:db8::/32"]

[[allow]]
path = "/**"
methods = ["POST"]
who = "service:bot"

[[deny]]
path = "/orders/*/items/secret"
unless_who = "role:auditor"

[[deny]]
path = "/orders/**"
who = "role:intern"
mode = "report"
"#;

#[test]
fn a_decision_allocates_nothing() {
    let source = Source { file: "policies/app.toml".into(), text: POLICY.to_owned(), base: "/".into() };
    let context = Context {
        system: MethodSet::ALL,
        level: SecurityLevel::Normal,
        namespaces: &BTreeSet::new(),
        networks: &BTreeMap::new(),
        paths: &BTreeMap::new(),
        known: None,
        is_directory: &|_| true,
    };
    let (applications, _) = load(&[source], context).unwrap();
    let name = |name: &str| Name::parse(name).unwrap();
    let ann = Principal::User(Arc::new(Verified {
        name: name("ann"),
        display: String::new(),
        email: String::new(),
        roles: vec![name("sales"), name("staff")],
        method: Method::Password,
        credential: None,
        applications: None,
        validity: portcullis::model::Validity::default(),
        encoded: Bytes::new(),
    }));
    let target = |path: &str| Target::parse(path.parse().unwrap(), Version::HTTP_11, Some(b"localhost")).unwrap();
    for (path, principal, allowed) in [
        ("/app/orders/7", &ann, true),
        ("/app/orders/7/items/1/", &ann, true),
        ("/app/orders/7/items/secret", &ann, false),
        ("/app/elsewhere", &ann, true),
        ("/app/elsewhere", &Principal::Anonymous, false),
    ] {
        for method in [http::Method::GET, http::Method::HEAD, http::Method::from_bytes(b"PROPFIND").unwrap()] {
            let question = Question { system: MethodSet::ALL, principal, method: &method, from: [10, 0, 0, 5].into() };
            let judged = target(path);
            let counted = allocation_counter::measure(|| {
                assert_eq!(verdict(&applications[0], &judged, &question).is_ok(), allowed, "{method} {path}");
            });
            assert_eq!(counted.count_total, 0, "{method} {path}");
            let judged = target(path);
            let counted = allocation_counter::measure(|| {
                drop(decide(&applications[0], judged, &question));
            });
            assert_eq!(counted.count_total, 0, "a permit for {method} {path}");
        }
    }
    let counted = allocation_counter::measure(|| drop(target("/app/orders/7")));
    assert!(counted.count_total > 0, "the counter counts");
}
