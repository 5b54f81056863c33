//! Where messages go: `publish`, `append`, `push`, `log`, and `routes`.

use std::sync::Arc;

use super::names::{check_name, read_names};
use super::read::{Context, Places};
use super::{Channel, NameTemplate, Output, Routes, Source, Target, failure};
use crate::config::connection;
use crate::config::keys::Table as Keys;
use crate::config::pattern::Pattern;
use crate::config::reader::{Span, Table, Value, quoted};
use crate::config::suggest;

/// What stands for the Redis channel of a message.
const PLACEHOLDER: &str = "{channel}";

/// A key that names outputs: the table that each can be, the key of the name in that, and what the
/// embedded broker would need for it.
struct Kind {
    key: &'static str,
    keys: Keys,
    name_key: &'static str,
    needs: Option<&'static str>,
    output: fn(Target) -> Output,
}

const KINDS: [Kind; 3] = [
    Kind {
        key: "publish",
        keys: Keys::PublishTarget,
        name_key: "channel",
        needs: None,
        output: Output::Publish,
    },
    Kind {
        key: "append",
        keys: Keys::AppendTarget,
        name_key: "stream",
        needs: Some("streams"),
        output: Output::Append,
    },
    Kind {
        key: "push",
        keys: Keys::PushTarget,
        name_key: "list",
        needs: Some("lists"),
        output: Output::Push,
    },
];

/// What to do where the embedded broker hasn't what an output needs.
const INSTEAD: &str = "use `publish`";

/// Read them; the source has been read.
pub(super) fn read(
    table: &Table<'_, '_>,
    channel: &mut Channel,
    places: &mut Places,
    context: &mut Context<'_>,
) {
    read_outputs(table, channel, places, context);
    if let Some(routes) = table.get("routes") {
        channel.routes = read_routes(&routes, context);
        places.routes = Some(routes.key_span.clone());
    }
    let Some(value) = table.get("maxlen") else { return };
    channel.maxlen = failure::read_maxlen(&value);
    if table.get("append").is_none() && channel.routes.append.is_empty() {
        let help = "add append = \"NAME\", or remove it".to_owned();
        let message = "`maxlen` means nothing without `append`".to_owned();
        value.reader.error(&value.key_span, message, vec![help]);
    }
}

fn read_outputs(
    table: &Table<'_, '_>,
    channel: &mut Channel,
    places: &mut Places,
    context: &Context<'_>,
) {
    let source = &channel.source;
    let outputs = &mut channel.outputs;
    let mut add = |output: Output, item: &Value<'_, '_>| {
        if outputs.contains(&output) {
            let help = Some("remove one of them".to_owned());
            item.error(format!("{} names the same output twice", quoted(item.key)), help);
        } else {
            outputs.push(output);
            places.outputs.push(item.span());
        }
    };
    for kind in &KINDS {
        let Some(value) = table.get(kind.key) else { continue };
        let items = value.items();
        if items.is_empty() {
            let help = Some(format!("write a name, or remove `{}`", kind.key));
            value.error(format!("`{}` is an empty list", kind.key), help);
        }
        for item in items {
            let Some(target) = read_target(&item, kind, source, context) else { continue };
            if let Some(needs) = kind.needs
                && context.embedded
                && &*target.connection == "redis"
            {
                connection::refuse_kind(&item, needs, INSTEAD);
            }
            add((kind.output)(target), &item);
        }
    }
    if let Some(log) = table.get("log")
        && log.boolean() == Some(true)
    {
        add(Output::Log, &log);
    }
}

/// One item of `publish`, `append` or `push`: a name, or a table with a connection and a name.
fn read_target(
    value: &Value<'_, '_>,
    kind: &Kind,
    source: &Source,
    context: &Context<'_>,
) -> Option<Target> {
    let redis = || "redis".into();
    let name_key = kind.name_key;
    // A key can have a hash tag; a Redis channel has none.
    let is_tag = |tag: &str| kind.key != "publish" && has_tag(source, tag);
    if value.value.get_ref().is_str() {
        return Some(Target { connection: redis(), name: read_template(value, is_tag)? });
    }
    if !value.value.get_ref().is_table() {
        let form = format!("a name, a list, or {{ to = …, {name_key} = … }}");
        value.wrong_kind(&form, None);
        return None;
    }
    let table = value.table(kind.keys)?;
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
    let name = read_template(&name, is_tag)?;
    Some(Target { connection: connection?, name })
}

