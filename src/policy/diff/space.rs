//! What else a verdict depends on, in classes too: HTTP methods, addresses, principals.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use http::Method as Verb;
use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use crate::{
    model::{Method, Name, Principal},
    policy::{
        Application, Default_, Rule, Who, is_served,
        trie::{AskedVerb, Leaf, USUAL, unnamed_verb, verbs_told_apart},
    },
};

/// HTTP methods: every one that a rule names, the usual ones, and any other. Each class is judged alike everywhere.
pub(super) struct Verbs {
    classes: Vec<Vec<Option<Verb>>>,
    unnamed: Verb,
}

impl Verbs {
    pub fn new<'a>(apps: impl Iterator<Item = &'a Arc<Application>> + Clone) -> Self {
        let unnamed = unnamed_verb();
        let rules = apps.clone().flat_map(|app| app.rules.iter());
        let mut verbs = verbs_told_apart(rules.flat_map(Rule::named_verbs));
        verbs.retain(is_served);
        let leaves: Vec<&Leaf> = apps
            .flat_map(|app| [&app.rules.enforced.allow, &app.rules.enforced.deny])
            .flat_map(|trie| trie.nodes())
            .flat_map(|node| node.here.iter().chain(&node.below))
            .collect();
        let covered = |verb: &Verb| {
            let asked = AskedVerb::new(verb);
            leaves.iter().map(|leaf| leaf.verbs.cover(asked)).collect::<Vec<bool>>()
        };
        let (mut classes, mut known) = (Vec::<Vec<Option<Verb>>>::new(), Vec::<Vec<bool>>::new());
        for verb in verbs.into_iter().map(Some).chain([None]) {
            let covered = covered(verb.as_ref().unwrap_or(&unnamed));
            match known.iter().position(|other| *other == covered) {
                Some(class) => classes[class].push(verb),
                None => {
                    known.push(covered);
                    classes.push(vec![verb]);
                }
            }
        }
        Self { classes, unnamed }
    }

    /// One method of each class.
    pub fn samples(&self) -> impl Iterator<Item = (usize, &Verb)> {
        self.classes
            .iter()
            .enumerate()
            .map(move |(number, class)| (number, class.iter().flatten().next().unwrap_or(&self.unnamed)))
    }

    /// A set of classes in words; `None` is every method.
    pub fn say(&self, classes: &BTreeSet<usize>) -> Option<Vec<String>> {
        if classes.len() == self.classes.len() {
            return None;
        }
        let mut said: Vec<String> = Vec::new();
        let verbs: Vec<_> = classes.iter().flat_map(|&class| &self.classes[class]).collect();
        let order = |verb: &Verb| USUAL.iter().position(|usual| usual == verb).unwrap_or(USUAL.len());
        let mut named: Vec<&Verb> = verbs.iter().filter_map(|verb| verb.as_ref()).collect();
        named.sort_by_key(|verb| (order(verb), verb.as_str().to_owned()));
        said.extend(named.iter().map(ToString::to_string));
        said.extend(verbs.iter().any(|verb| verb.is_none()).then(|| "any other".to_owned()));
        Some(said)
    }

    #[cfg(test)]
    pub fn find(&self, verb: &Verb) -> usize {
        let is = |class: &Vec<Option<Verb>>| class.iter().flatten().any(|other| other == verb);
        let other = |class: &Vec<Option<Verb>>| class.contains(&None);
        self.classes.iter().position(is).or_else(|| self.classes.iter().position(other)).unwrap()
    }
}

/// Addresses: what lies between the ends of all networks that rules name, and anywhere else.
pub(super) struct Addresses {
    intervals: Vec<Interval>,
    /// One address of each class.
    pub samples: Vec<IpAddr>,
    /// The class of the addresses that no rule names.
    elsewhere: Option<usize>,
}

struct Interval {
    first: IpAddr,
    last: IpAddr,
    class: usize,
}

