//! `audit`.

use serde_json::{Value, json};

use super::{
    Result,
    args::{AuditCommand, AuditWhich},
    context::Context,
    out::{Cell, Out, Style},
    users::or_dash,
};
use crate::{
    clock::Timestamp,
    control::{AuditFilter, AuditOutcome, StoredAudit, audit},
};

/// `portcullis audit …`
pub(super) async fn audit(context: &mut Context, command: AuditCommand, out: &mut Out) -> Result {
    let (store, now) = (context.store().await?, context.clock.now());
    match command {
        AuditCommand::List(args) => {
            let records = audit::newest(&store, &filter(args.which, now), args.limit).await?;
            if out.json {
                return Ok(out.value(&records.iter().map(record_json).collect::<Vec<_>>())?);
            }
            Ok(table(&records, out)?)
        }
        AuditCommand::Export(which) => {
            let filter = filter(which, now);
            let mut after = 0;
            loop {
                let page = audit::page(&store, &filter, after).await?;
                let Some(last) = page.last() else { return Ok(()) };
                after = last.sequence;
                page.iter().try_for_each(|record| out.json_line(&record_json(record)))?;
            }
        }
    }
}

fn filter(which: AuditWhich, now: Timestamp) -> AuditFilter {
    AuditFilter { event: which.event, since: which.since.map(|since| since.at(now)) }
}

fn table(records: &[StoredAudit], out: &mut Out) -> std::io::Result<()> {
    let rows: Vec<_> = records.iter().map(row).collect();
    out.table(["TIME", "EVENT", "ACTOR", "TARGET", "OUTCOME", "FROM", "WHAT"], &rows)
}

fn row(stored: &StoredAudit) -> [Cell; 7] {
    let record = &stored.record;
    let style = match record.outcome {
        AuditOutcome::Ok => Style::Good,
        AuditOutcome::Refused => Style::Warn,
        AuditOutcome::Failed => Style::Bad,
    };
    let text = |text: &Option<String>| or_dash(text.as_deref().unwrap_or_default());
    let what = [record.reason.as_deref(), record.rule.as_deref(), record.application.as_deref()];
    let details = record.details.as_ref().map(brief).unwrap_or_default();
    let what = what.into_iter().flatten().chain((!details.is_empty()).then_some(details.as_str()));
    [
        Cell::new(record.at.rfc3339(), Style::Dim),
        Cell::new(&record.event, Style::Bold),
        Cell::from(&record.actor),
        Cell::from(text(&record.target)),
        Cell::new(record.outcome, style),
        Cell::from(text(&record.address)),
        Cell::from(what.collect::<Vec<_>>().join(" ")),
    ]
}

/// `role=sales enabled=true`: empty values say nothing and are left out.
fn brief(details: &Value) -> String {
    let Value::Object(fields) = details else { return details.to_string() };
    let words = fields.iter().filter_map(|(name, value)| match value {
        Value::Null => None,
        Value::String(text) if text.is_empty() => None,
        Value::String(text) => Some(format!("{name}={text}")),
        Value::Array(items) if items.is_empty() => None,
        Value::Array(items) => {
            let items = items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned));
            Some(format!("{name}={}", items.collect::<Vec<_>>().join(",")))
        }
        other => Some(format!("{name}={other}")),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn record_json(stored: &StoredAudit) -> Value {
    let record = &stored.record;
    json!({
        "sequence": stored.sequence,
        "time": record.at.rfc3339(),
        "event": record.event,
        "actor": record.actor,
        "target": record.target,
        "application": record.application,
        "address": record.address,
        "outcome": record.outcome.word(),
        "reason": record.reason,
        "rule": record.rule,
        "credential": record.credential,
        "details": record.details,
    })
}
