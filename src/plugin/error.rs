//! Why a plugin can't be used, in sentences for whoever dropped the file there.

use std::io::ErrorKind;
use std::path::PathBuf;

/// Why a plugin file could not be made into a handler. The text says which file, what is wrong
/// and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PluginError {
    /// The file could not be read.
    #[error("can't read the plugin {}", file.display())]
    Read {
        /// The plugin.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no regular file, or larger than any plugin.
    #[error("{} is no plugin: {what}", file.display())]
    NotAFile {
        /// The plugin.
        file: PathBuf,
        /// What it is instead.
        what: String,
    },
    /// Somebody is writing the file.
    #[error(
        "the plugin {} is still being written: it is taken when it is closed, or when nothing has come \
         for half a minute",
        file.display()
    )]
    Unfinished {
        /// The plugin.
        file: PathBuf,
    },
    /// The bytes aren't those that the config pins.
    #[error(
        "{} is not the file that `sha256` pins: its sha256 is {found}, and the config says \
         {pinned}; put the pinned file back, or write the new sum into the config",
        file.display()
    )]
    Pin {
        /// The plugin.
        file: PathBuf,
        /// The config's sum, in hex.
        pinned: String,
        /// The file's sum, in hex.
        found: String,
    },
    /// The file isn't WebAssembly, or not a kind that can be a plugin.
    #[error("{} is no handlerd plugin: {reason}", file.display())]
    NotAPlugin {
        /// The plugin.
        file: PathBuf,
        /// What it is, and what would make it one.
        reason: String,
    },
    /// The plugin imports what it may not, or what this handlerd doesn't have.
    #[error("{} imports what it can't have: {reason}", file.display())]
    Import {
        /// The plugin.
        file: PathBuf,
        /// Each import, and what to do.
        reason: String,
    },
    /// The file could not be compiled.
    #[error("can't compile the plugin {}: {reason}", file.display())]
    Compile {
        /// The plugin.
        file: PathBuf,
        /// What the compiler said, or which limit it reached.
        reason: String,
        /// Whether another attempt may go better: what ended it was the machine, not the file.
        of_machine: bool,
    },
    /// No first instance could be made: the plugin's start or its `setup` failed, or it needs more
    /// than it may have.
    #[error("handler {handler}: {} can't be set up: {reason}", file.display())]
    Setup {
        /// NAME of the handler.
        handler: String,
        /// The plugin.
        file: PathBuf,
        /// What the plugin said of the config, or how it failed; escaped.
        reason: String,
    },
    /// The engine can't run on this machine.
    #[error("the WebAssembly engine can't start: {reason}")]
    Engine {
        /// Why.
        reason: String,
    },
}

impl PluginError {
    /// Whether nothing has come of the file for too long: there may be nothing wrong with it.
    pub fn is_late(&self) -> bool {
        matches!(self, PluginError::Read { source, .. } if source.kind() == ErrorKind::TimedOut)
    }
}
