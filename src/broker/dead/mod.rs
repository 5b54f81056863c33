//! Dead letters in Redis: read in pages, sent back, removed.
//!
//! What `handlerd dead` does in Redis; called by the command line. One connection a call, none
//! kept; in a Redis Cluster one after the other, to the node that has the stream. Never writes a dead letter: that is the daemon's. Sending one back and removing it is one
//! script, so two who do it at once do it once.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, ServerError, Value};
use thiserror::Error;

use super::commands::{self, Driver};
use super::connection::{ConnectError, Connector};
use crate::config::EntryId;
use crate::dead_letter::{DeadLetter, Field, NotADeadLetter};
use crate::telemetry::printable;

mod pages;
mod replay;

pub use pages::Pages;
pub(super) use pages::{FIRST_PAGE, count_after};
pub use replay::{Errand, Kept, Outcome, Target};

/// How long Redis may take to answer what is asked at once.
const LIMIT: Duration = Duration::from_secs(30);

/// Entries removed by one command.
const REMOVED_AT_ONCE: usize = 500;

/// Bytes of a name, or of Redis's words, that are shown.
const SHOWN: usize = 500;

/// Why dead letters can't be had.
#[derive(Debug, Error)]
pub enum DeadError {
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
    /// The key is a list or something else.
    #[error("\"{}\" is not a stream, so there are no dead letters in it", shown(key))]
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

/// An entry of a stream of dead letters.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its id.
    pub id: EntryId,
    /// What it is, or why it isn't one: somebody else may have written to the stream.
    pub letter: Result<DeadLetter, NotADeadLetter>,
}

/// A connection to the Redis that the dead letters are in.
pub struct DeadLetters {
    connection: MultiplexedConnection,
    connector: Connector,
    address: String,
    _driver: Driver,
}

