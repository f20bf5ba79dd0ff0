//! The words everything else speaks: methods, levels, principals, reasons.
//!
//! Plain data without I/O. See `docs/architecture.md` for the glossary.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use crate::clock::Timestamp;

/// How a caller can prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Method {
    /// Not at all: the caller is the anonymous principal.
    Unauthenticated = 1,
    /// Name and password, by HTTP Basic (RFC 7617).
    Password = 2,
    /// A bearer token (RFC 6750): an API token of ours or a JWT.
    Token = 4,
}

impl Method {
    /// Every method, in the order they are shown.
    pub const ALL: [Self; 3] = [Self::Unauthenticated, Self::Password, Self::Token];

    /// The word used in configuration, logs and output.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unauthenticated => "unauthenticated",
            Self::Password => "password",
            Self::Token => "token",
        }
    }

    /// The method of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.word() == word)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A set of [`Method`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MethodSet(u8);

impl MethodSet {
    /// No method: nobody gets in.
    pub const NONE: Self = Self(0);
    /// Every method.
    pub const ALL: Self = Self(7);

    /// Whether `method` is one of them.
    #[must_use]
    pub const fn contains(self, method: Method) -> bool {
        self.0 & method as u8 != 0
    }

    /// The methods in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The methods in either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The methods that are not in the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The set with `method` in it.
    #[must_use]
    pub const fn with(self, method: Method) -> Self {
        Self(self.0 | method as u8)
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The methods by which somebody can sign in: all but `unauthenticated`.
    #[must_use]
    pub const fn credentials(self) -> Self {
        Self(self.0 & !(Method::Unauthenticated as u8))
    }

    /// The methods, in the order of [`Method::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Method> {
        Method::ALL.into_iter().filter(move |method| self.contains(*method))
    }
}

impl FromIterator<Method> for MethodSet {
    fn from_iter<I: IntoIterator<Item = Method>>(methods: I) -> Self {
        methods.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Display for MethodSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        for (i, method) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            f.write_str(method.word())?;
        }
        Ok(())
    }
}

/// A preset of the system policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecurityLevel {
    /// Unauthenticated access can be allowed by applications.
    Minimal,
    /// Password and token. The default.
    Normal,
    /// TLS 1.3, longer passwords, no request without an audit record.
    LockedDown,
}

impl SecurityLevel {
    /// Every level.
    pub const ALL: [Self; 3] = [Self::Minimal, Self::Normal, Self::LockedDown];

    /// The word used in configuration.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Minimal => "minimal",
            Self::Normal => "normal",
            Self::LockedDown => "locked-down",
        }
    }

    /// The level of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.word() == word)
    }

    /// The methods that the level enables. Until second factors exist, `locked-down` means token alone, because its
    /// password method requires one.
    #[must_use]
    pub const fn methods(self) -> MethodSet {
        match self {
            Self::Minimal => MethodSet::ALL,
            Self::Normal => MethodSet::NONE.with(Method::Password).with(Method::Token),
            Self::LockedDown => MethodSet::NONE.with(Method::Token),
        }
    }

    /// The shortest password that may be set, bytes.
    #[must_use]
    pub const fn password_min(self) -> usize {
        match self {
            Self::Minimal | Self::Normal => 8,
            Self::LockedDown => 12,
        }
    }
}

impl fmt::Display for SecurityLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Name of a user, service or role: folded to lower case, so that `Admin` and `admin` are one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// A name that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` is not a name: 1 to 64 letters, digits, `.`, `_`, `-`, `+` or `@`, beginning with a letter or a digit",
    .0.escape_debug()
)]
pub struct BadName(pub String);

impl Name {
    /// The longest name, characters.
    pub const MAX: usize = 64;

    /// Reads a name and folds its case.
    ///
    /// # Errors
    /// Empty, too long, or characters that would be ambiguous somewhere a name is written: in HTTP Basic (`:`), in a
    /// log, in a URL, in a rule.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        let folded = text.to_lowercase();
        let fits = (1..=Self::MAX).contains(&folded.chars().count());
        let begins = folded.chars().next().is_some_and(char::is_alphanumeric);
        let plain = folded.chars().all(|c| c.is_alphanumeric() || "._-+@".contains(c));
        if fits && begins && plain { Ok(Self(folded.into())) } else { Err(BadName(text.to_owned())) }
    }

    /// The folded name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folded name, shared.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// The role that administers the gate itself.
