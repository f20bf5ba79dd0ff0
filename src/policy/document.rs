//! A policy file as written: every key there is, read with its place. What the keys mean together is [`super::compile`]'s.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive, sync::Arc, time::Duration};

use http::Method as Verb;
use ipnet::IpNet;

use super::{
    Context, Default_, Interface, ServeFiles,
    cors::{self, Cors},
    elsewhere,
    expect::{self, Expectation},
    hygiene::{self, Hygiene},
    limit::{self, Limit},
    rule::{Effect, Named, Who},
};
use crate::{
    model::{Method, MethodSet, Name},
    target::{Mount, Pattern},
    written::{Problem, Source, Table, Value, environment, nearest, parse_network, shown},
};

/// A thing and the value it was read from, for what is found out about it later.
pub(super) type At<'f, T> = (T, Value<'f>);

/// A policy file.
pub(super) struct Document<'f> {
    pub app: App<'f>,
    /// In the order of the file.
    pub rules: Vec<WrittenRule<'f>>,
    /// What the file says of itself.
    pub expectations: Vec<Expectation>,
}

/// `[app]`. `None` stands for a key that is absent or was reported.
pub(super) struct App<'f> {
    pub name: Option<At<'f, Mount>>,
    pub title: Option<String>,
    pub namespace: Option<At<'f, String>>,
    pub directory: Option<At<'f, String>>,
    pub module: Option<String>,
    pub callable: Option<String>,
    pub interface: Option<At<'f, Interface>>,
    pub python: Option<String>,
    pub methods: Option<At<'f, MethodSet>>,
    pub serve_files: Option<ServeFiles>,
    pub workers: Option<u16>,
    pub threads: Option<u16>,
    pub default: Option<At<'f, Default_>>,
    pub enabled: Option<bool>,
    pub elsewhere: bool,
    pub app_roles: Vec<Name>,
    pub pass_authorization: Option<bool>,
    pub identity_headers: Option<bool>,
    pub stream_bodies: Option<bool>,
    pub reload: Option<At<'f, bool>>,
    pub body_bytes: Option<u64>,
    pub queue_timeout: Option<Duration>,
    pub request_timeout: Option<Duration>,
    pub start_timeout: Option<Duration>,
    pub stop_timeout: Option<Duration>,
    pub deadlock_timeout: Option<Duration>,
    pub preload: Option<bool>,
    pub max_requests: Option<u64>,
    pub max_memory: Option<u64>,
    pub environment: BTreeMap<String, String>,
    pub limits: Vec<Limit>,
    pub hygiene: Hygiene,
    pub cors: Option<Cors>,
}

/// One `[[allow]]` or `[[deny]]`.
pub(super) struct WrittenRule<'f> {
    pub effect: Effect,
    pub line: u32,
    pub reports: bool,
    /// None when it is absent or was reported.
    pub paths: Vec<At<'f, Named<Pattern>>>,
    pub verbs: Option<Vec<At<'f, Verb>>>,
    pub unless_verbs: Vec<At<'f, Verb>>,
    pub who: Vec<At<'f, Who>>,
    pub unless_who: Vec<At<'f, Who>>,
    pub auth: Option<At<'f, MethodSet>>,
    pub mfa: Option<At<'f, Duration>>,
    pub from: Vec<Named<IpNet>>,
    pub limits: Vec<Limit>,
}

/// Worker processes of one application; more than this is a misplaced digit.
const WORKERS: RangeInclusive<u64> = 1..=256;
/// Threads of one worker; they share one interpreter lock.
const THREADS: RangeInclusive<u64> = 1..=256;
/// Request bodies: a terabyte is as good as no limit.
const BODY: RangeInclusive<u64> = 0..=1 << 40;
/// Requests after which a worker is replaced; replacing it costs an import.
const MAX_REQUESTS: RangeInclusive<u64> = 1..=1_000_000_000;
/// Memory beyond which a worker is replaced: an interpreter alone takes 10 MiB.
const MAX_MEMORY: RangeInclusive<u64> = 16 << 20..=1 << 40;
/// Time-outs of one application.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(24 * 3600);

