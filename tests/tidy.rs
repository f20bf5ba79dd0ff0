//! The architecture, held by a test: who may use whom, where each foreign crate lives, and what no file may hold.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Rooms of the main package and their floors; a room may use rooms below its own floor, or on it where
/// [`NEVER`] does not say otherwise.
const FLOORS: [(&str, u8); 25] = [
    ("main", 7),
    ("cli", 6),
    ("serve", 5),
    ("gateway", 4),
    ("control", 4),
    ("authn", 3),
    ("app", 3),
    ("applications", 3),
    ("snapshot", 3),
    ("audit", 3),
    ("certificates", 3),
    ("edits", 3),
    ("policy", 2),
    ("store", 2),
    ("config", 2),
    ("telemetry", 3),
    ("target", 0),
    ("written", 0),
    ("model", 0),
    ("clock", 0),
    ("secret", 0),
    ("shutdown", 0),
    ("wire", 0),
    ("worker", 0),
    ("lib", 8),
];

/// What must not happen even where the floors would allow it, and why.
const NEVER: [(&str, &[&str], &str); 6] = [
    ("gateway", &["store", "control", "cli"], "the gateway keeps answering when administration is slow or broken"),
    ("control", &["gateway", "app"], "a defect in administration must not reach a live connection"),
    (
        "policy",
        &["config", "store", "authn", "audit", "clock", "telemetry"],
        "a verdict is reproducible from its inputs",
    ),
    ("app", &["authn", "store", "audit"], "an application is served because of a Permit, and for no other reason"),
    ("store", &["config", "policy"], "the store keeps what it is given and judges nothing"),
    ("config", &["store"], "files and store are two sources; they meet above"),
];

/// Foreign crates that live in one place, so that replacing one is a change in one place.
const HOMES: [(&str, &[&str]); 21] = [
    ("argon2", &["authn/"]),
    ("arc_swap", &["snapshot.rs", "authn/"]),
    ("clap", &["cli/"]),
    ("clap_complete", &["cli/"]),
    ("clap_mangen", &["cli/"]),
    ("close_fds", &["app/confine.rs"]),
    ("dialoguer", &["cli/"]),
    ("governor", &["gateway/limits.rs"]),
    ("hyper", &["gateway/", "app/"]),
    ("jsonwebtoken", &["authn/jwt"]),
    ("landlock", &["app/confine.rs"]),
    ("listenfd", &["gateway/listener.rs"]),
    ("notify", &["app/watch.rs", "edits.rs"]),
    ("ppp", &["gateway/listener.rs"]),
    ("pyo3", &["worker/"]),
    ("rcgen", &["control/"]),
    ("rustls", &["certificates", "gateway/tls.rs", "main.rs"]),
    ("sqlx", &["store/"]),
    ("tokio_rustls", &["gateway/tls.rs"]),
    ("tower_http", &["app/static_files.rs"]),
    ("x509_parser", &["certificates"]),
];

/// Every Rust file below `src`, relative to it, with its text up to its tests.
fn sources() -> BTreeMap<String, String> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("a readable directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    assert!(found.len() > 30, "the sources were not found");
    found
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).expect("below src").to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).expect("a readable file"))
        })
        .collect()
}

/// The code of a file without comments, and without what follows `#[cfg(test)]`.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]").next().unwrap_or("");
    code.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

fn room(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap_or("")
}

fn is_test(file: &str) -> bool {
    file.ends_with("tests.rs")
}

/// Rooms that a piece of code names as `crate::room`, also inside a nested `use crate::{..}`.
fn rooms_used(code: &str) -> Vec<String> {
    let mut used = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut item = String::new();
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 0 || (depth == 1 && c == ',') {
                    used.push(item.trim().split("::").next().unwrap_or("").trim().to_owned());
                    item.clear();
                }
                if depth == 0 {
                    break;
                }
                if !(depth == 1 && c == ',') {
                    item.push(c);
                }
            }
        } else {
            used.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    used
}

