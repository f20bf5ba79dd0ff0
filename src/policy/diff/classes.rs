//! Every path there could be, in classes that no rule of either version tells apart.
//!
//! The two versions are walked at once, by subset construction: a class knows the nodes of both versions' tries (mounts,
//! allows, denies) that are alive there. It goes on with every segment that one of them names, and with "any other
//! segment", which stands for infinitely many. A class where nothing is alive any more is the last: everything below
//! it is judged alike. So the classes are a tree, each has a label of its own, and one path stands for all of it.
//!
//! That which of two patterns is the more specific does not depend on the path (see `lint`) is why one path is enough.

use std::{collections::BTreeMap, collections::BTreeSet, fmt, sync::Arc};

use crate::policy::{
    Application,
    judge::Tries,
    trie::{Trie, UNNAMED},
};

/// More classes than this are no comparison that anybody reads, and would take minutes.
const MOST: usize = 100_000;

/// The comparison would take for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the rules tell more than {MOST} kinds of paths apart, too many to compare: `*` before literals multiplies them"
)]
pub struct TooManyClasses;

/// One version of all applications, by their mounts.
pub(super) struct World<'a> {
    pub apps: &'a [Arc<Application>],
    mounts: Vec<MountNode>,
}

#[derive(Default)]
struct MountNode {
    literals: BTreeMap<Box<str>, usize>,
    app: Option<usize>,
}

impl<'a> World<'a> {
    pub fn new(apps: &'a [Arc<Application>]) -> Self {
        let mut mounts = vec![MountNode::default()];
        for (number, app) in apps.iter().enumerate() {
            let mut at = 0;
            for segment in app.mount.script_name().split('/').skip(1) {
                let next = mounts.len();
                at = *mounts[at].literals.entry(segment.into()).or_insert(next);
                if at == next {
                    mounts.push(MountNode::default());
                }
            }
            mounts[at].app = Some(number);
        }
        Self { apps, mounts }
    }

    fn begin(&self) -> Alive {
        self.mounted(0, Alive { mount: None, app: None, allow: Vec::new(), deny: Vec::new() })
    }

    /// At a node of the mounts; whoever is mounted there owns what comes, and its rules begin.
    fn mounted(&self, mount: usize, mut alive: Alive) -> Alive {
        if let Some(app) = self.mounts[mount].app {
            let Tries { allow, deny } = &self.apps[app].rules.enforced;
            alive = Alive { mount: None, app: Some(app), allow: matter(allow, [0]), deny: matter(deny, [0]) };
        }
        alive.mount = Some(mount).filter(|&mount| !self.mounts[mount].literals.is_empty());
        alive
    }

    fn step(&self, alive: &Alive, segment: Option<&str>) -> Alive {
        let tries = alive.app.map(|app| &self.apps[app].rules.enforced);
        let next = |live: &[usize], trie: fn(&Tries) -> &Trie| {
            tries.map(|tries| children(trie(tries), live, segment)).unwrap_or_default()
        };
        let rules = Alive {
            mount: None,
            app: alive.app,
            allow: next(&alive.allow, |tries| &tries.allow),
            deny: next(&alive.deny, |tries| &tries.deny),
        };
        let child = |mount: usize| self.mounts[mount].literals.get(segment?).copied();
        match alive.mount.and_then(child) {
            Some(mount) => self.mounted(mount, rules),
            None => rules,
        }
    }

    fn names<'s>(&'s self, alive: &'s Alive, names: &mut BTreeSet<&'s str>) {
        if let Some(mount) = alive.mount {
            names.extend(self.mounts[mount].literals.keys().map(|name| &**name));
        }
        let Some(app) = alive.app else { return };
        let Tries { allow, deny } = &self.apps[app].rules.enforced;
        for (trie, live) in [(allow, &alive.allow), (deny, &alive.deny)] {
            let literals = live.iter().flat_map(|&node| &trie.nodes()[node].literals);
            names.extend(literals.map(|(name, _)| &**name));
        }
    }
}

/// What is alive of one version at a class.
#[derive(Debug, Clone)]
struct Alive {
    /// A node below which others are mounted.
    mount: Option<usize>,
    /// Who owns the path.
    app: Option<usize>,
    allow: Vec<usize>,
    deny: Vec<usize>,
}

