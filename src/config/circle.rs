//! The circle check: whether what channels publish comes back to them, and goes round for ever.
//!
//! The names that a channel publishes to are compared with those that channels take messages from.
//! Where every message on a channel's names certainly reaches the next one, and so on round to the
//! first, the configuration is refused; where only some can, or where handlers decide by `routes`,
//! it is warned of. What handlers do is not looked at: they may always end a message's way, so
//! `loops = true` on one channel of a circle says that this is so.
//!
//! No circle is overlooked: names that can't be followed exactly are taken for all that a pattern
//! matches. Only `publish` feeds a pub/sub source; a list doesn't.

use std::sync::Arc;

use super::Config;
use super::Output;
use super::channel::Places;
use super::reader::{Reader, Span, header};
use graph::{Graph, Vertex};

mod graph;
mod names;

/// Circles that are shown; who has more has one mistake in many channels.
const MOST_SHOWN: usize = 10;

/// Report circles. Channels with errors are left out: what is known of them is incomplete.
pub(super) fn check(reader: &Reader<'_>, config: &Config, places: &[Places]) {
    if !reader.is_whole() {
        return;
    }
    let looks = |channel: usize| places[channel].is_sound && !places[channel].loops;
    let graph = names::build(config, looks);
    let certain = graph.circles(|edge| edge.certain, MOST_SHOWN);
    for circle in &certain {
        let (span, shown) = show(&graph, circle, config, places);
        let (message, whose) = if circle.len() == 2 {
            (format!("this channel feeds itself, in a circle: {shown}"), "it")
        } else {
            (format!("these channels feed each other in a circle: {shown}"), "one of them")
        };
        let help = format!(
            "publish under another name, or write loops = true in {whose} if its handlers end \
             the circle"
        );
        reader.error(&span, message, vec![help]);
    }
    if !certain.is_empty() {
        return;
    }
    for circle in graph.circles(|_| true, MOST_SHOWN) {
        let (span, shown) = show(&graph, &circle, config, places);
        let by_route = circle.iter().any(|edge| graph.edge(*edge).route);
        let (message, help) = if by_route {
            (
                format!("handlers may send messages in a circle, by `routes`: {shown}"),
                "narrow `routes`, or write loops = true in a channel of it if its \
                 handlers end the circle",
            )
        } else {
            (
                format!("some messages may go in a circle: {shown}"),
                "narrow a pattern, or write loops = true in a channel of it if its \
                 handlers end the circle",
            )
        };
        reader.warning(&span, message, vec![help.to_owned()]);
    }
}

/// A circle as text, and the output in the file that it begins with.
fn show(graph: &Graph, circle: &[usize], config: &Config, places: &[Places]) -> (Span, String) {
    let mut shown = String::new();
    let mut span = None;
    for edge in circle {
        let edge = graph.edge(*edge);
        match graph.vertex(edge.from) {
            Vertex::Channel(channel) => {
                let title = header("channels", &config.channels[*channel].name);
                shown.push_str(&format!("{title} -> "));
                span.get_or_insert_with(|| match edge.output {
                    Some(output) => places[*channel].outputs[output].clone(),
                    None => places[*channel].routes.clone().unwrap_or_default(),
                });
            }
            Vertex::Name(name) => shown.push_str(&format!("{} -> ", name.escape_debug())),
        }
    }
    if let Some(first) = circle.first()
        && let Vertex::Channel(channel) = graph.vertex(graph.edge(*first).from)
    {
        shown.push_str(&header("channels", &config.channels[*channel].name));
    }
    (span.unwrap_or_default(), shown)
}

/// Whether what is published over a connection reaches the sources, which are all on `[redis]`.
fn feeds_sources(config: &Config, connection: &Arc<str>) -> bool {
    // Databases don't matter: pub/sub doesn't know them.
    let address = config.connections.get(connection).map(|connection| &connection.address);
    &**connection == "redis" || address == Some(&config.redis.address)
}

/// The targets of `publish` that reach sources, with their places among the channel's outputs.
fn published(
    config: &Config,
    channel: usize,
) -> impl Iterator<Item = (usize, &super::NameTemplate)> {
    config.channels[channel].outputs.iter().enumerate().filter_map(|(at, output)| match output {
        Output::Publish(target) if feeds_sources(config, &target.connection) => {
            Some((at, &target.name))
        }
        _ => None,
    })
}