pub const ADMINISTRATOR: &str = "administrator";

/// Who asks. Anonymous is a value, not a gap.
#[derive(Debug, Clone)]
pub enum Principal {
    /// Nobody showed anything, and that is allowed here.
    Anonymous,
    /// A person.
    User(Arc<Verified>),
    /// A program: the owner of a token that belongs to no person.
    Service(Arc<Verified>),
}

/// What is known of a caller whose credentials were verified.
#[derive(Debug, Clone)]
pub struct Verified {
    /// Unique among users and services.
    pub name: Name,
    /// What to call them on a page; empty when unknown.
    pub display: String,
    /// Empty when unknown.
    pub email: String,
    /// Effective roles, those that a role includes among them, sorted; narrowed by the token if it says so.
    pub roles: Vec<Name>,
    /// How they proved it.
    pub method: Method,
    /// Public id of the token; `None` for a password.
    pub credential: Option<Arc<str>>,
    /// The applications a token is good for; `None` for all.
    pub applications: Option<Vec<Arc<str>>>,
    /// What it was verified by.
    pub validity: Validity,
    /// This caller as the worker reads it, see [`portcullis_wire::Identity::encode`]; encoded once per verification.
    pub encoded: Bytes,
}

impl Verified {
    /// Somebody of whom nothing is known but this: for asking rules, on paper. Nobody runs such a request, so no worker
    /// reads who it is for.
    #[must_use]
    pub fn on_paper(name: Name, roles: Vec<Name>, method: Method) -> Self {
        Self {
            name,
            display: String::new(),
            email: String::new(),
            roles,
            method,
            credential: None,
            applications: None,
            validity: Validity::default(),
            encoded: Bytes::new(),
        }
    }
}

/// What a verification rests on: as long as it is what the store says, the verification holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Validity {
    /// SHA-256 of the salted hash that the password matched; `None` for a token.
    pub password: Option<[u8; 32]>,
    /// When the user or the token expires.
    pub expires: Option<Timestamp>,
}

impl Principal {
    /// What was verified, or nothing for the anonymous principal.
    #[must_use]
    pub fn verified(&self) -> Option<&Verified> {
        match self {
            Self::Anonymous => None,
            Self::User(verified) | Self::Service(verified) => Some(verified),
        }
    }

    /// The method it came by.
    #[must_use]
    pub fn method(&self) -> Method {
        self.verified().map_or(Method::Unauthenticated, |verified| verified.method)
    }

    /// The name, or nothing for the anonymous principal.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.verified().map(|verified| verified.name.as_str())
    }

    /// Whether it holds that role itself; application roles are the policy's to add.
    #[must_use]
    pub fn has_role(&self, role: &str) -> bool {
        self.verified().is_some_and(|verified| verified.roles.iter().any(|held| held.as_str() == role))
    }
}

