//! What becomes of a message that has come to the end of its way, or has failed on it: it is handed to
//! the outputs, tried again, or given up. `desk`: a turn, from the messages it takes to the last one.
//!
//! Called by the crew, for as many turns at a time as the channel has workers; one keeps the order.
//! A message's failure is counted and logged here and never ends anything.

mod desk;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio_util::sync::CancellationToken;

use crate::broker::single::Hold;
use crate::broker::stream::{AppendError, Finish, Finisher, Unfit, UnfitKind};
use crate::chain::{Chain, Failure, FailureKind, Outcome, Transit};
use crate::dead_letter::{Blame, DeadLetter};
use crate::failpoint::{Step, reach};
use crate::message::{Delivery, Message};
use crate::output::Outputs;
use crate::policy::{self, Verdict};
use crate::queue::Queue;
use crate::tap::{Failed, Look, Tap, Then};
use crate::telemetry::{DropReason, Metrics, OUTPUTS, RateLimit, printable};

pub use self::desk::Desk;
use self::desk::Kept;

/// Bytes of a failure's reason that a log line shows at most.
const LOGGED_REASON: usize = 4 << 10;

/// What the workers of one channel share.
pub struct Channel {
    /// NAME.
    pub name: Arc<str>,
    /// Where the messages wait.
    pub queue: Arc<Queue>,
    /// What handles them.
    pub chain: Chain,
    /// Where what comes out goes.
    pub outputs: Outputs,
    /// What finishes the entries of a stream; none for pub/sub.
    pub finisher: Option<Finisher>,
    /// When a message is tried again.
    pub policy: policy::Settings,
    /// Where what is given up is kept.
    pub graveyard: Option<Graveyard>,
    /// Where failures are counted.
    pub metrics: Arc<Metrics>,
    /// A broken handler can't fill the log.
    pub failure_log: RateLimit,
    /// Another one goes on in this one's place, with the same queue: what is tried again is tried by
    /// that one.
    pub retired: CancellationToken,
    /// And that one has other handlers.
    pub mended: AtomicBool,
    /// Where others look on.
    pub tap: Arc<Tap>,
}

/// The stream of a channel's dead letters.
#[derive(Clone)]
pub struct Graveyard {
    /// Its key, on the connection `[redis]`.
    pub stream: Arc<str>,
    /// About how many are kept; `None` keeps all.
    pub maxlen: Option<u64>,
}

/// The target of the line that each message has at the level debug.
const MESSAGE_TARGET: &str = "handlerd::message";

/// Why what came out was not handed over.
enum NotHanded {
    /// It can't be.
    Unfit(AppendError),
    /// The channel that goes on in this one's place handles it anew.
    Retired,
}

/// A message is tried again.
struct Again {
    /// After this.
    pause: Duration,
    /// The handler has asked for that: sooner is of no use.
    is_asked: bool,
    /// It has been tried so often here.
    tries: u32,
    /// When the first of these failed.
    failing: Instant,
}

/// Why a pause before the next try has ended.
enum Woken {
    /// It is over.
    TimeIsUp,
    /// The stream is being stopped: the message goes back to it.
    StreamStops,
    /// Another channel goes on in this one's place.
    Retired,
}

impl Channel {
    /// Whether messages are kept until they are done with.
    fn keeps_messages(&self) -> bool {
        self.may_try_again() || self.graveyard.is_some() || self.goes_abroad()
    }

    /// What is equal for the channels that may share a turn: those with the same handlers that write
    /// to the same Redises, or else one that is away would stop those that don't write to it. `None`
    /// where messages may have to wait for one before them, which is no other channel's affair.
    pub fn kind(&self) -> Option<(Vec<usize>, Vec<Arc<str>>)> {
        let alone = self.finisher.is_some() || self.may_try_again();
        let handlers = self.chain.kind().filter(|_| !alone)?;
        Some((handlers, self.outputs.writers().map(|writer| writer.name().clone()).collect()))
    }

    /// Whether a stream's messages go to other Redises too: they wait for those.
    fn goes_abroad(&self) -> bool {
        self.finisher.is_some() && self.outputs.go_abroad()
    }

