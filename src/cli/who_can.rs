//! `who-can`: everybody who could do something, by which method and which rule.
//!
//! The store is walked once, everybody is judged by the code of the gateway, and all that is kept of somebody is the
//! name: what it costs grows with the store and not with its square.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::{
    Failure, Result,
    args::WhoCanArgs,
    context::Context,
    explain::signed_in,
    out::{Out, Style},
    quote::Texts,
    status::count,
};
use crate::{
    control::people::{self, LeftOut, Person},
    model::{Method, MethodSet, Name, Principal, Reason},
    policy::{self, Application, Question, Who},
    target::Target,
};

/// Names of one group that are shown to people; `--json` has all.
const SHOWN: usize = 10;

/// The rule that lets them in, `None` for the default; and the one that would refuse them if it did more than report.
type Door = (Option<usize>, Option<(Reason, String)>);

/// All who get in by the same door.
#[derive(Default)]
struct Group {
    /// Nobody in particular: the anonymous principal, whoever signed in.
    anonymous: bool,
    signed_in: MethodSet,
    users: Vec<String>,
    /// Public ids with their owners.
    tokens: Vec<(String, String)>,
}

/// `portcullis who-can`
pub(super) async fn who_can(context: &mut Context, args: &WhoCanArgs, out: &mut Out) -> Result {
    let method = http::Method::from_bytes(args.http_method.as_bytes())
        .map_err(|_| Failure::Usage(format!("`{}` is not an HTTP method", args.http_method.escape_debug())))?;
    // Also those that do not do what is expected of them: that is when one asks why.
    let routes = context.config.load_unproved()?.routes;
    let asked = match policy::is_served(&method) {
        true => Target::on_paper(&args.path).map_err(|bad| (bad.reason(), bad.to_string())),
        false => {
            Err((Reason::HttpMethodRefused, "applications never see it; methods are written in capitals".to_owned()))
        }
    };
    let found = asked.and_then(|target| match routes.find(target.path()).cloned() {
        None => Err((Reason::NoApplication, "no application is mounted there".to_owned())),
        Some(app) if !app.enabled => Err((Reason::ApplicationDisabled, format!("enabled = false in {}", app.file))),
        Some(app) => Ok((app, target)),
    });
    let (app, target) = match found {
        Ok(found) => found,
        Err((reason, why)) => return nobody(args, reason, &why, out),
    };
    let asking = Asking { app: &app, target: &target, method: &method, args, system: context.config.security.methods };
    let mut groups = BTreeMap::<(usize, String), (Door, Group)>::new();
    let mut put = |principal: &Principal, add: &dyn Fn(&mut Group)| {
        let Some(door) = asking.door(principal) else { return };
        // By the order of the file, the default last.
        let would = door.1.as_ref().map(|(reason, rule)| format!("{reason} {rule}")).unwrap_or_default();
        add(&mut groups.entry((door.0.unwrap_or(usize::MAX), would)).or_insert_with(|| (door, Group::default())).1);
    };
    put(&Principal::Anonymous, &|group| group.anonymous = true);
    for by in asking.system.and(app.methods).credentials().iter() {
        if let Some(somebody) = nobody_in_particular(&app, by) {
            put(&somebody, &|group| group.signed_in = group.signed_in.with(by));
        }
    }
    let store = context.store().await?;
    let left_out = people::everybody(&store, context.clock.now(), |Person { name, owner, principal }| {
        put(&principal, &|group| match &owner {
            None => group.users.push(name.clone()),
            Some(owner) => {
                let kind = if owner.is_service { "service " } else { "" };
                group.tokens.push((name.clone(), format!("{kind}{}", owner.name)));
            }
        });
    })
    .await?;
    let groups: Vec<(Door, Group)> = groups.into_values().collect();
    if out.json {
        return Ok(out.value(&asking.json(&groups, left_out))?);
    }
    Ok(asking.show(&groups, left_out, &Texts::of(&context.config), out)?)
}

/// Somebody of whom is known only that they signed in: no rule names them.
fn nobody_in_particular(app: &Application, method: Method) -> Option<Principal> {
    let named = |name: &Name| {
        let mut who = app.rules.iter().flat_map(|rule| rule.who().iter().chain(rule.unless_who()));
        who.any(|who| matches!(who, Who::User(other) if other == name))
    };
    let name = (0..).map_while(|number| Name::parse(&format!("somebody{number}")).ok()).find(|name| !named(name))?;
    Some(signed_in(name, Vec::new(), method))
}

fn nobody(args: &WhoCanArgs, reason: Reason, why: &str, out: &mut Out) -> Result {
    if out.json {
        let value = json!({
            "method": args.http_method, "path": args.path, "from": args.from, "reason": reason.id(), "why": why, "groups": []
        });
        return Ok(out.value(&value)?);
    }
    let request = out.paint(Style::Bold, format_args!("{} {}", args.http_method, args.path));
    let reason = out.paint(Style::Bad, reason);
    Ok(out.line(format_args!("{request}  nobody: {reason}: {}", out.paint(Style::Plain, why)))?)
}

struct Asking<'a> {
    app: &'a Arc<Application>,
    target: &'a Target,
    method: &'a http::Method,
    args: &'a WhoCanArgs,
    system: MethodSet,
}

