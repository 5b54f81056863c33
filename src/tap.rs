//! Looking on at a channel's messages while the daemon works: live samples, bounded.
//!
//! A channel has one [`Tap`] by its NAME, found in the [`Hub`] by the daemon when it builds the
//! channel (and again after a reload) and by `control` for a client. Workers ask it once a batch
//! whether anybody looks on; when nobody does, that is all it costs. Nothing here waits: what a
//! client has no room for is counted, and it is told how much it didn't see. No handler is run for
//! a sample: what is shown is what happened.

mod sample;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::chain::{Failure, Observer};
use crate::message::{Delivery, Message};

pub use self::sample::{Failed, Hop, Line, Room, Sample, Shown, Then, Value};

/// Clients of all taps together.
const MOST_CLIENTS: usize = 16;

/// What waits for one client.
const QUEUE_SAMPLES: usize = 64;
const QUEUE_BYTES: usize = 1 << 20;

/// How often a client that is shown nothing is told how much it missed.
const TELL: Duration = Duration::from_secs(1);

/// What a client wants to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Samples a second.
    pub rate: u32,
    /// Bytes of each payload.
    pub bytes: usize,
    /// Only messages that fail.
    pub failures: bool,
}

impl Wish {
    /// Most samples a second, and bytes of a payload, that may be asked for.
    pub const MOST_RATE: u32 = 1000;
    /// See [`Self::MOST_RATE`].
    pub const MOST_BYTES: usize = 64 << 10;
}

impl Default for Wish {
    fn default() -> Self {
        Wish { rate: 10, bytes: 1 << 10, failures: false }
    }
}

/// Why a channel can't be looked on at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no channel of this name.
    #[error("there is no channel of this name")]
    Unknown {
        /// Those that there are.
        names: Vec<Arc<str>>,
    },
    /// Too many look on.
    #[error("{MOST_CLIENTS} others look on already; end one of them")]
    Full,
}

/// All taps of a daemon, by NAME of the channel.
#[derive(Default)]
pub struct Hub {
    /// Each lives as long as a channel has it; of one that is gone nothing is left but its name.
    taps: Mutex<BTreeMap<Arc<str>, Weak<Tap>>>,
    clients: Arc<AtomicUsize>,
    closed: CancellationToken,
}

impl Hub {
    /// The tap of a channel, the same as long as a channel has it: whoever looks on sees those that
    /// come in its place, too.
    pub fn tap(&self, name: &Arc<str>) -> Arc<Tap> {
        let mut taps = lock(&self.taps);
        if let Some(tap) = taps.get(name).and_then(Weak::upgrade) {
            *lock(&tap.end.renamed) = None;
            return tap;
        }
        let tap = Arc::new(Tap::default());
        taps.insert(name.clone(), Arc::downgrade(&tap));
        tap
    }

    /// The channel of this NAME has another one from now on: that is why nothing more is seen here.
    pub fn renamed(&self, name: &str, to: &Arc<str>) {
        if let Some(tap) = lock(&self.taps).get(name).and_then(Weak::upgrade) {
            *lock(&tap.end.renamed) = Some(to.clone());
        }
    }

    /// Look on at a channel from now on.
    ///
    /// # Errors
    /// When there is no such channel, or too many look on.
    pub fn listen(&self, name: &str, wish: Wish) -> Result<Listener, Refused> {
        let tap = {
            let mut taps = lock(&self.taps);
            taps.retain(|_, tap| tap.strong_count() > 0);
            let found = taps.get(name).and_then(Weak::upgrade);
            found.ok_or_else(|| Refused::Unknown { names: taps.keys().cloned().collect() })?
        };
        let place = Place(self.clients.clone());
        if place.0.fetch_add(1, Relaxed) >= MOST_CLIENTS {
            return Err(Refused::Full);
        }
        let (samples, receiver) = mpsc::channel(QUEUE_SAMPLES);
        let client = Arc::new(Client::new(wish, samples, &tap));
        lock(&tap.clients).push(client.clone());
        tap.listening.fetch_add(1, Relaxed);
        let (closed, end) = (self.closed.clone(), tap.end.clone());
        let (name, tap) = (name.into(), Arc::downgrade(&tap));
        Ok(Listener {
            name,
            tap,
            client,
            samples: receiver,
            closed,
            end,
            ended: false,
            _place: place,
        })
    }

    /// Tell every client that there is nothing more to come.
    pub fn close(&self) {
        self.closed.cancel();
    }
}

/// One client of [`MOST_CLIENTS`].
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Where one channel can be looked on at. When the last channel that has it is gone, those who look on
/// are told.
#[derive(Default)]
pub struct Tap {
    /// How many look on.
    listening: AtomicUsize,
    clients: Mutex<Vec<Arc<Client>>>,
    end: Arc<End>,
}

