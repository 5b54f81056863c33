//! The chain of a channel: each handler's outputs are the next one's inputs.
//!
//! Owns what a handler is (an open set, so a trait), what a failure is, and how a run through the
//! chain goes: whole or not at all. Called by the workers and by `handlerd try` and `replay`.
//! Does no I/O and knows neither plugins nor Redis; who looks on (`tap`) gives it an [`Observer`].

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use crate::config::Routes;
use crate::failpoint;
use crate::message::{Delivery, Message};
use crate::timing::Timing;

mod convoy;
mod failure;

pub use convoy::{Convoy, Observer};
pub use failure::{Failure, FailureKind};

/// A future of [`Handler::handle`], boxed: once a run of messages is seldom enough.
pub type HandlerFuture<'a> = Pin<Box<dyn Future<Output = usize> + Send + 'a>>;

/// What a handler made of a message, or the chain so far.
pub type Outcome = Result<Vec<Message>, Failure>;

/// A message on its way through a chain.
#[derive(Debug)]
pub struct Transit {
    /// What is known of the message that came in.
    pub delivery: Arc<Delivery>,
    /// What has become of it so far.
    pub outcome: Outcome,
}

impl Transit {
    /// A message at the beginning of its way.
    pub fn new(delivery: Arc<Delivery>, message: Message) -> Self {
        Transit { delivery, outcome: Ok(vec![message]) }
    }

    /// One whose way has ended: no handler is given it.
    pub fn ended(delivery: Arc<Delivery>) -> Self {
        Transit { delivery, outcome: Ok(Vec::new()) }
    }

    /// The message, where there is exactly one that goes on along the chain: the usual case, and
    /// the only one that a handler is given.
    pub fn single(&self) -> Option<&Message> {
        match self.outcome.as_deref() {
            Ok([message]) if message.route.is_none() => Some(message),
            _ => None,
        }
    }
}

/// One hop of a chain.
pub trait Handler: Send + Sync {
    /// NAME of `[handlers.NAME]`, or of the plugin file.
    fn name(&self) -> &Arc<str>;

    /// Handle messages, each of them a [`Transit::single`], in order and from the front: each
    /// one's outcome takes its place. Answers how many were handled: at least one, and fewer than
    /// there are when one failed, or when what came out so far shouldn't wait any longer.
    ///
    /// An empty list ends a message's way; a message with a route leaves the chain.
    fn handle<'a>(&'a self, messages: &'a mut [Transit]) -> HandlerFuture<'a>;

    /// What those see who look at the daemon; `None` of one that is no plugin.
    fn seen(&self) -> Option<Seen> {
        None
    }
}

/// What is to be seen of a handler.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Of its plugin's file, as people write it.
    pub sha256: String,
    /// Its calls.
    pub timing: Arc<Timing>,
    /// Instances that there are now.
    pub instances: usize,
}

/// Have a handler handle one message.
pub async fn handle_one(
    handler: &dyn Handler,
    delivery: &Arc<Delivery>,
    message: Message,
) -> Outcome {
    let mut transit = [Transit::new(delivery.clone(), message)];
    handler.handle(&mut transit).await;
    let [Transit { outcome, .. }] = transit;
    outcome
}

/// What one run through a chain may hold at once, in all its branches together.
///
/// Each handler bounds what one call returns; fan-outs multiply, so the run has a bound of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunLimits {
    /// Messages.
    pub max_outputs: usize,
    /// Bytes, as [`Message::size`] counts them.
    pub max_output: usize,
}

/// The handlers of one channel, in order.
#[derive(Clone)]
pub struct Chain {
    handlers: Arc<[Arc<dyn Handler>]>,
    limits: RunLimits,
    routes: Routes,
}

impl Chain {
    /// A chain of these handlers, which may send to these routes; an empty one passes messages on
    /// as they are.
    pub fn new(handlers: Vec<Arc<dyn Handler>>, limits: RunLimits, routes: Routes) -> Self {
        Chain { handlers: handlers.into(), limits, routes }
    }

    /// The handlers' names in order, for a log line.
    pub fn names(&self) -> String {
        let names: Vec<&str> = self.handlers.iter().map(|handler| &**handler.name()).collect();
        names.join(",")
    }

    /// What is equal for the chains whose messages may go in one convoy: those of the same handlers.
    /// `None` where there are routes, which are each channel's own.
    pub fn kind(&self) -> Option<Vec<usize>> {
        let address = |handler: &Arc<dyn Handler>| Arc::as_ptr(handler).cast::<()>() as usize;
        self.routes.is_empty().then(|| self.handlers.iter().map(address).collect())
    }

    /// Whether it has the very same handlers as another one.
    pub fn has_handlers_of(&self, other: &Chain) -> bool {
        let same = |(one, other): (&Arc<dyn Handler>, &Arc<dyn Handler>)| Arc::ptr_eq(one, other);
        self.handlers.len() == other.handlers.len()
            && self.handlers.iter().zip(&*other.handlers).all(same)
    }

    /// Pass a message through. The outputs come in the order of their branches; one failure in
    /// any branch is the failure of the whole run, and then nothing leaves. The observer is shown
    /// what came out of each hop: its handler's name and all the messages then on their way, those
    /// that left by a route included.
    pub async fn run_observed(
        &self,
        delivery: &Arc<Delivery>,
        message: Message,
        mut observe: impl FnMut(&str, &[Message]) + Send,
    ) -> Outcome {
        let mut transit = [Transit::new(delivery.clone(), message)];
        for handler in self.handlers.iter() {
            self.hop(handler, &mut transit).await;
            let [Transit { outcome, .. }] = &mut transit;
            let messages = outcome.as_mut().map_err(|failure| failure.clone())?;
            observe(handler.name(), messages);
            if messages.is_empty() {
                break;
            }
        }
        let [Transit { outcome, .. }] = transit;
        outcome
    }

