//! How WebAssembly is compiled and run: one engine for the daemon and for the compiling child.
//!
//! Both must agree on every setting here, or the child's artifact doesn't fit; the cache's key
//! contains the engine's compatibility hash, so a change makes new entries.

use wasmtime::{Config, Engine, OptLevel};

/// Stack of a guest. A deeper recursion traps.
const WASM_STACK: usize = 512 << 10;

/// Stack that a call runs on: the guest's, and what the host's functions need beside it.
const CALL_STACK: usize = 1 << 20;

/// The engine that compiles, loads and runs all plugins.
///
/// # Errors
/// When this machine can't run what it is set to.
pub(super) fn engine() -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(CALL_STACK)
        .cranelift_opt_level(OptLevel::Speed)
        // Only what LLVM and the component tools produce today. Threads, exceptions, garbage
        // collection and asynchronous components aren't built in at all.
        .wasm_component_model(true)
        .wasm_simd(true)
        .wasm_relaxed_simd(true)
        .relaxed_simd_deterministic(true)
        .wasm_bulk_memory(true)
        .wasm_tail_call(true)
        .wasm_multi_memory(true)
        .wasm_memory64(false)
        .wasm_wide_arithmetic(false)
        .wasm_custom_page_sizes(false);
    Engine::new(&config)
}
