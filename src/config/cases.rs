//! Cases of a plugin: `NAME.toml` beside `NAME.wasm`, as authors write them and `--bless` rewrites
//! them.
//!
//! Called by `handlerd test`, which runs them; this module only reads and writes the file. It is
//! here because `config` is the sole user of TOML, and because errors look as they do for the
//! configuration: file, line, column, the line shown, what was probably meant.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Severity, Source};
use super::environment::Environment;
use super::reader::{Reader, Value, quoted};
use super::{ConfigErrors, Setting, handler, suggest};
use crate::message::{Header, Message};

mod bless;

const ROOT_KEYS: &[&str] = &["case"];
const CASE_KEYS: &[&str] = &[
    "name", "config", "channel", "in", "in_hex", "in_file", "headers", "out", "reject", "retry",
    "setup",
];
const INPUTS: [&str; 3] = ["in", "in_hex", "in_file"];
const EXPECTATIONS: [&str; 4] = ["out", "reject", "retry", "setup"];
const MESSAGE_KEYS: &[&str] = &["payload", "payload_hex", "headers", "route"];

/// What a case without `channel` is said to have come on.
const DEFAULT_CHANNEL: &str = "test";

/// A file of cases.
#[derive(Clone, Debug)]
pub struct CaseFile {
    /// The file.
    pub file: PathBuf,
    /// In the order of the file.
    pub cases: Vec<Case>,
    text: String,
}

/// A message in, and what must come of it: one `[[case]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// `name`.
    pub name: String,
    /// Where it begins, from 1.
    pub line: usize,
    /// `config`: the handler's settings.
    pub config: Vec<(String, Setting)>,
    /// `channel`: the Redis channel. Default "test".
    pub channel: String,
    /// `in`, `in_hex` (spaces don't count) or the bytes of `in_file`, and `headers`.
    pub input: Message,
    /// `out`, `reject`, `retry` or `setup`.
    pub expected: Expected,
}

/// What must come of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// None of the keys is there yet: `--bless` writes one.
    Unsaid,
    /// `out`: these messages, in this order.
    Out(Vec<ExpectedMessage>),
    /// `reject`: this failure, with this as a part of its text.
    Reject(String),
    /// `retry`: the same; `retry-after` counts too.
    Retry(String),
    /// `setup` must refuse the case's `config`, with this as a part of its text.
    Setup(String),
}

/// A message that must come out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedMessage {
    /// `payload` or `payload_hex`: all of it.
    pub payload: Vec<u8>,
    /// `headers`; without the key they may be any.
    pub headers: Option<Vec<Header>>,
    /// `route`; without the key there must be none.
    pub route: Option<String>,
}

impl ExpectedMessage {
    /// Whether this message is the one that was expected.
    pub fn matches(&self, message: &Message) -> bool {
        self.payload == message.payload
            && self.route == message.route
            && self.headers.as_ref().is_none_or(|headers| *headers == message.headers)
    }
}

/// What came of a message, to be written into the file as what is expected from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Came {
    /// These messages.
    Out(Vec<Message>),
    /// A rejection.
    Reject(String),
    /// A wish to be tried again.
    Retry(String),
    /// A refusal by `setup`.
    Setup(String),
}

/// Whether a TOML file is meant to hold cases: it has a key `case`, or is too broken to tell and
/// begins a table of that name.
pub fn has_cases(text: &str) -> bool {
    let (table, errors) = DeTable::parse_recoverable(text);
    table.get_ref().contains_key("case") || (!errors.is_empty() && text.contains("[[case"))
}

impl CaseFile {
    /// Read a file of cases.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(file: &Path) -> Result<CaseFile, ConfigErrors> {
        let of_file = |message: String, help: &str| {
            let diagnostic = Diagnostic::of_file(Severity::Error, file, message, help.to_owned());
            ConfigErrors::new(vec![diagnostic])
        };
        let bytes = std::fs::read(file)
            .map_err(|e| of_file(format!("the cases can't be read: {e}"), "is the path right?"))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let help = "write bytes as `in_hex` and `payload_hex`, or name a file with `in_file`";
            of_file(format!("byte {at} is not UTF-8"), help)
        })?;
        CaseFile::parse(file, text)
    }

    /// Read cases from a text that `file` holds, or will hold.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(file: &Path, text: String) -> Result<CaseFile, ConfigErrors> {
        let source = Source::new(file, text);
        let environment = Environment::of_process();
        let folder = file.parent().unwrap_or(Path::new(""));
        let (reader, root) = Reader::parse(&source, &environment, folder);
        let root = Fields::new(&reader, root.get_ref(), ROOT_KEYS, "a file of cases");
        let cases = match root.get("case") {
            Some(value) => read_cases(&source, &value),
            None => Vec::new(),
        };
        if reader.errors() > 0 {
            return Err(ConfigErrors::new(reader.into_found()));
        }
        drop(reader);
        let text = source.text().to_owned();
        Ok(CaseFile { file: file.to_owned(), cases, text })
    }

    /// Write what came of some cases (by their index) into the file as what they expect. Comments
    /// and the layout of everything else stay. Answers whether the file had to change.
    ///
    /// # Errors
    /// A sentence, when the file can't be written, or can't express it; then it is as it was.
    pub fn bless(&self, came: &BTreeMap<usize, Came>) -> Result<bool, String> {
        let text = bless::rewrite(&self.text, &self.cases, came)?;
        if text == self.text {
            return Ok(false);
        }
        let again = CaseFile::parse(&self.file, text.clone()).map_err(|e| e.to_string())?;
        let kept = |index: usize| match came.get(&index) {
            Some(came) => bless::expresses(&again.cases[index].expected, came),
            None => again.cases[index].expected == self.cases[index].expected,
        };
        if again.cases.len() != self.cases.len() || !(0..self.cases.len()).all(kept) {
            return Err("what came out can't be written as TOML that reads back the same".into());
        }
        replace(&self.file, text.as_bytes()).map_err(|e| format!("it can't be written: {e}"))?;
        Ok(true)
    }
}

