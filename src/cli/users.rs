//! `user`, `role`, `service`.

use serde_json::{Value, json};

use super::{
    Result,
    args::{Grant, RoleAdd, RoleCommand, ServiceCommand, SetPassword, UserAdd, UserCommand},
    context::{Context, actor},
    out::{Cell, Out, Style},
    secrets,
};
use crate::{
    clock::Timestamp,
    control::{
        RoleRecord, ServiceRecord, TokenRecord, UserRecord,
        roles::{self, Holder},
        services, tokens,
        users::{self, UserArgs},
    },
    model::Name,
};

/// `portcullis user …`
pub(super) async fn user(context: &mut Context, command: UserCommand, out: &mut Out) -> Result {
    let store = context.store().await?;
    match command {
        UserCommand::Add(args) => add(context, args, out).await,
        UserCommand::SetPassword(args) => set_password(context, args, out).await,
        UserCommand::Grant(args) => grant(context, &args, Holder::User, out).await,
        UserCommand::Revoke(args) => revoke(context, &args, Holder::User, out).await,
        UserCommand::List => list(&users::list(&store).await?, out),
        UserCommand::Show(args) => {
            let user = users::get(&store, &args.name).await?;
            let tokens = tokens::list(&store, Some(&Holder::User(args.name))).await?;
            show(&user, &tokens, context.clock.now(), out)
        }
        UserCommand::Disable(args) => {
            let changed = users::set_enabled(&store, &actor(), &args.name, false).await?;
            switched(context, "user", &args.name, changed, false, out).await
        }
        UserCommand::Enable(args) => {
            let changed = users::set_enabled(&store, &actor(), &args.name, true).await?;
            switched(context, "user", &args.name, changed, true, out).await
        }
        UserCommand::Remove(args) => {
            users::remove(&store, &actor(), &args.name).await?;
            removed(context, "user", &args.name, out).await
        }
    }
}

async fn add(context: &mut Context, args: UserAdd, out: &mut Out) -> Result {
    let store = context.store().await?;
    let chosen = secrets::choose(args.password_file.as_deref())?;
    let name = args.name.clone();
    let user = UserArgs {
        name: args.name,
        display: args.display,
        email: args.email,
        expires: None,
        roles: args.roles.clone(),
        password: chosen.password.clone(),
    };
    users::add(&store, &actor(), user, &context.password_rules()).await?;
    let made_up = chosen.generated.then(|| chosen.password.reveal().as_str());
    let roles = match args.roles.as_slice() {
        [] => ", without roles".to_owned(),
        roles => format!(" with {}", words(roles)),
    };
    let text = with_password(format!("user `{name}` added{roles}"), made_up);
    context.done(out, text, json!({ "user": name.as_str(), "roles": list_of(&args.roles), "password": made_up })).await
}

async fn set_password(context: &mut Context, args: SetPassword, out: &mut Out) -> Result {
    let store = context.store().await?;
    // Before the password is asked for: a mistyped name should not cost typing it twice.
    users::get(&store, &args.name).await?;
    let chosen = secrets::choose(args.password_file.as_deref())?;
    users::set_password(&store, &actor(), &args.name, &chosen.password, &context.password_rules()).await?;
    let made_up = chosen.generated.then(|| chosen.password.reveal().as_str());
    let text = with_password(format!("user `{}` has a new password", args.name), made_up);
    context.done(out, text, json!({ "user": args.name.as_str(), "password": made_up })).await
}

fn with_password(text: String, made_up: Option<&str>) -> String {
    match made_up {
        Some(password) => format!("{text}\npassword, shown only now: {password}"),
        None => text,
    }
}

fn list(users: &[UserRecord], out: &mut Out) -> Result {
    if out.json {
        return Ok(out.value(&users.iter().map(user_json).collect::<Vec<_>>())?);
    }
    let rows: Vec<_> = users
        .iter()
        .map(|user| {
            [
                Cell::new(&user.name, Style::Bold),
                enabled(user.enabled),
                Cell::from(or_dash(&words(&user.roles))),
                Cell::from(when(user.last_sign_in, "never")),
                Cell::from(if user.display.is_empty() { &user.email } else { &user.display }),
            ]
        })
        .collect();
    Ok(out.table(["NAME", "STATE", "ROLES", "LAST SIGN-IN", "WHO"], &rows)?)
}

