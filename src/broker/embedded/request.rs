//! Requests: a client's bytes, taken apart into commands.
//!
//! A command is an array of bulk strings, or a line as one types it into telnet. What an array is
//! going to need is checked as it comes in, header by header, in Redis's own words: nothing is
//! allocated for what has only been announced. The whole array is then decoded by the codec.
//! Protocol: <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

use std::fmt;
use std::io;

use bytes::{Bytes, BytesMut};
use redis_protocol::resp2::decode::decode_bytes;
use redis_protocol::resp2::types::BytesFrame;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::budget::{Budget, Charge};

/// Most arguments of one command. Redis takes 1 << 20; here what is made of so many must stay small.
const MOST_ARGUMENTS: i64 = 1 << 16;

/// Longest argument, in bytes. Redis takes 512 MiB; here two of them must fit into what may wait
/// for one client (`outbox::LIMIT`).
pub(super) const LONGEST_ARGUMENT: i64 = 16 << 20;

/// Bytes of one command at most, which Redis calls the query buffer's limit (1 GiB there).
const LONGEST_COMMAND: usize = 32 << 20;

/// Longest line, be it a command or the header of an array or a string, as in Redis.
const LONGEST_LINE: usize = 64 << 10;

/// Room for a read, at least. A thousand clients take a thousand of them.
const READ_SIZE: usize = 4 << 10;

/// What a client sent can't be a command; the connection is of no use any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Garbage(String);

impl fmt::Display for Garbage {
    /// The text of the error answer.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ERR Protocol error: {}", self.0)
    }
}

fn garbage<T>(what: impl Into<String>) -> Result<T, Garbage> {
    Err(Garbage(what.into()))
}

/// What a client sent and nobody has handled yet.
pub(super) struct Requests {
    buffer: BytesMut,
    /// For `buffer`, where it is larger than every client's may be.
    charge: Charge,
    /// How far the array at the front of `buffer` has been checked; `None` before its first line.
    array: Option<Checked>,
}

#[derive(Clone, Copy)]
struct Checked {
    /// Bytes of it that have been checked, or will be skipped when they have come.
    end: usize,
    /// Arguments that are still to come.
    left: i64,
}

impl Requests {
    /// Nothing yet; long commands are charged to this.
    pub fn new(budget: &Budget) -> Self {
        Requests { buffer: BytesMut::new(), charge: budget.charge(), array: None }
    }

