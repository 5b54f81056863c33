//! The driver's `emit`: what came of one message of a batch, and whether to go on with the next.
//!
//! Each message of a batch has the time, the log and the limits of a call of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::StoreContextMut;
use wasmtime::component::Linker;

use crate::message::{Delivery, Message};
use crate::plugin::call::handler::{Returned, judge};
use crate::plugin::driver::HOST;
use crate::plugin::failure::Fault;
use crate::plugin::instance::State;

/// After so long what came of the messages before goes on, and the rest of the batch waits.
const TURN: Duration = Duration::from_millis(1);

/// So many bytes of what came out may wait for the rest of the batch.
const HELD: usize = 1 << 20;

/// A batch in the guest.
#[derive(Default)]
pub(in crate::plugin) struct Emitted {
    /// What came of the messages, in order.
    pub(in crate::plugin) outcomes: Vec<Result<Vec<Message>, Fault>>,
    /// Of the messages of the batch; the one in hand is at the place of the next outcome.
    deliveries: Vec<Arc<Delivery>>,
    bytes: usize,
    began: Option<Instant>,
    /// The next message is in hand.
    pub(in crate::plugin) goes_on: bool,
}

impl Emitted {
    /// A batch begins.
    pub(in crate::plugin) fn begin(
        &mut self,
        now: Instant,
        deliveries: impl Iterator<Item = Arc<Delivery>>,
    ) {
        self.outcomes.clear();
        self.deliveries.clear();
        self.deliveries.extend(deliveries);
        self.bytes = 0;
        self.began = Some(now);
        self.goes_on = true;
    }

    /// It has ended: no message is in hand.
    pub(in crate::plugin) fn end(&mut self) {
        self.began = None;
        self.deliveries.clear();
    }

    /// Keep an outcome; the delivery of the message that is in hand then, if any.
    fn keep(
        &mut self,
        outcome: Result<Vec<Message>, Fault>,
        now: Instant,
    ) -> Option<Arc<Delivery>> {
        let in_time = self.began.is_some_and(|began| now.saturating_duration_since(began) < TURN);
        self.bytes += outcome.iter().flatten().map(Message::size).sum::<usize>();
        // Behind a failure nothing is begun: the failed message may have to come first.
        self.goes_on = outcome.is_ok() && in_time && self.bytes < HELD;
        self.outcomes.push(outcome);
        let next = self.deliveries.get(self.outcomes.len()).filter(|_| self.goes_on).cloned();
        self.goes_on = next.is_some();
        next
    }
}

pub(super) fn add(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.instance(HOST)?.func_wrap("emit", emit)
}

fn emit(
    mut store: StoreContextMut<'_, State>,
    (returned,): (Returned,),
) -> wasmtime::Result<(bool,)> {
    let state = store.data_mut();
    if !state.emitted.goes_on {
        return Err(wasmtime::Error::msg("it answered for a message that it was not given"));
    }
    let now = Instant::now();
    let outcome = judge(returned, &state.limits);
    match state.emitted.keep(outcome, now) {
        Some(next) => {
            state.finish_message();
            state.begin_message(Some(next), now + state.limits.timeout);
            Ok((true,))
        }
        None => Ok((false,)),
    }
}
