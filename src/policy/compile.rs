//! From policies as written to applications as meant: defaults filled in, paths made absolute, and everything refused
//! that contradicts itself, another rule, another file or the system.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use http::Method as Verb;

use super::{
    Application, Context, Default_, Interface, Loaded, Python, Rules, ServeFiles,
    document::{self, App, At, Document, WrittenRule},
    rule::{Effect, Pattern, Rule, Trie, Who, list},
};
use crate::{
    model::{Method, MethodSet, RuleId, SecurityLevel},
    target::Mount,
    written::{File, Problem, Severity, Source, Value, absolute, is_namespace, nearest},
};

/// Reads all policy files. A mistake in one is a mistake in all: half a set of policies is not what anybody reviewed.
///
/// # Errors
/// Every mistake in every file, in the order of the files, and the warnings among them.
pub fn load(sources: &[Source], context: Context<'_>) -> Loaded {
    let (mut applications, mut problems) = (Vec::<Loading>::new(), Vec::new());
    for source in sources {
        let (loading, found) = File::new(Arc::clone(&source.file), &source.text).read(|root| {
            let document = document::read(root);
            compile(document, source, context)
        });
        problems.extend(found);
        let Some(loading) = loading else { continue };
        problems.extend(applications.iter().filter_map(|earlier| clash(earlier, &loading)));
        applications.push(loading);
    }
    if problems.iter().any(Problem::is_error) {
        return Err(problems);
    }
    Ok((applications.into_iter().map(|loading| Arc::new(loading.application)).collect(), problems))
}

/// An application, and where its name stands in case another has it too.
struct Loading {
    application: Application,
    name: Problem,
    /// Whether the namespace was written down or follows from the name.
    namespace_written: bool,
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

fn compile(document: Document<'_>, source: &Source, context: Context<'_>) -> Option<Loading> {
    let Document { app, rules } = document;
    if let Some((methods, value)) = &app.methods {
        warn_of_forbidden(*methods, context.system, value);
    }
    let allowed = app.methods.as_ref().map_or(MethodSet::ALL, |(methods, _)| *methods);
    let mount = app.name.as_ref().map(|(mount, _)| mount);
    rules.iter().for_each(|rule| check_rule(rule, allowed, context.system, mount));
    check_overlaps(&rules, &source.file);
    let rules = compile_rules(rules, &source.file);
    application(app, rules, source, context)
}

fn application(app: App<'_>, rules: Rules, source: &Source, context: Context<'_>) -> Option<Loading> {
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
        default: app.default.unwrap_or(Default_::Deny),
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
        file: Arc::clone(&source.file),
        rules,
        mount,
    };
    Some(Loading { application, name: name.problem(Severity::Error, ""), namespace_written })
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
    if let Some((pattern, value)) = &rule.path {
        warn_of_mount(pattern, mount, value);
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
    let signed_in_only = !rule.who.is_empty() && rule.who.iter().all(|who| !matches!(who, Who::Anyone | Who::Role(_)));
    if *auth == MethodSet::NONE.with(Method::Unauthenticated) && signed_in_only {
        value.error(
            format!("nobody can be {} without having authenticated", list(&rule.who)),
            "leave `auth` out, or write who = \"anyone\"",
        );
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

/// Two allows for one path have to share the methods out between them, or the order of lines would decide.
fn check_overlaps(rules: &[WrittenRule<'_>], file: &str) {
    let allows: Vec<_> = rules.iter().filter(|rule| rule.effect == Effect::Allow).collect();
    for (i, later) in allows.iter().enumerate() {
        let Some((pattern, value)) = &later.path else { continue };
        let same = |earlier: &&&WrittenRule<'_>| earlier.path.as_ref().is_some_and(|(other, _)| other == pattern);
        for earlier in allows[..i].iter().filter(same) {
            let Some(both) = overlap(earlier.verbs.as_deref(), later.verbs.as_deref()) else { continue };
            value.error(
                format!("two allows for `{pattern}` and {both}: lines {} and {} of {file}", earlier.line, later.line),
                "one has to go, or their `methods` have to differ",
            );
        }
    }
}

fn overlap(first: Option<&[Verb]>, second: Option<&[Verb]>) -> Option<String> {
    let both: Vec<_> = match (first, second) {
        (None, None) => return Some("every method".to_owned()),
        (Some(verbs), None) | (None, Some(verbs)) => verbs.iter().collect(),
        (Some(first), Some(second)) => second.iter().filter(|verb| first.contains(verb)).collect(),
    };
    (!both.is_empty()).then(|| list(&both))
}

fn compile_rules(written: Vec<WrittenRule<'_>>, file: &Arc<str>) -> Rules {
    let mut rules: Vec<Rule> = written.into_iter().filter_map(|rule| compile_rule(rule, file)).collect();
    imply(&mut rules);
    let of = |effect| rules.iter().enumerate().filter(move |(_, rule)| rule.effect == effect);
    let trie = |effect| Trie::new(of(effect).map(|(number, rule)| (number, &rule.pattern)));
    let (allow, deny) = (trie(Effect::Allow), trie(Effect::Deny));
    Rules { rules, allow, deny }
}

/// A rule without a path was reported, so leaving it out here lets nobody past anything.
fn compile_rule(rule: WrittenRule<'_>, file: &Arc<str>) -> Option<Rule> {
    let (pattern, _) = rule.path?;
    Some(Rule {
        id: RuleId { file: Arc::clone(file), line: rule.line },
        effect: rule.effect,
        pattern,
        verbs: rule.verbs.map(Into::into),
        implied: Vec::new(),
        who: rule.who.into(),
        unless_who: rule.unless_who.into(),
        auth: rule.auth.map(|(auth, _)| auth),
        from: rule.from.into(),
    })
}

/// GET covers HEAD and OPTIONS: for a deny always, for an allow unless another at the same path names them.
fn imply(rules: &mut [Rule]) {
    let mut named = BTreeMap::<String, Vec<Verb>>::new();
    for rule in rules.iter().filter(|rule| rule.effect == Effect::Allow) {
        named.entry(rule.pattern.to_string()).or_default().extend(rule.verbs.iter().flatten().cloned());
    }
    for rule in rules.iter_mut().filter(|rule| rule.verbs.as_ref().is_some_and(|verbs| verbs.contains(&Verb::GET))) {
        let taken = match rule.effect {
            Effect::Allow => named.get(&rule.pattern.to_string()).map(Vec::as_slice).unwrap_or_default(),
            Effect::Deny => rule.verbs.as_deref().unwrap_or_default(),
        };
        rule.implied = [Verb::HEAD, Verb::OPTIONS].into_iter().filter(|verb| !taken.contains(verb)).collect();
    }
}
