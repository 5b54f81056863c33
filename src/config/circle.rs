//! The circle check: whether what channels send comes back to them, and goes round for ever.
//!
//! The names that a channel sends to are compared with those that channels take messages from.
//! Where every message on a channel's names certainly reaches the next one, and so on round to the
//! first, the configuration is refused; where only some can, or where handlers decide by `routes`,
//! it is warned of. What handlers do is not looked at: they may always end a message's way, so
//! `loops = true` on one channel of a circle says that this is so.
//!
//! Dead letters are outputs here: a message that fails everywhere on a circle goes round for ever,
//! and that it fails again is what is to be expected of it.
//!
//! No circle is overlooked: names that can't be followed exactly are taken for all that a pattern
//! matches. `publish` feeds pub/sub sources; `append` and dead letters feed streams, which have
//! names of their own; a list feeds nothing.

use super::channel::Places;
use super::reader::{Reader, Span, header};
use super::{Config, Connection, NameTemplate, Output, Target};
use graph::{By, Graph, Vertex};

mod graph;
mod names;

/// Circles that are shown; who has more has one mistake in many channels.
const MOST_SHOWN: usize = 10;

/// What a name is one of: pub/sub and streams have nothing in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Space {
    Channels,
    Streams,
}

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
        let elsewhere = match graph.edge(circle[0]).by {
            By::DeadLetter => "name another stream for dead letters",
            _ => match graph.vertex(graph.edge(circle[0]).to) {
                Vertex::Name(Space::Streams, _) => "append to another stream",
                _ => "publish under another name",
            },
        };
        let help =
            format!("{elsewhere}, or write loops = true in {whose} if its handlers end the circle");
        reader.error(&span, message, vec![help]);
    }
    if !certain.is_empty() {
        return;
    }
    for circle in graph.circles(|_| true, MOST_SHOWN) {
        let (span, shown) = show(&graph, &circle, config, places);
        let by_route = circle.iter().any(|edge| graph.edge(*edge).by == By::Route);
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
    let mut came_by = By::Source;
    for edge in circle {
        let edge = graph.edge(*edge);
        match graph.vertex(edge.from) {
            Vertex::Channel(channel) => {
                let title = header("channels", &config.channels[*channel].name);
                shown.push_str(&format!("{title} -> "));
                span.get_or_insert_with(|| match edge.by {
                    By::Output(output) => places[*channel].outputs[output].clone(),
                    By::DeadLetter => places[*channel].dead_letter.clone(),
                    _ => places[*channel].routes.clone().unwrap_or_default(),
                });
            }
            Vertex::Name(space, name) => {
                let kind = match space {
                    Space::Channels => "",
                    Space::Streams => "stream ",
                };
                let how = match came_by {
                    By::Route => " (a route)",
                    By::DeadLetter => " (dead letters)",
                    _ => "",
                };
                shown.push_str(&format!("{kind}{}{how} -> ", name.escape_debug()));
            }
        }
        came_by = edge.by;
    }
    if let Some(first) = circle.first()
        && let Vertex::Channel(channel) = graph.vertex(graph.edge(*first).from)
    {
        shown.push_str(&header("channels", &config.channels[*channel].name));
    }
    (span.unwrap_or_default(), shown)
}

/// Whether what is sent there reaches the sources, which are all on `[redis]`.
fn feeds_sources(config: &Config, space: Space, target: &Target) -> bool {
    // Pub/sub doesn't know databases; a stream is in one.
    let is_same = |connection: &Connection| {
        let same_database = connection.database == config.redis.database;
        connection.address == config.redis.address && (same_database || space == Space::Channels)
    };
    &*target.connection == "redis"
        || config.connections.get(&target.connection).is_some_and(is_same)
}

/// What of a channel's outputs reaches sources, and how.
fn sent(config: &Config, channel: usize) -> Vec<(By, Space, NameTemplate)> {
    let channel = &config.channels[channel];
    let outputs = channel.outputs.iter().enumerate().filter_map(|(at, output)| {
        let (space, target) = match output {
            Output::Publish(target) => (Space::Channels, target),
            Output::Append(target) => (Space::Streams, target),
            Output::Push(_) | Output::Log => return None,
        };
        feeds_sources(config, space, target).then(|| (By::Output(at), space, target.name.clone()))
    });
    let dead_letter = channel.dead_letter.iter();
    let dead_letter =
        dead_letter.map(|name| (By::DeadLetter, Space::Streams, NameTemplate::Fixed(name.clone())));
    outputs.chain(dead_letter).collect()
}
