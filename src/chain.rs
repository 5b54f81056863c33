//! The chain of a channel: each handler's outputs are the next one's inputs.
//!
//! Owns what a handler is (an open set, so a trait), what a failure is, and how a run through the
//! chain goes: whole or not at all. Called by the workers and by `handlerd try` and `replay`.
//! Does no I/O and knows neither plugins nor Redis; who looks on (`tap`) gives it an [`Observer`].

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::Routes;
use crate::failpoint;
use crate::message::{Delivery, Message};
use crate::timing::Timing;

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

/// How a handler failed. The names are the values of the metric label `kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FailureKind {
    /// The handler says that it can never handle this message.
    Reject,
    /// The handler says that it may succeed later, not before this pause (if it gave one).
    Retry {
        /// The pause that `retry-after` asked for.
        after: Option<Duration>,
    },
    /// The plugin trapped: a panic, an unreachable, an access out of bounds, a stack overflow, an exit.
    Trap,
    /// The call took longer than the handler's `timeout`.
    Timeout,
    /// The plugin asked for more than its `memory` (or tables, or instances).
    Memory,
    /// More messages or bytes came out than `max_outputs` and `max_output` permit.
    Output,
    /// A message came out with a route that the channel's `routes` don't permit.
    Route,
    /// A new instance could not be made, or its `setup` returned an error.
    Setup,
}

impl FailureKind {
    /// The word for logs, metrics and dead letters.
    pub fn as_str(self) -> &'static str {
        match self {
            FailureKind::Reject => "reject",
            FailureKind::Retry { .. } => "retry",
            FailureKind::Trap => "trap",
            FailureKind::Timeout => "timeout",
            FailureKind::Memory => "memory",
            FailureKind::Output => "output",
            FailureKind::Route => "route",
            FailureKind::Setup => "setup",
        }
    }
}

/// Why a run through a chain failed: the input message's failure, whichever hop it happened in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The handler it happened in.
    pub handler: Arc<str>,
    /// What kind of failure.
    pub kind: FailureKind,
    /// What happened, in words; a guest's own text is not escaped yet.
    pub reason: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { handler, kind, reason } = self;
        write!(f, "handler {handler}: {}: {reason}", kind.as_str())
    }
}

impl std::error::Error for Failure {}

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

/// Shown what a hop made of one message: the handler's name, how long it took, and what came out.
pub type Observer = Box<dyn FnMut(&Arc<str>, Duration, &Outcome) + Send>;

/// Messages that go through a chain together: as far as each handler's time
/// allows they are handed to it at once, since that is far cheaper than one by one.
#[derive(Default)]
pub struct Convoy {
    /// In the order in which they came.
    transits: Vec<Transit>,
    /// For each handler, how many of them have passed it: never more than the one before it.
    passed: Vec<usize>,
    /// How many have come out.
    out: usize,
    /// Who looks on at which messages, in the order of these; nearly always nobody at any.
    observers: Vec<(usize, Observer)>,
}

impl Convoy {
    /// Forget the messages: they have all come out.
    pub fn clear(&mut self) {
        self.observers.clear();
        self.transits.clear();
        self.passed.clear();
        self.out = 0;
    }

    /// Let messages go, behind those that are in it.
    pub fn extend(&mut self, messages: impl Iterator<Item = Transit>) {
        self.transits.extend(messages);
    }

    /// The message of this place, before it is begun.
    pub fn waiting(&self, place: usize) -> Option<(&Arc<Delivery>, &Message)> {
        let transit = self.transits.get(place)?;
        Some((&transit.delivery, transit.single()?))
    }

    /// Look on at the message of this place, which is not before that of an earlier call and is not
    /// begun: each handler is given it alone, in its turn.
    pub fn observe(&mut self, place: usize, observer: Observer) {
        self.observers.push((place, observer));
    }

    /// Bytes of the messages in it.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        let messages = self.transits.iter().flat_map(|transit| transit.outcome.iter().flatten());
        messages.map(Message::size).sum()
    }

    /// How many have been handed to the first handler, or came out where there is none.
    pub fn begun(&self) -> usize {
        self.passed.first().copied().unwrap_or(self.out)
    }

    /// Take those from this place on out again; none of them may have [begun](Self::begun).
    pub fn split_off(&mut self, at: usize) -> Vec<Transit> {
        debug_assert!(at >= self.begun(), "what a handler was given is on its way");
        self.observers.retain(|(place, _)| *place < at);
        self.transits.split_off(at)
    }

    /// One of those in it, by its place.
    pub fn at(&mut self, place: usize) -> &mut Transit {
        &mut self.transits[place]
    }

    /// How many have come out.
    pub fn out(&self) -> usize {
        self.out
    }

    /// Take those from this place on out again, however far they have come: they begin anew.
    pub fn cut(&mut self, at: usize) -> Vec<Transit> {
        self.passed.iter_mut().for_each(|passed| *passed = at.min(*passed));
        self.out = at.min(self.out);
        self.observers.retain(|(place, _)| *place < at);
        self.transits.split_off(at)
    }

    /// How many have been let go, those that came out included.
    pub fn len(&self) -> usize {
        self.transits.len()
    }

    /// Whether none has been let go.
    pub fn is_empty(&self) -> bool {
        self.transits.is_empty()
    }
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
mod tests {
    use super::*;
    use crate::config::pattern::Pattern;

