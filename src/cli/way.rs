//! A channel's way in words: source, handlers, outputs.

use std::fmt::Write;

use crate::config::{Channel, Config, NameTemplate, Output, Routes, Source, Target};
use crate::telemetry::printable;

/// The name of the connection `[redis]`.
pub const MAIN_CONNECTION: &str = "redis";

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