    /// Wait for bytes and keep them; 0 is the end of the stream.
    ///
    /// Cancel safe: when dropped before it is done, nothing has been read.
    ///
    /// # Errors
    /// Those of the connection, and `OutOfMemory` where no more may be kept.
    pub async fn fill(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        // A long command comes in ever larger pieces.
        let room = self.buffer.len().clamp(READ_SIZE, LONGEST_LINE);
        let needed = self.buffer.len() + room;
        // A buffer that grows may double.
        let charged = if needed <= 2 * READ_SIZE { 0 } else { 2 * needed };
        if charged < self.charge.bytes() {
            // It would go on using the memory of the long command that is done.
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        if !self.charge.resize(charged) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.buffer.reserve(room);
        from.read_buf(&mut self.buffer).await
    }

    /// Bytes that are charged.
    pub fn charged(&self) -> usize {
        self.charge.bytes()
    }

    /// The next whole command, its name first; `None` until more bytes have come.
    ///
    /// # Errors
    /// When the bytes are neither an array of strings nor a line, or when they are too many.
    pub fn next(&mut self) -> Result<Option<Vec<Bytes>>, Garbage> {
        loop {
            let command = match self.buffer.first() {
                None => return Ok(None),
                Some(b'*') => self.next_array()?,
                Some(_) => self.next_line()?,
            };
            match command {
                // An empty array or line says nothing, and is answered with nothing.
                Some(command) if command.is_empty() => {}
                other => return Ok(other),
            }
        }
    }

    fn next_array(&mut self) -> Result<Option<Vec<Bytes>>, Garbage> {
        let mut array = match self.array {
            Some(array) => array,
            None => {
                let Some((count, end)) = self.header(0, "mbulk count", "multibulk length")? else {
                    return Ok(None);
                };
                if count > MOST_ARGUMENTS {
                    return garbage("invalid multibulk length");
                }
                if count <= 0 {
                    drop(self.buffer.split_to(end));
                    return Ok(Some(Vec::new()));
                }
                Checked { end, left: count }
            }
        };
        while array.left > 0 {
            self.array = Some(array);
            let Some(first) = self.buffer.get(array.end) else { return Ok(None) };
            if *first != b'$' {
                return garbage(format!("expected '$', got '{}'", first.escape_ascii()));
            }
            let Some((length, start)) = self.header(array.end, "bulk count", "bulk length")? else {
                return Ok(None);
            };
            let length = match usize::try_from(length) {
                Ok(bytes) if length <= LONGEST_ARGUMENT => bytes,
                _ => return garbage("invalid bulk length"),
            };
            array = Checked { end: start + length + 2, left: array.left - 1 };
            if array.end > LONGEST_COMMAND {
                return garbage(format!("a command has more than {LONGEST_COMMAND} bytes"));
            }
        }
        self.array = Some(array);
        if self.buffer.len() < array.end {
            return Ok(None);
        }
        self.array = None;
        decode(&self.buffer.split_to(array.end).freeze()).map(Some)
    }

    /// The number in the line that begins at `start` with one byte that says what is counted, and
    /// where the line ends; `None` until the whole line has come.
    fn header(
        &self,
        start: usize,
        line: &str,
        number: &str,
    ) -> Result<Option<(i64, usize)>, Garbage> {
        let Some(unread) = self.buffer.get(start + 1..) else { return Ok(None) };
        let Some(length) = unread.iter().take(LONGEST_LINE).position(|byte| *byte == b'\r') else {
            if unread.len() > LONGEST_LINE {
                return garbage(format!("too big {line} string"));
            }
            return Ok(None);
        };
        if unread.len() < length + 2 {
            return Ok(None);
        }
        let digits = std::str::from_utf8(&unread[..length]).ok();
        match digits.filter(|digits| !digits.starts_with('+')).map(str::parse) {
            Some(Ok(count)) => Ok(Some((count, start + 1 + length + 2))),
            _ => garbage(format!("invalid {number}")),
        }
    }

    fn next_line(&mut self) -> Result<Option<Vec<Bytes>>, Garbage> {
        let Some(length) = self.buffer.iter().take(LONGEST_LINE).position(|byte| *byte == b'\n')
        else {
            if self.buffer.len() > LONGEST_LINE {
                return garbage("too big inline request");
            }
            return Ok(None);
        };
        let line = self.buffer.split_to(length + 1);
        match words(line.trim_ascii_end()) {
            Some(words) => Ok(Some(words)),
            None => garbage("unbalanced quotes in request"),
        }
    }
}

fn decode(bytes: &Bytes) -> Result<Vec<Bytes>, Garbage> {
    let argument = |frame| match frame {
        BytesFrame::BulkString(bytes) => Some(bytes),
        _ => None,
    };
    match decode_bytes(bytes) {
        Ok(Some((BytesFrame::Array(items), _))) => {
            let arguments: Option<Vec<Bytes>> = items.into_iter().map(argument).collect();
            arguments.map_or_else(|| garbage("a command is an array of strings"), Ok)
        }
        Ok(_) => garbage("a command is an array of strings"),
        Err(error) => garbage(error.to_string().replace(['\r', '\n'], " ")),
    }
}

/// The words of a line, with Redis's quotes (`sdssplitargs` in its `sds.c`): in `"…"` there are
/// escapes (`\n`, `\x41`), in `'…'` only `\'`. `None` when a quote isn't closed, or when it is and
/// something follows at once.
fn words(mut line: &[u8]) -> Option<Vec<Bytes>> {
    let mut words = Vec::new();
    loop {
        line = line.trim_ascii_start();
        if line.is_empty() {
            return Some(words);
        }
        let mut word = Vec::new();
        line = match line[0] {
            b'"' => double_quoted(&line[1..], &mut word)?,
            b'\'' => single_quoted(&line[1..], &mut word)?,
            _ => {
                let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
                word.extend_from_slice(&line[..end]);
                &line[end..]
            }
        };
        if line.first().is_some_and(|byte| !byte.is_ascii_whitespace()) {
            return None;
        }
        words.push(word.into());
    }
}

/// Take what stands before the closing quote; answers what stands behind it.
fn single_quoted<'a>(mut line: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        line = match line {
            [b'\'', rest @ ..] => return Some(rest),
            [b'\\', b'\'', rest @ ..] => {
                word.push(b'\'');
                rest
            }
            [byte, rest @ ..] => {
                word.push(*byte);
                rest
            }
            [] => return None,
        };
    }
}