/// Whether one of the source's streams is in the slot of a Redis Cluster that this hash tag means:
/// then the braces are meant as such.
fn has_tag(source: &Source, tag: &str) -> bool {
    let Source::Stream(source) = source else { return false };
    source.keys.iter().any(|key| hash_tag(key) == tag)
}

/// The part of a key that decides its slot: what is between the first `{` and the next `}`, or all
/// of it where that is nothing.
fn hash_tag(key: &str) -> &str {
    let inside = key.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    inside.map(|(tag, _)| tag).filter(|tag| !tag.is_empty()).unwrap_or(key)
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

/// A name with `{channel}` in it, perhaps. `is_tag` says what may stand between braces beside it.
fn read_template(value: &Value<'_, '_>, is_tag: impl Fn(&str) -> bool) -> Option<NameTemplate> {
    let text = value.text()?;
    if !check_name(value, &text) {
        return None;
    }
    let parts: Vec<&str> = text.value.split(PLACEHOLDER).collect();
    let other = parts.iter().find_map(|part| {
        let start = part.find('{')?;
        let end = part[start..].find('}')? + start + 1;
        (!is_tag(&part[start + 1..end - 1])).then_some(&part[start..end])
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
    let mut read: Vec<(&str, Vec<(Pattern, Span)>)> = Vec::new();
    for kind in &KINDS {
        let Some(value) = table.get(kind.key) else { continue };
        if let Some(needs) = kind.needs
            && context.embedded
        {
            connection::refuse_kind(&value, needs, INSTEAD);
        }
        let patterns = read_patterns(&value, context);
        for (pattern, span) in &patterns {
            let earlier = read.iter().find_map(|(key, others)| {
                let (other, _) = others.iter().find(|(other, _)| other.overlaps(pattern))?;
                Some((*key, other.text()))
            });
            if let Some((key, other)) = earlier {
                let message = format!(
                    "a name can match both {} of `{key}` and {} of `{}`: how should it be sent?",
                    quoted(other),
                    quoted(pattern.text()),
                    kind.key
                );
                let help = "use patterns that no name matches twice".to_owned();
                value.reader.error(span, message, vec![help]);
            }
        }
        read.push((kind.key, patterns));
    }
    let mut routes = Routes::default();
    for (key, patterns) in read {
        let patterns = patterns.into_iter().map(|(pattern, _)| pattern).collect();
        match key {
            "publish" => routes.publish = patterns,
            "append" => routes.append = patterns,
            _ => routes.push = patterns,
        }
    }
    routes
}

/// A pattern or a list of them, compiled.
fn read_patterns(value: &Value<'_, '_>, context: &mut Context<'_>) -> Vec<(Pattern, Span)> {
    let known = &mut context.patterns;
    let mut patterns = Vec::new();
    for (text, span) in read_names(value, "a pattern") {
        let pattern = known.get(&text).cloned().map_or_else(|| Pattern::new(&text), Ok);
        match pattern {
            Ok(pattern) => {
                known.insert(text, pattern.clone());
                patterns.push((pattern, span));
            }
            Err(error) => {
                let help = vec!["split it into several".to_owned()];
                value.reader.error(&span, error.to_string(), help);
            }
        }
    }
    patterns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_tag_of_a_key_is_what_redis_takes_it_for() {
        for (key, tag) in [
            ("orders", "orders"),
            ("{orders}.done", "orders"),
            ("a{b}{c}", "b"),
            ("a{}{c}", "a{}{c}"),
            ("a{{b}}", "{b"),
            ("a}{b", "a}{b"),
        ] {
            assert_eq!(hash_tag(key), tag, "{key}");
        }
    }
}
