//! What waits to be written to one client: answers and messages, in order.
//!
//! Whoever publishes puts messages in and never waits; the client's session writes them. A client
//! for whom too much waits is cut off.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;
use tokio::sync::Notify;

use super::budget::{Budget, Charge};

/// Bytes that may wait for one client, what keeps them included. Redis's default hard limit for
/// subscribers (`client-output-buffer-limit pubsub 32mb 8mb 60`); its soft one there is none of.
pub(super) const LIMIT: usize = 32 << 20;

/// What a piece takes beside its bytes, which it may share with other clients.
const PIECE: usize = size_of::<Bytes>();

/// What is charged for a piece: its place in a queue that grows by doubling, and the bytes of one
/// that is too small ([`SMALL`]) to be charged by itself, with what the allocator adds to them.
const PLACE: usize = 2 * PIECE + 96;

/// Answers of so many bytes are charged with their places.
pub(super) const SMALL: usize = 64;

/// Pieces that one system call writes.
const AT_ONCE: usize = 128;

/// Why a client is no longer written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// More than [`LIMIT`] waited: it reads too slowly, or asked for too much at once.
    TooMuch,
    /// All clients together take what they may, and it wanted more.
    NoMemory,
    /// Another one wanted more then, and it took most.
    TookMost,
    /// Another client killed it.
    Killed,
}

/// What waits for one client.
pub(super) struct Outbox {
    state: Mutex<State>,
    ready: Notify,
}

struct State {
    pieces: VecDeque<Bytes>,
    /// Of `pieces`, and of what a [`Writer`] has taken and not yet written.
    bytes: usize,
    /// For the places of the same.
    places: Charge,
    closed: Option<Closed>,
}

impl Outbox {
    /// An empty one, whose places are charged to this.
    pub fn new(budget: &Budget) -> Self {
        let places = budget.charge();
        let state = State { pieces: VecDeque::new(), bytes: 0, places, closed: None };
        Outbox { state: Mutex::new(state), ready: Notify::new() }
    }

    /// Put pieces in that belong together; `false` when the client is or has now been cut off.
    pub fn push<const N: usize>(&self, pieces: [Bytes; N]) -> bool {
        let mut state = self.lock();
        if state.closed.is_some() {
            return false;
        }
        state.bytes += pieces.iter().map(|piece| piece.len() + PIECE).sum::<usize>();
        let places = state.places.bytes() + N * PLACE;
        let refused = if state.bytes > LIMIT {
            Some(Closed::TooMuch)
        } else if !state.places.resize(places) {
            Some(Closed::NoMemory)
        } else {
            state.pieces.extend(pieces);
            None
        };
        if let Some(reason) = refused {
            close(&mut state, reason);
        }
        drop(state);
        self.ready.notify_one();
        refused.is_none()
    }

    /// Give up everything that waits, and let the session end. The first reason stays.
    pub fn close(&self, reason: Closed) {
        close(&mut self.lock(), reason);
        self.ready.notify_one();
    }

    /// Why it is closed.
    pub fn closed(&self) -> Option<Closed> {
        self.lock().closed
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    // Nothing that panics is done under the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn close(state: &mut State, reason: Closed) {
    state.closed.get_or_insert(reason);
    state.pieces = VecDeque::new();
}

/// Writes what is in an outbox.
pub(super) struct Writer<W> {
    to: W,
    /// Taken out and not yet written.
    taken: VecDeque<Bytes>,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    pub fn new(to: W) -> Self {
        Writer { to, taken: VecDeque::new() }
    }

    /// Write whatever comes, until the outbox is closed or the connection breaks.
    ///
    /// Cancel safe: what has been written is never written again.
    pub async fn run(&mut self, outbox: &Outbox) -> io::Result<()> {
        loop {
            self.flush(outbox).await?;
            if outbox.closed().is_some() {
                return Ok(());
            }
            outbox.ready.notified().await;
        }
    }

