//! What a turn is about, from the messages that are taken to the last that has come out.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::{Channel, MESSAGE_TARGET};
use crate::broker::single::Hold;
use crate::chain::{Chain, Convoy, Transit};
use crate::failpoint::{Step, reach};
use crate::message::Message;
use crate::queue::{Batch, Received};
use crate::tap::{Look, Tap};

/// Messages and bytes that one turn takes, more or less.
const MOST: usize = 128;
const MOST_BYTES: usize = 256 << 10;

/// A turn of several channels that takes longer than this shows that their handlers are slow: from
/// then on it is for those only whose messages have been begun.
const SLOW: Duration = Duration::from_millis(5);

/// What a turn needs and leaves to the next one, of whatever channels: room for the messages.
#[derive(Default)]
pub struct Desk {
    /// For each channel of the turn its batch, and how many messages that was.
    batches: Vec<(Batch, usize)>,
    /// Batches that belong to this turn: those behind them are there for their memory.
    taken: usize,
    convoy: Convoy,
    kept: VecDeque<Kept>,
    /// The batch whose messages come out next.
    of: usize,
    began: Option<Instant>,
    /// When the turn took its messages, where each of them is to be logged.
    traced: Option<Instant>,
    /// Whether anybody looks on at any of it, and who at which messages, in the order of these.
    is_tapped: bool,
    looks: Vec<(usize, Look)>,
}

/// What is kept of a message while it is on its way.
#[derive(Default)]
pub(super) struct Kept {
    /// As it came, where it may be tried again or become a dead letter.
    pub(super) original: Option<Message>,
    pub(super) entry: Option<Hold>,
    pub(super) order: u64,
    pub(super) number: u64,
    /// What became of it, in a word.
    pub(super) became: &'static str,
    /// Who looks on.
    pub(super) looks: Vec<Look>,
}

impl Desk {
    /// Begin a turn of some channels whose chains are alike: take a batch of each, as long as there
    /// is room. Answers for how many of them there was.
    pub fn begin(&mut self, channels: &[&Channel]) -> usize {
        let Desk { batches, taken, convoy, kept, of, began, traced, is_tapped, looks } = self;
        (*taken, *of) = (0, 0);
        convoy.clear();
        kept.clear();
        looks.clear();
        *is_tapped = false;
        // One that is alone has nobody to hold up.
        *began = (channels.len() > 1).then(Instant::now);
        // Asked once a turn: a message itself costs nothing while it isn't wanted.
        let wanted = tracing::enabled!(target: MESSAGE_TARGET, tracing::Level::DEBUG);
        *traced = wanted.then(Instant::now);
        let mut bytes = 0;
        while *taken < channels.len() && convoy.len() < MOST && bytes < MOST_BYTES {
            if *taken == batches.len() {
                batches.push(Default::default());
            }
            let (batch, count) = &mut batches[*taken];
            let channel = channels[*taken];
            channel.queue.take(batch);
            bytes += batch.bytes();
            let before = convoy.len();
            let tapped = channel.tap.is_on();
            let keeps = channel.keeps_messages() || (tapped && channel.tap.wants_failures());
            convoy.extend(batch.drain().map(|received| {
                let dropped = received.entry.as_ref().is_some_and(Hold::is_dropped);
                if received.entry.is_some() {
                    reach(Step::Begun);
                }
                let Received { message, delivery, entry, order, number } = received;
                let original = keeps.then(|| message.clone());
                kept.push_back(Kept { original, entry, order, number, ..Kept::default() });
                // Nothing goes through the chain then.
                if dropped { Transit::ended(delivery) } else { Transit::new(delivery, message) }
            }));
            *count = convoy.len() - before;
            *taken += 1;
            if tapped {
                *is_tapped = true;
                look(&channel.tap, convoy, before, looks);
            }
        }
        *taken
    }

