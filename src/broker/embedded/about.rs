//! What the embedded broker says of itself: HELLO, AUTH, INFO, COMMAND.

use std::fmt::Write;

use bytes::Bytes;

use super::clients::describe;
use super::command::{COMMANDS, SHOWN, find, integer, listed, lower, unknown_subcommand};
use super::reply::{Protocol, Reply, array, error, map, number, simple, string, text};
use super::session::Session;
use crate::telemetry::printable;

/// The Redis whose pub/sub this is: clients choose by it what they ask for.
const REDIS_VERSION: &str = "7.2.0";

/// `HELLO [2|3 [AUTH user password] [SETNAME name]]`
pub(super) fn hello(session: &mut Session, arguments: &[Bytes]) -> Option<Reply> {
    let mut protocol = session.client.protocol();
    if let Some(version) = arguments.first() {
        protocol = match integer(version) {
            Some(2) => Protocol::Resp2,
            Some(3) => Protocol::Resp3,
            Some(_) => return Some(error("NOPROTO unsupported protocol version")),
            None => {
                return Some(error("ERR Protocol version is not an integer or out of range"));
            }
        };
    }
    let mut name = None;
    let mut rest = arguments.get(1..).unwrap_or_default();
    while let Some((option, values)) = rest.split_first() {
        rest = match (lower(option).as_slice(), values) {
            (b"auth", [user, _, rest @ ..]) => {
                if let Some(refusal) = refusal(user) {
                    return Some(refusal);
                }
                rest
            }
            (b"setname", [value, rest @ ..]) => {
                name = Some(value);
                rest
            }
            _ => {
                let option = printable(option, SHOWN);
                return Some(error(format!("ERR Syntax error in HELLO option '{option}'")));
            }
        };
    }
    if let Some(name) = name {
        let set = describe(&session.client, name, "Client names", |texts, name| texts.name = name);
        if matches!(set, Reply::SimpleError { .. }) {
            return Some(set);
        }
    }
    let id = usize::try_from(session.client.id).unwrap_or(usize::MAX);
    let reply = map([
        ("server", string("handlerd")),
        ("version", string(REDIS_VERSION)),
        ("proto", Reply::Number { data: protocol.number(), attributes: None }),
        ("id", number(id)),
        ("mode", string("standalone")),
        ("role", string("master")),
        ("modules", array(Vec::new())),
    ]);
    // A message that is on its way to this client in the old protocol is in front of the answer.
    let server = session.server.clone();
    server.hub.between_messages(|| {
        session.client.speak(protocol);
        session.answer(reply);
    });
    None
}

/// `AUTH [user] password`: there is no password, so one user, with any.
pub(super) fn auth(_: &mut Session, arguments: &[Bytes]) -> Option<Reply> {
    Some(match arguments {
        [_] => error(
            "ERR AUTH <password> called without any password configured for the default user. Are \
             you sure your configuration is correct?",
        ),
        [user, _] => refusal(user).unwrap_or_else(|| simple("OK")),
        // More of them: their number is right for Redis, and their meaning isn't.
        _ => error("ERR syntax error"),
    })
}

/// Why it isn't this user's broker.
fn refusal(user: &[u8]) -> Option<Reply> {
    let text = "WRONGPASS invalid username-password pair or user is disabled.";
    (user != b"default").then(|| error(text))
}

/// `INFO [section ...]`
pub(super) fn info(session: &mut Session, sections: &[Bytes]) -> Option<Reply> {
    let named = |name: &str| sections.iter().any(|s| s.eq_ignore_ascii_case(name.as_bytes()));
    let all = sections.is_empty() || ["all", "default", "everything"].into_iter().any(named);
    let server = &session.server;
    let (channels, patterns) = server.hub.counts();
    let uptime = server.since.elapsed().as_secs();
    let parts = [
        (
            "Server",
            format!(
                "redis_version:{REDIS_VERSION}\r\nredis_mode:standalone\r\nserver_name:handlerd\r\n\
                 handlerd_version:{}\r\nos:Linux\r\narch_bits:{}\r\nprocess_id:{}\r\n\
                 tcp_port:{}\r\nuptime_in_seconds:{uptime}\r\nuptime_in_days:{}\r\n\
                 config_file:{}\r\n",
                env!("CARGO_PKG_VERSION"),
                usize::BITS,
                std::process::id(),
                server.address.port(),
                uptime / (24 * 60 * 60),
                server.config.display().to_string().replace(['\r', '\n'], "?"),
            ),
        ),
        ("Clients", format!("connected_clients:{}\r\n", server.hub.count())),
        ("Stats", format!("pubsub_channels:{channels}\r\npubsub_patterns:{patterns}\r\n")),
        ("Replication", "role:master\r\nconnected_slaves:0\r\n".to_owned()),
    ];
    let mut info = String::new();
    for (title, lines) in parts.iter().filter(|(title, _)| all || named(title)) {
        let gap = if info.is_empty() { "" } else { "\r\n" };
        // Writing to a String doesn't fail.
        let _ = write!(info, "{gap}# {title}\r\n{lines}");
    }
    Some(text(info))
}

/// `COMMAND [COUNT | LIST | INFO name ... | DOCS name ...]`. There are no texts to show: of what is
/// documented elsewhere, DOCS has nothing.
pub(super) fn command(_: &mut Session, arguments: &[Bytes]) -> Option<Reply> {
    let every = || array(COMMANDS.iter().map(listed).collect());
    let Some((name, names)) = arguments.split_first() else { return Some(every()) };
    Some(match (lower(name).as_slice(), names) {
        (b"count", []) => number(COMMANDS.len()),
        (b"list", []) => array(COMMANDS.iter().map(|command| string(command.name)).collect()),
        (b"info", []) => every(),
        (b"info", names) => {
            array(names.iter().map(|name| find(name).map_or(Reply::Null, listed)).collect())
        }
        (b"docs", _) => map([]),
        _ => unknown_subcommand("COMMAND", name),
    })
}