/// Rules and expectations of one policy: nobody reviews more, and reading them takes seconds.
const RULES_MOST: usize = 20_000;
/// A second factor used this long ago still counts: less is asked for anew at every click, more is none.
const SECOND_FACTOR: RangeInclusive<Duration> = Duration::from_mins(1)..=Duration::from_hours(90 * 24);

/// What to say of a policy with so many rules and expectations.
fn too_many(count: usize) -> Option<(String, &'static str)> {
    let message = || format!("{count} rules and expectations are more than the {RULES_MOST} that a policy may have");
    (count > RULES_MOST).then(|| (message(), "is it the right file? `*`, `**` and roles say much in one rule"))
}

/// The same for a text that has not been taken apart: doing that costs a hundred times its size in memory.
pub(super) fn is_too_much(source: &Source) -> Option<Problem> {
    let tables = source.text.lines().filter(|line| line.trim_start().starts_with("[[")).count();
    too_many(tables).map(|(message, help)| Problem::file(&source.file, message).help(help))
}

/// Reads the root of a policy file.
pub(super) fn read<'f>(root: &Table<'f>, context: Context<'_>) -> Document<'f> {
    let app = root.table("app");
    if !app.is_present() {
        root.required("app", "a policy begins with [app] and says what the application is");
    }
    if let Some((message, help)) = too_many(["allow", "deny", "expect"].map(|key| root.count(key)).iter().sum()) {
        root.error(message, help);
        return Document { app: read_app(&app), rules: Vec::new(), expectations: Vec::new() };
    }
    let mut rules: Vec<_> = root.tables("allow").iter().map(|table| rule(table, Effect::Allow, context)).collect();
    rules.extend(root.tables("deny").iter().map(|table| rule(table, Effect::Deny, context)));
    rules.sort_by_key(|rule| rule.line);
    let expectations = root.tables("expect").iter().filter_map(expect::read).collect();
    Document { app: read_app(&app), rules, expectations }
}

fn read_app<'f>(app: &Table<'f>) -> App<'f> {
    let required = |key, help| if app.is_present() { app.required(key, help) } else { None };
    let elsewhere = elsewhere::read(app);
    let program = |key, help| if elsewhere { None } else { required(key, help) };
    let flag = |key| app.value(key).and_then(|value| value.boolean());
    let timeout = |key| app.value(key).and_then(|value| value.duration(TIMEOUT));
    let count = |key, within| app.value(key).and_then(|value| value.whole(within)).and_then(|n| n.try_into().ok());
    App {
        name: required("name", "the path it is mounted at: name = \"/notes\"").and_then(mount),
        title: app.value("title").and_then(|value| line(&value)),
        namespace: app.value("namespace").and_then(|value| value.string().map(|text| (text.to_owned(), value))),
        directory: program("directory", "where it lies, relative to this file: directory = \"../notes\"")
            .and_then(|value| path(&value).map(|path| (path, value))),
        module: program("module", "the file with the callable, without .py: module = \"app\"")
            .and_then(|value| value.parse(module, "a module such as \"app\" or \"notes.wsgi\"")),
        callable: app
            .value("callable")
            .and_then(|value| value.parse(callable, "such as \"application\", or a factory \"create_app()\"")),
        interface: app
            .value("interface")
            .and_then(|value| value.word("an interface", &INTERFACES).map(|interface| (interface, value))),
        python: app.value("python").and_then(|value| path(&value)),
        methods: required("methods", "how callers may authenticate: methods = [\"password\", \"token\"]")
            .and_then(methods),
        serve_files: app.value("serve_files").and_then(|value| value.word("a way to serve files", &SERVE_FILES)),
        workers: count("workers", WORKERS),
        threads: count("threads", THREADS),
        default: app
            .value("default")
            .and_then(|value| value.parse(default, DEFAULT_HELP).map(|default| (default, value))),
        enabled: flag("enabled"),
        elsewhere,
        app_roles: app.value("app_roles").map(|value| roles(&value)).unwrap_or_default(),
        pass_authorization: flag("pass_authorization"),
        identity_headers: flag("identity_headers"),
        stream_bodies: flag("stream_bodies"),
        reload: app.value("reload").and_then(|value| value.boolean().map(|reload| (reload, value))),
        body_bytes: app.value("body_bytes").and_then(|value| value.size(BODY)),
        queue_timeout: timeout("queue_timeout"),
        request_timeout: timeout("request_timeout"),
        start_timeout: timeout("start_timeout"),
        stop_timeout: timeout("stop_timeout"),
        deadlock_timeout: timeout("deadlock_timeout"),
        preload: flag("preload"),
        max_requests: app.value("max_requests").and_then(|value| value.whole(MAX_REQUESTS)),
        max_memory: app.value("max_memory").and_then(|value| value.size(MAX_MEMORY)),
        environment: environment(&app.table("environment")),
        limits: app.value("limit").map(|value| limit::read(&value)).unwrap_or_default(),
        hygiene: hygiene::read(&app.table("headers")),
        cors: cors::read(&app.table("cors")),
    }
}

