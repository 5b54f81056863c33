//! What to type into another terminal to try a daemon with the embedded broker.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use super::show::{shell_path, shell_word};
use super::{load, way};
use crate::broker::embedded::{Broker, dialled};
use crate::config::pattern::Pattern;
use crate::config::{Channel, Config, Output, Source};

/// A command that sends a message, and one that shows what comes out, as far as there is something
/// to send to and something published.
pub fn commands(config: &Config, broker: &Broker) -> Option<String> {
    let (channel, name) = config.channels.iter().find_map(|c| Some((c, sample(&c.source)?)))?;
    let output = output(channel, &name);
    let cli = redis_cli(broker.address());
    let subscribe = output.as_deref().map(|name| format!("{cli} subscribe {}", shell_word(name)));
    let (send, listen, or) = if broker.is_findable() {
        let own = own_command(&config.file);
        let listen = output.as_deref().map(|name| format!("{own} listen {}", own_word(name)));
        let or = subscribe.map(|subscribe| format!(" (or: {subscribe})"));
        (format!("{own} send {}", own_word(&name)), listen, or.unwrap_or_default())
    } else {
        // `send` and `listen` would reach the other daemon of this configuration.
        (format!("{cli} publish {}", shell_word(&name)), subscribe, String::new())
    };
    Some(match listen {
        None => format!("try: {send} 'hello'"),
        Some(listen) => {
            format!("try, in two other terminals: {listen}{or}, and: {send} 'hello'")
        }
    })
}

/// A Redis channel that the source hears.
fn sample(source: &Source) -> Option<String> {
    match source {
        Source::Subscribe(names) => names.first().map(|name| name.to_string()),
        Source::Pattern(patterns) => patterns.iter().find_map(|pattern| {
            let name = pattern.replace(['*', '?'], "1");
            Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(&name)).then_some(name)
        }),
        // The embedded broker, which the hint is about, has no streams.
        Source::Stream(_) => None,
    }
}

/// Where what comes on this Redis channel is published, on the embedded broker.
fn output(channel: &Channel, name: &str) -> Option<String> {
    channel.outputs.iter().find_map(|output| match output {
        Output::Publish(to) if &*to.connection == way::MAIN_CONNECTION => {
            Some(to.name.fill(name).into_owned())
        }
        _ => None,
    })
}

/// How this program was called, with the configuration where it isn't found by itself.
fn own_command(config: &Path) -> String {
    let program = std::env::args_os().next().unwrap_or_else(|| "handlerd".into());
    let program = shell_path(program);
    if load::is_usual(config) {
        return program;
    }
    format!("{program} --config {}", shell_path(config))
}

/// A name for one of this program's verbs, to which one that begins with `-` would be an option.
fn own_word(name: &str) -> String {
    let dashes = if name.starts_with('-') { "-- " } else { "" };
    format!("{dashes}{}", shell_word(name))
}

fn redis_cli(address: SocketAddr) -> String {
    let address = dialled(address);
    let host = match address.ip() {
        // Where it goes by itself: to no other address of this machine, where a Redis may be.
        ip if ip == Ipv4Addr::LOCALHOST => String::new(),
        ip => format!(" -h {ip}"),
    };
    format!("redis-cli{host} -p {}", address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_and_no_options() {
        for (name, own, other) in
            [("chat", "chat", "chat"), ("a b", "'a b'", "'a b'"), ("-x", "-- -x", "-x")]
        {
            assert_eq!((own_word(name), shell_word(name)), (own.to_owned(), other.to_owned()));
        }
    }

    #[test]
    fn redis_cli_is_told_every_host_but_its_own_default() {
        for (address, expected) in [
            ("127.0.0.1:6379", "redis-cli -p 6379"),
            ("0.0.0.0:6380", "redis-cli -p 6380"),
            ("127.0.0.2:6379", "redis-cli -h 127.0.0.2 -p 6379"),
            ("[::1]:6379", "redis-cli -h ::1 -p 6379"),
        ] {
            assert_eq!(redis_cli(address.parse().unwrap()), expected);
        }
    }

    #[test]
    fn a_sample_is_heard_by_its_source() {
        let pattern = |text: &str| Source::Pattern(vec![text.into()]);
        assert_eq!(sample(&pattern("room.*")).as_deref(), Some("room.1"));
        assert_eq!(sample(&pattern("[ab]*")), None);
        assert_eq!(sample(&Source::Subscribe(vec!["chat".into()])).as_deref(), Some("chat"));
    }
}