impl DeadLetters {
    /// Connect.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn connect(connector: &Connector) -> Result<Self, DeadError> {
        let address = connector.address();
        let connected = commands::over(connector.connect().await?, LIMIT).await;
        let (connection, driver) = connected.map_err(|error| lost(&address, &error))?;
        Ok(DeadLetters { connection, connector: connector.clone(), address, _driver: driver })
    }

    /// A stream's dead letters as they are now, for [`Pages::next`]: those that come while they are
    /// read are left out, so that a replay that fails again has an end.
    ///
    /// # Errors
    /// When Redis refuses, or the key is no stream. One that doesn't exist has no dead letters.
    pub async fn open(&mut self, key: &str) -> Result<Pages, DeadError> {
        let mut pipe = redis::pipe();
        pipe.cmd("XLEN").arg(key);
        pipe.cmd("XREVRANGE").arg(key).arg("+").arg("-").arg("COUNT").arg(1);
        let [length, last] = self.ask(pipe).await?;
        let length = match self.accept("XLEN", key, length)? {
            Value::Int(length) => length.try_into().unwrap_or_default(),
            _ => return Err(self.strange()),
        };
        let last = self.accept("XREVRANGE", key, last)?;
        let last = self.found(last)?.pop().map(|found| found.id);
        Ok(Pages::new(key.to_owned(), length, last))
    }

    /// The entries with these ids; those that aren't there are left out.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn get(&mut self, key: &str, ids: &[EntryId]) -> Result<Vec<Found>, DeadError> {
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            let id = id.to_string();
            let mut pipe = redis::pipe();
            pipe.cmd("XRANGE").arg(key).arg(&id).arg(&id);
            let [entries] = self.ask(pipe).await?;
            let entries = self.accept("XRANGE", key, entries)?;
            found.extend(self.found(entries)?);
        }
        Ok(found)
    }

    /// Remove entries; answers how many were still there.
    ///
    /// # Errors
    /// As [`Self::open`]; what was asked for before the error is removed.
    pub async fn remove(&mut self, key: &str, ids: &[EntryId]) -> Result<u64, DeadError> {
        let mut removed = 0;
        for ids in ids.chunks(REMOVED_AT_ONCE) {
            let mut pipe = redis::pipe();
            pipe.cmd("XDEL").arg(key);
            for id in ids {
                pipe.arg(id.to_string());
            }
            let [reply] = self.ask(pipe).await?;
            match self.accept("XDEL", key, reply)? {
                Value::Int(n) => removed += n.cast_unsigned(),
                _ => return Err(self.strange()),
            }
        }
        Ok(removed)
    }

    /// Entries after one, up to and with another.
    async fn range(
        &mut self,
        key: &str,
        after: Option<EntryId>,
        until: EntryId,
        count: usize,
    ) -> Result<Vec<Found>, DeadError> {
        let from = after.map_or_else(|| "-".to_owned(), |id| format!("({id}"));
        let mut pipe = redis::pipe();
        pipe.cmd("XRANGE").arg(key).arg(from).arg(until.to_string()).arg("COUNT").arg(count);
        let [entries] = self.ask(pipe).await?;
        let entries = self.accept("XRANGE", key, entries)?;
        self.found(entries)
    }

    /// Send these commands, all about one stream, and read as many answers, errors included.
    async fn ask_all(&mut self, mut pipe: Pipeline) -> Result<Vec<Value>, DeadError> {
        pipe.ignore_errors();
        let answers = self.asked(&pipe).await?;
        match answers.first().and_then(|first| commands::moved_to(first, &self.connector)) {
            Some(node) => {
                *self = Self::connect(&node).await?;
                self.asked(&pipe).await
            }
            None => Ok(answers),
        }
    }

    async fn asked(&mut self, pipe: &Pipeline) -> Result<Vec<Value>, DeadError> {
        let asked = pipe.query_async::<Vec<Value>>(&mut self.connection).await;
        asked.map_err(|error| lost(&self.address, &error))
    }

    async fn ask<const N: usize>(&mut self, pipe: Pipeline) -> Result<[Value; N], DeadError> {
        self.ask_all(pipe).await?.try_into().map_err(|_| self.strange())
    }

    /// An answer that isn't an error.
    fn accept(&self, command: &'static str, key: &str, reply: Value) -> Result<Value, DeadError> {
        match reply {
            Value::ServerError(error) if error.code() == "WRONGTYPE" => {
                Err(DeadError::NotAStream { key: key.to_owned() })
            }
            Value::ServerError(error) => {
                Err(DeadError::Refused { command, key: key.to_owned(), answer: words(&error) })
            }
            reply => Ok(reply),
        }
    }

    /// The entries of an answer to XRANGE.
    fn found(&self, reply: Value) -> Result<Vec<Found>, DeadError> {
        let entries = list(reply).ok_or_else(|| self.strange())?.into_iter();
        entries.map(|entry| self::entry(entry).ok_or_else(|| self.strange())).collect()
    }

    fn strange(&self) -> DeadError {
        let reason = "Redis answered with something else than what was asked for".to_owned();
        DeadError::Lost { address: self.address.clone(), reason }
    }
}

fn lost(address: &str, error: &RedisError) -> DeadError {
    let reason = if error.is_timeout() {
        format!("no answer within {} s", LIMIT.as_secs())
    } else {
        error.to_string()
    };
    DeadError::Lost { address: address.to_owned(), reason }
}

fn entry(value: Value) -> Option<Found> {
    let (id, fields) = raw_entry(value)?;
    Some(Found { id, letter: DeadLetter::decode(fields) })
}

/// An entry of an answer to XRANGE.
pub(super) fn raw_entry(value: Value) -> Option<(EntryId, Vec<Field>)> {
    let [id, fields] = <[Value; 2]>::try_from(list(value)?).ok()?;
    let id = String::from_utf8(bytes(id)?).ok()?.parse().ok()?;
    let mut parts = list(fields)?.into_iter();
    let mut fields: Vec<Field> = Vec::with_capacity(parts.len() / 2);
    while let Some(name) = parts.next() {
        fields.push((bytes(name)?, bytes(parts.next()?)?));
    }
    Some((id, fields))
}

pub(super) fn list(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(items) => Some(items),
        _ => None,
    }
}

fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        _ => None,
    }
}

/// What Redis says of an error.
pub(super) fn words(error: &ServerError) -> String {
    let text = format!("{} {}", error.code(), error.details().unwrap_or_default());
    shown(text.trim_end())
}

fn shown(text: &str) -> String {
    printable(text.as_bytes(), SHOWN)
}
