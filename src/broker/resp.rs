//! RESP on the wire: commands out, frames in.
//!
//! Frames are decoded by the `redis-protocol` crate's RESP3 decoder, which reads RESP2's replies too
//! except for null: that is known here, though not inside an array, where no reply to a command of
//! ours has it. Replies whose lists hold lists are read without it, see `reply.rs`. Commands are arrays of bulk strings, written by hand: three lines, and no copy in
//! between. Protocol: <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

use std::io;

use redis_protocol::resp3::decode::complete::decode_range;
use redis_protocol::resp3::types::RangeFrame;
use tokio::io::{AsyncRead, AsyncReadExt};

mod reply;

pub use reply::Node;

/// Append a command: its name and its arguments.
pub fn command(out: &mut Vec<u8>, parts: &[&[u8]]) {
    array(out, parts.len());
    for part in parts {
        bulk(out, part);
    }
}

/// Begin a command of so many parts, its name included.
pub fn array(out: &mut Vec<u8>, parts: usize) {
    number(out, b'*', parts);
}

/// Append one argument of a command.
pub fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    number(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

fn number(out: &mut Vec<u8>, sigil: u8, mut n: usize) {
    // 20 digits hold any u64.
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.push(sigil);
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

/// Bytes from a connection, taken apart into frames.
pub struct FrameReader {
    buffer: Vec<u8>,
    /// What of `buffer` has been taken already.
    start: usize,
    /// Bytes that one frame may have.
    limit: usize,
}

/// What a reply may have at most, unless the reader is made for more. INFO's are the longest that
/// are asked for, some kilobytes.
const LONGEST_REPLY: usize = 1 << 20;

/// How deep arrays may stand in arrays: the codec calls itself for each, so that without a bound a
/// peer could use up the stack. No reply that is asked for is deeper than three.
const DEEPEST: usize = 16;

/// Room that is made for a read at least.
const READ_SIZE: usize = 64 << 10;

impl Default for FrameReader {
    fn default() -> Self {
        FrameReader::with_limit(LONGEST_REPLY)
    }
}

impl FrameReader {
    /// For frames of at most so many bytes.
    pub fn with_limit(limit: usize) -> Self {
        FrameReader { buffer: Vec::with_capacity(READ_SIZE), start: 0, limit }
    }

    /// Wait for bytes and keep them. An end of the stream is an error of kind `UnexpectedEof`.
    ///
    /// Cancel safe: when dropped before it is done, nothing has been read.
    pub async fn fill(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        self.compact();
        if self.buffer.len() > self.limit {
            return Err(not_resp(format_args!("an answer has more than {} bytes", self.limit)));
        }
        self.buffer.reserve(READ_SIZE);
        match from.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => Ok(n),
        }
    }

    /// The next whole frame; `None` until more bytes have come.
    ///
    /// # Errors
    /// `InvalidData` when the bytes are not RESP; the connection is of no use then.
    pub fn next_frame(&mut self) -> io::Result<Option<Frame<'_>>> {
        const NULLS: [&[u8]; 2] = [b"$-1\r\n", b"*-1\r\n"];
        let unread = &self.buffer[self.start..];
        if let Some(null) = NULLS.into_iter().find(|null| unread.starts_with(null)) {
            self.start += null.len();
            return Ok(Some(Frame { bytes: null, frame: RangeFrame::Null }));
        }
        if NULLS.iter().any(|null| null.starts_with(unread)) {
            return Ok(None);
        }
        if depth(unread) > DEEPEST {
            return Err(not_resp(format_args!("lists are nested deeper than {DEEPEST}")));
        }
        let decoded = decode_range(unread).map_err(|error| not_resp(format_args!("{error}")))?;
        Ok(decoded.map(|(frame, length)| {
            let bytes = &self.buffer[self.start..self.start + length];
            self.start += length;
            Frame { bytes, frame }
        }))
    }

    /// Bytes read and not yet taken.
    pub fn unread(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Take bytes of [`Self::unread`] without decoding them.
    pub fn advance(&mut self, n: usize) {
        self.start += n;
        debug_assert!(self.start <= self.buffer.len());
    }

    /// Move what is left to the front, and give back what one large frame made the buffer grow to.
    fn compact(&mut self) {
        const KEEP: usize = 1 << 20;
        self.buffer.drain(..self.start);
        self.start = 0;
        if self.buffer.capacity() > KEEP && self.buffer.len() < READ_SIZE {
            self.buffer.shrink_to(READ_SIZE);
        }
    }
}

fn not_resp(why: std::fmt::Arguments<'_>) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the answer is not the Redis protocol: {why}"),
    )
}

/// How deep the first frame is nested, as far as it has come; stops counting above [`DEEPEST`].
fn depth(mut bytes: &[u8]) -> usize {
    // Values that are still to come, for each list that has been begun.
    let mut open: Vec<usize> = Vec::new();
    let mut deepest = 0;
    loop {
        let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return deepest };
        let (line, rest) = (&bytes[..end], &bytes[end + 2..]);
        bytes = rest;
        let count = || std::str::from_utf8(&line[1..]).ok().and_then(|n| n.parse::<usize>().ok());
        let items = match line.first() {
            Some(b'*' | b'>' | b'~') => count().unwrap_or(0),
            Some(b'%' | b'|') => count().unwrap_or(0).saturating_mul(2),
            Some(b'$' | b'!' | b'=') => {
                let skip = count().unwrap_or(0).saturating_add(2).min(bytes.len());
                bytes = &bytes[skip..];
                0
            }
            _ => 0,
        };
        if items > 0 {
            open.push(items);
            deepest = deepest.max(open.len());
            if deepest > DEEPEST {
                return deepest;
            }
            continue;
        }
        // A value is whole, and with it each list that it was the last of.
        while let Some(left) = open.last_mut() {
            *left -= 1;
            if *left > 0 {
                break;
            }
            open.pop();
        }
        if open.is_empty() {
            return deepest;
        }
    }
}

