//! `wasi:config/store`: the handler's settings, in the order of the file.

use std::sync::Arc;

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Linker, Lower, WasmStr};

use crate::plugin::instance::State;

/// The versions that plugins import: the one of the interface, and the one of Spin's kit. They are
/// the same but for their name, and pre-releases match only exactly.
pub(in crate::plugin) const VERSIONS: [&str; 2] = ["0.2.0-rc.1", "0.2.0-draft-2024-09-27"];

/// Settings as guests get them.
pub(in crate::plugin) type Settings = Arc<[(Arc<str>, Arc<str>)]>;

#[derive(ComponentType, Lower)]
#[component(variant)]
#[allow(dead_code)] // We answer from memory, so nothing fails: but the type says that it may.
enum Error {
    #[component(name = "upstream")]
    Upstream(String),
    #[component(name = "io")]
    Io(String),
}

type Answer<T> = wasmtime::Result<(Result<T, Error>,)>;

pub(super) fn add(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    for version in VERSIONS {
        let mut store = linker.instance(&format!("wasi:config/store@{version}"))?;
        store.func_wrap("get", get)?;
        store.func_wrap("get-all", |store: StoreContextMut<'_, State>, (): ()| {
            let all: Answer<Vec<(Arc<str>, Arc<str>)>> = Ok((Ok(store.data().settings.to_vec()),));
            all
        })?;
    }
    Ok(())
}

fn get(store: StoreContextMut<'_, State>, (key,): (WasmStr,)) -> Answer<Option<Arc<str>>> {
    let key = key.to_str(&store)?;
    let value = store.data().settings.iter().find(|(name, _)| **name == *key);
    Ok((Ok(value.map(|(_, value)| value.clone())),))
}
