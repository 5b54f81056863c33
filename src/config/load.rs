//! A configuration file from the first byte to the last check.

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::channel::{self, Context, LEAST_QUEUE, Places};
use super::connection::Connection;
use super::diagnostic::{Diagnostic, Severity, Source};
use super::handler::Handler;
use super::keys::Table as Keys;
use super::plugins::Plugins;
use super::quantity::{LARGEST, LONGEST};
use super::reader::{Reader, Table, Value, quoted};
use super::{
    Address, Channel, Config, ConfigErrors, Environment, Http, Loaded, Log, LogFormat, circle,
    groups,
};
use crate::file::{self, Unread};

/// `[limits] memory` where none is written.
const MEMORY: usize = 256 << 20;

/// `[daemon] drain_timeout` where none is written.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest file that is read: ten thousand channels take one MiB.
const LARGEST_FILE: u64 = 16 << 20;

/// Longest NAME of a table.
pub(super) const LONGEST_NAME: usize = 200;

/// Read and parse a file, which may be a pipe that was handed to this process.
pub(super) fn load(file: &Path, environment: &Environment) -> Result<Loaded, ConfigErrors> {
    let bytes = file::read_handed(file, LARGEST_FILE);
    parse(text(file, bytes)?, file, environment, &[])
}

/// Read and parse a file that was read before.
///
/// The plugin files of `kept` count as there, wherever they are.
pub(super) fn load_again(
    file: &Path,
    environment: &Environment,
    kept: &[PathBuf],
) -> Result<Loaded, ConfigErrors> {
    let text = text(file, file::read(file, LARGEST_FILE))?;
    // What an editor leaves on a full disk, or who copies a file has only just begun, is no wish to
    // end every channel.
    if has_no_key(&text) {
        let message = "nothing is written in the configuration file".to_owned();
        let help = "write the configuration again; one with any key in it, as [channels], is taken";
        return Err(of_file(file, message, help));
    }
    parse(text, file, environment, kept)
}

/// Whether there are only comments and empty lines.
fn has_no_key(text: &str) -> bool {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#'))
}

fn of_file(file: &Path, message: String, help: &str) -> ConfigErrors {
    let error = Diagnostic::of_file(Severity::Error, file, message, help.to_owned());
    ConfigErrors::new(vec![error])
}

/// Why there is no text of the file.
fn unread(file: &Path, unread: Unread) -> ConfigErrors {
    let kind = match &unread {
        Unread::Io { source, link: None } => Some(source.kind()),
        _ => None,
    };
    let (message, help) = match (kind, unread) {
        (Some(ErrorKind::NotFound), _) => (
            "there is no such configuration file".to_owned(),
            "write one, or name another with --config; \
             [channels.NAME] with handlers and publish is enough",
        ),
        (Some(ErrorKind::IsADirectory), _) => (
            "the configuration is a folder, not a file".to_owned(),
            "name the file in it with --config",
        ),
        (Some(ErrorKind::PermissionDenied), _) => (
            "the configuration file may not be read".to_owned(),
            "let the user that handlerd runs as read it, its folders included",
        ),
        (Some(_), Unread::Io { source, .. }) => (
            format!("the configuration file can't be read: {source}"),
            "name another with --config",
        ),
        (_, unread @ Unread::Io { .. }) => (
            format!("the configuration file {unread}"),
            "make the link lead to a file that is there",
        ),
        (_, unread @ Unread::NotAFile(_)) => (
            format!("the configuration {unread}"),
            "write it to a file: it is read again when it has changed",
        ),
        (_, unread) => (format!("the configuration file {unread}"), "is it the right file?"),
    };
    of_file(file, message, help)
}

/// The text of the file.
fn text(file: &Path, bytes: Result<Vec<u8>, Unread>) -> Result<String, ConfigErrors> {
    let bytes = bytes.map_err(|error| unread(file, error))?;
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line_start = good.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        let column = String::from_utf8_lossy(&good[line_start..]).chars().count() + 1;
        ConfigErrors::new(vec![Diagnostic::of_byte(
            file,
            (line, column),
            "the configuration file is not UTF-8".to_owned(),
            "save it as UTF-8; bytes that aren't text can't stand in it".to_owned(),
        )])
    })
}

/// Parse the text of a file.
pub(super) fn parse(
    text: String,
    file: &Path,
    environment: &Environment,
    kept: &[PathBuf],
) -> Result<Loaded, ConfigErrors> {
    let source = Source::new(file, text);
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let folder = absolute.parent().unwrap_or(Path::new("/"));
    let (reader, root) = Reader::parse(&source, environment, folder);
    let root = Table::root(&reader, root.get_ref());
    let config = read(&reader, &root, file, kept);
    let (errors, missing) = (reader.errors(), reader.missing_plugins());
    let found = reader.into_found();
    if errors > 0 {
        return Err(ConfigErrors::new(found).with_missing(missing));
    }
    let mut warnings = found;
    warnings.sort_by_key(Diagnostic::position);
    Ok(Loaded { config, warnings })
}

