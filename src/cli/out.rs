//! What is printed: answers to standard output, remarks to standard error.
//!
//! Answers can be read by programs (`--json`), or by people, then with colour where a terminal shows it. Text that came
//! from outside never reaches a terminal raw: control characters in it are shown, not obeyed.

use std::{
    fmt::Display,
    io::{self, BufWriter, IsTerminal as _, Write},
};

use serde::Serialize;

/// Where everything is printed.
pub(super) struct Out {
    stdout: BufWriter<Box<dyn Write>>,
    /// For programs.
    pub json: bool,
    color: bool,
    color_remarks: bool,
}

/// How a word stands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Bold,
    Dim,
    Good,
    Warn,
    Bad,
}

impl Style {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "0",
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Good => "32",
            Self::Warn => "33",
            Self::Bad => "31",
        }
    }
}

/// A cell of a table.
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub fn new(text: impl Display, style: Style) -> Self {
        Self { text: printable(&text.to_string()), style }
    }
}

impl<T: Display> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Style::Plain)
    }
}

impl Out {
    pub fn new(json: bool) -> Self {
        let plain = set("NO_COLOR") || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            stdout: BufWriter::new(Box::new(io::stdout())),
            json,
            color: !plain && !json && io::stdout().is_terminal(),
            color_remarks: !plain && io::stderr().is_terminal(),
        }
    }

    /// Whether remarks are coloured.
    pub const fn color_remarks(&self) -> bool {
        self.color_remarks
    }

    /// A line of the answer.
    pub fn line(&mut self, text: impl Display) -> io::Result<()> {
        writeln!(self.stdout, "{text}")
    }

    /// The whole answer for programs.
    pub fn value(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut self.stdout, value)?;
        writeln!(self.stdout)
    }

    /// One line of JSON.
    pub fn json_line(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.stdout, value)?;
        writeln!(self.stdout)
    }

    /// Raw bytes of the answer.
    pub fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stdout.write_all(bytes)
    }

    /// A word that stands out in a line of the answer.
    pub fn paint(&self, style: Style, text: impl Display) -> String {
        paint(self.color, style, &printable(&text.to_string()))
    }

    /// A remark, on standard error; for programs there are none.
    pub fn remark(&mut self, text: impl Display) {
        if !self.json {
            self.say(&text.to_string());
        }
    }

    /// Something that should not be missed, on standard error.
    pub fn warn(&mut self, text: impl Display) {
        self.say(&format!("{} {text}", paint(self.color_remarks, Style::Warn, "warning:")));
    }

    /// Why it failed, on standard error.
    pub fn error(&mut self, text: &str) {
        if self.json {
            return self.say(&serde_json::json!({ "error": text }).to_string());
        }
        self.say(&format!("{} {text}", paint(self.color_remarks, Style::Bad, "error:")));
    }

    /// Columns as wide as they need to be; the last one may be ragged.
    pub fn table<const N: usize>(&mut self, head: [&str; N], rows: &[[Cell; N]]) -> io::Result<()> {
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count());
            cells.chain(head.get(column).map(|text| text.len())).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..N).map(width).collect();
        let head = head.map(|text| Cell::new(text, Style::Dim));
        for row in std::iter::once(&head).chain(rows) {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&paint(self.color, cell.style, &cell.text));
                // Padding outside the colour, and none at the end of a line.
                line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.text.chars().count()) + 2));
            }
            self.line(line.trim_end())?;
        }
        Ok(())
    }

    /// One fact per line, the names aligned; empty facts are left out.
    pub fn facts(&mut self, facts: &[(&str, String)]) -> io::Result<()> {
        let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, fact) in facts.iter().filter(|(_, fact)| !fact.is_empty()) {
            let name = paint(self.color, Style::Dim, &format!("{name:width$}"));
            self.line(format_args!("{name}  {}", printable(fact)))?;
        }
        Ok(())
    }

    /// Text of several lines from outside, such as a traceback.
    pub fn block(&mut self, indent: &str, text: &str) -> io::Result<()> {
        text.lines().try_for_each(|line| self.line(format_args!("{indent}{}", printable(line))))
    }

    /// After what was printed before it, so that the two read in order on a terminal.
    fn say(&mut self, text: &str) {
        // Closed standard output shows at the next line of the answer; closed standard error is nobody's loss.
        let _closed = self.flush();
        let _closed = writeln!(io::stderr(), "{text}");
    }

    /// Everything printed so far is really out.
    pub fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }
}

/// Control characters made visible: what an attacker wrote into a request must not steer the operator's terminal.
pub(super) fn printable(text: &str) -> String {
    if !text.contains(is_hostile) {
        return text.to_owned();
    }
    text.chars().fold(String::new(), |mut shown, c| {
        if is_hostile(c) {
            shown.extend(c.escape_default())
        } else {
            shown.push(c)
        }
        shown
    })
}

/// Whether a terminal would obey a character, or show what comes after it in another order than it is in.
pub(super) fn is_hostile(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn paint(color: bool, style: Style, text: &str) -> String {
    if !color || style == Style::Plain { text.to_owned() } else { format!("\x1b[{}m{text}\x1b[0m", style.code()) }
}

fn set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

#[cfg(test)]
pub(super) mod tests {
    use std::{cell::RefCell, rc::Rc};

    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Rc<RefCell<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What `print` prints for people without colour.
    pub fn printed(print: impl FnOnce(&mut Out) -> io::Result<()>) -> String {
        let paper = Paper::default();
        let stdout = BufWriter::new(Box::new(paper.clone()) as Box<dyn Write>);
        let mut out = Out { stdout, json: false, color: false, color_remarks: false };
        print(&mut out).and_then(|()| out.flush()).unwrap();
        let bytes = paper.0.borrow().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn tables_are_as_wide_as_they_need_and_have_no_trailing_blanks() {
        let rows = [["ännchen".into(), "x\ny".into()], ["b".into(), "".into()]];
        let table = printed(|out| out.table(["NAME", "WHAT"], &rows));
        assert_eq!(table, "NAME     WHAT\nännchen  x\\ny\nb\n");
    }

    #[test]
    fn control_characters_are_shown_and_not_obeyed() {
        assert_eq!(printable("ann\x1b[2J\n\u{202e}"), "ann\\u{1b}[2J\\n\\u{202e}");
        assert_eq!(printable("Ännchen"), "Ännchen");
    }
}