/// One frame, borrowed from the reader.
pub struct Frame<'a> {
    bytes: &'a [u8],
    frame: RangeFrame,
}

impl<'a> Frame<'a> {
    /// The text of an error answer.
    pub fn error(&self) -> Option<&'a [u8]> {
        match &self.frame {
            RangeFrame::SimpleError { data, .. } | RangeFrame::BlobError { data, .. } => {
                Some(&self.bytes[data.0..data.1])
            }
            _ => None,
        }
    }

    /// The bytes of a string answer of any kind.
    pub fn string(&self) -> Option<&'a [u8]> {
        string(self.bytes, &self.frame)
    }

    /// A number.
    pub fn integer(&self) -> Option<i64> {
        integer(&self.frame)
    }

    /// The items of an array, a push, or a map (key, value, key, value).
    pub fn items(&self) -> Option<Vec<Item<'a>>> {
        let item = |frame: &RangeFrame| Item {
            string: string(self.bytes, frame),
            integer: integer(frame),
        };
        match &self.frame {
            RangeFrame::Array { data, .. } | RangeFrame::Push { data, .. } => {
                Some(data.iter().map(item).collect())
            }
            RangeFrame::Map { data, .. } => {
                Some(data.iter().flat_map(|(k, v)| [item(k), item(v)]).collect())
            }
            _ => None,
        }
    }

    /// Whether this is an out-of-band push (RESP3).
    pub fn is_push(&self) -> bool {
        matches!(self.frame, RangeFrame::Push { .. })
    }
}

/// A scalar in an aggregate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item<'a> {
    /// Its bytes where it is a string.
    pub string: Option<&'a [u8]>,
    /// Its value where it is a number.
    pub integer: Option<i64>,
}

fn string<'a>(bytes: &'a [u8], frame: &RangeFrame) -> Option<&'a [u8]> {
    match frame {
        RangeFrame::BlobString { data, .. }
        | RangeFrame::SimpleString { data, .. }
        | RangeFrame::VerbatimString { data, .. } => Some(&bytes[data.0..data.1]),
        _ => None,
    }
}

fn integer(frame: &RangeFrame) -> Option<i64> {
    match frame {
        RangeFrame::Number { data, .. } => Some(*data),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_array_of_bulk_strings() {
        let mut out = Vec::new();
        command(&mut out, &[b"PUBLISH", b"a", b"", &[0, 255]]);
        assert_eq!(out, b"*4\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n$0\r\n\r\n$2\r\n\x00\xff\r\n");
    }

    #[tokio::test]
    async fn a_peer_can_not_use_up_the_stack_or_the_memory() {
        let mut reader = FrameReader::default();
        let nested = b"*1\r\n".repeat(50_000);
        reader.fill(&mut &nested[..]).await.unwrap();
        assert!(reader.next_frame().is_err());

        let mut reader = FrameReader::with_limit(1000);
        let long = [b"$4000000000\r\n".as_slice(), &[b'x'; 2000]].concat();
        reader.fill(&mut &long[..]).await.unwrap();
        assert!(reader.next_frame().unwrap().is_none());
        assert!(reader.fill(&mut &b"x"[..]).await.is_err());
    }

    #[test]
    fn depth_is_that_of_the_first_frame() {
        for (frame, deep) in [
            (&b":1\r\n"[..], 0),
            (b"*2\r\n:1\r\n$4\r\n*1\r\n\r\n*1\r\n*1\r\n:1\r\n", 1),
            (b"*2\r\n%1\r\n+a\r\n*1\r\n:1\r\n:2\r\n", 3),
            (b"*0\r\n*1\r\n", 0),
            (b"*1\r\n*", 1),
        ] {
            assert_eq!(depth(frame), deep, "{}", String::from_utf8_lossy(frame));
        }
    }

    #[tokio::test]
    async fn frames_come_out_whole_however_the_bytes_come_in() {
        let wire = b":12\r\n-ERR no\r\n>3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n$-1\r\n%1\r\n+a\r\n:2\r\n";
        for size in 1..wire.len() {
            let mut reader = FrameReader::default();
            let mut seen = Vec::new();
            for mut chunk in wire.chunks(size) {
                reader.fill(&mut chunk).await.unwrap();
                while let Some(frame) = reader.next_frame().unwrap() {
                    seen.push(match (frame.integer(), frame.error(), frame.items()) {
                        (Some(n), ..) => format!("{n}"),
                        (_, Some(e), _) => String::from_utf8_lossy(e).into_owned(),
                        (_, _, Some(items)) => format!("{} {}", items.len(), frame.is_push()),
                        _ => "null".to_owned(),
                    });
                }
            }
            assert_eq!(seen, ["12", "ERR no", "3 true", "null", "2 false"], "chunks of {size}");
        }
    }
}