const INTERFACES: [(&str, Interface); 2] = [("wsgi", Interface::Wsgi), ("asgi", Interface::Asgi)];
const SERVE_FILES: [(&str, ServeFiles); 3] =
    [("no", ServeFiles::No), ("always", ServeFiles::Always), ("secured", ServeFiles::Secured)];
const DEFAULT_HELP: &str = "one of: deny, signed-in, anyone, role:NAME";
const WHO_HELP: &str = "one of: anyone, signed-in, role:NAME, user:NAME, service:NAME, token:ID";

fn rule<'f>(table: &Table<'f>, effect: Effect, context: Context<'_>) -> WrittenRule<'f> {
    let paths = table.required("path", "what it is about, relative to the mount: path = \"/admin/**\"");
    let (who, unless_who, mfa, unless_verbs) = match effect {
        Effect::Allow => {
            let who = table.required("who", "whom it lets in: who = \"role:admin\", or \"signed-in\", or \"anyone\"");
            (who, None, table.value("mfa"), None)
        }
        Effect::Deny => (table.value("who"), table.value("unless_who"), None, table.value("unless_methods")),
    };
    let verbs = table.value("methods");
    if let (Some(_), Some(value)) = (&verbs, &unless_verbs) {
        value.key_error(
            "`unless_methods` stands beside `methods`",
            "say which methods it holds for, or which it spares",
        );
    }
    let reports = table.value("mode").and_then(|value| value.word("a mode", &MODES)).unwrap_or(false);
    WrittenRule {
        effect,
        line: table.line(),
        reports,
        paths: paths.map(|value| all(&value, |value| at(place(value, context), value))).unwrap_or_default(),
        verbs: verbs.map(|value| all(&value, |value| at(verb(value), value))),
        unless_verbs: unless_verbs.map(|value| all(&value, |value| at(verb(value), value))).unwrap_or_default(),
        who: who.map(|value| all(&value, |value| at(who_of(value), value))).unwrap_or_default(),
        unless_who: unless_who.map(|value| spared(&value)).unwrap_or_default(),
        auth: table.value("auth").and_then(methods),
        mfa: mfa.and_then(|value| value.duration(SECOND_FACTOR).map(|age| (age, value))),
        from: table.value("from").map(|value| all(&value, |value| origin(value, context))).unwrap_or_default(),
        limits: table.value("limit").map(|value| limit::of_rule(&value, effect, reports)).unwrap_or_default(),
    }
}

const MODES: [(&str, bool); 2] = [("enforce", false), ("report", true)];

