//! The bare relay: what Redis and the kernel permit when nothing is in the way.
//!
//! One thread, its own RESP code, no plugin, no promise: SUBSCRIBE, change the bytes natively (the
//! text that the plugin `announce` makes), PUBLISH. Writes are flushed when the input runs dry or
//! a block is full; replies are read and dropped, as every relay must.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use rustix::event::{PollFd, PollFlags, poll};

use crate::common::resp::{announced, bulk, line};

/// Output that is written at once at most, however much input waits.
const BLOCK: usize = 256 << 10;

/// Relay until Redis ends the connection.
pub fn run(port: u16, from: &str, to: &str) -> io::Result<()> {
    let mut input = TcpStream::connect(("127.0.0.1", port))?;
    let mut output = TcpStream::connect(("127.0.0.1", port))?;
    input.set_nodelay(true)?;
    output.set_nodelay(true)?;
    write!(input, "*2\r\n$9\r\nSUBSCRIBE\r\n${}\r\n{from}\r\n", from.len())?;
    input.set_nonblocking(true)?;
    output.set_nonblocking(true)?;

    let mut buffer = vec![0; 1 << 20];
    let mut filled = 0;
    let mut out = Vec::with_capacity(2 * BLOCK);
    loop {
        if filled == buffer.len() {
            buffer.resize(2 * filled, 0);
        }
        match input.read(&mut buffer[filled..]) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                filled += n;
                let mut start = 0;
                while let Some((message, length)) = next_message(&buffer[start..filled]) {
                    if let Some((channel, payload)) = message {
                        announce(&mut out, to, channel, payload);
                    }
                    start += length;
                }
                buffer.copy_within(start..filled, 0);
                filled -= start;
                if out.len() >= BLOCK {
                    flush(&mut output, &mut out)?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if out.is_empty() {
                    drain(&mut output)?;
                    wait(&input, PollFlags::IN)?;
                } else {
                    flush(&mut output, &mut out)?;
                }
            }
            Err(error) => return Err(error),
        }
    }
}

fn wait(stream: &TcpStream, flags: PollFlags) -> io::Result<()> {
    poll(&mut [PollFd::new(stream, flags)], None)?;
    Ok(())
}

/// Write all of `out`, reading replies when there is no room.
fn flush(stream: &mut TcpStream, out: &mut Vec<u8>) -> io::Result<()> {
    let mut written = 0;
    while written < out.len() {
        match stream.write(&out[written..]) {
            Ok(n) => written += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                drain(stream)?;
                wait(stream, PollFlags::IN | PollFlags::OUT)?;
            }
            Err(error) => return Err(error),
        }
    }
    out.clear();
    drain(stream)
}

/// Read the replies that are there.
fn drain(stream: &mut TcpStream) -> io::Result<()> {
    let mut replies = [0; 64 << 10];
    loop {
        match stream.read(&mut replies) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) if n < replies.len() => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// PUBLISH of the changed message.
fn announce(out: &mut Vec<u8>, to: &str, channel: &[u8], payload: &[u8]) {
    out.extend_from_slice(b"*3\r\n$7\r\nPUBLISH\r\n");
    bulk(out, to.as_bytes());
    announced(out, channel, payload);
}

type Message<'a> = (&'a [u8], &'a [u8]);

/// The first frame and its length; `None` when it isn't whole yet. A frame that is no message (the
/// confirmation of the subscription) answers no message.
pub fn next_message(bytes: &[u8]) -> Option<(Option<Message<'_>>, usize)> {
    let (items, mut at) = line(bytes, 0)?;
    let mut parts: [&[u8]; 3] = [b""; 3];
    for part in parts.iter_mut().take(items) {
        if *bytes.get(at)? == b':' {
            at = line(bytes, at)?.1;
            continue;
        }
        let (length, start) = line(bytes, at)?;
        *part = bytes.get(start..start + length)?;
        at = start + length + 2;
    }
    if at > bytes.len() {
        return None;
    }
    Some(((parts[0] == b"message").then_some((parts[1], parts[2])), at))
}
