//! `explain --request`: what happened to a request, from the access log, and what would come of it now.
//!
//! The log has what the gateway knew then; files and store may have changed since. So the two answers are told apart by
//! name, and never mixed. What was refused before anybody knew who asked cannot be asked again: it is told as it was
//! logged.

use std::{io, net::IpAddr};

use serde_json::{Value, json};

use super::{
    Failure, Result,
    args::ExplainArgs,
    context::Context,
    explain::{self, Judged},
    explanation,
    log_files::LogFiles,
    out::{Out, Style},
    quote::Texts,
    status::count,
};
use crate::{
    model::{Method, Name, Reason},
    policy::Explanation,
};

/// One line of the access log.
struct Logged(Value);

/// How now compares with then.
enum Now {
    /// It cannot be asked again, and why.
    Untold(String),
    /// Refused now, before any rule is asked.
    Before { reason: &'static str, why: String },
    /// Judged now.
    Verdict { explanation: Box<Explanation>, rejected: Option<&'static str> },
}

/// `portcullis explain --request ID`
pub(super) async fn replay(context: &mut Context, id: &str, out: &mut Out) -> Result {
    let logged = find(context, id)?;
    let now = match logged.cannot_be_asked_again() {
        Some(why) => Now::Untold(why),
        None => judge(context, &logged).await?,
    };
    let same = now.same_as(&logged);
    if out.json {
        let (explanation, rejected, why) = match &now {
            Now::Untold(why) => (Value::Null, Value::Null, json!(why)),
            Now::Before { reason, why } => {
                (json!({ "allowed": false, "reason": reason, "why": why }), Value::Null, Value::Null)
            }
            Now::Verdict { explanation, rejected } => {
                (serde_json::to_value(explanation).map_err(io::Error::from)?, json!(rejected), Value::Null)
            }
        };
        let value =
            json!({ "logged": logged.0, "now": explanation, "rejected": rejected, "not_asked": why, "same": same });
        return Ok(out.value(&value)?);
    }
    let texts = Texts::of(&context.config);
    then(&logged, &texts, out)?;
    out.line("")?;
    Ok(show_now(&logged, &now, same, &texts, out)?)
}

/// The line of a request, in the newest file that has it.
fn find(context: &Context, id: &str) -> Result<Logged> {
    let files = LogFiles::new(context.config.logs.directory.join("access.log"));
    let failed = |error: io::Error| Failure::Failed(format!("{} cannot be read: {error}", files.path().display()));
    let wanted = format!("\"request\":{}", Value::from(id));
    let mut parts = files.open().map_err(failed)?;
    for part in &mut parts {
        while let Some(line) = part.line().map_err(failed)? {
            if memchr::memmem::find(&line, wanted.as_bytes()).is_none() {
                continue;
            }
            // A path may hold the same words.
            let logged = serde_json::from_slice::<Value>(&line).ok().filter(|line| line["request"] == id);
            if let Some(logged) = logged {
                return Ok(Logged(logged));
            }
        }
    }
    let older = match parts.len().saturating_sub(1) {
        0 => String::new(),
        older => format!(" nor in {} before it", count(older, "file")),
    };
    Err(Failure::Failed(format!(
        "there is no request `{}` in {}{older}: its line is written when its answer has been sent, and old files are \
         removed; `portcullis audit list --event refusal` has every refusal",
        id.escape_debug(),
        files.path().display()
    )))
}

impl Logged {
    fn word(&self, field: &str) -> Option<&str> {
        self.0[field].as_str()
    }

    fn allowed(&self) -> bool {
        // What went wrong after a permit was let in by the rules all the same.
        self.word("decision") == Some("allowed") || self.word("reason").is_some_and(is_after_the_rules)
    }

    /// Whom it was judged for, as people say it.
    fn who(&self) -> String {
        let by = self.word("authenticated").map(|method| format!(" ({method})")).unwrap_or_default();
        match (self.word("principal"), by.as_str()) {
            (Some(name), by) => format!("{name}{by}"),
            (None, "") if self.word("reason").is_some_and(is_before_the_question) => {
                "was not asked who it was".to_owned()
            }
            (None, "") => "anonymous".to_owned(),
            (None, by) => format!("somebody who was not verified{by}"),
        }
    }

    /// Why the log does not say enough to ask again.
    fn cannot_be_asked_again(&self) -> Option<String> {
        let reason = self.word("reason").unwrap_or_default();
        let why = match reason {
            _ if self.word("decision") == Some("none") => {
                "it never came to a decision: the client left before, or asked about the server itself"
            }
            "bad-request" | "bad-path" | "bad-host" | "host-not-served" | "http-method-refused" | "request-timeout" => {
                "it was refused for what it was, whoever sent it, before any application was looked for"
            }
            "ambiguous-credentials" | "credentials-rejected" => {
                "its credentials were not accepted, so no rule was asked; the log does not keep credentials"
            }
            "sign-in-busy" | "store-unavailable" | "audit-unavailable" => {
                "the gate could not find out who asked, so no rule was asked"
            }
            "application-elsewhere" | "application-here" => {
                "it was asked for at the wrong door: what runs here is not asked about by proxies, and what runs \
                 elsewhere is not served here"
            }
            "origin-not-allowed" => {
                "it was refused for the origin of the page it came from, which the log does not keep"
            }
            "rate-limited" => "it was refused for how often somebody asked, which is over",
            "method-not-allowed" if self.word("principal").is_none() => {
                "its authentication method is not allowed there, so its credentials were not looked at and no rule was asked"
            }
            _ => return None,
        };
        Some(why.to_owned())
    }

    /// What to ask now.
    fn question(&self) -> Option<ExplainArgs> {
        let from: IpAddr = self.word("client")?.parse().ok()?;
        let who = self.word("credential").or(self.word("principal")).map(str::to_owned);
        let method = who.as_ref().and_then(|_| Method::from_word(self.word("authenticated")?));
        Some(ExplainArgs {
            http_method: self.word("method").map(str::to_owned),
            path: Some(encoded(self.word("path")?)),
            request: None,
            who,
            roles: None,
            method,
            from,
        })
    }
}

/// Refusals of what comes before anybody is asked who they are.
fn is_before_the_question(reason: &str) -> bool {
    matches!(
        reason,
        "bad-request"
            | "bad-path"
            | "bad-host"
            | "host-not-served"
            | "http-method-refused"
            | "request-timeout"
            | "no-application"
            | "application-disabled"
            | "application-elsewhere"
            | "application-here"
            | "origin-not-allowed"
            | "method-not-permitted"
            | "method-not-allowed"
            | "audit-unavailable"
    )
}

/// Refusals of what comes after a permit: the rules had let it in.
fn is_after_the_rules(reason: &str) -> bool {
    matches!(
        reason,
        "no-file"
            | "body-too-large"
            | "application-unavailable"
            | "queue-full"
            | "queue-timeout"
            | "application-timeout"
            | "worker-lost"
            | "application-error"
    )
}

/// The log has decoded paths; nothing in one of them may be read as an escape or a query now.
fn encoded(path: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(byte);
    path.bytes().map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

async fn judge(context: &mut Context, logged: &Logged) -> Result<Now> {
    let Some(question) = logged.question() else {
        return Ok(Now::Untold("its line in the log is of another version".to_owned()));
    };
    if let Some(who) = question.who.as_deref()
        && !exists(context, who).await?
    {
        return Ok(Now::Before {
            reason: Reason::CredentialsRejected.id(),
            why: format!("there is no {who} any more"),
        });
    }
    Ok(match explain::judge(context, &question).await {
        Ok(Judged::Before { reason, why }) => Now::Before { reason: reason.id(), why },
        Ok(Judged::Verdict { explanation, rejected }) => Now::Verdict { explanation, rejected },
        // What happened then can be told all the same.
        Err(Failure::Files(_)) => Now::Untold("the files have mistakes now: see `portcullis check`".to_owned()),
        Err(failure) => return Err(failure),
    })
}

/// Whether who asked then is still in the store: a user or service by name, a token by its public id.
async fn exists(context: &mut Context, who: &str) -> Result<bool> {
    let store = context.store().await?;
    if store.token_by_id(who).await?.is_some() {
        return Ok(true);
    }
    let Ok(name) = Name::parse(who) else { return Ok(false) };
    Ok(store.user(&name).await?.is_some() || store.service(&name).await?.is_some())
}

impl Now {
    /// Whether the answer is the one that was logged; nothing where there is none to compare.
    fn same_as(&self, logged: &Logged) -> Option<bool> {
        let reason = logged.word("reason").filter(|reason| !is_after_the_rules(reason));
        match self {
            Self::Untold(_) => None,
            Self::Before { reason: now, .. } => Some(reason == Some(*now)),
            Self::Verdict { rejected: Some(_), .. } => Some(false),
            Self::Verdict { explanation, .. } => {
                let would = explanation.would_refuse.as_ref().map(|would| would.reason);
                Some(explanation.reason == reason && would == logged.word("would_refuse"))
            }
        }
    }
}

/// What was logged.
fn then(logged: &Logged, texts: &Texts, out: &mut Out) -> io::Result<()> {
    let word = |field| logged.word(field).unwrap_or_default();
    let answer = match (logged.word("reason"), logged.allowed()) {
        (None, true) => out.paint(Style::Good, "allowed"),
        (None, false) => out.paint(Style::Dim, "no decision"),
        (Some(reason), true) => out.paint(Style::Warn, format_args!("allowed by the rules, then {reason}")),
        (Some(reason), false) => out.paint(Style::Bad, format_args!("refused: {} {reason}", logged.0["status"])),
    };
    let request = out.paint(Style::Bold, format_args!("{} {}", word("method"), word("path")));
    out.line(format_args!("then  {answer}  {request}"))?;
    out.line("")?;
    out.facts(&[
        ("request", word("request").to_owned()),
        ("time", word("time").to_owned()),
        ("client", word("client").to_owned()),
        ("asked by", word("asked_by").to_owned()),
        ("protocol", word("protocol").to_owned()),
        ("status", logged.0["status"].to_string()),
        ("application", word("application").to_owned()),
        ("principal", logged.who()),
        ("token", word("credential").to_owned()),
        ("reason", word("reason").to_owned()),
        ("rule", word("rule").to_owned()),
        ("would refuse", [word("would_refuse"), word("would_refuse_rule")].join("  ").trim().to_owned()),
    ])?;
    for rule in ["rule", "would_refuse_rule"].into_iter().filter_map(|field| logged.word(field)) {
        if let Some(quote) = texts.rule(rule) {
            out.line("")?;
            out.line(format_args!("{} as the file is now", out.paint(Style::Bold, quote.place())))?;
            quote.show("  ", out)?;
        }
    }
    Ok(())
}

fn show_now(logged: &Logged, now: &Now, same: Option<bool>, texts: &Texts, out: &mut Out) -> io::Result<()> {
    let differs = out.paint(Style::Warn, "different");
    match now {
        Now::Untold(why) => out.line(format_args!("now   not asked again: {why}")),
        Now::Before { reason, why } => {
            let same = if same == Some(true) { "now   the same" } else { &format!("now   {differs}") };
            let (reason, why) = (out.paint(Style::Bad, reason), out.paint(Style::Plain, why));
            out.line(format_args!("{same}: {reason}: {why}"))
        }
        Now::Verdict { rejected: Some(why), .. } => {
            let rejected = out.paint(Style::Bad, "401 credentials-rejected");
            out.line(format_args!("now   {differs}: {rejected}: {why}"))
        }
        Now::Verdict { explanation, .. } if same == Some(true) => {
            let rule = explanation.rule.as_deref();
            if rule == logged.word("rule") {
                return out
                    .line(format_args!("now   the same, by {}", out.paint(Style::Plain, &explanation.decided_by)));
            }
            let (then, now) = (logged.word("rule").unwrap_or("no rule"), rule.unwrap_or("no rule"));
            out.line(format_args!("now   the same answer, by another line: then {then}, now {now}"))?;
            out.line("")?;
            explanation::show(explanation, texts, out)
        }
        Now::Verdict { explanation, .. } => {
            // Where no application was asked, the log does not know who it was.
            let unknown = matches!(logged.word("reason"), Some("no-application" | "application-disabled"));
            let whom = if unknown { ", for somebody who has not signed in" } else { "" };
            out.line(format_args!("now   {differs}: files or store have changed since; what they say now{whom}:"))?;
            out.line("")?;
            explanation::show(explanation, texts, out)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Target;

    #[test]
    fn a_logged_path_is_asked_for_again_byte_by_byte() {
        for path in ["/notes/100%", "/a b?c#d", "/café/;x=1", "/"] {
            assert_eq!(Target::on_paper(&encoded(path)).unwrap().path().as_str(), path);
        }
    }
}
