//! Publishing and watching by hand: what `handlerd send` and `handlerd listen` do in Redis.
//!
//! Called by the command line. One connection a call, none kept; never counts anything and never
//! runs a handler.

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::time::{sleep, timeout};

use super::backoff::backoff;
use super::connection::{ConnectError, Connector, Link, Reply, Stream, describe};
use super::resp::{self, FrameReader};

/// Redis's strings have 512 MiB at most (`proto-max-bulk-len`), and a name goes with them.
const LONGEST_MESSAGE: usize = 513 << 20;

/// How long one message may take to be taken.
const SEND_LIMIT: Duration = Duration::from_secs(30);

/// Without anything heard for so long, Redis is asked for a sign of life; as long again, and the
/// connection is given up.
const QUIET: Duration = Duration::from_secs(3);

/// Pauses between tries to listen again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// Why something could not be sent or listened to.
#[derive(Debug, Error)]
pub enum ShellError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke.
    #[error("{address}: {source}")]
    Io {
        /// Where to.
        address: String,
        /// What happened.
        source: io::Error,
    },
    /// Redis answered with an error.
    #[error("{command} \"{name}\" was refused: {answer}")]
    Refused {
        /// Which command.
        command: &'static str,
        /// The Redis channel or pattern.
        name: String,
        /// What Redis says.
        answer: String,
    },
}

/// Publish a message; answers how many subscribers got it from this Redis.
///
/// # Errors
/// When there is no connection, when Redis refuses, or when it doesn't answer within 30 s: then it
/// may have been published.
pub async fn send(connector: &Connector, channel: &str, payload: &[u8]) -> Result<u64, ShellError> {
    let io = |source| ShellError::Io { address: connector.address(), source };
    let mut link = connector.connect().await?;
    let publish: &[&[u8]] = &[b"PUBLISH", channel.as_bytes(), payload];
    let mut replies = timeout(SEND_LIMIT, link.ask(&[publish]))
        .await
        .map_err(|_| io(io::ErrorKind::TimedOut.into()))?
        .map_err(io)?;
    match replies.pop() {
        Some(Reply::Number(subscribers)) => Ok(subscribers.try_into().unwrap_or_default()),
        Some(Reply::Error(answer)) => {
            Err(ShellError::Refused { command: "PUBLISH", name: channel.to_owned(), answer })
        }
        _ => Err(io(io::Error::new(io::ErrorKind::InvalidData, "PUBLISH was answered strangely"))),
    }
}

/// What a listener hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// Every name is subscribed to: at first, and again after each [`Heard::Lost`].
    Listening,
    /// A message.
    Message {
        /// The pattern that matched, where it was listened to by one.
        pattern: Option<&'a [u8]>,
        /// The Redis channel that it was sent on.
        channel: &'a [u8],
        /// Its bytes.
        payload: &'a [u8],
    },
    /// The connection ended and will be tried again; what is sent meanwhile is missed.
    Lost {
        /// Why.
        reason: &'a str,
    },
}

/// Hear what is sent on Redis channels, by their names and by patterns, until `hear` breaks off.
/// A lost connection is tried again for ever.
///
/// # Errors
/// When the first connection can't be made, or when Redis refuses one of the names.
pub async fn listen(
    connector: &Connector,
    channels: &[String],
    patterns: &[String],
    mut hear: impl FnMut(Heard<'_>) -> ControlFlow<()>,
) -> Result<(), ShellError> {
    let mut pauses = None;
    let mut link = Some(connector.connect().await?);
    loop {
        if let Some(link) = link.take() {
            let mut ear = Ear::new(link);
            let listening = ear.listen(channels, patterns, &mut hear).await;
            let heard = ear.healthy;
            let reason = match listening {
                Ok(()) => return Ok(()),
                Err(Ended::Lost(error)) => describe(&error),
                Err(Ended::Refused(error)) => return Err(error),
            };
            if heard {
                pauses = None;
            }
            if hear(Heard::Lost { reason: &reason }).is_break() {
                return Ok(());
            }
        }
        let pauses = pauses.get_or_insert_with(|| backoff(FIRST_PAUSE, LAST_PAUSE));
        sleep(pauses.next().unwrap_or(LAST_PAUSE)).await;
        link = connector.connect().await.ok();
    }
}

/// Why listening on one connection ended.
enum Ended {
    /// It broke.
    Lost(io::Error),
    /// Redis refused a name: trying again is of no use.
    Refused(ShellError),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Ended::Lost(error)
    }
}

/// One listening connection.
struct Ear {
    input: ReadHalf<Stream>,
    output: WriteHalf<Stream>,
    reader: FrameReader,
    healthy: bool,
}

impl Ear {
    fn new(link: Link) -> Self {
        let (input, output) = split(link.stream);
        Ear { input, output, reader: FrameReader::with_limit(LONGEST_MESSAGE), healthy: false }
    }

    async fn listen(
        &mut self,
        channels: &[String],
        patterns: &[String],
        hear: &mut impl FnMut(Heard<'_>) -> ControlFlow<()>,
    ) -> Result<(), Ended> {
        let mut asked = channels
            .iter()
            .map(|name| ("SUBSCRIBE", name))
            .chain(patterns.iter().map(|name| ("PSUBSCRIBE", name)));
        let mut out = Vec::new();
        for (command, name) in asked.clone() {
            resp::command(&mut out, &[command.as_bytes(), name.as_bytes()]);
        }
        self.write(&out).await?;
        let mut missing = channels.len() + patterns.len();
        loop {
            while let Some(frame) = self.reader.next_frame()? {
                if let Some(error) = frame.error() {
                    // Answers come in the order of the commands.
                    let Some((command, name)) = asked.next() else { continue };
                    let answer = String::from_utf8_lossy(error).into_owned();
                    let name = name.clone();
                    return Err(Ended::Refused(ShellError::Refused { command, name, answer }));
                }
                // Without RESP3 these are arrays like any other.
                let items: Vec<&[u8]> = frame
                    .items()
                    .unwrap_or_default()
                    .iter()
                    .map(|item| item.string.unwrap_or_default())
                    .collect();
                let heard = match *items {
                    [b"message", channel, payload] => {
                        Heard::Message { pattern: None, channel, payload }
                    }
                    [b"pmessage", pattern, channel, payload] => {
                        Heard::Message { pattern: Some(pattern), channel, payload }
                    }
                    [b"subscribe" | b"psubscribe", ..] if missing > 0 => {
                        asked.next();
                        missing -= 1;
                        if missing > 0 {
                            continue;
                        }
                        self.healthy = true;
                        Heard::Listening
                    }
                    _ => continue,
                };
                if hear(heard).is_break() {
                    return Ok(());
                }
            }
            self.more().await?;
        }
    }

    /// Wait for bytes. A Redis that says nothing is asked.
    async fn more(&mut self) -> io::Result<()> {
        let mut asked = false;
        loop {
            match timeout(QUIET, self.reader.fill(&mut self.input)).await {
                Ok(read) => return read.map(drop),
                Err(_) if asked => {
                    let silent = 2 * QUIET.as_secs();
                    let reason = format!("nothing was heard from Redis for {silent} s");
                    return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
                }
                Err(_) => {
                    asked = true;
                    let mut ping = Vec::new();
                    resp::command(&mut ping, &[b"PING"]);
                    self.write(&ping).await?;
                }
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let write = async {
            self.output.write_all(bytes).await?;
            self.output.flush().await
        };
        timeout(QUIET, write).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}
