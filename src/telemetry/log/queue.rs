//! What waits to be written, and the thread that writes it.
//!
//! Whoever logs hands over a record, whole, and never waits. What doesn't fit because nobody reads
//! is dropped, counted, and said in the log as soon as that goes on. tracing-appender's writer isn't
//! used: it is bounded by lines, not bytes, and at its end it may write to standard output.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::sink::Sink;

/// Bytes that may wait.
const LIMIT: usize = 4 << 20;

/// Bytes that are written in one go.
const CHUNK: usize = 64 << 10;

/// Lines that were dropped, by whichever queue: there is one in a daemon.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// How many lines of the log nobody will read: no room, or they could not be written.
pub fn dropped() -> u64 {
    DROPPED.load(Relaxed)
}

/// The way to the thread. Clones are the same.
#[derive(Clone)]
pub(super) struct Queue(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// There is something to write.
    due: Condvar,
    /// Something was written.
    written: Condvar,
}

#[derive(Default)]
struct State {
    records: VecDeque<Vec<u8>>,
    bytes: usize,
    /// A chunk is being written.
    writing: bool,
    /// Chunks that were done with.
    chunks: u64,
    /// Dropped, and not said yet.
    unsaid: u64,
    /// The last chunk could not be written.
    failing: bool,
}

impl Queue {
    /// Start the thread, which ends with the process.
    pub(super) fn start(mut sink: Box<dyn Sink>) -> io::Result<Queue> {
        let queue = Queue(Arc::default());
        let mine = queue.clone();
        let work = move || {
            loop {
                let chunk = mine.next();
                let lost = sink.write(&chunk);
                mine.done(lost as u64);
            }
        };
        std::thread::Builder::new().name("handlerd-log".to_owned()).spawn(work)?;
        Ok(queue)
    }

    /// Hand over a record. Never waits.
    pub(super) fn push(&self, record: &[u8]) {
        let mut state = self.state();
        if !state.records.is_empty() && state.bytes + record.len() > LIMIT {
            state.unsaid += 1;
            drop(state);
            DROPPED.fetch_add(1, Relaxed);
            return;
        }
        state.bytes += record.len();
        state.records.push_back(record.to_vec());
        let idle = !state.writing && state.records.len() == 1;
        drop(state);
        if idle {
            self.0.due.notify_one();
        }
    }

    /// Wait for records; as many as one write takes.
    fn next(&self) -> Vec<Vec<u8>> {
        let mut state = self.state();
        loop {
            // Half of the room is free again: what is said now isn't dropped in its turn.
            if state.unsaid > 0 && !state.failing && state.bytes < LIMIT / 2 {
                let dropped = std::mem::take(&mut state.unsaid);
                drop(state);
                tracing::warn!(
                    dropped,
                    "{dropped} lines of the log were dropped: it could not be written fast enough"
                );
                self.0.written.notify_all();
                state = self.state();
            }
            if !state.records.is_empty() {
                break;
            }
            state = self.0.due.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while let Some(record) = state.records.pop_front_if(|record| {
            bytes += record.len();
            bytes <= CHUNK || bytes == record.len()
        }) {
            state.bytes -= record.len();
            chunk.push(record);
        }
        state.writing = true;
        chunk
    }

    fn done(&self, lost: u64) {
        let mut state = self.state();
        state.writing = false;
        state.chunks += 1;
        state.failing = lost > 0;
        state.unsaid += lost;
        drop(state);
        DROPPED.fetch_add(lost, Relaxed);
        self.0.written.notify_all();
    }

    /// Wait until nothing waits any more; not longer than `most`, nor than `stuck` without progress.
    pub(super) fn flush(&self, stuck: Duration, most: Duration) {
        let end = Instant::now() + most;
        let mut state = self.state();
        while state.is_busy() {
            let before = state.chunks;
            let wait = stuck.min(end.saturating_duration_since(Instant::now()));
            let waited = self
                .0
                .written
                .wait_timeout_while(state, wait, |state| state.chunks == before && state.is_busy());
            let (now, timed_out) = waited.unwrap_or_else(PoisonError::into_inner);
            if timed_out.timed_out() {
                return;
            }
            state = now;
        }
    }

    /// A lock whose holder panicked is still good: it is held for single steps only.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Something is still to be written, or to be said.
    fn is_busy(&self) -> bool {
        self.writing || !self.records.is_empty() || (self.unsaid > 0 && !self.failing)
    }
}

/// A line of `tracing-subscriber`, which it writes at once and whole.
impl io::Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Takes a chunk only when the test lets it.
    struct Gate {
        open: mpsc::Receiver<()>,
        written: mpsc::Sender<Vec<u8>>,
    }

    impl Sink for Gate {
        fn write(&mut self, records: &[Vec<u8>]) -> usize {
            // A closed gate lets everything through.
            let _ = self.open.recv();
            let _ = self.written.send(records.concat());
            0
        }
    }

    fn gated() -> (Queue, mpsc::Sender<()>, mpsc::Receiver<Vec<u8>>) {
        let ((open, wait), (write, written)) = (mpsc::channel(), mpsc::channel());
        let gate = Gate { open: wait, written: write };
        (Queue::start(Box::new(gate)).expect("a thread"), open, written)
    }

    #[test]
    fn who_logs_is_not_held_up_and_memory_is_bounded() {
        let (queue, open, written) = gated();
        let line = vec![b'x'; 64 << 10];
        let before = dropped();
        let many = 4 * LIMIT / line.len();
        (0..many).for_each(|_| queue.push(&line));
        assert!(queue.state().bytes <= LIMIT);
        let lost = (dropped() - before) as usize;
        assert!(lost >= many / 2, "{lost} of {many} were dropped");
        drop(open);
        queue.flush(Duration::from_secs(30), Duration::from_secs(30));
        let through: usize = written.try_iter().map(|chunk| chunk.len()).sum();
        assert_eq!(through, (many - lost) * line.len(), "what wasn't dropped is written");
    }

    #[test]
    fn a_flush_waits_for_what_is_on_its_way_and_not_for_ever() {
        let (queue, open, written) = gated();
        queue.push(b"one\n");
        let began = Instant::now();
        queue.flush(Duration::from_millis(20), Duration::from_secs(30));
        assert!(began.elapsed() >= Duration::from_millis(20));
        assert!(written.try_recv().is_err());
        open.send(()).expect("the thread waits");
        queue.flush(Duration::from_secs(30), Duration::from_secs(30));
        assert_eq!(written.try_recv().as_deref(), Ok(&b"one\n"[..]));
    }
}
