//! What a change of policies does: who gains or loses what. Computed from the rules, not sampled.
//!
//! A verdict depends on the path, the HTTP method, the address and the principal. Each of the four is cut into classes
//! that neither version tells apart (`classes` for paths, `space` for the rest), and one of each class is put to
//! `judge`, the code of the live decision. What comes out for it holds for the whole class. The price is
//! one verdict for every combination where the two versions differ at all; where the same rules are asked in both, none.
//!
//! Rules that only report decide nothing, so they count for nothing here.

mod classes;
mod space;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub use self::classes::TooManyClasses;
use self::{
    classes::{Class, Classes, Place, World},
    space::{Addresses, Named, Seen, Verbs},
};
use super::{
    Application, Question,
    judge::{self, Silent},
    rule::Rule,
    trie::{Leaf, Path},
};
use crate::model::{Method, MethodSet, Name, Principal, Reason, RuleId, Verified};

/// Two versions that are to be compared, and everybody they are compared for.
pub struct Comparison<'a> {
    old: &'a [Arc<Application>],
    new: &'a [Arc<Application>],
    system: MethodSet,
    named: Named,
    /// One principal for all that are judged alike.
    seen: BTreeMap<Seen, Principal>,
    parties: Vec<Party>,
    met: BTreeMap<Seen, Vec<String>>,
}

/// Somebody, or all who are judged alike.
struct Party {
    who: Asking,
    comes_as: Vec<Seen>,
}

/// Whom a change is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asking {
    /// Somebody who has not signed in.
    Anonymous,
    /// Somebody who signed in and has no role.
    SignedIn,
    /// Somebody with this alone: `role:sales`, `user:ann`, `service:bot`, `token:tok_1`.
    Named(String),
    /// These, whom the store has.
    Real(Vec<String>),
}

/// Everything that differs.
pub struct Diff<'a> {
    old: &'a [Arc<Application>],
    new: &'a [Arc<Application>],
    classes: Classes,
    verbs: Verbs,
    addresses: Addresses,
    changes: Vec<Change>,
}

/// Somebody gains or loses something.
#[derive(Debug)]
pub struct Change {
    /// The application that owns the paths, in the new version if there is one.
    pub application: Arc<str>,
    /// Who.
    pub who: Asking,
    /// Whether they may now, and not before.
    pub gained: bool,
    /// The authentication methods; `None` is every one they could come by.
    pub by: Option<MethodSet>,
    was: By,
    is: By,
    verbs: BTreeSet<usize>,
    from: BTreeSet<usize>,
    places: BTreeSet<Place>,
}

/// What decided, in one of the versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decider {
    /// The rule, if it was one.
    pub rule: Option<RuleId>,
    /// In words.
    pub text: String,
}

/// The same before it is put in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum By {
    NoApplication,
    Disabled(usize),
    Methods(usize),
    Token(usize),
    Default(usize),
    Rule(usize, usize),
}

/// Everything that makes a line of its own, but the paths.
type Line = (bool, By, By, BTreeSet<usize>, Vec<Method>, BTreeSet<usize>);

/// Everything that changes for somebody in an application.
type Lines = BTreeMap<Line, BTreeSet<Place>>;

/// One combination in which the versions differ, at a place.
struct Differs {
    gained: bool,
    was: By,
    is: By,
    verb: usize,
    from: usize,
}

impl<'a> Comparison<'a> {
    /// Compares for everybody that the rules speak of: the anonymous principal, somebody without roles, and each role,
    /// user, service and token that is named, alone; each by every method that the system policy permits.
    #[must_use]
    pub fn new(old: &'a [Arc<Application>], new: &'a [Arc<Application>], system: MethodSet) -> Self {
        let named = Named::new(old.iter().chain(new));
        let mut comparison =
            Self { old, new, system, named, seen: BTreeMap::new(), parties: Vec::new(), met: BTreeMap::new() };
        comparison.meet_named();
        comparison
    }

    /// Compares for somebody real, too: one principal that can be verified today.
    pub fn meet(&mut self, label: String, principal: &Principal) {
        let seen = self.see(principal.clone());
        self.met.entry(seen).or_default().push(label);
    }

