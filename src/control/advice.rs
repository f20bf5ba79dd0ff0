//! What could be safer: rules, accounts, tokens, certificates and settings that are allowed and still worth a look.
//!
//! Nothing here is a mistake, those are said by loading. Each piece of advice says what was found, why that matters and
//! what to do; it is looked for in the files and the store alone, so no gateway has to run.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;

use super::{
    Result,
    people::{each_token, each_user, known, off, over},
};
use crate::{
    audit::event,
    certificates::Certificates,
    clock::{Clock, Timestamp},
    config::Config,
    model::{ADMINISTRATOR, Method, SecurityLevel},
    policy::{
        Application,
        diff::{Asking, Comparison},
    },
    store::{AuditFilter, Owner, Store, TokenRecord, UserRecord},
    written::Problem,
};

const DAY: i64 = 24 * 3600 * 1000;
/// An account that has not been used for so long is forgotten more often than needed.
const DORMANT_DAYS: i64 = 90;
/// What was never used for so long will hardly be.
const UNUSED_DAYS: i64 = 30;
/// A certificate that ends sooner wants to be renewed: time enough for whoever signs it.
const RENEW_DAYS: i64 = 30;
/// More people than this who can change everything are more than anybody watches.
const ADMINISTRATORS_MOST: usize = 5;
/// How far back losses of the audit are looked for.
const LOST_DAYS: i64 = 30;
/// Names in one piece of advice; the rest is counted.
const NAMED: usize = 10;

/// One piece of advice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// What it is about: `policy`, `accounts`, `tokens`, `certificates`, `system`.
    pub topic: &'static str,
    /// What was found.
    pub what: String,
    /// Why that matters.
    pub why: String,
    /// What to do.
    pub action: String,
    /// The line of a file that it is about: `policies/notes.toml:12`.
    pub place: Option<String>,
}

/// Everything that is worth a look, the rules first.
///
/// # Errors
/// The store cannot be read.
pub async fn all(config: &Config, store: &Store, clock: &Clock) -> Result<Found> {
    let now = clock.now();
    let known = known(store, now).await?;
    let (applications, warnings) = match config.load_applications_knowing(&known) {
        Ok(loaded) => loaded,
        Err(problems) => return Ok(Err(problems)),
    };
    let mut advice: Vec<Advice> = warnings.iter().map(warned).collect();
    advice.extend(public(config, &applications));
    advice.extend(applications.iter().flat_map(|app| reporting(app)));
    let (tokens, used) = tokens(store, now).await?;
    advice.extend(accounts(store, now, &used).await?);
    advice.extend(tokens);
    advice.extend(certificates(config, clock));
    advice.extend(system(config));
    advice.extend(audit(store, now).await?);
    Ok(Ok(advice))
}

/// Advice, or why the policies cannot be loaded.
type Found = std::result::Result<Vec<Advice>, Vec<Problem>>;

fn advice(topic: &'static str, what: impl Into<String>, why: &str, action: impl Into<String>) -> Advice {
    Advice { topic, what: what.into(), why: why.to_owned(), action: action.into(), place: None }
}

fn warned(warning: &Problem) -> Advice {
    let place = if warning.line > 0 { format!("{}:{}", warning.file, warning.line) } else { warning.file.to_string() };
    Advice {
        topic: "policy",
        what: warning.message.clone(),
        why: "it can be written, and was hardly meant".to_owned(),
        action: warning.help.clone().unwrap_or_else(|| "see `portcullis check`".to_owned()),
        place: Some(place),
    }
}

/// What whoever has not signed in gets: compared with nothing at all, everything they get is a gain.
fn public(config: &Config, applications: &[Arc<Application>]) -> Vec<Advice> {
    let Ok(diff) = Comparison::new(&[], applications, config.security.methods).finish() else { return Vec::new() };
    let open = diff.changes().iter().filter(|change| change.who == Asking::Anonymous);
    open.map(|change| {
        let verbs = diff.verbs(change).map_or_else(|| "every method".to_owned(), |verbs| verbs.join(", "));
        let from = diff.from(change).map(|from| format!(" from {from}")).unwrap_or_default();
        let decider = diff.is(change);
        let what = format!("public: {verbs} {}{from}", some(&diff.paths(change)));
        let why = "whoever reaches this gate gets in there without signing in";
        let action = format!("if that is not meant, narrow `{}`", decider.text);
        Advice { place: decider.rule.map(|rule| rule.to_string()), ..advice("policy", what, why, action) }
    })
    .collect()
}

