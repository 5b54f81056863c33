//! The configuration: TOML in, types out that cannot be wrong.
//!
//! Owns the contract of `config.toml`: every key, its default and its limits. Sole user of `toml`.
//! A [`Config`] that exists is right: names resolve, numbers are in range, secrets are hidden from
//! `Debug`. Never touches Redis or a plugin's bytes.
//!
//! `keys` is the table of all keys: the reader, the JSON Schema (`schema`) and the manual page
//! (`manual`) come from it.
//!
//! ```text
//! text --> reader (toml, values of the right kind) --> connection, plugins, handler, channel --> groups, circle --> Config
//!             |                                                  |                                      |
//!             +------------------------------------> diagnostic <-+-------------------------------------+
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub mod cases;
mod channel;
mod circle;
mod connection;
mod diagnostic;
mod environment;
mod glob;
mod groups;
mod handler;
mod http;
pub mod identity;
mod keys;
mod load;
mod manual;
pub mod matcher;
pub mod pattern;
mod plugins;
mod quantity;
mod reader;
mod schema;
mod secret;
mod suggest;

pub use channel::{
    Channel, EntryId, EntryIdError, NameTemplate, OrderBy, Output, Overflow, Retries, RouteKind,
    Routes, Source, Start, StreamSource, Target, WhenDone,
};
pub use connection::{Address, Connection, Embedded, Password, TlsFiles};
pub use diagnostic::{ConfigErrors, Diagnostic, Severity, log_lines};
pub use environment::Environment;
pub use handler::{Handler, HandlerLimits, InstancePolicy, Setting};
pub use http::Http;
pub use manual::manual;
pub use schema::schema;
pub use secret::Secret;

/// The name of the connection `[redis]`.
pub const OWN_CONNECTION: &str = "redis";

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
    /// `[channels.NAME]` in the order of the file. There may be many, and several who keep this.
    pub channels: Arc<[Channel]>,
    /// `[limits] memory`: bytes of all queues together. Default 256 MiB.
    pub memory: usize,
    /// `[daemon] drain_timeout`. Default 10 s.
    pub drain_timeout: Duration,
    /// `[log]`.
    pub log: Log,
    /// `[http]`.
    pub http: Http,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A filter as `tracing_subscriber::EnvFilter` reads it ("info", "handlerd=debug"). Default "info".
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Log { level: "info".to_owned(), format: LogFormat::default() }
    }
}

/// `[log] format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// journald's where standard error is a stream of journald's, else for people: the default.
    #[default]
    Auto,
    /// For people.
    Text,
    /// A JSON object a line.
    Json,
    /// Records of journald's own protocol.
    Journal,
}

/// A configuration, and what is to be said about it although it is valid.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Warnings, in the order of the file.
    pub warnings: Vec<Diagnostic>,
}

impl Config {
    /// The plugin files of its handlers, in the plugin folder and elsewhere.
    pub fn plugin_files(&self) -> impl Iterator<Item = &Path> {
        self.handlers.values().map(|handler| &*handler.plugin)
    }

    /// Read a file, with this process's environment.
    ///
    /// # Errors
    /// Everything that is wrong with it, as far as it can be found at once.
    pub fn load(file: &Path) -> Result<Loaded, ConfigErrors> {
        Config::load_with(file, &Environment::of_process())
    }

    /// Read a file again: plugin files that are in use count as there, also when they are gone.
    ///
    /// # Errors
    /// As [`Config::load`]; besides, a file without any key, or a pipe, isn't taken.
    pub fn load_again(file: &Path, in_use: &[PathBuf]) -> Result<Loaded, ConfigErrors> {
        load::load_again(file, &Environment::of_process(), in_use)
    }

    /// Read a file, with another environment.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_with(file: &Path, environment: &Environment) -> Result<Loaded, ConfigErrors> {
        load::load(file, environment)
    }

    /// Read a text as if it stood in `file`, which need not exist; an empty one gives the defaults.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(
        text: &str,
        file: &Path,
        environment: &Environment,
    ) -> Result<Loaded, ConfigErrors> {
        load::parse(text.to_owned(), file, environment, &[])
    }
}