impl Asking<'_> {
    fn door(&self, principal: &Principal) -> Option<Door> {
        let question = Question { system: self.system, principal, method: self.method, from: self.args.from };
        let verdict = policy::verdict(self.app, self.target, &question).ok()?;
        let would = verdict.would_refuse.map(|denial| {
            (denial.reason, denial.rule.map_or_else(|| "the default".to_owned(), |rule| rule.to_string()))
        });
        Some((verdict.rule, would))
    }

    /// The id and the text of a door.
    fn rule(&self, door: &Door) -> (Option<String>, String) {
        match door.0.and_then(|number| self.app.rules.iter().nth(number)) {
            Some(rule) => (Some(rule.id().to_string()), rule.to_string()),
            None => (None, format!("default {}", self.app.default)),
        }
    }

    fn json(&self, groups: &[(Door, Group)], left_out: LeftOut) -> Value {
        let group = |(door, group): &(Door, Group)| {
            let (rule, text) = self.rule(door);
            let tokens = group.tokens.iter().map(|(id, owner)| json!({ "id": id, "owner": owner }));
            json!({
                "rule": rule,
                "text": text,
                "would_refuse": door.1.as_ref().map(|(reason, rule)| json!({ "reason": reason.id(), "rule": rule })),
                "anonymous": group.anonymous,
                "signed_in": group.signed_in.iter().map(Method::word).collect::<Vec<_>>(),
                "users": group.users,
                "tokens": tokens.collect::<Vec<_>>(),
            })
        };
        json!({
            "method": self.method.as_str(),
            "path": self.target.path().as_str(),
            "from": self.args.from,
            "application": &*self.app.name,
            "groups": groups.iter().map(group).collect::<Vec<_>>(),
            "left_out": {
                "users_disabled": left_out.users_disabled,
                "users_expired": left_out.users_expired,
                "users_without_password": left_out.users_without_password,
                "tokens_revoked": left_out.tokens_revoked,
                "tokens_expired": left_out.tokens_expired,
                "tokens_of_disabled_owners": left_out.tokens_of_others,
            },
        })
    }

    fn show(&self, groups: &[(Door, Group)], left_out: LeftOut, texts: &Texts, out: &mut Out) -> std::io::Result<()> {
        let request = out.paint(Style::Bold, format_args!("{} {}", self.method, self.target.path()));
        out.line(format_args!("{request}  in {} from {}", self.app.name, self.args.from))?;
        for (door, group) in groups {
            out.line("")?;
            let (rule, text) = self.rule(door);
            let quote = match &rule {
                Some(rule) => texts.rule(rule),
                None => texts.key(&self.app.file, "default"),
            };
            let place = rule.or(quote.map(|quote| quote.place())).unwrap_or_else(|| self.app.file.to_string());
            out.line(format_args!("{}  {}", out.paint(Style::Good, place), out.paint(Style::Bold, text)))?;
            if let Some((reason, rule)) = &door.1 {
                let would = out.paint(Style::Warn, format_args!("would be refused with {reason}"));
                out.line(format_args!("  {would}, did {rule} do more than report"))?;
            }
            members(group, out)?;
        }
        out.line("")?;
        let users: usize = groups.iter().map(|(_, group)| group.users.len()).sum();
        let tokens: usize = groups.iter().map(|(_, group)| group.tokens.len()).sum();
        let anybody = match groups {
            _ if groups.iter().any(|(_, group)| group.anonymous) => "everybody, signed in or not: ",
            _ if groups.iter().any(|(_, group)| !group.signed_in.is_empty()) => "anybody who signed in: ",
            [] => "nobody: ",
            _ => "",
        };
        let (users, tokens) = (count(users, "user"), count(tokens, "token"));
        if groups.is_empty() {
            let hint = format!(
                "`portcullis explain {} {}` says why, `--from IP` asks about another address",
                self.method,
                self.target.path()
            );
            out.line(out.paint(Style::Dim, hint))?;
        }
        out.line(format_args!("{anybody}{users} by password, {tokens}{}", without(left_out)))
    }
}

fn members(group: &Group, out: &mut Out) -> std::io::Result<()> {
    let mut facts = Vec::new();
    if group.anonymous {
        facts.push(("anonymous", "whoever has not signed in".to_owned()));
    }
    if !group.signed_in.is_empty() {
        facts.push(("anybody", format!("who signed in by {}", group.signed_in.to_string().replace(", ", " or "))));
    }
    let some = |names: &[String]| {
        let more = names.len().saturating_sub(SHOWN);
        let shown = names[..names.len() - more].join(", ");
        if more > 0 { format!("{}: {shown} and {more} more", names.len()) } else { shown }
    };
    if !group.users.is_empty() {
        facts.push(("password", some(&group.users)));
    }
    let tokens: Vec<String> = group.tokens.iter().map(|(id, owner)| format!("{id} ({owner})")).collect();
    if !tokens.is_empty() {
        facts.push(("token", some(&tokens)));
    }
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    facts.iter().try_for_each(|(name, fact)| {
        out.line(format_args!(
            "  {}  {}",
            out.paint(Style::Dim, format_args!("{name:width$}")),
            out.paint(Style::Plain, fact)
        ))
    })
}

/// `; left out: 2 users disabled, 1 token revoked`
fn without(left_out: LeftOut) -> String {
    let counts = [
        (left_out.users_disabled, "user", "disabled"),
        (left_out.users_expired, "user", "expired"),
        (left_out.users_without_password, "user", "without a password"),
        (left_out.tokens_revoked, "token", "revoked"),
        (left_out.tokens_expired, "token", "expired"),
        (left_out.tokens_of_others, "token", "of disabled owners"),
    ];
    let words: Vec<String> = counts
        .into_iter()
        .filter(|(number, ..)| *number > 0)
        .map(|(number, what, why)| format!("{} {why}", count(number, what)))
        .collect();
    if words.is_empty() { String::new() } else { format!("; left out: {}", words.join(", ")) }
}
