//! The crew: who does the channels' work. A few hands for all channels together, so that a channel
//! that has nothing to do costs nothing, and one message of it little.
//!
//! A queue that gets messages is put on the list of those that are ready, once for each worker that
//! its channel may have at a time. A hand takes channels from the list and gives them a turn (one
//! batch each); those with the same handlers go through them together, as long as these are quick.
//! A turn that has to wait (a plugin that computes for long, a Redis that doesn't take more) goes on
//! as a task of its own, and the hand goes on with the others; one of channels that do so again and
//! again is such a task from the beginning. Built and started by the daemon, which may exchange
//! channels at any time: a turn that has begun ends with the channels it began with, and at once where
//! it would try a message again.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};
use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, ReusableBoxFuture};

use crate::broker::stream::Finisher;
use crate::broker::writer::Writer;
use crate::heartbeat::Beat;
use crate::worker::{Channel, Desk};

/// After so long a hand lets other tasks have its thread. Most handlers answer without ever
/// waiting, so nothing else would make it; and one of the other tasks reads from Redis, which cuts
/// a subscriber who leaves a few megabytes unread.
const STINT: Duration = Duration::from_millis(1);

/// And after so long at most where it had to wait for its thread: plugins that compute had that, and it
/// is the hand's for as long as half of what they had. It works for all who are quick.
const LONGEST_STINT: Duration = Duration::from_millis(8);

/// Channels that a hand takes from the list at once.
const TAKEN: usize = 32;

/// Turns for which channels whose handlers have been slow don't share one.
const ALONE: usize = 1000;

/// Turns for which channels that have held up hands have tasks of their own from the beginning: a hand would
/// begin each of them only to be held up until its plugin is made to give way.
const APART: usize = 100;

/// So many turns in a row must have done so. A thread that the machine gives to others for a while looks
/// the same, but seldom in turn after turn.
const HELD_UP: usize = 3;

/// A turn that was done after so long has held up its hand; one that wasn't has after a stint.
const LONG: Duration = Duration::from_millis(4);

/// The channels and the list of those that have messages.
pub struct Crew {
    roll: ArcSwap<Roll>,
    /// How many there are that [`Self::work`].
    hands: usize,
    list: Mutex<List>,
    wake: Notify,
    idle: Notify,
    /// Turns that exist; and that one of them is gone.
    under_way: AtomicUsize,
    gone: Notify,
}

/// Who is there, until somebody comes or goes.
#[derive(Default)]
struct Roll {
    /// A channel keeps its place; that of one that is gone may become another's.
    places: Vec<Option<Arc<Channel>>>,
    /// For each place, another place in `records`: the same for channels whose chains are alike.
    kinds: Vec<usize>,
    /// For each kind of chain, how its turns went.
    records: Vec<Record>,
    /// What the channels write by, each once.
    writers: Vec<Writer>,
    finishers: Vec<Finisher>,
}

/// How the turns of channels went whose chains are alike. Hands that look at the same time may count one
/// more or less.
#[derive(Default)]
struct Record {
    /// For how many turns they don't share one.
    alone: AtomicUsize,
    /// For how many turns no hand begins theirs.
    apart: AtomicUsize,
    /// Turns in a row that held up a hand.
    held_up: AtomicUsize,
}

impl Record {
    /// Whether the next turn is for one of them alone.
    fn is_alone(&self) -> bool {
        counted_down(&self.alone)
    }

    /// Whether no hand is to begin the next turn.
    fn is_apart(&self) -> bool {
        counted_down(&self.apart)
    }

    /// A turn was so slow that others had to wait which shared it.
    fn set_alone(&self) {
        self.alone.store(ALONE, Relaxed);
    }

    /// A hand has had a turn for so long, until it was done or had to wait.
    fn took(&self, time: Duration, is_done: bool) {
        let before = self.held_up.load(Relaxed);
        if time >= if is_done { LONG } else { STINT } {
            let times = (before + 1) % HELD_UP;
            self.held_up.store(times, Relaxed);
            if times == 0 {
                self.apart.store(APART, Relaxed);
            }
        } else if is_done && before != 0 {
            self.held_up.store(0, Relaxed);
        }
    }
}

/// One less, unless there is none left.
fn counted_down(count: &AtomicUsize) -> bool {
    let left = count.load(Relaxed);
    if left > 0 {
        count.store(left - 1, Relaxed);
    }
    left > 0
}

