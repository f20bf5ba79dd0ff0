//! What a refusal looks like: a page, JSON or text. No scripts, nothing from elsewhere, light and dark.

use std::fmt::Write as _;

use http::StatusCode;

use super::Taste;
use crate::model::Reason;

/// What there is to show.
pub(super) struct Shown<'a> {
    pub status: StatusCode,
    /// One sentence.
    pub says: &'a str,
    pub reason: Reason,
    pub request_id: &'a str,
    /// In development: why the application does not start.
    pub traceback: Option<&'a str>,
}

/// Content type and body.
pub(super) fn render(shown: &Shown<'_>, taste: Taste) -> (&'static str, String) {
    match taste {
        Taste::Html => ("text/html; charset=utf-8", page(shown)),
        Taste::Json => ("application/json", json(shown)),
        Taste::Text => ("text/plain; charset=utf-8", text(shown)),
    }
}

fn title(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("Refused")
}

fn text(shown: &Shown<'_>) -> String {
    let Shown { status, says, reason, request_id, traceback } = shown;
    let traceback = traceback.map(|traceback| format!("\n{}\n\n", visible(traceback))).unwrap_or_default();
    let (code, title) = (status.as_u16(), title(*status));
    format!("{code} {title}\n{says}\n{traceback}reason: {reason}\nrequest: {request_id}\n")
}

fn json(shown: &Shown<'_>) -> String {
    let mut value = serde_json::json!({
        "status": shown.status.as_u16(),
        "error": shown.says,
        "reason": shown.reason.id(),
        "request": shown.request_id,
    });
    if let Some(traceback) = shown.traceback {
        value["traceback"] = traceback.into();
    }
    value.to_string() + "\n"
}

const STYLE: &str = "\
:root { color-scheme: light dark; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; font: 1rem/1.6 system-ui, sans-serif;
  background: light-dark(#f5f5f2, #191a1c); color: light-dark(#222, #ddd); }
main { max-width: 30rem; padding: 2rem; }
h1 { font-size: 1.5rem; font-weight: 600; margin: 0 0 .5rem; }
p { margin: 0 0 1.5rem; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .2rem 1rem; margin: 0; padding-top: 1rem; font-size: .85rem;
  border-top: 1px solid light-dark(#d8d8d2, #36383c); color: light-dark(#666, #999); }
dd { margin: 0; font-family: ui-monospace, monospace; }
";

/// Besides, for a page with a traceback: it is as wide as it needs to be, and begins at the top.
const STYLE_OF_TRACEBACK: &str = "\
body { place-items: start center; grid-template-columns: minmax(0, 1fr); }
main { box-sizing: border-box; width: 100%; max-width: 64rem; padding: 3rem 2rem; }
pre { margin: 0 0 1.5rem; padding: 1rem 1.25rem; overflow-x: auto; border-radius: .4rem; tab-size: 4;
  font: .85rem/1.55 ui-monospace, monospace; background: light-dark(#fff, #222427);
  border: 1px solid light-dark(#d8d8d2, #36383c); }
pre b { color: light-dark(#a11, #ff8a80); }
";

fn page(shown: &Shown<'_>) -> String {
    let Shown { status, says, reason, request_id, traceback } = shown;
    let (code, title) = (status.as_u16(), title(*status));
    let style = if traceback.is_some() { format!("{STYLE}{STYLE_OF_TRACEBACK}") } else { STYLE.to_owned() };
    let traceback = traceback.map(|traceback| format!("{}\n", block(traceback))).unwrap_or_default();
    format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{code} {title}</title>
<style>
{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p>{says}</p>
{traceback}<dl><dt>Status</dt><dd>{code}</dd><dt>Reason</dt><dd>{reason}</dd><dt>Request</dt><dd>{request_id}</dd></dl>
</main>
</body>
</html>
"#
    )
}

/// The traceback, its last paragraph emphasised: that is the one to read first.
fn block(traceback: &str) -> String {
    let traceback = escaped(&visible(traceback.trim_end()));
    // What comes after the last indented line is the exception with all its lines.
    let mut end = 0;
    let mut begins = 0;
    for line in traceback.split_inclusive('\n') {
        end += line.len();
        if line.starts_with(' ') {
            begins = end;
        }
    }
    let (way, exception) = traceback.split_at(if begins < end { begins } else { 0 });
    format!("<pre tabindex=\"0\">{way}<b>{exception}</b></pre>")
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 16);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Control characters shown, not obeyed, in a browser as in a terminal; and what would reorder the source.
fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let reorders = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if (c.is_control() && c != '\n' && c != '\t') || reorders {
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceback_cannot_become_markup_nor_steer_a_terminal() {
        let traceback =
            "Traceback:\n  File \"<string>\", line 1\nValueError: </pre><script>alert('1')</script>&\x1b[2J\u{202e}";
        let (status, says, reason, request_id) =
            (StatusCode::SERVICE_UNAVAILABLE, "It does not start.", Reason::ApplicationUnavailable, "r");
        let shown = Shown { status, says, reason, request_id, traceback: Some(traceback) };
        let (_, html) = render(&shown, Taste::Html);
        assert!(!html.contains("<script") && html.matches("</pre>").count() == 1, "{html}");
        assert!(html.contains("<b>ValueError: &lt;/pre&gt;&lt;script&gt;alert(&#39;1&#39;)"), "{html}");
        assert!(html.contains("&amp;\\u{1b}[2J\\u{202e}</b>"), "{html}");
        let (_, text) = render(&shown, Taste::Text);
        assert!(text.contains("\\u{1b}[2J") && !text.contains('\x1b'), "{text}");
        let (_, json) = render(&shown, Taste::Json);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["traceback"], traceback);
    }

    #[test]
    fn without_a_traceback_nothing_of_it_is_there() {
        let (status, says, reason, request_id) =
            (StatusCode::SERVICE_UNAVAILABLE, "Not now.", Reason::ApplicationUnavailable, "r");
        let shown = Shown { status, says, reason, request_id, traceback: None };
        assert!(!page(&shown).contains("<pre") && !json(&shown).contains("traceback"));
        assert_eq!(text(&shown), "503 Service Unavailable\nNot now.\nreason: application-unavailable\nrequest: r\n");
    }
}
