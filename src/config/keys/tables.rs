//! The keys of each table. Whoever adds a key adds it here: the reader then knows it, and the JSON
//! Schema and the manual page say what stands here.

use std::time::Duration;

use super::Table;
use super::key::{Key, Kind};
use crate::config::channel::{
    LARGEST_PAYLOAD, LEAST_CLAIM_IDLE, LEAST_QUEUE, LEAST_RETRY_FOR, MOST_BATCH, MOST_RETRIES,
    MOST_WORKERS,
};
use crate::config::handler::{LEAST_TIMEOUT, MOST_INSTANCES, MOST_OUTPUTS, PAGE, WASM32};
use crate::config::quantity::{LARGEST, LONGEST, MOST_ENTRIES};

pub(super) const ROOT: &[Key] = &[
    Key::new(
        "redis",
        Kind::Table(Table::Connection),
        "the Redis that messages come from and go to",
    ),
    Key::new("connections", Kind::Named(Table::Connection), "further Redises, for outputs"),
    Key::new("plugins", Kind::Table(Table::Plugins), "where plugins are"),
    Key::new(
        "handlers",
        Kind::Named(Table::Handler),
        "plugins under names, with settings. A plugin needs no table to be used: \
         handlers = [\"announce\"] of a channel means announce.wasm with the defaults",
    ),
    Key::new(
        "channels",
        Kind::Named(Table::Channel),
        "channels: a source, a chain of handlers, outputs. NAME is what commands, metrics and logs \
         call it",
    ),
    Key::new("limits", Kind::Table(Table::Limits), "what all of the daemon may use"),
    Key::new("daemon", Kind::Table(Table::Daemon), "how the daemon runs"),
    Key::new("log", Kind::Table(Table::Log), "the daemon's own log, on standard error"),
    Key::new(
        "http",
        Kind::Table(Table::Http),
        "GET /metrics for Prometheus, /healthz, /readyz, /status",
    ),
];

pub(super) const CONNECTION: &[Key] = &[
    Key::new(
        "url",
        Kind::Text,
        "where Redis is; \"embedded\": a broker in handlerd's own process, for trying things. \
         redis://HOST:PORT, rediss:// for TLS, or unix:///PATH for a socket; /2 at the end \
         (?db=2 of a socket) is a database. Only [redis] can be embedded, and only it may have no \
         url",
    )
    .default("\"redis://127.0.0.1:6379\""),
    Key::new(
        "listen",
        Kind::Text,
        "embedded only: where it listens; taken: the next free port up to 6399",
    )
    .default("\"127.0.0.1:6379\""),
    Key::new("username", Kind::Text, "the ACL user: Redis's \"default\" unless given")
        .example("\"handlerd\""),
    Key::new(
        "password_file",
        Kind::Text,
        "has the password, and is read at every connect; or the systemd credential \
         `redis-password`, which is for [redis]",
    )
    .example("\"redis-password\""),
    Key::new("tls", Kind::Table(Table::Tls), "PEM files, for rediss://, read at every connect"),
];

pub(super) const TLS: &[Key] = &[
    Key::new(
        "ca_file",
        Kind::Text,
        "certificates of the authorities to trust, instead of the system's",
    ),
    Key::new("cert_file", Kind::Text, "the client's certificate").needs("key_file"),
    Key::new("key_file", Kind::Text, "the client's private key").needs("cert_file"),
];

pub(super) const PLUGINS: &[Key] = &[Key::new(
    "dir",
    Kind::Text,
    "every NAME.wasm directly in it is a plugin; sub-folders are not entered",
)
.default("\"plugins\"")];

pub(super) const HANDLER: &[Key] = &[
    Key::new(
        "plugin",
        Kind::Text,
        "NAME.wasm unless given: one file can serve under several names. A name without `/` is in \
         the plugin folder, another one is a path to a file elsewhere, which is watched as well",
    )
    .example("\"redact.wasm\""),
    Key::new(
        "sha256",
        Kind::Matching("^[0-9a-fA-F]{64}$"),
        "`sha256sum` says a file's: one with other bytes is refused",
    ),
    Key::new(
        "config",
        Kind::Settings,
        "settings, which the plugin reads: strings as they are, other values as JSON. \
         { file = \"…\" }, { env = \"…\" } and { credential = \"…\" } are secrets, which are never \
         shown",
    ),
    Key::new(
        "instance",
        Kind::Words(&["reuse", "fresh"]),
        "one instance serves many messages; or \"fresh\": a new one for every message",
    )
    .default("\"reuse\""),
    Key::new("memory", Kind::Size(PAGE, WASM32), "what one instance may have").default("\"64MiB\""),
    Key::new(
        "timeout",
        Kind::Time(LEAST_TIMEOUT, LONGEST),
        "wall time of one call; one that a stalled machine held up is let off",
    )
    .default("\"100ms\""),
    Key::new("max_outputs", Kind::Count(1, MOST_OUTPUTS), "messages that one call returns")
        .default("1000"),
    Key::new("max_output", Kind::Size(1, WASM32), "bytes that one call returns")
        .default("\"16MiB\""),
    Key::new("max_log", Kind::Size(0, WASM32), "bytes that one call logs").default("\"64KiB\""),
    Key::new(
        "instances",
        Kind::Count(1, MOST_INSTANCES),
        "instances at once, at most: the machine's cores unless given",
    )
    .example("2"),
];

