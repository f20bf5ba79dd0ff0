//! What the store keeps, in our own words: no column names and no driver types leave this room.

use std::{borrow::Cow, fmt, sync::Arc};

use crate::{
    clock::Timestamp,
    model::{Name, Reason},
    secret::Secret,
};

/// A person.
#[derive(Clone)]
pub struct UserRecord {
    /// Unique among users and services.
    pub name: Name,
    /// What to call them; empty when unknown.
    pub display: String,
    /// Empty when unknown.
    pub email: String,
    /// Whether they may sign in.
    pub enabled: bool,
    /// From then on they may not.
    pub expires: Option<Timestamp>,
    /// PHC string; `None` when no password signs them in.
    pub password: Option<Secret<String>>,
    /// Effective roles: what was granted and everything that includes, sorted.
    pub roles: Vec<Name>,
    /// What was granted itself, sorted.
    pub granted: Vec<Name>,
    /// When they were added.
    pub created: Timestamp,
    /// When the password was last set.
    pub password_changed: Option<Timestamp>,
    /// The last sign-in that was verified.
    pub last_sign_in: Option<Timestamp>,
    /// The last sign-in that was not.
    pub last_failure: Option<Timestamp>,
}

/// A program: owns tokens, has no password.
#[derive(Debug, Clone)]
pub struct ServiceRecord {
    /// Unique among users and services.
    pub name: Name,
    /// What it is for; may be empty.
    pub description: String,
    /// Whether its tokens are good.
    pub enabled: bool,
    /// Effective roles, sorted.
    pub roles: Vec<Name>,
    /// What was granted itself, sorted.
    pub granted: Vec<Name>,
    /// When it was added.
    pub created: Timestamp,
}

/// A name for what people and programs may do.
#[derive(Debug, Clone)]
pub struct RoleRecord {
    /// Unique among roles.
    pub name: Name,
    /// What it is for; may be empty.
    pub description: String,
    /// The roles that holding this one means holding too, as written, sorted.
    pub includes: Vec<Name>,
    /// Users it was granted to itself, sorted.
    pub users: Vec<Name>,
    /// Services it was granted to itself, sorted.
    pub services: Vec<Name>,
    /// When it was added.
    pub created: Timestamp,
}

/// Whose token it is.
#[derive(Clone)]
pub enum Owner {
    /// A person's.
    User(UserRecord),
    /// A program's.
    Service(ServiceRecord),
}

impl Owner {
    /// Their name.
    #[must_use]
    pub fn name(&self) -> &Name {
        match self {
            Self::User(user) => &user.name,
            Self::Service(service) => &service.name,
        }
    }
}

/// How a token is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// `ptc_…`: by its digest.
    Opaque,
    /// A JWT: by its signature; the record says whether it was revoked.
    Jwt,
}

impl TokenKind {
    /// The word in the store and in output.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Opaque => "opaque",
            Self::Jwt => "jwt",
        }
    }
}

/// A token; never its text.
#[derive(Clone)]
pub struct TokenRecord {
    /// Public id, `tok_…`; a JWT's `jti`.
    pub id: Arc<str>,
    /// Whose it is.
    pub owner: Owner,
    /// The applications it is good for; `None` for all.
    pub applications: Option<Vec<Arc<str>>>,
    /// How it is verified.
    pub kind: TokenKind,
    /// What its owner calls it; may be empty.
    pub label: String,
    /// When it was made.
    pub created: Timestamp,
    /// From then on it is not good.
    pub expires: Option<Timestamp>,
    /// Since then it is not good.
    pub revoked: Option<Timestamp>,
    /// When it was last verified against the store.
    pub last_used: Option<Timestamp>,
}

/// A key that signs the JWTs we issue.
#[derive(Clone)]
pub struct SigningKey {
    /// Its public id, in a JWT's header.
    pub kid: String,
    /// PKCS#8, P-256.
    pub private_pem: Secret<String>,
    /// When it was made; the newest signs.
    pub created: Timestamp,
}