    /// Write until nothing waits.
    pub async fn flush(&mut self, outbox: &Outbox) -> io::Result<()> {
        loop {
            if self.taken.is_empty() {
                let mut state = outbox.lock();
                if state.closed.is_some() || state.pieces.is_empty() {
                    return Ok(());
                }
                std::mem::swap(&mut self.taken, &mut state.pieces);
            }
            tokio::select! {
                biased;
                written = write(&mut self.to, &self.taken) => self.written(written?, outbox),
                // A client that is cut off may never read again.
                () = closed(outbox) => return Ok(()),
            }
        }
    }

    fn written(&mut self, mut written: usize, outbox: &Outbox) {
        let mut done = written;
        let mut places = 0;
        while let Some(first) = self.taken.front_mut() {
            if written < first.len() {
                first.advance(written);
                break;
            }
            written -= first.len();
            done += PIECE;
            places += PLACE;
            self.taken.pop_front();
        }
        let mut state = outbox.lock();
        state.bytes = state.bytes.saturating_sub(done);
        let places = state.places.bytes().saturating_sub(places);
        // Less always fits.
        state.places.resize(places);
    }

    /// The connection, to be closed.
    pub fn into_inner(self) -> W {
        self.to
    }
}

/// One system call.
async fn write(to: &mut (impl AsyncWrite + Unpin), pieces: &VecDeque<Bytes>) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); AT_ONCE];
    let mut count = 0;
    for (slice, piece) in slices.iter_mut().zip(pieces) {
        *slice = IoSlice::new(piece);
        count += 1;
    }
    match poll_fn(|cx| Pin::new(&mut *to).poll_write_vectored(cx, &slices[..count])).await? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        written => Ok(written),
    }
}

async fn closed(outbox: &Outbox) {
    while outbox.closed().is_none() {
        outbox.ready.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everything_is_written_in_order_and_counted() {
        let budget = Budget::new(1 << 20);
        let outbox = Outbox::new(&budget);
        let numbers: Vec<Bytes> = (0..1000).map(|n| format!("{n},").into()).collect();
        for pair in numbers.chunks(2) {
            assert!(outbox.push([pair[0].clone(), pair[1].clone()]));
        }
        assert!(outbox.bytes() > 0);
        let mut writer = Writer::new(Vec::new());
        writer.flush(&outbox).await.unwrap();
        assert_eq!(writer.into_inner(), numbers.concat());
        assert_eq!(outbox.bytes(), 0);
        assert!(budget.charge().resize(1 << 20), "something is still charged");
    }

    #[tokio::test]
    async fn who_does_not_read_is_cut_off_at_the_limit() {
        let outbox = Outbox::new(&Budget::new(1 << 20));
        let (mine, _theirs) = tokio::io::duplex(1000);
        let mut writer = Writer::new(mine);
        let piece = Bytes::from(vec![b'x'; 1 << 20]);
        let fill = async {
            let mut fitted = 0;
            while outbox.push([piece.clone()]) {
                fitted += 1;
                tokio::task::yield_now().await;
            }
            fitted
        };
        let (written, fitted) = tokio::join!(writer.run(&outbox), fill);
        assert!(written.is_ok());
        assert_eq!(fitted, LIMIT / (piece.len() + PIECE));
        assert_eq!(outbox.closed(), Some(Closed::TooMuch));
        assert!(!outbox.push([piece.clone()]));
    }

    #[tokio::test]
    async fn small_pieces_are_charged_too() {
        let budget = Budget::new(1000 * PLACE);
        let (one, other) = (Outbox::new(&budget), Outbox::new(&budget));
        let piece = || [Bytes::from_static(b":1")];
        assert!((0..600).all(|_| one.push(piece())));
        assert_eq!((0..600).filter(|_| other.push(piece())).count(), 400);
        assert_eq!((one.closed(), other.closed()), (None, Some(Closed::NoMemory)));
        drop(other);
        assert!((0..400).all(|_| one.push(piece())));
    }
}