impl Roll {
    fn new(places: Vec<Option<Arc<Channel>>>) -> Roll {
        let kinds = kinds(&places);
        let records = places.iter().map(|_| Record::default()).collect();
        let channels = || places.iter().flatten();
        let finishers = channels().filter_map(|channel| channel.finisher.clone()).collect();
        let mut writers: Vec<Writer> = Vec::new();
        for writer in channels().flat_map(|channel| channel.outputs.writers()) {
            if !writers.iter().any(|known| known.is(writer)) {
                writers.push(writer.clone());
            }
        }
        Roll { places, kinds, records, writers, finishers }
    }

    /// The channel of a place that is on the list or has a turn: it is there as long as that is so.
    fn channel(&self, place: usize) -> &Channel {
        self.places[place].as_deref().expect("a channel with turns keeps its place")
    }

    fn channels(&self) -> impl Iterator<Item = &Arc<Channel>> {
        self.places.iter().flatten()
    }

    /// The channels of the next turn: the first one, and those of its kind that come next.
    fn choose(&self, places: &mut VecDeque<usize>, chosen: &mut Vec<usize>) {
        let Some(first) = places.pop_front() else { return };
        chosen.push(first);
        if self.record(first).is_alone() {
            return;
        }
        let kind = self.kinds[first];
        // A channel with several workers may be there several times: each has a turn of its own.
        while let Some(next) =
            places.pop_front_if(|place| self.kinds[*place] == kind && !chosen.contains(place))
        {
            chosen.push(next);
        }
    }

    /// How the turns went of those that are like the channel of this place.
    fn record(&self, place: usize) -> &Record {
        &self.records[self.kinds[place]]
    }

    /// What the turns have written goes out.
    fn flush(&self) {
        self.writers.iter().for_each(Writer::flush);
        self.finishers.iter().for_each(Finisher::flush);
    }
}

#[derive(Default)]
struct List {
    /// Places of the roll.
    ready: VecDeque<usize>,
    /// Turns on the list or under way.
    turns: usize,
    /// Hands that wait for the list to have something.
    asleep: usize,
}

impl Crew {
    /// A crew of so many hands, for no channel yet.
    pub fn new(hands: usize) -> Arc<Crew> {
        let (roll, list, wake, idle, under_way, gone) = Default::default();
        Arc::new(Crew { roll, hands, list, wake, idle, under_way, gone })
    }

    /// From now on work for these, too, and in the places of some others for those that succeed
    /// them (with the same queue). All at once, between two turns; what is being tried again goes back
    /// into the queue for its next turn. Answers the places of those that were added.
    pub fn change(
        self: &Arc<Self>,
        added: Vec<Arc<Channel>>,
        successors: Vec<(usize, Arc<Channel>)>,
    ) -> Vec<usize> {
        let mut places = self.roll.load().places.clone();
        let mut retired = Vec::with_capacity(successors.len());
        for (place, channel) in successors {
            let before = places[place].replace(channel.clone());
            debug_assert!(before.as_ref().is_some_and(|b| Arc::ptr_eq(&b.queue, &channel.queue)));
            if let Some(before) = before {
                before.mended.store(!before.chain.has_handlers_of(&channel.chain), Relaxed);
                retired.push(before);
            }
        }
        let mut new = Vec::with_capacity(added.len());
        let mut free = 0;
        for channel in &added {
            while places.get(free).is_some_and(Option::is_some) {
                free += 1;
            }
            match places.get_mut(free) {
                Some(place) => *place = Some(channel.clone()),
                None => places.push(Some(channel.clone())),
            }
            new.push(free);
        }
        self.roll.store(Arc::new(Roll::new(places)));
        // Not before the next turn is its successor's.
        retired.iter().for_each(|channel| channel.retired.cancel());
        // Nobody is told of messages before there is a place to find them.
        for (place, channel) in new.iter().copied().zip(&added) {
            let crew = Arc::downgrade(self);
            channel.queue.on_ready(Box::new(move || {
                if let Some(crew) = crew.upgrade() {
                    crew.enlist(place);
                }
            }));
        }
        new
    }

    /// Work no longer for the channels of these places, whose queues were closed and have ended.
    pub fn vacate(&self, free: &[usize]) {
        if free.is_empty() {
            return;
        }
        let mut places = self.roll.load().places.clone();
        free.iter().for_each(|place| places[*place] = None);
        while places.last().is_some_and(Option::is_none) {
            places.pop();
        }
        self.roll.store(Arc::new(Roll::new(places)));
    }

