//! From parsed TOML to values of the right kind, collecting everything that is wrong on the way.
//!
//! [`parse`] is the only place that calls `toml`. The tables are walked by hand and not with serde:
//! that stops at the first error of a table, while whoever fixes a configuration wants to see all
//! of them at once. Every getter answers `None` for a wrong value and has reported it then, so
//! callers go on with the default; what they make is thrown away in the end.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Severity, Source};
use super::environment::Environment;
use super::keys::Table as Keys;
use super::secret::mask;
use super::suggest;

/// A span of bytes in the file.
pub(super) type Span = Range<usize>;

/// What reading needs everywhere, and what it has found.
pub(super) struct Reader<'a> {
    source: &'a Source,
    pub environment: &'a Environment,
    /// The folder that relative paths start in.
    folder: &'a Path,
    found: RefCell<Vec<Diagnostic>>,
    /// Lines (first and last, from 0) that could not be parsed: what is said about them would be
    /// about the parser's guesses.
    broken: Vec<(usize, usize)>,
    errors: Cell<usize>,
    missing: RefCell<Vec<PathBuf>>,
}

impl<'a> Reader<'a> {
    /// Parse the text. Syntax errors are found already afterwards; the rest is read nevertheless.
    pub fn parse(
        source: &'a Source,
        environment: &'a Environment,
        folder: &'a Path,
    ) -> (Self, Spanned<DeTable<'a>>) {
        let (table, errors) = DeTable::parse_recoverable(source.text());
        let mut reader = Reader {
            source,
            environment,
            folder,
            found: RefCell::default(),
            broken: Vec::new(),
            errors: Cell::new(0),
            missing: RefCell::default(),
        };
        let mut broken = Vec::new();
        let mut open_list = false;
        for error in errors {
            let span = error.span().unwrap_or_default();
            // The second error of a line is mostly the first one once more.
            let line = source.line_of(span.start);
            if broken.iter().any(|(first, _)| *first == line) {
                continue;
            }
            broken.push(broken_lines(source, span.start));
            // A list that isn't closed is an error in each line after it.
            let in_list = error.message().starts_with("missing comma");
            if std::mem::replace(&mut open_list, in_list) && in_list {
                continue;
            }
            let written = source.text().get(span.clone()).unwrap_or_default();
            let (reason, help) = syntax_error(error.message(), written);
            let help = help.map(str::to_owned).into_iter().collect();
            reader.error(&span, format!("this is not TOML: {reason}"), help);
        }
        reader.broken = broken;
        (reader, table)
    }

    /// Whether the file is TOML throughout. When it isn't, what seems to be missing is perhaps
    /// there, unparsed.
    pub fn is_whole(&self) -> bool {
        self.broken.is_empty()
    }

    /// Report an error.
    pub fn error(&self, span: &Span, message: String, help: Vec<String>) {
        self.report(Severity::Error, span, message, help);
    }

    /// Report that something is missing that another place of the file could have; nothing is said
    /// when parts of the file could not be parsed.
    pub fn missing(&self, span: &Span, message: String, help: Vec<String>) {
        if self.is_whole() {
            self.error(span, message, help);
        }
    }

    /// Report a warning.
    pub fn warning(&self, span: &Span, message: String, help: Vec<String>) {
        self.report(Severity::Warning, span, message, help);
    }

    fn report(&self, severity: Severity, span: &Span, message: String, help: Vec<String>) {
        let line = self.source.line_of(span.start);
        // The parser's stand-in for a value that it couldn't read has no span.
        let invented = *span == (0..0) && !self.is_whole();
        if invented || self.broken.iter().any(|(from, to)| (*from..=*to).contains(&line)) {
            return;
        }
        if severity == Severity::Error {
            self.errors.set(self.errors.get() + 1);
        }
        let diagnostic = Diagnostic::at(severity, self.source, span, message, help);
        self.found.borrow_mut().push(diagnostic);
    }

    /// Report a warning about the file as a whole.
    pub fn about_file(&self, file: &Path, message: &str, help: String) {
        let diagnostic = Diagnostic::of_file(Severity::Warning, file, message.to_owned(), help);
        self.found.borrow_mut().push(diagnostic);
    }

    /// How many errors have been reported.
    pub fn errors(&self) -> usize {
        self.errors.get()
    }

    /// A plugin file isn't there.
    pub fn misses(&self, plugin: PathBuf) {
        self.missing.borrow_mut().push(plugin);
    }

    /// The plugin files that aren't there.
    pub fn missing_plugins(&self) -> Vec<PathBuf> {
        self.missing.take()
    }

    /// Everything that was reported.
    pub fn into_found(self) -> Vec<Diagnostic> {
        self.found.into_inner()
    }

    /// What stands in the file.
    pub fn written(&self, span: &Span) -> &'a str {
        self.source.text().get(span.clone()).unwrap_or_default()
    }

    /// A path of the configuration, made absolute.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }
}

