//! The chain of a channel: each handler's outputs are the next one's inputs.
//!
//! Owns what a handler is (an open set, so a trait), what a failure is, and how a run through the
//! chain goes: whole or not at all. Called by the workers and by `handlerd try` and `replay`.
//! Does no I/O and knows neither plugins nor Redis.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Routes;
use crate::message::{Delivery, Message};

/// A future that a handler returns, boxed: once a hop is seldom enough.
pub type HandlerFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Vec<Message>, Failure>> + Send + 'a>>;

/// One hop of a chain.
pub trait Handler: Send + Sync {
    /// NAME of `[handlers.NAME]`, or of the plugin file.
    fn name(&self) -> &Arc<str>;

    /// Handle one message. An empty list ends its way; a message with a route leaves the chain.
    fn handle<'a>(&'a self, delivery: &'a Arc<Delivery>, message: Message) -> HandlerFuture<'a>;
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

    /// Pass a message through. The outputs come in the order of their branches; one failure in
    /// any branch is the failure of the whole run, and then nothing leaves.
    pub async fn run(
        &self,
        delivery: &Arc<Delivery>,
        message: Message,
    ) -> Result<Vec<Message>, Failure> {
        self.run_observed(delivery, message, |_, _| {}).await
    }

    /// The same, showing the observer what came out of each hop (its handler's name and all the
    /// messages then on their way, those that left by a route included).
    pub async fn run_observed(
        &self,
        delivery: &Arc<Delivery>,
        message: Message,
        mut observe: impl FnMut(&str, &[Message]) + Send,
    ) -> Result<Vec<Message>, Failure> {
        let mut current = vec![message];
        for handler in self.handlers.iter() {
            // The usual case, one message in: what comes out of the call is what goes on.
            if current.len() == 1 && current[0].route.is_none() {
                let input = current.pop().unwrap_or_default();
                current = handler.handle(delivery, input).await?;
                self.judge_routes(handler, &current)?;
            } else {
                current = self.fan(handler, delivery, current).await?;
            }
            observe(handler.name(), &current);
            if current.is_empty() {
                break;
            }
        }
        Ok(current)
    }

    /// One hop for several messages: those with a route stay as they are, in their places.
    async fn fan(
        &self,
        handler: &Arc<dyn Handler>,
        delivery: &Arc<Delivery>,
        inputs: Vec<Message>,
    ) -> Result<Vec<Message>, Failure> {
        let mut outputs = Vec::with_capacity(inputs.len());
        let mut bytes = 0;
        for input in inputs {
            let before = outputs.len();
            if input.route.is_some() {
                outputs.push(input);
            } else {
                outputs.extend(handler.handle(delivery, input).await?);
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

        fn handle<'a>(&'a self, _: &'a Arc<Delivery>, message: Message) -> HandlerFuture<'a> {
            let failed = |kind| Failure { handler: self.name.clone(), kind, reason: "so".into() };
            Box::pin(async move { (self.body)(message).map_err(failed) })
        }
    }

    async fn run(
        bodies: &[Body],
        limits: RunLimits,
        routes: Routes,
    ) -> Result<Vec<String>, Failure> {
        let handler = |(i, body): (usize, &Body)| {
            Arc::new(Native { name: i.to_string().into(), body: *body }) as Arc<dyn Handler>
        };
        let handlers = bodies.iter().enumerate().map(handler).collect();
        let delivery = Arc::new(Delivery {
            table: "t".into(),
            redis_channel: "c".into(),
            pattern: None,
            id: None,
            attempt: 1,
            received_at: 0,
        });
        let outputs =
            Chain::new(handlers, limits, routes).run(&delivery, Message::new("m")).await?;
        let show = |m: Message| {
            let text = String::from_utf8(m.payload).unwrap();
            m.route.map_or(text.clone(), |route| format!("{text}>{route}"))
        };
        Ok(outputs.into_iter().map(show).collect())
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
}
