//! `token`.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    Failure, Result,
    args::{TokenCommand, TokenCreate, TokenOwner},
    context::{Context, actor},
    out::{Cell, Out, Style},
    parse::Expiry,
    users::{or_dash, when},
};
use crate::{
    clock::Timestamp,
    control::{
        Owner, TokenKind, TokenRecord,
        roles::Holder,
        tokens::{self, TokenArgs},
        unknown,
    },
};

/// Long enough to forget about it for a quarter, short enough that a forgotten one ends.
const OPAQUE_LIFETIME: Expiry = Expiry::After(90 * 86_400_000);
/// A JWT is copied around more freely.
const JWT_LIFETIME: Expiry = Expiry::After(3_600_000);

/// `portcullis token …`
pub(super) async fn token(context: &mut Context, command: TokenCommand, out: &mut Out) -> Result {
    let store = context.store().await?;
    match command {
        TokenCommand::Create(args) => create(context, args, out).await,
        TokenCommand::List(owner) => {
            let tokens = tokens::list(&store, holder(owner).as_ref()).await?;
            let now = context.clock.now();
            if out.json {
                return Ok(out.value(&tokens.iter().map(|token| token_json(token, now)).collect::<Vec<_>>())?);
            }
            Ok(table(&tokens, now, out)?)
        }
        TokenCommand::Revoke { id } => {
            let changed = tokens::revoke(&store, &actor(), &id).await?;
            let text = format!("token `{id}` {} revoked", if changed { "is now" } else { "already was" });
            context.done(out, text, json!({ "token": id, "revoked": true, "changed": changed })).await
        }
    }
}

async fn create(context: &mut Context, args: TokenCreate, out: &mut Out) -> Result {
    let Some(owner) = holder(args.owner) else {
        return Err(Failure::Usage("whose token: --user NAME or --service NAME".to_owned()));
    };
    let store = context.store().await?;
    let applications = applications(context, &args.applications)?;
    let kind = if args.jwt { TokenKind::Jwt } else { TokenKind::Opaque };
    let lifetime = args.expires.unwrap_or(if args.jwt { JWT_LIFETIME } else { OPAQUE_LIFETIME });
    let expires = lifetime.at(context.clock.now());
    let token = TokenArgs {
        owner: owner.clone(),
        applications,
        expires,
        label: args.name,
        kind,
        issuer: context.config.tokens.issuer.clone(),
    };
    let made = tokens::create(&store, &actor(), token).await?;
    if made.new_service {
        out.remark(format_args!("service `{}` added, without roles", owner.name()));
    }
    let until = expires.map_or_else(|| "until it is revoked".to_owned(), |at| format!("until {}", at.rfc3339()));
    out.remark(format_args!("token `{}` of `{}`, good {until}; it is shown only now:", made.id, owner.name()));
    let printed = if out.json {
        out.value(&json!({
            "id": &*made.id,
            "token": made.text.reveal(),
            "owner": owner.name().as_str(),
            "expires": expires.map(Timestamp::rfc3339),
        }))
    } else {
        out.line(made.text.reveal())
    };
    context.announce(out, printed).await
}

/// The applications by their names; one that no policy describes is a slip of the pen.
fn applications(context: &Context, wanted: &[String]) -> Result<Vec<Arc<str>>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let (known, _warnings) = context.config.load_applications()?;
    let find = |name: &String| match known.iter().find(|application| *application.name == **name) {
        Some(application) => Ok(Arc::clone(&application.name)),
        None => Err(unknown("application", name, known.iter().map(|application| &*application.name)).into()),
    };
    wanted.iter().map(find).collect()
}

fn holder(owner: TokenOwner) -> Option<Holder> {
    owner.user.map(Holder::User).or_else(|| owner.service.map(Holder::Service))
}

pub(super) fn table(tokens: &[TokenRecord], now: Timestamp, out: &mut Out) -> std::io::Result<()> {
    let rows: Vec<_> = tokens
        .iter()
        .map(|token| {
            let (state, style) = state(token, now);
            [
                Cell::new(&token.id, Style::Bold),
                Cell::from(token.owner.name()),
                Cell::from(token.kind.word()),
                Cell::new(state, style),
                Cell::from(token.applications.as_ref().map_or_else(|| "all".to_owned(), |names| names.join(", "))),
                Cell::from(when(token.expires, "never")),
                Cell::from(when(token.last_used, "never")),
                Cell::from(or_dash(&token.label)),
            ]
        })
        .collect();
    out.table(["ID", "OWNER", "KIND", "STATE", "APPLICATIONS", "EXPIRES", "LAST USED", "NAME"], &rows)
}

pub(super) fn token_json(token: &TokenRecord, now: Timestamp) -> Value {
    json!({
        "id": &*token.id,
        "owner": token.owner.name().as_str(),
        "kind": token.kind.word(),
        "state": state(token, now).0,
        "applications": token.applications.as_ref().map(|names| names.iter().map(|name| &**name).collect::<Vec<_>>()),
        "name": token.label,
        "created": token.created.rfc3339(),
        "expires": token.expires.map(Timestamp::rfc3339),
        "revoked": token.revoked.map(Timestamp::rfc3339),
        "last_used": token.last_used.map(Timestamp::rfc3339),
    })
}

fn state(token: &TokenRecord, now: Timestamp) -> (&'static str, Style) {
    if token.revoked.is_some() {
        ("revoked", Style::Bad)
    } else if token.expires.is_some_and(|at| at <= now) {
        ("expired", Style::Warn)
    } else if !owner_enabled(&token.owner, now) {
        ("owner disabled", Style::Warn)
    } else {
        ("good", Style::Good)
    }
}

fn owner_enabled(owner: &Owner, now: Timestamp) -> bool {
    match owner {
        Owner::User(user) => user.enabled && user.expires.is_none_or(|at| at > now),
        Owner::Service(service) => service.enabled,
    }
}
