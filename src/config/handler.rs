//! `[handlers.NAME]`: a plugin under a name, with its settings and its limits.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeValue;

use super::keys::Table as Keys;
use super::plugins::Plugins;
use super::quantity::LONGEST;
use super::reader::{Table, Value, quoted};
use super::secret::{Secret, is_secret_name};
use crate::file;

/// A plugin under a name, with settings: `[handlers.NAME]`, or a plugin file with the defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Handler {
    /// NAME.
    pub name: Arc<str>,
    /// The `.wasm` file, absolute.
    pub plugin: PathBuf,
    /// `sha256`: the file must have these bytes.
    pub sha256: Option<[u8; 32]>,
    /// `config`: what wasi:config answers, in the order of the file.
    pub config: Vec<(String, Setting)>,
    /// `instance`.
    pub instance: InstancePolicy,
    /// Limits of one call, and how many instances.
    pub limits: HandlerLimits,
}

/// A value of a handler's `config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Stands in the file: a string as it is, another value as JSON.
    Plain(String),
    /// From `{ file = … }`, `{ env = … }` or `{ credential = … }`, with a `${NAME}` in it, or under
    /// a key that is named like a secret: never shown.
    Secret(Secret),
}

impl Setting {
    /// The text for the guest. Not for showing.
    pub fn expose(&self) -> &str {
        match self {
            Setting::Plain(text) => text,
            Setting::Secret(secret) => secret.expose(),
        }
    }
}

/// `instance`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InstancePolicy {
    /// An instance serves one message after another: the default.
    #[default]
    Reuse,
    /// A new instance for every message.
    Fresh,
}

/// What one call of a handler may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandlerLimits {
    /// `memory`: bytes of all linear memories of an instance. Default 64 MiB.
    pub memory: usize,
    /// `timeout`: wall time from call to return. Default 100 ms.
    pub timeout: Duration,
    /// `max_outputs`: messages a call returns. Default 1000.
    pub max_outputs: usize,
    /// `max_output`: bytes a call returns, all messages together. Default 16 MiB.
    pub max_output: usize,
    /// `max_log`: bytes a call logs. Default 64 KiB.
    pub max_log: usize,
    /// `instances`: at most so many at once. Default: the machine's cores.
    pub instances: usize,
}