    /// Compares.
    ///
    /// # Errors
    /// The rules tell too many paths apart.
    pub fn finish(mut self) -> Result<Diff<'a>, TooManyClasses> {
        for (seen, labels) in std::mem::take(&mut self.met) {
            self.parties.push(Party { who: Asking::Real(labels), comes_as: vec![seen] });
        }
        let (old, new) = (World::new(self.old), World::new(self.new));
        let both = || self.old.iter().chain(self.new);
        let mut diff = Diff {
            old: self.old,
            new: self.new,
            classes: Classes::new(&old, &new)?,
            verbs: Verbs::new(both()),
            addresses: Addresses::new(both()),
            changes: Vec::new(),
        };
        diff.changes = self.changes(&diff);
        Ok(diff)
    }

    fn meet_named(&mut self) {
        // Nobody is called what no rule calls anybody.
        let Some(nobody) = self.named.nobody() else { return };
        let credentials: Vec<Method> = self.system.credentials().iter().collect();
        let token: Vec<Method> = credentials.iter().copied().filter(|method| *method == Method::Token).collect();
        let user = |name: &Name, role: Option<&Name>, token: Option<&Arc<str>>, method| {
            Principal::User(Arc::new(verified(name, role, token, method)))
        };
        let mut parties = vec![(Asking::Anonymous, vec![Principal::Anonymous])];
        let mut add = |who: Asking, methods: &[Method], principal: &dyn Fn(Method) -> Principal| {
            parties.push((who, methods.iter().map(|&method| principal(method)).collect()));
        };
        add(Asking::SignedIn, &credentials, &|method| user(&nobody, None, None, method));
        for role in &self.named.roles {
            add(Asking::Named(format!("role:{role}")), &credentials, &|method| user(&nobody, Some(role), None, method));
        }
        for name in &self.named.users {
            add(Asking::Named(format!("user:{name}")), &credentials, &|method| user(name, None, None, method));
        }
        for name in &self.named.services {
            let service = |method| Principal::Service(Arc::new(verified(name, None, None, method)));
            add(Asking::Named(format!("service:{name}")), &token, &service);
        }
        for id in &self.named.tokens {
            add(Asking::Named(format!("token:{id}")), &token, &|method| user(&nobody, None, Some(id), method));
        }
        for (who, principals) in parties {
            let comes_as = principals.into_iter().map(|principal| self.see(principal)).collect();
            self.parties.push(Party { who, comes_as });
        }
    }

    fn see(&mut self, principal: Principal) -> Seen {
        let seen = self.named.see(&principal);
        self.seen.entry(seen.clone()).or_insert(principal);
        seen
    }

    fn changes(&self, diff: &Diff<'_>) -> Vec<Change> {
        let mut found: BTreeMap<(Arc<str>, usize), Lines> = BTreeMap::new();
        for (number, class) in diff.classes.iter() {
            let [old, new] = [owner(self.old, class.owners[0]), owner(self.new, class.owners[1])];
            let Some(application) = new.or(old).map(|(_, app)| Arc::clone(&app.name)) else { continue };
            let plain = if number == 0 { "/" } else { &class.path };
            let slash = format!("{plain}/");
            let mut places = vec![(plain, BTreeSet::from([(number, false)]))];
            match number {
                0 => {}
                // Where no deny is asked about an empty last segment, the two are one.
                _ if asked(old, plain) == asked(old, &slash) && asked(new, plain) == asked(new, &slash) => {
                    places[0].1.insert((number, true));
                }
                _ => places.push((&slash, BTreeSet::from([(number, true)]))),
            }
            for (path, places) in places {
                if alike(old, new, path) {
                    continue;
                }
                let differs: BTreeMap<&Seen, Vec<Differs>> = self
                    .seen
                    .iter()
                    .map(|(seen, principal)| (seen, self.differs(diff, class, path, principal)))
                    .collect();
                for (party, Party { comes_as, .. }) in self.parties.iter().enumerate() {
                    for line in lines(comes_as, &differs) {
                        let party = found.entry((Arc::clone(&application), party)).or_default();
                        party.entry(line).or_default().extend(&places);
                    }
                }
            }
        }
        self.by_application(found)
    }

    /// What was found, by application and then by who; all of the store for whom the same changes are one.
    fn by_application(&self, found: BTreeMap<(Arc<str>, usize), Lines>) -> Vec<Change> {
        let mut told: Vec<(Arc<str>, Asking, usize, Lines)> = Vec::new();
        for ((application, party), lines) in found {
            let Party { who, comes_as } = &self.parties[party];
            let alike = told.iter_mut().find(|(other, asking, _, known)| {
                matches!((asking, who), (Asking::Real(_), Asking::Real(_))) && *other == application && *known == lines
            });
            match (alike, who) {
                (Some((_, Asking::Real(names), ..)), Asking::Real(more)) => names.extend(more.iter().cloned()),
                _ => told.push((application, who.clone(), comes_as.len(), lines)),
            }
        }
        let changes = |(application, mut who, ways, lines): (Arc<str>, Asking, usize, Lines)| {
            if let Asking::Real(names) = &mut who {
                names.sort();
            }
            lines.into_iter().map(move |((gained, was, is, verbs, methods, from), places)| Change {
                application: Arc::clone(&application),
                who: who.clone(),
                gained,
                by: (methods.len() < ways).then(|| methods.into_iter().collect()),
                was,
                is,
                verbs,
                from,
                places,
            })
        };
        told.into_iter().flat_map(changes).collect()
    }

    /// In what the versions differ for one principal at one path.
    fn differs(&self, diff: &Diff<'_>, class: &Class, path: &str, principal: &Principal) -> Vec<Differs> {
        let mut differs = Vec::new();
        let [old, new] = [owner(self.old, class.owners[0]), owner(self.new, class.owners[1])];
        for (verb, method) in diff.verbs.samples() {
            for (from, &address) in diff.addresses.samples.iter().enumerate() {
                let question = Question { system: self.system, principal, method, from: address };
                let ((could, was), (can, is)) = (verdict(old, path, &question), verdict(new, path, &question));
                if could != can {
                    differs.push(Differs { gained: can, was, is, verb, from });
                }
            }
        }
        differs
    }
}

