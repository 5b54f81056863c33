//! Reading a `[channels.NAME]`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::names::read_names;
use super::{Channel, Overflow, Retries, Routes, Source, failure, order, outputs, single, stream};
use crate::config::connection::Connection;
use crate::config::handler::Handler;
use crate::config::keys::Table as Keys;
use crate::config::pattern::Pattern;
use crate::config::plugins::Plugins;
use crate::config::quantity::{LARGEST, show_size};
use crate::config::reader::{self, Span, Table, Value, quoted};

/// `queue` where none is written.
const QUEUE: usize = 16 << 20;

/// `max_payload` where none is written.
const MAX_PAYLOAD: usize = 1 << 20;

/// What a waiting message takes in the queue beside its payload, roughly: its name and what keeps
/// it.
const OVERHEAD: usize = 1 << 10;

/// Least `queue` and `[limits] memory`: a few small messages.
pub(in crate::config) const LEAST_QUEUE: usize = 4 << 10;

/// Redis takes no longer string than this, unless its `proto-max-bulk-len` was raised.
pub(in crate::config) const LARGEST_PAYLOAD: usize = 512 << 20;

/// Most messages of one channel in hand at once.
pub(in crate::config) const MOST_WORKERS: usize = 1024;

/// What reading a channel needs to know of the rest of the file.
pub(in crate::config) struct Context<'c> {
    pub connections: &'c BTreeMap<Arc<str>, Connection>,
    /// Whether [redis] is the embedded broker, which has pub/sub only.
    pub embedded: bool,
    pub plugins: &'c Plugins,
    /// Those of `[handlers.NAME]`; files that channels name are added.
    pub handlers: BTreeMap<Arc<str>, Handler>,
    /// NAME of each `[handlers.NAME]`.
    pub tables: HashSet<&'c str>,
    /// `[limits] memory`.
    pub memory: usize,
    /// Patterns of `routes` that have been compiled already: many channels may have the same.
    pub patterns: HashMap<Arc<str>, Pattern>,
}

/// Where in the file the parts of a channel are, and what only the circle check wants to know.
pub(in crate::config) struct Places {
    /// For each of the channel's outputs.
    pub outputs: Vec<Span>,
    /// `routes`.
    pub routes: Option<Span>,
    /// For each of the source's streams.
    pub streams: Vec<Span>,
    /// `dead_letter`, or what they come from where that isn't written: the channel.
    pub dead_letter: Span,
    /// `loops = true`
    pub loops: bool,
    /// Whether no error was found in it.
    pub is_sound: bool,
}

/// Read a channel. Names of handlers that exist only as files are added to the context's.
pub(in crate::config) fn read(
    value: &Value<'_, '_>,
    context: &mut Context<'_>,
) -> (Channel, Places) {
    let name: Arc<str> = value.key.into();
    let mut channel = Channel {
        name: name.clone(),
        source: Source::Subscribe(vec![name]),
        single: false,
        handlers: Vec::new(),
        outputs: Vec::new(),
        maxlen: None,
        routes: Routes::default(),
        workers: 1,
        order_by: None,
        queue: QUEUE.min(context.memory),
        overflow: Overflow::default(),
        max_payload: MAX_PAYLOAD,
        retries: Retries::Times(0),
        retry_for: None,
        dead_letter: None,
        dead_letter_maxlen: None,
    };
    let errors = value.reader.errors();
    let mut places = Places {
        outputs: Vec::new(),
        routes: None,
        streams: Vec::new(),
        dead_letter: value.key_span.clone(),
        loops: false,
        is_sound: false,
    };
    let Some(table) = value.table(Keys::Channel) else { return (channel, places) };
    (channel.source, places.streams) = read_source(&table, value, context.embedded);
    if let Some(handlers) = table.get("handlers") {
        channel.handlers = read_handlers(&handlers, context);
    }
    outputs::read(&table, &mut channel, &mut places, context);
    // There may be ten thousand channels.
    channel.handlers.shrink_to_fit();
    channel.outputs.shrink_to_fit();
    places.loops = table.get("loops").and_then(|value| value.boolean()).unwrap_or(false);
    read_flow(&table, &mut channel, context);
    channel.order_by = order::read(&table, &channel);
    if let Some(place) = failure::read(&table, &mut channel, context.embedded) {
        places.dead_letter = place;
    }
    channel.single = single::read(&table, &channel, context.embedded);
    check_purpose(&table, &channel, value);
    places.is_sound = value.reader.errors() == errors;
    (channel, places)
}

/// The source, and where its streams are in the file.
fn read_source(
    table: &Table<'_, '_>,
    header: &Value<'_, '_>,
    embedded: bool,
) -> (Source, Vec<Span>) {
    let found: Vec<Value<'_, '_>> =
        ["subscribe", "pattern", "stream"].into_iter().filter_map(|key| table.get(key)).collect();
    if let [first, others @ ..] = found.as_slice() {
        for other in others {
            let message = format!("`{}` and `{}` are both there", first.key, other.key);
            let help = "a channel has one source: make two channels, or remove one key".to_owned();
            other.reader.error(&other.key_span, message, vec![help]);
        }
    }
    let Some(value) = found.last() else {
        warn_of_pattern(header, header.key, &header.key_span);
        stream::refuse_keys(table, None);
        return (Source::Subscribe(vec![header.key.into()]), Vec::new());
    };
    if value.key == "stream" {
        let (source, places) = stream::read(table, value, embedded);
        return (Source::Stream(source), places);
    }
    stream::refuse_keys(table, Some(value.key));
    let source = if value.key == "subscribe" {
        let names = read_names(value, "a Redis channel");
        for (name, span) in &names {
            warn_of_pattern(header, name, span);
        }
        Source::Subscribe(names.into_iter().map(|(name, _)| name).collect())
    } else {
        let patterns = read_names(value, "a pattern");
        Source::Pattern(patterns.into_iter().map(|(name, _)| name).collect())
    };
    (source, Vec::new())
}