/// What is still known of a tap when it is gone: that it is, why, and how much there was to see.
#[derive(Default)]
struct End {
    /// Messages that came out of the chain while somebody looked on, and tries that failed.
    passed: AtomicU64,
    failed: AtomicU64,
    has_come: CancellationToken,
    /// What its channel is called now.
    renamed: Mutex<Option<Arc<str>>>,
}

impl End {
    /// How much there was of what a client wishes to see.
    fn of_interest(&self, wish: Wish) -> u64 {
        let seen = if wish.failures { &self.failed } else { &self.passed };
        seen.load(Relaxed)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.end.has_come.cancel();
    }
}

impl Tap {
    /// Whether anybody looks on.
    pub fn is_on(&self) -> bool {
        self.listening.load(Relaxed) > 0
    }

    /// Whether somebody wants to see every message that fails: then they have to be kept.
    pub fn wants_failures(&self) -> bool {
        self.is_on() && lock(&self.clients).iter().any(|client| client.wish.failures)
    }

    /// Which of so many messages are to be shown, and to whom, in the order of the messages.
    pub fn choose(&self, messages: usize) -> Vec<(usize, Arc<Client>)> {
        let now = Instant::now();
        let mut chosen = Vec::new();
        for client in lock(&self.clients).iter().filter(|client| !client.wish.failures) {
            chosen.extend((0..client.admit(messages, now)).map(|place| (place, client.clone())));
        }
        chosen.sort_by_key(|(place, _)| *place);
        chosen
    }

    /// A message came out of the chain, or failed in it, while somebody looks on.
    pub fn passed(&self) {
        self.end.passed.fetch_add(1, Relaxed);
    }

    /// A message failed: show it to who wants to see that. `looks` are those that look on at it.
    pub fn failed(
        &self,
        delivery: &Delivery,
        input: Option<&Message>,
        failed: impl FnOnce() -> Failed,
        looks: &[Look],
    ) {
        if !self.is_on() {
            return;
        }
        self.end.failed.fetch_add(1, Relaxed);
        let failed = failed();
        let now = Instant::now();
        for client in lock(&self.clients).iter().filter(|client| client.wish.failures) {
            if client.admit(1, now) == 0 {
                continue;
            }
            let mut sample = match looks.first() {
                Some(look) => lock(&look.way).0.clone(),
                None => {
                    let mut room = Room::new(client.wish.bytes);
                    Sample::new(delivery, input.unwrap_or(&Message::default()), &mut room)
                }
            };
            sample.failure = Some(failed.clone());
            client.show(sample, self.end.failed.load(Relaxed));
        }
        for look in looks {
            let mut sample = std::mem::take(&mut lock(&look.way).0);
            sample.failure = Some(failed.clone());
            look.client.show(sample, self.end.passed.load(Relaxed));
        }
    }
}

impl Failed {
    /// What is told of a handler's failure.
    pub fn new(failure: &Failure, then: Then) -> Self {
        const REASON: usize = 4 << 10;
        let mut end = failure.reason.len().min(REASON);
        while !failure.reason.is_char_boundary(end) {
            end -= 1;
        }
        Failed {
            handler: Some(failure.handler.to_string()),
            kind: failure.kind.as_str().to_owned(),
            reason: failure.reason[..end].to_owned(),
            then,
        }
    }
}

/// Somebody who looks on.
pub struct Client {
    wish: Wish,
    samples: mpsc::Sender<Sample>,
    /// Bytes of what waits.
    waiting: AtomicUsize,
    bucket: Mutex<Bucket>,
    /// What had passed when it came, what of it was shown, and of how much it was told that it
    /// wasn't.
    before: u64,
    shown: AtomicU64,
    told: AtomicU64,
}

impl Client {
    fn new(wish: Wish, samples: mpsc::Sender<Sample>, tap: &Tap) -> Self {
        let bucket = Bucket { samples: f64::from(wish.rate), filled: Instant::now() };
        Client {
            wish,
            samples,
            waiting: AtomicUsize::new(0),
            bucket: Mutex::new(bucket),
            before: tap.end.of_interest(wish),
            shown: AtomicU64::new(0),
            told: AtomicU64::new(0),
        }
    }

    /// How many of so many messages it is shown.
    fn admit(&self, messages: usize, now: Instant) -> usize {
        if self.samples.capacity() == 0 {
            return 0;
        }
        lock(&self.bucket).take(f64::from(self.wish.rate), messages, now)
    }

    /// Show it, if there is room; `passed` is how much has passed so far.
    fn show(&self, mut sample: Sample, passed: u64) {
        let size = sample.size();
        if self.waiting.load(Relaxed) + size > QUEUE_BYTES {
            return;
        }
        if let Ok(room) = self.samples.try_reserve() {
            self.shown.fetch_add(1, Relaxed);
            sample.missed = self.missed(passed);
            self.waiting.fetch_add(size, Relaxed);
            room.send(sample);
        }
    }

