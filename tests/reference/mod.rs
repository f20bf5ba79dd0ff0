//! The verdict of a policy, found slowly: strings, linear searches, no trie, nothing shared with the real one but the
//! words. Random policies and requests for it are in `generate`. Used by the tests of the policy and by those of the
//! running gateway.

pub mod generate;

use std::net::IpAddr;

/// A request as the reference sees it.
#[derive(Debug, Clone)]
pub struct Naive {
    pub verb: String,
    /// The canonical path with the mount.
    pub path: String,
    /// `None` is the anonymous principal.
    pub name: Option<String>,
    pub is_service: bool,
    pub roles: Vec<String>,
    /// `password` or `token`; `unauthenticated` for the anonymous principal.
    pub by: String,
    /// The public id of a token.
    pub credential: Option<String>,
    /// IPv4 inside IPv6 has been unwrapped.
    pub from: IpAddr,
    /// The applications a token is good for.
    pub only: Option<Vec<String>>,
}

/// A policy as TOML sees it.
#[derive(Debug)]
pub struct Reference {
    mount: String,
    methods: Vec<String>,
    default: String,
    app_roles: Vec<String>,
    allows: Vec<Rule>,
    denies: Vec<Rule>,
}

/// A rule at one of its paths.
#[derive(Debug, Clone)]
struct Rule {
    rule: usize,
    /// All its paths, as they are shown.
    shown: String,
    path: String,
    reports: bool,
    mfa: bool,
    verbs: Vec<String>,
    unless_verbs: Vec<String>,
    who: Vec<String>,
    unless_who: Vec<String>,
    auth: Vec<String>,
    from: Vec<String>,
}

fn strings(table: &toml::Table, key: &str) -> Vec<String> {
    match table.get(key) {
        None => Vec::new(),
        Some(toml::Value::String(text)) => vec![text.clone()],
        Some(value) => value.as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned()).collect(),
    }
}

impl Reference {
    pub fn read(text: &str) -> Self {
        let document: toml::Table = text.parse().unwrap();
        let app = document["app"].as_table().unwrap();
        let rules = |key: &str| {
            let rules = document.get(key).and_then(toml::Value::as_array).cloned().unwrap_or_default();
            let naive = |(number, rule): (usize, &toml::Value)| {
                let rule = rule.as_table().unwrap();
                let one = |path: &String| Rule {
                    rule: number,
                    shown: strings(rule, "path").join(", "),
                    path: path.clone(),
                    reports: strings(rule, "mode") == ["report"],
                    mfa: rule.contains_key("mfa"),
                    verbs: strings(rule, "methods"),
                    unless_verbs: strings(rule, "unless_methods"),
                    who: strings(rule, "who"),
                    unless_who: strings(rule, "unless_who"),
                    auth: strings(rule, "auth"),
                    from: strings(rule, "from"),
                };
                let paths = strings(rule, "path");
                let expand = |path: &String| match path.as_str() {
                    "assets" => vec!["/b/**".to_owned(), "/a/*".to_owned()],
                    path => vec![path.to_owned()],
                };
                paths.iter().flat_map(expand).map(|path| one(&path)).collect::<Vec<_>>()
            };
            rules.iter().enumerate().flat_map(naive).collect()
        };
        Self {
            mount: strings(app, "name").remove(0),
            methods: strings(app, "methods"),
            default: strings(app, "default").pop().unwrap_or_else(|| "deny".to_owned()),
            app_roles: strings(app, "app_roles"),
            allows: rules("allow"),
            denies: rules("deny"),
        }
    }

    /// Two allows that would both be the most specific.
    pub fn overlaps(&self) -> bool {
        let pairs = self.allows.iter().enumerate().flat_map(|(i, a)| self.allows[..i].iter().map(move |b| (a, b)));
        pairs.into_iter().any(|(a, b)| {
            a.rule != b.rule
                && a.reports == b.reports
                && a.path == b.path
                && (a.verbs.is_empty() || b.verbs.is_empty() || a.verbs.iter().any(|verb| b.verbs.contains(verb)))
        })
    }

    /// Status word, reason and pattern, as the tests of the policy write a verdict, without the methods to sign in by.
    pub fn answer(&self, system: &[&str], asked: &Naive) -> String {
        let enforced = |rules: &[Rule]| rules.iter().filter(|rule| !rule.reports).cloned().collect::<Vec<_>>();
        let (allows, denies) = (enforced(&self.allows), enforced(&self.denies));
        let answer = self.judge(&allows, &denies, system, asked);
        let reports = allows.len() + denies.len() < self.allows.len() + self.denies.len();
        if !reports || !answer.starts_with("allowed") {
            return answer;
        }
        let trial = self.judge(&self.allows, &self.denies, system, asked);
        match trial.split_once(' ') {
            Some((status, refused)) if status != "allowed" => format!("{answer}, would be {refused}"),
            _ => answer,
        }
    }

