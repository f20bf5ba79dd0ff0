//! Finds the rules of a path without looking at the others.
//!
//! [`Trie::walk`] visits the patterns that match a path with the most specific first: at every segment the literal
//! before `*` before `**`. No pattern is visited twice, so a walk costs at most the patterns that share the path's
//! beginning, whatever else there is. Nothing is allocated.
//!
//! A trailing slash makes no difference: `/admin/` is judged as `/admin`, because applications differ in which of the two
//! they redirect to the other, and a rule that held for one alone would be a way around it. A *deny* is also asked about
//! the other reading, a child of `/admin` with an empty name: `/admin/*` denies `/admin/`, but allows nothing there.

use std::{collections::HashMap, ops::ControlFlow};

use http::Method as Verb;

use crate::target::{Pattern, Segment};

/// Patterns by their segments; at the leaves, rules and the HTTP methods that they cover there.
#[derive(Debug)]
pub(super) struct Trie(Vec<Node>);

#[derive(Debug, Default)]
pub(super) struct Node {
    /// Sorted by text.
    pub literals: Vec<(Box<str>, usize)>,
    /// The same hashed, where there are many: a search in 10,000 texts touches a dozen cache lines, this one or two.
    hashed: HashMap<Box<str>, usize>,
    pub any: Option<usize>,
    /// Rules whose pattern ends here.
    pub here: Vec<Leaf>,
    /// Rules whose pattern ends here with `**`.
    pub below: Vec<Leaf>,
}

/// A rule at the end of one of its patterns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaf {
    /// Its number.
    pub rule: usize,
    /// What it covers at this pattern.
    pub verbs: Verbs,
}

/// Up to so many texts, searching is as fast as hashing.
const FEW: usize = 16;

impl Trie {
    /// Leaves of one pattern keep the order they are given in.
    pub fn new<'r>(leaves: impl Iterator<Item = (&'r Pattern, Leaf)>) -> Self {
        let mut trie = Self(vec![Node::default()]);
        for (pattern, leaf) in leaves {
            let mut at = 0;
            for segment in pattern.segments() {
                at = trie.child(at, segment);
            }
            let node = &mut trie.0[at];
            if pattern.is_below() { node.below.push(leaf) } else { node.here.push(leaf) }
        }
        for node in trie.0.iter_mut().filter(|node| node.literals.len() > FEW) {
            node.hashed = node.literals.iter().cloned().collect();
        }
        trie
    }

    /// Visits the rules whose pattern matches, the most specific first, until `visit` breaks.
    pub fn walk<'t, B>(&'t self, path: Path<'_>, mut visit: impl FnMut(&'t Leaf) -> ControlFlow<B>) -> ControlFlow<B> {
        self.walk_from(0, path, &mut visit)
    }

    /// Everything that [`Trie::walk`] visits, in its order.
    pub fn matching(&self, path: Path<'_>) -> Vec<&Leaf> {
        let mut found = Vec::new();
        let _ = self.walk::<()>(path, |leaf| {
            found.push(leaf);
            ControlFlow::Continue(())
        });
        found
    }

    /// All nodes; the first is the root.
    pub fn nodes(&self) -> &[Node] {
        &self.0
    }

    fn walk_from<'t, B>(
        &'t self,
        at: usize,
        path: Path<'_>,
        visit: &mut impl FnMut(&'t Leaf) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let node = &self.0[at];
        if path.rest.is_empty() {
            node.here.iter().try_for_each(&mut *visit)?;
            if let Some(child) = node.any.filter(|_| path.trailing) {
                let child = &self.0[child];
                child.here.iter().chain(&child.below).try_for_each(&mut *visit)?;
            }
        } else {
            let (segment, rest) = path.rest.split_once('/').unwrap_or((path.rest, ""));
            let path = Path { rest, ..path };
            if let Some(child) = node.literal(segment) {
                self.walk_from(child, path, visit)?;
            }
            if let Some(child) = node.any {
                self.walk_from(child, path, visit)?;
            }
        }
        node.below.iter().try_for_each(visit)
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

impl Node {
    /// The child for a segment that some pattern names here.
    pub fn literal(&self, segment: &str) -> Option<usize> {
        if !self.hashed.is_empty() {
            return self.hashed.get(segment).copied();
        }
        let found = self.literals.binary_search_by(|(literal, _)| (**literal).cmp(segment)).ok()?;
        Some(self.literals[found].1)
    }
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

/// A segment that no rule can name, because no path can have it: what holds for it holds for every one that none names.
pub(super) const UNNAMED: &str = "/\u{0}";

/// The HTTP methods that a rule covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verbs {
    /// Every one, those that nobody has heard of too.
    All,
    /// These: the usual ones as bits, the others as they are.
    Some {
        /// By [`bit`].
        usual: u16,
        /// WebDAV's and whatever else there is.
        others: Box<[Verb]>,
    },
    /// Every one but these, written like those.
    AllBut {
        /// By [`bit`].
        usual: u16,
        /// The others.
        others: Box<[Verb]>,
    },
}

/// The methods of RFC 9110 and PATCH.
pub(super) const USUAL: [Verb; 9] = [
    Verb::GET,
    Verb::HEAD,
    Verb::POST,
    Verb::PUT,
    Verb::DELETE,
    Verb::PATCH,
    Verb::OPTIONS,
    Verb::CONNECT,
    Verb::TRACE,
];

/// A method that no rule names, because nobody has heard of it: what holds for it holds for every such one.
pub(super) fn unnamed_verb() -> Verb {
    Verb::from_bytes(b"NAMED-BY-NO-RULE").unwrap_or(Verb::TRACE)
}

/// The methods that rules may tell apart: the usual ones and those that are named.
pub(super) fn verbs_told_apart<'r>(named: impl Iterator<Item = &'r Verb>) -> Vec<Verb> {
    let mut verbs: Vec<Verb> = USUAL.to_vec();
    for verb in named {
        if !verbs.contains(verb) {
            verbs.push(verb.clone());
        }
    }
    verbs
}

