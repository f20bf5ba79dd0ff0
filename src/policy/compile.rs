//! From policies as written to applications as meant: defaults filled in, paths made absolute, and everything refused
//! that contradicts itself, another rule, another file or the system.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use http::Method as Verb;

use super::{
    Application, Context, Default_, Expectation, Interface, Loaded, Python, Routes, Rules, ServeFiles,
    document::{self, App, At, Document, WrittenRule},
    judge::Tries,
    lint,
    rule::{Effect, Named, Rule, list},
    suite::{Proof, Suite},
    trie::{Leaf, Trie, Verbs},
};
use crate::{
    model::{MethodSet, RuleId, SecurityLevel},
    target::{Mount, Pattern},
    written::{File, Problem, Severity, Source, Table, Value, absolute, is_namespace, nearest},
};

/// Reads all policy files. A mistake in one is a mistake in all: half a set of policies is not what anybody reviewed.
///
/// # Errors
/// Every mistake in every file, in the order of the files, and the warnings among them.
pub fn load(sources: &[Source], context: Context<'_>) -> Loaded {
    let Suite { routes, mut warnings, proofs } = load_unproved(sources, context)?;
    warnings.extend(proofs.iter().flat_map(|proof| proof.failures(&routes, context.system)));
    if warnings.iter().any(Problem::is_error) { Err(warnings) } else { Ok((routes.all().to_vec(), warnings)) }
}

/// The same, but what the policies expect of themselves is left to be proved.
///
/// # Errors
/// As for [`load`], but for that.
pub fn load_unproved(sources: &[Source], context: Context<'_>) -> Result<Suite, Vec<Problem>> {
    let (mut loaded, mut warnings) = (Vec::<Loading>::new(), Vec::new());
    for source in sources {
        if let Some(problem) = document::is_too_much(source) {
            warnings.push(problem);
            continue;
        }
        let (loading, found) = File::new(Arc::clone(&source.file), &source.text).read(|root| {
            let document = document::read(root, context);
            compile(root, document, source, context)
        });
        warnings.extend(found);
        let Some(loading) = loading else { continue };
        warnings.extend(loaded.iter().filter_map(|earlier| clash(earlier, &loading)));
        loaded.push(loading);
    }
    if warnings.iter().any(Problem::is_error) {
        return Err(warnings);
    }
    if let Some(known) = context.known {
        let expectations = loaded.iter().flat_map(|loading| &loading.expectations);
        warnings.extend(expectations.flat_map(|expectation| expectation.unknown(known)));
    }
    let (mut applications, mut proofs) = (Vec::new(), Vec::new());
    for Loading { application, expectations, .. } in loaded {
        if !expectations.is_empty() {
            let (file, name) = (Arc::clone(&application.file), Arc::clone(&application.name));
            proofs.push(Proof::of_policy(file, name, expectations));
        }
        applications.push(Arc::new(application));
    }
    Ok(Suite { routes: Routes::new(applications), warnings, proofs })
}

/// An application, and where its name stands in case another has it too.
struct Loading {
    application: Application,
    name: Problem,
    /// Whether the namespace was written down or follows from the name.
    namespace_written: bool,
    expectations: Vec<Expectation>,
}

fn clash(earlier: &Loading, later: &Loading) -> Option<Problem> {
    let (first, second) = (&earlier.application, &later.application);
    let (file, line) = (&first.file, earlier.name.line);
    if first.mount == second.mount {
        let message = format!("the name `{}` is taken by {file}:{line}", second.name);
        return Some(Problem { message, ..later.name.clone() }.help("every application has a mount of its own"));
    }
    // Sharing data by an accident of naming is a leak; sharing it in writing is a decision.
    let written = earlier.namespace_written && later.namespace_written;
    if first.namespace == second.namespace && !first.namespace.is_empty() && !written {
        let message = format!("its namespace would be `{}`, which {file} runs in too", second.namespace);
        return Some(
            Problem { message, ..later.name.clone() }
                .help("write `namespace = ...` in both to share one, or in one to part them"),
        );
    }
    None
}

fn compile(root: &Table<'_>, document: Document<'_>, source: &Source, context: Context<'_>) -> Option<Loading> {
    let Document { app, rules, expectations } = document;
    if let Some((methods, value)) = &app.methods {
        warn_of_forbidden(*methods, context.system, value);
    }
    let allowed = app.methods.as_ref().map_or(MethodSet::ALL, |(methods, _)| *methods);
    let mount = app.name.as_ref().map(|(mount, _)| mount);
    rules.iter().for_each(|rule| check_rule(rule, allowed, context.system, mount));
    check_overlaps(&rules, &source.file);
    let compiled = compile_rules(&rules, &source.file);
    if root.is_clean() {
        lint::policy(&rules, &compiled, app.default.as_ref(), allowed, context);
    }
    application(app, compiled, expectations, source, context)
}

