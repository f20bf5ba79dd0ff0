//! What can be written and was hardly meant: rules that never decide, that nobody can meet, that shadow others. All of it
//! is a warning, because none of it lets anybody in.
//!
//! Whether a rule is ever reached is decided, not sampled. A pattern's *witness* has a segment that no rule names for
//! every `*`, and below a `**` any number of them. Each rule that matches a witness has a wildcard wherever the witness
//! has such a segment, so it matches whatever else the pattern matches there; and which of two patterns is the more
//! specific does not depend on the path. A rule that decides no witness therefore decides nothing.

use std::{collections::BTreeSet, ops::ControlFlow};

use http::Method as Verb;

use super::{
    Context, Default_, Known,
    document::{At, WrittenRule},
    judge::{Rules, Tries},
    rule::{Effect, Rule, Who, list},
    trie::{AskedVerb, Leaf, Path, Trie, UNNAMED, unnamed_verb, verbs_told_apart},
};
use crate::{
    model::{Method, MethodSet, Name},
    target::{Pattern, Segment},
    written::{Value, nearest},
};

/// Warns of everything in a policy that was hardly meant.
pub(super) fn policy(
    rules: &[WrittenRule<'_>],
    compiled: &Rules,
    default: Option<&At<'_, Default_>>,
    allowed: MethodSet,
    context: Context<'_>,
) {
    rules.iter().for_each(|rule| names(rule, allowed, context));
    if let (Some((Default_::Role(role), value)), Some(known)) = (default, context.known) {
        warn_of_unknown(&Who::Role(role.clone()), value, known);
    }
    let default = default.map_or(&Default_::Deny, |(default, _)| default);
    reach(rules, compiled, default, allowed);
}

/// Whom a rule names, and whether they can come.
fn names(rule: &WrittenRule<'_>, allowed: MethodSet, context: Context<'_>) {
    for (who, value) in rule.who.iter().chain(&rule.unless_who) {
        if let Some(known) = context.known {
            warn_of_unknown(who, value, known);
        }
    }
    for (verb, value) in rule.verbs.iter().flatten().chain(&rule.unless_verbs) {
        if matches!(*verb, Verb::CONNECT | Verb::TRACE) {
            value.warning(format!("{verb} never reaches an application"), "the gate answers it itself; leave it out");
        }
    }
    match rule.effect {
        Effect::Allow => allow(rule, allowed),
        Effect::Deny => deny(rule),
    }
}

fn allow(rule: &WrittenRule<'_>, allowed: MethodSet) {
    let effective = allowed.and(rule.auth.as_ref().map_or(MethodSet::ALL, |(auth, _)| *auth));
    if let Some((_, value)) = &rule.mfa {
        let help = "it refuses everybody with second-factor-required: this version knows no second factors yet";
        value.warning("nobody can meet `mfa`", help);
    }
    for (who, value) in &rule.who {
        let comes_by = who.comes_by();
        if comes_by.and(effective).is_empty() && !effective.is_empty() {
            value.warning(
                format!("{who} can only come by {comes_by}, and here that is not allowed"),
                format!("allowed are: {effective}"),
            );
        } else if *who == Who::Anyone && !effective.contains(Method::Unauthenticated) {
            value.warning(
                "`anyone` means everybody who signed in here",
                "strangers come in only where `methods` has \"unauthenticated\" too, and the system policy permits it",
            );
        }
    }
}

fn deny(rule: &WrittenRule<'_>) {
    let Some((_, value)) = rule.unless_who.first() else { return };
    let spared = |(who, _): &(Who, _)| {
        let same = rule.unless_who.iter().any(|(other, _)| other == who);
        let signed_in = rule.unless_who.iter().any(|(other, _)| *other == Who::SignedIn);
        same || (signed_in && matches!(who, Who::User(_) | Who::Service(_) | Who::Token(_)))
    };
    if !rule.who.is_empty() && rule.who.iter().all(spared) {
        value.warning("this deny spares everybody it names", "it never holds");
    }
}

fn warn_of_unknown(who: &Who, value: &Value<'_>, known: &Known) {
    if let Some((message, help)) = unknown(who, known) {
        value.warning(message, help);
    }
}

/// What to say of somebody who is not there.
pub(super) fn unknown(who: &Who, known: &Known) -> Option<(String, String)> {
    let (kind, name, names) = match who {
        Who::Anyone | Who::SignedIn => return None,
        Who::Role(name) => ("role", name, &known.roles),
        Who::User(name) => ("user", name, &known.users),
        Who::Service(name) => ("service", name, &known.services),
        Who::Token(id) => {
            let missing = !known.tokens.contains(&**id);
            let help = "nobody can meet this; see `portcullis token list`".to_owned();
            return missing.then(|| (format!("there is no token `{id}`"), help));
        }
    };
    if names.contains(name) {
        return None;
    }
    let help = match nearest(name.as_str(), names.iter().map(Name::as_str)) {
        Some(meant) => format!("nobody can meet this; did you mean `{kind}:{meant}`?"),
        None => format!("nobody can meet this until there is: `portcullis {kind} add {name}`"),
    };
    Some((format!("there is no {kind} `{name}`"), help))
}

/// Rules that decide nothing, because others always do.
fn reach(written: &[WrittenRule<'_>], rules: &Rules, default: &Default_, allowed: MethodSet) {
    let mut verbs = verbs_told_apart(rules.iter().flat_map(Rule::named_verbs));
    verbs.push(unnamed_verb());
    let depth = depth(&rules.enforced.allow).max(depth(&rules.enforced.deny));
    let shut = rules.rules.iter().position(shuts);
    for (number, (written, rule)) in written.iter().zip(&rules.rules).enumerate() {
        let Some((_, value)) = written.paths.first() else { continue };
        if rule.reports {
            continue;
        }
        if Some(number) == shut {
            value.warning(
                "this deny shadows everything: nobody reaches anything here",
                "is that meant? then `enabled = false` in [app] is simpler",
            );
        }
        if rule.effect == Effect::Deny {
            continue;
        }
        let Found { decides, denied, instead } = found(number, rule, &rules.enforced, depth, &rules.rules, &verbs);
        let lines = |numbers: &BTreeSet<usize>| {
            let lines: Vec<_> = numbers.iter().map(|&number| rules.rules[number].id().line).collect();
            format!("{} {}", if lines.len() == 1 { "line" } else { "lines" }, list(&lines))
        };
        if let Some(opener) = left_open(rule, rules, default, allowed, &verbs) {
            let named = list(rule.verbs.as_deref().unwrap_or_default());
            let path = rule.paths.first().map(ToString::to_string).unwrap_or_default();
            value.warning(
                format!("for other methods than {named} {opener} decides here, and lets in more"),
                format!(
                    "nothing else at all? then: [[deny]] path = \"{path}\", unless_methods = [\"{}\"]",
                    named.replace(", ", "\", \"")
                ),
            );
        }
        if !decides {
            let help = "it can go, unless one of those was meant to be narrower";
            let (lines, are) = (lines(&instead), if instead.len() == 1 { "is" } else { "are" });
            value.warning(format!("this allow never decides: {lines} {are} always more specific"), help);
        } else if !denied.is_empty() && shut.is_none() {
            let help = "it can go, unless the deny was meant to spare somebody (`unless_who`)";
            value.warning(format!("nobody gets this far: the deny of {} holds for everybody", lines(&denied)), help);
        }
    }
}

/// What decides in the place of an allow about some methods when the others are asked for, if it is more open: whoever
/// writes `methods = ["GET"]` beside a role hardly means that everybody may POST.
fn left_open(rule: &Rule, rules: &Rules, default: &Default_, allowed: MethodSet, verbs: &[Verb]) -> Option<String> {
    rule.verbs.as_ref()?;
    let tries = &rules.enforced;
    let strangers = allowed.contains(Method::Unauthenticated);
    let open = |who: &[Who]| match who {
        who if who.contains(&Who::Anyone) => 1 + u8::from(strangers),
        who if who.contains(&Who::SignedIn) => 1,
        _ => 0,
    };
    let own = open(&rule.who);
    let is_more = |openness: u8, from_anywhere: bool| {
        openness > own || (openness > 0 && openness == own && from_anywhere && !rule.from.is_empty())
    };
    for pattern in rule.patterns() {
        let witness: String = witnesses(pattern, 0).last()?;
        for verb in verbs.iter().filter(|verb| super::is_served(verb)) {
            let asked = AskedVerb::new(verb);
            if denied_to_all(&tries.deny, &rules.rules, &witness, asked).is_some() {
                continue;
            }
            let decider = tries.allow.walk(Path::plain(&witness), |leaf| match leaf.verbs.cover(asked) {
                true => ControlFlow::Break(&rules.rules[leaf.rule]),
                false => ControlFlow::Continue(()),
            });
            let opener = match decider {
                // Whoever wrote another allow for the same path has thought of its methods.
                ControlFlow::Break(other) if other.patterns().any(|same| same == pattern) => None,
                ControlFlow::Break(other) => {
                    is_more(open(&other.who), other.from.is_empty()).then(|| format!("line {}", other.id().line))
                }
                ControlFlow::Continue(()) => {
                    let openness = match default {
                        Default_::Anyone => 1 + u8::from(strangers),
                        Default_::SignedIn => 1,
                        Default_::Deny | Default_::Role(_) => 0,
                    };
                    is_more(openness, true).then(|| format!("the default, {default},"))
                }
            };
            if opener.is_some() {
                return opener;
            }
        }
    }
    None
}

/// A deny that holds for everybody, whatever they ask.
fn shuts(rule: &Rule) -> bool {
    let everywhere = |pattern: &Pattern| pattern.is_below() && pattern.segments().is_empty();
    unconditional(rule) && rule.verbs.is_none() && rule.unless_verbs.is_empty() && rule.patterns().any(everywhere)
}

fn unconditional(rule: &Rule) -> bool {
    rule.effect == Effect::Deny
        && !rule.reports
        && rule.who.is_empty()
        && rule.unless_who.is_empty()
        && rule.auth.is_none()
        && rule.from.is_empty()
}

/// A deny that holds for everybody who asks for a path like this.
fn denied_to_all(deny: &Trie, rules: &[Rule], witness: &str, asked: AskedVerb<'_>) -> Option<usize> {
    let holds = |leaf: &Leaf| leaf.verbs.cover(asked) && unconditional(&rules[leaf.rule]);
    deny.walk(
        Path::plain(witness),
        |leaf| if holds(leaf) { ControlFlow::Break(leaf.rule) } else { ControlFlow::Continue(()) },
    )
    .break_value()
}

/// What was found out about an allow.
struct Found {
    /// Whether it decides anything.
    decides: bool,
    /// The denies that hold for everybody wherever it decides; empty if it is reached somewhere.
    denied: BTreeSet<usize>,
    /// The allows that decide instead.
    instead: BTreeSet<usize>,
}

fn found(number: usize, rule: &Rule, tries: &Tries, depth: usize, rules: &[Rule], verbs: &[Verb]) -> Found {
    let mut decides = false;
    let (mut denied, mut instead) = (BTreeSet::new(), BTreeSet::new());
    for witness in rule.patterns().flat_map(|pattern| witnesses(pattern, depth)) {
        for verb in verbs {
            let asked = AskedVerb::new(verb);
            let (mut covers, mut decider) = (false, None);
            let _ = tries.allow.walk::<()>(Path::plain(&witness), |leaf| {
                if leaf.verbs.cover(asked) {
                    covers |= leaf.rule == number;
                    decider.get_or_insert(leaf.rule);
                }
                ControlFlow::Continue(())
            });
            match decider {
                Some(decider) if decider == number => decides = true,
                Some(decider) if covers => {
                    instead.insert(decider);
                    continue;
                }
                _ => continue,
            }
            match denied_to_all(&tries.deny, rules, &witness, asked) {
                Some(deny) => drop(denied.insert(deny)),
                None => return Found { decides, denied: BTreeSet::new(), instead },
            }
        }
    }
    Found { decides, denied, instead }
}

/// Paths that stand for all that the pattern matches.
fn witnesses(pattern: &Pattern, depth: usize) -> impl Iterator<Item = String> {
    let segment = |segment: &Segment| match segment {
        Segment::Literal(text) => format!("/{text}"),
        Segment::Any => UNNAMED.to_owned(),
    };
    let start: String = pattern.segments().iter().map(segment).collect();
    let below = if pattern.is_below() { depth.saturating_sub(pattern.segments().len()) + 1 } else { 0 };
    (0..=below).map(move |more| start.clone() + &UNNAMED.repeat(more))
}

/// The longest pattern, segments.
fn depth(trie: &Trie) -> usize {
    let nodes = trie.nodes();
    let mut depth = vec![0; nodes.len()];
    // Children come after their parents.
    for (number, node) in nodes.iter().enumerate() {
        for child in node.literals.iter().map(|(_, child)| *child).chain(node.any) {
            depth[child] = depth[number] + 1;
        }
    }
    depth.into_iter().max().unwrap_or(0)
}