    /// Take the messages of a convoy further, until one or some have come to the end of their way:
    /// those are the ones that it answers. `None` when there are none left in it.
    ///
    /// Messages come out in the order in which they went in. Those that are furthest go on first,
    /// so a slow handler holds back nothing that is behind it in the chain.
    pub async fn advance<'c>(&self, convoy: &'c mut Convoy) -> Option<&'c mut [Transit]> {
        let Convoy { transits, passed, out, observers } = convoy;
        passed.resize(self.handlers.len(), 0);
        if *out == transits.len() {
            return None;
        }
        // What has passed the last handler.
        while let Some(last) = passed.last()
            && last == out
        {
            // The furthest handler that has messages before it; the first one always has some.
            let at = (0..passed.len())
                .rev()
                .find(|&hop| passed[hop] < if hop == 0 { transits.len() } else { passed[hop - 1] });
            let Some(at) = at else { break };
            let end = if at == 0 { transits.len() } else { passed[at - 1] };
            let (handler, begin) = (&self.handlers[at], passed[at]);
            passed[at] += if observers.is_empty() {
                self.hop(handler, &mut transits[begin..end]).await
            } else {
                self.observed_hop(handler, transits, begin..end, observers).await
            };
        }
        let begin = *out;
        *out = passed.last().copied().unwrap_or(transits.len());
        Some(&mut transits[begin..*out])
    }

    /// One hop for some messages, from the front; answers for how many.
    async fn hop(&self, handler: &Arc<dyn Handler>, messages: &mut [Transit]) -> usize {
        let singles = messages.iter().take_while(|transit| transit.single().is_some()).count();
        if singles == 0 {
            self.fan(handler, &mut messages[0]).await;
            return 1;
        }
        let given = messages[..singles].iter().filter_map(Transit::single);
        failpoint::handling(given.map(|message| message.payload.as_slice()));
        let handled = handler.handle(&mut messages[..singles]).await.clamp(1, singles);
        for transit in &mut messages[..handled] {
            if let Ok(outputs) = &transit.outcome
                && let Err(failure) = self.judge_routes(handler, outputs)
            {
                transit.outcome = Err(failure);
            }
        }
        handled
    }

    /// One hop for messages that somebody may look on at: those up to the first such one, or that
    /// one alone.
    async fn observed_hop(
        &self,
        handler: &Arc<dyn Handler>,
        transits: &mut [Transit],
        Range { start, end }: Range<usize>,
        observers: &mut [(usize, Observer)],
    ) -> usize {
        let first = observers.partition_point(|(place, _)| *place < start);
        let next = observers.get(first).map_or(end, |(place, _)| end.min(*place));
        if next > start {
            return self.hop(handler, &mut transits[start..next]).await;
        }
        let goes_on = |message: &Message| message.route.is_none();
        let is_hop =
            matches!(&transits[start].outcome, Ok(messages) if messages.iter().any(goes_on));
        let began = Instant::now();
        let handled = self.hop(handler, &mut transits[start..=start]).await;
        let took = began.elapsed();
        let looking = observers[first..].iter_mut().take_while(|(place, _)| *place == start);
        for (_, observer) in looking.filter(|_| is_hop) {
            observer(handler.name(), took, &transits[start].outcome);
        }
        handled
    }

    /// One hop for what has several branches, or none any more. Those with a route stay as they
    /// are, in their places.
    async fn fan(&self, handler: &Arc<dyn Handler>, transit: &mut Transit) {
        let Ok(messages) = &mut transit.outcome else { return };
        if messages.iter().all(|message| message.route.is_some()) {
            return;
        }
        let inputs = std::mem::take(messages);
        transit.outcome = self.branches(handler, &transit.delivery, inputs).await;
    }

    async fn branches(
        &self,
        handler: &Arc<dyn Handler>,
        delivery: &Arc<Delivery>,
        inputs: Vec<Message>,
    ) -> Outcome {
        let mut outputs = Vec::with_capacity(inputs.len());
        let mut bytes = 0;
        for input in inputs {
            let before = outputs.len();
            if input.route.is_some() {
                outputs.push(input);
            } else {
                outputs.extend(handle_one(&**handler, delivery, input).await?);
                self.judge_routes(handler, &outputs[before..])?;
            }
            bytes += outputs[before..].iter().map(Message::size).sum::<usize>();
            if outputs.len() > self.limits.max_outputs || bytes > self.limits.max_output {
                let RunLimits { max_outputs, max_output } = self.limits;
                return Err(Failure {
                    handler: handler.name().clone(),
                    kind: FailureKind::Output,
                    reason: format!(
                        "the branches of one message hold {} messages and {bytes} bytes here; \
                         the largest max_outputs and max_output of the chain's handlers permit \
                         {max_outputs} and {max_output}",
                        outputs.len()
                    ),
                });
            }
        }
        Ok(outputs)
    }

    /// A route that nothing permits is the handler's failure.
    fn judge_routes(&self, handler: &Arc<dyn Handler>, outputs: &[Message]) -> Result<(), Failure> {
        let mut routes = outputs.iter().filter_map(|message| message.route.as_deref());
        match routes.find(|route| self.routes.resolve(route).is_none()) {
            None => Ok(()),
            Some(route) => Err(Failure {
                handler: handler.name().clone(),
                kind: FailureKind::Route,
                reason: format!(
                    "it sent a message to {route:?}, which the channel's `routes` don't permit; \
                     add the name or a pattern to routes = {{ publish = […] }} or {{ push = […] }}"
                ),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
