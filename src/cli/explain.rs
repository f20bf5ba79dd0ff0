//! `explain`: who gets what at a path, and why; the same code as live, on paper.

use std::sync::Arc;

use serde_json::json;

use super::{
    Failure, Result,
    args::ExplainArgs,
    context::Context,
    explanation,
    out::{Out, Style},
    quote::Texts,
    replay,
};
use crate::{
    clock::Timestamp,
    control::{Owner, TokenRecord, roles, services, tokens, users},
    model::{Method, Name, Principal, Reason, Verified},
    policy::{self, Explanation, Question},
    store::{Store, StoreError},
    target::Target,
};

/// Whom the question is about, and what would keep their credentials from being accepted.
struct Who {
    principal: Principal,
    rejected: Option<&'static str>,
}

/// What comes of a request on paper.
pub(super) enum Judged {
    /// Refused before any rule is asked.
    Before { reason: Reason, why: String },
    /// Judged by an application's rules, if the credentials are accepted.
    Verdict { explanation: Box<Explanation>, rejected: Option<&'static str> },
}

/// `portcullis explain`
pub(super) async fn explain(context: &mut Context, args: ExplainArgs, out: &mut Out) -> Result {
    if let Some(id) = &args.request {
        return replay::replay(context, id, out).await;
    }
    match judge(context, &args).await? {
        Judged::Before { reason, why } => refused(&args, reason, &why, out),
        Judged::Verdict { explanation, rejected } if out.json => {
            let mut value = serde_json::to_value(&explanation).map_err(std::io::Error::from)?;
            value["rejected"] = json!(rejected);
            value["quote"] = explanation::quote(&explanation, &Texts::of(&context.config))
                .map_or(serde_json::Value::Null, |quote| json!({ "place": quote.place(), "text": quote.text() }));
            Ok(out.value(&value)?)
        }
        Judged::Verdict { explanation, rejected } => {
            if let Some(why) = rejected {
                let status = out.paint(Style::Bad, format_args!("401 {}", Reason::CredentialsRejected));
                out.line(format_args!("{status}: {why}; otherwise:"))?;
            }
            Ok(explanation::show(&explanation, &Texts::of(&context.config), out)?)
        }
    }
}

/// What the files and the store say now, by the code of the gateway.
pub(super) async fn judge(context: &mut Context, args: &ExplainArgs) -> Result<Judged> {
    let (verb, path) = asked(args);
    let method = http::Method::from_bytes(verb.as_bytes())
        .map_err(|_| Failure::Usage(format!("`{}` is not an HTTP method", verb.escape_debug())))?;
    // Also those that do not do what is expected of them: that is when one asks why.
    let routes = context.config.load_unproved()?.routes;
    if !policy::is_served(&method) {
        let why = format!("applications never see {method}, whatever the rules say; methods are written in capitals");
        return Ok(Judged::Before { reason: Reason::HttpMethodRefused, why });
    }
    let target = match Target::on_paper(path) {
        Ok(target) => target,
        Err(error) => return Ok(Judged::Before { reason: error.reason(), why: error.to_string() }),
    };
    let Some(app) = routes.find(target.path()).cloned() else {
        let mounts: Vec<_> = routes.all().iter().map(|app| &*app.name).collect();
        let why = format!("mounted are: {}", mounts.join(", "));
        return Ok(Judged::Before { reason: Reason::NoApplication, why });
    };
    let system = context.config.security.methods;
    let usual = system.and(app.methods).credentials().iter().next().unwrap_or(Method::Password);
    let Who { principal, rejected } = who(context, args, usual).await?;
    let question = Question { system, principal: &principal, method: &method, from: args.from };
    let explanation = Box::new(policy::explain(&app, &target, &question));
    Ok(Judged::Verdict { explanation, rejected })
}

/// Method and path; clap has made sure that they are there where no request is named.
fn asked(args: &ExplainArgs) -> (&str, &str) {
    (args.http_method.as_deref().unwrap_or_default(), args.path.as_deref().unwrap_or_default())
}

/// Refused before any rule is asked.
fn refused(args: &ExplainArgs, reason: Reason, why: &str, out: &mut Out) -> Result {
    let (verb, path) = asked(args);
    let status = match reason {
        Reason::NoApplication => 404,
        Reason::HttpMethodRefused => 405,
        _ => 400,
    };
    if out.json {
        let value = json!({ "method": verb, "path": path, "status": status, "reason": reason.id(), "why": why });
        return Ok(out.value(&value)?);
    }
    let request = out.paint(Style::Bold, format_args!("{verb} {path}"));
    out.line(format_args!("{request} for everybody"))?;
    let verdict = out.paint(Style::Bad, format_args!("{status} {reason}"));
    Ok(out.line(format_args!("{verdict}: {}", out.paint(Style::Plain, why)))?)
}

async fn who(context: &mut Context, args: &ExplainArgs, usual: Method) -> Result<Who> {
    let known = match args.who.as_deref() {
        None | Some("anonymous") => None,
        Some(text) => Some(owner(&context.store().await?, text).await?),
    };
    let Some((owner, token)) = known else { return somebody(context, args, usual).await };
    let rejected = rejected(&owner, token.as_ref(), context.clock.now());
    let held = match &owner {
        Owner::User(user) => &user.roles,
        Owner::Service(service) => &service.roles,
    };
    let roles = match &args.roles {
        Some(roles) => closure(context, roles).await?,
        None => held.clone(),
    };
    let is_service = matches!(owner, Owner::Service(_));
    let method = args.method.unwrap_or(if is_service || token.is_some() { Method::Token } else { usual });
    if method == Method::Unauthenticated {
        return Ok(anonymous());
    }
    let verified = Verified {
        credential: token.as_ref().map(|token| Arc::clone(&token.id)),
        applications: token.and_then(|token| token.applications),
        ..Verified::on_paper(owner.name().clone(), roles, method)
    };
    let principal = match owner {
        Owner::User(_) => Principal::User(Arc::new(verified)),
        Owner::Service(_) => Principal::Service(Arc::new(verified)),
    };
    Ok(Who { principal, rejected })
}

/// Nobody that the store knows: somebody with these roles, or somebody who has not signed in.
async fn somebody(context: &mut Context, args: &ExplainArgs, usual: Method) -> Result<Who> {
    match (&args.roles, args.method) {
        (None, None) | (_, Some(Method::Unauthenticated)) => Ok(anonymous()),
        (roles, method) => {
            let roles = closure(context, roles.as_deref().unwrap_or_default()).await?;
            let name = Name::parse("somebody").map_err(|error| Failure::Usage(error.to_string()))?;
            Ok(Who { principal: signed_in(name, roles, method.unwrap_or(usual)), rejected: None })
        }
    }
}

/// Somebody whom the store need not know.
pub(super) fn signed_in(name: Name, roles: Vec<Name>, method: Method) -> Principal {
    Principal::User(Arc::new(Verified::on_paper(name, roles, method)))
}

const fn anonymous() -> Who {
    Who { principal: Principal::Anonymous, rejected: None }
}

/// A user, a service, or the owner of a token.
async fn owner(store: &Store, text: &str) -> Result<(Owner, Option<TokenRecord>)> {
    if text.starts_with("tok_") || text.starts_with("ptc_") {
        let token = tokens::get(store, text).await?;
        return Ok((token.owner.clone(), Some(token)));
    }
    let name = Name::parse(text).map_err(|error| Failure::Usage(error.to_string()))?;
    if let Ok(service) = services::get(store, &name).await {
        return Ok((Owner::Service(service), None));
    }
    Ok((Owner::User(users::get(store, &name).await?), None))
}

fn rejected(owner: &Owner, token: Option<&TokenRecord>, now: Timestamp) -> Option<&'static str> {
    let over = |expires: Option<Timestamp>| expires.is_some_and(|at| at <= now);
    match owner {
        Owner::User(user) if !user.enabled => return Some("the user is disabled"),
        Owner::User(user) if over(user.expires) => return Some("the user has expired"),
        Owner::Service(service) if !service.enabled => return Some("the service is disabled"),
        _ => {}
    }
    let token = token?;
    if token.revoked.is_some() {
        return Some("the token is revoked");
    }
    over(token.expires).then_some("the token has expired")
}

/// The roles and what they include; without a store, as they are named.
async fn closure(context: &mut Context, roles: &[Name]) -> Result<Vec<Name>> {
    let store = match context.store().await {
        Ok(store) => store,
        Err(Failure::Store(StoreError::Missing(_))) => return Ok(roles.to_vec()),
        Err(error) => return Err(error),
    };
    let known = roles::list(&store).await?;
    let mut closed: Vec<Name> = roles.to_vec();
    let mut next = 0;
    while let Some(role) = closed.get(next) {
        let includes = known.iter().find(|known| known.name == *role).map(|role| role.includes.clone());
        for included in includes.unwrap_or_default() {
            if !closed.contains(&included) {
                closed.push(included);
            }
        }
        next += 1;
    }
    closed.sort();
    Ok(closed)
}