fn show(user: &UserRecord, tokens: &[TokenRecord], now: Timestamp, out: &mut Out) -> Result {
    if out.json {
        let mut value = user_json(user);
        value["tokens"] = tokens.iter().map(|token| super::tokens::token_json(token, now)).collect();
        return Ok(out.value(&value)?);
    }
    out.facts(&[
        ("name", user.name.to_string()),
        ("display name", user.display.clone()),
        ("e-mail", user.email.clone()),
        ("state", enabled_word(user.enabled).to_owned()),
        ("roles", with_included(&user.granted, &user.roles)),
        ("password", user.password_changed.map_or_else(|| "none".to_owned(), |at| format!("set {}", at.rfc3339()))),
        ("added", user.created.rfc3339()),
        ("expires", when(user.expires, "")),
        ("last sign-in", when(user.last_sign_in, "never")),
        ("last failure", when(user.last_failure, "")),
    ])?;
    if !tokens.is_empty() {
        out.line("")?;
        super::tokens::table(tokens, now, out)?;
    }
    Ok(())
}

/// `portcullis role …`
pub(super) async fn role(context: &mut Context, command: RoleCommand, out: &mut Out) -> Result {
    let store = context.store().await?;
    match command {
        RoleCommand::Add(args) => add_role(context, args, out).await,
        RoleCommand::List => list_roles(&roles::list(&store).await?, out),
        RoleCommand::Show(args) => show_role(&roles::get(&store, &args.name).await?, out),
        RoleCommand::Remove(args) => {
            roles::remove(&store, &actor(), &args.name).await?;
            removed(context, "role", &args.name, out).await
        }
    }
}

async fn add_role(context: &mut Context, args: RoleAdd, out: &mut Out) -> Result {
    let store = context.store().await?;
    roles::add(&store, &actor(), &args.name, &args.description, &args.includes).await?;
    let includes =
        if args.includes.is_empty() { String::new() } else { format!(", includes {}", words(&args.includes)) };
    let text = format!("role `{}` added{includes}", args.name);
    context.done(out, text, json!({ "role": args.name.as_str(), "includes": list_of(&args.includes) })).await
}

fn list_roles(roles: &[RoleRecord], out: &mut Out) -> Result {
    if out.json {
        return Ok(out.value(&roles.iter().map(role_json).collect::<Vec<_>>())?);
    }
    let rows: Vec<_> = roles
        .iter()
        .map(|role| {
            [
                Cell::new(&role.name, Style::Bold),
                Cell::from(or_dash(&words(&role.includes))),
                Cell::from(role.users.len()),
                Cell::from(role.services.len()),
                Cell::from(&role.description),
            ]
        })
        .collect();
    Ok(out.table(["NAME", "INCLUDES", "USERS", "SERVICES", "DESCRIPTION"], &rows)?)
}

fn show_role(role: &RoleRecord, out: &mut Out) -> Result {
    if out.json {
        return Ok(out.value(&role_json(role))?);
    }
    Ok(out.facts(&[
        ("name", role.name.to_string()),
        ("description", role.description.clone()),
        ("includes", words(&role.includes)),
        ("users", words(&role.users)),
        ("services", words(&role.services)),
        ("added", role.created.rfc3339()),
    ])?)
}

/// `portcullis service …`
pub(super) async fn service(context: &mut Context, command: ServiceCommand, out: &mut Out) -> Result {
    let store = context.store().await?;
    match command {
        ServiceCommand::Add(args) => {
            services::add(&store, &actor(), &args.name, &args.description).await?;
            let text = format!("service `{}` added, without roles", args.name);
            context.done(out, text, json!({ "service": args.name.as_str() })).await
        }
        ServiceCommand::Grant(args) => grant(context, &args, Holder::Service, out).await,
        ServiceCommand::Revoke(args) => revoke(context, &args, Holder::Service, out).await,
        ServiceCommand::List => list_services(&services::list(&store).await?, out),
        ServiceCommand::Show(args) => {
            let service = services::get(&store, &args.name).await?;
            let tokens = tokens::list(&store, Some(&Holder::Service(args.name))).await?;
            show_service(&service, &tokens, context.clock.now(), out)
        }
        ServiceCommand::Disable(args) => {
            let changed = services::set_enabled(&store, &actor(), &args.name, false).await?;
            switched(context, "service", &args.name, changed, false, out).await
        }
        ServiceCommand::Enable(args) => {
            let changed = services::set_enabled(&store, &actor(), &args.name, true).await?;
            switched(context, "service", &args.name, changed, true, out).await
        }
        ServiceCommand::Remove(args) => {
            services::remove(&store, &actor(), &args.name).await?;
            removed(context, "service", &args.name, out).await
        }
    }
}

fn list_services(services: &[ServiceRecord], out: &mut Out) -> Result {
    if out.json {
        return Ok(out.value(&services.iter().map(service_json).collect::<Vec<_>>())?);
    }
    let rows: Vec<_> = services
        .iter()
        .map(|service| {
            [
                Cell::new(&service.name, Style::Bold),
                enabled(service.enabled),
                Cell::from(or_dash(&words(&service.roles))),
                Cell::from(&service.description),
            ]
        })
        .collect();
    Ok(out.table(["NAME", "STATE", "ROLES", "DESCRIPTION"], &rows)?)
}