/// An application and its number in its version.
type Owner<'a> = Option<(usize, &'a Application)>;

fn owner(apps: &[Arc<Application>], number: Option<usize>) -> Owner<'_> {
    number.map(|number| (number, &*apps[number]))
}

/// The path as the rules of its application see it.
fn path_info<'p>(app: &Application, path: &'p str) -> &'p str {
    &path[app.mount.script_name().len()..]
}

fn verdict(owner: Owner<'_>, path: &str, question: &Question<'_>) -> (bool, By) {
    let Some((number, app)) = owner else { return (false, By::NoApplication) };
    if !app.enabled {
        return (false, By::Disabled(number));
    }
    match judge::judge(app, &app.rules.enforced, path_info(app, path), question, &mut Silent) {
        Ok(rule) => (true, rule.map_or(By::Default(number), |rule| By::Rule(number, rule))),
        Err(refusal) => (
            false,
            match (refusal.rule, refusal.reason) {
                (Some(rule), _) => By::Rule(number, rule),
                (None, Reason::DeniedByDefault | Reason::CredentialsRequired) => By::Default(number),
                (None, Reason::TokenNotForApplication) => By::Token(number),
                (None, _) => By::Methods(number),
            },
        ),
    }
}

/// The rules that are asked about a path, in the order they are asked in.
fn asked<'a>(owner: Owner<'a>, path: &str) -> (Vec<&'a Leaf>, Vec<&'a Leaf>) {
    let Some((_, app)) = owner else { return Default::default() };
    let (tries, path) = (&app.rules.enforced, path_info(app, path));
    (tries.allow.matching(Path::plain(path)), tries.deny.matching(Path::guarded(path)))
}

/// Whether the same rules are asked in both versions, so that every answer is the same.
fn alike(old: Owner<'_>, new: Owner<'_>, path: &str) -> bool {
    let ((_, before), (_, after)) = match (old, new) {
        (None, None) => return true,
        (Some(old), Some(new)) => (old, new),
        _ => return false,
    };
    let said =
        |app: &Application| (app.name.clone(), app.enabled, app.methods, app.default.clone(), app.app_roles.clone());
    let same = |old: &[&Leaf], new: &[&Leaf]| {
        let pairs = old.iter().zip(new).all(|(old, new)| {
            old.verbs == new.verbs && same_rule(&before.rules.rules[old.rule], &after.rules.rules[new.rule])
        });
        old.len() == new.len() && pairs
    };
    let ((old_allow, old_deny), (new_allow, new_deny)) = (asked(old, path), asked(new, path));
    said(before) == said(after) && same(&old_allow, &new_allow) && same(&old_deny, &new_deny)
}

/// Whether two rules say the same of whoever asks; where they stand and what they cover is asked elsewhere.
fn same_rule(old: &Rule, new: &Rule) -> bool {
    old.effect == new.effect
        && old.who == new.who
        && old.unless_who == new.unless_who
        && old.auth == new.auth
        && old.mfa.is_some() == new.mfa.is_some()
        && old.from == new.from
}

