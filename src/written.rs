//! Files as people wrote them: every value with its place, every mistake with its line, all mistakes in one report.
//!
//! [`File::read`] parses TOML and hands a closure the root [`Table`]. The closure asks for the keys it knows; what it
//! never asked for is, when the table is dropped, an unknown key with "did you mean". A value of the wrong kind is
//! reported where it stands and reads as absent, so that reading goes on and the next mistake is found too.
//!
//! ```text
//! error: unknown key `metods` in [app]
//!   --> policies/notes.toml:6:1
//!    |
//!  6 | metods = ["password"]
//!    | ^^^^^^
//!    = help: did you mean `methods`?
//! ```

mod reader;
mod units;
mod values;

use std::{
    fmt::{self, Write as _},
    ops::Range,
    path::PathBuf,
    sync::Arc,
};

pub use reader::{File, Table, Value, nearest};
pub use units::show_duration;
pub use values::{absolute, environment, is_namespace, parse_network};

/// The text of a file, and how to understand it.
#[derive(Debug, Clone)]
pub struct Source {
    /// The file as the operator knows it.
    pub file: Arc<str>,
    /// Its text.
    pub text: String,
    /// The absolute, canonical directory that paths in it are relative to.
    pub base: PathBuf,
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, and somebody should know.
    Warning,
}

/// Something wrong in a file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The file as the operator knows it.
    pub file: Arc<str>,
    /// Line, from 1; 0 when it is about the file as a whole.
    pub line: u32,
    /// Column in characters, from 1; 0 when it is about the file as a whole.
    pub column: u32,
    /// Bytes of `source` that it is about.
    pub span: Range<usize>,
    /// The text of the file.
    pub source: Arc<str>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Problem {
    /// A problem with a place in a file.
    #[must_use]
    pub fn at(
        severity: Severity,
        file: &Arc<str>,
        source: &Arc<str>,
        span: Range<usize>,
        message: impl Into<String>,
    ) -> Self {
        let (line, column) = place(source, span.start);
        let (file, source) = (Arc::clone(file), Arc::clone(source));
        Self { severity, file, line, column, span, source, message: message.into(), help: None }
    }

    /// An error about a file as a whole: it cannot be read, it is too large.
    #[must_use]
    pub fn file(file: &str, message: impl Into<String>) -> Self {
        let severity = Severity::Error;
        let (file, source, message) = (file.into(), "".into(), message.into());
        Self { severity, file, line: 0, column: 0, span: 0..0, source, message, help: None }
    }

    /// The same with what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Whether the file cannot be used because of it.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// `policies/notes.toml:12:3`, or the file alone.
    fn position(&self) -> String {
        match self.line {
            0 => shown(&self.file),
            line => format!("{}:{line}:{}", shown(&self.file), self.column),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.position(), self.message)?;
        self.help.as_ref().map_or(Ok(()), |help| write!(f, " ({help})"))
    }
}

/// All problems with the lines they are about, for a terminal or a file, and how many there are.
#[must_use]
pub fn render(problems: &[Problem], color: bool) -> String {
    let paint = Paint(color);
    let mut out = String::new();
    for problem in problems {
        // Writing to a String cannot fail.
        let _ = render_one(&mut out, problem, paint);
    }
    let errors = problems.iter().filter(|problem| problem.is_error()).count();
    if problems.len() > 1 {
        let counts = [count(errors, "error"), count(problems.len() - errors, "warning")];
        out.push_str(&counts.into_iter().flatten().collect::<Vec<_>>().join(", "));
        out.push('\n');
    }
    out
}

/// A traceback may stand in a message, and with it whatever an application printed or raised.
fn harmless_lines(text: &str) -> String {
    text.lines().map(|line| line.chars().map(harmless).collect::<String>()).collect::<Vec<_>>().join("\n")
}

/// Characters of a line that are shown; the rest of a long one says nothing more.
const LINE_SHOWN: usize = 120;

fn render_one(out: &mut String, problem: &Problem, paint: Paint) -> fmt::Result {
    let (word, color) = match problem.severity {
        Severity::Error => ("error", RED),
        Severity::Warning => ("warning", YELLOW),
    };
    writeln!(out, "{}: {}", paint.with(color, word), paint.with(BOLD, &harmless_lines(&problem.message)))?;
    let number = if problem.line == 0 { String::new() } else { problem.line.to_string() };
    let margin = " ".repeat(number.len());
    let bar = paint.with(BLUE, "|");
    writeln!(out, " {margin}{} {}", paint.with(BLUE, "-->"), problem.position())?;
    if problem.line > 0 {
        let (line, from, to) = line_of(problem);
        writeln!(out, " {margin} {bar}\n {} {bar} {line}", paint.with(BLUE, &number))?;
        let marks = format!("{}{}", " ".repeat(from), "^".repeat(to.saturating_sub(from).max(1)));
        writeln!(out, " {margin} {bar} {}", paint.with(color, &marks))?;
    }
    if let Some(help) = &problem.help {
        writeln!(out, " {margin} {} {}", paint.with(BLUE, "= help:"), harmless_lines(help))?;
    }
    out.push('\n');
    Ok(())
}

/// The problem's first line as it may be shown, and the characters of it to mark.
fn line_of(problem: &Problem) -> (String, usize, usize) {
    let source = &*problem.source;
    let at = floor(source, problem.span.start);
    let start = source[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let end = source[at..].find('\n').map_or(source.len(), |newline| at + newline);
    let line = source[start..end].trim_end();
    let marked = floor(source, problem.span.end.min(start + line.len())).max(at);
    let (from, to) = (source[start..at].chars().count(), source[start..marked].chars().count());
    let skip = from.saturating_sub(LINE_SHOWN / 2);
    let text: String = line.chars().skip(skip).take(LINE_SHOWN).map(harmless).collect();
    (text, from - skip, (to - skip).min(LINE_SHOWN))
}

fn count(number: usize, word: &str) -> Option<String> {
    match number {
        0 => None,
        1 => Some(format!("1 {word}")),
        _ => Some(format!("{number} {word}s")),
    }
}

/// Line and column, both from 1, of a byte.
fn place(source: &str, at: usize) -> (u32, u32) {
    let before = &source[..floor(source, at)];
    let line = before.bytes().filter(|&byte| byte == b'\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line.try_into().unwrap_or(u32::MAX), column.try_into().unwrap_or(u32::MAX))
}

/// The character boundary at or before a byte.
fn floor(source: &str, at: usize) -> usize {
    (0..=at.min(source.len())).rev().find(|&at| source.is_char_boundary(at)).unwrap_or(0)
}

/// Characters of a text that a message repeats: any path fits, and a megabyte that stands in quotes does not.
const TEXT_SHOWN: usize = 4096;

/// Text from a file as it may stand in a message.
#[must_use]
pub fn shown(text: &str) -> String {
    let mut rest = text.chars();
    let mut shown: String = rest.by_ref().take(TEXT_SHOWN).map(harmless).collect();
    if rest.next().is_some() {
        shown.push('…');
    }
    shown
}

/// A file under review may come from a stranger: nothing of it may steer a terminal or turn the direction of writing.
fn harmless(c: char) -> char {
    match c {
        '\t' => ' ',
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => char::REPLACEMENT_CHARACTER,
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}

const BOLD: &str = "1";
const RED: &str = "1;31";
const YELLOW: &str = "1;33";
const BLUE: &str = "1;34";

/// Colours, or not.
#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests;
