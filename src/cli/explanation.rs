//! A verdict as `explain` shows it: the answer first, then what was asked, every rule, and the lines that decided.

use super::{
    out::{Cell, Out, Style},
    quote::{Quote, Texts},
};
use crate::{model::Reason, policy::Explanation};

/// Shows a verdict to people.
pub(super) fn show(verdict: &Explanation, texts: &Texts, out: &mut Out) -> std::io::Result<()> {
    out.line(headline(verdict, out))?;
    out.line("")?;
    let elsewhere = if verdict.elsewhere { ", runs elsewhere" } else { "" };
    let or_none = |words: &[String]| if words.is_empty() { "none".to_owned() } else { words.join(", ") };
    let methods: Vec<String> = verdict.methods.iter().map(ToString::to_string).collect();
    out.facts(&[
        ("application", format!("{}  {}{elsewhere}", verdict.application, verdict.file)),
        ("path", if verdict.path_info.is_empty() { "/".to_owned() } else { verdict.path_info.clone() }),
        ("methods", or_none(&methods)),
        ("roles", or_none(&verdict.roles)),
    ])?;
    if !verdict.rules.is_empty() {
        out.line("")?;
        rules(verdict, out)?;
    }
    out.line("")?;
    match quote(verdict, texts) {
        Some(quote) => {
            let place = out.paint(Style::Bold, quote.place());
            out.line(format_args!("decided by {}", place_of(verdict, &place)))?;
            quote.show("  ", out)?;
        }
        None => out.line(format_args!("decided by {}", out.paint(Style::Plain, &verdict.decided_by)))?,
    }
    if !verdict.hints.is_empty() {
        out.line("")?;
    }
    for hint in &verdict.hints {
        out.line(out.paint(Style::Plain, hint))?;
    }
    if let Some(would) = &verdict.would_refuse {
        let what = out.paint(Style::Warn, format_args!("would be {} {}", would.status, would.reason));
        out.line("")?;
        out.line(format_args!("{what}, were rules enforced that only report: {}", would.decided_by))?;
        if let Some(quote) = would.rule.as_deref().and_then(|id| texts.rule(id)) {
            quote.show("  ", out)?;
        }
    }
    Ok(())
}

/// `refused: 403 not-allowed-by-rule  GET /notes/admin  as ann (password) from 10.0.0.5`
fn headline(verdict: &Explanation, out: &Out) -> String {
    let answer = match verdict.reason {
        None => out.paint(Style::Good, "allowed"),
        Some(reason) if verdict.status == 401 => out.paint(Style::Warn, format_args!("sign in: 401 {reason}")),
        Some(reason) => out.paint(Style::Bad, format_args!("refused: {} {reason}", verdict.status)),
    };
    let request = out.paint(Style::Bold, format_args!("{} {}", verdict.method, verdict.path));
    format!("{answer}  {request}  as {} from {}", verdict.principal, verdict.from)
}

fn rules(verdict: &Explanation, out: &mut Out) -> std::io::Result<()> {
    let decided = |rule: &str| verdict.rule.as_deref() == Some(rule);
    let style = if verdict.reason.is_none() { Style::Good } else { Style::Bad };
    let rows: Vec<_> = verdict
        .rules
        .iter()
        .map(|step| match decided(&step.rule) {
            true => [
                Cell::new("+", style),
                Cell::new(&step.rule, Style::Bold),
                Cell::new(&step.text, Style::Bold),
                Cell::new(&step.why, style),
            ],
            false => [
                Cell::new(if step.decides { "+" } else { "x" }, Style::Dim),
                Cell::from(&step.rule),
                Cell::from(&step.text),
                Cell::new(&step.why, Style::Dim),
            ],
        })
        .collect();
    out.table(["", "LINE", "RULE", "WHY"], &rows)
}

/// The lines that decided, if it was not the token or the routes.
pub(super) fn quote<'a>(verdict: &Explanation, texts: &'a Texts) -> Option<Quote<'a>> {
    if let Some(rule) = &verdict.rule {
        return texts.rule(rule);
    }
    let is = |reason: Reason| verdict.reason == Some(reason.id());
    let key = match verdict.reason {
        None => "default",
        _ if is(Reason::DeniedByDefault) || is(Reason::CredentialsRequired) => "default",
        _ if is(Reason::MethodNotAllowed) || is(Reason::MethodNotPermitted) => "methods",
        _ if is(Reason::ApplicationDisabled) => "enabled",
        _ => return None,
    };
    texts.key(&verdict.file, key)
}

/// Where the rule is quoted, its place is enough; otherwise what it was stands beside.
fn place_of(verdict: &Explanation, place: &str) -> String {
    if verdict.rule.is_some() { place.to_owned() } else { format!("{place}  {}", verdict.decided_by) }
}
