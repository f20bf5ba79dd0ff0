//! One rule, and what it says of who asks.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use http::Method as Verb;
use ipnet::IpNet;

use super::limit::Limit;
use crate::{
    model::{Method, MethodSet, Name, Principal, RuleId},
    target::Pattern,
    written::show_duration,
};

/// One line of a policy: path, methods, who, how strongly authenticated, from where.
#[derive(Debug, Clone)]
pub struct Rule {
    pub(super) id: RuleId,
    pub(super) effect: Effect,
    /// Whether its refusals are only told.
    pub(super) reports: bool,
    /// Where it holds, relative to the mount.
    pub(super) paths: Box<[Named<Pattern>]>,
    /// As written; `None` is every method.
    pub(super) verbs: Option<Box<[Verb]>>,
    /// The methods that a deny spares.
    pub(super) unless_verbs: Box<[Verb]>,
    /// Any of; a deny without is about everybody.
    pub(super) who: Box<[Who]>,
    /// Whom a deny spares.
    pub(super) unless_who: Box<[Who]>,
    /// How one has to have been authenticated; `None` is by any method.
    pub(super) auth: Option<MethodSet>,
    /// How long ago a second factor may have been used; `None` is without one.
    pub(super) mfa: Option<Duration>,
    /// From where; empty is anywhere.
    pub(super) from: Box<[Named<IpNet>]>,
    /// How often, for whom it lets in.
    pub(super) limits: Box<[Limit]>,
}

/// What stands in a rule: itself, or the name of a group that `portcullis.toml` declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named<T> {
    /// Itself.
    One(T),
    /// A group.
    Group {
        /// Its name.
        name: Arc<str>,
        /// What is in it.
        members: Arc<[T]>,
    },
}

impl<T> Named<T> {
    /// What it stands for.
    #[must_use]
    pub fn members(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Group { members, .. } => members,
        }
    }
}

impl<T: fmt::Display> fmt::Display for Named<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(one) => one.fmt(f),
            Self::Group { name, .. } => f.write_str(name),
        }
    }
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Lets in, if it is the most specific.
    Allow,
    /// Keeps out, always.
    Deny,
}

impl Rule {
    /// Where it stands.
    #[must_use]
    pub const fn id(&self) -> &RuleId {
        &self.id
    }

    /// What it does.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        self.effect
    }

    /// Whether its refusals are only told, and never enforced.
    #[must_use]
    pub const fn reports(&self) -> bool {
        self.reports
    }

    /// Whom it names.
    #[must_use]
    pub const fn who(&self) -> &[Who] {
        &self.who
    }

    /// Whom it spares.
    #[must_use]
    pub const fn unless_who(&self) -> &[Who] {
        &self.unless_who
    }

    /// Where it holds, groups resolved.
    pub fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        self.paths.iter().flat_map(Named::members)
    }

    /// From which networks, groups resolved; none is anywhere.
    pub fn networks(&self) -> impl Iterator<Item = &IpNet> {
        self.from.iter().flat_map(Named::members)
    }

    /// How often whom it lets in may come.
    #[must_use]
    pub const fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// The HTTP methods that it names in any way.
    pub fn named_verbs(&self) -> impl Iterator<Item = &Verb> {
        self.verbs.iter().flatten().chain(&self.unless_verbs)
    }

    pub(super) fn names(&self, asker: &Asker<'_>) -> bool {
        self.who.is_empty() || asker.is_any(&self.who)
    }

    pub(super) fn spares(&self, asker: &Asker<'_>) -> bool {
        asker.is_any(&self.unless_who)
    }

    pub(super) fn is_from(&self, address: IpAddr) -> bool {
        self.from.is_empty() || self.networks().any(|network| network.contains(&address))
    }

    pub(super) fn auth(&self) -> MethodSet {
        self.auth.unwrap_or(MethodSet::ALL)
    }

    /// The methods that whoever it names could come by.
    pub(super) fn comes_by(&self) -> MethodSet {
        self.who.iter().map(Who::comes_by).fold(MethodSet::NONE, MethodSet::or)
    }
}

/// As it could be written on one line: `allow GET /admin/** who role:administrator by password from 10.0.0.0/8`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.effect {
            Effect::Allow => "allow",
            Effect::Deny => "deny",
        })?;
        if let Some(verbs) = &self.verbs {
            write!(f, " {}", list(verbs))?;
        }
        write!(f, " {}", list(&self.paths))?;
        if !self.unless_verbs.is_empty() {
            write!(f, " but {}", list(&self.unless_verbs))?;
        }
        if !self.who.is_empty() {
            write!(f, " who {}", list(&self.who))?;
        }
        if !self.unless_who.is_empty() {
            write!(f, " unless {}", list(&self.unless_who))?;
        }
        if let Some(auth) = self.auth {
            write!(f, " by {auth}")?;
        }
        if let Some(age) = self.mfa {
            write!(f, " with a second factor within {}", show_duration(age))?;
        }
        if !self.from.is_empty() {
            write!(f, " from {}", list(&self.from))?;
        }
        if !self.limits.is_empty() {
            write!(f, " limit {}", list(&self.limits))?;
        }
        if self.reports {
            f.write_str(" (report only)")?;
        }
        Ok(())
    }
}

/// Items with commas.
pub(super) fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Whom a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Everybody, the anonymous principal among them.
    Anyone,
    /// Everybody who was verified.
    SignedIn,
    /// Whoever holds a role.
    Role(Name),
    /// One person.
    User(Name),
    /// One program.
    Service(Name),
    /// The bearer of one token, by its public id.
    Token(Arc<str>),
}

impl Who {
    /// The methods by which they could come. A role may be held by everybody, see `app_roles`.
    pub(super) fn comes_by(&self) -> MethodSet {
        match self {
            Self::Anyone | Self::Role(_) => MethodSet::ALL,
            Self::SignedIn | Self::User(_) => MethodSet::ALL.credentials(),
            Self::Service(_) | Self::Token(_) => MethodSet::NONE.with(Method::Token),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("anyone"),
            Self::SignedIn => f.write_str("signed-in"),
            Self::Role(name) => write!(f, "role:{name}"),
            Self::User(name) => write!(f, "user:{name}"),
            Self::Service(name) => write!(f, "service:{name}"),
            Self::Token(id) => write!(f, "token:{id}"),
        }
    }
}

/// Who asks, as rules see them: with the roles that the application adds.
pub(super) struct Asker<'a> {
    pub principal: &'a Principal,
    pub app_roles: &'a [Name],
}

impl Asker<'_> {
    pub fn has_role(&self, role: &Name) -> bool {
        self.app_roles.contains(role) || self.principal.has_role(role.as_str())
    }

    fn is(&self, who: &Who) -> bool {
        match (who, self.principal) {
            (Who::Anyone, _) => true,
            (Who::Role(role), _) => self.has_role(role),
            (_, Principal::Anonymous) => false,
            (Who::SignedIn, Principal::User(_) | Principal::Service(_)) => true,
            (Who::User(name), Principal::User(verified)) => verified.name == *name,
            (Who::Service(name), Principal::Service(verified)) => verified.name == *name,
            (Who::Token(id), Principal::User(verified) | Principal::Service(verified)) => {
                verified.method == Method::Token && verified.credential.as_ref() == Some(id)
            }
            (Who::User(_), Principal::Service(_)) | (Who::Service(_), Principal::User(_)) => false,
        }
    }

    fn is_any(&self, who: &[Who]) -> bool {
        who.iter().any(|who| self.is(who))
    }
}
