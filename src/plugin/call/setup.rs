//! `handlerd:plugin/setup`: what a plugin does before its first message.

use wasmtime::component::{ComponentExportIndex, Instance};
use wasmtime::{AsContextMut, Store};

use crate::plugin::instance::State;

/// Call it; `Err` inside is the plugin's own word about its settings.
pub(in crate::plugin) async fn call(
    instance: &Instance,
    store: &mut Store<State>,
    setup: &ComponentExportIndex,
) -> wasmtime::Result<Result<(), String>> {
    let setup =
        instance.get_typed_func::<(), (Result<(), String>,)>(store.as_context_mut(), setup)?;
    let (answer,) = setup.call_async(store, ()).await?;
    Ok(answer)
}
