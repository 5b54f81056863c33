//! One instance of a plugin: its store, what it may use, and how calls into it are bounded.
//!
//! Made by a handler's pool, used by one call at a time, which hands it a batch of messages where
//! the plugin can be driven. After a trap or a timeout it is dropped, never used again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::component::ResourceTable;
use wasmtime::{Store, UpdateDeadline};
use wasmtime_wasi::WasiCtx;

use super::call::batch::{self, Run};
use super::call::handler::{self, HandleMessage};
use super::call::setup;
use super::deadline::{Deadline, Elapsed, run_until};
use super::driver::BATCH_MEMORY;
use super::failure::{self, Fault};
use super::guest_log::GuestLog;
use super::handler::Blueprint;
use super::import::{self, Emitted, Settings};
use super::limiter::Limiter;
use super::ticker::Pulse;
use crate::chain::Transit;
use crate::config::HandlerLimits;
use crate::message::{Delivery, Message};

/// What starting an instance and its `setup` may take together.
pub(super) const SETUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Handles of resources that a guest may hold, its own and the host's.
const MAX_HANDLES: usize = 10_000;

/// What the store of an instance holds for the host's functions.
pub(super) struct State {
    pub(super) wasi: WasiCtx,
    pub(super) resources: ResourceTable,
    pub(super) settings: Settings,
    pub(super) log: GuestLog,
    /// The message in hand; none outside of `handle-message`.
    pub(super) delivery: Option<Arc<Delivery>>,
    /// The batch in hand.
    pub(super) emitted: Emitted,
    pub(super) limits: HandlerLimits,
    pub(super) limiter: Limiter,
    deadline: Deadline,
    /// The call in hand was interrupted at its deadline.
    pub(super) timed_out: bool,
    pulse: Pulse,
}

impl State {
    /// NAME of the channel whose message is in hand.
    pub(super) fn channel(&self) -> Option<&str> {
        self.delivery.as_deref().map(|delivery| &*delivery.table)
    }

    /// The guest is given a message, or is set up, until then.
    pub(super) fn begin_message(&mut self, delivery: Option<Arc<Delivery>>, deadline: Instant) {
        self.delivery = delivery;
        self.deadline.set(deadline);
        self.limiter.denied = None;
        self.log.begin();
    }

    /// It is done with that.
    pub(super) fn finish_message(&mut self) {
        self.log.end(self.channel());
        self.delivery = None;
    }
}

/// An instance, ready for a message.
pub(super) struct Instance {
    store: Store<State>,
    functions: Functions,
    /// The batch that it was given last: kept for its room.
    batch: Vec<u8>,
    deadline: Deadline,
    /// With more memory than this it is dropped after a call.
    memory_kept: usize,
    /// When its last call began.
    pub(super) used: Instant,
    /// Given back when it is dropped.
    _room: OwnedSemaphorePermit,
}

/// What the host calls of an instance.
#[derive(Clone, Copy)]
struct Functions {
    handle: HandleMessage,
    /// The driver, where the plugin can be driven.
    run: Option<Run>,
}

/// Room for the instances of all plugins together.
///
/// Each takes several memory maps, of which the system gives a process only so many; when there is
/// none left, the next allocation may end the daemon.
#[derive(Clone)]
pub(super) struct Room(Arc<Semaphore>);

impl Room {
    /// Maps that an instance takes: its memory and its stack with their guards, and some for
    /// plugins of several parts.
    const MAPS: usize = 8;

    /// As much as the system's limit allows.
    pub(super) fn of_this_system() -> Room {
        let maps = std::fs::read_to_string("/proc/sys/vm/max_map_count")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(65530);
        Room::for_instances(maps / Self::MAPS)
    }

    pub(super) fn for_instances(instances: usize) -> Room {
        Room(Arc::new(Semaphore::new(instances.clamp(1, Semaphore::MAX_PERMITS))))
    }
}

