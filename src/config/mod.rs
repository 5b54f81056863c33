//! The configuration: TOML in, types out that cannot be wrong.
//!
//! Owns the contract of `config.toml`: every key, its default and its limits. Sole user of `toml`.
//! A [`Config`] that exists is right: names resolve, numbers are in range, secrets are hidden from
//! `Debug`. Never touches Redis or a plugin's bytes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub mod pattern;
mod secret;

pub use secret::Secret;

/// A whole, valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it was read from; relative paths in it were resolved against its folder.
    pub file: PathBuf,
    /// `[redis]`: where sources are and outputs go unless they name another connection.
    pub redis: Connection,
    /// `[connections.NAME]`: further Redises, for outputs.
    pub connections: BTreeMap<Arc<str>, Connection>,
    /// `[plugins] dir`, made absolute.
    pub plugin_dir: PathBuf,
    /// Every handler that a channel names, under its name, and every `[handlers.NAME]`.
    pub handlers: BTreeMap<Arc<str>, Handler>,
    /// `[channels.NAME]` in the order of the file.
    pub channels: Vec<Channel>,
    /// `[limits] memory`: bytes of all queues together. Default 256 MiB.
    pub memory: usize,
    /// `[daemon] drain_timeout`. Default 10 s.
    pub drain_timeout: Duration,
    /// `[log]`.
    pub log: Log,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A filter as `tracing_subscriber::EnvFilter` reads it ("info", "handlerd=debug"). Default "info".
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

/// `[log] format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people: the default.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// A Redis to connect to: `[redis]` or `[connections.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// "redis" for `[redis]`, else NAME.
    pub name: Arc<str>,
    /// Where.
    pub address: Address,
    /// The database number of the URL's path; 0 unless it says another. Pub/sub doesn't know databases.
    pub database: u32,
    /// The ACL user, from `username` or the URL; `None` is Redis's "default".
    pub username: Option<String>,
    /// Where the password comes from, read again at every connect.
    pub password: Password,
    /// `tls`: files for `rediss://`.
    pub tls: TlsFiles,
}

/// Where a Redis listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `redis://HOST:PORT`
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// Default 6379.
        port: u16,
    },
    /// `rediss://HOST:PORT`
    Tls {
        /// Name or address, without brackets; the certificate must be for it.
        host: String,
        /// Default 6379.
        port: u16,
    },
    /// `unix:///PATH`
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let host_port = |f: &mut std::fmt::Formatter<'_>, scheme, host: &str, port| {
            if host.contains(':') {
                write!(f, "{scheme}://[{host}]:{port}")
            } else {
                write!(f, "{scheme}://{host}:{port}")
            }
        };
        match self {
            Address::Tcp { host, port } => host_port(f, "redis", host, port),
            Address::Tls { host, port } => host_port(f, "rediss", host, port),
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// Where a password comes from. Two sources at once are a config error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Password {
    /// None is sent.
    None,
    /// It stands in the URL.
    Url(Secret),
    /// `password_file`, or the systemd credential `redis-password`; a line end at its end is not part of it.
    File(PathBuf),
}

/// `tls`: PEM files, read again at every connect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of the authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate; together with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// The client's private key.
    pub key_file: Option<PathBuf>,
}

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
    /// From `{ file = … }`, `{ env = … }` or `{ credential = … }`: never shown.
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

/// `[channels.NAME]`.
#[derive(Clone, Debug)]
pub struct Channel {
    /// NAME: what commands, metrics and logs call it.
    pub name: Arc<str>,
    /// Where its messages come from.
    pub source: Source,
    /// Names in [`Config::handlers`], in order. May be empty.
    pub handlers: Vec<Arc<str>>,
    /// Where what leaves the chain goes. May be empty where there are routes.
    pub outputs: Vec<Output>,
    /// Where handlers themselves may send.
    pub routes: Routes,
    /// `workers`: messages handled at once. 1, the default, keeps the order.
    pub workers: usize,
    /// `queue`: bytes that may wait. Default 16 MiB.
    pub queue: usize,
    /// `overflow`.
    pub overflow: Overflow,
    /// `max_payload`: larger messages are dropped and counted. Default 1 MiB.
    pub max_payload: usize,
}

/// Where a channel's messages come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `subscribe`: names of pub/sub channels. Never empty, none twice.
    Subscribe(Vec<Arc<str>>),
    /// `pattern`: patterns of pub/sub channels. Never empty, none twice.
    Pattern(Vec<Arc<str>>),
}

/// Which message a full queue loses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The one that waits longest: the default.
    #[default]
    DropOldest,
    /// The one that comes.
    DropNewest,
}

/// Where what leaves a chain goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// `publish`: PUBLISH.
    Publish(Target),
    /// `push`: RPUSH, so that a reader who takes from the left sees the order of arrival.
    Push(Target),
    /// `log`: a line a message.
    Log,
}

/// A name in a Redis to send to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The connection: "redis", or NAME of `[connections.NAME]`.
    pub connection: Arc<str>,
    /// The Redis channel or key.
    pub name: NameTemplate,
}

/// A name in which `{channel}` stands for the Redis channel that the message came on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameTemplate {
    /// Without the placeholder.
    Fixed(Arc<str>),
    /// The texts around the placeholders: one more than there are placeholders, at least two.
    Parts(Vec<Arc<str>>),
}

impl NameTemplate {
    /// Give the name for a message of this Redis channel to `use_name`; a fixed one is not copied.
    pub fn fill(&self, redis_channel: &str, use_name: impl FnOnce(&str)) {
        match self {
            NameTemplate::Fixed(name) => use_name(name),
            NameTemplate::Parts(parts) => use_name(&parts.join(redis_channel)),
        }
    }
}

/// `routes`: what handlers may send to, and by which command.
///
/// Always over the connection `[redis]`. No name is permitted by two kinds (a config error where
/// two patterns overlap).
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// Redis channels for PUBLISH.
    pub publish: Vec<pattern::Pattern>,
    /// Lists for RPUSH.
    pub push: Vec<pattern::Pattern>,
}

/// What a route resolves to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// PUBLISH.
    Publish,
    /// RPUSH.
    Push,
}

impl Routes {
    /// Whether anything is permitted at all.
    pub fn any(&self) -> bool {
        !self.publish.is_empty() || !self.push.is_empty()
    }

    /// The command that the routes permit for this name; `None` when none does.
    pub fn resolve(&self, name: &str) -> Option<RouteKind> {
        let permits = |patterns: &[pattern::Pattern]| patterns.iter().any(|p| p.matches(name));
        if permits(&self.publish) {
            Some(RouteKind::Publish)
        } else if permits(&self.push) {
            Some(RouteKind::Push)
        } else {
            None
        }
    }
}