fn application(
    app: App<'_>,
    rules: Rules,
    expectations: Vec<Expectation>,
    source: &Source,
    context: Context<'_>,
) -> Option<Loading> {
    let namespace_written = app.namespace.is_some();
    let namespace = app.namespace.as_ref().map(|namespace| declared(namespace, context));
    let directory = app.directory.as_ref().map(|directory| existing(directory, source, context));
    let reload = app.reload.as_ref().is_some_and(|reload| develops(reload, context.level));
    if let Some((Interface::Asgi, value)) = &app.interface
        && app.stream_bodies == Some(true)
    {
        // a2wsgi goes by CONTENT_LENGTH: a streamed body without one would be read as empty, and nobody would notice.
        value.error(
            "`stream_bodies = true` and `interface = \"asgi\"` do not go together",
            "leave stream_bodies out: an ASGI application needs bodies with a length",
        );
    }
    let default = default(app.default, app.name.as_ref(), context.level);
    // Everything was looked at; from here on a gap means that a problem was reported.
    let (mount, name) = app.name?;
    let (methods, _) = app.methods?;
    let (namespace, directory, module) = match app.elsewhere {
        true => Default::default(),
        false => (namespace.unwrap_or_else(|| implicit_namespace(&mount, &name)), directory?, app.module?),
    };
    let application = Application {
        name: mount.as_str().into(),
        title: app.title.unwrap_or_else(|| mount.as_str().to_owned()),
        namespace,
        directory,
        module,
        callable: app.callable.unwrap_or_else(|| "application".to_owned()),
        interface: app.interface.map_or(Interface::Wsgi, |(interface, _)| interface),
        python: app.python.map(|python| interpreter(&python, source)),
        methods,
        serve_files: app.serve_files.unwrap_or(ServeFiles::No),
        workers: app.workers.unwrap_or(1),
        threads: app.threads.unwrap_or(4),
        default,
        enabled: app.enabled.unwrap_or(true),
        elsewhere: app.elsewhere,
        app_roles: app.app_roles,
        pass_authorization: app.pass_authorization.unwrap_or(false),
        identity_headers: app.identity_headers.unwrap_or(false),
        stream_bodies: app.stream_bodies.unwrap_or(false),
        reload,
        body_bytes: app.body_bytes,
        queue_timeout: app.queue_timeout,
        request_timeout: app.request_timeout,
        start_timeout: app.start_timeout,
        stop_timeout: app.stop_timeout,
        deadlock_timeout: app.deadlock_timeout,
        preload: app.preload.unwrap_or(false),
        max_requests: app.max_requests,
        max_memory: app.max_memory,
        environment: app.environment,
        limits: app.limits.into_iter().map(|limit| limit.at(&source.file, "[app]")).collect(),
        hygiene: app.hygiene,
        cors: app.cors,
        file: Arc::clone(&source.file),
        rules,
        mount,
    };
    Some(Loading { application, name: name.problem(Severity::Error, ""), namespace_written, expectations })
}

/// What is not written is denied; where everything is locked down, that has to be somebody's decision.
fn default(written: Option<At<'_, Default_>>, name: Option<&At<'_, Mount>>, level: SecurityLevel) -> Default_ {
    match (written, name) {
        (Some((default, _)), _) => return default,
        (None, Some((mount, value))) if level == SecurityLevel::LockedDown => value.error(
            format!("{} has no `default`, and at security level {level} it has to be written", mount.as_str()),
            "what holds where no rule matches: default = \"deny\", \"signed-in\" or \"role:NAME\"",
        ),
        (None, _) => {}
    }
    Default_::Deny
}

/// A word alone is a name, whatever lies beside the file: `python3.12`, `notes`. With a slash, or a dot at its
/// beginning, it is a path: `.venv`, `../venv`.
fn interpreter(written: &str, source: &Source) -> Python {
    match written.contains('/') || written.starts_with('.') {
        true => Python::Path(absolute(&source.base, written)),
        false => Python::Named(written.to_owned()),
    }
}

/// `team-notes` for `/team/notes`, `root` for `/`.
fn implicit_namespace(mount: &Mount, value: &Value<'_>) -> String {
    let name = match mount.script_name().trim_start_matches('/') {
        "" => "root".to_owned(),
        name => name.replace('/', "-"),
    };
    if !is_namespace(&name) {
        let message = format!("no namespace can be called `{}` like this application", crate::written::shown(&name));
        value.error(message, "declare one in portcullis.toml and write `namespace = ...`");
    }
    name
}

