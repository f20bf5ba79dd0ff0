//! `explain`: who gets what at a path, and why; the same code as live, on paper.

use std::sync::Arc;

use bytes::Bytes;
use http::{Uri, Version};
use serde_json::json;

use super::{
    Failure, Result,
    args::ExplainArgs,
    context::Context,
    out::{Out, Style},
};
use crate::{
    clock::Timestamp,
    control::{Owner, TokenRecord, roles, services, tokens, users},
    model::{Method, Name, Principal, Reason, Validity, Verified},
    policy::{self, Question},
    snapshot::Routes,
    store::{Store, StoreError},
    target::{BadTarget, Target},
};

/// Whom the question is about, and what would keep their credentials from being accepted.
struct Who {
    principal: Principal,
    rejected: Option<&'static str>,
}

/// `portcullis explain`
pub(super) async fn explain(context: &mut Context, args: ExplainArgs, out: &mut Out) -> Result {
    let method = http::Method::from_bytes(args.http_method.as_bytes())
        .map_err(|_| Failure::Usage(format!("`{}` is not an HTTP method", args.http_method.escape_debug())))?;
    let (applications, _warnings) = context.config.load_applications()?;
    let routes = Routes::new(applications);
    let target = match target(&args.path) {
        Ok(target) => target,
        Err(error) => return refused(&args, reason(&error), &error.to_string(), out),
    };
    let Some(app) = routes.find(target.path()).cloned() else {
        let mounts: Vec<_> = routes.all().iter().map(|app| &*app.name).collect();
        return refused(&args, Reason::NoApplication, &format!("mounted are: {}", mounts.join(", ")), out);
    };
    let system = context.config.security.methods;
    let usual = system.and(app.methods).credentials().iter().next().unwrap_or(Method::Password);
    let who = who(context, &args, usual).await?;
    let question = Question { system, principal: &who.principal, method: &method, from: args.from };
    let explanation = policy::explain(&app, &target, &question);
    if out.json {
        let mut value = serde_json::to_value(&explanation).map_err(std::io::Error::from)?;
        value["rejected"] = json!(who.rejected);
        return Ok(out.value(&value)?);
    }
    if let Some(why) = who.rejected {
        let status = out.paint(Style::Bad, format_args!("401 {}", Reason::CredentialsRejected));
        out.line(format_args!("{status}: {why}; otherwise:"))?;
    }
    Ok(out.block("", &explanation.to_string())?)
}

/// Refused before any rule is asked.
fn refused(args: &ExplainArgs, reason: Reason, why: &str, out: &mut Out) -> Result {
    let status = match reason {
        Reason::NoApplication => 404,
        _ => 400,
    };
    if out.json {
        let value = json!({ "method": args.http_method, "path": args.path, "status": status, "reason": reason.id(), "why": why });
        return Ok(out.value(&value)?);
    }
    let request = out.paint(Style::Bold, format_args!("{} {}", args.http_method, args.path));
    out.line(format_args!("{request} for everybody"))?;
    let verdict = out.paint(Style::Bad, format_args!("{status} {reason}"));
    Ok(out.line(format_args!("{verdict}: {}", out.paint(Style::Plain, why)))?)
}

/// A path as a client would send it, or a whole URL.
fn target(text: &str) -> std::result::Result<Target, BadTarget> {
    let uri: Uri = text.parse().map_err(|_| BadTarget::Path("it cannot be sent in a request"))?;
    let host = uri.authority().is_none().then_some(&b"localhost"[..]);
    Target::parse(uri, Version::HTTP_11, host)
}

const fn reason(error: &BadTarget) -> Reason {
    match error {
        BadTarget::Path(_) => Reason::BadPath,
        BadTarget::Host(_) => Reason::BadHost,
        BadTarget::Form(_) => Reason::BadRequest,
    }
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
        ..verified(owner.name().clone(), roles, method)
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
        (None, Some(method)) => signed_in(Vec::new(), method),
        (Some(roles), method) => signed_in(closure(context, roles).await?, method.unwrap_or(usual)),
    }
}

/// Somebody without a name of their own.
fn signed_in(roles: Vec<Name>, method: Method) -> Result<Who> {
    let name = Name::parse("somebody").map_err(|error| Failure::Usage(error.to_string()))?;
    Ok(Who { principal: Principal::User(Arc::new(verified(name, roles, method))), rejected: None })
}

const fn anonymous() -> Who {
    Who { principal: Principal::Anonymous, rejected: None }
}

fn verified(name: Name, roles: Vec<Name>, method: Method) -> Verified {
    Verified {
        name,
        display: String::new(),
        email: String::new(),
        roles,
        method,
        credential: None,
        applications: None,
        validity: Validity::default(),
        // Nobody runs this request, so no worker reads it.
        encoded: Bytes::new(),
    }
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