    fn judge(&self, allows: &[Rule], denies: &[Rule], system: &[&str], asked: &Naive) -> String {
        let path = asked.path.as_str();
        let info = if self.mount == "/" { path } else { path.strip_prefix(&self.mount).unwrap() };
        let permitted: Vec<&str> = system.iter().copied().filter(|m| self.methods.iter().any(|a| a == m)).collect();
        if permitted.is_empty() {
            return "403 method-not-permitted default".into();
        }
        let came_by = asked.by.as_str();
        let anonymous = asked.name.is_none();
        if !anonymous && !permitted.contains(&came_by) {
            return "403 method-not-allowed default".into();
        }
        if asked.only.as_ref().is_some_and(|only| !only.contains(&self.mount)) {
            return "403 token-not-for-application default".into();
        }
        let denies: Vec<_> = denies.iter().filter(|deny| self.denies_now(deny, info, asked)).collect();
        let allow = most_specific(allows, info, &asked.verb);
        if !denies.is_empty() {
            let helpless = |deny: &&&Rule| {
                let others = permitted.iter().any(|m| *m != "unauthenticated" && !deny.auth.iter().any(|a| a == m));
                let none = permitted.iter().all(|m| *m == "unauthenticated");
                !anonymous || none || deny.unless_who.is_empty() && (deny.auth.is_empty() || !others)
            };
            let named = denies.iter().find(helpless).or(denies.first()).unwrap();
            return format!("40? denied-by-rule {}", named.shown);
        }
        let Some(rule) = allow else {
            let named = match self.default.as_str() {
                "deny" => false,
                "signed-in" => !anonymous,
                "anyone" => true,
                role => self.is(role, asked),
            };
            if named && permitted.contains(&came_by) {
                return "allowed by default".into();
            }
            let help = anonymous && self.default != "deny" && permitted.iter().any(|m| *m != "unauthenticated");
            return if help { "401 credentials-required default" } else { "403 denied-by-default default" }.into();
        };
        let effective: Vec<_> =
            permitted.iter().filter(|m| rule.auth.is_empty() || rule.auth.iter().any(|a| a == *m)).copied().collect();
        let say = |what: &str| format!("{what} {}", rule.shown);
        if effective.is_empty() {
            return say("403 method-not-permitted");
        }
        if !anonymous && !effective.contains(&came_by) {
            return say("403 method-not-allowed");
        }
        if !from(rule, asked) {
            return say("403 network-not-allowed");
        }
        let named = effective.contains(&came_by) && rule.who.iter().any(|who| self.is(who, asked));
        if named && !rule.mfa {
            return say("allowed by");
        }
        let tokens = rule.who.iter().all(|who| who.starts_with("token:") || who.starts_with("service:"));
        let help = effective.iter().any(|m| *m == "token" || (*m == "password" && !tokens));
        say(match named {
            _ if anonymous && help => "401 credentials-required",
            true => "403 second-factor-required",
            false => "403 not-allowed-by-rule",
        })
    }

    fn denies_now(&self, deny: &Rule, info: &str, asked: &Naive) -> bool {
        let mut readings = vec![segments(info)];
        if info.len() > 1 && info.ends_with('/') {
            readings.push([segments(info), vec![""]].concat());
        }
        let verb = asked.verb.as_str();
        let get = deny.verbs.iter().any(|v| v == "GET") && ["HEAD", "OPTIONS"].contains(&verb);
        readings.iter().any(|segments| matches(&pattern(&deny.path), segments))
            && (deny.verbs.is_empty() || get || deny.verbs.iter().any(|v| v == verb))
            && !deny.unless_verbs.iter().any(|v| v == verb || (v == "GET" && ["HEAD", "OPTIONS"].contains(&verb)))
            && (deny.who.is_empty() || deny.who.iter().any(|who| self.is(who, asked)))
            && !deny.unless_who.iter().any(|who| self.is(who, asked))
            && (deny.auth.is_empty() || deny.auth.contains(&asked.by))
            && from(deny, asked)
    }

    fn is(&self, who: &str, asked: &Naive) -> bool {
        let signed_in = asked.name.is_some();
        let named = |name: &str| asked.name.as_deref() == Some(name);
        match who.split_once(':') {
            None => who == "anyone" || signed_in,
            Some(("role", role)) => self.app_roles.iter().chain(&asked.roles).any(|held| held == role),
            Some(("user", name)) => named(name) && !asked.is_service,
            Some(("service", name)) => named(name) && asked.is_service,
            Some((_, id)) => signed_in && asked.credential.as_deref() == Some(id),
        }
    }
}

fn most_specific<'a>(allows: &'a [Rule], info: &str, verb: &str) -> Option<&'a Rule> {
    let named =
        |rule: &Rule| allows.iter().any(|other| other.path == rule.path && other.verbs.iter().any(|v| v == verb));
    let covers = |rule: &Rule| {
        let get = rule.verbs.iter().any(|v| v == "GET") && ["HEAD", "OPTIONS"].contains(&verb) && !named(rule);
        rule.verbs.is_empty() || get || rule.verbs.iter().any(|v| v == verb)
    };
    let rank = |rule: &&Rule| -> (Vec<u8>, bool) {
        let rank = |segment: &&str| match *segment {
            "**" => 2,
            "*" => 1,
            _ => 0,
        };
        (pattern(&rule.path).iter().map(rank).collect(), !rule.reports)
    };
    let matching = |rule: &&Rule| covers(rule) && matches(&pattern(&rule.path), &segments(info));
    allows.iter().filter(matching).min_by_key(rank)
}

fn from(rule: &Rule, asked: &Naive) -> bool {
    let is_in = |net: &String| match net.parse::<ipnet::IpNet>() {
        _ if net == "office" => {
            asked.from.to_string().starts_with(if asked.from.is_ipv4() { "10." } else { "2001:db8:" })
        }
        Ok(net) => net.contains(&asked.from),
        Err(_) => net.parse() == Ok(asked.from),
    };
    rule.from.is_empty() || rule.from.iter().any(is_in)
}

fn segments(info: &str) -> Vec<&str> {
    info.split('/').filter(|segment| !segment.is_empty()).collect()
}

fn pattern(text: &str) -> Vec<&str> {
    segments(text)
}

fn matches(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern, path) {
        (["**"], _) => true,
        ([], []) => true,
        (["*", pattern @ ..], [_, path @ ..]) => matches(pattern, path),
        ([literal, pattern @ ..], [segment, path @ ..]) => literal == segment && matches(pattern, path),
        _ => false,
    }
}
