//! The lines of a policy that decided, as they stand in the file.

use super::out::{Out, Style, printable};
use crate::{config::Config, written::Source};

/// Lines of a rule that are shown; a longer one lists many, and the first lines say what it is.
const MOST: usize = 12;

/// The policies as they were written.
pub(super) struct Texts(Vec<Source>);

/// Some lines of one of them.
pub(super) struct Quote<'a> {
    file: &'a str,
    /// Number of the first, from 1.
    first: usize,
    lines: Vec<&'a str>,
}

impl Texts {
    /// Of the policies in force. What cannot be read is not quoted; loading them has said so already.
    pub fn of(config: &Config) -> Self {
        Self(config.policy_sources().0)
    }

    pub fn of_sources(sources: Vec<Source>) -> Self {
        Self(sources)
    }

    /// A rule by its id: `policies/notes.toml:12`.
    pub fn rule(&self, id: &str) -> Option<Quote<'_>> {
        let (file, line) = id.rsplit_once(':')?;
        let source = self.find(file)?;
        let first: usize = line.parse().ok()?;
        let lines = source.text.lines().skip(first.checked_sub(1)?);
        let mut rule: Vec<&str> = lines.clone().take(1).collect();
        // A rule that is an item of a list has a line of its own and no header.
        if rule.first()?.trim_start().starts_with("[[") {
            rule.extend(lines.skip(1).take_while(|line| !line.trim_start().starts_with('[')));
        }
        let said = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
        rule.truncate(rule.iter().rposition(said).map_or(1, |last| last + 1));
        Some(Quote { file: &source.file, first, lines: rule })
    }

    /// A key of `[app]`, or where it could stand.
    pub fn key(&self, file: &str, key: &str) -> Option<Quote<'_>> {
        let source = self.find(file)?;
        let lines: Vec<&str> = source.text.lines().collect();
        let app = lines.iter().position(|line| line.trim().starts_with("[app]"))?;
        let own = lines[app + 1..].iter().take_while(|line| !line.trim_start().starts_with('['));
        let is_key = |line: &&str| {
            let rest = line.trim_start().strip_prefix(key).map(str::trim_start);
            rest.is_some_and(|rest| rest.starts_with('='))
        };
        let at = own.clone().position(is_key).map_or(app, |at| app + 1 + at);
        Some(Quote { file: &source.file, first: at + 1, lines: vec![lines[at]] })
    }

    fn find(&self, file: &str) -> Option<&Source> {
        self.0.iter().find(|source| &*source.file == file)
    }
}

impl Quote<'_> {
    /// `policies/notes.toml:12`
    pub fn place(&self) -> String {
        format!("{}:{}", self.file, self.first)
    }

    /// The lines, each with its number.
    pub fn show(&self, indent: &str, out: &mut Out) -> std::io::Result<()> {
        let shown = self.lines.len().min(MOST);
        let width = (self.first + shown).to_string().len();
        for (number, line) in (self.first..).zip(&self.lines[..shown]) {
            let margin = out.paint(Style::Dim, format_args!("{number:>width$} |"));
            out.line(
                format_args!("{indent}{margin} {}", printable(&line.replace('\t', "    "))).to_string().trim_end(),
            )?;
        }
        if shown < self.lines.len() {
            out.line(format_args!("{indent}{:width$} | …", ""))?;
        }
        Ok(())
    }

    /// For programs.
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::{super::out::tests::printed, *};

    const TEXT: &str = "# notes\n[app]\nname = \"/notes\"\ndefault = \"deny\"\n\n[[allow]]\npath = \"/a\"\nwho = [\n  \"role:a\",\n]\n\n# next\n[[deny]]\npath = \"/b\"\n";

    fn texts() -> Texts {
        Texts(vec![Source { file: "policies/n.toml".into(), text: TEXT.to_owned(), base: "/".into() }])
    }

    #[test]
    fn a_rule_is_quoted_from_its_header_to_its_last_line() {
        let texts = texts();
        let shown = |id: &str| printed(|out| texts.rule(id).unwrap().show("  ", out));
        assert_eq!(
            shown("policies/n.toml:6"),
            "   6 | [[allow]]\n   7 | path = \"/a\"\n   8 | who = [\n   9 |   \"role:a\",\n  10 | ]\n"
        );
        assert_eq!(shown("policies/n.toml:13"), "  13 | [[deny]]\n  14 | path = \"/b\"\n");
        assert!(texts.rule("policies/n.toml:99").is_none() && texts.rule("policies/m.toml:1").is_none());
    }

    #[test]
    fn a_key_is_quoted_or_the_table_it_would_stand_in() {
        let texts = texts();
        assert_eq!(texts.key("policies/n.toml", "default").unwrap().place(), "policies/n.toml:4");
        assert_eq!(texts.key("policies/n.toml", "enabled").unwrap().place(), "policies/n.toml:2");
    }
}
