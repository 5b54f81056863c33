//! Commands as bytes, and the accounts of whose they are.
//!
//! Owns the encoding of what the writer sends and the order in which answers are matched. Knows no
//! connection and never waits. Nothing here is allocated for a single command: commands to the
//! same name for the same channel are one [`Run`]. Only one with a receipt is a run of its own.

use std::collections::VecDeque;

use super::receipt::{Fate, Owner, Whose};
use crate::broker::resp;
use crate::telemetry::OutputKind;

/// Bytes of a Redis channel's or list's name that are kept for a log line.
const NAME_KEPT: usize = 100;

/// Capacity that an empty buffer keeps; more is given back when nothing is sent for a while.
const QUIET_CAPACITY: usize = 64 << 10;

/// What a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// PUBLISH.
    Publish,
    /// RPUSH.
    Push,
    /// XADD.
    Append,
    /// PING: nobody's.
    Ping,
}

impl Kind {
    /// The command's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Publish => "PUBLISH",
            Kind::Push => "RPUSH",
            Kind::Append => "XADD",
            Kind::Ping => "PING",
        }
    }

    /// What is delivered when it succeeds.
    pub fn output(self) -> Option<OutputKind> {
        match self {
            Kind::Publish => Some(OutputKind::Publish),
            Kind::Push => Some(OutputKind::Push),
            Kind::Append => Some(OutputKind::Append),
            Kind::Ping => None,
        }
    }

    /// The command's name as it is sent.
    fn head(self) -> &'static [u8] {
        match self {
            Kind::Publish => b"$7\r\nPUBLISH\r\n",
            Kind::Push => b"$5\r\nRPUSH\r\n",
            Kind::Append => b"$4\r\nXADD\r\n",
            Kind::Ping => b"$4\r\nPING\r\n",
        }
    }
}

const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// Commands of one kind to one name for one channel, one after the other.
#[derive(Debug)]
struct Run {
    whose: Whose,
    /// Their bytes on the wire.
    bytes: usize,
    commands: u32,
    name: u16,
    kind: Kind,
}

/// The oldest command that has no answer.
#[derive(Debug)]
pub struct Oldest {
    /// What it is.
    pub kind: Kind,
    /// The name it goes to, cut after 100 bytes.
    pub name: Vec<u8>,
}

/// Commands that nobody has begun to send.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    runs: Vec<Run>,
    /// The names of the runs, one behind the other.
    names: Vec<u8>,
}

impl Batch {
    /// Append a command: its name, the key or channel, and what follows. Copies a payload once.
    pub fn append<'p>(
        &mut self,
        kind: Kind,
        name: &[u8],
        parts: impl ExactSizeIterator<Item = &'p [u8]> + Clone,
        owner: Owner<'_>,
    ) {
        /// Length, sigil and line ends of one argument.
        const FRAME: usize = 25;
        let before = self.bytes.len();
        let head = kind.head();
        let payload: usize = parts.clone().map(|part| part.len() + FRAME).sum();
        self.bytes.reserve(head.len() + name.len() + payload + 2 * FRAME);
        resp::array(&mut self.bytes, 2 + parts.len());
        self.bytes.extend_from_slice(head);
        resp::bulk(&mut self.bytes, name);
        parts.for_each(|part| resp::bulk(&mut self.bytes, part));
        let bytes = self.bytes.len() - before;

        let name = &name[..name.len().min(NAME_KEPT)];
        if let Some(last) = self.runs.last_mut() {
            let ours = last.whose.is(&owner);
            let same_name = usize::from(last.name) == name.len() && self.names.ends_with(name);
            if ours && last.kind == kind && same_name && last.commands < u32::MAX {
                last.commands += 1;
                last.bytes += bytes;
                return;
            }
        }
        self.names.extend_from_slice(name);
        let name = name.len() as u16;
        self.runs.push(Run { whose: owner.into(), bytes, commands: 1, name, kind });
    }

    /// Bytes to send.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Nothing of this is ever sent: tell the owners, and forget it; answers how many there were.
    pub fn forget(&mut self) -> u64 {
        let mut commands = 0;
        for mut run in self.runs.drain(..) {
            commands += run.whose.told(run.kind, Fate::Unsent, run.commands.into());
        }
        self.names.clear();
        self.bytes.clear();
        commands
    }

    /// Give back what a flood made the buffers grow to.
    pub fn shrink(&mut self) {
        if self.is_empty() && self.bytes.capacity() > QUIET_CAPACITY {
            *self = Batch::default();
        }
    }
}

