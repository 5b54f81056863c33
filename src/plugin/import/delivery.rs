//! `handlerd:plugin/delivery`: about the message in hand. Outside of `handle-message` it answers
//! as for nothing.

use std::sync::Arc;

use wasmtime::component::{Linker, Lower};

use crate::message::Delivery;
use crate::plugin::instance::State;

pub(super) fn add(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    // Only types, but some tools import it as an instance.
    linker.instance("handlerd:plugin/types@0.1.0")?;
    let mut delivery = linker.instance("handlerd:plugin/delivery@0.1.0")?;
    let mut answer = Answers(&mut delivery);
    answer.with("table", |delivery| delivery.map_or_else(Arc::default, |d| d.table.clone()))?;
    answer.with("pattern", |delivery| delivery.and_then(|d| d.pattern.clone()))?;
    answer.with("id", |delivery| delivery.and_then(|d| d.id.clone()))?;
    answer.with("attempt", |delivery| delivery.map_or(0, |d| d.attempt))?;
    answer.with("received-at", |delivery| delivery.map_or(0, |d| d.received_at))
}

struct Answers<'a, 'b>(&'a mut wasmtime::component::LinkerInstance<'b, State>);

impl Answers<'_, '_> {
    fn with<T>(
        &mut self,
        name: &str,
        answer: impl Fn(Option<&Delivery>) -> T + Send + Sync + 'static,
    ) -> wasmtime::Result<()>
    where
        T: Lower + wasmtime::component::ComponentType + Send + Sync + 'static,
    {
        self.0.func_wrap(name, move |store, (): ()| Ok((answer(store.data().delivery.as_deref()),)))
    }
}