/// The parser's reason for a syntax error in words for people, and what to do.
fn syntax_error<'m>(reason: &'m str, written: &str) -> (&'m str, Option<&'static str>) {
    // Of a key without a value, too, the parser says that its value should have quotes.
    let unquoted = reason.starts_with("string values must be quoted");
    if unquoted && written.trim().is_empty() {
        ("a value is missing", Some("write one, or remove the key"))
    } else if unquoted {
        ("a text has no quotes", Some("write it between \"\""))
    } else if reason.starts_with("missing comma") {
        (reason, Some("write the comma, or end what is still open further up"))
    } else if reason == "duplicate key" {
        ("this name is there already, further up", Some("keep one of them"))
    } else {
        (reason, None)
    }
}

/// The lines that a syntax error makes useless: its own, and if that is a table's header then all
/// to the next header, because the parser counts them to the table before.
fn broken_lines(source: &Source, at: usize) -> (usize, usize) {
    let first = source.line_of(at);
    let is_header = |line: usize| source.line(line).trim_start().starts_with('[');
    if !is_header(first) {
        return (first, first);
    }
    let last = source.line_of(source.text().len());
    let next = (first + 1..=last).find(|line| is_header(*line)).unwrap_or(last + 1);
    (first, next - 1)
}

/// A table whose keys are known.
#[derive(Clone, Copy)]
pub(super) struct Table<'r, 'a> {
    pub reader: &'r Reader<'a>,
    entries: &'r DeTable<'a>,
}

impl<'r, 'a> Table<'r, 'a> {
    /// The whole file; keys that it can't have are reported.
    pub fn root(reader: &'r Reader<'a>, entries: &'r DeTable<'a>) -> Self {
        Table::new(reader, entries, Keys::Root, Keys::Root.title())
    }

    fn new(reader: &'r Reader<'a>, entries: &'r DeTable<'a>, keys: Keys, title: &str) -> Self {
        for key in entries.keys() {
            let name: &str = key.get_ref();
            if !keys.has(name) {
                let (message, help) = suggest::unknown_key(keys, title, name);
                reader.error(&key.span(), message, help);
            }
        }
        Table { reader, entries }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Value<'r, 'a>> {
        let (key, value) = self.entries.get_key_value(key)?;
        Some(Value { reader: self.reader, key: key.get_ref(), key_span: key.span(), value })
    }
}

/// A value and the key that it belongs to.
#[derive(Clone)]
pub(super) struct Value<'r, 'a> {
    pub reader: &'r Reader<'a>,
    /// The key; for an item of a list, that of the list.
    pub key: &'r str,
    pub key_span: Span,
    pub value: &'r Spanned<DeValue<'a>>,
}

/// A string after `${NAME}` was filled in.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub value: String,
    /// As the file has it where a variable was filled in: that may hold a secret.
    written: Option<String>,
}

impl Text {
    /// How errors quote it: never with what a variable held, escaped, and not too long.
    pub fn quoted(&self) -> String {
        quoted(self.written.as_deref().unwrap_or(&self.value))
    }

    /// The table `[KIND.NAME]` that it names.
    pub fn header(&self, kind: &str) -> String {
        header(kind, self.written.as_deref().unwrap_or(&self.value))
    }

    /// Whether a variable was filled in.
    pub fn has_variables(&self) -> bool {
        self.written.is_some()
    }
}

/// `[KIND.NAME]` as it would be written.
pub(super) fn header(kind: &str, name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(bare) {
        format!("[{kind}.{name}]")
    } else {
        format!("[{kind}.\"{}\"]", quoted(name).trim_matches('`'))
    }
}

/// The first line of a text in backticks, without control characters, cut where it is long, and
/// masked: a quote that was forgotten makes a text of whatever follows.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 80;
    let line = mask(text.split('\n').next().unwrap_or_default()).text;
    let escaped: String = line
        .chars()
        .take(LONGEST)
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect();
    let is_cut = text.contains('\n') || line.chars().nth(LONGEST).is_some();
    let more = if is_cut { "…" } else { "" };
    format!("`{escaped}{more}`")
}

impl<'r, 'a> Value<'r, 'a> {
    /// Where the value stands.
    pub fn span(&self) -> Span {
        self.value.span()
    }

    /// Report an error about the value.
    pub fn error(&self, message: impl Into<String>, help: Option<String>) {
        self.reader.error(&self.span(), message.into(), help.into_iter().collect());
    }

    /// Report that the value is of another kind.
    pub fn wrong_kind(&self, expected: &str, help: Option<String>) {
        let kind = match self.value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a number",
            DeValue::Float(_) => "a fraction",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.error(format!("{} must be {expected}, not {kind}", quoted(self.key)), help);
    }

    /// A table with these keys.
    pub fn table(&self, keys: Keys) -> Option<Table<'r, 'a>> {
        let title = match keys {
            Keys::Connection if self.key == "redis" => "[redis]".to_owned(),
            Keys::Connection => header("connections", self.key),
            Keys::Handler => header("handlers", self.key),
            Keys::Channel => header("channels", self.key),
            _ => keys.title().to_owned(),
        };
        let help = || {
            let first = keys.names().next().unwrap_or_default();
            Some(match title.starts_with('[') {
                true => format!("write it under {title}"),
                false => format!("write {} = {{ {first} = … }}", self.key),
            })
        };
        let entries = self.entries(help)?;
        Some(Table::new(self.reader, entries, keys, &title))
    }

