//! `wasi:logging/logging`: lines in the daemon's log.

use tracing::Level as LogLevel;
use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, WasmStr};

use crate::plugin::instance::State;

#[derive(ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[allow(dead_code)] // Made by the derived `Lift`.
enum Level {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
    #[component(name = "critical")]
    Critical,
}

pub(super) fn add(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.instance("wasi:logging/logging@0.1.0-draft")?.func_wrap("log", log)
}

/// The texts are read where the guest has them: nothing is copied that is cut off.
fn log(
    store: StoreContextMut<'_, State>,
    (level, context, message): (Level, WasmStr, WasmStr),
) -> wasmtime::Result<()> {
    let state = store.data();
    let level = match level {
        Level::Trace => LogLevel::TRACE,
        Level::Debug => LogLevel::DEBUG,
        Level::Info => LogLevel::INFO,
        Level::Warn => LogLevel::WARN,
        Level::Error | Level::Critical => LogLevel::ERROR,
    };
    if !state.log.wants(level) {
        return Ok(());
    }
    let (context, message) = (context.to_str(&store)?, message.to_str(&store)?);
    state.log.line(level, state.channel(), &context, &message);
    Ok(())
}
