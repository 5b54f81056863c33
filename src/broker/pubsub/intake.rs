//! From the bytes of a connection to messages in queues; answers are handed to the session.
//!
//! Messages are taken apart by hand, everything else by the codec. Keeps memory bounded whatever is
//! sent: a payload that nobody takes is thrown away as it streams in, one that is too large for the
//! read buffer grows in its own place.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::answer::Answer;
use super::roster::NameId;
use super::router::Router;
use crate::broker::resp::FrameReader;
use crate::telemetry::DropReason;

/// A payload of this many bytes that hasn't come whole is collected outside the read buffer.
const COLLECT_FROM: usize = 16 << 10;

/// The longest name of a Redis channel that a pattern may bring; a longer one is dropped like one
/// that isn't UTF-8. Redis permits 512 MiB.
const LONGEST_NAME: usize = 64 << 10;

/// The most that a frame without a payload may hold.
const LONGEST_FRAME: usize = 1 << 20;

/// What follows the first byte of a message (`>` in RESP3, `*` in RESP2).
const MESSAGE: &[u8] = b"3\r\n$7\r\nmessage\r\n";
const PATTERN_MESSAGE: &[u8] = b"4\r\n$8\r\npmessage\r\n";

/// Takes messages out of a connection's bytes.
pub(super) struct Intake {
    router: Router,
    state: State,
}

/// Where in a message the next byte is.
enum State {
    /// At the beginning of a frame.
    Between,
    /// In something of no use: so many bytes of it are to come.
    Skip(usize),
    /// In a Redis channel's name of no use, and the payload comes after it.
    SkipName(usize),
    /// In a payload; so many bytes are to come, its line end included.
    Collect { id: NameId, channel: Arc<str>, payload: Vec<u8>, left: usize },
}

/// The front of a frame.
#[derive(Debug, PartialEq)]
enum Head {
    /// Too little has come to say.
    Partial,
    /// Not a message.
    Other,
    /// A message up to where its payload begins.
    Message {
        pattern: bool,
        /// The name or pattern it came by, and the Redis channel it was sent on.
        name: Range<usize>,
        channel: Range<usize>,
        payload: Range<usize>,
    },
    /// A message whose Redis channel's name (so many bytes from there) is longer than we take.
    LongName { name: Range<usize>, channel: Range<usize> },
}

impl Intake {
    /// Into these queues.
    pub(super) fn new(router: Router) -> Self {
        Intake { router, state: State::Between }
    }

    /// A new connection: what the one before left half done is forgotten.
    pub(super) fn restart(&mut self) {
        self.state = State::Between;
    }

    /// The connection has ended: channels that are single miss messages.
    pub(super) fn cut(&self) {
        self.router.cut();
    }

    /// Nothing is to come any more.
    pub(super) fn close(&self) {
        self.router.close();
    }

    /// Other queues from now on, between two messages; `moved` tells the new ids of the names. A
    /// message that is half here goes where its name goes now.
    pub(super) fn reroute(&mut self, router: Router, moved: &[Option<NameId>]) {
        self.router = router;
        if let State::Collect { id, left, .. } = &mut self.state {
            match moved[*id] {
                Some(new) => *id = new,
                None => self.state = State::Skip(*left),
            }
        }
    }

    /// The name or pattern that this text is; `None` when it isn't ours.
    pub(super) fn find(&self, pattern: bool, name: &[u8]) -> Option<NameId> {
        self.router.find(pattern, name)
    }

    /// A read has brought bytes; call [`Self::next`] until it has no more, then [`Self::flush`].
    pub(super) fn begin(&mut self) {
        self.router.begin();
    }

    /// Push what the read brought.
    pub(super) fn flush(&mut self) {
        self.router.flush();
    }

    /// Take messages up to the next answer; `None` when more bytes are needed.
    ///
    /// # Errors
    /// `InvalidData` when the bytes are not the Redis protocol.
    pub(super) fn next(&mut self, reader: &mut FrameReader) -> io::Result<Option<Answer>> {
        loop {
            if !self.continue_message(reader)? {
                return Ok(None);
            }
            let bytes = reader.unread();
            let head = head(bytes)?;
            match head {
                Head::Partial => break,
                Head::Other => match reader.next_frame()? {
                    Some(frame) => return Ok(Some(Answer::of(&frame))),
                    None => break,
                },
                Head::LongName { name, channel } => {
                    if let Some(id) = self.router.find(true, &bytes[name]) {
                        self.router.lost(id, DropReason::Name);
                    }
                    reader.advance(channel.start);
                    self.state = State::SkipName(channel.len() + 2);
                }
                Head::Message { pattern, name, channel, payload } => {
                    match self.message(bytes, pattern, name, channel, payload)? {
                        0 => break,
                        taken => reader.advance(taken),
                    }
                }
            }
        }
        if reader.unread().len() > LONGEST_FRAME {
            return Err(malformed("a frame without end"));
        }
        Ok(None)
    }

