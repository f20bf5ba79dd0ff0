//! Reading TOML with places. See [`super`] for the idea.

use std::{
    cell::{Cell, RefCell},
    fmt,
    ops::{Range, RangeInclusive},
    sync::Arc,
    time::Duration,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{Problem, Severity, shown, units};

/// Problems of one file that are told. Whoever wrote more than this has the wrong file, and a report of a megabyte helps
/// nobody; the rest is counted.
const PROBLEMS_MOST: usize = 100;

/// The longest word that somebody may have mistyped: comparing costs its length times that of every known word.
const WORD_MOST: usize = 64;

/// A file that is being read, and what was found wrong so far.
pub struct File {
    name: Arc<str>,
    text: Arc<str>,
    /// Where each line but the first begins: every rule and every problem asks for its line, and counting from the
    /// beginning each time would cost the square of the file.
    lines: Vec<usize>,
    problems: RefCell<Vec<Problem>>,
    /// Problems beyond [`PROBLEMS_MOST`], and the worst of them.
    untold: Cell<(usize, Severity)>,
}

impl File {
    /// A file by the name that the operator knows, and its text.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, text: &str) -> Self {
        let lines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1).collect();
        let (problems, untold) = (RefCell::default(), Cell::new((0, Severity::Warning)));
        Self { name: name.into(), text: text.into(), lines, problems, untold }
    }

    /// Parses the text and lets `read` ask for what it knows. The problems are in the order of the text; if one is an
    /// error, what `read` made is not to be used.
    ///
    /// A file with a syntax error is not read any further: half a table gives misleading complaints.
    pub fn read<T>(self, read: impl FnOnce(&Table<'_>) -> Option<T>) -> (Option<T>, Vec<Problem>) {
        let text = Arc::clone(&self.text);
        let (root, errors) = DeTable::parse_recoverable(&text);
        for error in &errors {
            match self.is_full() {
                true => self.leave_out(Severity::Error),
                false => {
                    self.report(self.problem(Severity::Error, error.span().unwrap_or(0..0), shown(error.message())));
                }
            }
        }
        let made =
            if errors.is_empty() { read(&Table::new(&self, String::new(), 0..0, Some(root.get_ref()))) } else { None };
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.span.start);
        problems.dedup();
        let (untold, severity) = self.untold.get();
        if untold > 0 {
            let more = Problem::file(&self.name, format!("and {untold} more like these"));
            problems.push(Problem { severity, ..more }.help("is it the right file?"));
        }
        (made, problems)
    }

    fn problem(&self, severity: Severity, span: Range<usize>, message: impl Into<String>) -> Problem {
        let (line, column) = self.place(span.start);
        let (file, source) = (Arc::clone(&self.name), Arc::clone(&self.text));
        Problem { severity, file, line, column, span, source, message: message.into(), help: None }
    }

    fn report(&self, problem: Problem) {
        if self.is_full() {
            return self.leave_out(problem.severity);
        }
        self.problems.borrow_mut().push(problem);
    }

    fn is_full(&self) -> bool {
        self.problems.borrow().len() >= PROBLEMS_MOST
    }

    /// Counts one more problem. An error that is not told is an error all the same.
    fn leave_out(&self, severity: Severity) {
        let (untold, worst) = self.untold.get();
        self.untold.set((untold + 1, if severity == Severity::Error { severity } else { worst }));
    }

    /// Line and column, both from 1, of a byte.
    fn place(&self, at: usize) -> (u32, u32) {
        let at = super::floor(&self.text, at);
        let line = self.lines.partition_point(|begin| *begin <= at);
        let begin = line.checked_sub(1).and_then(|before| self.lines.get(before)).copied().unwrap_or(0);
        let column = self.text[begin..at].chars().count() + 1;
        (u32::try_from(line + 1).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
    }
}

/// A table of a file. Dropping it reports every key that nobody asked for.
pub struct Table<'f> {
    file: &'f File,
    /// As in a header, `app` or `tls.certificate`; empty for the root.
    name: String,
    span: Range<usize>,
    /// `None` stands for a table that is not there: every key of it is absent.
    table: Option<&'f DeTable<'f>>,
    asked: RefCell<Vec<&'static str>>,
}

