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

use super::output;
use super::sink::Sink;
use crate::telemetry::Written;

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

struct Record {
    bytes: Vec<u8>,
    /// The channel whose output it is.
    from: Option<Written>,
}

#[derive(Default)]
struct State {
    records: VecDeque<Record>,
    bytes: usize,
    /// A chunk is being written.
    writing: bool,
    /// Of the records in it, whose output each is.
    written_for: Vec<Option<Written>>,
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
                mine.done(&lost);
            }
        };
        std::thread::Builder::new().name("handlerd-log".to_owned()).spawn(work)?;
        Ok(queue)
    }

    /// Hand over a record. Never waits.
    pub(super) fn push(&self, record: &[u8]) {
        let from = output::whose();
        let mut state = self.state();
        if !state.records.is_empty() && state.bytes + record.len() > LIMIT {
            state.unsaid += 1;
            drop(state);
            DROPPED.fetch_add(1, Relaxed);
            from.iter().for_each(|channel| output::count(channel, false));
            return;
        }
        state.bytes += record.len();
        state.records.push_back(Record { bytes: record.to_vec(), from });
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
            bytes += record.bytes.len();
            bytes <= CHUNK || bytes == record.bytes.len()
        }) {
            state.bytes -= record.bytes.len();
            chunk.push(record.bytes);
            state.written_for.push(record.from);
        }
        state.writing = true;
        chunk
    }

    /// A chunk was written, but for the records at these places, which ascend.
    fn done(&self, lost: &[usize]) {
        DROPPED.fetch_add(lost.len() as u64, Relaxed);
        let mut state = self.state();
        // Under the lock: who has waited for all to be written finds it counted.
        for (place, channel) in state.written_for.drain(..).enumerate() {
            let is_written = lost.binary_search(&place).is_err();
            channel.iter().for_each(|channel| output::count(channel, is_written));
        }
        state.writing = false;
        state.chunks += 1;
        state.failing = !lost.is_empty();
        state.unsaid += lost.len() as u64;
        drop(state);
        self.0.written.notify_all();
    }

    /// Drop the lines that wait and are outputs of channels, and count them. One that is being written
    /// may still arrive; that nobody knows.
    pub(super) fn give_up_outputs(&self) {
        let mut state = self.state();
        let records = std::mem::take(&mut state.records);
        let (outputs, others): (Vec<Record>, _) =
            records.into_iter().partition(|r| r.from.is_some());
        state.records = others.into();
        state.bytes = state.records.iter().map(|record| record.bytes.len()).sum();
        let begun = std::mem::take(&mut state.written_for);
        drop(state);
        DROPPED.fetch_add(outputs.len() as u64, Relaxed);
        let outputs = outputs.into_iter().filter_map(|record| record.from);
        let all = begun.into_iter().flatten().chain(outputs);
        all.for_each(|channel| output::count(&channel, false));
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
    use crate::telemetry::{ChannelMetrics, DropReason, OutputKind};

    /// Takes a chunk only when the test lets it.
    struct Gate {
        open: mpsc::Receiver<()>,
        written: mpsc::Sender<Vec<u8>>,
    }

    impl Sink for Gate {
        fn write(&mut self, records: &[Vec<u8>]) -> Vec<usize> {
            // A closed gate lets everything through.
            let _ = self.open.recv();
            let _ = self.written.send(records.concat());
            let is_lost = |place: &usize| records[*place].starts_with(b"lost");
            (0..records.len()).filter(is_lost).collect()
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
        let lost = queue.state().unsaid as usize;
        assert!(dropped() - before >= lost as u64, "they are counted, with those of other tests");
        assert!(lost >= many / 2, "{lost} of {many} were dropped");
        drop(open);
        queue.flush(Duration::from_secs(30), Duration::from_secs(30));
        let through: usize = written.try_iter().map(|chunk| chunk.len()).sum();
        assert_eq!(through, (many - lost) * line.len(), "what wasn't dropped is written");
    }

    /// Logs outputs of a channel.
    fn outputs(queue: &Queue) -> (Arc<ChannelMetrics>, impl Fn(&[u8])) {
        let (queue, channel) = (queue.clone(), Arc::<ChannelMetrics>::default());
        let from = channel.clone();
        (channel, move |line| output::output_of(&from, || queue.push(line)))
    }

    /// Delivered, lost, and whether something isn't known yet.
    fn counted(channel: &ChannelMetrics) -> (u64, u64, bool) {
        let lost = channel.dropped(DropReason::LogFull);
        (channel.delivered.by(OutputKind::Log), lost, channel.is_written_for())
    }

    #[test]
    fn an_output_is_delivered_when_it_is_written_and_lost_when_it_is_not() {
        let (queue, open, _written) = gated();
        let (channel, log) = outputs(&queue);
        log(b"one\n");
        log(b"lost\n");
        queue.push(b"nobody's\n");
        assert_eq!(counted(&channel), (0, 0, true), "nothing is known yet");
        drop(open);
        queue.flush(Duration::from_secs(30), Duration::from_secs(30));
        assert_eq!(counted(&channel), (1, 1, false));
    }

    #[test]
    fn outputs_that_are_given_up_are_lost_and_counted_once() {
        let (queue, open, _written) = gated();
        let (channel, log) = outputs(&queue);
        log(b"begun\n");
        while !queue.state().writing {
            std::thread::yield_now();
        }
        log(&vec![b'x'; LIMIT]);
        log(b"no room\n");
        assert_eq!(counted(&channel), (0, 1, true));
        queue.give_up_outputs();
        assert_eq!(counted(&channel), (0, 3, false));
        assert_eq!(queue.state().bytes, 0);
        // What is begun ends all the same, and isn't counted again.
        drop(open);
        queue.flush(Duration::from_secs(30), Duration::from_secs(30));
        assert_eq!(counted(&channel), (0, 3, false));
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