    /// Who is at this place now.
    pub fn channel(&self, place: usize) -> Option<Arc<Channel>> {
        self.roll.load().places.get(place).cloned().flatten()
    }

    /// Take no messages any more: what waits is handled, and then there is nothing to do.
    pub fn close(&self) {
        self.roll.load().channels().for_each(|channel| channel.queue.close());
    }

    /// The same for streams only: what waits of them is given back to its source, and is not lost.
    pub fn close_streams(&self) {
        let roll = self.roll.load();
        let streams = roll.channels().filter(|channel| channel.finisher.is_some());
        streams.for_each(|channel| channel.queue.close());
    }

    /// Drop what still waits, as `shutdown`.
    pub fn abandon(&self) {
        self.roll.load().channels().for_each(|channel| channel.queue.abandon());
    }

    /// Wait until no message waits or is being handled.
    pub async fn idle(&self) {
        loop {
            let idle = self.idle.notified();
            if self.list().turns == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Wait until no turn is left of those that a hand had begun which was dropped: only then has all
    /// that they had in hand been counted.
    pub async fn dissolved(&self) {
        loop {
            let gone = self.gone.notified();
            if self.under_way.load(SeqCst) == 0 {
                return;
            }
            gone.await;
        }
    }

    /// Be a hand: work until stopped. The turns that it began and that still have to wait are
    /// dropped with it.
    pub async fn work(self: Arc<Self>, beat: Beat, stop: CancellationToken) {
        let mut waiting = JoinSet::new();
        let nothing = || ReusableBoxFuture::new(std::future::ready(Table::default()));
        let mut turn = nothing();
        let mut table = Table::default();
        let mut taken = Taken { crew: &self, places: VecDeque::with_capacity(TAKEN) };
        let (mut began, mut stint) = (Instant::now(), STINT);
        // When the turn before has ended.
        let mut since = began;
        let mut roll = Cache::new(&self.roll);
        loop {
            beat.answer();
            while waiting.try_join_next().is_some() {}
            if !self.take(&mut taken.places) {
                roll.load().flush();
                tokio::select! {
                    () = self.wait() => {}
                    () = beat.asked() => {}
                    () = stop.cancelled() => return,
                }
                (began, stint) = (Instant::now(), STINT);
                since = began;
            }
            while !taken.places.is_empty() {
                let roll = roll.load();
                let mut next = Turn::new(&self, roll, std::mem::take(&mut table));
                roll.choose(&mut taken.places, &mut next.table.places);
                let record = roll.record(next.table.places[0]);
                let now = if record.is_apart() {
                    let roll = roll.clone();
                    // No hand does it for a turn that never waits.
                    waiting.spawn(async move {
                        next.run().await;
                        roll.flush();
                    });
                    Instant::now()
                } else {
                    turn.set(next.run());
                    let used = std::future::poll_fn(|cx| Poll::Ready(turn.poll(cx))).await;
                    let (now, is_done) = (Instant::now(), used.is_ready());
                    record.took(now - since, is_done);
                    match used {
                        Poll::Ready(used) => table = used,
                        Poll::Pending => {
                            let turn = std::mem::replace(&mut turn, nothing());
                            waiting.spawn(async move { drop(turn.await) });
                        }
                    }
                    now
                };
                since = now;
                if now - began >= stint {
                    roll.flush();
                    tokio::task::yield_now().await;
                    began = Instant::now();
                    stint = ((began - now) / 2).clamp(STINT, LONGEST_STINT);
                    since = began;
                }
            }
        }
    }

    /// Take channels from the list, and leave the other hands their share; `false` when there are
    /// none.
    fn take(&self, places: &mut VecDeque<usize>) -> bool {
        let asleep = {
            let mut list = self.list();
            let taken = list.ready.len().div_ceil(self.hands).min(TAKEN);
            places.extend(list.ready.drain(..taken));
            list.asleep > 0 && !list.ready.is_empty()
        };
        if asleep {
            self.wake.notify_one();
        }
        !places.is_empty()
    }

    /// The other way round: before those that have come on the list meanwhile.
    fn put_back(&self, places: &mut VecDeque<usize>) {
        let asleep = {
            let mut list = self.list();
            while let Some(place) = places.pop_back() {
                list.ready.push_front(place);
            }
            list.asleep > 0 && !list.ready.is_empty()
        };
        if asleep {
            self.wake.notify_one();
        }
    }

    async fn wait(&self) {
        {
            let mut list = self.list();
            if !list.ready.is_empty() {
                return;
            }
            list.asleep += 1;
        }
        let _asleep = Asleep(self);
        // A call that comes before this is waited for is kept.
        self.wake.notified().await;
    }

    /// Put a channel on the list, for a new turn.
    fn enlist(&self, place: usize) {
        let asleep = {
            let mut list = self.list();
            list.ready.push_back(place);
            list.turns += 1;
            list.asleep > 0
        };
        if asleep {
            self.wake.notify_one();
        }
    }

    /// The turns of these channels have ended; those that have messages left get another one.
    fn end_turns(&self, roll: &Roll, places: &mut Vec<usize>) {
        let turns = places.len();
        places.retain(|place| roll.channel(*place).queue.end_turn());
        let (none_left, asleep) = {
            let mut list = self.list();
            list.turns -= turns - places.len();
            list.ready.extend(places.drain(..));
            (list.turns == 0, list.asleep > 0 && !list.ready.is_empty())
        };
        if asleep {
            self.wake.notify_one();
        }
        if none_left {
            self.idle.notify_waiters();
        }
    }

    /// A lock whose holder panicked is still good: it is held for single steps only.
    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A hand that waits for the list to have something, or for whatever else it is woken by.
struct Asleep<'c>(&'c Crew);

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        self.0.list().asleep -= 1;
    }
}

