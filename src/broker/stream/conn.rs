//! A connection on which one thing is asked at a time, each under a time limit.
//!
//! After any trouble of kind `redis_away` the connection is of no use: an answer may still be on its
//! way. The owner drops it then.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::trouble::{State, Trouble};
use crate::broker::connection::{Connector, Stream};
use crate::broker::resp::{self, FrameReader, Node};

/// How long an answer may take, beside the time that a read waits by itself. What was asked may be
/// asked again without harm, so a slow Redis costs work and nothing else.
pub(in crate::broker) const ANSWER: Duration = Duration::from_secs(2);

/// Bytes that an answer may have. A batch of entries, each as large as Redis takes it, would have
/// more; batches become smaller as entries become larger.
const LONGEST_ANSWER: usize = 1 << 30;

/// An open connection.
pub(in crate::broker) struct Conn {
    stream: Stream,
    reader: FrameReader,
    out: Vec<u8>,
    /// To a node of a Redis Cluster.
    is_cluster: bool,
}

impl Conn {
    pub(in crate::broker) async fn open(connector: &Connector) -> Result<Self, Trouble> {
        let link = connector.connect().await?;
        let reader = FrameReader::with_limit(LONGEST_ANSWER);
        Ok(Conn { stream: link.stream, reader, out: Vec::new(), is_cluster: link.cluster })
    }

    /// Whether Redis says that it is a node of a Cluster.
    pub(in crate::broker) fn is_cluster(&self) -> bool {
        self.is_cluster
    }

    /// Ask, and read the answer by `read`. An error that Redis answers is trouble.
    pub(in crate::broker) async fn ask<T>(
        &mut self,
        command: &[&[u8]],
        limit: Duration,
        read: impl FnOnce(Node<'_>) -> T,
    ) -> Result<T, Trouble> {
        some(self.ask_for(command, usize::MAX, limit, read).await)
    }

    /// The same; nothing when the answer has more than so many bytes. The connection is of no use
    /// then.
    pub(super) async fn ask_for<T>(
        &mut self,
        command: &[&[u8]],
        bytes: usize,
        limit: Duration,
        read: impl FnOnce(Node<'_>) -> T,
    ) -> Result<Option<T>, Trouble> {
        self.out.clear();
        resp::command(&mut self.out, command);
        self.sent(limit, bytes, read).await
    }

    /// The same for a command that `write` puts on the wire itself.
    pub(in crate::broker) async fn ask_raw<T>(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>),
        limit: Duration,
        read: impl FnOnce(Node<'_>) -> T,
    ) -> Result<T, Trouble> {
        const KEEP: usize = 1 << 20;
        self.out.clear();
        self.out.shrink_to(KEEP);
        write(&mut self.out);
        some(self.sent(limit, usize::MAX, read).await)
    }

    /// The limit is for the first byte of the answer. After that, and while the question goes out,
    /// it is for each further piece: a long one over a slow way takes its time.
    async fn sent<T>(
        &mut self,
        limit: Duration,
        bytes: usize,
        read: impl FnOnce(Node<'_>) -> T,
    ) -> Result<Option<T>, Trouble> {
        let mut left = self.out.as_slice();
        while !left.is_empty() {
            let written = within(ANSWER, self.stream.write(left)).await?;
            if written == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
            left = &left[written..];
        }
        within(ANSWER, self.stream.flush()).await?;
        let mut limit = limit;
        loop {
            if self.reader.unread().len() > bytes {
                return Ok(None);
            }
            match self.reader.next_reply()? {
                Some(reply) if reply.is_push() => {}
                Some(reply) => {
                    return match reply.error() {
                        Some(error) => Err(Trouble::refused(error)),
                        None => Ok(Some(read(reply))),
                    };
                }
                None => {
                    within(limit, self.reader.fill(&mut self.stream)).await?;
                    limit = ANSWER;
                }
            }
        }
    }
}

/// Of an answer that may have any size.
fn some<T>(answer: Result<Option<T>, Trouble>) -> Result<T, Trouble> {
    answer?.ok_or_else(|| Trouble::new(State::RedisAway, "an answer is too long"))
}

async fn within<T>(
    limit: Duration,
    step: impl Future<Output = io::Result<T>>,
) -> Result<T, Trouble> {
    match timeout(limit, step).await {
        Ok(done) => Ok(done?),
        Err(_) => {
            let text = format!("no answer within {:.1} s", limit.as_secs_f32());
            Err(Trouble::new(State::RedisAway, text))
        }
    }
}