pub(super) const CHANNEL: &[Key] = &[
    Key::new(
        "subscribe",
        Kind::Names,
        "a name or a list; NAME unless another source is given. The Redis channels that messages \
         come from, as SUBSCRIBE reads them",
    )
    .example("\"chat\"")
    .excludes(&["pattern", "stream"]),
    Key::new(
        "pattern",
        Kind::Names,
        "instead of subscribe: a pattern or a list, as PSUBSCRIBE reads it",
    )
    .example("\"chat-*\"")
    .excludes(&["subscribe", "stream"]),
    Key::new(
        "stream",
        Kind::Names,
        "instead of subscribe: a name or a list, read by the same group. Nothing is lost when \
         handlerd or Redis dies",
    )
    .example("\"orders\"")
    .needs("group")
    .excludes(&["subscribe", "pattern", "overflow"]),
    Key::new(
        "group",
        Kind::Text,
        "the consumer group, made where it is missing; daemons with the same share the work",
    )
    .example("\"billing\"")
    .needs("stream"),
    Key::new(
        "start",
        Kind::Either(&[Kind::Words(&["new", "oldest"]), Kind::Matching("^[0-9]+(-[0-9]+)?$")]),
        "where a group begins that is made where entries are: or \"oldest\", or an id to begin after",
    )
    .example("\"new\"")
    .needs("stream"),
    Key::new(
        "consumer",
        Kind::Text,
        "this daemon's name in the group: one that it makes for itself unless given",
    )
    .example("\"billing-1\"")
    .needs("stream"),
    Key::new("batch", Kind::Count(1, MOST_BATCH), "entries that are read at once")
        .default("128")
        .needs("stream"),
    Key::new(
        "claim_idle",
        Kind::Time(LEAST_CLAIM_IDLE, LONGEST),
        "entries of a daemon that was not heard of for so long are taken over by another",
    )
    .default("\"30s\"")
    .needs("stream"),
    Key::new(
        "max_deliveries",
        Kind::Count(1, u32::MAX as usize),
        "an entry that was delivered more often is handled alone; one that kills is a dead letter",
    )
    .default("10")
    .needs("stream"),
    Key::new(
        "when_done",
        Kind::Words(&["ack", "delete"]),
        "what becomes of a handled entry; or \"delete\": it leaves the stream; for one with one group",
    )
    .default("\"ack\"")
    .needs("stream"),
    Key::new(
        "payload_field",
        Kind::Text,
        "the field that is the payload; the other fields are headers",
    )
    .default("\"payload\"")
    .needs("stream"),
    Key::new(
        "single",
        Kind::Boolean,
        "true: of daemons with the same NAME one handles what comes, others stand by",
    )
    .default("false")
    .excludes(&["stream"]),
    Key::new(
        "handlers",
        Kind::List,
        "each one's outputs are the next one's inputs. Names of [handlers.NAME] or of plugins",
    )
    .example(r#"["redact", "announce"]"#),
    Key::new(
        "publish",
        Kind::Targets(Table::PublishTarget),
        "one name or a list; {channel} is the Redis channel the message came on. By another \
         connection: { to = \"eu\", channel = \"chat.out\" }",
    )
    .example("\"chat.out\""),
    Key::new(
        "append",
        Kind::Targets(Table::AppendTarget),
        "XADD to a stream, which keeps headers: a name or several. Of a stream's messages, on the \
         same Redis, it is one step with the acknowledgement. By another connection: \
         { to = \"eu\", stream = \"chat.log\" }",
    )
    .example("\"chat.log\""),
    Key::new(
        "push",
        Kind::Targets(Table::PushTarget),
        "RPUSH to a list: a name or several. By another connection: { to = \"eu\", list = \"l\" }",
    )
    .example("\"chat.list\""),
    Key::new(
        "maxlen",
        Kind::Count(1, MOST_ENTRIES),
        "about how many entries `append` keeps: all unless given",
    )
    .example("100000"),
    Key::new("routes", Kind::Table(Table::Routes), "where handlers themselves may send"),
    Key::new("log", Kind::Boolean, "a line a message").default("false"),
    Key::new(
        "workers",
        Kind::Count(1, MOST_WORKERS),
        "messages handled at once; 1 keeps the order",
    )
    .default("1"),
    Key::new(
        "order_by",
        Kind::Text,
        "several workers keep the order where this JSON Pointer's value is the same, or for a \
         stream where this header's value is",
    )
    .example("\"/room\""),
    Key::new("queue", Kind::Size(LEAST_QUEUE, LARGEST), "what may wait while handlers are busy")
        .default("\"16MiB\""),
    Key::new(
        "overflow",
        Kind::Words(&["drop-oldest", "drop-newest"]),
        "what a full queue loses (it is counted); or \"drop-newest\". Nothing of a stream's: what \
         doesn't fit isn't read",
    )
    .default("\"drop-oldest\""),
    Key::new(
        "max_payload",
        Kind::Size(1, LARGEST_PAYLOAD),
        "larger messages are dropped and counted; those of a stream are dead letters",
    )
    .default("\"1MiB\""),
    Key::new(
        "retries",
        Kind::Either(&[Kind::Count(0, MOST_RETRIES), Kind::Words(&["forever"])]),
        "how often a message is tried again in place; or \"forever\". For streams 3 unless given, \
         for pub/sub 0",
    )
    .example("3"),
    Key::new(
        "retry_for",
        Kind::Time(LEAST_RETRY_FOR, LONGEST),
        "how long a message is tried again, for pub/sub 30s; with retries = \"forever\" no end unless \
         given. For streams 5m",
    )
    .example("\"5m\""),
    Key::new(
        "dead_letter",
        Kind::Either(&[Kind::Text, Kind::False]),
        "a stream that keeps what could not be handled, with the reason. NAME.dead for streams, \
         none for pub/sub; false: dropped, logged and counted instead",
    )
    .example("\"chat.dead\""),
    Key::new(
        "dead_letter_maxlen",
        Kind::Count(1, MOST_ENTRIES),
        "about how many dead letters are kept: all unless given",
    )
    .example("100000"),
    Key::new("loops", Kind::Boolean, "true: this channel may be part of a circle").default("false"),
];

/// `to` of an output.
const TO: Key = Key::new("to", Kind::Text, "NAME of [connections.NAME]").default("\"redis\"");

pub(super) const PUBLISH_TARGET: &[Key] = &[
    TO,
    Key::new("channel", Kind::Text, "a name; {channel} is the Redis channel the message came on")
        .required(),
];

pub(super) const APPEND_TARGET: &[Key] = &[
    TO,
    Key::new("stream", Kind::Text, "a name; {channel} is the Redis channel the message came on")
        .required(),
];

pub(super) const PUSH_TARGET: &[Key] = &[
    TO,
    Key::new("list", Kind::Text, "a name; {channel} is the Redis channel the message came on")
        .required(),
];

pub(super) const ROUTES: &[Key] = &[
    Key::new("publish", Kind::Names, "Redis channels, names or patterns: a name or a list"),
    Key::new("append", Kind::Names, "streams, names or patterns: a name or a list"),
    Key::new("push", Kind::Names, "lists, names or patterns: a name or a list"),
];

pub(super) const LIMITS: &[Key] = &[Key::new(
    "memory",
    Kind::Size(LEAST_QUEUE, LARGEST),
    "all queues together, a stream's at most an even share; the fullest of pub/sub's drops first",
)
.default("\"256MiB\"")];

pub(super) const DAEMON: &[Key] = &[Key::new(
    "drain_timeout",
    Kind::Time(Duration::ZERO, LONGEST),
    "to finish what was taken, at SIGTERM; systemd is asked for this time",
)
.default("\"10s\"")];

pub(super) const LOG: &[Key] = &[
    Key::new(
        "level",
        Kind::Either(&[
            Kind::Words(&["error", "warn", "info", "debug", "trace", "off"]),
            Kind::Text,
        ]),
        "trace, debug, info, warn, error, or a filter: \"info,handlerd::output=warn\"",
    )
    .default("\"info\""),
    Key::new(
        "format",
        Kind::Words(&["auto", "text", "json", "journal"]),
        "journald's protocol under systemd, else text; or \"text\", \"json\", \"journal\"",
    )
    .default("\"auto\""),
];

pub(super) const HTTP: &[Key] = &[Key::new(
    "listen",
    Kind::Either(&[Kind::Text, Kind::False]),
    "taken: said, and tried again; false: no endpoints. An IP address and a port",
)
.default("\"127.0.0.1:9847\"")];