/// Every reason to say no. The id is public: it stands on the page, in the log, in the audit and in `explain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The request-target or the request's head is not acceptable.
    BadRequest,
    /// The path has more than one reading.
    BadPath,
    /// The host is missing, malformed or named twice.
    BadHost,
    /// The host is none of those this installation serves.
    HostNotServed,
    /// The credentials can be read in two ways.
    AmbiguousCredentials,
    /// No application owns the path.
    NoApplication,
    /// The application is switched off.
    ApplicationDisabled,
    /// The application runs elsewhere, and was asked for here.
    ApplicationElsewhere,
    /// The application runs here, and a proxy asked about it as if it ran elsewhere.
    ApplicationHere,
    /// The application (or rule) uses only methods that the system policy forbids.
    MethodNotPermitted,
    /// Credentials of a method that is not allowed here.
    MethodNotAllowed,
    /// A browser asks for an origin that the application does not allow.
    OriginNotAllowed,
    /// It was asked more often than is allowed.
    RateLimited,
    /// Nothing was presented and somebody has to.
    CredentialsRequired,
    /// What was presented is wrong, expired or revoked.
    CredentialsRejected,
    /// The token is good, but not for this application.
    TokenNotForApplication,
    /// More sign-ins than the hashing pool can take.
    SignInBusy,
    /// The store cannot be read.
    StoreUnavailable,
    /// A deny rule matched.
    DeniedByRule,
    /// The deciding allow names others.
    NotAllowedByRule,
    /// The deciding allow is for other networks.
    NetworkNotAllowed,
    /// Let in otherwise, but no second factor was used, or too long ago.
    SecondFactorRequired,
    /// No rule matched and the application's default does not let this caller in.
    DeniedByDefault,
    /// The audit cannot be written and the level requires it.
    AuditUnavailable,
    /// No such file.
    NoFile,
    /// The method is answered by the gate itself, never by an application.
    HttpMethodRefused,
    /// The body is larger than the application accepts.
    BodyTooLarge,
    /// The request took too long to arrive.
    RequestTimeout,
    /// The application has no running worker.
    ApplicationUnavailable,
    /// The application's queue is full.
    QueueFull,
    /// It waited too long for a thread of the application.
    QueueTimeout,
    /// The application did not answer in time.
    ApplicationTimeout,
    /// The worker died while it ran the request.
    WorkerLost,
    /// The application failed before it answered.
    ApplicationError,
    /// A defect of the gate itself; refused because nothing is served on a guess.
    Internal,
}

impl Reason {
    /// The public id.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::BadRequest => "bad-request",
            Self::BadPath => "bad-path",
            Self::BadHost => "bad-host",
            Self::HostNotServed => "host-not-served",
            Self::AmbiguousCredentials => "ambiguous-credentials",
            Self::NoApplication => "no-application",
            Self::ApplicationDisabled => "application-disabled",
            Self::ApplicationElsewhere => "application-elsewhere",
            Self::ApplicationHere => "application-here",
            Self::MethodNotPermitted => "method-not-permitted",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::OriginNotAllowed => "origin-not-allowed",
            Self::RateLimited => "rate-limited",
            Self::CredentialsRequired => "credentials-required",
            Self::CredentialsRejected => "credentials-rejected",
            Self::TokenNotForApplication => "token-not-for-application",
            Self::SignInBusy => "sign-in-busy",
            Self::StoreUnavailable => "store-unavailable",
            Self::DeniedByRule => "denied-by-rule",
            Self::NotAllowedByRule => "not-allowed-by-rule",
            Self::NetworkNotAllowed => "network-not-allowed",
            Self::SecondFactorRequired => "second-factor-required",
            Self::DeniedByDefault => "denied-by-default",
            Self::AuditUnavailable => "audit-unavailable",
            Self::NoFile => "no-file",
            Self::HttpMethodRefused => "http-method-refused",
            Self::BodyTooLarge => "body-too-large",
            Self::RequestTimeout => "request-timeout",
            Self::ApplicationUnavailable => "application-unavailable",
            Self::QueueFull => "queue-full",
            Self::QueueTimeout => "queue-timeout",
            Self::ApplicationTimeout => "application-timeout",
            Self::WorkerLost => "worker-lost",
            Self::ApplicationError => "application-error",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

/// Where a rule stands, for people: `policies/notes.toml:12`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleId {
    /// The file as the operator knows it.
    pub file: Arc<str>,
    /// Line of the rule's header, from 1.
    pub line: u32,
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fold_their_case_and_refuse_what_is_ambiguous() {
        assert_eq!(Name::parse("Admin").unwrap(), Name::parse("admin").unwrap());
        assert_eq!(Name::parse("ann@example.org").unwrap().as_str(), "ann@example.org");
        for bad in ["", "a:b", "a b", "a\nb", "-a", "{a}", "a/b", &"x".repeat(65)] {
            assert!(Name::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn locked_down_never_enables_more_than_normal() {
        let (normal, locked) = (SecurityLevel::Normal.methods(), SecurityLevel::LockedDown.methods());
        assert_eq!(normal.and(locked), locked);
        assert!(!normal.contains(Method::Unauthenticated));
    }
}