fn at<'f, T>(read: Option<T>, value: &Value<'f>) -> Option<At<'f, T>> {
    read.map(|read| (read, value.clone()))
}

/// A path, or the name of a group of them.
fn place(value: &Value<'_>, context: Context<'_>) -> Option<Named<Pattern>> {
    let text = value.string()?;
    if text.starts_with('/') || text.is_empty() {
        return value.parse(pattern, "such as /admin, /orders/* or /admin/**").map(Named::One);
    }
    let otherwise = format!("a path begins with a slash: `/{}`", shown(text));
    group(value, text, context.paths, "paths", &otherwise)
}

/// A network, or the name of a group of them.
fn origin(value: &Value<'_>, context: Context<'_>) -> Option<Named<IpNet>> {
    let text = value.string()?;
    if !text.starts_with(|c: char| c.is_ascii_alphabetic()) || text.contains([':', '/']) {
        return network(value).map(Named::One);
    }
    group(value, text, context.networks, "networks", "networks are such as 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32")
}

fn group<T>(
    value: &Value<'_>,
    name: &str,
    groups: &BTreeMap<String, Arc<[T]>>,
    table: &str,
    otherwise: &str,
) -> Option<Named<T>> {
    if let Some(members) = groups.get(name) {
        return Some(Named::Group { name: name.into(), members: Arc::clone(members) });
    }
    let help = match nearest(name, groups.keys().map(String::as_str)) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("declare it under [{table}] in portcullis.toml; {otherwise}"),
    };
    value.error(format!("there is no group of {table} `{}`", shown(name)), help);
    None
}

/// Every item of a list that may be written without brackets.
fn all<'f, T>(value: &Value<'f>, read: impl Fn(&Value<'f>) -> Option<T>) -> Vec<T> {
    value.some_items("leave the key out, or say what it is about").iter().filter_map(read).collect()
}

fn mount(value: Value<'_>) -> Option<At<'_, Mount>> {
    value.parse(|text| explained(Mount::parse(text)), "a path such as \"/notes\", or \"/\"").map(|mount| (mount, value))
}

fn pattern(text: &str) -> Result<Pattern, String> {
    explained(Pattern::parse(text))
}

fn explained<T>(read: Result<T, &str>) -> Result<T, String> {
    read.map_err(|why| match why {
        "it is encoded twice" => "is not a path: write it decoded, without %".to_owned(),
        why => format!("is not a path: {why}"),
    })
}

/// One line of text that may stand on a page and in a log.
fn line(value: &Value<'_>) -> Option<String> {
    let plain = |text: &str| match text.chars().any(char::is_control) {
        true => Err("has a control character"),
        false => Ok(text.to_owned()),
    };
    value.parse(plain, "one line of text")
}

fn path(value: &Value<'_>) -> Option<String> {
    let check = |text: &str| match text.is_empty() || text.contains('\0') {
        true => Err("is not the path of a file"),
        false => Ok(text.to_owned()),
    };
    value.parse(check, "a path relative to this file")
}

fn methods(value: Value<'_>) -> Option<At<'_, MethodSet>> {
    let words = Method::ALL.map(|method| (method.word(), method));
    let found = all(&value, |item| item.word("an authentication method", &words));
    (!found.is_empty()).then(|| (found.into_iter().collect(), value))
}

fn roles(value: &Value<'_>) -> Vec<Name> {
    let role = |text: &str| match text.strip_prefix("role:") {
        Some(_) => Err("is not the name of a role: leave `role:` out here".to_owned()),
        None => Name::parse(text).map_err(|_| format!("is not the name of a role: {NAME_RULE}")),
    };
    value.items().iter().filter_map(|item| item.parse(role, "such as app_roles = [\"reader\"]")).collect()
}

/// What [`Name`] accepts.
const NAME_RULE: &str = "1 to 64 letters, digits or any of .-_+@, beginning with a letter or a digit";

fn default(text: &str) -> Result<Default_, String> {
    match text {
        "deny" => Ok(Default_::Deny),
        "signed-in" => Ok(Default_::SignedIn),
        "anyone" => Ok(Default_::Anyone),
        _ => match text.split_once(':') {
            Some(("role", role)) => name(role).map(Default_::Role),
            _ => Err(not_one_of("is not a default", text, ["deny", "signed-in", "anyone", "role:NAME"])),
        },
    }
}

fn spared<'f>(value: &Value<'f>) -> Vec<At<'f, Who>> {
    let spared = all(value, |value| at(who_of(value), value));
    if spared.iter().any(|(who, _)| *who == Who::Anyone) {
        value.error("a deny that spares anyone never denies", "say whom it spares, or leave the deny out");
    }
    spared
}