/// A name with `*` in it is a name to SUBSCRIBE, and nobody means that.
fn warn_of_pattern(header: &Value<'_, '_>, name: &str, span: &Span) {
    if name.contains(['*', '?']) {
        header.reader.warning(
            span,
            format!("{} is subscribed to as a name, not as a pattern", quoted(name)),
            vec![format!("write pattern = \"{}\" if it is meant to match", name.escape_debug())],
        );
    }
}

fn read_handlers(value: &Value<'_, '_>, context: &mut Context<'_>) -> Vec<Arc<str>> {
    let toml::de::DeValue::Array(_) = value.value.get_ref() else {
        let help = value
            .value
            .get_ref()
            .as_str()
            .map(|name| format!("write handlers = [\"{}\"]", name.escape_debug()));
        value.wrong_kind("a list of names", help);
        return Vec::new();
    };
    let mut names = Vec::new();
    for item in value.items() {
        let Some((name, is_file)) = context.plugins.resolve(&item, &context.tables) else {
            continue;
        };
        let name: Arc<str> = name.into();
        if is_file && !context.handlers.contains_key(&name) {
            let mut handler = Handler::for_file(&context.plugins.file(&name));
            handler.name = name.clone();
            context.handlers.insert(name.clone(), handler);
        }
        names.push(name);
    }
    names
}

/// `workers`, `queue`, `overflow`, `max_payload`.
fn read_flow(table: &Table<'_, '_>, channel: &mut Channel, context: &Context<'_>) {
    if let Some(workers) = table.get("workers").and_then(|value| value.count(1..=MOST_WORKERS)) {
        channel.workers = workers;
    }
    let policies = [("drop-oldest", Overflow::DropOldest), ("drop-newest", Overflow::DropNewest)];
    if let Some(value) = table.get("overflow") {
        if let Some(policy) = value.choice(&policies) {
            channel.overflow = policy;
        }
        if matches!(channel.source, Source::Stream(_)) {
            let message = "`overflow` means nothing for a stream: what doesn't fit into the queue \
                           isn't read yet"
                .to_owned();
            value.reader.error(&value.key_span, message, vec!["remove it".to_owned()]);
        }
    }
    if let Some(value) = table.get("queue")
        && let Some(queue) = value.size(LEAST_QUEUE..=LARGEST)
    {
        channel.queue = queue;
        if queue > context.memory {
            let message = format!(
                "`queue` ({}) doesn't fit into `memory` of [limits] ({})",
                show_size(queue),
                show_size(context.memory)
            );
            value.error(message, Some("make it smaller, or `memory` larger".to_owned()));
        }
    }
    channel.max_payload = MAX_PAYLOAD.min(channel.queue - OVERHEAD);
    let Some(value) = table.get("max_payload") else { return };
    let Some(max_payload) = value.size(1..=LARGEST_PAYLOAD) else { return };
    channel.max_payload = max_payload;
    if max_payload + OVERHEAD > channel.queue {
        let message = format!(
            "`max_payload` ({}) and 1KiB for what keeps a message don't fit into `queue` ({}{})",
            show_size(max_payload),
            show_size(channel.queue),
            if table.get("queue").is_some() { "" } else { ", the default" }
        );
        value.error(message, Some("make it smaller, or `queue` larger".to_owned()));
    }
    let first = channel.handlers.first().and_then(|name| context.handlers.get(name));
    if let Some(handler) = first
        && max_payload > handler.limits.memory
    {
        let message = format!(
            "`max_payload` ({}) doesn't fit into `memory` of {} ({})",
            show_size(max_payload),
            reader::header("handlers", &handler.name),
            show_size(handler.limits.memory)
        );
        value.error(message, Some("make it smaller, or `memory` larger".to_owned()));
    }
}

/// A channel from which nothing can come out is a mistake.
fn check_purpose(table: &Table<'_, '_>, channel: &Channel, header: &Value<'_, '_>) {
    // A key that is wrong has been reported.
    let wrote = |key| table.get(key).is_some();
    let tried = wrote("publish") || wrote("append") || wrote("push");
    if tried || !channel.outputs.is_empty() {
        return;
    }
    let title = reader::header("channels", header.key);
    let message = if wrote("routes") {
        if wrote("handlers") {
            return;
        }
        format!("{title} has `routes`, but no handler that could use them")
    } else {
        format!("{title} sends nothing anywhere")
    };
    let help = "add publish = \"NAME\", append = \"NAME\", push = \"NAME\", `routes` for its \
                handlers, or log = true";
    header.reader.missing(&header.key_span, message, vec![help.to_owned()]);
}
