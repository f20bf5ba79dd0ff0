//! `policy diff`: who gains and who loses what between two versions of the policies. `policy::diff` finds it; here the
//! versions are read, the store is asked who there is, and the answer is put in words.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Value, json};

use super::{
    Failure, Result,
    args::PolicyDiff,
    context::Context,
    out::{Out, Style},
    quote::Texts,
    status::count,
};
use crate::{
    config::Config,
    control::people::{self, Person},
    policy::{
        Application,
        diff::{Asking, Change, Comparison, Decider, Diff},
    },
    store::StoreError,
    written::Source,
};

/// Names of one group that are shown to people; `--json` has all.
const SHOWN: usize = 5;

/// One version.
struct Version {
    texts: Texts,
    applications: Vec<Arc<Application>>,
}

/// `portcullis policy diff`
pub(super) async fn diff(context: &mut Context, args: &PolicyDiff, out: &mut Out) -> Result {
    let (old, new) = versions(&context.config, args)?;
    let mut comparison = Comparison::new(&old.applications, &new.applications, context.config.security.methods);
    let with_store = meet_everybody(context, &mut comparison).await?;
    let diff = comparison.finish().map_err(|error| Failure::Failed(error.to_string()))?;
    let reports = reports(&old, &new);
    let counted = counted(&diff);
    if out.json {
        out.value(&json!({
            "changes": diff.changes().iter().map(|change| change_json(&diff, change)).collect::<Vec<_>>(),
            "reports": reports,
            "store": with_store,
            "kinds_of_paths": diff.classes(),
        }))?;
    } else {
        show(&diff, &old, &new, out)?;
        for rule in &reports {
            out.line(format_args!(
                "{} {}",
                out.paint(Style::Dim, "only reports, and counts for nothing here:"),
                out.paint(Style::Plain, rule)
            ))?;
        }
        if !with_store {
            out.remark("there is no store: nobody real was compared, only whom the rules name");
        }
        out.line(format_args!("{counted} ({} of paths compared)", count(diff.classes(), "kind")))?;
    }
    if diff.changes().is_empty() { Ok(()) } else { Err(Failure::Told(1)) }
}

/// Reads both. A single file against a directory takes the place of the file there that describes the same application.
fn versions(config: &Config, args: &PolicyDiff) -> Result<(Version, Version)> {
    let old = Read::path(config, &args.old)?;
    let new = match &args.new {
        Some(path) => Read::path(config, path)?,
        None => Read::directory(config)?,
    };
    let (old, new) = match (old.is_file, new.is_file) {
        (true, false) => (old.among(&new, config)?, new),
        (false, true) => {
            let new = new.among(&old, config)?;
            (old, new)
        }
        _ => (old, new),
    };
    Ok((old.version(config)?, new.version(config)?))
}

/// The files of a version.
struct Read {
    sources: Vec<Source>,
    is_file: bool,
}

impl Read {
    fn path(config: &Config, path: &Path) -> Result<Self> {
        if path.is_dir() {
            // Named as it was typed.
            return Self::directory(&Config { policies: path.to_path_buf(), root: PathBuf::new(), ..config.clone() });
        }
        let source = config.policy_source(path).map_err(|problem| vec![problem])?;
        Ok(Self { sources: vec![source], is_file: true })
    }

    fn directory(config: &Config) -> Result<Self> {
        let (sources, problems) = config.policy_sources();
        if problems.is_empty() { Ok(Self { sources, is_file: false }) } else { Err(problems.into()) }
    }

    /// A file in the place of its application's among others.
    fn among(self, others: &Self, config: &Config) -> Result<Self> {
        let mounts = |sources: &[Source]| -> Result<Vec<Arc<str>>> {
            Ok(config.load_others(sources)?.routes.all().iter().map(|app| Arc::clone(&app.name)).collect())
        };
        let own = mounts(&self.sources)?;
        let mut sources = Vec::new();
        for other in &others.sources {
            if !mounts(std::slice::from_ref(other))?.iter().any(|mount| own.contains(mount)) {
                sources.push(other.clone());
            }
        }
        sources.extend(self.sources);
        Ok(Self { sources, is_file: false })
    }

    fn version(self, config: &Config) -> Result<Version> {
        let applications = config.load_others(&self.sources)?.routes.all().to_vec();
        Ok(Version { texts: Texts::of_sources(self.sources), applications })
    }
}

/// Whether there is a store, and everybody in it was met.
async fn meet_everybody(context: &mut Context, comparison: &mut Comparison<'_>) -> Result<bool> {
    let store = match context.store().await {
        Ok(store) => store,
        Err(Failure::Store(StoreError::Missing(_))) => return Ok(false),
        Err(failure) => return Err(failure),
    };
    people::everybody(&store, context.clock.now(), |Person { name, owner, principal }| {
        let label = match owner {
            None => format!("{name} (password)"),
            Some(owner) if owner.is_service => format!("{name} (token of service {})", owner.name),
            Some(owner) => format!("{name} (token of {})", owner.name),
        };
        comparison.meet(label, &principal);
    })
    .await?;
    Ok(true)
}

/// The rules that only report, of either version.
fn reports(old: &Version, new: &Version) -> Vec<String> {
    let all = [old, new].into_iter().flat_map(|version| &version.applications).flat_map(|app| app.rules.iter());
    let mut told: Vec<String> =
        all.filter(|rule| rule.reports()).map(|rule| format!("{}  {rule}", rule.id())).collect();
    told.sort();
    told.dedup();
    told
}