impl Alive {
    fn is_over(&self) -> bool {
        self.mount.is_none() && self.allow.is_empty() && self.deny.is_empty()
    }
}

fn children(trie: &Trie, live: &[usize], segment: Option<&str>) -> Vec<usize> {
    let of = |&node: &usize| {
        let node = &trie.nodes()[node];
        segment.and_then(|segment| node.literal(segment)).into_iter().chain(node.any)
    };
    matter(trie, live.iter().flat_map(of))
}

/// The nodes where something ends or goes on. `**` holds for all below as it holds here, so it keeps nothing alive.
fn matter(trie: &Trie, nodes: impl IntoIterator<Item = usize>) -> Vec<usize> {
    let matters = |&node: &usize| {
        let node = &trie.nodes()[node];
        !node.here.is_empty() || !node.literals.is_empty() || node.any.is_some()
    };
    nodes.into_iter().filter(matters).collect()
}

/// A path of a class: with a slash at its end or without, which denies tell apart.
pub(super) type Place = (usize, bool);

/// All classes; children come after their parents.
#[derive(Debug)]
pub(super) struct Classes(Vec<Class>);

#[derive(Debug)]
pub(super) struct Class {
    /// As people write it: `/orders/*`.
    label: String,
    /// One of its paths; a segment that nobody names is one that no request can have.
    pub path: String,
    /// The owners of the path in both versions.
    pub owners: [Option<usize>; 2],
    literals: BTreeMap<Box<str>, usize>,
    /// Any other segment; `None` where everything below is alike.
    other: Option<usize>,
}

impl Classes {
    pub fn new(old: &World<'_>, new: &World<'_>) -> Result<Self, TooManyClasses> {
        let mut alive = vec![[old.begin(), new.begin()]];
        let class = |label: String, path: String, [old, new]: &[Alive; 2]| Class {
            label,
            path,
            owners: [old.app, new.app],
            literals: BTreeMap::new(),
            other: None,
        };
        let mut classes = vec![class(String::new(), String::new(), &alive[0])];
        let mut at = 0;
        while at < classes.len() {
            let here = alive[at].clone();
            if !here.iter().all(Alive::is_over) {
                let mut names = BTreeSet::new();
                old.names(&here[0], &mut names);
                new.names(&here[1], &mut names);
                for name in names.into_iter().map(Some).chain([None]) {
                    let next = [old.step(&here[0], name), new.step(&here[1], name)];
                    let (label, path) = (&classes[at].label, &classes[at].path);
                    let label = format!("{label}/{}", name.unwrap_or("*"));
                    let path = name.map_or_else(|| format!("{path}{UNNAMED}"), |name| format!("{path}/{name}"));
                    let child = class(label, path, &next);
                    let number = classes.len();
                    match name {
                        Some(name) => drop(classes[at].literals.insert(name.into(), number)),
                        None => classes[at].other = Some(number),
                    }
                    classes.push(child);
                    alive.push(next);
                }
            }
            if classes.len() > MOST {
                return Err(TooManyClasses);
            }
            at += 1;
        }
        Ok(Self(classes))
    }

    pub fn iter(&self) -> impl Iterator<Item = (usize, &Class)> {
        self.0.iter().enumerate()
    }

    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// A set of places as people say it, in as few words as it takes.
    pub fn say(&self, places: &BTreeSet<Place>) -> Vec<Said> {
        let mut said = Vec::new();
        let (inside, outside) = (self.sketch(places, true), self.sketch(places, false));
        self.say_below(0, &inside, Some(&outside), &mut said);
        said
    }

    /// What a set has of each class, or with `wanted` false, what it lacks.
    fn sketch(&self, places: &BTreeSet<Place>, wanted: bool) -> Vec<Sketch> {
        let mut sketch = vec![Sketch { plain: false, slash: false, whole: false, nothing: false }; self.0.len()];
        for (number, class) in self.0.iter().enumerate().rev() {
            let has = |slash| places.contains(&(number, slash)) == wanted;
            // The root has no path without its slash.
            let (plain, slash) = (has(false), has(number > 0));
            let mut children = class.children();
            let whole = plain && slash && children.all(|child| sketch[child].whole);
            let nothing = !plain && !slash && class.children().all(|child| sketch[child].nothing);
            sketch[number] = Sketch { plain, slash, whole, nothing };
        }
        sketch
    }

