//! What a stream held in a range of its past, page by page.
//!
//! What `handlerd replay` reads; called by the command line. Only XINFO and XRANGE are sent, which the
//! daemon's own user may: no group is touched and nothing is written.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, RedisError, Value};
use thiserror::Error;

use super::commands::{self, Driver};
use super::connection::{ConnectError, Connector};
use super::dead::{FIRST_PAGE, count_after, list, raw_entry};
use crate::config::EntryId;
use crate::dead_letter::Field;
use crate::telemetry::printable;

/// How long Redis may take to answer.
const LIMIT: Duration = Duration::from_secs(30);

/// Bytes of a name, or of Redis's words, that are shown.
const SHOWN: usize = 500;

/// Why a stream's past can't be had.
#[derive(Debug, Error)]
pub enum PastError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke, or there was no answer in time.
    #[error("{address}: {reason}")]
    Lost {
        /// Where to.
        address: String,
        /// What happened.
        reason: String,
    },
    /// There is no such key.
    #[error("there is no stream \"{}\" on {address}", shown(key))]
    NotThere {
        /// The key.
        key: String,
        /// Of which Redis.
        address: String,
    },
    /// The key is a list or something else.
    #[error("\"{}\" is not a stream", shown(key))]
    NotAStream {
        /// The key.
        key: String,
    },
    /// Redis answered with an error.
    #[error("{command} \"{}\" was refused: {answer}", shown(key))]
    Refused {
        /// Which command.
        command: &'static str,
        /// The stream.
        key: String,
        /// What Redis says.
        answer: String,
    },
}

/// A connection to the Redis that streams are on.
pub struct Past {
    connection: MultiplexedConnection,
    connector: Connector,
    address: String,
    _driver: Driver,
}

/// Where one is in a range of a stream.
#[derive(Clone, Debug)]
pub struct Range {
    key: String,
    /// The first id to be read; `None` at the end.
    from: Option<EntryId>,
    to: EntryId,
    count: usize,
}

impl Range {
    /// The last id that may be in it: none that is added from now on.
    pub fn to(&self) -> EntryId {
        self.to
    }
}

impl Past {
    /// Connect.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn connect(connector: &Connector) -> Result<Self, PastError> {
        let address = connector.address();
        let connected = commands::over(connector.connect().await?, LIMIT).await;
        let (connection, driver) = connected.map_err(|error| lost(&address, &error))?;
        Ok(Past { connection, connector: connector.clone(), address, _driver: driver })
    }

    /// A range of a stream, both ends included, as far as there are entries now.
    ///
    /// # Errors
    /// When Redis refuses, or there is no such stream.
    pub async fn range(
        &mut self,
        key: &str,
        from: EntryId,
        to: EntryId,
    ) -> Result<Range, PastError> {
        let mut about = redis::cmd("XINFO");
        about.arg("STREAM").arg(key);
        let about = self.ask("XINFO", key, &about).await?;
        let last = redis::from_redis_value::<HashMap<String, Value>>(about)
            .ok()
            .and_then(|mut about| about.remove("last-generated-id"))
            .and_then(|id| redis::from_redis_value::<String>(id).ok()?.parse::<EntryId>().ok())
            .ok_or_else(|| self.strange())?;
        let to = to.min(last);
        let from = (from <= to).then_some(from);
        Ok(Range { key: key.to_owned(), from, to, count: FIRST_PAGE })
    }

    /// The next entries of a range, the oldest first; an empty page is the end.
    ///
    /// # Errors
    /// As [`Self::range`].
    pub async fn next(
        &mut self,
        range: &mut Range,
    ) -> Result<Vec<(EntryId, Vec<Field>)>, PastError> {
        let Some(from) = range.from else { return Ok(Vec::new()) };
        let (from, to) = (from.to_string(), range.to.to_string());
        let mut ask = redis::cmd("XRANGE");
        ask.arg(&range.key).arg(from).arg(to).arg("COUNT").arg(range.count);
        let page = list(self.ask("XRANGE", &range.key, &ask).await?);
        let page = page.ok_or_else(|| self.strange())?.into_iter();
        let page: Option<Vec<_>> = page.map(raw_entry).collect();
        let page = page.ok_or_else(|| self.strange())?;
        let next = page.last().and_then(|(id, _)| after(*id));
        range.from = next.filter(|next| *next <= range.to);
        let bytes = |field: &Field| field.0.len() + field.1.len();
        range.count = count_after(page.iter().map(|(_, fields)| fields.iter().map(bytes).sum()));
        Ok(page)
    }

    async fn ask(
        &mut self,
        command: &'static str,
        key: &str,
        ask: &Cmd,
    ) -> Result<Value, PastError> {
        let key = || key.to_owned();
        let mut asked = self.connection.send_packed_command(ask).await;
        let node = asked.as_ref().ok().and_then(|first| commands::moved_to(first, &self.connector));
        if let Some(node) = node {
            *self = Self::connect(&node).await?;
            asked = self.connection.send_packed_command(ask).await;
        }
        asked.and_then(Value::extract_error).map_err(|error| match error.kind() {
            ErrorKind::Server(_) | ErrorKind::Extension => {
                let answer = error.detail().unwrap_or_default();
                match error.code() {
                    Some("WRONGTYPE") => PastError::NotAStream { key: key() },
                    _ if answer.contains("no such key") => {
                        PastError::NotThere { key: key(), address: self.address.clone() }
                    }
                    code => {
                        let answer = format!("{} {answer}", code.unwrap_or_default());
                        PastError::Refused { command, key: key(), answer: shown(answer.trim()) }
                    }
                }
            }
            _ => lost(&self.address, &error),
        })
    }

    fn strange(&self) -> PastError {
        let reason = "Redis answered with something else than what was asked for".to_owned();
        PastError::Lost { address: self.address.clone(), reason }
    }
}

/// The next id that an entry may have.
fn after(EntryId { ms, seq }: EntryId) -> Option<EntryId> {
    match seq.checked_add(1) {
        Some(seq) => Some(EntryId { ms, seq }),
        None => Some(EntryId { ms: ms.checked_add(1)?, seq: 0 }),
    }
}

fn lost(address: &str, error: &RedisError) -> PastError {
    let reason = if error.is_timeout() {
        format!("no answer within {} s", LIMIT.as_secs())
    } else {
        error.to_string()
    };
    PastError::Lost { address: address.to_owned(), reason }
}

fn shown(text: &str) -> String {
    printable(text.as_bytes(), SHOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_id_is_one_more() {
        let id = |ms, seq| EntryId { ms, seq };
        assert_eq!(after(id(1, 1)), Some(id(1, 2)));
        assert_eq!(after(id(1, u64::MAX)), Some(id(2, 0)));
        assert_eq!(after(id(u64::MAX, u64::MAX)), None);
    }
}