fn who_of(value: &Value<'_>) -> Option<Who> {
    value.parse(who, WHO_HELP)
}

pub(super) fn who(text: &str) -> Result<Who, String> {
    match text {
        "anyone" => return Ok(Who::Anyone),
        "signed-in" => return Ok(Who::SignedIn),
        _ => {}
    }
    match text.split_once(':') {
        Some(("role", role)) => name(role).map(Who::Role),
        Some(("user", user)) => name(user).map(Who::User),
        Some(("service", service)) => name(service).map(Who::Service),
        Some(("token", id)) if is_token_id(id) => Ok(Who::Token(id.into())),
        Some(("token", _)) => Err("names no token: its public id begins with tok_".to_owned()),
        Some((kind, _)) => Err(not_one_of("names nobody", kind, ["role", "user", "service", "token"])),
        None => Err(not_one_of("names nobody", text, ["anyone", "signed-in"])),
    }
}

/// The public id of a token, never the token itself: that would be a secret in a file that people review.
fn is_token_id(id: &str) -> bool {
    let plain =
        |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    id.strip_prefix("tok_").is_some_and(plain)
}

fn name(text: &str) -> Result<Name, String> {
    Name::parse(text).map_err(|_| format!("has no name after the colon: {NAME_RULE}"))
}

fn not_one_of<const N: usize>(what: &str, text: &str, words: [&str; N]) -> String {
    nearest(text, words).map_or_else(|| what.to_owned(), |meant| format!("{what}; did you mean `{meant}`?"))
}

/// HTTP methods are case-sensitive, and none in use has a lower-case letter: `get` would never match.
fn verb(value: &Value<'_>) -> Option<Verb> {
    value.parse(verb_of, "in capitals: methods = [\"GET\", \"POST\"]")
}

pub(super) fn verb_of(text: &str) -> Result<Verb, String> {
    match text.to_ascii_uppercase() {
        upper if upper != text => Err(format!("is not an HTTP method; did you mean `{upper}`?")),
        _ => Verb::from_bytes(text.as_bytes()).map_err(|_| "is not an HTTP method".to_owned()),
    }
}

fn network(value: &Value<'_>) -> Option<IpNet> {
    value.parse(parse_network, "such as 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32")
}

fn module(text: &str) -> Result<String, &'static str> {
    if text.ends_with(".py") {
        return Err("is a file; leave .py out");
    }
    if text.split('.').all(is_word) { Ok(text.to_owned()) } else { Err("is not a module") }
}

fn callable(text: &str) -> Result<String, &'static str> {
    let name = text.strip_suffix("()").unwrap_or(text);
    if name.split('.').all(is_word) { Ok(text.to_owned()) } else { Err("is not a callable") }
}

/// A Python identifier, or a file name that can be imported though it has a dash.
fn is_word(text: &str) -> bool {
    let rest = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    text.starts_with(|c: char| c.is_alphabetic() || c == '_') && text.chars().all(rest)
}

impl fmt::Display for Default_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deny => f.write_str("deny"),
            Self::SignedIn => f.write_str("signed-in"),
            Self::Anyone => f.write_str("anyone"),
            Self::Role(role) => write!(f, "role:{role}"),
        }
    }
}
