//! `policy test`: what policies expect of themselves, and what cases expect of all of them.

use std::{path::Path, sync::Arc};

use serde_json::json;

use super::{
    Failure, Result,
    args::PolicyTest,
    check::problem_json,
    context::Context,
    out::{Cell, Out, Style},
    status::count,
};
use crate::{
    config::Config,
    policy::{self, Proof, Routes},
    written::{self, Problem, Source},
};

/// How the expectations of one file went.
struct Ran {
    file: Arc<str>,
    count: usize,
    failures: Vec<Problem>,
}

/// `portcullis policy test`
pub(super) fn test(context: &Context, args: &PolicyTest, out: &mut Out) -> Result {
    let config = &context.config;
    let suite = config.load_unproved()?;
    let (mut proofs, mut unread) = (suite.proofs, Vec::new());
    if args.files.is_empty() {
        let (sources, problems) = config.case_sources();
        unread.extend(problems);
        read_cases(&sources, &mut proofs, &mut unread);
    } else {
        let policies = config.policy_sources().0;
        let named = named(config, &policies, &args.files, &mut unread)?;
        proofs.retain(|proof| named.policies.contains(&proof.file));
        read_cases(&named.cases, &mut proofs, &mut unread);
    }
    let ran = run(&proofs, &suite.routes, config);
    tell(&ran, &unread, out)
}

/// What `check` wants to know: everything that is wrong with the cases of this configuration, and how many were run.
pub(super) fn cases(config: &Config, routes: &Routes) -> (usize, Vec<Problem>) {
    let (sources, mut problems) = config.case_sources();
    let mut proofs = Vec::new();
    read_cases(&sources, &mut proofs, &mut problems);
    let ran = run(&proofs, routes, config);
    let count = ran.iter().map(|ran| ran.count).sum();
    problems.extend(ran.into_iter().flat_map(|ran| ran.failures));
    (count, problems)
}

fn read_cases(sources: &[Source], proofs: &mut Vec<Proof>, unread: &mut Vec<Problem>) {
    for source in sources {
        match policy::cases(source) {
            Ok(cases) => proofs.push(Proof::of_cases(Arc::clone(&source.file), cases)),
            Err(problems) => unread.extend(problems),
        }
    }
}

fn run(proofs: &[Proof], routes: &Routes, config: &Config) -> Vec<Ran> {
    let ran = |proof: &Proof| Ran {
        file: Arc::clone(&proof.file),
        count: proof.count(),
        failures: proof.failures(routes, config.security.methods),
    };
    proofs.iter().map(ran).collect()
}

/// The files that were named.
struct Files {
    policies: Vec<Arc<str>>,
    cases: Vec<Source>,
}

fn named(
    config: &Config,
    policies: &[Source],
    files: &[std::path::PathBuf],
    unread: &mut Vec<Problem>,
) -> Result<Files> {
    let mut named = Files { policies: Vec::new(), cases: Vec::new() };
    for file in files {
        let is_cases = file.to_string_lossy().ends_with(".cases.toml");
        let known = policies.iter().find(|source| is_same(config, source, file));
        match (known, config.policy_source(file)) {
            (Some(policy), _) => named.policies.push(Arc::clone(&policy.file)),
            (None, Ok(source)) if is_cases => named.cases.push(source),
            (None, Err(problem)) => unread.push(problem),
            (None, Ok(_)) => {
                let text = format!(
                    "{} is none of the policies of this installation, and no *.cases.toml either: what it says of \
                     itself holds once it is one of them",
                    file.display()
                );
                return Err(Failure::Usage(text));
            }
        }
    }
    Ok(named)
}

fn is_same(config: &Config, source: &Source, file: &Path) -> bool {
    let name = Path::new(&*source.file).file_name().unwrap_or_default();
    file.canonicalize().ok().is_some_and(|file| Some(file) == config.policies.join(name).canonicalize().ok())
}

fn tell(ran: &[Ran], unread: &[Problem], out: &mut Out) -> Result {
    let (count_all, failed) =
        ran.iter().fold((0, 0), |(all, failed), ran| (all + ran.count, failed + ran.failures.len()));
    let problems: Vec<Problem> = ran.iter().flat_map(|ran| &ran.failures).chain(unread).cloned().collect();
    if out.json {
        let files: Vec<_> = ran
            .iter()
            .map(|ran| json!({ "file": &*ran.file, "expected": ran.count, "failed": ran.failures.len() }))
            .collect();
        let ok = problems.is_empty();
        out.value(&json!({
            "ok": ok,
            "files": files,
            "expected": count_all,
            "failed": failed,
            "problems": problems.iter().map(problem_json).collect::<Vec<_>>(),
        }))?;
        return if ok { Ok(()) } else { Err(Failure::Told(1)) };
    }
    if !problems.is_empty() {
        out.remark(written::render(&problems, out.color_remarks()).trim_end());
    }
    let row = |ran: &Ran| match ran.failures.len() {
        0 => [
            Cell::new("good", Style::Good),
            Cell::new(&ran.file, Style::Bold),
            Cell::from(count(ran.count, "expectation")),
        ],
        failed => [
            Cell::new("failed", Style::Bad),
            Cell::new(&ran.file, Style::Bold),
            Cell::from(format!("{failed} of {}", count(ran.count, "expectation"))),
        ],
    };
    if !ran.is_empty() {
        out.table(["", "FILE", ""], &ran.iter().map(row).collect::<Vec<_>>())?;
    }
    if !problems.is_empty() {
        out.error(&format!("{failed} of {} failed{}", count(count_all, "expectation"), unread_files(unread)));
        return Err(Failure::Told(1));
    }
    if ran.is_empty() {
        out.remark("nothing is expected: add [[expect]] to a policy, or [[case]] to policies/*.cases.toml");
    }
    Ok(())
}

fn unread_files(unread: &[Problem]) -> String {
    let mut files: Vec<_> = unread.iter().map(|problem| &*problem.file).collect();
    files.dedup();
    if files.is_empty() { String::new() } else { format!(", and {} cannot be understood", files.join(", ")) }
}