/// A method that is asked for, as [`Verbs`] compares it.
#[derive(Clone, Copy)]
pub(super) struct AskedVerb<'a> {
    bit: u16,
    verb: &'a Verb,
}

impl<'a> AskedVerb<'a> {
    pub fn new(verb: &'a Verb) -> Self {
        Self { bit: bit(verb), verb }
    }

    fn is_one_of(self, usual: u16, others: &[Verb]) -> bool {
        usual & self.bit != 0 || (self.bit == 0 && others.contains(self.verb))
    }
}

impl Verbs {
    /// Those.
    pub fn of(written: &[Verb]) -> Self {
        let (usual, others) = parted(written);
        Self::Some { usual, others }
    }

    /// Every one but those.
    pub fn all_but(spared: &[Verb]) -> Self {
        let (usual, others) = parted(spared);
        Self::AllBut { usual, others }
    }

    /// Whether `asked` is one of them.
    pub fn cover(&self, asked: AskedVerb<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Some { usual, others } => asked.is_one_of(*usual, others),
            Self::AllBut { usual, others } => !asked.is_one_of(*usual, others),
        }
    }
}

/// The usual ones as bits, the others as they are.
fn parted(verbs: &[Verb]) -> (u16, Box<[Verb]>) {
    let usual = verbs.iter().map(bit).fold(0, |usual, bit| usual | bit);
    (usual, verbs.iter().filter(|verb| bit(verb) == 0).cloned().collect())
}

/// Where a usual method is among [`USUAL`], as a bit; 0 for another.
fn bit(verb: &Verb) -> u16 {
    match *verb {
        Verb::GET => 1,
        Verb::HEAD => 1 << 1,
        Verb::POST => 1 << 2,
        Verb::PUT => 1 << 3,
        Verb::DELETE => 1 << 4,
        Verb::PATCH => 1 << 5,
        Verb::OPTIONS => 1 << 6,
        Verb::CONNECT => 1 << 7,
        Verb::TRACE => 1 << 8,
        _ => 0,
    }
}
