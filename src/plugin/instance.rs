//! One instance of a plugin: its store, what it may use, and how calls into it are bounded.
//!
//! Made by a handler's pool, used by one call at a time. After a trap or a timeout it is dropped,
//! never used again.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, Store, UpdateDeadline};
use wasmtime_wasi::WasiCtx;

use super::call::handler::{self, HandleMessage};
use super::call::setup;
use super::failure::{self, Fault};
use super::guest_log::GuestLog;
use super::handler::Blueprint;
use super::import::{self, Settings};
use super::ticker::Pulse;
use crate::message::{Delivery, Message};

/// What starting an instance and its `setup` may take together.
pub(super) const SETUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Core modules, tables and memories of one instance: a Python plugin has 64 modules.
const MAX_CORE_INSTANCES: usize = 200;
const MAX_TABLES: usize = 200;
const MAX_MEMORIES: usize = 32;

/// Elements of all tables of an instance, each eight bytes of the host's memory.
const MAX_TABLE_ELEMENTS: usize = 100_000;

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
    pub(super) limiter: Limiter,
    /// When the call in hand must be over.
    deadline: Instant,
    /// The call in hand was interrupted at its deadline.
    pub(super) timed_out: bool,
    pulse: Pulse,
}

impl State {
    /// NAME of the channel whose message is in hand.
    pub(super) fn channel(&self) -> Option<&str> {
        self.delivery.as_deref().map(|delivery| &*delivery.table)
    }
}

/// Counts the memory and the tables that an instance has, and refuses what is too much.
pub(super) struct Limiter {
    memory_limit: usize,
    memory: usize,
    table_elements: usize,
    /// What was refused in the call in hand.
    pub(super) denied: Option<Denied>,
}

/// What a guest wanted and didn't get.
#[derive(Clone, Copy, Debug)]
pub(super) enum Denied {
    /// So many bytes of memory in all.
    Memory(usize),
    /// So many table elements in all.
    Table(usize),
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let wanted = self.memory.saturating_add(desired.saturating_sub(current));
        if wanted > self.memory_limit {
            self.denied = Some(Denied::Memory(wanted));
            return Ok(false);
        }
        // Beyond its own maximum a memory doesn't grow, whatever is said here.
        if maximum.is_none_or(|maximum| desired <= maximum) {
            self.memory = wanted;
        }
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let wanted = self.table_elements.saturating_add(desired.saturating_sub(current));
        if wanted > MAX_TABLE_ELEMENTS {
            self.denied = Some(Denied::Table(wanted));
            return Ok(false);
        }
        if maximum.is_none_or(|maximum| desired <= maximum) {
            self.table_elements = wanted;
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        MAX_CORE_INSTANCES
    }

    fn tables(&self) -> usize {
        MAX_TABLES
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES
    }
}

/// An instance, ready for a message.
pub(super) struct Instance {
    store: Store<State>,
    handle: HandleMessage,
    /// With more memory than this it is dropped after a call.
    memory_kept: usize,
    /// When its last call began.
    pub(super) used: Instant,
    /// Given back when it is dropped.
    _room: OwnedSemaphorePermit,
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
        let mut store = new_store(blueprint);
        let used = Instant::now();
        begin(&mut store, None, used + SETUP_TIMEOUT);
        let started = start(&mut store, blueprint).await;
        end(&mut store);
        let handle = started?;
        let limit = blueprint.limits.memory;
        let memory = store.data().limiter.memory;
        // Three quarters of what it had to grow when it was new.
        let memory_kept = memory + (limit.saturating_sub(memory)) / 4 * 3;
        Ok(Instance { store, handle, memory_kept, used, _room })
    }

    /// Hand it a message.
    pub(super) async fn handle(
        &mut self,
        blueprint: &Blueprint,
        delivery: &Arc<Delivery>,
        message: &Message,
    ) -> (Result<Vec<Message>, Fault>, Fate) {
        let limits = &blueprint.limits;
        self.used = Instant::now();
        let deadline = self.used + limits.timeout;
        begin(&mut self.store, Some(delivery.clone()), deadline);
        let call = handler::call(self.handle, &mut self.store, delivery, message);
        let outcome = run_until(deadline, &blueprint.pulse, call).await;
        let result = match outcome {
            Ok(Ok(returned)) => {
                end(&mut self.store);
                let grown = self.store.data().limiter.memory > self.memory_kept;
                let fate = if grown { Fate::Drop } else { Fate::Keep };
                return (handler::judge(returned, limits), fate);
            }
            Ok(Err(error)) => {
                Err(failure::classify(&error, self.store.data(), limits, limits.timeout))
            }
            Err(Elapsed) => Err(failure::timeout(limits.timeout)),
        };
        end(&mut self.store);
        (result, Fate::Drop)
    }
}

