//! The bytes of one connection, both ways at once.
//!
//! Owned by a session. Writing never waits for a peer that doesn't read: what can't be sent stays
//! in the buffer while reading goes on. Knows nothing of what the bytes mean.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use crate::broker::connection::Stream;
use crate::broker::resp::{self, FrameReader};

/// A connection with what came and what is still to go.
pub(super) struct Wire {
    stream: Stream,
    /// What came.
    pub(super) reader: FrameReader,
    out: Vec<u8>,
    /// What of `out` went already.
    sent: usize,
    /// Whether bytes may still be in the layer below (TLS).
    unflushed: bool,
    /// Writing failed. What the peer sent before it went may still be read, so that isn't the end.
    mute: bool,
}

impl Wire {
    /// Over a connection that was greeted.
    pub(super) fn new(stream: Stream) -> Self {
        Wire {
            stream,
            // The intake has bounds of its own: payloads don't wait here.
            reader: FrameReader::with_limit(usize::MAX),
            out: Vec::new(),
            sent: 0,
            unflushed: false,
            mute: false,
        }
    }

    /// Add a command to what goes out with the next [`Self::exchange`].
    pub(super) fn command(&mut self, parts: &[&[u8]]) {
        resp::command(&mut self.out, parts);
    }

    /// Bytes that wait to go out.
    pub(super) fn waiting(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Send what waits and return as soon as something came.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// The end of the stream is an error of kind `UnexpectedEof`.
    pub(super) async fn exchange(&mut self) -> io::Result<usize> {
        poll_fn(|cx| {
            if !self.mute
                && let Poll::Ready(Err(_)) = self.poll_send(cx)
            {
                // The reader finds the same fault, after everything that is left to read.
                self.mute = true;
            }
            if self.mute {
                self.out.clear();
                self.sent = 0;
            }
            pin!(self.reader.fill(&mut self.stream)).poll(cx)
        })
        .await
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.out.len() {
            let stream = Pin::new(&mut self.stream);
            let n = ready!(stream.poll_write(cx, &self.out[self.sent..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += n;
            self.unflushed = true;
        }
        self.out.clear();
        self.sent = 0;
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}