    /// Handle what was taken. What comes out is written, and goes out when `flush` is called: here
    /// that is done only when something takes its time, which must not hold back what others have
    /// finished before it.
    ///
    /// `None` when all is done. When the turn turns out to be slow: from which of the channels on
    /// nothing has been begun, whose messages are in their queues again; go on with those before it.
    pub async fn work(&mut self, channels: &[&Channel], flush: impl Fn()) -> Option<usize> {
        let mut waited = false;
        while let Some(arrived) =
            advance(&channels[0].chain, &mut self.convoy, &flush, &mut waited).await
        {
            let arrived = arrived.len();
            let mut place = self.convoy.out() - arrived;
            // Fewer than have arrived when some were put back.
            while place < self.convoy.out() {
                while self.batches[self.of].0.is_done() {
                    self.of += 1;
                }
                let channel = channels[self.of];
                let mut kept = self.kept.pop_front().unwrap_or_default();
                if self.is_tapped {
                    channel.tap.passed();
                    kept.looks = self.looks_at(place);
                }
                let transit = self.convoy.at(place);
                let again = channel.arrived(transit, &mut kept, &flush, &mut waited).await;
                if let Some(again) = again {
                    if channel.queue.workers() > 1 {
                        self.put_back(place + 1, Some(kept.order));
                    }
                    let transit = self.convoy.at(place);
                    if !channel.again(transit, &mut kept, again, &flush, &mut waited).await {
                        self.kept.push_front(kept);
                        self.put_back(place, None);
                        break;
                    }
                }
                if let Some(since) = self.traced {
                    channel.trace(self.convoy.at(place), kept.became, since.elapsed());
                }
                // What came out is not kept until the turn is over.
                self.convoy.at(place).outcome = Ok(Vec::new());
                self.batches[self.of].0.done(1);
                place += 1;
            }
            // What is not begun yet of a stream that is being stopped goes back to it.
            if channels[0].is_stopping_stream() {
                self.kept.clear();
                self.batches.iter_mut().for_each(|(batch, _)| batch.give_back());
                break;
            }
            if self.began.is_some_and(|began| began.elapsed() >= SLOW)
                && let Some(from) = self.give_back()
            {
                return Some(from);
            }
        }
        if waited {
            flush();
        }
        None
    }

    /// Bytes of what came out and is still kept.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.convoy.held()
    }

    /// Who looks on at the message of this place, which comes out now.
    fn looks_at(&mut self, place: usize) -> Vec<Look> {
        let from = self.looks.partition_point(|(other, _)| *other < place);
        let to = self.looks.partition_point(|(other, _)| *other <= place);
        self.looks.drain(..to).skip(from).map(|(_, look)| look).collect()
    }

    /// What is in this place and behind it waits in the queue again, as it came. A message `stays`
    /// that is tried again; a channel that tries again has its turns alone.
    fn put_back(&mut self, place: usize, stays: Option<u64>) {
        let transits = self.convoy.cut(place);
        self.looks.retain(|(other, _)| *other < place);
        debug_assert_eq!(transits.len(), self.kept.len(), "of one channel");
        let received = |(transit, kept): (Transit, Kept)| Received {
            message: kept.original.unwrap_or_default(),
            delivery: transit.delivery,
            entry: kept.entry,
            order: kept.order,
            number: kept.number,
        };
        let messages = transits.into_iter().zip(self.kept.drain(..)).map(received).collect();
        self.batches[self.of].0.put_back(messages, stays);
    }

    /// Put the batches of which nothing has been begun back into their queues; answers the first.
    fn give_back(&mut self) -> Option<usize> {
        let begun = self.convoy.begun();
        let mut start = 0;
        let is_untouched = |(_, count): &(Batch, usize)| {
            let untouched = start >= begun;
            start += if untouched { 0 } else { *count };
            untouched
        };
        let from = self.batches[..self.taken].iter().position(is_untouched)?;
        let transits = self.convoy.split_off(start);
        self.looks.retain(|(place, _)| *place < start);
        let kept = self.kept.split_off(self.kept.len() - transits.len());
        let received = |(transit, kept): (Transit, Kept)| {
            let message = transit.outcome.ok().and_then(|mut messages| messages.pop());
            let (message, delivery) = (message.unwrap_or_default(), transit.delivery);
            let Kept { entry, order, number, .. } = kept;
            Received { message, delivery, entry, order, number }
        };
        let mut messages = transits.into_iter().zip(kept).map(received);
        for (batch, count) in &mut self.batches[from..self.taken] {
            batch.put_back(messages.by_ref().take(*count).collect(), None);
        }
        self.taken = from;
        Some(from)
    }
}

/// Have those who look on see what they are to see of the messages from this place on.
fn look(tap: &Tap, convoy: &mut Convoy, from: usize, looks: &mut Vec<(usize, Look)>) {
    for (place, client) in tap.choose(convoy.len() - from) {
        let place = from + place;
        let Some((delivery, message)) = convoy.waiting(place) else { continue };
        let look = Look::new(client, delivery, message);
        convoy.observe(place, look.observer());
        looks.push((place, look));
    }
}

/// Take the convoy further; flush when that has to wait.
async fn advance<'c>(
    chain: &Chain,
    convoy: &'c mut Convoy,
    flush: &impl Fn(),
    waited: &mut bool,
) -> Option<&'c mut [Transit]> {
    let mut advance = pin!(chain.advance(convoy));
    let mut flushed = false;
    poll_fn(|cx| match advance.as_mut().poll(cx) {
        Poll::Pending => {
            if !flushed {
                flush();
                flushed = true;
                *waited = true;
            }
            Poll::Pending
        }
        ready => ready,
    })
    .await
}
