//! Reading a `[channels.NAME]`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::{Channel, NameTemplate, Output, Overflow, Routes, Source, Target};
use crate::config::connection::{self, Connection};
use crate::config::handler::Handler;
use crate::config::keys::Table as Keys;
use crate::config::pattern::Pattern;
use crate::config::plugins::Plugins;
use crate::config::quantity::{LARGEST, show_size};
use crate::config::reader::{Span, Table, Text, Value, quoted};
use crate::config::{reader, suggest};

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
const LARGEST_PAYLOAD: usize = 512 << 20;

/// Most messages of one channel in hand at once.
const MOST_WORKERS: usize = 1024;

/// Longest name or pattern: Redis itself has hardly a limit.
const LONGEST_NAME: usize = 4096;

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
        handlers: Vec::new(),
        outputs: Vec::new(),
        routes: Routes::default(),
        workers: 1,
        queue: QUEUE.min(context.memory),
        overflow: Overflow::default(),
        max_payload: MAX_PAYLOAD,
    };
    let errors = value.reader.errors();
    let mut places = Places { outputs: Vec::new(), routes: None, loops: false, is_sound: false };
    let Some(table) = value.table(Keys::Channel) else { return (channel, places) };
    read_source(&table, &mut channel, value);
    if let Some(handlers) = table.get("handlers") {
        channel.handlers = read_handlers(&handlers, context);
    }
    read_outputs(&table, &mut channel, &mut places, context);
    if let Some(routes) = table.get("routes") {
        channel.routes = read_routes(&routes, context);
        places.routes = Some(routes.key_span.clone());
    }
    places.loops = table.get("loops").and_then(|value| value.boolean()).unwrap_or(false);
    read_flow(&table, &mut channel, context);
    check_purpose(&table, &channel, value);
    places.is_sound = value.reader.errors() == errors;
    (channel, places)
}