fn reporting(app: &Application) -> Vec<Advice> {
    let advised = |rule: &crate::policy::Rule| {
        let what = format!("reports only: {rule}");
        let why = "what it would refuse is let in, and told in the audit";
        let action = format!(
            "see `portcullis audit list --event {}`; take `mode` out when nothing unexpected is in it",
            event::WOULD_REFUSE
        );
        Advice { place: Some(rule.id().to_string()), ..advice("policy", what, why, action) }
    };
    app.rules.iter().filter(|rule| rule.reports()).map(advised).collect()
}

/// Names that are alike in something; most are only counted.
#[derive(Default)]
struct Names(Vec<String>);

impl Names {
    fn add(&mut self, name: impl ToString) {
        self.0.push(name.to_string());
    }

    /// Advice on all of them, if there are any.
    fn advise(&self, topic: &'static str, what: &str, why: &str, action: &str) -> Option<Advice> {
        let (first, count) = (self.0.first()?, self.0.len());
        let number = if count > 1 { format!(" ({count})") } else { String::new() };
        let what = format!("{what}{number}: {}", some(&self.0));
        Some(advice(topic, what, why, action.replace("NAME", first)))
    }
}

fn some(names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMED);
    let shown = names[..names.len() - more].join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

/// When a token of an owner was last used; who owns no good token is not there.
type Used = BTreeMap<String, Option<Timestamp>>;

async fn accounts(store: &Store, now: Timestamp, tokens: &Used) -> Result<Vec<Advice>> {
    let (mut dormant, mut never, mut helpless) = (Names::default(), Names::default(), Names::default());
    let mut administrators = Names::default();
    let long_ago = |at: Timestamp, days: i64| at.plus_millis(days * DAY) <= now;
    each_user(store, |user: UserRecord| {
        if !user.enabled || over(user.expires, now) {
            return;
        }
        if user.roles.iter().any(|role| role.as_str() == ADMINISTRATOR) {
            administrators.add(&user.name);
        }
        let token = tokens.get(user.name.as_str());
        match user.last_sign_in.max(token.copied().flatten()) {
            _ if user.password.is_none() && token.is_none() => helpless.add(&user.name),
            Some(at) if long_ago(at, DORMANT_DAYS) => dormant.add(&user.name),
            None if long_ago(user.created, UNUSED_DAYS) => never.add(&user.name),
            _ => {}
        }
    })
    .await?;
    let forgotten = "nobody would notice if somebody else signed in as them";
    let mut found: Vec<Advice> = [
        dormant.advise("accounts", "enabled, and not used for 90 days", forgotten, "portcullis user disable NAME"),
        never.advise(
            "accounts",
            "enabled, and never used in 30 days and more",
            forgotten,
            "portcullis user disable NAME",
        ),
        helpless.advise(
            "accounts",
            "enabled, with neither a password nor a token",
            "they cannot come at all, and whoever sets a password for them gets their roles",
            "portcullis user remove NAME, or set-password",
        ),
    ]
    .into_iter()
    .flatten()
    .collect();
    match administrators.0.len() {
        0 => {}
        1 => found.push(advice(
            "accounts",
            format!("only one administrator: {}", some(&administrators.0)),
            "if they cannot come, nobody can let anybody in or keep anybody out",
            format!("portcullis user grant NAME {ADMINISTRATOR}"),
        )),
        2..=ADMINISTRATORS_MOST => {}
        number => found.push(advice(
            "accounts",
            format!("{number} administrators: {}", some(&administrators.0)),
            "each of them can change everything, and the weakest password among them protects it",
            format!("portcullis user revoke NAME {ADMINISTRATOR}"),
        )),
    }
    Ok(found)
}