    /// A handler of native code: chains know nothing of plugins.
    struct Native {
        name: Arc<str>,
        body: Body,
    }

    type Body = fn(Message) -> Result<Vec<Message>, FailureKind>;

    impl Handler for Native {
        fn name(&self) -> &Arc<str> {
            &self.name
        }

        fn handle<'a>(&'a self, messages: &'a mut [Transit]) -> HandlerFuture<'a> {
            let failed = |kind| Failure { handler: self.name.clone(), kind, reason: "so".into() };
            Box::pin(async move {
                // Two at once, so that convoys come apart.
                let handled = messages.len().min(2);
                for transit in &mut messages[..handled] {
                    let message = transit.single().expect("nothing else is handed over").clone();
                    transit.outcome = (self.body)(message).map_err(failed);
                }
                handled
            })
        }
    }

    fn chain(bodies: &[Body], limits: RunLimits, routes: Routes) -> Chain {
        let handler = |(i, body): (usize, &Body)| {
            Arc::new(Native { name: i.to_string().into(), body: *body }) as Arc<dyn Handler>
        };
        Chain::new(bodies.iter().enumerate().map(handler).collect(), limits, routes)
    }

    fn delivery() -> Arc<Delivery> {
        Arc::new(Delivery {
            table: "t".into(),
            redis_channel: "c".into(),
            pattern: None,
            id: None,
            attempt: 1,
            received_at: 0,
        })
    }

    fn show(outputs: Vec<Message>) -> Vec<String> {
        let show = |m: Message| {
            let text = String::from_utf8(m.payload).unwrap();
            m.route.map_or(text.clone(), |route| format!("{text}>{route}"))
        };
        outputs.into_iter().map(show).collect()
    }

    /// What comes out for each of these messages, in the order of coming out.
    async fn pass(chain: &Chain, messages: &[&str]) -> Vec<Result<Vec<String>, Failure>> {
        let mut convoy = Convoy::default();
        convoy.extend(messages.iter().map(|m| Transit::new(delivery(), Message::new(*m))));
        let mut outcomes = Vec::new();
        while let Some(arrived) = chain.advance(&mut convoy).await {
            assert!(!arrived.is_empty(), "it would never end");
            outcomes.extend(arrived.iter().map(|transit| transit.outcome.clone().map(show)));
        }
        assert_eq!(outcomes.len(), messages.len());
        outcomes
    }

    async fn run(
        bodies: &[Body],
        limits: RunLimits,
        routes: Routes,
    ) -> Result<Vec<String>, Failure> {
        let chain = chain(bodies, limits, routes);
        let alone = chain.run_observed(&delivery(), Message::new("m"), |_, _| {}).await.map(show);
        assert_eq!(pass(&chain, &["m"]).await, std::slice::from_ref(&alone));
        alone
    }

    const AMPLE: RunLimits = RunLimits { max_outputs: 100, max_output: 1000 };

    fn twice(m: Message) -> Result<Vec<Message>, FailureKind> {
        Ok(vec![
            Message::new([&m.payload[..], b"1"].concat()),
            Message::new([&m.payload[..], b"2"].concat()),
        ])
    }

    fn first_to_vip(mut m: Message) -> Result<Vec<Message>, FailureKind> {
        m.route = m.payload.ends_with(b"1").then(|| "vip".to_owned());
        Ok(vec![m])
    }

    fn shout(mut m: Message) -> Result<Vec<Message>, FailureKind> {
        m.payload.make_ascii_uppercase();
        Ok(vec![m])
    }

    fn reject_second(m: Message) -> Result<Vec<Message>, FailureKind> {
        if m.payload.ends_with(b"2") { Err(FailureKind::Reject) } else { Ok(vec![m]) }
    }

    fn none(_: Message) -> Result<Vec<Message>, FailureKind> {
        Ok(vec![])
    }

    fn vip() -> Routes {
        Routes { publish: vec![Pattern::new("v*").unwrap()], ..Routes::default() }
    }

    #[tokio::test]
    async fn branches_come_out_in_order() {
        let outputs = run(&[twice, twice, shout], AMPLE, Routes::default()).await.unwrap();
        assert_eq!(outputs, ["M11", "M12", "M21", "M22"]);
    }

