//! The names of all keys, by the table they belong to: those of this version, and those that the
//! contract has for later ones.
//!
//! A later version takes its keys out of [`LATER`] and puts them into [`Table::keys`].

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
}

impl Table {
    /// All of them, in the order in which a misplaced key is looked up.
    pub const ALL: [Table; 13] = [
        Table::Channel,
        Table::Handler,
        Table::Connection,
        Table::Plugins,
        Table::Limits,
        Table::Daemon,
        Table::Log,
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
        }
    }

    /// The keys that it may have.
    pub fn keys(self) -> &'static [&'static str] {
        match self {
            Table::Root => &[
                "redis",
                "connections",
                "plugins",
                "handlers",
                "channels",
                "limits",
                "daemon",
                "log",
            ],
            Table::Connection => &["url", "listen", "username", "password_file", "tls"],
            Table::Tls => &["ca_file", "cert_file", "key_file"],
            Table::Plugins => &["dir"],
            Table::Handler => &[
                "plugin",
                "sha256",
                "config",
                "instance",
                "memory",
                "timeout",
                "max_outputs",
                "max_output",
                "max_log",
                "instances",
            ],
            Table::Channel => &[
                "subscribe",
                "pattern",
                "stream",
                "group",
                "start",
                "consumer",
                "batch",
                "claim_idle",
                "max_deliveries",
                "when_done",
                "payload_field",
                "single",
                "handlers",
                "publish",
                "append",
                "push",
                "maxlen",
                "routes",
                "log",
                "workers",
                "order_by",
                "queue",
                "overflow",
                "max_payload",
                "retries",
                "retry_for",
                "dead_letter",
                "dead_letter_maxlen",
                "loops",
            ],
            Table::PublishTarget => &["to", "channel"],
            Table::AppendTarget => &["to", "stream"],
            Table::PushTarget => &["to", "list"],
            Table::Routes => &["publish", "append", "push"],
            Table::Limits => &["memory"],
            Table::Daemon => &["drain_timeout"],
            Table::Log => &["level", "format"],
        }
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
    (Table::Root, "http", "the HTTP endpoints of [http] are"),
    (Table::Root, "gateway", "the gateway for browsers, [gateway], is"),
    (Table::Handler, "allow", "`allow`, the capabilities of plugins, is"),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const ROOT: &str = env!("CARGO_MANIFEST_DIR");

    /// Whether the key stands in the text: with a value, as a table, or inside a `{ … }`.
    fn stands_in(text: &str, key: &str) -> bool {
        let forms = [("", " = "), ("[", "]"), ("[", "."), (".", "]")];
        forms.into_iter().any(|(a, b)| text.contains(&format!("{a}{key}{b}")))
    }

    #[test]
    fn every_key_is_in_the_full_example() {
        let read = |name| {
            let file = format!("{ROOT}/tests/fixtures/config/valid/{name}");
            std::fs::read_to_string(file).expect("the fixture")
        };
        // No Redis is both far away and embedded.
        let text = read("full.toml") + &read("embedded.toml");
        for key in Table::ALL.into_iter().flat_map(Table::keys) {
            assert!(stands_in(&text, key), "{key}");
        }
    }

    /// The keys that the reference shows, each with the table that it stands in; commented out or
    /// not.
    fn shown(text: &str) -> HashSet<(&'static str, String)> {
        let mut found = HashSet::new();
        let mut table = Table::Root;
        for line in text.lines().map(|line| line.strip_prefix("# ").unwrap_or(line)) {
            if let Some(head) = line.strip_prefix('[') {
                let name = head.split(['.', ']']).next().unwrap_or_default();
                found.insert((Table::Root.title(), name.to_owned()));
                table = match name {
                    "redis" | "connections" => Table::Connection,
                    "plugins" => Table::Plugins,
                    "handlers" => Table::Handler,
                    "channels" => Table::Channel,
                    "limits" => Table::Limits,
                    "daemon" => Table::Daemon,
                    "log" => Table::Log,
                    other => panic!("what is [{other}]?"),
                };
            } else if let Some((key, _)) = line.split_once(" = ") {
                found.insert((table.title(), key.to_owned()));
            }
            // Tables within a line, also in what is said about it.
            for (key, inner) in [
                ("tls", Table::Tls),
                ("routes", Table::Routes),
                ("publish", Table::PublishTarget),
                ("push", Table::PushTarget),
                ("append", Table::AppendTarget),
            ] {
                let Some((_, inside)) = line.split_once(&format!("{key} = {{ ")) else { continue };
                let (inside, _) = inside.split_once(" }").expect("it ends");
                let keys = inside.split(" = ").filter_map(|part| part.rsplit(' ').next());
                found.extend(keys.map(|key| (inner.title(), key.to_owned())));
            }
        }
        found
    }

    #[test]
    fn every_key_is_in_the_reference_below_its_table() {
        let text = std::fs::read_to_string(format!("{ROOT}/config.toml")).expect("it is there");
        let shown = shown(&text);
        for table in Table::ALL {
            for key in table.keys() {
                let is_shown = shown.contains(&(table.title(), (*key).to_owned()));
                assert!(is_shown, "config.toml doesn't show `{key}` in {}", table.title());
            }
        }
    }

    #[test]
    fn a_key_is_of_this_version_or_of_a_later_one() {
        for (table, key, _) in LATER {
            assert!(!table.keys().contains(key), "{key} of {}", table.title());
            let sentence = table.later(key).unwrap_or_default();
            assert!(sentence.ends_with("not in this version of handlerd"), "{sentence}");
        }
        assert!(Table::ALL.iter().all(|table| table.later("frobnicate").is_none()));
    }
}