impl<'f> Table<'f> {
    fn new(file: &'f File, name: String, span: Range<usize>, table: Option<&'f DeTable<'f>>) -> Self {
        Self { file, name, span, table, asked: RefCell::default() }
    }

    /// The value of a key, if it is there.
    pub fn value(&self, key: &'static str) -> Option<Value<'f>> {
        self.asked.borrow_mut().push(key);
        let (key, value) = self.table?.get_key_value(key)?;
        Some(Value { file: self.file, key: key.get_ref().to_string(), key_span: key.span(), value })
    }

    /// The value of a key that has to be there.
    pub fn required(&self, key: &'static str, help: &str) -> Option<Value<'f>> {
        let value = self.value(key);
        // A misspelt key is one mistake, and the unknown key already says which was meant.
        let misspelt = || self.keys().any(|(found, _)| nearest(found, [key]).is_some());
        if value.is_none() && !misspelt() {
            self.error(format!("{} has no `{key}`", self.title()), help);
        }
        value
    }

    /// A table within; one that is absent has no keys.
    pub fn table(&self, key: &'static str) -> Table<'f> {
        let value = self.value(key);
        match value.as_ref().and_then(|value| value.as_table(self.child(key))) {
            Some(table) => table,
            None => Table::new(self.file, self.child(key), self.span.clone(), None),
        }
    }

    /// The tables of a `[[key]]`.
    pub fn tables(&self, key: &'static str) -> Vec<Table<'f>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let name = self.child(key);
        match value.value.get_ref() {
            DeValue::Array(items) => items.iter().filter_map(|item| value.item(item).as_table(name.clone())).collect(),
            _ => {
                value.error(format!("`{key}` has to be a list of tables"), format!("begin each with [[{name}]]"));
                Vec::new()
            }
        }
    }

    /// How many tables a `[[key]]` has, for whoever has to know before any of them is read.
    pub fn count(&self, key: &'static str) -> usize {
        match self.value(key).map(|value| value.value.get_ref()) {
            Some(DeValue::Array(items)) => items.len(),
            _ => 0,
        }
    }

    /// Every key and its value, where the keys are free.
    pub fn entries(&self) -> Vec<Value<'f>> {
        let Some(table) = self.table else { return Vec::new() };
        let entries = table.iter().map(|(key, value)| Value {
            file: self.file,
            key: key.get_ref().to_string(),
            key_span: key.span(),
            value,
        });
        self.asked.borrow_mut().push(ANY);
        entries.collect()
    }

    /// Whether no error has been found in the file so far, and this table has no key that nobody asked for.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let told = self.file.problems.borrow().iter().any(Problem::is_error);
        self.unasked().is_empty() && !told && self.file.untold.get().1 != Severity::Error
    }

    /// An error about the table as a whole.
    pub fn error(&self, message: impl Into<String>, help: impl Into<String>) {
        self.file.report(self.file.problem(Severity::Error, self.span.clone(), message).help(help));
    }

    /// Line of the header, from 1.
    #[must_use]
    pub fn line(&self) -> u32 {
        self.file.place(self.span.start).0
    }

    /// Whether it stands in the file.
    #[must_use]
    pub const fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// The header, for messages.
    fn title(&self) -> String {
        if self.name.is_empty() { "the file".to_owned() } else { format!("[{}]", self.name) }
    }

    fn child(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    fn keys(&self) -> impl Iterator<Item = (&str, Range<usize>)> {
        self.table.into_iter().flat_map(|table| table.iter()).map(|(key, _)| (&**key.get_ref(), key.span()))
    }

    /// Keys that nobody asked for.
    fn unasked(&self) -> Vec<(&str, Range<usize>)> {
        let asked = self.asked.borrow();
        let known = |key: &str| asked.iter().any(|known| *known == key || *known == ANY);
        self.keys().filter(|(key, _)| !known(key)).collect()
    }

    fn unknown(&self, key: &str, span: Range<usize>) -> Problem {
        let asked = self.asked.borrow();
        let known = asked.iter().copied().filter(|known| *known != ANY);
        let absent = known.clone().filter(|known| self.table.is_none_or(|table| !table.contains_key(*known)));
        let help = match nearest(key, absent).or_else(|| nearest(key, known.clone())) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("known here: {}", known.collect::<Vec<_>>().join(", ")),
        };
        let what = if self.name.is_empty() { String::new() } else { format!(" in {}", self.title()) };
        self.file.problem(Severity::Error, span, format!("unknown key `{}`{what}", shown(key))).help(help)
    }
}

/// Stands among the keys asked for when every key is welcome.
const ANY: &str = "*";

impl Drop for Table<'_> {
    fn drop(&mut self) {
        for (key, span) in self.unasked() {
            match self.file.is_full() {
                true => self.file.leave_out(Severity::Error),
                false => self.file.report(self.unknown(key, span)),
            }
        }
    }
}