/// What the writer's task has in hand: a buffer on its way out, and all commands without an answer,
/// those in the buffer included.
#[derive(Debug, Default)]
pub struct Outbox {
    buffer: Vec<u8>,
    /// How much of `buffer` was handed to a socket.
    written: usize,
    /// Commands that begin in `buffer`.
    in_buffer: u64,
    runs: VecDeque<Run>,
    names: VecDeque<u8>,
    /// Commands in `runs`, and the bytes of runs in which at least one has no answer.
    commands: u64,
    bytes: usize,
}

impl Outbox {
    /// Take over a batch, whose buffers become those that were sent last. Only when everything
    /// [is written](Self::is_written).
    pub fn take(&mut self, batch: &mut Batch) {
        debug_assert!(self.is_written(), "a buffer that is still being written was exchanged");
        self.buffer.clear();
        self.written = 0;
        std::mem::swap(&mut self.buffer, &mut batch.bytes);
        let commands = batch.runs.iter().map(|run| u64::from(run.commands)).sum();
        self.in_buffer = commands;
        self.commands += commands;
        self.bytes += self.buffer.len();
        self.runs.extend(batch.runs.drain(..));
        self.names.extend(&batch.names);
        batch.names.clear();
    }

    /// Ask for a sign of life. Only when everything [is written](Self::is_written).
    pub fn ping(&mut self) {
        debug_assert!(self.is_written(), "a buffer that is still being written was overwritten");
        self.buffer.clear();
        self.buffer.extend_from_slice(PING);
        self.written = 0;
        self.in_buffer = 1;
        self.commands += 1;
        self.bytes += PING.len();
        let run =
            Run { whose: Whose::Nobody, bytes: PING.len(), commands: 1, name: 0, kind: Kind::Ping };
        self.runs.push_back(run);
    }

    /// What has to be handed to the socket next.
    pub fn unwritten(&self) -> &[u8] {
        &self.buffer[self.written..]
    }

    /// So many of [`Self::unwritten`] were handed over.
    pub fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
        debug_assert!(self.written <= self.buffer.len());
    }

    /// Whether the whole buffer was handed over.
    pub fn is_written(&self) -> bool {
        self.written == self.buffer.len()
    }

    /// Commands without an answer, unwritten ones included.
    pub fn commands(&self) -> u64 {
        self.commands
    }

    /// About the bytes of those commands.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The command that the next answer is for.
    pub fn oldest(&self) -> Option<Oldest> {
        let run = self.runs.front()?;
        let name = self.names.iter().take(run.name.into()).copied().collect();
        Some(Oldest { kind: run.kind, name })
    }

    /// This became of the `commands` oldest; answers how many of them were somebody's.
    pub fn settle(&mut self, mut commands: u64, fate: Fate<'_>) -> u64 {
        let mut owned = 0;
        while commands > 0
            && let Some(run) = self.runs.front_mut()
        {
            let now = commands.min(run.commands.into());
            commands -= now;
            self.commands -= now;
            run.commands -= now as u32;
            owned += run.whose.told(run.kind, fate, now);
            if run.commands == 0 {
                self.bytes -= run.bytes;
                let name = usize::from(run.name).min(self.names.len());
                self.names.drain(..name);
                self.runs.pop_front();
            }
        }
        owned
    }

    /// The connection is gone. Never panics: it is called when the task has. What became of
    /// whatever was handed to it is unknown, even in part, where `unsure` bytes more may have been
    /// than is known; what wasn't stays for the next one.
    pub fn lose(&mut self, unsure: usize) -> u64 {
        let sent = self.written.saturating_add(unsure).min(self.buffer.len());
        let (mut end, mut begun) = (0, 0);
        while end < sent {
            end += command_length(&self.buffer[end..]);
            begun += 1;
        }
        let unwritten = self.in_buffer.saturating_sub(begun);
        self.buffer.drain(..end.min(self.buffer.len()));
        self.written = 0;
        self.in_buffer = unwritten;
        self.settle(self.commands.saturating_sub(unwritten), Fate::Unknown)
    }

    /// Give back what a flood made the buffers grow to.
    pub fn shrink(&mut self) {
        if self.commands == 0 && self.buffer.capacity() > QUIET_CAPACITY {
            *self = Outbox::default();
        }
    }
}

