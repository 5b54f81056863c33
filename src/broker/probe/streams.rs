//! What a Redis with streams is asked beside rights: whether keys are what they must be, whether a
//! group can be had, and whether what it was told would survive.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value};

use super::commands::NO_SCRIPT;
use super::needs::{Needs, Read, Written};
use super::{Persistence, Probed, SHOWN, Server, error};
use crate::config::Start;
use crate::telemetry::printable;

/// Keys that are asked about at once.
const AT_ONCE: usize = 250;

/// What Redis may forget, and with it what was promised of streams.
pub(super) fn durability(server: &Server) -> Vec<String> {
    const ALWAYS: &str = "for what must not be lost: appendonly yes, appendfsync always";
    let kept = match &server.persistence {
        Persistence::Nothing => {
            Some(format!("it keeps nothing on disk: streams are lost when it ends; {ALWAYS}"))
        }
        Persistence::Snapshots => Some(format!(
            "it keeps snapshots on disk: when it ends, what came after the last one is lost or done \
             again; {ALWAYS}"
        )),
        Persistence::AppendOnly { fsync: Some(fsync) } if fsync != "always" => Some(format!(
            "its appendfsync is {fsync}: when its machine ends, what came last is lost or done again; \
             {ALWAYS}"
        )),
        Persistence::AppendOnly { .. } | Persistence::Unknown => None,
    };
    let dropped = server.eviction.as_ref().filter(|policy| policy.starts_with("allkeys"));
    let dropped = dropped.map(|policy| {
        format!(
            "its maxmemory-policy is {policy}: when its memory is full it may drop a whole stream with \
             what isn't handled yet; noeviction, or a volatile policy, doesn't"
        )
    });
    kept.into_iter().chain(dropped).collect()
}

/// Look at the keys. What the user has no right to ask is passed over: its rights have been judged.
/// So are keys that another node of a Cluster has.
pub(super) async fn look(
    connection: &mut MultiplexedConnection,
    needs: &Needs,
    probed: &mut Probed,
) -> RedisResult<()> {
    for reads in needs.reads.chunks(AT_ONCE) {
        const QUESTIONS: usize = 4;
        let mut pipe = redis::pipe();
        pipe.ignore_errors();
        for read in reads {
            pipe.cmd("TYPE").arg(&*read.key);
            pipe.cmd("XINFO").arg("STREAM").arg(&*read.key);
            pipe.cmd("XINFO").arg("GROUPS").arg(&*read.key);
            pipe.cmd("GET").arg(read.cursor.as_deref().unwrap_or_default());
        }
        let replies: Vec<Value> = pipe.query_async(connection).await?;
        for (read, replies) in reads.iter().zip(replies.chunks(QUESTIONS)) {
            if let [kind, stream, groups, cursor] = replies {
                let seen = Seen {
                    kind: text(kind),
                    length: field(stream, "length").and_then(number),
                    groups: self::groups(groups),
                    has_cursor: text(cursor).is_some(),
                };
                judge(read, &seen, probed);
            }
        }
    }
    for writes in needs.writes.chunks(AT_ONCE) {
        let mut pipe = redis::pipe();
        pipe.ignore_errors();
        for written in writes {
            pipe.cmd("TYPE").arg(&*written.key);
        }
        let replies: Vec<Value> = pipe.query_async(connection).await?;
        for (Written { key, kind, whose }, reply) in writes.iter().zip(&replies) {
            if let Some(found) = text(reply).filter(|found| found != "none" && found != kind) {
                probed.problems.push(format!(
                    "channel {whose} writes to \"{}\" as a {kind}, but it is a {found}: use another \
                     name, or remove that key",
                    shown(key)
                ));
            }
        }
    }
    Ok(())
}