/// A value and where it stands.
#[derive(Clone)]
pub struct Value<'f> {
    file: &'f File,
    key: String,
    key_span: Range<usize>,
    value: &'f Spanned<DeValue<'f>>,
}

impl<'f> Value<'f> {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Line of the value, from 1.
    #[must_use]
    pub fn line(&self) -> u32 {
        self.file.place(self.value.span().start).0
    }

    /// An error about it.
    pub fn error(&self, message: impl Into<String>, help: impl Into<String>) {
        self.file.report(self.file.problem(Severity::Error, self.value.span(), message).help(help));
    }

    /// An error about its key.
    pub fn key_error(&self, message: impl Into<String>, help: impl Into<String>) {
        self.file.report(self.file.problem(Severity::Error, self.key_span.clone(), message).help(help));
    }

    /// A warning about it.
    pub fn warning(&self, message: impl Into<String>, help: impl Into<String>) {
        self.file.report(self.file.problem(Severity::Warning, self.value.span(), message).help(help));
    }

    /// A problem about it that is reported later, or not at all.
    #[must_use]
    pub fn problem(&self, severity: Severity, message: impl Into<String>) -> Problem {
        self.file.problem(severity, self.value.span(), message)
    }

    /// A string.
    #[must_use]
    pub fn string(&self) -> Option<&'f str> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(text),
            _ => self.wrong_kind("a string", "write it in quotes"),
        }
    }

    /// `true` or `false`.
    #[must_use]
    pub fn boolean(&self) -> Option<bool> {
        match self.value.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            _ => self.wrong_kind("true or false", "write it without quotes"),
        }
    }

    /// Whether it is `false`, where that stands for something of another kind that is switched off.
    #[must_use]
    pub fn is_false(&self) -> bool {
        matches!(self.value.get_ref(), DeValue::Boolean(false))
    }

    /// A whole number within limits.
    #[must_use]
    pub fn whole(&self, within: RangeInclusive<u64>) -> Option<u64> {
        let Some(number) = self.number() else { return self.wrong_kind("a whole number", "write it without quotes") };
        self.within(number, &within, |number| number.to_string())
    }

    /// A duration within limits: `"30s"`, or bare seconds.
    #[must_use]
    pub fn duration(&self, within: RangeInclusive<Duration>) -> Option<Duration> {
        let duration = match self.value.get_ref() {
            DeValue::String(text) => units::duration(text),
            _ => self.number().and_then(|seconds| seconds.try_into().ok()).map(Duration::from_secs),
        };
        let Some(duration) = duration else {
            return self
                .wrong_kind("a duration", "such as \"500ms\", \"30s\", \"5m\", \"2h\", \"90d\", or bare seconds");
        };
        self.within(duration, &within, units::show_duration)
    }

    /// A number of bytes within limits: `"64KiB"`, or bare bytes.
    #[must_use]
    pub fn size(&self, within: RangeInclusive<u64>) -> Option<u64> {
        let size = match self.value.get_ref() {
            DeValue::String(text) => units::size(text).map(i128::from),
            _ => self.number(),
        };
        let Some(size) = size else {
            return self.wrong_kind("a size", "such as \"64KiB\", \"100MiB\", \"2GiB\", or bare bytes");
        };
        self.within(size, &within, |size| u64::try_from(size).map_or_else(|_| size.to_string(), units::show_size))
    }

    /// A string that `parse` understands; it says what is wrong in words that follow the quoted text.
    #[must_use]
    pub fn parse<T, E: fmt::Display>(&self, parse: impl FnOnce(&str) -> Result<T, E>, help: &str) -> Option<T> {
        let text = self.string()?;
        parse(text).map_err(|why| self.error(format!("`{}` {why}", shown(text)), help)).ok()
    }

    /// One of a closed list of words.
    #[must_use]
    pub fn word<T: Copy>(&self, what: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.string()?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let all = || words.iter().map(|(word, _)| *word);
            let help = match nearest(text, all()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("one of: {}", all().collect::<Vec<_>>().join(", ")),
            };
            self.error(format!("`{}` is not {what}", shown(text)), help);
        }
        found
    }

    /// The items of a list that must not be empty: an empty one could be read as "nothing" and as "no restriction".
    #[must_use]
    pub fn some_items(&self, help: &str) -> Vec<Value<'f>> {
        let items = self.items();
        if items.is_empty() {
            self.error(format!("`{}` is an empty list", self.key), help);
        }
        items
    }

    /// The items of a list; a value that is no list is a list of one.
    #[must_use]
    pub fn items(&self) -> Vec<Value<'f>> {
        match self.value.get_ref() {
            DeValue::Array(items) => items.iter().map(|item| self.item(item)).collect(),
            _ => vec![self.item(self.value)],
        }
    }

    /// The table it is.
    #[must_use]
    pub fn as_table(&self, name: String) -> Option<Table<'f>> {
        match self.value.get_ref() {
            DeValue::Table(table) => Some(Table::new(self.file, name, self.value.span(), Some(table))),
            _ => self.wrong_kind("a table", &format!("begin it with [{name}]")),
        }
    }

    fn item(&self, value: &'f Spanned<DeValue<'f>>) -> Value<'f> {
        Value { file: self.file, key: self.key.clone(), key_span: self.key_span.clone(), value }
    }

    fn number(&self) -> Option<i128> {
        let number = self.value.get_ref().as_integer()?;
        i128::from_str_radix(number.as_str(), number.radix()).ok()
    }

    fn within<T, L>(&self, value: T, limits: &RangeInclusive<L>, show: impl Fn(T) -> String) -> Option<L>
    where
        T: Copy + PartialOrd + From<L> + TryInto<L>,
        L: Copy,
    {
        let (least, most) = (T::from(*limits.start()), T::from(*limits.end()));
        if (least..=most).contains(&value) {
            return value.try_into().ok();
        }
        let message = format!("`{}` is {}", self.key, show(value));
        self.error(message, format!("it has to be from {} to {}", show(least), show(most)));
        None
    }

    fn wrong_kind<T>(&self, kind: &str, help: &str) -> Option<T> {
        let found = match self.value.get_ref() {
            DeValue::String(text) if kind == "a duration" || kind == "a size" => format!("`{}`", shown(text)),
            value => a(value.type_str()).to_owned(),
        };
        self.error(format!("`{}` has to be {kind}, not {found}", shown(&self.key)), help);
        None
    }
}

fn a(kind: &str) -> &str {
    match kind {
        "string" => "a string",
        "integer" => "a whole number",
        "float" => "a number with a point",
        "boolean" => "true or false",
        "datetime" => "a date",
        "array" => "a list",
        "table" => "a table",
        other => other,
    }
}

/// The word that was probably meant.
#[must_use]
pub fn nearest<'w>(text: &str, words: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    let fold = |word: &str| word.to_lowercase().replace(['-', ' '], "_");
    if text.len() > WORD_MOST {
        return None;
    }
    let text = fold(text);
    words
        .into_iter()
        .map(|word| (strsim::osa_distance(&text, &fold(word)), word))
        .filter(|(distance, word)| *distance <= (word.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}