    /// Whether a message that fails may be tried again: then those behind it wait.
    fn may_try_again(&self) -> bool {
        self.policy.retries != policy::Retries::Times(0)
    }

    /// Whether it is a stream's, and nothing more of that is to be begun.
    fn is_stopping_stream(&self) -> bool {
        self.finisher.is_some() && self.queue.is_closed()
    }

    /// What was handed over goes out now.
    pub fn flush(&self) {
        self.outputs.flush();
        if let Some(finisher) = &self.finisher {
            finisher.flush();
        }
    }

    /// A message has come to the end of its way, or has failed on it; then answers whether and when
    /// it is tried again.
    async fn arrived(
        &self,
        transit: &mut Transit,
        kept: &mut Kept,
        flush: &impl Fn(),
        waited: &mut bool,
    ) -> Option<Again> {
        if kept.entry.is_none() && !self.outputs.has_room() {
            flush();
            *waited = true;
            tokio::select! {
                () = self.outputs.room() => {}
                // Its Redis is given up, perhaps: what is in hand is written all the same.
                () = self.retired.cancelled() => {}
            }
        }
        self.tried(transit, kept, 0, None, waited).await
    }

    /// What became of a try. `before` it there were so many, of which the first failed then.
    async fn tried(
        &self,
        transit: &Transit,
        kept: &mut Kept,
        before: u32,
        failing: Option<Instant>,
        waited: &mut bool,
    ) -> Option<Again> {
        // What is written in one step with its being done is handled when that is written.
        let handled = u64::from(kept.entry.is_none());
        let dropped = kept.entry.as_ref().is_some_and(Hold::is_dropped);
        let failure = match &transit.outcome {
            Ok(messages) => match self.hand_over(&transit.delivery, messages, kept, waited).await {
                Ok(()) => {
                    self.queue.metrics().handled.add(handled);
                    kept.became = if dropped { "dropped" } else { "handled" };
                    for look in &kept.looks {
                        let to = |m: &Message| self.outputs.destinations(&transit.delivery, m);
                        look.went_out(&self.tap, messages, to);
                    }
                    return None;
                }
                Err(NotHanded::Unfit(error)) => self.not_appended(&error),
                Err(NotHanded::Retired) => {
                    let failing = failing.unwrap_or_else(Instant::now);
                    return Some(Again {
                        pause: Duration::ZERO,
                        is_asked: false,
                        tries: before,
                        failing,
                    });
                }
            },
            Err(failure) => failure.clone(),
        };
        self.metrics.failure(&failure.handler, failure.kind);
        // Tries in this place: those of earlier deliveries are the affair of `max_deliveries`.
        let tries = before.saturating_add(1);
        let failing = failing.unwrap_or_else(Instant::now);
        let pause = self.pause(&transit.delivery, &failure, tries, failing.elapsed());
        let then = match pause {
            Some(_) => Then::Again,
            None if self.graveyard.is_some() => Then::DeadLetter,
            None => Then::Dropped,
        };
        let failed = || Failed::new(&failure, then);
        self.tap.failed(&transit.delivery, kept.original.as_ref(), failed, &kept.looks);
        match pause {
            Some(pause) => {
                self.say(&transit.delivery, &failure, "a message failed and is tried again");
                let is_asked = matches!(failure.kind, FailureKind::Retry { after: Some(_) });
                Some(Again { pause, is_asked, tries, failing })
            }
            None => {
                kept.became = self.give_up(&transit.delivery, std::mem::take(kept), failure);
                None
            }
        }
    }

    /// Try a message that failed until it doesn't, or is given up; `false` when the next try is that
    /// of the channel which goes on in this one's place.
    async fn again(
        &self,
        transit: &mut Transit,
        kept: &mut Kept,
        mut again: Again,
        flush: &impl Fn(),
        waited: &mut bool,
    ) -> bool {
        loop {
            let Delivery { attempt, .. } = *transit.delivery;
            let next =
                Delivery { attempt: attempt.saturating_add(1), ..(*transit.delivery).clone() };
            transit.delivery = Arc::new(next);
            flush();
            *waited = true;
            match self.sleep(again.pause, again.is_asked).await {
                Woken::TimeIsUp => {}
                Woken::StreamStops => {
                    kept.became = "given back";
                    return true;
                }
                Woken::Retired => return false,
            }
            let message = kept.original.clone().unwrap_or_default();
            transit.outcome = self.run_again(&transit.delivery, message, &kept.looks).await;
            let Again { tries, failing, .. } = again;
            match self.tried(transit, kept, tries, Some(failing), waited).await {
                Some(next) => again = next,
                None => return true,
            }
        }
    }

