//! PUBLISH, SUBSCRIBE, PSUBSCRIBE, their opposites, and PUBSUB.

use bytes::Bytes;

use super::budget::LIMIT;
use super::command::{lower, unknown_subcommand};
use super::reply::{Reply, array, error, number, string};
use super::session::Session;
use crate::config::matcher::Matcher;
use crate::config::pattern::LONGEST;

pub(super) fn publish(session: &mut Session, arguments: &[Bytes]) -> Option<Reply> {
    let [channel, payload] = arguments else { return None };
    if let Err(refusal) = check("a channel's name", channel) {
        return Some(error(refusal));
    }
    let Some(published) = session.hub().publish(session.client.id, channel, payload) else {
        return Some(error(format!(
            "OOM the message isn't published: the clients of handlerd's embedded broker take \
             {} MiB, more than which they may not",
            LIMIT >> 20
        )));
    };
    session.answer(number(published.receivers));
    for message in published.own {
        session.client.outbox.push(message);
    }
    None
}

pub(super) fn subscribe(session: &mut Session, channels: &[Bytes]) -> Option<Reply> {
    let subscribe = |channel: &Bytes| {
        check("a channel's name", channel)?;
        session.subscribe(channel)
    };
    channels.iter().try_for_each(subscribe).err().map(error)
}

pub(super) fn psubscribe(session: &mut Session, patterns: &[Bytes]) -> Option<Reply> {
    let subscribe = |pattern: &Bytes| {
        check("a pattern", pattern)?;
        session.subscribe_pattern(pattern)
    };
    patterns.iter().try_for_each(subscribe).err().map(error)
}

pub(super) fn unsubscribe(session: &mut Session, channels: &[Bytes]) -> Option<Reply> {
    session.unsubscribe(channels);
    None
}

pub(super) fn punsubscribe(session: &mut Session, patterns: &[Bytes]) -> Option<Reply> {
    session.unsubscribe_patterns(patterns);
    None
}

/// The text of the error for what is too long, as in the configuration. Redis has no limit; here looking for
/// those who are subscribed takes time in proportion to it, and nobody else publishes meanwhile.
fn check(what: &str, name: &[u8]) -> Result<(), String> {
    let length = name.len();
    if length <= LONGEST {
        return Ok(());
    }
    Err(format!("ERR {what} has {length} bytes; handlerd's embedded broker takes {LONGEST}"))
}

pub(super) fn pubsub(session: &mut Session, arguments: &[Bytes]) -> Option<Reply> {
    let (name, rest) = arguments.split_first()?;
    let hub = session.hub();
    let names = |names: Vec<Bytes>| array(names.into_iter().map(string).collect());
    Some(match (lower(name).as_slice(), rest) {
        (b"channels", []) => names(hub.channels(None)),
        (b"channels", [pattern]) => match check("a pattern", pattern) {
            Ok(()) => names(hub.channels(Some(&Matcher::of_pattern(pattern)))),
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
