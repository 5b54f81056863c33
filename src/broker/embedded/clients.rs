//! CLIENT: what clients say of themselves, and see and do of others.

use std::sync::Arc;

use bytes::Bytes;

use super::client::{Client, Texts};
use super::command::{SHOWN, integer, lower, unknown_subcommand};
use super::outbox::Closed;
use super::reply::{Reply, error, number, simple, string, text};
use super::session::{Session, Silence};
use crate::telemetry::printable;

/// Longest text that a client may say of itself, in bytes. Redis has no limit of its own.
const LONGEST_TEXT: usize = 256;

pub(super) fn client(session: &mut Session, arguments: &[Bytes]) -> Option<Reply> {
    let (name, rest) = arguments.split_first()?;
    let own = session.client.clone();
    Some(match (lower(name).as_slice(), rest) {
        (b"id", []) => Reply::Number { data: id(&own), attributes: None },
        (b"info", []) => text(own.line() + "\n"),
        (b"list", filters) => list(session, filters),
        (b"getname", []) => match own.texts().name {
            name if name.is_empty() => Reply::Null,
            name => string(name),
        },
        (b"setname", [value]) => describe(&own, value, "Client names", |texts, value| {
            texts.name = value;
        }),
        (b"setinfo", [field, value]) => match lower(field).as_slice() {
            b"lib-name" => describe(&own, value, "lib-name", |texts, value| texts.library = value),
            b"lib-ver" => describe(&own, value, "lib-ver", |texts, value| texts.version = value),
            _ => error("ERR Unrecognized option for CLIENT SETINFO"),
        },
        (b"reply", [mode]) => return set_silence(session, mode),
        (b"kill", [address]) => {
            match kill(session, |client| client.address.as_bytes() == address) {
                0 => error("ERR No such client"),
                _ => simple("OK"),
            }
        }
        (b"kill", filters) => kill_by(session, filters),
        // There is nothing to evict and no key to touch.
        (b"no-evict" | b"no-touch", [_]) => simple("OK"),
        _ => unknown_subcommand("CLIENT", name),
    })
}

fn id(client: &Client) -> i64 {
    i64::try_from(client.id).unwrap_or(i64::MAX)
}

/// Keep what a client says of itself: printable, and without spaces, for it stands in lines with
/// other fields.
pub(super) fn describe(
    client: &Client,
    value: &[u8],
    what: &str,
    change: fn(&mut Texts, Bytes),
) -> Reply {
    if value.len() > LONGEST_TEXT {
        return error(format!("ERR {what} cannot have more than {LONGEST_TEXT} bytes."));
    }
    if !value.iter().all(u8::is_ascii_graphic) {
        return error(format!("ERR {what} cannot contain spaces, newlines or special characters."));
    }
    // A copy: the argument holds all of what was read with it.
    client.describe(|texts| change(texts, Bytes::copy_from_slice(value)));
    simple("OK")
}

/// `CLIENT LIST [TYPE type] [ID id ...]`
fn list(session: &Session, filters: &[Bytes]) -> Reply {
    let clients = session.hub().clients();
    let lines = |chosen: &dyn Fn(&Client) -> bool| {
        let chosen = clients.iter().filter(|client| chosen(client));
        text(chosen.map(|client| client.line() + "\n").collect())
    };
    match filters {
        [] => lines(&|_| true),
        [word, kind] if word.eq_ignore_ascii_case(b"type") => match lower(kind).as_slice() {
            b"normal" => lines(&|client| !client.is_subscribed()),
            b"pubsub" => lines(&Client::is_subscribed),
            b"master" | b"replica" | b"slave" => lines(&|_| false),
            _ => unknown_type(kind),
        },
        [word, ids @ ..] if word.eq_ignore_ascii_case(b"id") && !ids.is_empty() => {
            let ids: Option<Vec<i64>> = ids.iter().map(|id| integer(id)).collect();
            match ids {
                Some(ids) => lines(&|client| ids.contains(&id(client))),
                None => error("ERR Invalid client ID"),
            }
        }
        _ => error("ERR syntax error"),
    }
}

fn unknown_type(kind: &[u8]) -> Reply {
    error(format!("ERR Unknown client type '{}'", printable(kind, SHOWN)))
}

fn set_silence(session: &mut Session, mode: &[u8]) -> Option<Reply> {
    let (silence, reply) = match lower(mode).as_slice() {
        b"on" => (Silence::None, Some(simple("OK"))),
        b"off" => (Silence::All, None),
        b"skip" if session.silence == Silence::All => (Silence::All, None),
        b"skip" => (Silence::Next, None),
        _ => return Some(error("ERR syntax error")),
    };
    session.silence = silence;
    reply
}

/// End the connections of others, and one's own when everything has been written; answers how many.
fn kill(session: &mut Session, chosen: impl Fn(&Client) -> bool) -> usize {
    let chosen: Vec<Arc<Client>> =
        session.hub().clients().into_iter().filter(|client| chosen(client)).collect();
    for client in &chosen {
        if client.id == session.client.id {
            session.leaving = true;
        } else {
            client.outbox.close(Closed::Killed);
        }
    }
    chosen.len()
}

/// `CLIENT KILL [ID id] [ADDR ip:port] [LADDR ip:port] [TYPE type] [USER name]
/// [SKIPME yes/no]`
fn kill_by(session: &mut Session, filters: &[Bytes]) -> Reply {
    type Filter = Box<dyn Fn(&Client) -> bool>;
    let own = session.client.id;
    let mut wanted: Vec<Filter> = Vec::new();
    let mut skip_me = true;
    for pair in filters.chunks(2) {
        let [word, value] = pair else { return error("ERR syntax error") };
        let (word, value) = (lower(word), value.clone());
        wanted.push(match (word.as_slice(), lower(&value).as_slice()) {
            (b"id", _) => match integer(&value) {
                Some(number) if number > 0 => Box::new(move |client| id(client) == number),
                _ => return error("ERR client-id should be greater than 0"),
            },
            (b"addr", _) => Box::new(move |client| client.address.as_bytes() == value),
            (b"laddr", _) => Box::new(move |client| client.server_address.as_bytes() == value),
            (b"type", b"normal") => Box::new(|client| !client.is_subscribed()),
            (b"type", b"pubsub") => Box::new(Client::is_subscribed),
            (b"type", b"master" | b"replica" | b"slave") => Box::new(|_| false),
            (b"type", _) => return unknown_type(&value),
            // There is one user only.
            (b"user", _) if value == "default" => Box::new(|_| true),
            (b"user", _) => {
                let user = printable(&value, SHOWN);
                return error(format!("ERR No such user '{user}'"));
            }
            (b"skipme", choice @ (b"yes" | b"no")) => {
                skip_me = choice == b"yes";
                continue;
            }
            _ => return error("ERR syntax error"),
        });
    }
    let all = |client: &Client| {
        !(skip_me && client.id == own) && wanted.iter().all(|wanted| wanted(client))
    };
    number(kill(session, all))
}