fn new_store(blueprint: &Blueprint) -> Store<State> {
    let log = GuestLog::new(blueprint.speaker.clone());
    let (wasi, resources) = import::wasi_context(&log);
    let state = State {
        wasi,
        resources,
        settings: blueprint.settings.clone(),
        log,
        delivery: None,
        limiter: Limiter {
            memory_limit: blueprint.limits.memory,
            memory: 0,
            table_elements: 0,
            denied: None,
        },
        deadline: Instant::now(),
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
        if Instant::now() >= state.deadline {
            state.timed_out = true;
            return Ok(UpdateDeadline::Interrupt);
        }
        // Not `Yield`: with that, two looping plugins starved every neighbour.
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
    });
    store
}

async fn start(store: &mut Store<State>, blueprint: &Blueprint) -> Result<HandleMessage, Fault> {
    let limits = &blueprint.limits;
    let deadline = store.data().deadline;
    let starting = async {
        let instance = blueprint.plugin.pre.instantiate_async(&mut *store).await?;
        let handle = handler::find(&instance, &mut *store, &blueprint.plugin.exports)?;
        let answer = match &blueprint.plugin.exports.setup {
            Some(setup) => setup::call(&instance, &mut *store, setup).await?,
            None => Ok(()),
        };
        Ok::<_, wasmtime::Error>((handle, answer))
    };
    let outcome = run_until(deadline, &blueprint.pulse, starting).await;
    match outcome {
        Ok(Ok((handle, Ok(())))) => Ok(handle),
        Ok(Ok((_, Err(text)))) => Err(failure::setup_refused(&text)),
        Ok(Err(error)) => {
            Err(failure::in_setup(failure::classify(&error, store.data(), limits, SETUP_TIMEOUT)))
        }
        Err(Elapsed) => Err(failure::in_setup(failure::timeout(SETUP_TIMEOUT))),
    }
}

fn begin(store: &mut Store<State>, delivery: Option<Arc<Delivery>>, deadline: Instant) {
    store.set_epoch_deadline(1);
    let state = store.data_mut();
    state.delivery = delivery;
    state.deadline = deadline;
    state.limiter.denied = None;
    state.log.begin();
}

fn end(store: &mut Store<State>) {
    let state = store.data_mut();
    state.log.end(state.channel());
    state.delivery = None;
}

/// The deadline passed first.
struct Elapsed;

/// Run a guest until it is done or the deadline passes. Most calls are done at once, and don't
/// need a timer; a guest that computes gives way at each tick and interrupts itself; the timer is
/// for one that waits in a host's function.
async fn run_until<F: Future>(
    deadline: Instant,
    pulse: &Pulse,
    guest: F,
) -> Result<F::Output, Elapsed> {
    let mut guest = pin!(guest);
    let mut guest = std::future::poll_fn(move |context| {
        pulse.beat();
        guest.as_mut().poll(context)
    });
    let first = std::future::poll_fn(|context| Poll::Ready(pin!(&mut guest).poll(context))).await;
    match first {
        Poll::Ready(output) => Ok(output),
        // Boxed: seldom needed, and a timer is large.
        Poll::Pending => {
            let limited = Box::pin(tokio::time::timeout_at(deadline.into(), guest));
            limited.await.map_err(|_| Elapsed)
        }
    }
}