async fn tokens(store: &Store, now: Timestamp) -> Result<(Vec<Advice>, Used)> {
    let (mut endless, mut unused, mut expired) = (Names::default(), Names::default(), Names::default());
    let mut used = Used::new();
    each_token(store, |token: TokenRecord| {
        if token.revoked.is_some() || off(&token.owner, now) {
            return;
        }
        let name = format!("{} ({})", token.id, token.owner.name());
        if over(token.expires, now) {
            return expired.add(name);
        }
        if matches!(token.owner, Owner::User(_)) {
            let last = used.entry(token.owner.name().to_string()).or_default();
            *last = (*last).max(token.last_used);
        }
        if token.expires.is_none() {
            endless.add(&name);
        }
        if token.last_used.is_none() && token.created.plus_millis(UNUSED_DAYS * DAY) <= now {
            unused.add(name);
        }
    })
    .await?;
    let found = [
        endless.advise(
            "tokens",
            "never expires",
            "a token that leaks is good until somebody notices",
            "make another with `portcullis token create --expires 90d`, then `portcullis token revoke` this one",
        ),
        unused.advise(
            "tokens",
            "never used in 30 days and more",
            "nobody would miss it, and nobody would notice it used by somebody else",
            "portcullis token revoke ID",
        ),
        expired.advise(
            "tokens",
            "expired",
            "it is not good any more; a program that still shows it is refused",
            "portcullis token revoke ID takes it off this list",
        ),
    ];
    Ok((found.into_iter().flatten().collect(), used))
}

fn certificates(config: &Config, clock: &Clock) -> Vec<Advice> {
    // What keeps them from being loaded is said by `check`.
    let Ok(loaded) = Certificates::load(&config.tls, clock) else { return Vec::new() };
    let now = clock.now();
    let mut found = Vec::new();
    let reachable: Vec<String> = config
        .gateway
        .listen
        .iter()
        .filter(|address| !address.ip().to_canonical().is_loopback())
        .map(ToString::to_string)
        .collect();
    for certificate in &loaded.described {
        let file = certificate.file.display();
        let place = Some(certificate.file.display().to_string());
        let days = (certificate.not_after.0 - now.0).div_euclid(DAY);
        if days < RENEW_DAYS {
            let what = match days {
                ..0 => format!("the certificate in {file} expired at {}", certificate.not_after.rfc3339()),
                days => format!("the certificate in {file} expires in {days} days"),
            };
            let why = "from then on clients refuse to connect";
            let action = "renew it; changed files are taken over within two seconds";
            found.push(Advice { place: place.clone(), ..advice("certificates", what, why, action) });
        }
        let local = |name: &String| {
            name == "localhost"
                || name.ends_with(".localhost")
                || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        };
        if !reachable.is_empty() && certificate.names.iter().all(local) {
            let what =
                format!("the certificate in {file} is for this machine alone, and {} is not", reachable.join(", "));
            let why = "clients elsewhere cannot tell this gate from somebody in between, or learn to ignore warnings";
            let action = "have a certificate made for the name that clients use, see [[tls.certificate]]";
            found.push(Advice { place, ..advice("certificates", what, why, action) });
        }
    }
    let own = |warning: &&String| !warning.contains("expire");
    found.extend(loaded.warnings.iter().filter(own).map(|warning| {
        advice("certificates", warning.clone(), "what protects every connection depends on it", "see the words above")
    }));
    found
}

fn system(config: &Config) -> Vec<Advice> {
    let mut found = Vec::new();
    let place = Some(config.file.file_name().unwrap_or_default().to_string_lossy().into_owned());
    let mut add = |what: String, why: &str, action: &str| {
        found.push(Advice { place: place.clone(), ..advice("system", what, why, action) });
    };
    if config.security.level == SecurityLevel::Minimal {
        add(
            "security level minimal".to_owned(),
            "applications can be opened to everybody, and common passwords are accepted",
            "[security] level = \"normal\", if no application needs strangers",
        );
    } else if config.security.methods.contains(Method::Unauthenticated) {
        add(
            format!("`unauthenticated` is permitted, although the level is {}", config.security.level),
            "applications can be opened to everybody",
            "take it out of [security] methods, if no application needs strangers",
        );
    }
    for namespace in config.namespaces.values().filter(|namespace| !namespace.confined) {
        add(
            format!("[namespace.{}] has confined = false", namespace.name),
            "its applications may reach every file that the gateway may, the store and the keys among them",
            "take it out, and name what they need under `readable` and `writable`",
        );
    }
    found
}

