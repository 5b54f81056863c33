//! PUBLISH, SUBSCRIBE, PSUBSCRIBE, their opposites, and PUBSUB.

use bytes::Bytes;

use super::command::{lower, unknown_subcommand};
use super::reply::{Reply, array, error, number, string};
use super::session::Session;
use crate::config::pattern::Pattern;

/// Longest pattern, in bytes, as in the configuration. Redis has no limit; here patterns are
/// compiled, and what that takes grows with them.
const LONGEST_PATTERN: usize = 4096;

pub(super) fn publish(session: &mut Session, arguments: &[Bytes]) -> Option<Reply> {
    let [channel, payload] = arguments else { return None };
    let published = session.hub().publish(session.client.id, channel, payload);
    session.answer(number(published.receivers));
    for message in published.own {
        session.client.outbox.push(message);
    }
    None
}

pub(super) fn subscribe(session: &mut Session, channels: &[Bytes]) -> Option<Reply> {
    channels.iter().for_each(|channel| session.subscribe(channel));
    None
}

pub(super) fn psubscribe(session: &mut Session, patterns: &[Bytes]) -> Option<Reply> {
    for text in patterns {
        match compile(text) {
            Ok(pattern) => session.subscribe_pattern(text, pattern),
            Err(refusal) => return Some(error(refusal)),
        }
    }
    None
}

pub(super) fn unsubscribe(session: &mut Session, channels: &[Bytes]) -> Option<Reply> {
    session.unsubscribe(channels);
    None
}

pub(super) fn punsubscribe(session: &mut Session, patterns: &[Bytes]) -> Option<Reply> {
    session.unsubscribe_patterns(patterns);
    None
}

/// The pattern, or the text of the error.
fn compile(pattern: &[u8]) -> Result<Pattern, String> {
    if pattern.len() > LONGEST_PATTERN {
        return Err(format!(
            "ERR a pattern has {} bytes; handlerd's embedded broker takes {LONGEST_PATTERN}",
            pattern.len()
        ));
    }
    Pattern::of_bytes(pattern).map_err(|refused| format!("ERR {refused}"))
}

pub(super) fn pubsub(session: &mut Session, arguments: &[Bytes]) -> Option<Reply> {
    let (name, rest) = arguments.split_first()?;
    let hub = session.hub();
    let names = |names: Vec<Bytes>| array(names.into_iter().map(string).collect());
    Some(match (lower(name).as_slice(), rest) {
        (b"channels", []) => names(hub.channels(None)),
        (b"channels", [pattern]) => match compile(pattern) {
            Ok(pattern) => names(hub.channels(Some(&pattern))),
            Err(refusal) => error(refusal),
        },
        (b"numsub", channels) => {
            let count = |name: &Bytes| [string(name.clone()), number(hub.subscribers(name))];
            array(channels.iter().flat_map(count).collect())
        }
        (b"numpat", []) => number(hub.counts().1),
        _ => unknown_subcommand("PUBSUB", name),
    })
}