/// What is left of an instance after a call.
pub(super) enum Fate {
    /// It may be used again.
    Keep,
    /// It is to be dropped.
    Drop,
}

impl Instance {
    /// Make an instance: start it, and run its `setup` if it exports one.
    ///
    /// # Errors
    /// Of kind `setup` whatever went wrong, since no message is to blame.
    pub(super) async fn new(blueprint: &Blueprint) -> Result<Instance, Fault> {
        let room = blueprint.room.0.clone().try_acquire_owned();
        let _room = room.map_err(|_| failure::no_room())?;
        let deadline = Deadline::new();
        let mut store = new_store(blueprint, deadline.clone());
        let used = Instant::now();
        begin(&mut store, None, used + SETUP_TIMEOUT);
        let started = start(&mut store, blueprint, &deadline).await;
        store.data_mut().finish_message();
        let functions = started?;
        let limiter = &store.data().limiter;
        let memory = limiter.memory();
        // Three quarters of what it had to grow when it was new.
        let memory_kept = memory + limiter.memory_limit().saturating_sub(memory) / 4 * 3;
        let batch = Vec::new();
        Ok(Instance { store, functions, batch, deadline, memory_kept, used, _room })
    }

    /// Hand it messages from the front: each one's outcome takes its place. Answers how many were
    /// handled, at least one; `handler` is who failed when one failed.
    pub(super) async fn handle(
        &mut self,
        blueprint: &Blueprint,
        handler: &Arc<str>,
        messages: &mut [Transit],
    ) -> (usize, Fate) {
        self.used = Instant::now();
        if let Some(run) = self.functions.run {
            let count = batch::encode(messages, &mut self.batch);
            if count > 0 {
                return self.drive(run, blueprint, handler, &mut messages[..count]).await;
            }
        }
        let transit = &mut messages[0];
        let Some(message) = transit.single() else { return (1, Fate::Keep) };
        let (outcome, fate) = self.handle_one(blueprint, &transit.delivery, message).await;
        transit.outcome = outcome.map_err(|fault| fault.of(handler));
        (1, fate)
    }

    async fn handle_one(
        &mut self,
        blueprint: &Blueprint,
        delivery: &Arc<Delivery>,
        message: &Message,
    ) -> (Result<Vec<Message>, Fault>, Fate) {
        let limits = &blueprint.limits;
        begin(&mut self.store, Some(delivery.clone()), self.used + limits.timeout);
        let call = handler::call(self.functions.handle, &mut self.store, delivery, message);
        let outcome = run_until(&self.deadline, &blueprint.pulse, call).await;
        let outcome = self.judge(outcome, limits);
        self.store.data_mut().finish_message();
        match outcome {
            Ok(returned) => (handler::judge(returned, limits), self.fate()),
            Err(fault) => (Err(fault), Fate::Drop),
        }
    }

    /// Hand it a batch, which is encoded already.
    async fn drive(
        &mut self,
        run: Run,
        blueprint: &Blueprint,
        handler: &Arc<str>,
        messages: &mut [Transit],
    ) -> (usize, Fate) {
        let limits = &blueprint.limits;
        begin(&mut self.store, Some(messages[0].delivery.clone()), self.used + limits.timeout);
        let deliveries = messages.iter().map(|transit| transit.delivery.clone());
        self.store.data_mut().emitted.begin(self.used, deliveries);
        let call = batch::call(run, &mut self.store, &self.batch);
        let outcome = run_until(&self.deadline, &blueprint.pulse, call).await;
        let outcome = self.judge(outcome, limits);
        let state = self.store.data_mut();
        state.finish_message();
        state.emitted.end();
        let mut handled = 0;
        for (transit, outcome) in messages.iter_mut().zip(state.emitted.outcomes.drain(..)) {
            transit.outcome = outcome.map_err(|fault| fault.of(handler));
            handled += 1;
        }
        let fault = match outcome {
            Ok(()) if !state.emitted.goes_on => return (handled, self.fate()),
            Ok(()) => failure::no_outcome(),
            Err(fault) => fault,
        };
        // The message in hand; or the last one, when what failed is to free its outputs.
        let failed = if state.emitted.goes_on { handled } else { handled - 1 };
        messages[failed].outcome = Err(fault.of(handler));
        (failed + 1, Fate::Drop)
    }

