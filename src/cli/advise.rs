//! `advise`: what could be safer, and what to do about it.

use serde_json::json;

use super::{
    Failure, Result,
    args::AdviseArgs,
    context::Context,
    out::{Out, Style},
};
use crate::control::advice::{self, Advice};

/// `portcullis advise`
pub(super) async fn advise(context: &mut Context, args: &AdviseArgs, out: &mut Out) -> Result {
    let store = context.store().await?;
    let advice = advice::all(&context.config, &store, &context.clock).await??;
    if out.json {
        out.value(&json!({ "advice": advice }))?;
    } else {
        advice.iter().try_for_each(|advice| show(advice, out))?;
        let summary = match advice.len() {
            0 => out.paint(Style::Good, "nothing to advise"),
            1 => "1 piece of advice".to_owned(),
            number => format!("{number} pieces of advice, about {}", topics(&advice)),
        };
        out.line(summary)?;
    }
    if args.strict && !advice.is_empty() { Err(Failure::Told(1)) } else { Ok(()) }
}

fn show(advice: &Advice, out: &mut Out) -> std::io::Result<()> {
    let topic = out.paint(Style::Warn, format_args!("{}:", advice.topic));
    out.line(format_args!("{topic} {}", out.paint(Style::Bold, &advice.what)))?;
    let facts = [("at", advice.place.as_deref()), ("why", Some(&*advice.why)), ("do", Some(&*advice.action))];
    for (name, fact) in facts {
        let Some(fact) = fact else { continue };
        out.line(format_args!(
            "  {}  {}",
            out.paint(Style::Dim, format_args!("{name:<3}")),
            out.paint(Style::Plain, fact)
        ))?;
    }
    out.line("")
}

/// `policy (3), tokens (1)`
fn topics(advice: &[Advice]) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for advice in advice {
        match counts.iter_mut().find(|(topic, _)| *topic == advice.topic) {
            Some((_, count)) => *count += 1,
            None => counts.push((advice.topic, 1)),
        }
    }
    counts.iter().map(|(topic, number)| format!("{topic} ({number})")).collect::<Vec<_>>().join(", ")
}