async fn audit(store: &Store, now: Timestamp) -> Result<Vec<Advice>> {
    let filter = AuditFilter { event: Some(event::LOST.to_owned()), since: Some(now.plus_millis(-LOST_DAYS * DAY)) };
    let lost = store.newest_audit(&filter, 1).await?;
    Ok(lost
        .iter()
        .map(|lost| {
            let what = format!("audit records were lost, last told at {}", lost.record.at.rfc3339());
            let why = "what happened then is known to nobody";
            advice(
                "system",
                what,
                why,
                "`portcullis audit list --event audit.lost` says how many; look after the disk of the store",
            )
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, sync::atomic::AtomicI64};

    use super::*;
    use crate::{config, store::testing::execute};

    const POLICY: &str = "[app]\nname = \"/n\"\ndirectory = \".\"\nmodule = \"m\"\nreload = true\n\
                          methods = [\"unauthenticated\", \"password\"]\n\
                          [[allow]]\npath = \"/open\"\nmethods = [\"GET\"]\nwho = \"anyone\"\n\
                          [[allow]]\npath = \"/x\"\nwho = \"role:nobody\"\n\
                          [[deny]]\npath = \"/y\"\nmode = \"report\"\n";

    /// Users by their age and last sign-in, tokens by theirs, in days before now.
    const PEOPLE: &str = "INSERT INTO users (id, name, created, password, last_sign_in) VALUES \
        (1, 'fresh', 86400000 * 190, 'x', NULL), (2, 'busy', 0, 'x', 86400000 * 199), (3, 'dormant', 0, 'x', 1), \
        (4, 'never', 0, 'x', NULL), (5, 'helpless', 86400000 * 199, NULL, NULL), (6, 'by-token', 0, NULL, NULL); \
        INSERT INTO roles (id, name, created) VALUES (1, 'administrator', 0); INSERT INTO user_roles VALUES (2, 1);";
    const TOKENS: &str = "INSERT INTO tokens (id, kind, user, created, expires, last_used) VALUES \
        ('tok_endless', 'jwt', 6, 0, NULL, 86400000 * 199), ('tok_unused', 'jwt', 2, 0, 86400000 * 300, NULL), \
        ('tok_expired', 'jwt', 2, 0, 5, 3)";

    async fn advised(toml: &str) -> Vec<Advice> {
        let home = tempfile::tempdir().unwrap();
        let clock = Clock::Manual(Arc::new(AtomicI64::new(200 * DAY)));
        let file = home.path().join("portcullis.toml");
        fs::write(&file, toml).unwrap();
        fs::create_dir(home.path().join("policies")).unwrap();
        fs::write(home.path().join("policies/n.toml"), POLICY).unwrap();
        let store = Store::create(Path::new(&home.path().join("data/store")), clock.clone()).await.unwrap();
        execute(&store, PEOPLE).await;
        execute(&store, TOKENS).await;
        let (config, _warnings) = config::load(&file).unwrap();
        all(&config, &store, &clock).await.unwrap().unwrap()
    }

    fn has<'a>(advice: &'a [Advice], what: &str) -> &'a Advice {
        advice.iter().find(|advice| advice.what == what).unwrap_or_else(|| panic!("no {what:?} in {advice:#?}"))
    }

    #[tokio::test]
    async fn everything_that_is_worth_a_look_is_told_with_what_to_do() {
        let toml = "[security]\nlevel = \"minimal\"\n[namespace.loose]\nconfined = false\n";
        let advice = advised(toml).await;
        assert_eq!(has(&advice, "public: GET, HEAD, OPTIONS /n/open").place.as_deref(), Some("policies/n.toml:7"));
        assert_eq!(has(&advice, "reports only: deny /y (report only)").place.as_deref(), Some("policies/n.toml:14"));
        assert_eq!(has(&advice, "there is no role `nobody`").place.as_deref(), Some("policies/n.toml:13"));
        has(&advice, "`reload` is for development");
        assert!(has(&advice, "enabled, and not used for 90 days: dormant").action.contains("user disable dormant"));
        has(&advice, "enabled, and never used in 30 days and more: never");
        has(&advice, "enabled, with neither a password nor a token: helpless");
        has(&advice, "only one administrator: busy");
        has(&advice, "never expires: tok_endless (by-token)");
        has(&advice, "never used in 30 days and more: tok_unused (busy)");
        has(&advice, "expired: tok_expired (busy)");
        has(&advice, "security level minimal");
        has(&advice, "[namespace.loose] has confined = false");
        let said: Vec<_> = advice.iter().map(|advice| &advice.what).collect();
        assert_eq!(advice.len(), 13, "{said:#?}");
    }

    #[tokio::test]
    async fn where_strangers_are_not_permitted_nothing_is_public() {
        let advice = advised("").await;
        assert!(!advice.iter().any(|advice| advice.what.starts_with("public")), "{advice:#?}");
        has(&advice, "the system policy forbids: unauthenticated");
    }
}