fn declared((name, value): &At<'_, String>, context: Context<'_>) -> String {
    if !context.namespaces.contains(name) {
        let help = match nearest(name, context.namespaces.iter().map(String::as_str)) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("declare [namespace.{name}] in portcullis.toml, or leave the key out for one of its own"),
        };
        value.error(format!("there is no namespace `{}`", crate::written::shown(name)), help);
    }
    name.clone()
}

/// A missing directory is a warning: one application that was moved must not keep the others from starting.
fn existing((path, value): &At<'_, String>, source: &Source, context: Context<'_>) -> PathBuf {
    let directory = absolute(&source.base, path);
    if !(context.is_directory)(&directory) {
        let help = format!("looked for {}", crate::written::shown(&directory.to_string_lossy()));
        value.warning(format!("there is no directory `{}`", crate::written::shown(path)), help);
    }
    directory
}

/// Development is no state to leave an installation in: it watches files, and shows tracebacks to whoever may use the
/// application.
fn develops((reload, value): &At<'_, bool>, level: SecurityLevel) -> bool {
    if *reload && level == SecurityLevel::LockedDown {
        let help = "it shows tracebacks to clients; leave it out, and use `portcullis app reload`";
        value.error(format!("`reload` is for development, and the security level is {level}"), help);
    } else if *reload {
        let help = "changed files take effect by themselves, and who may use the application sees its tracebacks";
        value.warning("`reload` is for development", help);
    }
    *reload
}

fn warn_of_forbidden(methods: MethodSet, system: MethodSet, value: &Value<'_>) {
    let forbidden = methods.without(system);
    if forbidden.is_empty() {
        return;
    }
    let consequence = match methods.and(system).is_empty() {
        true => "every request is refused with method-not-permitted",
        false => "nobody gets in that way",
    };
    value.warning(
        format!("the system policy forbids: {forbidden}"),
        format!("{consequence}; permitted are {system}, see [security] in portcullis.toml"),
    );
}

fn check_rule(rule: &WrittenRule<'_>, allowed: MethodSet, system: MethodSet, mount: Option<&Mount>) {
    for (i, (place, value)) in rule.paths.iter().enumerate() {
        if rule.paths[..i].iter().any(|(other, _)| other == place) {
            value.error(format!("`{place}` stands twice in this rule"), "once is enough");
        }
        if let Named::One(pattern) = place {
            warn_of_mount(pattern, mount, value);
        }
    }
    let Some((auth, value)) = rule.auth.as_ref().filter(|_| rule.effect == Effect::Allow) else { return };
    let beyond = auth.without(allowed);
    if !beyond.is_empty() {
        value.error(
            format!("`auth` narrows the application's methods, and {beyond} is not among them"),
            format!("[app] has methods {allowed}"),
        );
    } else if auth.and(system).is_empty() {
        let help = "whatever this rule decides is refused with method-not-permitted; see [security] in portcullis.toml";
        value.warning(format!("the system policy forbids: {auth}"), help);
    }
}

/// `/notes/admin` in the policy of `/notes` is `/notes/notes/admin`, which hardly anybody means.
fn warn_of_mount(pattern: &Pattern, mount: Option<&Mount>, value: &Value<'_>) {
    let text = pattern.to_string();
    let Some(script_name) = mount.map(Mount::script_name).filter(|name| !name.is_empty()) else { return };
    let Some(rest) = text.strip_prefix(script_name).filter(|rest| rest.is_empty() || rest.starts_with('/')) else {
        return;
    };
    let meant = if rest.is_empty() { "/" } else { rest };
    value.warning(
        format!("`{text}` is {script_name}{text}: paths are relative to the mount"),
        format!("write `{meant}` for {script_name}{rest}"),
    );
}

