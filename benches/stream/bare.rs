//! The bare loop: what a stream costs when nothing is in the way.
//!
//! One thread, its own RESP code, no plugin: XREADGROUP, change the bytes natively (the text that the
//! plugin `announce` makes), XADD of each and XACK of all in one write. It promises less than
//! handlerd: killed between the two it leaves the outputs twice.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use crate::common::resp::{announced, bulk, line, number};

/// What the loop reads, and where it writes.
pub struct Job<'a> {
    pub from: &'a str,
    pub to: &'a str,
    pub group: &'a str,
    pub consumer: &'a str,
    pub batch: usize,
}

/// Handle entries until Redis ends the connection.
pub fn run(port: u16, job: &Job<'_>) -> io::Result<()> {
    let mut conn = Conn::open(port)?;
    let mut read = Vec::new();
    let (batch, from) = (job.batch.to_string(), job.from.as_bytes());
    let parts: [&[u8]; 11] = [
        b"XREADGROUP",
        b"GROUP",
        job.group.as_bytes(),
        job.consumer.as_bytes(),
        b"COUNT",
        batch.as_bytes(),
        b"BLOCK",
        b"400",
        b"STREAMS",
        from,
        b">",
    ];
    array(&mut read, parts.len());
    parts.iter().for_each(|part| bulk(&mut read, part));
    let (mut out, mut ids) = (Vec::new(), Vec::new());
    loop {
        conn.stream.write_all(&read)?;
        out.clear();
        ids.clear();
        let mut count = 0;
        let taken = conn.reply(|entry| {
            array(&mut out, 5);
            bulk(&mut out, b"XADD");
            bulk(&mut out, job.to.as_bytes());
            bulk(&mut out, b"*");
            bulk(&mut out, b"payload");
            announced(&mut out, from, entry.payload);
            bulk(&mut ids, entry.id);
            count += 1;
        });
        taken?;
        if count == 0 {
            continue;
        }
        array(&mut out, 3 + count);
        bulk(&mut out, b"XACK");
        bulk(&mut out, from);
        bulk(&mut out, job.group.as_bytes());
        out.extend_from_slice(&ids);
        conn.stream.write_all(&out)?;
        for _ in 0..=count {
            conn.reply(|_| ())?;
        }
    }
}

fn array(out: &mut Vec<u8>, parts: usize) {
    out.push(b'*');
    number(out, parts);
}

struct Entry<'a> {
    id: &'a [u8],
    payload: &'a [u8],
}

struct Conn {
    stream: TcpStream,
    buffer: Vec<u8>,
    start: usize,
    filled: usize,
}

impl Conn {
    fn open(port: u16) -> io::Result<Conn> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        Ok(Conn { stream, buffer: vec![0; 256 << 10], start: 0, filled: 0 })
    }

    /// Read one reply; `each` gets its entries, if it has any.
    fn reply(&mut self, each: impl FnMut(Entry<'_>)) -> io::Result<()> {
        loop {
            let unread = &self.buffer[self.start..self.filled];
            if let Some(length) = end(unread, 0) {
                if unread[0] == b'-' {
                    return Err(io::Error::other(String::from_utf8_lossy(unread).into_owned()));
                }
                entries(&unread[..length], each);
                self.start += length;
                return Ok(());
            }
            self.buffer.copy_within(self.start..self.filled, 0);
            self.filled -= self.start;
            self.start = 0;
            if self.filled == self.buffer.len() {
                self.buffer.resize(2 * self.filled, 0);
            }
            match self.stream.read(&mut self.buffer[self.filled..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => self.filled += n,
            }
        }
    }
}

/// Where the value that begins at `at` ends, when it is whole.
fn end(bytes: &[u8], at: usize) -> Option<usize> {
    match (*bytes.get(at)?, *bytes.get(at + 1)?) {
        // Null.
        (b'*' | b'$', b'-') => (bytes.len() >= at + 5).then_some(at + 5),
        (b'*', _) => {
            let (items, mut at) = line(bytes, at)?;
            for _ in 0..items {
                at = end(bytes, at)?;
            }
            Some(at)
        }
        (b'$', _) => {
            let (length, start) = line(bytes, at)?;
            let end = start + length + 2;
            (bytes.len() >= end).then_some(end)
        }
        _ => bytes[at..].windows(2).position(|pair| pair == b"\r\n").map(|n| at + n + 2),
    }
}

/// The entries in a whole reply of XREADGROUP: one stream, one field each.
fn entries(reply: &[u8], mut each: impl FnMut(Entry<'_>)) {
    if !reply.starts_with(b"*1") {
        return;
    }
    let after = |at| line(reply, at).map_or(reply.len(), |(_, next)| next);
    let string = |at| {
        let (length, start) = line(reply, at).unwrap_or((0, reply.len()));
        (&reply[start..start + length], start + length + 2)
    };
    // The list of streams, the pair of a stream, its name, the list of its entries.
    let (_, list) = string(after(after(0)));
    let mut at = after(list);
    while at < reply.len() {
        let (id, fields) = string(after(at));
        let (_, value) = string(after(fields));
        let (payload, next) = string(value);
        each(Entry { id, payload });
        at = next;
    }
}
