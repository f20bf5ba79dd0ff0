//! The recipes of `policies/recipes/`: each loads without a warning that its text does not explain, keeps what it
//! expects of itself, and every case of its cases file holds.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use portcullis::{
    model::{MethodSet, SecurityLevel},
    policy::{self, Context},
    written::{Source, render},
};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/recipes")
}

fn source(name: &str) -> Source {
    let text = fs::read_to_string(directory().join(name)).unwrap();
    Source { file: format!("policies/recipes/{name}").into(), text, base: directory() }
}

#[test]
fn every_recipe_does_what_its_cases_say() {
    let mut tried = 0;
    let networks = ["10.0.0.0/8", "2001:db8::/32"].map(|network| network.parse().unwrap());
    let networks = BTreeMap::from([("office".to_owned(), networks.into())]);
    for entry in fs::read_dir(directory()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(recipe) = name.strip_suffix(".toml").filter(|name| !name.ends_with(".cases")) else { continue };
        let context = Context {
            system: MethodSet::ALL,
            level: SecurityLevel::LockedDown,
            namespaces: &BTreeSet::new(),
            networks: &networks,
            paths: &BTreeMap::new(),
            known: None,
            is_directory: &|path| path.is_dir(),
        };
        let (applications, warnings) =
            policy::load(&[source(&name)], context).unwrap_or_else(|problems| panic!("{}", render(&problems, false)));
        let explained = |warning: &str| recipe == "strong-admin" && warning.contains("nobody can meet `mfa`");
        let warnings: Vec<_> = warnings.into_iter().filter(|warning| !explained(&warning.message)).collect();
        assert!(warnings.is_empty(), "{}", render(&warnings, false));
        let cases = policy::cases(&source(&format!("{recipe}.cases.toml")))
            .unwrap_or_else(|problems| panic!("{}", render(&problems, false)));
        let app = &applications[0];
        for case in &cases {
            let failures = case.failures(app, MethodSet::ALL);
            assert!(failures.is_empty(), "{}", render(&failures, false));
            tried += case.count();
        }
        let readme = fs::read_to_string(directory().join("README.md")).unwrap();
        assert!(readme.contains(&format!("({name})")), "policies/recipes/README.md does not name {name}");
        let docs = fs::read_to_string(directory().join("../../docs/policy.md")).unwrap();
        assert!(docs.contains(&format!("recipes/{name}")), "docs/policy.md does not name {name}");
    }
    assert!(tried >= 50, "only {tried} cases");
}
