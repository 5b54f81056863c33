//! The commands that the embedded broker has, in one table, and how one of them is done.
//!
//! Answers and errors are those of Redis 7.2; what is left out says so.
//! Reference: <https://redis.io/docs/latest/commands/>.

use bytes::Bytes;

use super::about;
use super::clients;
use super::pubsub;
use super::reply::{Protocol, Reply, array, error, number, push, simple, string};
use super::session::{Session, Silence};
use crate::telemetry::printable;

/// Bytes of a client's words that an error repeats, as in Redis.
pub(super) const SHOWN: usize = 128;

/// A command.
pub(super) struct Command {
    /// In lower case.
    pub name: &'static str,
    /// How many words it has, its name included; at least so many where it is negative.
    pub arity: i64,
    /// Whether it is for a connection that is subscribed in RESP2.
    while_subscribed: bool,
    /// Does it; `None` where the answer, if any, has been sent already.
    run: fn(&mut Session, &[Bytes]) -> Option<Reply>,
}

/// All of them, by their names.
#[rustfmt::skip]
pub(super) const COMMANDS: &[Command] = &[
    Command { name: "auth", arity: -2, while_subscribed: false, run: about::auth },
    Command { name: "client", arity: -2, while_subscribed: false, run: clients::client },
    Command { name: "command", arity: -1, while_subscribed: false, run: about::command },
    Command { name: "echo", arity: 2, while_subscribed: false, run: echo },
    Command { name: "hello", arity: -1, while_subscribed: false, run: about::hello },
    Command { name: "info", arity: -1, while_subscribed: false, run: about::info },
    Command { name: "ping", arity: -1, while_subscribed: true, run: ping },
    Command { name: "psubscribe", arity: -2, while_subscribed: true, run: pubsub::psubscribe },
    Command { name: "publish", arity: 3, while_subscribed: false, run: pubsub::publish },
    Command { name: "pubsub", arity: -2, while_subscribed: false, run: pubsub::pubsub },
    Command { name: "punsubscribe", arity: -1, while_subscribed: true, run: pubsub::punsubscribe },
    Command { name: "quit", arity: -1, while_subscribed: true, run: quit },
    Command { name: "reset", arity: 1, while_subscribed: true, run: reset },
    Command { name: "select", arity: 2, while_subscribed: false, run: select },
    Command { name: "subscribe", arity: -2, while_subscribed: true, run: pubsub::subscribe },
    Command { name: "unsubscribe", arity: -1, while_subscribed: true, run: pubsub::unsubscribe },
];

/// The command of this name, in any case.
pub(super) fn find(name: &[u8]) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name.as_bytes().eq_ignore_ascii_case(name))
}

/// Do what a client asks for, and answer.
pub(super) fn handle(session: &mut Session, request: &[Bytes]) {
    session.silence = match session.silence {
        Silence::Next => Silence::Present,
        Silence::Present => Silence::None,
        other => other,
    };
    if let Some(reply) = answer(session, request) {
        session.answer(reply);
    }
}

fn answer(session: &mut Session, request: &[Bytes]) -> Option<Reply> {
    let (name, arguments) = request.split_first()?;
    // A web page can make a browser send its form here; the lines of HTTP would be commands.
    if [b"post".as_slice(), b"host:"].iter().any(|http| name.eq_ignore_ascii_case(http)) {
        session.leaving = true;
        if session.server.http_log.admit().is_some() {
            let address = &session.client.address;
            tracing::warn!("{address} speaks HTTP to the embedded broker and was cut off");
        }
        return None;
    }
    let Some(command) = find(name) else { return Some(unknown(name)) };
    session.client.describe(|texts| texts.command = command.name);
    if !fits(command.arity, request.len()) {
        return Some(wrong_number(command.name));
    }
    if session.is_bound() && !command.while_subscribed {
        return Some(error(format!(
            "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET \
             are allowed in this context",
            command.name
        )));
    }
    (command.run)(session, arguments)
}

fn fits(arity: i64, words: usize) -> bool {
    let words = i64::try_from(words).unwrap_or(i64::MAX);
    if arity < 0 { words >= -arity } else { words == arity }
}

fn unknown(name: &[u8]) -> Reply {
    error(format!(
        "ERR unknown command '{}': this is handlerd's embedded broker, which has pub/sub only; for \
         more run a redis-server and write its address as `url` of [redis] into the configuration",
        printable(name, SHOWN)
    ))
}

/// The error for a command with too many or too few words.
pub(super) fn wrong_number(name: &str) -> Reply {
    error(format!("ERR wrong number of arguments for '{name}' command"))
}

/// The error for a subcommand that isn't there, or that has too many or too few words.
pub(super) fn unknown_subcommand(command: &str, name: &[u8]) -> Reply {
    error(format!(
        "ERR unknown subcommand or wrong number of arguments for '{}'; handlerd's embedded broker \
         has only a part of {command}",
        printable(name, SHOWN)
    ))
}

/// An argument in lower case, to be compared with words.
pub(super) fn lower(argument: &[u8]) -> Vec<u8> {
    argument.to_ascii_lowercase()
}

/// A whole number, written as Redis wants it: without a plus sign or zeros in front.
pub(super) fn integer(argument: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(argument).ok()?;
    text.parse().ok().filter(|number: &i64| number.to_string() == text)
}

fn ping(session: &mut Session, arguments: &[Bytes]) -> Option<Reply> {
    let text = match arguments {
        [] => None,
        [text] => Some(text.clone()),
        _ => return Some(wrong_number("ping")),
    };
    if session.is_bound() {
        return Some(push(vec![string("pong"), string(text.unwrap_or_default())]));
    }
    Some(text.map_or_else(|| simple("PONG"), string))
}

fn echo(_: &mut Session, arguments: &[Bytes]) -> Option<Reply> {
    arguments.first().cloned().map(string)
}

fn select(_: &mut Session, arguments: &[Bytes]) -> Option<Reply> {
    Some(match arguments.first().and_then(|number| integer(number)) {
        Some(0) => simple("OK"),
        Some(_) => error("ERR DB index is out of range"),
        _ => error("ERR value is not an integer or out of range"),
    })
}

fn quit(session: &mut Session, _: &[Bytes]) -> Option<Reply> {
    session.leaving = true;
    Some(simple("OK"))
}

fn reset(session: &mut Session, _: &[Bytes]) -> Option<Reply> {
    session.forget_subscriptions();
    session.silence = Silence::None;
    session.client.speak(Protocol::Resp2);
    session.client.describe(|texts| texts.name = Bytes::new());
    Some(simple("RESET"))
}

/// A command as `COMMAND` lists it: name, arity, flags, and that it has no keys.
pub(super) fn listed(command: &Command) -> Reply {
    let arity = Reply::Number { data: command.arity, attributes: None };
    let flags = if command.while_subscribed { vec![simple("pubsub")] } else { Vec::new() };
    let no_keys = [number(0), number(0), number(0)];
    let mut items = vec![string(command.name), arity, array(flags)];
    items.extend(no_keys);
    array(items)
}

impl Session {
    /// Send an answer, unless the client doesn't want it.
    pub fn answer(&mut self, reply: Reply) {
        if matches!(self.silence, Silence::None | Silence::Next) {
            self.client.send(reply);
        }
    }
}
