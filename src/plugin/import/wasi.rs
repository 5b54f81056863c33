//! WASI 0.2: clocks and random; the rest is there for language runtimes that import it unused, and
//! answers nothing.

use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::plugin::guest_log::GuestLog;
use crate::plugin::instance::State;

/// Most random bytes at once: the host makes them in its own memory.
const MAX_RANDOM: u64 = 1 << 20;

/// Most streams, pollables and the like that an instance may hold at once.
const MAX_RESOURCES: usize = 1000;

pub(super) fn add(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    // Never the synchronous one: it blocks a thread through a sleeping guest, and panics in a
    // runtime.
    wasmtime_wasi::p2::add_to_linker_async(linker)
}

/// What an instance has of WASI: no folder, no socket, no name lookup, no environment, no
/// argument, an empty standard input; what it prints is logged.
pub(in crate::plugin) fn context(log: &GuestLog) -> (WasiCtx, ResourceTable) {
    let mut context = WasiCtx::builder();
    context
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .max_random_size(MAX_RANDOM)
        .stdout(log.stdout())
        .stderr(log.stderr());
    let mut resources = ResourceTable::new();
    resources.set_max_capacity(MAX_RESOURCES);
    (context.build(), resources)
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.resources }
    }
}