    /// How much passed, wasn't shown, and hasn't been told of; now it has.
    fn missed(&self, passed: u64) -> u64 {
        let shown = self.shown.load(Relaxed);
        let missed = passed.saturating_sub(self.before).saturating_sub(shown);
        missed.saturating_sub(self.told.fetch_max(missed, Relaxed))
    }
}

/// So many samples a second, and as many at once after a quiet second.
struct Bucket {
    samples: f64,
    filled: Instant,
}

impl Bucket {
    fn take(&mut self, rate: f64, wanted: usize, now: Instant) -> usize {
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.samples = (self.samples + since * rate).min(rate);
        self.filled = now;
        // Not negative, and small: at most the rate.
        let taken = wanted.min(self.samples as usize);
        self.samples -= taken as f64;
        taken
    }
}

/// A message that a client looks on at.
#[derive(Clone)]
pub struct Look {
    client: Arc<Client>,
    /// Its way so far, and the room for the rest of it.
    way: Arc<Mutex<(Sample, Room)>>,
}

impl Look {
    /// At this message, before it is handled.
    pub fn new(client: Arc<Client>, delivery: &Delivery, input: &Message) -> Self {
        let way = Arc::default();
        let look = Look { client, way };
        look.begin(delivery, input);
        look
    }

    /// At a further try of it.
    pub fn begin(&self, delivery: &Delivery, input: &Message) {
        let mut room = Room::new(self.client.wish.bytes);
        *lock(&self.way) = (Sample::new(delivery, input, &mut room), room);
    }

    /// What a handler made of it; `None` when it failed.
    pub fn hop(&self, handler: &str, took: Duration, messages: Option<&[Message]>) {
        let (sample, room) = &mut *lock(&self.way);
        sample.hop(handler, took, messages, room);
    }

    /// For the chain.
    pub fn observer(&self) -> Observer {
        let look = self.clone();
        Box::new(move |handler, took, outcome| {
            look.hop(handler, took, outcome.as_deref().ok());
        })
    }

    /// It went through; `to` says where a message was sent.
    pub fn went_out(&self, tap: &Tap, messages: &[Message], to: impl Fn(&Message) -> Vec<String>) {
        let (mut sample, mut room) = std::mem::take(&mut *lock(&self.way));
        sample.went_out(messages, to, &mut room);
        self.client.show(sample, tap.end.passed.load(Relaxed));
    }
}

/// What one client is shown. When it is dropped nobody looks on for it any more.
pub struct Listener {
    /// Of the channel.
    name: Arc<str>,
    tap: Weak<Tap>,
    client: Arc<Client>,
    samples: mpsc::Receiver<Sample>,
    closed: CancellationToken,
    end: Arc<End>,
    ended: bool,
    _place: Place,
}

impl Listener {
    /// The next line; `None` when there is nothing more to come.
    pub async fn next(&mut self) -> Option<Line> {
        while !self.ended {
            tokio::select! {
                biased;
                sample = self.samples.recv() => {
                    let sample = sample?;
                    self.client.waiting.fetch_sub(sample.size(), Relaxed);
                    return Some(Line::Sample(Box::new(sample)));
                }
                () = self.closed.cancelled() => {
                    if let Some(missed) = self.missed() {
                        return Some(missed);
                    }
                    self.ended = true;
                    let end = "handlerd has stopped".to_owned();
                    return Some(Line::End { end, channel_is_gone: false });
                }
                () = self.end.has_come.cancelled() => {
                    if let Some(missed) = self.missed() {
                        return Some(missed);
                    }
                    self.ended = true;
                    let end = self.why_gone();
                    return Some(Line::End { end, channel_is_gone: true });
                }
                () = tokio::time::sleep(TELL) => {
                    if let Some(missed) = self.missed() {
                        return Some(missed);
                    }
                }
            }
        }
        None
    }

    /// How much it wasn't shown and hasn't been told of, if anything.
    fn missed(&self) -> Option<Line> {
        let missed = self.client.missed(self.end.of_interest(self.client.wish));
        (missed > 0).then_some(Line::Missed { missed })
    }

    fn why_gone(&self) -> String {
        let name = &self.name;
        match &*lock(&self.end.renamed) {
            Some(to) => format!("channel {name} is called {to} now: a reload has renamed it"),
            None => format!("channel {name} is no more: a reload has taken it out"),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Some(tap) = self.tap.upgrade() else { return };
        lock(&tap.clients).retain(|client| !Arc::ptr_eq(client, &self.client));
        tap.listening.fetch_sub(1, Relaxed);
    }
}

/// A lock whose holder panicked is still good: it is held for single steps only.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