    /// `outside` is there where exceptions may be made; an exception has none.
    fn say_below(&self, number: usize, inside: &[Sketch], outside: Option<&[Sketch]>, said: &mut Vec<Said>) {
        let (class, here) = (&self.0[number], inside[number]);
        let mut say = |extent, but| said.push(Said { number, label: class.label.clone(), extent, but });
        if here.nothing {
            return;
        }
        if here.whole {
            return say(Extent::Whole, Vec::new());
        }
        let others = class.other.is_some_and(|other| inside[other].whole);
        let all = class.children().all(|child| inside[child].whole);
        if others && (all || outside.is_some()) {
            let mut but = Vec::new();
            if let Some(outside) = outside {
                class.literals.values().for_each(|&child| self.say_below(child, outside, None, &mut but));
            }
            if here.plain && here.slash {
                return say(Extent::Whole, but);
            }
            if here.plain || here.slash {
                say(Extent::Only { plain: here.plain, slash: here.slash }, Vec::new());
            }
            return say(Extent::Below, but);
        }
        if here.plain || here.slash {
            say(Extent::Only { plain: here.plain, slash: here.slash }, Vec::new());
        }
        class.children().for_each(|child| self.say_below(child, inside, outside, said));
    }
}

impl Class {
    fn children(&self) -> impl Iterator<Item = usize> {
        self.literals.values().copied().chain(self.other)
    }
}

/// What a set of places has of one class.
#[derive(Clone, Copy)]
struct Sketch {
    plain: bool,
    slash: bool,
    /// This and everything below.
    whole: bool,
    /// Nothing of it.
    nothing: bool,
}

/// Some paths, as people say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    number: usize,
    label: String,
    extent: Extent,
    but: Vec<Said>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// This and everything below.
    Whole,
    /// Everything below, but not this.
    Below,
    /// This alone, without a slash at its end, with one, or both.
    Only { plain: bool, slash: bool },
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = &self.label;
        match self.extent {
            Extent::Whole => write!(f, "{label}/**")?,
            Extent::Below => write!(f, "{label}/*/**")?,
            Extent::Only { .. } if self.number == 0 => f.write_str("/")?,
            Extent::Only { plain: true, slash: true } => f.write_str(label)?,
            Extent::Only { plain: true, .. } => write!(f, "{label} (not {label}/)")?,
            Extent::Only { .. } => write!(f, "{label}/")?,
        }
        if !self.but.is_empty() {
            let but: Vec<_> = self.but.iter().map(ToString::to_string).collect();
            write!(f, " but not {}", but.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
impl Classes {
    /// Where a path belongs.
    pub fn find(&self, path: &str) -> Place {
        let trimmed = path.trim_end_matches('/');
        let mut at = 0;
        for segment in trimmed.split('/').skip(1) {
            match self.0[at].literals.get(segment).copied().or(self.0[at].other) {
                Some(child) => at = child,
                None => break,
            }
        }
        (at, at > 0 && path.ends_with('/'))
    }

    /// The places that were said.
    pub fn expand(&self, said: &[Said]) -> BTreeSet<Place> {
        let mut places = BTreeSet::new();
        for said in said {
            let mut these = BTreeSet::new();
            match said.extent {
                Extent::Only { plain, slash } => {
                    these.extend(
                        [(plain, false), (slash && said.number > 0, true)]
                            .into_iter()
                            .filter_map(|(has, slash)| has.then_some((said.number, slash))),
                    );
                }
                Extent::Whole => self.everything(said.number, &mut these),
                Extent::Below => self.0[said.number].children().for_each(|child| self.everything(child, &mut these)),
            }
            let but = self.expand(&said.but);
            places.extend(these.difference(&but));
        }
        places
    }

    fn everything(&self, number: usize, places: &mut BTreeSet<Place>) {
        places.insert((number, false));
        if number > 0 {
            places.insert((number, true));
        }
        self.0[number].children().for_each(|child| self.everything(child, places));
    }
}