    /// Pass a message through the chain once more, by itself.
    async fn run_again(
        &self,
        delivery: &Arc<Delivery>,
        message: Message,
        looks: &[Look],
    ) -> Outcome {
        looks.iter().for_each(|look| look.begin(delivery, &message));
        let mut since = Instant::now();
        let observe = |handler: &str, messages: &[Message]| {
            let now = Instant::now();
            let took = now - std::mem::replace(&mut since, now);
            looks.iter().for_each(|look| look.hop(handler, took, Some(messages)));
        };
        self.chain.run_observed(delivery, message, observe).await
    }

    /// Wait before the next try. A pause that `is_asked` for is ended by other handlers only.
    async fn sleep(&self, pause: Duration, is_asked: bool) -> Woken {
        const LOOK: Duration = Duration::from_millis(100);
        let until = Instant::now() + pause;
        let mut stays = false;
        loop {
            if self.is_stopping_stream() {
                return Woken::StreamStops;
            }
            let left = until.saturating_duration_since(Instant::now());
            // Of pub/sub there is nothing to look for.
            let look = if self.finisher.is_some() { left.min(LOOK) } else { left };
            tokio::select! {
                biased;
                () = self.retired.cancelled(), if !stays => {
                    if !is_asked || self.mended.load(Relaxed) {
                        return Woken::Retired;
                    }
                    stays = true;
                    continue;
                }
                () = tokio::time::sleep(look) => {}
            }
            if look == left {
                let is_retired = self.retired.is_cancelled();
                return if is_retired { Woken::Retired } else { Woken::TimeIsUp };
            }
        }
    }

    async fn hand_over(
        &self,
        delivery: &Delivery,
        messages: &[Message],
        kept: &mut Kept,
        waited: &mut bool,
    ) -> Result<(), NotHanded> {
        if kept.entry.is_none() {
            return self.outputs.send(delivery, messages).map_err(NotHanded::Unfit);
        }
        let finish = self.outputs.finish(delivery, messages).map_err(NotHanded::Unfit)?;
        if self.outputs.go_abroad() {
            *waited = true;
            // What was done before must not wait for a Redis that is perhaps away.
            self.flush();
            tokio::select! {
                biased;
                () = self.outputs.send_abroad(delivery, messages) => {}
                // Its Redis is given up, perhaps. Some of it may have arrived: at least once.
                () = self.retired.cancelled() => return Err(NotHanded::Retired),
            }
            reach(Step::FarWritten);
        }
        if let Some(entry) = kept.entry.take() {
            reach(Step::Handled);
            if !entry.has_room() {
                self.flush();
                *waited = true;
                entry.room().await;
            }
            entry.finish(finish);
            reach(Step::InLine);
        }
        Ok(())
    }

    /// How long to wait before the next try; `None` when there is none.
    fn pause(
        &self,
        delivery: &Delivery,
        failure: &Failure,
        tries: u32,
        since: Duration,
    ) -> Option<Duration> {
        let seed = std::ptr::from_ref(delivery).addr() as u64 ^ delivery.received_at;
        match self.policy.decide(failure.kind, tries, since, seed) {
            Verdict::Again { pause } => Some(pause),
            Verdict::GiveUp => None,
        }
    }

    fn not_appended(&self, error: &AppendError) -> Failure {
        Failure {
            handler: OUTPUTS.into(),
            kind: FailureKind::Output,
            reason: format!("it can't be appended to a stream: {error}"),
        }
    }