    /// Take one message, or its beginning; answers how many bytes were taken. 0: wait for more.
    fn message(
        &mut self,
        bytes: &[u8],
        pattern: bool,
        name: Range<usize>,
        channel: Range<usize>,
        payload: Range<usize>,
    ) -> io::Result<usize> {
        let whole = payload.end + 2 <= bytes.len();
        if !whole && payload.len() < COLLECT_FROM {
            return Ok(0);
        }
        if whole && bytes[payload.end..payload.end + 2] != *b"\r\n" {
            return Err(malformed("a payload without its end"));
        }
        let skip = State::Skip(payload.len() + 2);
        // None: not subscribed to any more; nobody's message.
        let Some(id) = self.router.find(pattern, &bytes[name]) else {
            self.state = skip;
            return Ok(payload.start);
        };
        let Some(channel) = self.router.channel(id, pattern, &bytes[channel]) else {
            self.router.lost(id, DropReason::Name);
            self.state = skip;
            return Ok(payload.start);
        };
        if payload.len() > self.router.limit(id) {
            self.router.lost(id, DropReason::TooLarge);
            self.state = skip;
            return Ok(payload.start);
        }
        if whole {
            let end = payload.end + 2;
            self.router.deliver(id, &channel, bytes[payload].to_vec());
            return Ok(end);
        }
        let left = payload.len() + 2;
        self.state =
            State::Collect { id, channel, payload: Vec::with_capacity(payload.len()), left };
        Ok(payload.start)
    }

    /// Go on with a message that was begun. `false`: more bytes are needed.
    fn continue_message(&mut self, reader: &mut FrameReader) -> io::Result<bool> {
        loop {
            let bytes = reader.unread();
            let have = bytes.len();
            match &mut self.state {
                State::Between => return Ok(true),
                State::Skip(left) | State::SkipName(left) if *left > have => {
                    *left -= have;
                    reader.advance(have);
                    return Ok(false);
                }
                State::Skip(left) => {
                    let left = *left;
                    reader.advance(left);
                    self.state = State::Between;
                }
                State::SkipName(left) => {
                    let Some(payload) = bulk(bytes, *left)? else {
                        // The name and what has come of the length that follows it are short now.
                        let left = std::mem::take(left);
                        reader.advance(left);
                        return Ok(false);
                    };
                    reader.advance(payload.start);
                    self.state = State::Skip(payload.len() + 2);
                }
                State::Collect { payload, left, .. } => {
                    let text = left.saturating_sub(2).min(have);
                    payload.extend_from_slice(&bytes[..text]);
                    *left -= text;
                    reader.advance(text);
                    if *left > 2 || reader.unread().len() < 2 {
                        return Ok(false);
                    }
                    if !reader.unread().starts_with(b"\r\n") {
                        return Err(malformed("a payload without its end"));
                    }
                    reader.advance(2);
                    let done = std::mem::replace(&mut self.state, State::Between);
                    if let State::Collect { id, channel, payload, .. } = done {
                        self.router.deliver(id, &channel, payload);
                    }
                }
            }
        }
    }
}

/// Look at the front of what has come.
fn head(bytes: &[u8]) -> io::Result<Head> {
    let Some((b'>' | b'*', rest)) = bytes.split_first() else {
        return Ok(if bytes.is_empty() { Head::Partial } else { Head::Other });
    };
    let (pattern, start) = if rest.starts_with(MESSAGE) {
        (false, 1 + MESSAGE.len())
    } else if rest.starts_with(PATTERN_MESSAGE) {
        (true, 1 + PATTERN_MESSAGE.len())
    } else if MESSAGE.starts_with(rest) || PATTERN_MESSAGE.starts_with(rest) {
        return Ok(Head::Partial);
    } else {
        return Ok(Head::Other);
    };
    let Some(name) = bulk(bytes, start)? else { return Ok(Head::Partial) };
    let channel = if pattern {
        if name.end + 2 > bytes.len() {
            return Ok(Head::Partial);
        }
        let Some(channel) = bulk(bytes, name.end + 2)? else { return Ok(Head::Partial) };
        if channel.len() > LONGEST_NAME {
            return Ok(Head::LongName { name, channel });
        }
        channel
    } else {
        name.clone()
    };
    if channel.end + 2 > bytes.len() {
        return Ok(Head::Partial);
    }
    Ok(match bulk(bytes, channel.end + 2)? {
        Some(payload) => Head::Message { pattern, name, channel, payload },
        None => Head::Partial,
    })
}

/// Where the bytes of the bulk string that begins at `at` are, come or not; `None` when its length
/// hasn't come whole.
fn bulk(bytes: &[u8], at: usize) -> io::Result<Option<Range<usize>>> {
    let mut length = 0;
    for (index, byte) in bytes.iter().enumerate().skip(at) {
        match (index - at, byte) {
            (0, b'$') => {}
            // Redis's strings have 512 MiB at most, a configured limit 4 GiB.
            (1..=10, b'0'..=b'9') => length = length * 10 + usize::from(byte - b'0'),
            (2..=11, b'\r') => {
                return match bytes.get(index + 1) {
                    None => Ok(None),
                    Some(b'\n') => Ok(Some(index + 2..index + 2 + length)),
                    Some(_) => Err(malformed("a length without its end")),
                };
            }
            _ => return Err(malformed("a string without its length")),
        }
    }
    Ok(None)
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not the Redis protocol: {what}"))
}