#[test]
fn rooms_use_only_what_is_below_them() {
    let floor = |room: &str| FLOORS.iter().find(|(name, _)| *name == room).map(|(_, floor)| *floor);
    let mut broken = Vec::new();
    for (file, text) in sources().iter().filter(|(file, _)| !is_test(file)) {
        let here = room(file);
        if matches!(here, "wire" | "worker") {
            continue;
        }
        let own = floor(here).unwrap_or_else(|| panic!("src/{file}: the room `{here}` has no floor in tests/tidy.rs"));
        for used in rooms_used(&code(text)) {
            let Some(other) = floor(&used).filter(|_| used != here) else { continue };
            if other > own {
                broken.push(format!(
                    "src/{file} (floor {own}) uses {used} (floor {other}): a room uses what is below it"
                ));
            }
            for (_, never, because) in NEVER.iter().filter(|(room, ..)| *room == here) {
                if never.contains(&used.as_str()) {
                    broken.push(format!("src/{file} uses {used}, which it never may: {because}"));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn each_foreign_crate_has_one_home() {
    let mut broken = Vec::new();
    for (file, text) in sources().iter().filter(|(file, _)| !is_test(file)) {
        let code = code(text);
        for (name, homes) in HOMES {
            let at_home = homes.iter().any(|home| file.starts_with(home));
            let used = code.match_indices(&format!("{name}::")).any(|(at, _)| {
                let before = code[..at].chars().next_back();
                !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
            });
            if used && !at_home {
                broken.push(format!("src/{file} uses {name}, whose home is src/{}", homes.join(" or src/")));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn unsafe_code_stays_in_the_worker_and_says_why() {
    let mut broken = Vec::new();
    for (file, text) in sources() {
        let lines: Vec<_> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            if !["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"].iter().any(|form| code.contains(form)) {
                continue;
            }
            if room(&file) != "worker" {
                broken.push(format!("src/{file}:{}: unsafe outside the worker", index + 1));
            } else if !lines[index.saturating_sub(6)..=index].iter().any(|line| line.contains("SAFETY")) {
                broken.push(format!("src/{file}:{}: unsafe without a SAFETY comment above it", index + 1));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn nothing_unfinished_lands_and_every_file_says_what_it_is() {
    // Written in two halves, so that this file does not find itself.
    let unfinished = [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["todo", "!("], ["unimplemented", "!("]]
        .map(|halves| halves.concat());
    let mut broken = Vec::new();
    for (file, text) in sources() {
        if !text.starts_with("//!") {
            broken.push(format!("src/{file} does not begin with a module doc"));
        }
        for word in &unfinished {
            if text.contains(word.as_str()) {
                broken.push(format!("src/{file} holds {word}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_wire_depends_on_bytes_alone_and_only_the_worker_on_python() {
    let manifest = |path: &str| {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("a manifest");
        let dependencies =
            text.split("\n[dependencies]").nth(1).expect("dependencies").split("\n[").next().unwrap_or("");
        dependencies
            .lines()
            .filter_map(|line| line.split(['.', ' ', '=']).next())
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(manifest("src/wire/Cargo.toml"), ["bytes"]);
    assert!(manifest("src/worker/Cargo.toml").contains(&"pyo3".to_owned()));
    assert!(!manifest("Cargo.toml").contains(&"pyo3".to_owned()), "the gateway has no Python in its address space");
}

/// Where each behaviour of the WSGI contract is proved.
const CONTRACT: &str = "docs/wsgi.md";

/// What that page counts.
const BEHAVIOURS: std::ops::RangeInclusive<u32> = 1..=29;

#[test]
fn every_behaviour_of_the_wsgi_contract_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join(CONTRACT)).expect("the page");
    let section = page.split("\n## The contract in 29 numbers\n").nth(1).expect("the section");
    let section = section.split("\n## ").next().expect("its end");
    let (proved, elsewhere) = section.split_once("\n### The same numbers elsewhere\n").expect("both tables");
    let rows = |table: &str| -> Vec<(u32, String)> {
        let cells = |line: &str| {
            let (number, rest) = line.strip_prefix("| ")?.split_once(" | ")?;
            Some((number.parse().ok()?, rest.to_owned()))
        };
        table.lines().filter_map(cells).collect()
    };
    let wanted: Vec<u32> = BEHAVIOURS.collect();
    for table in [proved, elsewhere] {
        assert_eq!(rows(table).iter().map(|(number, _)| *number).collect::<Vec<_>>(), wanted, "{CONTRACT}");
    }
    let mut broken = Vec::new();
    for (number, row) in rows(proved) {
        let named: Vec<_> = row.split('`').skip(1).step_by(2).filter_map(|code| code.split_once("::")).collect();
        if named.is_empty() {
            broken.push(format!("{CONTRACT}: behaviour {number} names no test"));
        }
        for (module, function) in named {
            let files = [format!("tests/it/wsgi/{module}.rs"), format!("tests/it/{module}.rs")];
            let exists = files.iter().any(|file| {
                fs::read_to_string(root.join(file)).is_ok_and(|text| text.contains(&format!("fn {function}(")))
            });
            if !exists {
                broken.push(format!("{CONTRACT}: behaviour {number} names {module}::{function}, and there is none"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