/// In a Redis Cluster what is written in one step must be in one slot: rehearsed by a script that
/// there isn't.
pub(super) async fn one_slot(
    connection: &mut MultiplexedConnection,
    needs: &Needs,
    probed: &mut Probed,
) -> RedisResult<()> {
    for reads in needs.reads.chunks(AT_ONCE) {
        let mut pipe = redis::pipe();
        pipe.ignore_errors().cmd("MULTI");
        for Read { key, together, .. } in reads {
            pipe.cmd("EVALSHA").arg(NO_SCRIPT).arg(1 + together.len()).arg(&**key).arg(together);
        }
        pipe.cmd("DISCARD");
        let replies: Vec<Value> = pipe.query_async(connection).await?;
        // Without a transaction the scripts were asked for, and aren't there.
        for (Read { key, together, whose, .. }, reply) in reads.iter().zip(replies.iter().skip(1)) {
            if error(reply).is_some_and(|answer| answer.starts_with("CROSSSLOT")) {
                let others: Vec<String> =
                    together.iter().map(|name| format!("\"{}\"", shown(name))).collect();
                probed.problems.push(format!(
                    "channel {whose} writes to {} in one step with the entries of \"{}\", but they are \
                     not in one slot of this Redis Cluster: give their names a common {{tag}}, dead \
                     letters included",
                    others.join(", "),
                    shown(key)
                ));
            }
        }
    }
    Ok(())
}

/// What was seen of a stream; `None` is what may not be asked, or isn't there.
struct Seen {
    kind: Option<String>,
    length: Option<i64>,
    groups: Option<Vec<String>>,
    has_cursor: bool,
}

fn judge(read: &Read, seen: &Seen, probed: &mut Probed) {
    let Read { key, group, start, delete, whose, .. } = read;
    let (key, group) = (shown(key), shown(group));
    let kind = match seen.kind.as_deref() {
        Some("none") => {
            let note = format!(
                "channel {whose}: there is no stream \"{key}\" yet; handlerd makes it, empty, with \
                 the group \"{group}\""
            );
            return probed.notes.push(note);
        }
        Some(kind) => kind,
        None => return,
    };
    if kind != "stream" {
        return probed.problems.push(format!(
            "channel {whose} reads the stream \"{key}\", but that is a {kind}: name another key in \
             `stream`, or remove that one"
        ));
    }
    let Some(groups) = &seen.groups else { return };
    let is_there = groups.iter().any(|name| *name == *read.group);
    let others = groups.len() - usize::from(is_there);
    if *delete && others > 0 {
        probed.problems.push(format!(
            "channel {whose} has when_done = \"delete\", but \"{key}\" is read by {others} more \
             group(s): nothing is deleted, and nothing finished, while there is another"
        ));
    }
    if is_there || seen.has_cursor {
        return;
    }
    match (start, seen.length) {
        (None, Some(length)) if length > 0 => probed.problems.push(format!(
            "channel {whose}: the group \"{group}\" is new, and the stream \"{key}\" holds {length} \
             entries: write start = \"oldest\" to have them handled, or start = \"new\" to have only \
             what comes"
        )),
        (start, _) => {
            let begin = match start {
                Some(Start::Oldest) => "the oldest entry".to_owned(),
                Some(Start::After(id)) => format!("what comes after {id}"),
                Some(Start::New) | None => "what comes then".to_owned(),
            };
            probed.notes.push(format!(
                "channel {whose}: there is no group \"{group}\" of \"{key}\" yet; handlerd makes it \
                 when it starts, and begins with {begin}"
            ));
        }
    }
}

fn shown(name: &str) -> String {
    printable(name.as_bytes(), SHOWN)
}

fn text(reply: &Value) -> Option<String> {
    match reply {
        Value::SimpleString(text) => Some(text.clone()),
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    }
}

fn number(reply: Value) -> Option<i64> {
    match reply {
        Value::Int(number) => Some(number),
        _ => None,
    }
}

/// A field of an answer that is a map, or, in RESP2, a list like one.
fn field(reply: &Value, name: &str) -> Option<Value> {
    redis::from_redis_value_ref::<HashMap<String, Value>>(reply).ok()?.remove(name)
}

/// The names of a stream's groups.
fn groups(reply: &Value) -> Option<Vec<String>> {
    match reply {
        Value::Array(groups) => {
            Some(groups.iter().filter_map(|group| text(&field(group, "name")?)).collect())
        }
        _ => None,
    }
}