/// Combinations as few lines: methods that gain the same share one, and so do authentication methods.
fn lines(comes_as: &[Seen], differs: &BTreeMap<&Seen, Vec<Differs>>) -> Vec<Line> {
    type Cells = BTreeMap<usize, BTreeSet<(Method, usize)>>;
    let mut by: BTreeMap<(bool, By, By), Cells> = BTreeMap::new();
    for seen in comes_as {
        for differs in differs.get(seen).into_iter().flatten() {
            let cells = by.entry((differs.gained, differs.was, differs.is)).or_default();
            cells.entry(differs.verb).or_default().insert((seen.method(), differs.from));
        }
    }
    let mut lines = Vec::new();
    for ((gained, was, is), cells) in by {
        let mut verbs: BTreeMap<BTreeSet<(Method, usize)>, BTreeSet<usize>> = BTreeMap::new();
        for (verb, cells) in cells {
            verbs.entry(cells).or_default().insert(verb);
        }
        for (cells, verbs) in verbs {
            let mut methods: BTreeMap<Method, BTreeSet<usize>> = BTreeMap::new();
            for (method, from) in cells {
                methods.entry(method).or_default().insert(from);
            }
            let mut from: BTreeMap<BTreeSet<usize>, Vec<Method>> = BTreeMap::new();
            for (method, addresses) in methods {
                from.entry(addresses).or_default().push(method);
            }
            lines.extend(from.into_iter().map(|(from, methods)| (gained, was, is, verbs.clone(), methods, from)));
        }
    }
    lines
}

fn verified(name: &Name, role: Option<&Name>, token: Option<&Arc<str>>, method: Method) -> Verified {
    let roles = role.into_iter().cloned().collect();
    Verified { credential: token.cloned(), ..Verified::on_paper(name.clone(), roles, method) }
}

impl Diff<'_> {
    /// Who gains or loses what, by application and principal.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// How many kinds of paths were compared.
    #[must_use]
    pub const fn classes(&self) -> usize {
        self.classes.len()
    }

    /// The paths of a change. A `*` stands for every segment that is not named beside it.
    #[must_use]
    pub fn paths(&self, change: &Change) -> Vec<String> {
        self.classes.say(&change.places).iter().map(ToString::to_string).collect()
    }

    /// The HTTP methods of a change; `None` is every one.
    #[must_use]
    pub fn verbs(&self, change: &Change) -> Option<Vec<String>> {
        self.verbs.say(&change.verbs)
    }

    /// From where; `None` is from anywhere.
    #[must_use]
    pub fn from(&self, change: &Change) -> Option<String> {
        self.addresses.say(&change.from)
    }

    /// Whether one change says all that another does, but for whom.
    #[must_use]
    pub fn covers(&self, change: &Change, other: &Change) -> bool {
        let all = |by: Option<MethodSet>| by.unwrap_or(MethodSet::ALL);
        change.gained == other.gained
            && (change.was, change.is) == (other.was, other.is)
            && all(other.by).without(all(change.by)).is_empty()
            && other.verbs.is_subset(&change.verbs)
            && other.from.is_subset(&change.from)
            && other.places.is_subset(&change.places)
    }

    /// What decided before.
    #[must_use]
    pub fn was(&self, change: &Change) -> Decider {
        change.was.told(self.old)
    }

    /// What decides now.
    #[must_use]
    pub fn is(&self, change: &Change) -> Decider {
        change.is.told(self.new)
    }
}

impl By {
    fn told(self, apps: &[Arc<Application>]) -> Decider {
        let text = |text: String| Decider { rule: None, text };
        match self {
            Self::NoApplication => text("no application".to_owned()),
            Self::Disabled(app) => text(format!("{}  enabled = false", apps[app].file)),
            Self::Methods(app) => text(format!("{}  methods {}", apps[app].file, apps[app].methods)),
            Self::Token(app) => text(format!("the token, which is not for {}", apps[app].name)),
            Self::Default(app) => text(format!("{}  default {}", apps[app].file, apps[app].default)),
            Self::Rule(app, rule) => {
                let rule = &apps[app].rules.rules[rule];
                Decider { rule: Some(rule.id().clone()), text: format!("{}  {rule}", rule.id()) }
            }
        }
    }
}

#[cfg(test)]
impl Diff<'_> {
    /// What is shown to people stands for the very places that were found.
    pub(super) fn check(&self) {
        for change in &self.changes {
            let said = self.classes.say(&change.places);
            assert_eq!(self.classes.expand(&said), change.places, "said {said:?}");
        }
    }

    /// What the comparison says of one request: whether it was gained or lost.
    pub(super) fn of(&self, is: impl Fn(&Asking) -> bool, asked: &super::tests::Asked) -> Vec<bool> {
        let (place, verb) = (self.classes.find(&asked.path), self.verbs.find(&asked.verb));
        let from = self.addresses.find(asked.from);
        let holds = |change: &&Change| {
            is(&change.who)
                && change.by.is_none_or(|by| by.contains(asked.principal.method()))
                && change.verbs.contains(&verb)
                && change.from.contains(&from)
                && change.places.contains(&place)
        };
        self.changes.iter().filter(holds).map(|change| change.gained).collect()
    }
}