fn show_service(service: &ServiceRecord, tokens: &[TokenRecord], now: Timestamp, out: &mut Out) -> Result {
    if out.json {
        let mut value = service_json(service);
        value["tokens"] = tokens.iter().map(|token| super::tokens::token_json(token, now)).collect();
        return Ok(out.value(&value)?);
    }
    out.facts(&[
        ("name", service.name.to_string()),
        ("description", service.description.clone()),
        ("state", enabled_word(service.enabled).to_owned()),
        ("roles", with_included(&service.granted, &service.roles)),
        ("added", service.created.rfc3339()),
    ])?;
    if !tokens.is_empty() {
        out.line("")?;
        super::tokens::table(tokens, now, out)?;
    }
    Ok(())
}

async fn grant(context: &mut Context, args: &Grant, holder: fn(Name) -> Holder, out: &mut Out) -> Result {
    let store = context.store().await?;
    let changed = roles::grant(&store, &actor(), &holder(args.name.clone()), &args.role).await?;
    let text = if changed {
        format!("`{}` has the role `{}` now", args.name, args.role)
    } else {
        format!("`{}` had the role `{}` already", args.name, args.role)
    };
    context.done(out, text, json!({ "name": args.name.as_str(), "role": args.role.as_str(), "changed": changed })).await
}

async fn revoke(context: &mut Context, args: &Grant, holder: fn(Name) -> Holder, out: &mut Out) -> Result {
    let store = context.store().await?;
    let changed = roles::revoke(&store, &actor(), &holder(args.name.clone()), &args.role).await?;
    let text = if changed {
        format!("`{}` no longer has the role `{}`", args.name, args.role)
    } else {
        format!("`{}` was not given the role `{}`, so there was nothing to take away", args.name, args.role)
    };
    context.done(out, text, json!({ "name": args.name.as_str(), "role": args.role.as_str(), "changed": changed })).await
}

async fn switched(context: &Context, kind: &str, name: &Name, changed: bool, on: bool, out: &mut Out) -> Result {
    let state = enabled_word(on);
    let text = format!("{kind} `{name}` {} {state}", if changed { "is now" } else { "already was" });
    context.done(out, text, json!({ kind: name.as_str(), "enabled": on, "changed": changed })).await
}

async fn removed(context: &Context, kind: &str, name: &Name, out: &mut Out) -> Result {
    context.done(out, format!("{kind} `{name}` removed"), json!({ kind: name.as_str(), "removed": true })).await
}

fn user_json(user: &UserRecord) -> Value {
    json!({
        "name": user.name.as_str(),
        "display": user.display,
        "email": user.email,
        "enabled": user.enabled,
        "roles": list_of(&user.roles),
        "granted": list_of(&user.granted),
        "has_password": user.password.is_some(),
        "created": user.created.rfc3339(),
        "expires": user.expires.map(Timestamp::rfc3339),
        "password_changed": user.password_changed.map(Timestamp::rfc3339),
        "last_sign_in": user.last_sign_in.map(Timestamp::rfc3339),
        "last_failure": user.last_failure.map(Timestamp::rfc3339),
    })
}

fn service_json(service: &ServiceRecord) -> Value {
    json!({
        "name": service.name.as_str(),
        "description": service.description,
        "enabled": service.enabled,
        "roles": list_of(&service.roles),
        "granted": list_of(&service.granted),
        "created": service.created.rfc3339(),
    })
}

fn role_json(role: &RoleRecord) -> Value {
    json!({
        "name": role.name.as_str(),
        "description": role.description,
        "includes": list_of(&role.includes),
        "users": list_of(&role.users),
        "services": list_of(&role.services),
        "created": role.created.rfc3339(),
    })
}

fn list_of(names: &[Name]) -> Vec<&str> {
    names.iter().map(Name::as_str).collect()
}

fn words(names: &[Name]) -> String {
    list_of(names).join(", ")
}

/// What was granted, then what that brings along.
fn with_included(granted: &[Name], roles: &[Name]) -> String {
    let included: Vec<Name> = roles.iter().filter(|role| !granted.contains(role)).cloned().collect();
    match (granted, included.as_slice()) {
        ([], _) => "none".to_owned(),
        (_, []) => words(granted),
        _ => format!("{} (and with that {})", words(granted), words(&included)),
    }
}

const fn enabled_word(enabled: bool) -> &'static str {
    if enabled { "enabled" } else { "disabled" }
}

fn enabled(enabled: bool) -> Cell {
    Cell::new(enabled_word(enabled), if enabled { Style::Good } else { Style::Bad })
}

pub(super) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

pub(super) fn when(at: Option<Timestamp>, otherwise: &str) -> String {
    at.map_or_else(|| otherwise.to_owned(), Timestamp::rfc3339)
}