    #[tokio::test]
    async fn an_empty_chain_passes_and_a_filter_ends() {
        assert_eq!(run(&[], AMPLE, Routes::default()).await.unwrap(), ["m"]);
        let after: Body = |_| panic!("nothing goes on behind a filter");
        assert!(run(&[none, after], AMPLE, Routes::default()).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_route_leaves_the_chain_where_it_was_set() {
        let outputs = run(&[twice, first_to_vip, shout], AMPLE, vip()).await.unwrap();
        assert_eq!(outputs, ["m1>vip", "M2"]);
    }

    #[tokio::test]
    async fn a_route_that_nothing_permits_fails_the_handler_that_set_it() {
        let failure = run(&[twice, first_to_vip], AMPLE, Routes::default()).await.unwrap_err();
        assert_eq!((failure.kind, &*failure.handler), (FailureKind::Route, "1"));
        assert!(failure.reason.contains("\"vip\""), "{failure}");
    }

    #[tokio::test]
    async fn one_branch_that_fails_is_the_whole_runs_failure() {
        let failure = run(&[twice, reject_second], AMPLE, vip()).await.unwrap_err();
        assert_eq!((failure.kind, &*failure.handler), (FailureKind::Reject, "1"));
    }

    #[tokio::test]
    async fn fan_outs_do_not_multiply_without_bound() {
        let few = RunLimits { max_outputs: 7, max_output: 1000 };
        let failure = run(&[twice, twice, twice], few, vip()).await.unwrap_err();
        assert_eq!((failure.kind, &*failure.handler), (FailureKind::Output, "2"));
        let small = RunLimits { max_outputs: 100, max_output: 11 };
        let failure = run(&[twice, twice, twice], small, vip()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Output);
    }

    fn reject_c(m: Message) -> Result<Vec<Message>, FailureKind> {
        if m.payload.starts_with(b"c") { Err(FailureKind::Reject) } else { Ok(vec![m]) }
    }

    fn twice_b_and_no_d(m: Message) -> Result<Vec<Message>, FailureKind> {
        match m.payload.as_slice() {
            b"b" => twice(m),
            b"d" => none(m),
            _ => Ok(vec![m]),
        }
    }

    #[tokio::test]
    async fn a_convoy_comes_out_in_order_whatever_becomes_of_its_messages() {
        let chain = chain(&[reject_c, twice_b_and_no_d, shout], AMPLE, Routes::default());
        let outcomes = pass(&chain, &["a", "b", "c", "d", "e", "f", "g"]).await;
        let shown: Vec<String> = outcomes
            .into_iter()
            .map(|outcome| outcome.map_or_else(|f| f.kind.as_str().into(), |m| m.join("+")))
            .collect();
        assert_eq!(shown, ["A", "B1+B2", "reject", "", "E", "F", "G"]);
    }

    #[tokio::test]
    async fn who_looks_on_sees_each_hop_and_changes_nothing() {
        let chain = chain(&[reject_c, twice_b_and_no_d, shout], AMPLE, Routes::default());
        let mut convoy = Convoy::default();
        let all = ["a", "b", "c", "d", "e"];
        convoy.extend(all.iter().map(|m| Transit::new(delivery(), Message::new(*m))));
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        for (place, input) in all.into_iter().enumerate().skip(1) {
            let seen = seen.clone();
            convoy.observe(
                place,
                Box::new(move |handler, _, outcome| {
                    let shown = outcome.clone().map_or_else(|f| f.reason, |m| show(m).join("+"));
                    seen.lock().unwrap().push(format!("{input} {handler}: {shown}"));
                }),
            );
        }
        let mut came_out = Vec::new();
        while let Some(arrived) = chain.advance(&mut convoy).await {
            came_out.extend(arrived.iter().map(|transit| transit.outcome.is_ok()));
        }
        assert_eq!(came_out, [true, true, false, true, true]);
        let mut seen = std::mem::take(&mut *seen.lock().unwrap());
        seen.sort();
        let hops = ["b 0: b", "b 1: b1+b2", "b 2: B1+B2", "c 0: so", "d 0: d", "d 1: "];
        assert_eq!(seen[..6], hops);
        assert_eq!(seen[6..], ["e 0: e", "e 1: e", "e 2: E"]);
        // One that is taken out before it is begun is not looked on at any more.
        convoy.clear();
        convoy.extend(all.iter().map(|m| Transit::new(delivery(), Message::new(*m))));
        convoy.observe(4, Box::new(|_, _, _| panic!("it isn't there")));
        assert_eq!(convoy.split_off(4).len(), 1);
        while chain.advance(&mut convoy).await.is_some() {}
    }

    #[tokio::test]
    async fn what_is_furthest_goes_on_first() {
        let chain = chain(&[shout, shout], AMPLE, Routes::default());
        let mut convoy = Convoy::default();
        convoy
            .extend(["a", "b", "c"].into_iter().map(|m| Transit::new(delivery(), Message::new(m))));
        // The handlers take two at once: both come out before the third one is begun.
        let arrived = chain.advance(&mut convoy).await.expect("two are through");
        assert_eq!(arrived.len(), 2);
        assert_eq!(chain.advance(&mut convoy).await.expect("the third").len(), 1);
        assert!(chain.advance(&mut convoy).await.is_none());
    }
}
