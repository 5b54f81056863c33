//! What guests may call: one file an interface.
//!
//! All of it is linked once, for all plugins; which of it a plugin may import is judged before
//! (`judge`).

use wasmtime::Engine;
use wasmtime::component::Linker;

use super::instance::State;

mod config;
mod delivery;
mod driver;
mod logging;
mod wasi;

/// Everything that a plugin may import.
pub(super) fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasi::add(&mut linker)?;
    delivery::add(&mut linker)?;
    logging::add(&mut linker)?;
    config::add(&mut linker)?;
    driver::add(&mut linker)?;
    Ok(linker)
}

pub(super) use config::{Settings, VERSIONS as CONFIG_VERSIONS};
pub(super) use driver::Emitted;
pub(super) use wasi::context as wasi_context;