    /// A message will not be tried any more: a dead letter, or lost; answers which.
    fn give_up(&self, delivery: &Delivery, kept: Kept, failure: Failure) -> &'static str {
        let Kept { original, entry, .. } = kept;
        let Some(graveyard) = &self.graveyard else {
            self.say(delivery, &failure, "a message was dropped, its handler failed");
            if !entry.is_some_and(Hold::fail) {
                self.queue.metrics().lost(DropReason::Failed, 1);
            }
            return "dropped";
        };
        self.say(delivery, &failure, "a message becomes a dead letter");
        let original = original.unwrap_or_default();
        let blame = Blame::from(failure);
        let letter =
            DeadLetter::new(original, delivery, self.outputs.payload_field(), blame, now());
        self.bury(graveyard, letter, entry);
        "a dead letter"
    }

    fn bury(&self, graveyard: &Graveyard, letter: DeadLetter, entry: Option<Hold>) {
        let Graveyard { stream, maxlen } = graveyard;
        let Some(entry) = entry else {
            self.outputs.bury(stream, *maxlen, letter);
            return;
        };
        let fields = letter.fields();
        let owned = fields.iter().map(|(name, value)| (name.to_vec(), value.to_vec()));
        let mut finish = Finish::new();
        finish.dead_letter(stream.clone(), owned.collect(), *maxlen);
        entry.finish(finish);
        reach(Step::LetterInLine);
    }

    /// An entry of the stream that can't be handled.
    pub fn unfit(&self, unfit: Unfit) {
        let Unfit { kind, reason, payload, headers, delivery, entry } = unfit;
        self.queue.metrics().received.add(1);
        if let Some(suppressed) = self.failure_log.admit() {
            tracing::warn!(
                channel = &*self.name,
                kind = kind.as_str(),
                stream = %printable(delivery.redis_channel.as_bytes(), LOGGED_REASON),
                id = delivery.id.as_deref(),
                suppressed,
                "an entry can't be handled: {reason}"
            );
        }
        let message = Message { payload, ..Message::default() };
        if self.tap.is_on() {
            self.tap.passed();
            let (reason, kind) = (reason.clone(), kind.as_str().to_owned());
            let then = if self.graveyard.is_some() { Then::DeadLetter } else { Then::Dropped };
            let failed = || Failed { handler: None, kind, reason, then };
            self.tap.failed(&delivery, Some(&message), failed, &[]);
        }
        match &self.graveyard {
            Some(graveyard) => {
                let blame = Blame { handler: None, kind: kind.as_str().into(), reason };
                let mut letter =
                    DeadLetter::new(message, &delivery, self.outputs.payload_field(), blame, now());
                letter.headers = headers;
                self.bury(graveyard, letter, Some(entry.into()));
            }
            None => {
                let reason = match kind {
                    UnfitKind::TooLarge => DropReason::TooLarge,
                    UnfitKind::Name => DropReason::Name,
                    UnfitKind::NoPayload | UnfitKind::Crash => DropReason::Failed,
                };
                self.queue.metrics().lost(reason, 1);
                entry.finish(Finish::new());
            }
        }
        self.flush();
    }

    /// Log what became of a message, after this time since it was taken from its queue.
    fn trace(&self, transit: &Transit, outcome: &str, took: Duration) {
        let Transit { delivery, outcome: came_out, .. } = transit;
        let failure = came_out.as_ref().err();
        tracing::debug!(
            target: MESSAGE_TARGET,
            channel = &*self.name,
            redis_channel = %printable(delivery.redis_channel.as_bytes(), LOGGED_REASON),
            id = delivery.id.as_deref(),
            handlers = %self.chain.names(),
            outcome,
            outputs = came_out.as_ref().map_or(0, Vec::len),
            failed_in = failure.map(|failure| &*failure.handler),
            kind = failure.map(|failure| failure.kind.as_str()),
            micros = took.as_micros() as u64,
            "a message is {outcome}"
        );
    }

    fn say(&self, delivery: &Delivery, failure: &Failure, what: &str) {
        if let Some(suppressed) = self.failure_log.admit() {
            tracing::warn!(
                channel = &*self.name,
                handler = &*failure.handler,
                kind = failure.kind.as_str(),
                redis_channel = %printable(delivery.redis_channel.as_bytes(), LOGGED_REASON),
                id = delivery.id.as_deref(),
                attempt = delivery.attempt,
                suppressed,
                "{what}: {}",
                printable(failure.reason.as_bytes(), LOGGED_REASON)
            );
        }
    }
}

/// Milliseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(u64::MAX)
}