/// Written aside, then renamed: whoever reads it meanwhile sees the old or the new file.
fn replace(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    // What a link points at is replaced, not the link.
    let file = std::fs::canonicalize(file)?;
    let aside = file.with_extension(format!("toml.{}.new", std::process::id()));
    let write = || {
        let permissions = std::fs::metadata(&file)?.permissions();
        let mut out = std::fs::File::create_new(&aside)?;
        out.set_permissions(permissions)?;
        out.write_all(bytes)?;
        out.sync_all()?;
        std::fs::rename(&aside, &file)
    };
    write().inspect_err(|_| drop(std::fs::remove_file(&aside)))
}

/// A table whose keys are known.
struct Fields<'r, 'a> {
    reader: &'r Reader<'a>,
    entries: &'r DeTable<'a>,
}

impl<'r, 'a> Fields<'r, 'a> {
    /// Keys that it can't have are reported.
    fn new(
        reader: &'r Reader<'a>,
        entries: &'r DeTable<'a>,
        keys: &[&'static str],
        title: &str,
    ) -> Self {
        for key in entries.keys() {
            let name: &str = key.get_ref();
            if !keys.contains(&name) {
                let help = match suggest::nearest(name, keys.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("its keys are {}", keys.join(", ")),
                };
                let message = format!("{} is not a key of {title}", quoted(name));
                reader.error(&key.span(), message, vec![help]);
            }
        }
        Fields { reader, entries }
    }

    fn get(&self, key: &str) -> Option<Value<'r, 'a>> {
        let (key, value) = self.entries.get_key_value(key)?;
        Some(Value { reader: self.reader, key: key.get_ref(), key_span: key.span(), value })
    }

    /// The one of these keys that is there; a second one is reported.
    fn one_of(&self, keys: &[&str]) -> Option<Value<'r, 'a>> {
        let mut found = keys.iter().filter_map(|key| self.get(key));
        let first = found.next()?;
        for other in found {
            let message = format!("`{}` and `{}` can't both be there", first.key, other.key);
            let help = format!("keep one of {}", keys.join(", "));
            self.reader.error(&other.key_span, message, vec![help]);
        }
        Some(first)
    }
}

fn read_cases(source: &Source, value: &Value) -> Vec<Case> {
    let DeValue::Array(items) = value.value.get_ref() else {
        value.wrong_kind("a list of tables", Some("begin each case with [[case]]".into()));
        return Vec::new();
    };
    let mut cases = Vec::new();
    for item in items.iter() {
        match item.get_ref() {
            DeValue::Table(entries) => {
                cases.push(read_case(source, value.reader, entries, &item.span()));
            }
            _ => {
                let item = Value { value: item, ..value.clone() };
                item.wrong_kind("a list of tables", Some("begin each case with [[case]]".into()));
            }
        }
    }
    cases
}

fn read_case(source: &Source, reader: &Reader, entries: &DeTable, span: &Range<usize>) -> Case {
    let fields = Fields::new(reader, entries, CASE_KEYS, "[[case]]");
    let name = fields.get("name").and_then(|value| literal(&value));
    if fields.get("name").is_none() {
        let help = "say with `name` what the case is about".to_owned();
        reader.missing(span, "a case has no `name`".into(), vec![help]);
    }
    let expected = fields.one_of(&EXPECTATIONS);
    let is_setup = expected.as_ref().is_some_and(|value| value.key == "setup");
    let payload = fields.one_of(&INPUTS).and_then(|value| read_input(&value));
    if !is_setup && INPUTS.iter().all(|key| fields.get(key).is_none()) {
        let help = format!("give one of {}", INPUTS.join(", "));
        reader.missing(span, "a case has no input".into(), vec![help]);
    }
    let text = |key| fields.get(key).and_then(|value| literal(&value));
    Case {
        name: name.unwrap_or_default(),
        line: source.line_of(span.start) + 1,
        config: fields.get("config").map(|value| handler::read_config(&value)).unwrap_or_default(),
        channel: text("channel").unwrap_or_else(|| DEFAULT_CHANNEL.to_owned()),
        input: Message {
            payload: payload.unwrap_or_default(),
            headers: fields.get("headers").and_then(|v| read_headers(&v)).unwrap_or_default(),
            route: None,
        },
        expected: expected.and_then(|v| read_expected(&v)).unwrap_or(Expected::Unsaid),
    }
}

fn read_input(value: &Value) -> Option<Vec<u8>> {
    match value.key {
        "in" => literal(value).map(String::into_bytes),
        "in_hex" => hex(value),
        _ => {
            let file = value.reader.path(&literal(value)?);
            let read = std::fs::read(&file);
            let unreadable =
                |e| value.error(format!("{} can't be read: {e}", file.display()), None);
            read.map_err(unreadable).ok()
        }
    }
}

fn read_expected(value: &Value) -> Option<Expected> {
    match value.key {
        "out" => {
            let DeValue::Array(items) = value.value.get_ref() else {
                value.wrong_kind("a list", Some("write out = [\"…\"]; [] is nothing".into()));
                return None;
            };
            let messages = items
                .iter()
                .filter_map(|item| read_message(&Value { value: item, ..value.clone() }));
            Some(Expected::Out(messages.collect()))
        }
        "reject" => literal(value).map(Expected::Reject),
        "retry" => literal(value).map(Expected::Retry),
        _ => literal(value).map(Expected::Setup),
    }
}

fn read_message(value: &Value) -> Option<ExpectedMessage> {
    let entries = match value.value.get_ref() {
        DeValue::String(text) => {
            let payload = text.as_bytes().to_vec();
            return Some(ExpectedMessage { payload, headers: None, route: None });
        }
        DeValue::Table(entries) => entries,
        _ => {
            value.wrong_kind("a list of strings or tables", None);
            return None;
        }
    };
    let fields = Fields::new(value.reader, entries, MESSAGE_KEYS, "a message in `out`");
    let payload = fields.one_of(&["payload", "payload_hex"]);
    if payload.is_none() {
        let help = "give `payload`, or `payload_hex` for bytes".to_owned();
        value.reader.missing(&value.span(), "a message has no payload".into(), vec![help]);
    }
    let payload = payload.and_then(|value| match value.key {
        "payload" => literal(&value).map(String::into_bytes),
        _ => hex(&value),
    });
    Some(ExpectedMessage {
        payload: payload.unwrap_or_default(),
        headers: fields.get("headers").map(|value| read_headers(&value).unwrap_or_default()),
        route: fields.get("route").and_then(|value| literal(&value)),
    })
}

/// A list of `["name", "value"]`, or `["name", { hex = "…" }]` where the value isn't text.
fn read_headers(value: &Value) -> Option<Vec<Header>> {
    const FORM: &str = "write [[\"name\", \"value\"]], or [[\"name\", { hex = \"…\" }]] for bytes";
    let DeValue::Array(items) = value.value.get_ref() else {
        value.wrong_kind("a list of pairs", Some(FORM.into()));
        return None;
    };
    let mut headers = Vec::new();
    for item in items.iter() {
        let pair = match item.get_ref() {
            DeValue::Array(pair) if pair.len() == 2 => pair,
            _ => {
                let item = Value { value: item, ..value.clone() };
                item.error("a header must be a pair of name and value", Some(FORM.into()));
                continue;
            }
        };
        let at = |value: &Value<'_, '_>, index: usize| {
            literal(&Value { value: &pair[index], ..value.clone() })
        };
        let content = match pair[1].get_ref() {
            DeValue::Table(entries) => {
                let fields = Fields::new(value.reader, entries, &["hex"], "a header's value");
                fields.get("hex").and_then(|value| hex(&value))
            }
            _ => at(value, 1).map(String::into_bytes),
        };
        headers.extend(at(value, 0).zip(content));
    }
    Some(headers)
}

/// A string as it stands: a payload that has `${` in it is not about the environment.
fn literal(value: &Value) -> Option<String> {
    match value.value.get_ref() {
        DeValue::String(text) => Some(text.to_string()),
        _ => {
            value.wrong_kind("a string", None);
            None
        }
    }
}

/// Bytes as hex digits; white space between them doesn't count.
fn hex(value: &Value) -> Option<Vec<u8>> {
    let text = literal(value)?;
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    match digits {
        Some(digits) if digits.len() % 2 == 0 => {
            Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
        }
        Some(_) => {
            value.error("an odd number of hex digits", Some("a byte is two digits".into()));
            None
        }
        None => {
            value.error("this is not hex", Some("bytes are written like \"00 ff 7f\"".into()));
            None
        }
    }
}

#[cfg(test)]
mod tests;