fn show(diff: &Diff<'_>, old: &Version, new: &Version, out: &mut Out) -> std::io::Result<()> {
    // What anybody gains who signed in, everybody else gains too, and it need not be told again of each.
    let told: Vec<&Change> = diff.changes().iter().filter(|change| !is_implied(diff, change)).collect();
    for (number, change) in told.iter().enumerate() {
        let before = number.checked_sub(1).map(|before| told[before]);
        let same_application = before.is_some_and(|before| before.application == change.application);
        if !same_application {
            out.line(out.paint(Style::Bold, &change.application))?;
        }
        if !same_application || before.is_none_or(|before| before.who != change.who) {
            out.line(format_args!("  {}", out.paint(Style::Plain, who(&change.who))))?;
        }
        one(diff, change, out)?;
        for (word, decider, version) in [("was", diff.was(change), old), ("is", diff.is(change), new)] {
            let word = out.paint(Style::Dim, format_args!("{word:>9}"));
            out.line(format_args!("{word}  {}", out.paint(Style::Plain, decider_text(&decider, version))))?;
        }
        if told.get(number + 1).is_none_or(|next| next.application != change.application) {
            out.line("")?;
        }
    }
    Ok(())
}

fn one(diff: &Diff<'_>, change: &Change, out: &mut Out) -> std::io::Result<()> {
    let (sign, style) = if change.gained { ("+", Style::Good) } else { ("-", Style::Bad) };
    let verbs = diff.verbs(change).map_or_else(|| "every method".to_owned(), |verbs| verbs.join(", "));
    let by = change.by.map(|by| format!("  by {by}")).unwrap_or_default();
    let from = diff.from(change).map(|from| format!("  from {from}")).unwrap_or_default();
    let paths = diff.paths(change);
    let line = |path: &str| format!("{sign} {verbs}  {path}{by}{from}");
    for path in paths {
        out.line(format_args!("    {}", out.paint(style, line(&path))))?;
    }
    Ok(())
}

/// Whether the change is that of anybody who signed in.
fn is_implied(diff: &Diff<'_>, change: &Change) -> bool {
    let special = matches!(change.who, Asking::Anonymous | Asking::SignedIn);
    !special
        && diff.changes().iter().any(|other| {
            other.who == Asking::SignedIn && other.application == change.application && diff.covers(other, change)
        })
}

fn who(who: &Asking) -> String {
    match who {
        Asking::Anonymous => "anonymous: whoever has not signed in".to_owned(),
        Asking::SignedIn => "signed-in: anybody who signed in".to_owned(),
        Asking::Named(name) => name.clone(),
        Asking::Real(names) => {
            let more = names.len().saturating_sub(SHOWN);
            let shown = names[..names.len() - more].join(", ");
            format!("in the store: {shown}{}", if more > 0 { format!(" and {more} more") } else { String::new() })
        }
    }
}

/// What decided: the rule in one line, with its place; for the default, where it stands.
fn decider_text(decider: &Decider, version: &Version) -> String {
    let file = decider.text.split("  ").next().unwrap_or_default();
    let key = match decider.text.split("  ").nth(1).and_then(|rest| rest.split(' ').next()) {
        Some(key @ ("default" | "methods" | "enabled")) if decider.rule.is_none() => key,
        _ => return decider.text.clone(),
    };
    match version.texts.key(file, key) {
        Some(quote) => format!("{}  {}", quote.place(), decider.text.split_once("  ").map_or("", |(_, rest)| rest)),
        None => decider.text.clone(),
    }
}

/// `principals: 1 of the rules and 1 in the store gain; 4 of the rules lose`
fn counted(diff: &Diff<'_>) -> String {
    let of = |gained: bool| {
        let mut all: Vec<&Asking> =
            diff.changes().iter().filter(|change| change.gained == gained).map(|change| &change.who).collect();
        all.sort();
        all.dedup();
        let size = |who: &&Asking| if let Asking::Real(names) = who { names.len() } else { 1 };
        let (real, named): (Vec<&Asking>, Vec<&Asking>) =
            all.into_iter().partition(|who| matches!(who, Asking::Real(_)));
        (named.len(), real.iter().map(size).sum::<usize>())
    };
    let say = |(named, real): (usize, usize), verb: &str| match (named, real) {
        (0, 0) => None,
        (named, 0) => Some(format!("{named} of the rules {verb}")),
        (named, real) => Some(format!("{named} of the rules and {real} in the store {verb}")),
    };
    let words: Vec<String> = [say(of(true), "gain"), say(of(false), "lose")].into_iter().flatten().collect();
    if words.is_empty() {
        "nobody gains or loses anything".to_owned()
    } else {
        format!("principals: {}", words.join("; "))
    }
}

fn change_json(diff: &Diff<'_>, change: &Change) -> Value {
    let decider = |decider: Decider| json!({ "rule": decider.rule.map(|id| id.to_string()), "text": decider.text });
    let (kind, names) = match &change.who {
        Asking::Anonymous => ("anonymous", vec!["anonymous".to_owned()]),
        Asking::SignedIn => ("signed-in", vec!["signed-in".to_owned()]),
        Asking::Named(name) => ("named", vec![name.clone()]),
        Asking::Real(names) => ("store", names.clone()),
    };
    json!({
        "application": &*change.application,
        "kind": kind,
        "who": names,
        "gained": change.gained,
        "methods": diff.verbs(change),
        "paths": diff.paths(change),
        "by": change.by.map(|by| by.iter().map(crate::model::Method::word).collect::<Vec<_>>()),
        "from": diff.from(change),
        "was": decider(diff.was(change)),
        "is": decider(diff.is(change)),
    })
}
