//! The consumer group: seen, made when it is missing, and made again when it has vanished.
//!
//! The finish step keeps the lowest unfinished id in a key beside the stream, the cursor. A group
//! that has vanished is made again there, so nothing is lost; what was finished out of order behind
//! it comes again. Without a cursor it is made at the beginning, never at the end.

use std::time::Duration;

use super::conn::{ANSWER, Conn};
use super::finish::{Arguments, Call};
use super::lane::Lane;
use super::script::{Script, Scripts};
use super::settings::Start;
use super::trouble::{State, Trouble};
use crate::config::EntryId;
use crate::failpoint::{Step, reach};

/// The name of the cursor: in a Cluster it lies in the stream's slot. `None` where no name does,
/// because the stream's has a `}` and no `{tag}`.
pub(in crate::broker) fn cursor_name(key: &str, group: &str) -> Option<String> {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    match tag {
        Some((tag, _)) if !tag.is_empty() => {
            Some(format!("handlerd:{{{tag}}}:{key}:{group}:cursor"))
        }
        _ if key.contains('}') || key.is_empty() => None,
        _ => Some(format!("handlerd:{{{key}}}:{group}:cursor")),
    }
}

/// What was seen of a stream and its group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) length: u64,
    pub(super) last: EntryId,
    pub(super) first: Option<EntryId>,
    pub(super) added: Option<u64>,
    pub(super) group: Option<Group>,
    pub(super) cursor: Option<Cursor>,
}

/// What was seen of the group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) delivered: EntryId,
    pub(super) pending: u64,
    pub(super) lag: Option<u64>,
    pub(super) read: Option<u64>,
}

/// Up to where all is finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cursor {
    /// This one isn't, and all before it are.
    Unfinished(EntryId),
    /// This one and all before it are.
    Finished(EntryId),
}

impl Cursor {
    fn parse(text: &[u8]) -> Option<Self> {
        match text.split_first()? {
            (b'u', id) => EntryId::parse(id).map(Cursor::Unfinished),
            (b'f', id) => EntryId::parse(id).map(Cursor::Finished),
            _ => None,
        }
    }

    /// What a group that is made again has to have delivered.
    fn delivered(self) -> EntryId {
        match self {
            Cursor::Unfinished(id) => id.before(),
            Cursor::Finished(id) => id,
        }
    }
}

/// Look at the stream and the group.
pub(super) async fn look(
    conn: &mut Conn,
    scripts: &mut Scripts,
    lane: &Lane,
    cursor: Option<&str>,
) -> Result<Seen, Trouble> {
    let mut keys = vec![lane.key.as_bytes()];
    keys.extend(cursor.map(str::as_bytes));
    let group = [lane.settings.group.as_bytes()];
    let texts = scripts.call(conn, Script::Look, &keys, &group, ANSWER, |answer| {
        let text =
            |node: &crate::broker::resp::Node<'_>| node.string().unwrap_or_default().to_vec();
        answer.items().iter().map(text).collect::<Vec<_>>()
    });
    let texts = texts.await?;
    let text = |i: usize| texts.get(i).map(Vec::as_slice).unwrap_or_default();
    let number = |i: usize| std::str::from_utf8(text(i)).ok().and_then(|n| n.parse::<u64>().ok());
    let id = |i: usize| EntryId::parse(text(i));
    let kind = String::from_utf8_lossy(text(0)).into_owned();
    if kind != "stream" && kind != "none" {
        let text = format!("WRONGTYPE it is a {kind}, not a stream");
        return Err(Trouble::new(State::WrongType, text));
    }
    let group = (text(5) == b"1").then(|| Group {
        delivered: id(6).unwrap_or_default(),
        pending: number(7).unwrap_or(0),
        lag: number(8),
        read: number(9),
    });
    Ok(Seen {
        length: number(1).unwrap_or(0),
        last: id(2).unwrap_or_default(),
        first: id(3),
        added: number(4),
        group,
        cursor: Cursor::parse(text(10)),
    })
}

/// See that the group is there. `known`: it has been there in this process's time, so that its
/// absence is a loss and not a beginning. Answers what there is now, and whether it was made.
pub(super) async fn ensure(
    conn: &mut Conn,
    scripts: &mut Scripts,
    lane: &Lane,
    cursor: Option<&str>,
    known: bool,
) -> Result<(Seen, bool), Trouble> {
    let seen = look(conn, scripts, lane, cursor).await?;
    if seen.group.is_some() {
        if cursor.is_some() && seen.cursor.is_none() {
            write_cursor(conn, scripts, lane, cursor).await?;
        }
        return Ok((seen, false));
    }
    let begin = beginning(lane, &seen, known)?;
    let (key, group) = (lane.key.as_bytes(), lane.settings.group.as_bytes());
    let at = begin.to_string();
    let create: [&[u8]; 6] = [b"XGROUP", b"CREATE", key, group, at.as_bytes(), b"MKSTREAM"];
    match conn.ask(&create, ANSWER, |_| ()).await {
        // Another daemon was first.
        Err(trouble) if trouble.text.starts_with("BUSYGROUP") => {}
        Err(trouble) => return Err(trouble),
        Ok(()) => {
            reach(Step::GroupMade);
            let (stream, group) = (&*lane.key, &*lane.settings.group);
            tracing::info!(
                channel = &*lane.settings.table,
                stream,
                group,
                "stream {stream}: the group {group} was made; it begins after {begin}"
            );
        }
    }
    write_cursor(conn, scripts, lane, cursor).await?;
    reach(Step::CursorWritten);
    Ok((look(conn, scripts, lane, cursor).await?, true))
}

