//! Replies of lists in lists, read where they lie.
//!
//! A batch of a stream's entries is hundreds of values; the codec makes a tree of them, which cost a
//! fifth of what handlerd spends on an entry. Here a reply is only measured, and walked by whoever
//! reads it. Nothing calls itself, so no depth of nesting uses up the stack.

use std::io;

use super::{FrameReader, not_resp};

impl FrameReader {
    /// The next whole reply; `None` until more bytes have come.
    ///
    /// # Errors
    /// `InvalidData` when the bytes are not RESP; the connection is of no use then.
    pub fn next_reply(&mut self) -> io::Result<Option<Node<'_>>> {
        let unread = &self.buffer[self.start..];
        let Some(length) = measure(unread)? else { return Ok(None) };
        self.start += length;
        Ok(Some(Node { bytes: &self.buffer[self.start - length..self.start] }))
    }
}

/// A whole value of any kind.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    /// From its first byte on; what follows it may be in it, too.
    bytes: &'a [u8],
}

impl<'a> Node<'a> {
    /// Its bytes where it is a string.
    pub fn string(self) -> Option<&'a [u8]> {
        match Head::of(self.bytes)? {
            Head { kind: b'$', number: 0.., line } => self.blob(line),
            // `txt:` or `mkd:` comes first.
            Head { kind: b'=', number: 4.., line } => self.blob(line).map(|text| &text[4..]),
            Head { kind: b'+', line, .. } => Some(&self.bytes[1..line - 2]),
            _ => None,
        }
    }

    /// Its text where it is an error.
    pub fn error(self) -> Option<&'a [u8]> {
        match Head::of(self.bytes)? {
            Head { kind: b'-', line, .. } => Some(&self.bytes[1..line - 2]),
            Head { kind: b'!', line, .. } => self.blob(line),
            _ => None,
        }
    }

    /// Its value where it is a number.
    pub fn integer(self) -> Option<i64> {
        match Head::of(self.bytes)? {
            Head { kind: b':', number, .. } => Some(number),
            _ => None,
        }
    }

    /// Whether this is an out-of-band push (RESP3).
    pub fn is_push(self) -> bool {
        self.bytes.first() == Some(&b'>')
    }

    /// Its items where it is a list or a map (key, value, key, value); else none.
    pub fn each(self) -> Items<'a> {
        let none = Items { rest: &[], left: 0 };
        let Some(Head { kind, number, line }) = Head::of(self.bytes) else { return none };
        let number = usize::try_from(number).unwrap_or(0);
        match kind {
            b'*' | b'~' | b'>' => Items { rest: &self.bytes[line..], left: number },
            b'%' => Items { rest: &self.bytes[line..], left: 2 * number },
            _ => none,
        }
    }

    /// The same, all at hand.
    pub fn items(self) -> Vec<Node<'a>> {
        self.each().collect()
    }

    fn blob(self, line: usize) -> Option<&'a [u8]> {
        let length = usize::try_from(Head::of(self.bytes)?.number).ok()?;
        self.bytes.get(line..line + length)
    }
}

/// See [`Node::each`].
pub struct Items<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Items<'a> {
    type Item = Node<'a>;

    fn next(&mut self) -> Option<Node<'a>> {
        self.left = self.left.checked_sub(1)?;
        let node = Node { bytes: self.rest };
        if self.left > 0 {
            // It was whole when it was measured with what it is in.
            self.rest = &self.rest[measure(self.rest).ok()??..];
        }
        Some(node)
    }
}

/// The first line of a value.
struct Head {
    kind: u8,
    /// What stands on it, where that is a number.
    number: i64,
    /// Where the next line begins.
    line: usize,
}

impl Head {
    /// `None` until the line is whole.
    fn of(bytes: &[u8]) -> Option<Head> {
        let (kind, rest) = bytes.split_first()?;
        let length = rest.iter().position(|byte| *byte == b'\r')?;
        if rest.len() < length + 2 {
            return None;
        }
        Some(Head { kind: *kind, number: number(&rest[..length]), line: length + 3 })
    }
}

/// What isn't a number is 0: then nobody asks.
fn number(text: &[u8]) -> i64 {
    let (digits, sign) = match text {
        [b'-', digits @ ..] => (digits, -1),
        digits => (digits, 1),
    };
    let mut sum = 0_i64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return 0;
        }
        // Summed up with its sign, or the lowest of all numbers would not fit.
        sum = sum.saturating_mul(10).saturating_add(sign * i64::from(digit - b'0'));
    }
    sum
}