fn read(reader: &Reader<'_>, root: &Table<'_, '_>, file: &Path, kept: &[PathBuf]) -> Config {
    let redis = match root.get("redis") {
        Some(value) => Connection::read(&value, "redis", file),
        None => Connection::absent(reader),
    };
    let connections = read_connections(root, file);
    let plugins = Plugins::read(reader, root.get("plugins").as_ref(), kept);
    let handler_tables = named(root, "handlers");
    let handlers =
        handler_tables.iter().map(|value| (value.key.into(), Handler::read(value, &plugins)));
    let memory = read_memory(root);
    let mut context = Context {
        connections: &connections,
        embedded: matches!(redis.address, Address::Embedded(_)),
        handlers: handlers.collect(),
        plugins: &plugins,
        tables: handler_tables.iter().map(|value| value.key).collect(),
        memory,
        patterns: HashMap::new(),
    };
    let (channels, places): (Vec<Channel>, Vec<Places>) =
        named(root, "channels").iter().map(|value| channel::read(value, &mut context)).unzip();
    let handlers = context.handlers;
    let config = Config {
        file: file.to_owned(),
        redis,
        plugin_dir: plugins.dir.clone(),
        handlers,
        channels: channels.into(),
        memory,
        drain_timeout: read_drain_timeout(root),
        log: read_log(root),
        http: Http::read(root.get("http").as_ref()),
        connections,
    };
    if config.channels.is_empty() && reader.is_whole() {
        let help = "add [channels.NAME] with `handlers` and `publish`".to_owned();
        reader.about_file(file, "there is no channel, so nothing will be handled", help);
    }
    groups::check(reader, &config, &places);
    circle::check(reader, &config, &places);
    config
}

/// The tables `[KIND.NAME]`; names that nothing could be called by are reported.
fn named<'r, 'a>(root: &Table<'r, 'a>, kind: &str) -> Vec<Value<'r, 'a>> {
    let values = match root.get(kind) {
        Some(value) if value.value.get_ref().is_table() => value.named(),
        Some(value) => {
            value.wrong_kind("a table of tables", Some(format!("write [{kind}.NAME]")));
            Vec::new()
        }
        None => Vec::new(),
    };
    for value in &values {
        let problem = match value.key {
            "" => "is empty",
            name if name.len() > LONGEST_NAME => "is longer than 200 bytes",
            name if name.chars().any(char::is_control) => "has a control character in it",
            _ => continue,
        };
        let message = format!("the name {} {problem}", quoted(value.key));
        let help = vec!["use a name that can be typed and read".to_owned()];
        value.reader.error(&value.key_span, message, help);
    }
    values
}

fn read_connections(root: &Table<'_, '_>, file: &Path) -> BTreeMap<Arc<str>, Connection> {
    let mut connections = BTreeMap::new();
    for value in named(root, "connections") {
        if value.key == "redis" {
            let help = vec!["choose another name, or write [redis]".to_owned()];
            let message = "the name `redis` is that of [redis]".to_owned();
            value.reader.error(&value.key_span, message, help);
        }
        connections.insert(value.key.into(), Connection::read(&value, value.key, file));
    }
    connections
}

fn read_memory(root: &Table<'_, '_>) -> usize {
    let limits = root.get("limits").and_then(|value| value.table(Keys::Limits));
    let memory = limits.and_then(|table| table.get("memory"));
    memory.and_then(|value| value.size(LEAST_QUEUE..=LARGEST)).unwrap_or(MEMORY)
}

fn read_drain_timeout(root: &Table<'_, '_>) -> Duration {
    let daemon = root.get("daemon").and_then(|value| value.table(Keys::Daemon));
    let timeout = daemon.and_then(|table| table.get("drain_timeout"));
    timeout.and_then(|value| value.duration(Duration::ZERO..=LONGEST)).unwrap_or(DRAIN_TIMEOUT)
}

fn read_log(root: &Table<'_, '_>) -> Log {
    let mut log = Log::default();
    let Some(table) = root.get("log").and_then(|value| value.table(Keys::Log)) else { return log };
    if let Some(level) = table.get("level").and_then(|value| read_level(&value)) {
        log.level = level;
    }
    let formats = [
        ("auto", LogFormat::Auto),
        ("text", LogFormat::Text),
        ("json", LogFormat::Json),
        ("journal", LogFormat::Journal),
    ];
    if let Some(format) = table.get("format").and_then(|value| value.choice(&formats)) {
        log.format = format;
    }
    log
}

/// A filter for logs. The filter's own parser takes any word for the name of a module, a mistyped
/// level too, and would then log nothing: a word alone must be a level.
fn read_level(value: &Value<'_, '_>) -> Option<String> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    let text = value.text()?;
    let level = text.value.trim();
    let directives = || level.split(',').map(str::trim);
    let is_level = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
    let wrong = directives().find(|word| !word.contains(['=', '[']) && !is_level(word));
    let parsed = tracing_subscriber::EnvFilter::builder().parse(level).is_ok();
    if wrong.is_none() && parsed {
        return Some(level.to_owned());
    }
    let near = wrong.and_then(|word| super::suggest::nearest(word, LEVELS.into_iter()));
    let help = match near {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => {
            format!("write one of {}, or for a part of it: \"handlerd=debug\"", LEVELS.join(", "))
        }
    };
    value.error(format!("`level` is not a log level: {}", text.quoted()), Some(help));
    None
}
