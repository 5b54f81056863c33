//! What to type into another terminal to try a daemon with the embedded broker.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;

use super::{load, way};
use crate::broker::embedded::{Broker, dialled};
use crate::config::pattern::Pattern;
use crate::config::{Channel, Config, Output, Source};

/// A command that sends a message, and one that shows what comes out, as far as there is something
/// to send to and something published.
pub fn commands(config: &Config, broker: &Broker) -> Option<String> {
    let (channel, name) = config.channels.iter().find_map(|c| Some((c, sample(&c.source)?)))?;
    let (send, listen) = if broker.is_findable() {
        let own = own_command(&config.file);
        (format!("{own} send"), format!("{own} listen"))
    } else {
        // `send` and `listen` would reach the other daemon of this configuration.
        let cli = redis_cli(broker.address());
        (format!("{cli} publish"), format!("{cli} subscribe"))
    };
    let send = format!("{send} {} 'hello'", quoted(&name));
    Some(match output(channel, &name) {
        None => format!("try: {send}"),
        Some(output) => {
            let output = quoted(&output);
            let cli = redis_cli(broker.address());
            let or = if broker.is_findable() {
                format!(" (or: {cli} subscribe {output})")
            } else {
                String::new()
            };
            format!("try, in two other terminals: {listen} {output}{or}, and: {send}")
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
    let program = quoted_path(&program);
    if load::is_usual(config) {
        return program;
    }
    format!("{program} --config {}", quoted_path(config.as_os_str()))
}

fn redis_cli(address: SocketAddr) -> String {
    let address = dialled(address);
    let host = match address.ip() {
        ip if ip.is_loopback() && ip.is_ipv4() => String::new(),
        ip => format!(" -h {ip}"),
    };
    format!("redis-cli{host} -p {}", address.port())
}

fn quoted_path(path: &OsStr) -> String {
    quoted(&path.to_string_lossy())
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", way::shown(word).replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        for (word, expected) in
            [("chat.out", "chat.out"), ("a b", "'a b'"), ("", "''"), ("it's", r"'it'\''s'")]
        {
            assert_eq!(quoted(word), expected);
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