/// How many bytes the first value has; `None` until they have come.
fn measure(bytes: &[u8]) -> io::Result<Option<usize>> {
    // Values that are still to come.
    let mut open = 1_usize;
    let mut at = 0;
    while open > 0 {
        let Some(Head { kind, number, line }) = Head::of(&bytes[at..]) else { return Ok(None) };
        at += line;
        open -= 1;
        // Null has the length -1.
        let length = usize::try_from(number).ok();
        match kind {
            b'$' | b'=' | b'!' => {
                at = length.map_or(at, |length| at.saturating_add(length).saturating_add(2));
                if at > bytes.len() {
                    return Ok(None);
                }
            }
            b'*' | b'~' | b'>' => open = open.saturating_add(length.unwrap_or(0)),
            b'%' => open = open.saturating_add(length.unwrap_or(0).saturating_mul(2)),
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => {}
            other => {
                let other = char::from(other).escape_default();
                return Err(not_resp(format_args!("a value begins with `{other}`")));
            }
        }
    }
    Ok(Some(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(node: Node<'_>) -> String {
        if let Some(error) = node.error() {
            return format!("error {}", String::from_utf8_lossy(error));
        }
        match (node.string(), node.integer()) {
            (Some(text), _) => String::from_utf8_lossy(text).into_owned(),
            (_, Some(number)) => number.to_string(),
            _ => format!("[{}]", node.each().map(shown).collect::<Vec<_>>().join(" ")),
        }
    }

    #[tokio::test]
    async fn replies_come_out_whole_however_the_bytes_come_in() {
        let wire = b"%1\r\n$2\r\ns1\r\n*2\r\n*2\r\n$3\r\n1-1\r\n*2\r\n$1\r\np\r\n$4\r\n\r\n:5\r\n\
                     *2\r\n$3\r\n1-2\r\n*-1\r\n>1\r\n+pushed\r\n-ERR no\r\n$-1\r\n_\r\n:-12\r\n\
                     *4\r\n=5\r\ntxt:x\r\n!3\r\nbad\r\n,1.5\r\n:-9223372036854775808\r\n";
        let expected = [
            "[s1 [[1-1 [p \r\n:5]] [1-2 []]]]",
            "[pushed]",
            "error ERR no",
            "[]",
            "[]",
            "-12",
            "[x error bad [] -9223372036854775808]",
        ];
        for size in 1..=wire.len() {
            let mut reader = FrameReader::default();
            let (mut seen, mut pushes) = (Vec::new(), 0);
            for mut chunk in wire.chunks(size) {
                reader.fill(&mut chunk).await.unwrap();
                while let Some(reply) = reader.next_reply().unwrap() {
                    pushes += usize::from(reply.is_push());
                    seen.push(shown(reply));
                }
            }
            assert_eq!(seen, expected, "chunks of {size}");
            assert_eq!(pushes, 1);
        }
    }

    #[tokio::test]
    async fn what_is_no_reply_is_refused_and_what_promises_too_much_is_waited_for() {
        for (wire, waits) in [
            (&b"HTTP/1.1 400\r\n"[..], false),
            (b"*2\r\n:1\r\nx\r\n", false),
            (b"$18446744073709551615\r\nabc\r\n", true),
            (b"$9223372036854775807\r\nabc\r\n", true),
            (b"*9223372036854775807\r\n:1\r\n", true),
            (b"%9223372036854775807\r\n:1\r\n", true),
        ] {
            let mut reader = FrameReader::default();
            reader.fill(&mut &wire[..]).await.unwrap();
            let shown = String::from_utf8_lossy(wire).into_owned();
            match reader.next_reply() {
                Ok(reply) => assert!(waits && reply.is_none(), "{shown}"),
                Err(error) => assert!(!waits, "{shown}: {error}"),
            }
        }
        let mut reader = FrameReader::default();
        let nested = b"*1\r\n".repeat(50_000);
        reader.fill(&mut &[&nested[..], b":1\r\n"].concat()[..]).await.unwrap();
        while reader.next_reply().unwrap().is_none() {
            reader.fill(&mut &b":1\r\n"[..]).await.unwrap();
        }
    }
}