    /// What a call's end means.
    fn judge<T>(
        &self,
        outcome: Result<wasmtime::Result<T>, Elapsed>,
        limits: &HandlerLimits,
    ) -> Result<T, Fault> {
        match outcome {
            Ok(Ok(returned)) => Ok(returned),
            Ok(Err(error)) => {
                Err(failure::classify(&error, self.store.data(), limits, limits.timeout))
            }
            Err(Elapsed) => Err(failure::timeout(limits.timeout)),
        }
    }

    /// Of an instance that did nothing wrong.
    fn fate(&self) -> Fate {
        let grown = self.store.data().limiter.memory() > self.memory_kept;
        if grown { Fate::Drop } else { Fate::Keep }
    }
}

fn new_store(blueprint: &Blueprint, deadline: Deadline) -> Store<State> {
    let log = GuestLog::new(blueprint.speaker.clone());
    let (wasi, resources) = import::wasi_context(&log);
    let driver = if blueprint.plugin.exports.run.is_some() { BATCH_MEMORY } else { 0 };
    let state = State {
        wasi,
        resources,
        settings: blueprint.settings.clone(),
        log,
        delivery: None,
        emitted: Emitted::default(),
        limits: blueprint.limits,
        limiter: Limiter::new(blueprint.limits.memory, driver),
        deadline,
        timed_out: false,
        pulse: blueprint.pulse.clone(),
    };
    let mut store = Store::new(blueprint.plugin.pre.engine(), state);
    store.limiter(|state| &mut state.limiter);
    store.set_max_component_handles(MAX_HANDLES);
    store.set_hostcall_fuel(handler::fuel(&blueprint.limits));
    store.epoch_deadline_callback(|mut context| {
        let state = context.data_mut();
        state.pulse.beat();
        if !state.deadline.gives_way() {
            state.timed_out = true;
            return Ok(UpdateDeadline::Interrupt);
        }
        // Not `Yield`: with that, two looping plugins starved every neighbour.
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
    });
    store
}

async fn start(
    store: &mut Store<State>,
    blueprint: &Blueprint,
    deadline: &Deadline,
) -> Result<Functions, Fault> {
    let limits = &blueprint.limits;
    let exports = &blueprint.plugin.exports;
    let starting = async {
        let instance = blueprint.plugin.pre.instantiate_async(&mut *store).await?;
        let handle = handler::find(&instance, &mut *store, exports)?;
        let run = exports.run.as_ref().map(|run| batch::find(&instance, &mut *store, run));
        let answer = match &exports.setup {
            Some(setup) => setup::call(&instance, &mut *store, setup).await?,
            None => Ok(()),
        };
        Ok::<_, wasmtime::Error>((Functions { handle, run: run.transpose()? }, answer))
    };
    let outcome = run_until(deadline, &blueprint.pulse, starting).await;
    match outcome {
        Ok(Ok((functions, Ok(())))) => Ok(functions),
        Ok(Ok((_, Err(text)))) => Err(failure::setup_refused(&text)),
        Ok(Err(error)) => {
            Err(failure::in_setup(failure::classify(&error, store.data(), limits, SETUP_TIMEOUT)))
        }
        Err(Elapsed) => Err(failure::in_setup(failure::timeout(SETUP_TIMEOUT))),
    }
}

/// A call into the guest begins.
fn begin(store: &mut Store<State>, delivery: Option<Arc<Delivery>>, deadline: Instant) {
    store.set_epoch_deadline(1);
    store.data_mut().begin_message(delivery, deadline);
}
