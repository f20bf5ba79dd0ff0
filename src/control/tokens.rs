//! Tokens: what programs show instead of a password.
//!
//! The text of a token exists once, in the answer of [`create`]; the store keeps its digest, or for a JWT only its
//! record. Both kinds are revoked in the same way and at once.

use std::sync::Arc;

use serde_json::json;

use super::{ActError, Actor, Result, roles::Holder, services, unknown, unknown_user, users::plain_text};
use crate::{
    audit::event,
    authn::{jwt, token},
    clock::Timestamp,
    secret::Secret,
    store::{NewToken, Store, TokenKind, TokenRecord},
};

/// A token to be made.
pub struct TokenArgs {
    /// Whose it is; a service that does not exist is added.
    pub owner: Holder,
    /// The applications it is good for; empty for all.
    pub applications: Vec<Arc<str>>,
    /// From then on it is not good.
    pub expires: Option<Timestamp>,
    /// What its owner calls it; may be empty.
    pub label: String,
    /// How it is verified.
    pub kind: TokenKind,
    /// `iss` of a JWT.
    pub issuer: String,
}

/// A token that was made.
pub struct Created {
    /// Public id.
    pub id: Arc<str>,
    /// The token itself: shown once.
    pub text: Secret<String>,
    /// Whether its service was added on the way.
    pub new_service: bool,
}

/// Makes a token.
///
/// # Errors
/// There is no such user, a JWT without applications or end, or the store cannot be written.
pub async fn create(store: &Store, actor: &Actor, args: TokenArgs) -> Result<Created> {
    plain_text("name of the token", &args.label)?;
    let now = store.clock().now();
    if args.expires.is_some_and(|at| at <= now) {
        return Err(ActError::Refused("the token would have expired already".to_owned()));
    }
    let (id, text, digest) = match args.kind {
        TokenKind::Opaque => {
            let (text, id, digest) = token::generate();
            (Arc::from(id), text, Some(digest))
        }
        TokenKind::Jwt => {
            let id = Arc::from(token::new_id());
            (Arc::clone(&id), sign(store, &args, &id, now).await?, None)
        }
    };
    let new_service = match &args.owner {
        Holder::User(_) => false,
        Holder::Service(name) => services::ensure(store, actor, name).await?,
    };
    insert(store, actor, args, Arc::clone(&id), digest).await?;
    Ok(Created { id, text, new_service })
}

/// Revokes a token; answers whether it was good until now.
///
/// # Errors
/// There is no such token, or the store cannot be written.
pub async fn revoke(store: &Store, actor: &Actor, id: &str) -> Result<bool> {
    let token = get(store, id).await?;
    if token.revoked.is_some() {
        return Ok(false);
    }
    let mut change = store.change().await?;
    change.revoke_token(id).await?;
    let details = json!({ "owner": token.owner.name().as_str(), "label": token.label });
    let record = actor.did(change.now(), event::TOKEN_REVOKE, id).details(details);
    change.commit(&record).await?;
    Ok(true)
}

/// Tokens, newest first; of one owner only, if that is asked for.
///
/// # Errors
/// The store cannot be read.
pub async fn list(store: &Store, owner: Option<&Holder>) -> Result<Vec<TokenRecord>> {
    match owner {
        Some(Holder::User(name)) => drop(super::users::get(store, name).await?),
        Some(Holder::Service(name)) => drop(services::get(store, name).await?),
        None => {}
    }
    Ok(store.tokens(owner.map(Holder::name)).await?)
}

/// One token, by its public id.
///
/// # Errors
/// There is no such token, or the store cannot be read.
pub async fn get(store: &Store, id: &str) -> Result<TokenRecord> {
    if id.starts_with(token::PREFIX) {
        // The secret itself was pasted: say so without repeating it.
        let what =
            "that is the token itself; name it by its public id, which begins with `tok_` (`portcullis token list`)";
        return Err(ActError::Refused(what.to_owned()));
    }
    if let Some(token) = store.token_by_id(id).await? {
        return Ok(token);
    }
    let tokens = store.tokens(None).await?;
    Err(unknown("token", id, tokens.iter().map(|token| &*token.id)))
}

async fn insert(store: &Store, actor: &Actor, args: TokenArgs, id: Arc<str>, digest: Option<[u8; 32]>) -> Result<()> {
    let mut change = store.change().await?;
    match &args.owner {
        Holder::User(name) if change.user(name).await?.is_none() => return Err(unknown_user(store, name).await),
        Holder::Service(name) if change.service(name).await?.is_none() => {
            return Err(super::unknown_service(store, name).await);
        }
        _ => {}
    }
    let applications = (!args.applications.is_empty()).then_some(args.applications);
    let details = json!({
        "owner": args.owner.name().as_str(),
        "kind": args.kind.word(),
        "label": args.label,
        "applications": applications.as_ref().map(|names| names.iter().map(|name| &**name).collect::<Vec<_>>()),
        "expires": args.expires.map(Timestamp::rfc3339),
    });
    let record = actor.did(change.now(), event::TOKEN_CREATE, &*id).details(details);
    let owner = args.owner.name().clone();
    let token = NewToken { id, digest, label: args.label, owner, applications, expires: args.expires };
    change.add_token(&token).await?;
    Ok(change.commit(&record).await?)
}

async fn sign(store: &Store, args: &TokenArgs, id: &str, now: Timestamp) -> Result<Secret<String>> {
    let refused = |why: &str| ActError::Refused(why.to_owned());
    let Some(expires) = args.expires else { return Err(refused("a JWT needs a time from which it is not good")) };
    if args.applications.is_empty() {
        return Err(refused("a JWT needs the applications it is meant for"));
    }
    if expires.seconds() - now.seconds() > jwt::MAX_LIFETIME_SECONDS {
        let days = jwt::MAX_LIFETIME_SECONDS / 86_400;
        return Err(ActError::Refused(format!("a JWT is good for {days} days at most")));
    }
    let keys = store.signing_keys().await?;
    let Some(key) = keys.first() else { return Err(refused("the store has no key to sign JWTs with")) };
    let claims = jwt::Claims {
        iss: args.issuer.clone(),
        sub: args.owner.name().to_string(),
        aud: args.applications.iter().map(ToString::to_string).collect(),
        nbf: None,
        iat: now.seconds(),
        exp: expires.seconds(),
        jti: id.to_owned(),
    };
    jwt::Signer::new(&key.kid, &key.private_pem)
        .and_then(|signer| jwt::issue(&signer, &claims))
        .map_err(|error| ActError::Refused(error.to_string()))
}
