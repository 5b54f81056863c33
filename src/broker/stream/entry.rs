//! An entry in hand, and what is made of one that was read.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

use super::finish::{Finish, MOST_HEADERS};
use super::lane::{Item, Lane, Outcome};
use super::settings::Settings;
use crate::broker::resp::Node;
use crate::config::EntryId;
use crate::message::{Delivery, Message};

/// Bytes that holding an entry costs beside what it holds, and each name and value of its fields:
/// more than they have beside themselves in Redis's answer.
pub(super) const OVERHEAD: usize = 256;
pub(super) const EACH: usize = 32;

/// Bytes of an entry that `max_payload` allows.
pub(super) fn largest(settings: &Settings) -> usize {
    OVERHEAD + 2 * EACH + settings.payload_field.len() + settings.max_payload
}

/// The hold on an entry that was read. While it lives nobody else is given the entry.
///
/// Dropped without [`Entry::finish`] it stays pending: it comes again after `claim_idle` with a
/// higher attempt, or, when the source is stopping, is given back as if it had never been read.
pub struct Entry {
    lane: Arc<Lane>,
    id: EntryId,
    epoch: u64,
    size: usize,
    attempt: u32,
    finished: bool,
}

impl Entry {
    pub(super) fn new(lane: Arc<Lane>, id: EntryId, epoch: u64, size: usize, attempt: u32) -> Self {
        Entry { lane, id, epoch, size, attempt, finished: false }
    }

    /// The stream it is of.
    pub fn key(&self) -> &Arc<str> {
        &self.lane.key
    }

    /// Its id.
    pub fn id(&self) -> EntryId {
        self.id
    }

    /// How often it has been delivered: 1 at first.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether the outputs in line leave room for more; see [`Entry::room`].
    pub fn has_room(&self) -> bool {
        self.lane.has_room()
    }

    /// Wait until less than 4 MiB of outputs are in line to be written with entries of this stream.
    pub async fn room(&self) {
        self.lane.room().await;
    }

    /// Put it in line to be finished: these outputs and the acknowledgement, in one step. Never
    /// waits; goes out after [`super::Finisher::flush`], or when a batch is together. What Redis
    /// refuses for now is tried until it works, and what comes after it waits.
    pub fn finish(self, finish: Finish) {
        self.put(finish, None);
    }

    /// The same, and learn what became of it. An error means that the finisher has been ended.
    pub fn finish_and_tell(self, finish: Finish) -> oneshot::Receiver<Outcome> {
        let (done, told) = oneshot::channel();
        self.put(finish, Some(done));
        told
    }

    fn put(self, finish: Finish, done: Option<oneshot::Sender<Outcome>>) {
        let lane = self.lane.clone();
        lane.finish(Item { entry: self, finish, uncertain: false, done });
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// There is nothing left to do for it.
    pub(super) fn settle(&mut self) {
        self.finished = true;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.lane.let_go(self.id, self.epoch, self.size, self.finished);
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} (attempt {})", self.lane.key, self.id, self.attempt)
    }
}

/// What a source hands on.
#[derive(Debug)]
pub enum Taken {
    /// A message to handle.
    Message(Message, Arc<Delivery>, Entry),
    /// One that can't be handled: a dead letter.
    Unfit(Unfit),
}

impl Taken {
    /// The hold.
    pub fn entry(&self) -> &Entry {
        match self {
            Taken::Message(.., entry) => entry,
            Taken::Unfit(unfit) => &unfit.entry,
        }
    }
}

/// An entry that can't be handled.
#[derive(Debug)]
pub struct Unfit {
    /// Why not.
    pub kind: UnfitKind,
    /// The same as a sentence.
    pub reason: String,
    /// The bytes of the payload field, or none.
    pub payload: Vec<u8>,
    /// The other fields, as they are.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where from, and when.
    pub delivery: Arc<Delivery>,
    /// The hold.
    pub entry: Entry,
}

/// Why an entry can't be handled. The words are the dead letter's `handlerd-kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnfitKind {
    /// It has no payload field.
    NoPayload,
    /// A field's name isn't UTF-8.
    Name,
    /// Its payload is larger than `max_payload`, or it has too many fields.
    TooLarge,
    /// Delivered alone, it was delivered once more: it ended the daemon.
    Crash,
}

impl UnfitKind {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            UnfitKind::NoPayload => "no_payload",
            UnfitKind::Name => "name",
            UnfitKind::TooLarge => "too_large",
            UnfitKind::Crash => "crash",
        }
    }
}

/// Hold an entry that was read, and judge it. `None` when it is held already, or isn't one.
pub(super) fn take(
    lane: &Arc<Lane>,
    id: Node<'_>,
    fields: Node<'_>,
    attempt: u32,
) -> Option<Taken> {
    let text = id.string()?;
    let id = EntryId::parse(text)?;
    let fields = fields.items();
    let bytes = |node: &Node<'_>| EACH + node.string().unwrap_or_default().len();
    let size = OVERHEAD + fields.iter().map(bytes).sum::<usize>();
    let entry = lane.hold(id, size, attempt)?;
    let delivery = Arc::new(Delivery {
        table: lane.settings.table.clone(),
        redis_channel: lane.key.clone(),
        pattern: None,
        id: Some(String::from_utf8_lossy(text).into()),
        attempt,
        received_at: now(),
    });
    Some(judge(lane, &fields, delivery, entry))
}

fn judge(lane: &Lane, fields: &[Node<'_>], delivery: Arc<Delivery>, entry: Entry) -> Taken {
    let settings = &*lane.settings;
    let pairs = || fields.chunks_exact(2).map(|p| (text(p[0]), text(p[1])));
    let place = pairs().position(|(name, _)| name == settings.payload_field.as_bytes());
    let payload = place.map(|place| text(fields[2 * place + 1]));
    let others =
        || pairs().enumerate().filter(move |(i, _)| Some(*i) != place).map(|(_, pair)| pair);

    let most = settings.max_deliveries;
    let unfit = match payload {
        _ if entry.attempt() > most.saturating_add(1) => Some((
            UnfitKind::Crash,
            format!(
                "it was delivered {} times, at last alone, and never finished",
                entry.attempt() - 1
            ),
        )),
        None => {
            Some((UnfitKind::NoPayload, format!("it has no field {:?}", settings.payload_field)))
        }
        Some(payload) if payload.len() > settings.max_payload => Some((
            UnfitKind::TooLarge,
            format!("{} bytes, max_payload is {}", payload.len(), settings.max_payload),
        )),
        Some(_) if fields.len() / 2 > MOST_HEADERS => Some((
            UnfitKind::TooLarge,
            format!("it has {} fields; at most {MOST_HEADERS} can be handled", fields.len() / 2),
        )),
        Some(_) if others().any(|(name, _)| std::str::from_utf8(name).is_err()) => {
            Some((UnfitKind::Name, "the name of a field is not UTF-8".to_owned()))
        }
        Some(_) => None,
    };
    let payload = payload.unwrap_or_default().to_vec();
    match unfit {
        Some((kind, reason)) => {
            let headers = others().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
            Taken::Unfit(Unfit { kind, reason, payload, headers, delivery, entry })
        }
        None => {
            let name = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
            let headers = others().map(|(n, value)| (name(n), value.to_vec())).collect();
            let message = Message { payload, headers, route: None };
            Taken::Message(message, delivery, entry)
        }
    }
}

fn text<'a>(node: Node<'a>) -> &'a [u8] {
    node.string().unwrap_or_default()
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(u64::MAX)
}