impl Addresses {
    pub fn new<'a>(apps: impl Iterator<Item = &'a Arc<Application>>) -> Self {
        let networks: BTreeSet<IpNet> =
            apps.flat_map(|app| app.rules.iter()).flat_map(|rule| rule.networks()).copied().collect();
        // IPv4 inside IPv6 is judged as IPv4, so no request comes from there.
        let mapped = u128::from(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped());
        let mapped = mapped..=mapped + u128::from(u32::MAX);
        let (mut v4, mut v6) = (BTreeSet::from([0]), BTreeSet::from([0, *mapped.start(), mapped.end() + 1]));
        for network in &networks {
            match network {
                IpNet::V4(net) => {
                    v4.extend([u32::from(net.network()).into(), u64::from(u32::from(net.broadcast())) + 1])
                }
                IpNet::V6(net) => {
                    v6.insert(u128::from(net.network()));
                    v6.extend(u128::from(net.broadcast()).checked_add(1));
                }
            }
        }
        let last = |ends: Option<u64>| ends.unwrap_or(1 << 32) - 1;
        let starts: Vec<u64> = v4.into_iter().filter(|&start| start < 1 << 32).collect();
        let address = |bits: u64| IpAddr::V4(Ipv4Addr::from(u32::try_from(bits).unwrap_or(u32::MAX)));
        let v4 =
            starts.iter().enumerate().map(|(i, &first)| (address(first), address(last(starts.get(i + 1).copied()))));
        let starts: Vec<u128> = v6.into_iter().collect();
        let v6 = starts.iter().enumerate().filter(|(_, first)| !mapped.contains(first)).map(|(i, &first)| {
            let last = starts.get(i + 1).map_or(u128::MAX, |next| next - 1);
            (IpAddr::V6(Ipv6Addr::from(first)), IpAddr::V6(Ipv6Addr::from(last)))
        });
        let (mut known, mut samples) = (BTreeMap::<Vec<bool>, usize>::new(), Vec::new());
        let intervals = v4.chain(v6).map(|(first, last)| {
            let inside = networks.iter().map(|network| network.contains(&first)).collect();
            let class = *known.entry(inside).or_insert_with(|| {
                samples.push(first);
                samples.len() - 1
            });
            Interval { first, last, class }
        });
        let intervals: Vec<_> = intervals.collect();
        let elsewhere = known.get(&vec![false; networks.len()]).copied();
        Self { intervals, samples, elsewhere }
    }

    /// A set of classes in words; `None` is anywhere.
    pub fn say(&self, classes: &BTreeSet<usize>) -> Option<String> {
        if classes.len() == self.samples.len() {
            return None;
        }
        if !self.elsewhere.is_some_and(|elsewhere| classes.contains(&elsewhere)) {
            return Some(self.networks(|class| classes.contains(&class)));
        }
        Some(format!("anywhere but {}", self.networks(|class| !classes.contains(&class))))
    }

    fn networks(&self, wanted: impl Fn(usize) -> bool) -> String {
        let mut ranges: Vec<(IpAddr, IpAddr)> = Vec::new();
        for Interval { first, last, class } in &self.intervals {
            match ranges.last_mut() {
                _ if !wanted(*class) => {}
                Some((_, end)) if follows(*end, *first) => *end = *last,
                _ => ranges.push((*first, *last)),
            }
        }
        let networks = ranges.into_iter().flat_map(|range| match range {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect::<Vec<_>>()
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => Ipv6Subnets::new(first, last, 0).map(IpNet::V6).collect(),
            _ => Vec::new(),
        });
        networks.map(|network| say(&network)).collect::<Vec<_>>().join(", ")
    }

    #[cfg(test)]
    pub fn find(&self, address: IpAddr) -> usize {
        let address = address.to_canonical();
        self.intervals.iter().find(|interval| interval.first <= address && address <= interval.last).unwrap().class
    }
}

fn follows(end: IpAddr, first: IpAddr) -> bool {
    match (end, first) {
        (IpAddr::V4(end), IpAddr::V4(first)) => u32::from(end).checked_add(1) == Some(u32::from(first)),
        (IpAddr::V6(end), IpAddr::V6(first)) => u128::from(end).checked_add(1) == Some(u128::from(first)),
        _ => false,
    }
}

/// One address without its length.
fn say(network: &IpNet) -> String {
    if network.prefix_len() == network.max_prefix_len() { network.addr().to_string() } else { network.to_string() }
}

/// Everybody and everything that rules name.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub roles: BTreeSet<Name>,
    pub users: BTreeSet<Name>,
    pub services: BTreeSet<Name>,
    pub tokens: BTreeSet<Arc<str>>,
    applications: BTreeSet<Arc<str>>,
}

/// What rules see of a principal; two with the same are judged alike everywhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seen {
    method: Method,
    roles: Vec<Name>,
    user: Option<Name>,
    service: Option<Name>,
    token: Option<Arc<str>>,
    applications: Option<Vec<Arc<str>>>,
}

impl Seen {
    pub const fn method(&self) -> Method {
        self.method
    }
}

impl Named {
    pub fn new<'a>(apps: impl Iterator<Item = &'a Arc<Application>>) -> Self {
        let mut named = Self::default();
        for app in apps {
            named.applications.insert(Arc::clone(&app.name));
            if let Default_::Role(role) = &app.default {
                named.roles.insert(role.clone());
            }
            for who in app.rules.iter().flat_map(|rule| rule.who().iter().chain(rule.unless_who())) {
                match who {
                    Who::Anyone | Who::SignedIn => {}
                    Who::Role(name) => drop(named.roles.insert(name.clone())),
                    Who::User(name) => drop(named.users.insert(name.clone())),
                    Who::Service(name) => drop(named.services.insert(name.clone())),
                    Who::Token(id) => drop(named.tokens.insert(Arc::clone(id))),
                }
            }
        }
        named
    }

    pub fn see(&self, principal: &Principal) -> Seen {
        let verified = principal.verified();
        let name = verified.map(|verified| &verified.name);
        let mut roles: Vec<Name> = verified.map(|verified| verified.roles.clone()).unwrap_or_default();
        roles.retain(|role| self.roles.contains(role));
        roles.sort();
        roles.dedup();
        let applications = verified.and_then(|verified| verified.applications.as_ref()).map(|names| {
            let known: BTreeSet<_> = names.iter().filter(|name| self.applications.contains(*name)).cloned().collect();
            known.into_iter().collect()
        });
        let token = verified.filter(|verified| verified.method == Method::Token);
        let token = token.and_then(|verified| verified.credential.clone());
        Seen {
            method: principal.method(),
            roles,
            user: name.filter(|name| matches!(principal, Principal::User(_)) && self.users.contains(name)).cloned(),
            service: name
                .filter(|name| matches!(principal, Principal::Service(_)) && self.services.contains(name))
                .cloned(),
            token: token.filter(|id| self.tokens.contains(id)),
            applications,
        }
    }

    /// A name that no rule has.
    pub fn nobody(&self) -> Option<Name> {
        (0..).map_while(|number| Name::parse(&format!("somebody{number}")).ok()).find(|name| !self.users.contains(name))
    }
}