    /// A table whose keys are names that the user chose, in the order of the file.
    pub fn named(&self) -> Vec<Value<'r, 'a>> {
        let help = || Some(format!("write {} = {{ NAME = VALUE }}", self.key));
        let Some(entries) = self.entries(help) else { return Vec::new() };
        let named = entries.iter().map(|(key, value)| Value {
            reader: self.reader,
            key: key.get_ref(),
            key_span: key.span(),
            value,
        });
        named.collect()
    }

    fn entries(&self, help: impl FnOnce() -> Option<String>) -> Option<&'r DeTable<'a>> {
        match self.value.get_ref() {
            DeValue::Table(entries) => Some(entries),
            _ => {
                self.wrong_kind("a table", help());
                None
            }
        }
    }

    /// The items of a list, or the value itself where it isn't one.
    pub fn items(&self) -> Vec<Value<'r, 'a>> {
        match self.value.get_ref() {
            DeValue::Array(items) => {
                items.iter().map(|value| Value { value, ..self.clone() }).collect()
            }
            _ => vec![self.clone()],
        }
    }

    /// A string, with its variables filled in.
    pub fn text(&self) -> Option<Text> {
        match self.value.get_ref() {
            DeValue::String(text) => self.filled(text),
            _ => {
                self.wrong_kind("a string", None);
                None
            }
        }
    }

    /// `true` or `false`.
    pub fn boolean(&self) -> Option<bool> {
        match self.value.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            _ => {
                self.wrong_kind("true or false", None);
                None
            }
        }
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text.value) {
            return Some(*value);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let known: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
        let help = match suggest::nearest(&text.value, names.iter().copied()) {
            Some(name) => format!("did you mean \"{name}\"?"),
            None => format!("write one of {}", known.join(", ")),
        };
        self.error(
            format!(
                "{} can't be {}: it is {}",
                quoted(self.key),
                text.quoted(),
                known.join(" or ")
            ),
            Some(help),
        );
        None
    }

    /// A path, absolute.
    pub fn path(&self) -> Option<PathBuf> {
        let text = self.text()?;
        if text.value.is_empty() || text.value.contains(char::is_control) {
            self.error(
                format!("{} must name a file, not {}", quoted(self.key), text.quoted()),
                None,
            );
            return None;
        }
        Some(self.reader.path(&text.value))
    }

    /// How errors call the file that this value names: not with what a variable held, which was
    /// perhaps the secret itself and not where it is.
    pub fn shown_path(&self, path: &Path) -> String {
        match self.value.get_ref().as_str() {
            Some(written) if written.contains("${") => quoted(written),
            _ => path.display().to_string(),
        }
    }

    /// `${NAME}` filled in, `$${` made `${`.
    fn filled(&self, text: &str) -> Option<Text> {
        if !text.contains("${") {
            return Some(Text { value: text.to_owned(), written: None });
        }
        let mut value = String::with_capacity(text.len());
        let mut whole = true;
        let mut variables = false;
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            if let Some(after) = rest.strip_prefix("$${") {
                value.push_str("${");
                rest = after;
            } else if rest.starts_with("${") {
                let length = rest.find('}').map_or(rest.len(), |end| end + 1);
                let (reference, after) = rest.split_at(length);
                match self.variable(reference) {
                    Ok(content) => value.push_str(&content),
                    Err((message, help)) => {
                        let span = self.place_of(reference);
                        self.reader.error(&span, message, vec![help]);
                        whole = false;
                    }
                }
                variables = true;
                rest = after;
            } else {
                value.push(character);
                rest = &rest[character.len_utf8()..];
            }
        }
        let written = variables.then(|| text.to_owned());
        whole.then_some(Text { value, written })
    }

    /// What a `${NAME}` stands for, or what is wrong with it and what to do.
    fn variable(&self, reference: &str) -> Result<String, (String, String)> {
        let literal = "write `$${` for a literal `${`".to_owned();
        let name = reference.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
        let Some(name) = name else {
            return Err(("a `${` has no `}`".to_owned(), literal));
        };
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if name.is_empty() || !name.bytes().all(is_name) || name.as_bytes()[0].is_ascii_digit() {
            let message = format!("{} names no environment variable", quoted(reference));
            return Err((message, literal));
        }
        match self.reader.environment.variable(name).map(|value| value.into_string()) {
            Some(Ok(content)) => Ok(content),
            Some(Err(_)) => {
                let message = format!("the environment variable `{name}` is not UTF-8");
                Err((message, "set it to a text".to_owned()))
            }
            None => {
                let message = format!("the environment variable `{name}` is not set");
                Err((message, format!("set it where handlerd is started; {literal}")))
            }
        }
    }

    /// Where a part of a string stands; the whole string where it was written with escapes, or
    /// over several lines.
    fn place_of(&self, part: &str) -> Span {
        let span = self.span();
        let written = self.reader.written(&span);
        match written.find(part) {
            Some(at) if !written.contains('\n') => span.start + at..span.start + at + part.len(),
            _ => span,
        }
    }
}
