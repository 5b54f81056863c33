//! Sends numbered messages at a steady rate, whatever happens to Redis: adds them to a stream, and
//! knows which of them are in it, or publishes them, and knows whom they reached.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::ledger::Counts;
use crate::message::{self, Kind};

/// How often a batch is sent, so that several are in hand at once.
const TICK: Duration = Duration::from_millis(40);

/// The pause before Redis is tried again.
const PAUSE: Duration = Duration::from_millis(5);

/// The most that one batch has, when Redis was away and there is something to make up for.
const MOST: u64 = 200;

/// One in so many is a bad one anyway.
const BAD: u64 = 4_001;

/// How they are sent.
#[derive(Clone, Copy)]
pub enum Way {
    /// XADD, until they are in this stream.
    Add(&'static str),
    /// PUBLISH on this channel, once.
    Publish(&'static str),
}

/// A thread that ends with it.
pub struct Feeder {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    /// No more batches.
    stop: AtomicBool,
    /// Whoever wanted to know is gone, too.
    gone: AtomicBool,
    /// All numbers below it are in the stream.
    fed: AtomicU64,
    /// What the next ones are to be.
    asked: Mutex<Vec<&'static str>>,
    /// Those that are bad ones.
    bad: Mutex<Counts>,
    /// Those that were published while somebody listened, or perhaps.
    reached: Mutex<Counts>,
}

impl Feeder {
    /// Send so many a second to the Redis at this socket.
    pub fn start(socket: &Path, way: Way, rate: u64) -> Feeder {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            fed: AtomicU64::new(0),
            asked: Mutex::default(),
            bad: Mutex::default(),
            reached: Mutex::default(),
        });
        let client = client(socket);
        let feeding = shared.clone();
        let thread = std::thread::spawn(move || feeding.feed(&client, way, rate));
        Feeder { shared, thread: Some(thread) }
    }

    /// All numbers below this one are in the stream, or were.
    pub fn fed(&self) -> u64 {
        self.shared.fed.load(SeqCst)
    }

    /// Let the next ones be of these kinds.
    pub fn misbehave(&self, words: impl IntoIterator<Item = &'static str>) {
        lock(&self.shared.asked).extend(words);
    }

    /// Those that are to become dead letters.
    pub fn bad(&self) -> Counts {
        lock(&self.shared.bad).clone()
    }

    /// Those that were published while somebody listened, or perhaps.
    pub fn reached(&self) -> Counts {
        lock(&self.shared.reached).clone()
    }

    /// Stop; answers how many there were. Redis must accept writes.
    pub fn stop(&mut self) -> u64 {
        self.shared.stop.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the feeder has no fault");
        }
        self.fed()
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        // Not waited for: its Redis may be gone for good.
        self.shared.stop.store(true, SeqCst);
        self.shared.gone.store(true, SeqCst);
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A client for the test's own user.
pub fn client(socket: &Path) -> redis::Client {
    let url = format!("redis+unix://{}?user=admin&pass=", socket.display());
    redis::Client::open(url).expect("the url is right")
}

impl Shared {
    fn feed(&self, client: &redis::Client, way: Way, rate: u64) {
        let mut connection = None;
        let (begin, mut skipped) = (Instant::now(), 0);
        while !self.stop.load(SeqCst) {
            let fed = self.fed.load(SeqCst);
            let due = begin.elapsed().as_millis() as u64 * rate / 1000 - skipped;
            let count = due.saturating_sub(fed).min(MOST);
            // What an outage has put off is not all made up for.
            skipped += due.saturating_sub(fed + count).saturating_sub(rate);
            if count > 0 {
                let batch: Vec<_> = (fed..fed + count).map(|n| (n, self.kind(n))).collect();
                match way {
                    Way::Publish(to) => self.publish(client, &mut connection, to, &batch),
                    Way::Add(to) if self.add(client, &mut connection, to, &batch) => {}
                    Way::Add(_) => return,
                }
                self.fed.store(fed + count, SeqCst);
            }
            std::thread::sleep(TICK);
        }
    }

    fn kind(&self, number: u64) -> Kind {
        let asked = lock(&self.asked).pop();
        let word = asked.or_else(|| (number % BAD == BAD - 1).then_some("reject"));
        let Some(word) = word else { return Kind::Good };
        lock(&self.bad).add(number);
        Kind::Bad(word)
    }

    /// Publish them. Where the answer is lost they may have reached somebody.
    fn publish(
        &self,
        client: &redis::Client,
        connection: &mut Option<redis::Connection>,
        channel: &str,
        batch: &[(u64, Kind)],
    ) {
        if connection.is_none() {
            *connection = client.get_connection().ok();
        }
        let Some(open) = connection else { return };
        let mut pipe = redis::pipe();
        for (number, kind) in batch {
            pipe.cmd("PUBLISH").arg(channel).arg(message::payload(*number, *kind));
        }
        let answer = pipe.query::<Vec<u64>>(open);
        if answer.is_err() {
            *connection = None;
        }
        for (place, (number, _)) in batch.iter().enumerate() {
            if answer.as_ref().is_ok_and(|listeners| listeners[place] == 0) {
                continue;
            }
            lock(&self.reached).add(*number);
        }
    }

    /// Add them all, as one transaction: either all of them are in, or none. Tries until they are;
    /// false when nobody wants to know.
    fn add(
        &self,
        client: &redis::Client,
        connection: &mut Option<redis::Connection>,
        stream: &str,
        batch: &[(u64, Kind)],
    ) -> bool {
        let mut pipe = redis::pipe();
        pipe.atomic();
        for (number, kind) in batch {
            let payload = message::payload(*number, *kind);
            let add = pipe.cmd("XADD").arg(stream).arg(message::id(*number));
            add.arg("payload").arg(payload).ignore();
        }
        while !self.gone.load(SeqCst) {
            if connection.is_none() {
                *connection = client.get_connection().ok();
            }
            if let Some(open) = connection {
                match pipe.query::<()>(open) {
                    Ok(()) => return true,
                    // They had gone in, and only the answer was lost.
                    Err(e) if e.to_string().contains("equal or smaller") => return true,
                    Err(e) if e.code().is_some() => {}
                    Err(_) => *connection = None,
                }
            }
            std::thread::sleep(PAUSE);
        }
        false
    }
}