fn read_source(table: &Table<'_, '_>, channel: &mut Channel, header: &Value<'_, '_>) {
    let subscribe = table.get("subscribe");
    let pattern = table.get("pattern");
    if let (Some(_), Some(pattern)) = (&subscribe, &pattern) {
        let help = "a channel has one source: make two channels, or remove one key".to_owned();
        pattern.reader.error(
            &pattern.key_span,
            "`subscribe` and `pattern` are both there".to_owned(),
            vec![help],
        );
    }
    match (subscribe, pattern) {
        (Some(names), _) => {
            let names = read_names(&names, "a Redis channel");
            for (name, span) in &names {
                warn_of_pattern(header, name, span);
            }
            channel.source = Source::Subscribe(names.into_iter().map(|(name, _)| name).collect());
        }
        (None, Some(patterns)) => {
            let patterns = read_names(&patterns, "a pattern");
            channel.source = Source::Pattern(patterns.into_iter().map(|(name, _)| name).collect());
        }
        (None, None) => warn_of_pattern(header, header.key, &header.key_span),
    }
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

/// A name or a list of names: none empty, none twice, and at least one unless it was wrong.
fn read_names(value: &Value<'_, '_>, what: &str) -> Vec<(Arc<str>, Span)> {
    let kind = value.value.get_ref();
    if !kind.is_str() && !kind.is_array() {
        value.wrong_kind("a name or a list of names", None);
        return Vec::new();
    }
    let items = value.items();
    if items.is_empty() {
        let help = format!("write the name of {what}, or a list of them");
        value.error(format!("{} is an empty list", quoted(value.key)), Some(help));
    }
    let mut seen = HashSet::new();
    let mut names = Vec::with_capacity(items.len());
    for item in &items {
        let Some(text) = item.text() else { continue };
        if !check_name(item, &text) {
            continue;
        }
        let name: Arc<str> = text.value.as_str().into();
        if seen.insert(name.clone()) {
            names.push((name, item.span()));
        } else {
            let help = Some("remove one of them".to_owned());
            item.error(format!("{} is there twice", text.quoted()), help);
        }
    }
    names
}

/// Whether a text can be a name in Redis.
fn check_name(value: &Value<'_, '_>, text: &Text) -> bool {
    if text.value.is_empty() {
        let help = Some("write a name".to_owned());
        value.error(format!("{} has an empty name", quoted(value.key)), help);
        return false;
    }
    if text.value.len() > LONGEST_NAME {
        let message = format!(
            "a name in {} has {} bytes; at most {LONGEST_NAME} are allowed",
            quoted(value.key),
            text.value.len()
        );
        value.error(message, None);
        return false;
    }
    true
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

fn read_outputs(
    table: &Table<'_, '_>,
    channel: &mut Channel,
    places: &mut Places,
    context: &Context<'_>,
) {
    let mut add = |output: Output, item: &Value<'_, '_>| {
        if channel.outputs.contains(&output) {
            let help = Some("remove one of them".to_owned());
            item.error(format!("{} names the same output twice", quoted(item.key)), help);
        } else {
            channel.outputs.push(output);
            places.outputs.push(item.span());
        }
    };
    type Kind = (&'static str, Keys, &'static str, fn(Target) -> Output);
    const KINDS: [Kind; 2] = [
        ("publish", Keys::PublishTarget, "channel", Output::Publish),
        ("push", Keys::PushTarget, "list", Output::Push),
    ];
    for (key, keys, name_key, output) in KINDS {
        let Some(value) = table.get(key) else { continue };
        let items = value.items();
        if items.is_empty() {
            let help = Some(format!("write a name, or remove `{key}`"));
            value.error(format!("`{key}` is an empty list"), help);
        }
        for item in items {
            let Some(target) = read_target(&item, keys, name_key, context) else { continue };
            if key == "push" && context.embedded && &*target.connection == "redis" {
                connection::refuse_push(&item);
            }
            add(output(target), &item);
        }
    }
    if let Some(log) = table.get("log")
        && log.boolean() == Some(true)
    {
        add(Output::Log, &log);
    }
}

/// One item of `publish` or `push`: a name, or a table with a connection and a name.
fn read_target(
    value: &Value<'_, '_>,
    keys: Keys,
    name_key: &str,
    context: &Context<'_>,
) -> Option<Target> {
    let redis = || "redis".into();
    if value.value.get_ref().is_str() {
        return Some(Target { connection: redis(), name: read_template(value)? });
    }
    if !value.value.get_ref().is_table() {
        let form = format!("a name, a list, or {{ to = …, {name_key} = … }}");
        value.wrong_kind(&form, None);
        return None;
    }
    let table = value.table(keys)?;
    let connection = match table.get("to") {
        None => Some(redis()),
        Some(to) => read_connection(&to, context),
    };
    let Some(name) = table.get(name_key) else {
        let help = format!("add {name_key} = \"NAME\"");
        let message = format!("this output in {} has no `{name_key}`", quoted(value.key));
        value.reader.missing(&value.span(), message, vec![help]);
        return None;
    };
    let name = read_template(&name)?;
    Some(Target { connection: connection?, name })
}

fn read_connection(value: &Value<'_, '_>, context: &Context<'_>) -> Option<Arc<str>> {
    let text = value.text()?;
    if text.value == "redis" {
        return Some("redis".into());
    }
    if let Some((name, _)) = context.connections.get_key_value(text.value.as_str()) {
        return Some(name.clone());
    }
    let names = || context.connections.keys().map(|name| &**name);
    let help = match suggest::nearest(&text.value, names()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if context.connections.is_empty() => {
            "add [connections.NAME] with its `url`; \"redis\" is the one of [redis]".to_owned()
        }
        None => format!("there are: {}", names().collect::<Vec<_>>().join(", ")),
    };
    let message = format!("there is no {}", text.header("connections"));
    value.reader.missing(&value.span(), message, vec![help]);
    None
}

/// A name with `{channel}` in it, perhaps.
fn read_template(value: &Value<'_, '_>) -> Option<NameTemplate> {
    const PLACEHOLDER: &str = "{channel}";
    let text = value.text()?;
    if !check_name(value, &text) {
        return None;
    }
    let parts: Vec<&str> = text.value.split(PLACEHOLDER).collect();
    let other = parts.iter().find_map(|part| {
        let start = part.find('{')?;
        let end = part[start..].find('}')? + start + 1;
        Some(&part[start..end])
    });
    if let Some(other) = other {
        let message = if text.has_variables() {
            format!("a name in {} has another placeholder than {PLACEHOLDER}", quoted(value.key))
        } else {
            format!("{} is no placeholder", quoted(other))
        };
        let help = format!("the only one is {PLACEHOLDER}: the Redis channel of the message");
        value.error(message, Some(help));
        return None;
    }
    Some(match parts.as_slice() {
        [fixed] => NameTemplate::Fixed((*fixed).into()),
        parts => NameTemplate::Parts(parts.iter().map(|part| (*part).into()).collect()),
    })
}

fn read_routes(value: &Value<'_, '_>, context: &mut Context<'_>) -> Routes {
    let Some(table) = value.table(Keys::Routes) else { return Routes::default() };
    if let Some(push) = table.get("push")
        && context.embedded
    {
        connection::refuse_push(&push);
    }
    let known = &mut context.patterns;
    let mut spans = Vec::new();
    let mut patterns = |key: &str, keep_spans: bool| {
        let mut patterns = Vec::new();
        let Some(value) = table.get(key) else { return patterns };
        for (text, span) in read_names(&value, "a pattern") {
            let pattern = known.get(&text).cloned().map_or_else(|| Pattern::new(&text), Ok);
            match pattern {
                Ok(pattern) => {
                    known.insert(text, pattern.clone());
                    patterns.push(pattern);
                    if keep_spans {
                        spans.push(span);
                    }
                }
                Err(error) => {
                    let help = vec!["split it into several".to_owned()];
                    value.reader.error(&span, error.to_string(), help);
                }
            }
        }
        patterns
    };
    let publish = patterns("publish", false);
    let push = patterns("push", true);
    for (push, span) in push.iter().zip(&spans) {
        if let Some(publish) = publish.iter().find(|publish| publish.overlaps(push)) {
            let message = format!(
                "a name can match both {} of `publish` and {} of `push`: how should it be sent?",
                quoted(publish.text()),
                quoted(push.text())
            );
            let help = "use patterns that no name matches twice".to_owned();
            value.reader.error(span, message, vec![help]);
        }
    }
    Routes { publish, push }
}

/// `workers`, `queue`, `overflow`, `max_payload`.
fn read_flow(table: &Table<'_, '_>, channel: &mut Channel, context: &Context<'_>) {
    if let Some(workers) = table.get("workers").and_then(|value| value.count(1..=MOST_WORKERS)) {
        channel.workers = workers;
    }
    let policies = [("drop-oldest", Overflow::DropOldest), ("drop-newest", Overflow::DropNewest)];
    if let Some(policy) = table.get("overflow").and_then(|value| value.choice(&policies)) {
        channel.overflow = policy;
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
    // A key that is wrong has been reported, and one of a later version might be the output.
    let wrote = |key| table.get(key).is_some();
    let tried = wrote("publish") || wrote("push") || table.has_later_key(Keys::Channel);
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
    let help = "add publish = \"NAME\", push = \"NAME\", `routes` for its handlers, or log = true";
    header.reader.missing(&header.key_span, message, vec![help.to_owned()]);
}
