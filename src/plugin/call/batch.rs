//! The driver's `run`: many messages in, in one call. What comes of them comes out by `emit`
//! (`import::driver`).

use wasmtime::component::{ComponentExportIndex, Instance, TypedFunc};
use wasmtime::{AsContextMut, Store};

use crate::chain::Transit;
use crate::message::Message;
use crate::plugin::driver::BATCH_MEMORY;
use crate::plugin::instance::State;

/// A larger message goes into the guest by itself: copying it a second time would cost more than
/// the call.
const LARGEST: usize = 8 << 10;

/// `run` of an instance.
pub(in crate::plugin) type Run = TypedFunc<(&'static [u8],), ()>;

/// The function of a new instance.
pub(in crate::plugin) fn find(
    instance: &Instance,
    store: &mut Store<State>,
    run: &ComponentExportIndex,
) -> wasmtime::Result<Run> {
    instance.get_typed_func(store.as_context_mut(), run)
}

/// Make a batch of as many messages as there is room for, from the front; answers how many. None
/// when the first one is too large.
pub(in crate::plugin) fn encode(messages: &[Transit], batch: &mut Vec<u8>) -> usize {
    batch.clear();
    let mut count = 0;
    for transit in messages {
        let Some(message) = transit.single() else { break };
        let channel = transit.delivery.redis_channel.as_bytes();
        let size = encoded_size(channel, message);
        if size > LARGEST || batch.len() + size > BATCH_MEMORY {
            break;
        }
        push_len(batch, channel.len());
        push_len(batch, message.payload.len());
        push_len(batch, message.headers.len());
        batch.extend_from_slice(channel);
        batch.extend_from_slice(&message.payload);
        for (name, value) in &message.headers {
            push_len(batch, name.len());
            push_len(batch, value.len());
            batch.extend_from_slice(name.as_bytes());
            batch.extend_from_slice(value);
        }
        count += 1;
    }
    count
}

fn encoded_size(channel: &[u8], message: &Message) -> usize {
    let headers = message.headers.iter().map(|(name, value)| 8 + name.len() + value.len());
    12 + channel.len() + message.payload.len() + headers.sum::<usize>()
}

/// Of something in a batch, so it is small.
fn push_len(batch: &mut Vec<u8>, len: usize) {
    batch.extend_from_slice(&(len as u32).to_le_bytes());
}

/// Call it.
pub(in crate::plugin) async fn call(
    run: Run,
    store: &mut Store<State>,
    batch: &[u8],
) -> wasmtime::Result<()> {
    run.call_async(store, (batch,)).await
}
