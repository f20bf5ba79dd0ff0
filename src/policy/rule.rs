//! One rule, and the trie that finds the rules of a path without looking at the others.
//!
//! A pattern is segments: literals, `*` for exactly one, and at the end perhaps `**` for this and everything below.
//! `Trie::walk` visits the patterns that match a path with the most specific first: at every segment the literal
//! before `*` before `**`. No pattern is visited twice, so a walk costs at most the patterns there are.
//!
//! A trailing slash makes no difference: `/admin/` is judged as `/admin`, because applications differ in which of the two
//! they redirect to the other, and a rule that held for one alone would be a way around it. A *deny* is also asked about
//! the other reading, a child of `/admin` with an empty name: `/admin/*` denies `/admin/`, but allows nothing there.

use std::{fmt, net::IpAddr, ops::ControlFlow, sync::Arc};

use http::Method as Verb;
use ipnet::IpNet;

use crate::{
    model::{Method, MethodSet, Name, Principal, RuleId},
    target::NormalPath,
};

/// One line of a policy: path, methods, who, how strongly authenticated, from where.
#[derive(Debug, Clone)]
pub struct Rule {
    pub(super) id: RuleId,
    pub(super) effect: Effect,
    pub(super) pattern: Pattern,
    /// As written; `None` is every method.
    pub(super) verbs: Option<Box<[Verb]>>,
    /// HEAD and OPTIONS where a GET covers them.
    pub(super) implied: Vec<Verb>,
    /// Any of; a deny without is about everybody.
    pub(super) who: Box<[Who]>,
    /// Whom a deny spares.
    pub(super) unless_who: Box<[Who]>,
    /// How one has to have been authenticated; `None` is by any method.
    pub(super) auth: Option<MethodSet>,
    /// From where; empty is anywhere.
    pub(super) from: Box<[IpNet]>,
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

    pub(super) fn covers(&self, verb: &Verb) -> bool {
        self.verbs.as_ref().is_none_or(|verbs| verbs.contains(verb)) || self.implied.contains(verb)
    }

    pub(super) fn names(&self, asker: &Asker<'_>) -> bool {
        self.who.is_empty() || asker.is_any(&self.who)
    }

    pub(super) fn spares(&self, asker: &Asker<'_>) -> bool {
        asker.is_any(&self.unless_who)
    }

    pub(super) fn is_from(&self, address: IpAddr) -> bool {
        self.from.is_empty() || self.from.iter().any(|network| network.contains(&address))
    }

    pub(super) fn auth(&self) -> MethodSet {
        self.auth.unwrap_or(MethodSet::ALL)
    }

    /// The methods that whoever it names could come by.
    pub(super) fn comes_by(&self) -> MethodSet {
        let is_token = |who: &Who| matches!(who, Who::Token(_) | Who::Service(_));
        if self.who.iter().all(is_token) {
            MethodSet::NONE.with(Method::Token)
        } else if self.who.contains(&Who::Anyone) {
            MethodSet::ALL
        } else {
            MethodSet::ALL.credentials()
        }
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
        write!(f, " {}", self.pattern)?;
        if !self.who.is_empty() {
            write!(f, " who {}", list(&self.who))?;
        }
        if !self.unless_who.is_empty() {
            write!(f, " unless {}", list(&self.unless_who))?;
        }
        if let Some(auth) = self.auth {
            write!(f, " by {auth}")?;
        }
        if !self.from.is_empty() {
            write!(f, " from {}", list(&self.from))?;
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

/// A path with wildcards, relative to the mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    segments: Box<[Segment]>,
    /// Ends with `**`.
    below: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(Box<str>),
    Any,
}

/// Segments of a pattern. Walking recurses once per segment, so this bounds the stack; no real path comes close.
const SEGMENTS_MAX: usize = 64;

impl Pattern {
    /// Reads a pattern from a policy.
    ///
    /// # Errors
    /// What no request could match, or what would be read in two ways; in words that follow the quoted text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let path = NormalPath::written(text)?;
        if text != "/" && text.ends_with('/') {
            return Err("it ends with a slash, which makes no difference; leave that out");
        }
        let mut segments: Vec<_> = path.segments().filter(|segment| !segment.is_empty()).collect();
        let below = segments.last() == Some(&"**");
        if below {
            segments.pop();
        }
        if segments.len() > SEGMENTS_MAX {
            return Err("it has more than 64 segments");
        }
        let segments = segments.into_iter().map(Segment::parse).collect::<Result<_, _>>()?;
        Ok(Self { segments, below })
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "*" => Ok(Self::Any),
            "**" => Err("`**` is this and everything below, so it can only be the last segment"),
            text if text.contains('*') => Err("`*` is a whole segment and never a part of one"),
            text => Ok(Self::Literal(text.into())),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => write!(f, "/{text}")?,
                Segment::Any => f.write_str("/*")?,
            }
        }
        match (self.below, self.segments.is_empty()) {
            (true, _) => f.write_str("/**"),
            (false, true) => f.write_str("/"),
            (false, false) => Ok(()),
        }
    }
}

