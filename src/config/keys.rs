//! All keys, by the table they belong to: those of this version, and those that the contract has
//! for later ones.
//!
//! The one place that says what keys there are: the reader, the suggestions in errors, the JSON
//! Schema and the manual page ask here, and tests compare `config.toml` with it. Never reads a file.
//!
//! A later version takes its keys out of [`LATER`] and puts them into `tables`.

mod key;
mod tables;

pub(super) use key::{Key, Kind};

/// A table of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Root,
    /// `[redis]` and `[connections.NAME]`.
    Connection,
    Tls,
    Plugins,
    Handler,
    Channel,
    /// A `{ … }` in `publish`.
    PublishTarget,
    /// A `{ … }` in `append`.
    AppendTarget,
    /// A `{ … }` in `push`.
    PushTarget,
    Routes,
    Limits,
    Daemon,
    Log,
    Http,
}

impl Table {
    /// All of them, in the order in which a misplaced key is looked up.
    pub const ALL: [Table; 14] = [
        Table::Channel,
        Table::Handler,
        Table::Connection,
        Table::Plugins,
        Table::Limits,
        Table::Daemon,
        Table::Log,
        Table::Http,
        Table::Tls,
        Table::Routes,
        Table::PublishTarget,
        Table::AppendTarget,
        Table::PushTarget,
        Table::Root,
    ];

    /// How errors call it.
    pub fn title(self) -> &'static str {
        match self {
            Table::Root => "the top level",
            Table::Connection => "[redis] and [connections.NAME]",
            Table::Tls => "`tls`",
            Table::Plugins => "[plugins]",
            Table::Handler => "[handlers.NAME]",
            Table::Channel => "[channels.NAME]",
            Table::PublishTarget => "a table in `publish`",
            Table::AppendTarget => "a table in `append`",
            Table::PushTarget => "a table in `push`",
            Table::Routes => "`routes`",
            Table::Limits => "[limits]",
            Table::Daemon => "[daemon]",
            Table::Log => "[log]",
            Table::Http => "[http]",
        }
    }

    /// The keys that it may have.
    pub fn keys(self) -> &'static [Key] {
        match self {
            Table::Root => tables::ROOT,
            Table::Connection => tables::CONNECTION,
            Table::Tls => tables::TLS,
            Table::Plugins => tables::PLUGINS,
            Table::Handler => tables::HANDLER,
            Table::Channel => tables::CHANNEL,
            Table::PublishTarget => tables::PUBLISH_TARGET,
            Table::AppendTarget => tables::APPEND_TARGET,
            Table::PushTarget => tables::PUSH_TARGET,
            Table::Routes => tables::ROUTES,
            Table::Limits => tables::LIMITS,
            Table::Daemon => tables::DAEMON,
            Table::Log => tables::LOG,
            Table::Http => tables::HTTP,
        }
    }

    /// Their names.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        self.keys().iter().map(|key| key.name)
    }

    /// Whether it may have a key of this name.
    pub fn has(self, name: &str) -> bool {
        self.names().any(|known| known == name)
    }

    /// The sentence about a key that a later version brings; `None` for any other.
    pub fn later(self, key: &str) -> Option<String> {
        let (.., subject) = LATER.iter().find(|(table, name, _)| *table == self && *name == key)?;
        Some(format!("{subject} not in this version of handlerd"))
    }

    /// The keys of this table that a later version brings.
    pub fn later_keys(self) -> impl Iterator<Item = &'static str> {
        LATER.iter().filter(move |(table, ..)| *table == self).map(|(_, name, _)| *name)
    }
}

/// Keys that the contract has and this version doesn't: the table, the key, and the beginning of
/// the sentence that ends in "not in this version of handlerd".
const LATER: &[(Table, &str, &str)] = &[
    (Table::Root, "gateway", "the gateway for browsers, [gateway], is"),
    (Table::Handler, "allow", "`allow`, the capabilities of plugins, is"),
];

#[cfg(test)]
mod tests;