/// Two allows for one path have to share the methods out between them, or the order of lines would decide. Other
/// patterns that match one path are never equally specific: where they first differ, one has a literal, or one a `*`.
fn check_overlaps(rules: &[WrittenRule<'_>], file: &str) {
    let mut seen = HashMap::<(bool, &Pattern), Vec<(usize, &WrittenRule<'_>)>>::new();
    for (number, rule) in rules.iter().enumerate().filter(|(_, rule)| rule.effect == Effect::Allow) {
        for (place, value) in &rule.paths {
            for pattern in place.members() {
                let earlier = seen.entry((rule.reports, pattern)).or_default();
                if earlier.iter().any(|(other, _)| *other == number) {
                    continue;
                }
                // One of those that are in its way is enough to say.
                let clash = earlier
                    .iter()
                    .find_map(|(_, other)| Some((other.line, overlap(other.verbs.as_deref(), rule.verbs.as_deref())?)));
                if let Some((line, both)) = clash {
                    value.error(
                        format!("two allows for `{pattern}` and {both}: lines {line} and {} of {file}", rule.line),
                        "one has to go, or their `methods` have to differ",
                    );
                }
                earlier.push((number, rule));
            }
        }
    }
}

fn overlap(first: Option<&[At<'_, Verb>]>, second: Option<&[At<'_, Verb>]>) -> Option<String> {
    let both: Vec<_> = match (first, second) {
        (None, None) => return Some("every method".to_owned()),
        (Some(verbs), None) | (None, Some(verbs)) => verbs.iter().map(|(verb, _)| verb).collect(),
        (Some(first), Some(second)) => {
            let in_first = |verb: &&Verb| first.iter().any(|(other, _)| other == *verb);
            second.iter().map(|(verb, _)| verb).filter(in_first).collect()
        }
    };
    (!both.is_empty()).then(|| list(&both))
}

fn compile_rules(written: &[WrittenRule<'_>], file: &Arc<str>) -> Rules {
    let rules: Vec<Rule> = written.iter().map(|rule| compile_rule(rule, file)).collect();
    let enforced: Vec<usize> = (0..rules.len()).filter(|&number| !rules[number].reports).collect();
    let trial = (enforced.len() < rules.len()).then(|| {
        // Those that report come first: they stand in for enforced ones with the same path.
        let mut all: Vec<usize> = (0..rules.len()).collect();
        all.sort_by_key(|&number| !rules[number].reports);
        tries(&rules, &all)
    });
    let by_network = rules.iter().any(|rule| !rule.from.is_empty());
    Rules { enforced: tries(&rules, &enforced), trial, by_network, rules }
}

fn tries(rules: &[Rule], numbers: &[usize]) -> Tries {
    let leaves = |effect| {
        let of = numbers.iter().copied().filter(|&number| rules[number].effect == effect).collect::<Vec<_>>();
        let named = named(rules, &of);
        Trie::new(of.into_iter().flat_map(|number| {
            let rule = &rules[number];
            let named = &named;
            rule.patterns()
                .map(move |pattern| (pattern, Leaf { rule: number, verbs: covered(rule, named.get(pattern)) }))
        }))
    };
    Tries { allow: leaves(Effect::Allow), deny: leaves(Effect::Deny) }
}

/// The HTTP methods that rules name at each pattern.
fn named<'r>(rules: &'r [Rule], numbers: &[usize]) -> HashMap<&'r Pattern, Vec<&'r Verb>> {
    let mut named = HashMap::<_, Vec<_>>::new();
    for rule in numbers.iter().map(|&number| &rules[number]) {
        for pattern in rule.patterns() {
            named.entry(pattern).or_default().extend(rule.verbs.iter().flatten());
        }
    }
    named
}

/// GET covers HEAD and OPTIONS: for a deny always, for an allow unless another at the same path names them.
fn covered(rule: &Rule, named: Option<&Vec<&Verb>>) -> Verbs {
    if !rule.unless_verbs.is_empty() {
        let mut spared = rule.unless_verbs.to_vec();
        if spared.contains(&Verb::GET) {
            spared.extend([Verb::HEAD, Verb::OPTIONS]);
        }
        return Verbs::all_but(&spared);
    }
    let Some(verbs) = rule.verbs.as_deref() else { return Verbs::All };
    let mut covered = verbs.to_vec();
    if verbs.contains(&Verb::GET) {
        let taken = |verb: &Verb| rule.effect == Effect::Allow && named.is_some_and(|named| named.contains(&verb));
        covered.extend([Verb::HEAD, Verb::OPTIONS].into_iter().filter(|verb| !taken(verb)));
    }
    Verbs::of(&covered)
}

/// A rule without a path was reported, so that it holds nowhere lets nobody past anything.
fn compile_rule(rule: &WrittenRule<'_>, file: &Arc<str>) -> Rule {
    let plain = |written: &[At<'_, _>]| written.iter().map(|(who, _): &At<'_, super::Who>| who.clone()).collect();
    let mut compiled = Rule {
        id: RuleId { file: Arc::clone(file), line: rule.line },
        effect: rule.effect,
        reports: rule.reports,
        paths: rule.paths.iter().map(|(place, _)| place.clone()).collect(),
        verbs: rule.verbs.as_ref().map(|verbs| verbs.iter().map(|(verb, _)| verb.clone()).collect()),
        unless_verbs: rule.unless_verbs.iter().map(|(verb, _)| verb.clone()).collect(),
        who: plain(&rule.who),
        unless_who: plain(&rule.unless_who),
        auth: rule.auth.as_ref().map(|(auth, _)| *auth),
        mfa: rule.mfa.as_ref().map(|(age, _)| *age),
        from: rule.from.clone().into(),
        limits: Box::default(),
    };
    // Without its line: what is added above a rule must not give everybody a fresh budget.
    let place = compiled.to_string();
    compiled.limits = rule.limits.iter().map(|limit| limit.clone().at(file, &place)).collect();
    compiled
}