impl Default for HandlerLimits {
    fn default() -> Self {
        HandlerLimits {
            memory: 64 << 20,
            timeout: Duration::from_millis(100),
            max_outputs: 1000,
            max_output: 16 << 20,
            max_log: 64 << 10,
            instances: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// A page of linear memory: no plugin can do with less.
pub(super) const PAGE: usize = 64 << 10;

/// What 32-bit linear memory can have.
pub(super) const WASM32: usize = 4 << 30;

/// Most outputs of a call that may be configured: each costs the host some hundred bytes.
pub(super) const MOST_OUTPUTS: usize = 1_000_000;

/// Most instances that may be configured for one handler. An instance takes four memory maps, and
/// a process has 65530.
pub(super) const MOST_INSTANCES: usize = 1000;

/// Shortest `timeout`.
pub(super) const LEAST_TIMEOUT: Duration = Duration::from_millis(1);

impl Handler {
    /// A handler with the defaults for a plugin file, named after it.
    pub fn for_file(file: &Path) -> Self {
        let name = file.file_stem().unwrap_or(file.as_os_str()).to_string_lossy();
        Handler {
            name: name.into(),
            plugin: std::path::absolute(file).unwrap_or_else(|_| file.to_owned()),
            sha256: None,
            config: Vec::new(),
            instance: InstancePolicy::default(),
            limits: HandlerLimits::default(),
        }
    }

    /// Read a `[handlers.NAME]`.
    pub(super) fn read(value: &Value<'_, '_>, plugins: &Plugins) -> Self {
        let name = value.key;
        let mut handler = Handler::for_file(&plugins.file(name));
        handler.name = name.into();
        let Some(table) = value.table(Keys::Handler) else { return handler };
        match table.get("plugin") {
            Some(plugin) => {
                if let Some(file) = plugins.read_plugin(&plugin) {
                    handler.plugin = file;
                }
            }
            None => plugins.check_named(value),
        }
        if let Some(pin) = table.get("sha256") {
            handler.sha256 = read_sha256(&pin);
        }
        if let Some(config) = table.get("config") {
            handler.config = read_config(&config);
        }
        let policies = [("reuse", InstancePolicy::Reuse), ("fresh", InstancePolicy::Fresh)];
        if let Some(policy) = table.get("instance").and_then(|value| value.choice(&policies)) {
            handler.instance = policy;
        }
        read_limits(&table, &mut handler.limits);
        handler
    }
}

fn read_limits(table: &Table<'_, '_>, limits: &mut HandlerLimits) {
    let set = |place: &mut usize, value: Option<usize>| {
        if let Some(value) = value {
            *place = value;
        }
    };
    let size = |key: &str, range| table.get(key).and_then(|value| value.size(range));
    let count = |key: &str, range| table.get(key).and_then(|value| value.count(range));
    set(&mut limits.memory, size("memory", PAGE..=WASM32));
    set(&mut limits.max_outputs, count("max_outputs", 1..=MOST_OUTPUTS));
    set(&mut limits.max_output, size("max_output", 1..=WASM32));
    set(&mut limits.max_log, size("max_log", 0..=WASM32));
    set(&mut limits.instances, count("instances", 1..=MOST_INSTANCES));
    let timeout = table.get("timeout");
    let range = LEAST_TIMEOUT..=LONGEST;
    if let Some(timeout) = timeout.and_then(|value| value.duration(range)) {
        limits.timeout = timeout;
    }
}

fn read_sha256(value: &Value<'_, '_>) -> Option<[u8; 32]> {
    let text = value.text()?;
    let digits = text.value.as_bytes();
    let mut bytes = [0; 32];
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let parsed = digits.len() == 64
        && bytes.iter_mut().zip(digits.chunks_exact(2)).all(|(byte, pair)| {
            match (digit(pair[0]), digit(pair[1])) {
                (Some(high), Some(low)) => {
                    *byte = (high * 16 + low) as u8;
                    true
                }
                _ => false,
            }
        });
    if !parsed {
        let help = "write what `sha256sum FILE` prints: 64 hexadecimal digits".to_owned();
        value.error(format!("`sha256` is not a SHA-256 sum: {}", text.quoted()), Some(help));
        return None;
    }
    Some(bytes)
}

/// `config`: settings in the order of the file. A case of a plugin has them too.
pub(super) fn read_config(value: &Value<'_, '_>) -> Vec<(String, Setting)> {
    let entries = value.named();
    entries.iter().filter_map(|entry| Some((entry.key.to_owned(), read_setting(entry)?))).collect()
}

/// One value of `config`. Errors never show it.
fn read_setting(value: &Value<'_, '_>) -> Option<Setting> {
    match value.value.get_ref() {
        DeValue::String(_) => {
            let text = value.text()?;
            Some(if text.has_variables() || is_secret_name(value.key) {
                Setting::Secret(Secret::new(text.value))
            } else {
                Setting::Plain(text.value)
            })
        }
        DeValue::Table(entries) => {
            let reference = |key: &str| ["file", "env", "credential"].contains(&key);
            let references = entries.keys().filter(|key| reference(key.get_ref())).count();
            if references == 0 || references < entries.len() {
                return read_json(value);
            }
            if references > 1 {
                let help = "keep one of `file`, `env` and `credential`".to_owned();
                value.error(format!("{} has two sources", quoted(value.key)), Some(help));
                return None;
            }
            read_secret(value.named().first()?).map(|text| Setting::Secret(Secret::new(text)))
        }
        _ => read_json(value),
    }
}

/// A value that is handed on as JSON.
fn read_json(value: &Value<'_, '_>) -> Option<Setting> {
    let mut has_variables = false;
    let json = to_json(value, &mut has_variables)?.to_string();
    Some(if has_variables { Setting::Secret(Secret::new(json)) } else { Setting::Plain(json) })
}

fn to_json(value: &Value<'_, '_>, has_variables: &mut bool) -> Option<serde_json::Value> {
    use serde_json::Value as Json;
    Some(match value.value.get_ref() {
        DeValue::String(_) => {
            let text = value.text()?;
            *has_variables |= text.has_variables();
            Json::String(text.value)
        }
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Json::from(number),
            Err(_) => {
                let help = "write it as a string".to_owned();
                value.error("this number doesn't fit into 64 bits", Some(help));
                return None;
            }
        },
        DeValue::Float(number) => {
            let parsed = number.as_str().parse().ok().and_then(serde_json::Number::from_f64);
            let Some(number) = parsed else {
                let help = "write it as a string".to_owned();
                value.error("JSON has no such number", Some(help));
                return None;
            };
            Json::Number(number)
        }
        DeValue::Boolean(truth) => Json::Bool(*truth),
        DeValue::Datetime(time) => Json::String(time.to_string()),
        DeValue::Array(_) => {
            let items: Vec<_> =
                value.items().iter().map(|item| to_json(item, has_variables)).collect();
            Json::Array(items.into_iter().collect::<Option<_>>()?)
        }
        DeValue::Table(_) => {
            let entries = value.named();
            let entries: Vec<_> = entries
                .iter()
                .map(|entry| Some((entry.key.to_owned(), to_json(entry, has_variables)?)))
                .collect();
            Json::Object(entries.into_iter().collect::<Option<_>>()?)
        }
    })
}

/// What a `file`, `env` or `credential` holds.
fn read_secret(value: &Value<'_, '_>) -> Option<String> {
    let text = value.text()?;
    let name = text.value.as_str();
    let environment = value.reader.environment;
    match value.key {
        "env" => match environment.variable(name).map(|content| content.into_string()) {
            Some(Ok(content)) => Some(content),
            Some(Err(_)) => {
                value.error(
                    format!("the environment variable {} is not UTF-8", text.quoted()),
                    None,
                );
                None
            }
            None => {
                let help = "set it where handlerd is started".to_owned();
                let message = format!("the environment variable {} is not set", text.quoted());
                value.error(message, Some(help));
                None
            }
        },
        "credential" => {
            if name.is_empty() || name.contains(['/', '\0']) || name == "." || name == ".." {
                value.error(format!("{} is not a credential's name", text.quoted()), None);
                return None;
            }
            match environment.credential(name) {
                Some(file) => read_secret_file(value, &file),
                None => {
                    let help =
                        "start handlerd by systemd, with LoadCredential=NAME:PATH in its unit";
                    let message =
                        "there are no systemd credentials: $CREDENTIALS_DIRECTORY is not set";
                    value.error(message, Some(help.to_owned()));
                    None
                }
            }
        }
        _ => read_secret_file(value, &value.path()?),
    }
}

/// The text of a file without the line end at its end.
fn read_secret_file(value: &Value<'_, '_>, file: &Path) -> Option<String> {
    let bytes = match file::read(file, file::LARGEST_SECRET) {
        Ok(bytes) => bytes,
        Err(unread) => {
            let help = match value.key {
                "credential" => "give it by LoadCredential=NAME:PATH in handlerd's unit",
                _ => "name a file that the user handlerd runs as can read",
            };
            value.error(format!("{} {unread}", value.shown_path(file)), Some(help.to_owned()));
            return None;
        }
    };
    match String::from_utf8(bytes) {
        Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()),
        Err(_) => {
            let help =
                "plugins read settings as text: encode it, as base64 for instance".to_owned();
            value.error(format!("{} is not UTF-8", value.shown_path(file)), Some(help));
            None
        }
    }
}