/// Patterns by their segments; at the leaves, numbers of rules.
#[derive(Debug)]
pub(super) struct Trie(Vec<Node>);

#[derive(Debug, Default)]
struct Node {
    /// Sorted by text.
    literals: Vec<(Box<str>, usize)>,
    any: Option<usize>,
    /// Rules whose pattern ends here.
    here: Vec<usize>,
    /// Rules whose pattern ends here with `**`.
    below: Vec<usize>,
}

/// A path as the trie takes it apart.
#[derive(Clone, Copy)]
pub(super) struct Path<'a> {
    /// What is left, without slashes around it.
    rest: &'a str,
    /// Whether it ended with a slash, and that is to be read as a child with an empty name too.
    trailing: bool,
}

impl<'a> Path<'a> {
    /// The path as an allow sees it: a trailing slash makes no difference.
    pub fn plain(path_info: &'a str) -> Self {
        let rest = path_info.strip_prefix('/').unwrap_or(path_info);
        Self { rest: rest.strip_suffix('/').unwrap_or(rest), trailing: false }
    }

    /// The path as a deny sees it: in both readings of a trailing slash. `/` itself has one, it is the mount.
    pub fn guarded(path_info: &'a str) -> Self {
        Self { trailing: path_info.len() > 1 && path_info.ends_with('/'), ..Self::plain(path_info) }
    }
}

impl Trie {
    pub fn new<'r>(rules: impl Iterator<Item = (usize, &'r Pattern)>) -> Self {
        let mut trie = Self(vec![Node::default()]);
        for (number, pattern) in rules {
            let mut at = 0;
            for segment in &pattern.segments {
                at = trie.child(at, segment);
            }
            let node = &mut trie.0[at];
            if pattern.below { node.below.push(number) } else { node.here.push(number) }
        }
        trie
    }

    /// Visits the rules whose pattern matches, the most specific first, until `visit` breaks.
    pub fn walk<B>(&self, path: Path<'_>, mut visit: impl FnMut(usize) -> ControlFlow<B>) -> ControlFlow<B> {
        self.walk_from(0, path, &mut visit)
    }

    fn walk_from<B>(
        &self,
        at: usize,
        path: Path<'_>,
        visit: &mut impl FnMut(usize) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let node = &self.0[at];
        if path.rest.is_empty() {
            node.here.iter().try_for_each(|&rule| visit(rule))?;
            if let Some(child) = node.any.filter(|_| path.trailing) {
                let child = &self.0[child];
                child.here.iter().chain(&child.below).try_for_each(|&rule| visit(rule))?;
            }
        } else {
            let (segment, rest) = path.rest.split_once('/').unwrap_or((path.rest, ""));
            let path = Path { rest, ..path };
            if let Ok(found) = node.literals.binary_search_by(|(literal, _)| (**literal).cmp(segment)) {
                self.walk_from(node.literals[found].1, path, visit)?;
            }
            if let Some(child) = node.any {
                self.walk_from(child, path, visit)?;
            }
        }
        node.below.iter().try_for_each(|&rule| visit(rule))
    }

    fn child(&mut self, at: usize, segment: &Segment) -> usize {
        let next = self.0.len();
        let node = &mut self.0[at];
        let child = match segment {
            Segment::Any => *node.any.get_or_insert(next),
            Segment::Literal(text) => match node.literals.binary_search_by(|(literal, _)| literal.cmp(text)) {
                Ok(found) => node.literals[found].1,
                Err(place) => {
                    node.literals.insert(place, (text.clone(), next));
                    next
                }
            },
        };
        if child == next {
            self.0.push(Node::default());
        }
        child
    }
}