/// Which id a group that is made has to have delivered.
fn beginning(lane: &Lane, seen: &Seen, known: bool) -> Result<EntryId, Trouble> {
    let settings = &lane.settings;
    match seen.cursor.map(Cursor::delivered) {
        // A stream that is younger than its cursor is another stream.
        Some(cursor) if cursor <= seen.last => return Ok(cursor),
        Some(_) => return Ok(EntryId::default()),
        None if known => {
            tracing::warn!(
                channel = &*settings.table,
                stream = &*lane.key,
                "the group had vanished, and it isn't known up to where it was finished: all that \
                 the stream holds comes again"
            );
            return Ok(EntryId::default());
        }
        None => {}
    }
    match settings.start {
        Some(Start::New) => Ok(seen.last),
        Some(Start::After(id)) => Ok(id),
        Some(Start::Oldest) => Ok(EntryId::default()),
        None if seen.length == 0 => Ok(seen.last),
        None => {
            let text = format!(
                "the group {} is new and the stream holds {} entries",
                settings.group, seen.length
            );
            Err(Trouble::new(State::Start, text))
        }
    }
}

/// Let the finish step write the cursor, with nothing to finish.
async fn write_cursor(
    conn: &mut Conn,
    scripts: &mut Scripts,
    lane: &Lane,
    cursor: Option<&str>,
) -> Result<(), Trouble> {
    if cursor.is_none() {
        return Ok(());
    }
    let settings = &lane.settings;
    let call = Call {
        key: &lane.key,
        group: &settings.group,
        consumer: &settings.consumer,
        delete: false,
        cursor,
    };
    let nothing = Arguments::default();
    let put = |out: &mut Vec<u8>| nothing.put(&call, out);
    scripts.run(conn, Script::Finish, nothing.parts(&call), put, ANSWER, |_| ()).await
}

/// The cursor, if there is one and it may be used: rehearsed without effect, because one forbidden
/// key would refuse the whole finish step. When that has changed, it is said.
pub(super) async fn cursor(conn: &mut Conn, lane: &Lane) -> Result<Option<String>, Trouble> {
    let Some(cursor) = cursor_name(&lane.key, &lane.settings.group) else { return Ok(None) };
    let allowed = rehearse(conn, &[b"SET", cursor.as_bytes(), b""]).await?.is_none()
        && rehearse(conn, &[b"GET", cursor.as_bytes()]).await?.is_none();
    let (channel, stream) = (&*lane.settings.table, &*lane.key);
    if lane.cursor_is_forbidden(!allowed) {
        if allowed {
            tracing::info!(channel, stream, "the key {cursor} may be used again");
        } else {
            tracing::warn!(
                channel,
                stream,
                "the ACL forbids the key {cursor}, which keeps from where the group would have to \
                 be made again: if it vanished, the whole stream would come again"
            );
        }
    }
    Ok(allowed.then_some(cursor))
}

/// Why a command would be refused by the ACL; nothing when it wouldn't, or when there is no telling.
pub(super) async fn rehearse(
    conn: &mut Conn,
    command: &[&[u8]],
) -> Result<Option<Trouble>, Trouble> {
    const LIMIT: Duration = ANSWER;
    match conn.ask(&[b"MULTI"], LIMIT, |_| ()).await {
        // Then the command would be carried out.
        Err(trouble) if trouble.state == State::RedisAway => return Err(trouble),
        Err(_) => return Ok(None),
        Ok(()) => {}
    }
    let queued = conn.ask(command, LIMIT, |_| ()).await;
    conn.ask(&[b"DISCARD"], LIMIT, |_| ()).await?;
    match queued {
        Err(trouble) if trouble.state == State::RedisAway => Err(trouble),
        Err(trouble) if trouble.state == State::NoPermission => Ok(Some(trouble)),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cursor_lies_in_the_slot_of_the_stream() {
        for (key, name) in [
            ("orders", Some("handlerd:{orders}:g:cursor")),
            ("a{b}c", Some("handlerd:{b}:a{b}c:g:cursor")),
            ("a{b", Some("handlerd:{a{b}:g:cursor")),
            ("a}b", None),
            ("{}a", None),
        ] {
            assert_eq!(cursor_name(key, "g").as_deref(), name, "{key}");
        }
    }
}