/// For each place the number of its channel's kind: the first place whose chain is alike.
fn kinds(places: &[Option<Arc<Channel>>]) -> Vec<usize> {
    let mut known = HashMap::new();
    let kind = |(place, channel): (usize, &Option<Arc<Channel>>)| match channel
        .as_ref()
        .and_then(|channel| channel.kind())
    {
        Some(kind) => *known.entry(kind).or_insert(place),
        None => place,
    };
    places.iter().enumerate().map(kind).collect()
}

/// Channels that a hand has taken from the list and not begun. They go back to it with the hand,
/// however that ends: nobody else would ever give them their turn.
struct Taken<'c> {
    crew: &'c Crew,
    places: VecDeque<usize>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.crew.put_back(&mut self.places);
    }
}

/// What a turn is about, and what it needs.
#[derive(Default)]
struct Table {
    places: Vec<usize>,
    desk: Desk,
}

/// A turn of some channels. When it is dropped, whatever happened, they may have their next one.
struct Turn {
    crew: Arc<Crew>,
    /// As it was when the turn began.
    roll: Arc<Roll>,
    table: Table,
    /// The last to be dropped.
    _under_way: UnderWay,
}

/// One turn more, as long as it lives.
struct UnderWay(Arc<Crew>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, SeqCst);
        self.0.gone.notify_waiters();
    }
}

impl Turn {
    fn new(crew: &Arc<Crew>, roll: &Arc<Roll>, table: Table) -> Self {
        crew.under_way.fetch_add(1, SeqCst);
        let _under_way = UnderWay(crew.clone());
        Turn { crew: crew.clone(), roll: roll.clone(), table, _under_way }
    }

    async fn run(mut self) -> Table {
        let Turn { crew, roll, table: Table { places, desk }, .. } = &mut self;
        let mut channels: Vec<&Channel> = places.iter().map(|place| roll.channel(*place)).collect();
        let turn = async {
            let mut with = desk.begin(&channels);
            loop {
                // Those for which there is no room, or no time, have their next turn now.
                if with < places.len() {
                    crew.end_turns(roll, &mut places.split_off(with));
                    channels.truncate(with);
                }
                match desk.work(&channels, || roll.flush()).await {
                    None => break,
                    Some(from) => {
                        roll.record(places[0]).set_alone();
                        with = from;
                    }
                }
            }
        };
        if AssertUnwindSafe(turn).catch_unwind().await.is_err() {
            tracing::error!(
                channel = &*channels[0].name,
                "handling messages failed by a fault of handlerd's own; the channel goes on"
            );
            // What it had in hand is counted when it is dropped; what it had handed over goes out.
            *desk = Desk::default();
            roll.flush();
        }
        crew.end_turns(roll, places);
        std::mem::take(&mut self.table)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.table.places.is_empty() {
            self.crew.end_turns(&self.roll, &mut self.table.places);
        }
    }
}

#[cfg(test)]
mod tests;