fn double_quoted<'a>(mut line: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    let hex = |digit: u8| (digit as char).to_digit(16);
    loop {
        line = match line {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', b'x', a, b, rest @ ..] if hex(*a).is_some() && hex(*b).is_some() => {
                let byte = hex(*a)? * 16 + hex(*b)?;
                word.push(u8::try_from(byte).ok()?);
                rest
            }
            [b'\\', escaped, rest @ ..] => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                rest
            }
            [byte, rest @ ..] => {
                word.push(*byte);
                rest
            }
            [] => return None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out of these bytes when they come in pieces of `size`: the commands, and how the
    /// stream ended.
    async fn read(bytes: &[u8], size: usize) -> (Vec<Vec<Bytes>>, Result<usize, Garbage>) {
        let mut requests = Requests::new(&Budget::new(1 << 30));
        let mut commands = Vec::new();
        for mut piece in bytes.chunks(size) {
            while !piece.is_empty() {
                requests.fill(&mut piece).await.unwrap();
            }
            loop {
                match requests.next() {
                    Ok(Some(command)) => commands.push(command),
                    Ok(None) => break,
                    Err(garbage) => return (commands, Err(garbage)),
                }
            }
        }
        (commands, Ok(requests.buffer.len()))
    }

    #[tokio::test]
    async fn commands_come_out_whole_however_the_bytes_come_in() {
        let wire = b"*2\r\n$4\r\nECHO\r\n$4\r\n\r\n\x00\xff\r\n*0\r\n*-1\r\n\r\nping \"a\\x41\\n\" 'b\\'c'\r\n\
                     *1\r\n$0\r\n\r\n*3\r\n$1\r\na";
        for size in 1..=wire.len() {
            let (commands, left) = read(wire, size).await;
            let expected: [&[&[u8]]; 3] =
                [&[b"ECHO", b"\r\n\x00\xff"], &[b"ping", b"aA\n", b"b'c"], &[b""]];
            assert_eq!(commands, expected, "pieces of {size}");
            assert_eq!(left, Ok("*3\r\n$1\r\na".len()), "pieces of {size}");
        }
    }

    #[tokio::test]
    async fn garbage_is_refused_in_the_words_of_redis() {
        for (wire, answer) in [
            (&b"*a\r\n"[..], "invalid multibulk length"),
            (b"*+1\r\n", "invalid multibulk length"),
            (b"*\r\n", "invalid multibulk length"),
            (b"*65537\r\n", "invalid multibulk length"),
            (b"*1\r\n:1\r\n", "expected '$', got ':'"),
            (b"*1\r\n\r\n", "expected '$', got '\\r'"),
            (b"*1\r\n$-1\r\n", "invalid bulk length"),
            (b"*1\r\n$16777217\r\n", "invalid bulk length"),
            (b"*1\r\n$99999999999999999999\r\n", "invalid bulk length"),
            (b"*3\r\n$16777216\r\n", ""),
            (b"ping \"a\r\n", "unbalanced quotes in request"),
            (b"ping 'a'b\r\n", "unbalanced quotes in request"),
        ] {
            let (commands, end) = read(wire, wire.len()).await;
            assert!(commands.is_empty());
            let said = end.err().map(|garbage| garbage.0).unwrap_or_default();
            assert_eq!(said, answer, "{}", wire.escape_ascii());
        }
        let long = [b'a'; LONGEST_LINE + 1];
        for (start, answer) in [
            ("", "too big inline request"),
            ("*", "too big mbulk count string"),
            ("*1\r\n$", "too big bulk count string"),
        ] {
            let wire = [start.as_bytes(), &long].concat();
            let (_, end) = read(&wire, wire.len()).await;
            assert_eq!(end, garbage(answer), "{start}");
        }
        // As in Redis, what stands in the place of a line end behind a string doesn't matter.
        let (commands, _) = read(b"*1\r\n$1\r\naxy", 100).await;
        assert_eq!(commands, [[&b"a"[..]]]);
    }

    #[tokio::test]
    async fn nothing_is_allocated_for_what_is_only_announced() {
        let mut requests = Requests::new(&Budget::new(0));
        requests.fill(&mut &b"*65536\r\n$16777216\r\n"[..]).await.unwrap();
        assert_eq!(requests.next(), Ok(None));
        assert!(requests.buffer.capacity() <= 2 * READ_SIZE);
    }

    #[tokio::test]
    async fn half_a_long_command_is_charged_and_given_back() {
        let budget = Budget::new(4 << 20);
        let (mut one, mut other) = (Requests::new(&budget), Requests::new(&budget));
        let half = [b"*1\r\n$2000000\r\n".as_slice(), &[b'x'; 1_500_000]].concat();
        let take = async |requests: &mut Requests, mut bytes: &[u8]| {
            while !bytes.is_empty() {
                requests.fill(&mut bytes).await?;
                assert_eq!(requests.next(), Ok(None));
            }
            io::Result::Ok(())
        };
        take(&mut one, &half).await.unwrap();
        assert!(one.charged() > half.len());
        let refused = take(&mut other, &half).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::OutOfMemory);
        drop(other);
        let mut rest = &[b'x'; 500_002][..];
        while !rest.is_empty() {
            one.fill(&mut rest).await.unwrap();
        }
        assert_eq!(one.next().unwrap().unwrap()[0].len(), 2_000_000);
        one.fill(&mut &b"PING"[..]).await.unwrap();
        assert_eq!(one.charged(), 0);
        assert!(one.buffer.capacity() <= 2 * READ_SIZE);
    }
}
