//! A channel's way in words: source, handlers, outputs.

use std::fmt::{self, Write};
use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::config::{Channel, Config, NameTemplate, Output, RouteKind, Routes, Source, Target};
use crate::message::Message;
use crate::telemetry::printable;

/// The name of the connection `[redis]`.
pub const MAIN_CONNECTION: &str = "redis";

/// Where a message that has left the chain goes.
pub struct Destination {
    /// "publish", "append", "push" or "log".
    command: &'static str,
    /// The connection and the name; none for the log.
    to: Option<(Arc<str>, String)>,
}

impl Destination {
    /// Whether it becomes an entry of a stream there.
    pub fn is_append(&self) -> bool {
        self.command == "append"
    }

    /// For a program.
    pub fn json(&self) -> Json {
        match &self.to {
            Some((connection, name)) => {
                json!({ "command": self.command, "connection": &**connection, "name": name })
            }
            None => json!({ "command": self.command }),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.command)?;
        if let Some((connection, name)) = &self.to {
            write!(f, " {}", shown(name))?;
            if &**connection != MAIN_CONNECTION {
                write!(f, " at {}", shown(connection))?;
            }
        }
        Ok(())
    }
}

/// Where a channel sends a message that has left its chain, whose input came on this Redis channel.
pub fn destinations(channel: &Channel, redis_channel: &str, message: &Message) -> Vec<Destination> {
    if let Some(route) = &message.route {
        let command = match channel.routes.resolve(route) {
            Some(RouteKind::Publish) => "publish",
            Some(RouteKind::Append) => "append",
            Some(RouteKind::Push) => "push",
            None => return Vec::new(),
        };
        return vec![Destination { command, to: Some((MAIN_CONNECTION.into(), route.clone())) }];
    }
    let outputs = channel.outputs.iter().map(|output| {
        let (command, target) = match output {
            Output::Publish(target) => ("publish", Some(target)),
            Output::Append(target) => ("append", Some(target)),
            Output::Push(target) => ("push", Some(target)),
            Output::Log => ("log", None),
        };
        let to = target.map(|target| {
            (target.connection.clone(), target.name.fill(redis_channel).into_owned())
        });
        Destination { command, to }
    });
    outputs.collect()
}

/// A name as it may be shown.
pub fn shown(name: &str) -> String {
    printable(name.as_bytes(), 1 << 10)
}

/// The channels' names for a log line.
pub fn names(config: &Config) -> String {
    /// More are only counted.
    const SHOWN: usize = 20;
    let total = config.channels.len();
    let mut text = match total {
        0 => "no channels".to_owned(),
        1 => "channel ".to_owned(),
        _ => format!("{total} channels: "),
    };
    let names: Vec<String> = config.channels.iter().take(SHOWN).map(|c| shown(&c.name)).collect();
    text.push_str(&names.join(", "));
    if total > SHOWN {
        let _ = write!(text, " and {} more", total - SHOWN);
    }
    text
}

/// `subscribe chat -> redact -> announce -> publish chat.out, log`
pub fn of_channel(channel: &Channel) -> String {
    let mut steps = vec![source(&channel.source)];
    steps.extend(channel.handlers.iter().map(|name| shown(name)));
    let outputs: Vec<String> = channel.outputs.iter().map(output).collect();
    if !outputs.is_empty() {
        steps.push(outputs.join(", "));
    }
    let mut text = steps.join(" -> ");
    if !channel.routes.is_empty() {
        let _ = write!(text, "; routes: {}", routes(&channel.routes));
    }
    text
}

/// `subscribe chat`
pub fn source(source: &Source) -> String {
    match source {
        Source::Subscribe(names) => format!("subscribe {}", list(names.iter().map(|n| &**n))),
        Source::Pattern(patterns) => format!("pattern {}", list(patterns.iter().map(|p| &**p))),
        Source::Stream(stream) => {
            let keys = list(stream.keys.iter().map(|key| &**key));
            format!("stream {keys} (group {})", shown(&stream.group))
        }
    }
}

/// `publish chat.out`, with the connection where it isn't `[redis]`.
fn output(output: &Output) -> String {
    match output {
        Output::Publish(to) => format!("publish {}", target(to)),
        Output::Append(to) => format!("append {}", target(to)),
        Output::Push(to) => format!("push {}", target(to)),
        Output::Log => "log".to_owned(),
    }
}

fn target(target: &Target) -> String {
    let name = shown(&template(&target.name));
    if &*target.connection == MAIN_CONNECTION {
        name
    } else {
        format!("{name} at {}", shown(&target.connection))
    }
}

fn template(template: &NameTemplate) -> String {
    match template {
        NameTemplate::Fixed(name) => name.to_string(),
        NameTemplate::Parts(parts) => parts.join("{channel}"),
    }
}

fn routes(routes: &Routes) -> String {
    let kind = |verb: &str, patterns: &[crate::config::pattern::Pattern]| {
        let names = patterns.iter().map(|pattern| &**pattern.text());
        (!patterns.is_empty()).then(|| format!("{verb} {}", list(names)))
    };
    let kinds = [
        kind("publish", &routes.publish),
        kind("append", &routes.append),
        kind("push", &routes.push),
    ];
    kinds.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// A few names; more than that are counted.
fn list<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 5;
    let total = names.len();
    let few: Vec<String> = names.take(SHOWN).map(shown).collect();
    let more = total.saturating_sub(SHOWN);
    let few = few.join(" | ");
    if more > 0 { format!("{few} | {more} more") } else { few }
}
