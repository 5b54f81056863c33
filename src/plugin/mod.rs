//! Plugins: files, compilation, instances, calls. Sole user of wasmtime.
//!
//! ```text
//! file (read, hash, identify) --> cache --> judge (imports, exports) --> handler: pool of instances
//!                                   |  ^                                     |
//!                          missing? v  | artifact                            +--> call/ : into the guest
//!                        compile (child process)                             +<-- import/ : out of the guest
//! ```
//! [`Host`] is made once; the daemon and the commands ask it for handlers ([`Host::load`]) and for
//! what a file is ([`Host::inspect`]). A [`PluginHandler`] is a [`crate::chain::Handler`]: the
//! workers call it. Knows neither Redis nor channels, and gives a guest nothing of the machine but
//! clocks, random numbers, its settings and the log.

mod cache;
mod call;
pub mod compile;
mod deadline;
mod driver;
mod engine;
mod error;
mod failure;
mod file;
mod guest_log;
mod handler;
mod host;
mod import;
mod instance;
mod judge;
mod limiter;
mod pool;
mod ticker;

pub use error::PluginError;
pub use file::FileKind;
pub use handler::PluginHandler;
pub use host::{Builder, Host, Inspection};

/// The plugin interface, as authors need it: each file's path below `wit/`, and its text.
pub const WIT: &[(&str, &str)] = &[
    ("plugin.wit", include_str!("../../plugins/wit/0.1/plugin.wit")),
    ("deps/config/store.wit", include_str!("../../plugins/wit/0.1/deps/config/store.wit")),
    ("deps/logging/logging.wit", include_str!("../../plugins/wit/0.1/deps/logging/logging.wit")),
];

#[cfg(test)]
mod tests;