/// Length of the first of the commands that [`Batch::append`] encoded.
fn command_length(commands: &[u8]) -> usize {
    let mut at = 0;
    let number = |at: &mut usize| {
        let mut n = 0;
        *at += 1;
        while let Some(digit @ b'0'..=b'9') = commands.get(*at) {
            n = n * 10 + usize::from(digit - b'0');
            *at += 1;
        }
        *at += 2;
        n
    };
    for _ in 0..number(&mut at) {
        let length = number(&mut at);
        at += length + 2;
    }
    at
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::telemetry::{ChannelMetrics, DropReason};

    fn one(part: &[u8]) -> std::array::IntoIter<&[u8], 1> {
        [part].into_iter()
    }

    #[test]
    fn what_goes_to_one_name_is_one_run() {
        let [a, b] = [Arc::<ChannelMetrics>::default(), Arc::default()];
        let mut batch = Batch::default();
        for _ in 0..5 {
            batch.append(Kind::Publish, b"x", one(b"1"), Owner::Channel(&a));
        }
        batch.append(Kind::Publish, b"xx", one(b"1"), Owner::Channel(&a));
        batch.append(Kind::Publish, b"xx", one(b"1"), Owner::Channel(&b));
        batch.append(Kind::Push, b"xx", one(b"1"), Owner::Channel(&b));
        assert_eq!(batch.runs.len(), 4);

        let mut outbox = Outbox::default();
        outbox.take(&mut batch);
        assert!(batch.is_empty());
        assert_eq!(outbox.settle(5, Fate::Done), 5);
        assert_eq!((a.delivered.get(), b.delivered.get()), (5, 0));
        assert_eq!(outbox.oldest().unwrap().name, b"xx");
        assert_eq!(outbox.settle(2, Fate::Done), 2);
        assert_eq!((a.delivered.get(), b.delivered.get()), (6, 1));
        assert_eq!(outbox.oldest().unwrap().kind, Kind::Push);
        assert_eq!((outbox.commands(), outbox.names.len()), (1, 2));
        outbox.settle(1, Fate::Done);
        assert_eq!((outbox.commands(), outbox.bytes(), outbox.names.len()), (0, 0, 0));
    }

    #[test]
    fn a_lost_connection_takes_along_what_was_begun_and_nothing_else() {
        let whole = |payloads: &[&[u8]]| {
            let mut bytes = Vec::new();
            for payload in payloads {
                resp::command(&mut bytes, &[b"PUBLISH", b"name", payload]);
            }
            bytes
        };
        let payloads: [&[u8]; 4] = [b"first", b"", b"*3\r\n$7\r\n\0\xff", b"last"];
        let wire = whole(&payloads);
        for written in 0..=wire.len() {
            let from = Arc::<ChannelMetrics>::default();
            let mut batch = Batch::default();
            for payload in payloads {
                batch.append(Kind::Publish, b"name", one(payload), Owner::Channel(&from));
            }
            let mut outbox = Outbox::default();
            outbox.take(&mut batch);
            assert_eq!(outbox.unwritten(), wire);
            outbox.wrote(written);
            let whole_ones =
                (0..=4).take_while(|&n| whole(&payloads[..n]).len() <= written).count() - 1;
            let begun = whole_ones + usize::from(written > whole(&payloads[..whole_ones]).len());
            let answered = whole_ones.min(1) as u64;
            outbox.settle(answered, Fate::Done);
            assert_eq!(outbox.lose(0), begun as u64 - answered);
            assert_eq!(from.dropped(DropReason::Unknown), begun as u64 - answered);
            assert_eq!(outbox.unwritten(), whole(&payloads[begun..]), "{written} bytes written");
            assert_eq!(outbox.commands(), (4 - begun) as u64);
        }
    }

    #[test]
    fn what_may_have_been_written_is_unknown_too() {
        let from = Arc::<ChannelMetrics>::default();
        let mut batch = Batch::default();
        for payload in [b"1", b"2", b"3"] {
            batch.append(Kind::Push, b"list", one(payload), Owner::Channel(&from));
        }
        let command = batch.len() / 3;
        let mut outbox = Outbox::default();
        outbox.take(&mut batch);
        outbox.wrote(command);
        assert_eq!(outbox.lose(1), 2);
        assert_eq!(outbox.unwritten().len(), command);
        // Nothing of it was handed to the next connection, which is lost too.
        assert_eq!(outbox.lose(0), 0);
        assert_eq!(outbox.lose(usize::MAX), 1);
        assert_eq!((outbox.commands(), outbox.bytes()), (0, 0));
    }

    #[test]
    fn a_sign_of_life_is_nobodys() {
        let mut outbox = Outbox::default();
        outbox.ping();
        let written = outbox.unwritten().len();
        outbox.wrote(written);
        assert_eq!(outbox.lose(0), 0);
        assert_eq!(outbox.commands(), 0);
    }

    #[test]
    fn a_receipt_is_told_once_what_became_of_its_own_command() {
        let from = Arc::<ChannelMetrics>::default();
        let told = Arc::<Mutex<Vec<String>>>::default();
        let mut batch = Batch::default();
        for n in 0..5 {
            batch.append(Kind::Append, b"x", one(b"1"), Owner::Channel(&from));
            let told = told.clone();
            let receipt = Box::new(move |fate: Fate<'_>| {
                told.lock().unwrap().push(format!("{n} {fate:?}"));
            });
            batch.append(Kind::Append, b"x", one(b"1"), Owner::Receipt(receipt));
        }
        let mut outbox = Outbox::default();
        outbox.take(&mut batch);
        let command = outbox.unwritten().len() / 10;
        outbox.wrote(6 * command);
        assert_eq!(outbox.settle(2, Fate::Done), 2);
        assert_eq!(outbox.settle(2, Fate::Refused("WRONGTYPE")), 2);
        assert_eq!(outbox.lose(0), 2);
        assert_eq!(outbox.settle(u64::MAX, Fate::Unsent), 4);
        batch.append(
            Kind::Append,
            b"x",
            one(b"1"),
            Owner::Receipt(Box::new({
                let told = told.clone();
                move |fate| told.lock().unwrap().push(format!("5 {fate:?}"))
            })),
        );
        assert_eq!((batch.forget(), batch.forget()), (1, 0));
        let expected =
            ["0 Done", "1 Refused(\"WRONGTYPE\")", "2 Unknown", "3 Unsent", "4 Unsent", "5 Unsent"];
        assert_eq!(*told.lock().unwrap(), expected);
        // What is the channel's is counted as before.
        let lost = [DropReason::Refused, DropReason::Unknown, DropReason::Shutdown];
        assert_eq!(from.delivered.get(), 1);
        assert_eq!(lost.map(|reason| from.dropped(reason)), [1, 1, 2]);
    }
}