/// A user to be added.
pub struct NewUser {
    /// Unique among users and services.
    pub name: Name,
    /// What to call them; may be empty.
    pub display: String,
    /// May be empty.
    pub email: String,
    /// From then on they may not sign in.
    pub expires: Option<Timestamp>,
    /// PHC string.
    pub password: Option<Secret<String>>,
}

/// A token to be added.
pub struct NewToken {
    /// Public id.
    pub id: Arc<str>,
    /// SHA-256 of its text; `None` for a JWT.
    pub digest: Option<[u8; 32]>,
    /// What its owner calls it; may be empty.
    pub label: String,
    /// Name of the user or service.
    pub owner: Name,
    /// The applications it is good for; `None` for all.
    pub applications: Option<Vec<Arc<str>>>,
    /// From then on it is not good.
    pub expires: Option<Timestamp>,
}

/// How an audited event ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditOutcome {
    /// It was done.
    Ok,
    /// It was not allowed.
    Refused,
    /// It was allowed and did not work.
    Failed,
}

impl AuditOutcome {
    /// The word in the store and in output.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }

    /// The outcome of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Ok, Self::Refused, Self::Failed].into_iter().find(|outcome| outcome.word() == word)
    }
}

impl fmt::Display for AuditOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// One security fact. Never holds a secret: who builds one names what changed, not a password or a token's text.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditRecord {
    /// When.
    pub at: Timestamp,
    /// What, one of [`crate::audit::event`].
    pub event: Cow<'static, str>,
    /// Who did it: a principal's name, `anonymous`, `console:ann` or `gateway`.
    pub actor: String,
    /// To whom or what.
    pub target: Option<String>,
    /// In which application.
    pub application: Option<String>,
    /// From where.
    pub address: Option<String>,
    /// How it ended.
    pub outcome: AuditOutcome,
    /// The reason id of a refusal.
    pub reason: Option<Cow<'static, str>>,
    /// The rule that decided, `policies/notes.toml:12`.
    pub rule: Option<String>,
    /// Public id of the token that was used.
    pub credential: Option<String>,
    /// What else is worth knowing: old and new values, method and path.
    pub details: Option<serde_json::Value>,
}

impl AuditRecord {
    /// A record of `event` by `actor`, done.
    #[must_use]
    pub fn new(at: Timestamp, event: &'static str, actor: impl Into<String>) -> Self {
        Self {
            at,
            event: Cow::Borrowed(event),
            actor: actor.into(),
            target: None,
            application: None,
            address: None,
            outcome: AuditOutcome::Ok,
            reason: None,
            rule: None,
            credential: None,
            details: None,
        }
    }

    /// To whom or what.
    #[must_use]
    pub fn target(mut self, target: impl Into<String>) -> Self {
        self.target = Some(target.into());
        self
    }

    /// Refused, and why.
    #[must_use]
    pub fn refused(mut self, reason: Reason) -> Self {
        self.outcome = AuditOutcome::Refused;
        self.reason = Some(Cow::Borrowed(reason.id()));
        self
    }

    /// Allowed, and it did not work.
    #[must_use]
    pub const fn failed(mut self) -> Self {
        self.outcome = AuditOutcome::Failed;
        self
    }

    /// What else is worth knowing.
    #[must_use]
    pub fn details(mut self, details: serde_json::Value) -> Self {
        self.details = Some(details);
        self
    }
}

/// An audit record as it stands in the store.
#[derive(Debug, Clone)]
pub struct StoredAudit {
    /// Its place: grows by one, never reused.
    pub sequence: i64,
    /// What it says.
    pub record: AuditRecord,
}

/// Which audit records to read.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Only this event, or every event below it: `sign-in`, `user.`.
    pub event: Option<String>,
    /// Only from then on.
    pub since: Option<Timestamp>,
}
