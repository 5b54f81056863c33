//! `handlerd:plugin/handler`: a message in, messages out.
//!
//! What goes in is lowered from where it is, without a copy of ours. What comes out is copied out of
//! the guest, and how much of that there may be is bounded before it is.

use std::time::Duration;

use wasmtime::component::{ComponentType, Instance, Lift, Lower, TypedFunc};
use wasmtime::{AsContextMut, Store};

use crate::chain::FailureKind;
use crate::config::HandlerLimits;
use crate::message::{Delivery, Header, Message};
use crate::plugin::failure::{self, Fault};
use crate::plugin::instance::State;
use crate::plugin::judge::Exports;

#[derive(ComponentType, Lower)]
#[component(record)]
pub(in crate::plugin) struct MessageIn<'a> {
    payload: &'a [u8],
    headers: &'a [Header],
    route: Option<&'a str>,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(in crate::plugin) struct MessageOut {
    payload: Vec<u8>,
    headers: Vec<Header>,
    route: Option<String>,
}

#[derive(ComponentType, Lift)]
#[component(variant)]
pub(in crate::plugin) enum FailureOut {
    #[component(name = "reject")]
    Reject(String),
    #[component(name = "retry")]
    Retry(String),
    #[component(name = "retry-after")]
    RetryAfter((u64, String)),
}

/// `handle-message` of an instance. The lifetimes are shortened at each call.
pub(in crate::plugin) type HandleMessage =
    TypedFunc<(&'static str, MessageIn<'static>), (Returned,)>;

/// What it returns, copied out of the guest.
pub(in crate::plugin) type Returned = Result<Vec<MessageOut>, FailureOut>;

/// What the host copies out of a guest at once is at least this: results are judged exactly
/// afterwards, and a handler with a small `max_output` may still log a line.
const MIN_FUEL: usize = 1 << 20;

/// The function of a new instance.
pub(in crate::plugin) fn find(
    instance: &Instance,
    store: &mut Store<State>,
    exports: &Exports,
) -> wasmtime::Result<HandleMessage> {
    instance.get_typed_func(store.as_context_mut(), exports.handle_message)
}

/// Bytes that the host copies out of a guest in one call of either direction.
///
/// wasmtime counts contents and the lists' own elements, before it takes memory for them: so a
/// guest's many messages that share one payload are counted as often as they will be copied.
pub(in crate::plugin) fn fuel(limits: &HandlerLimits) -> usize {
    let messages = limits.max_outputs.saturating_add(1).saturating_mul(size_of::<MessageOut>());
    limits.max_output.saturating_add(messages).max(MIN_FUEL)
}

/// Call it.
pub(in crate::plugin) async fn call(
    handle: HandleMessage,
    store: &mut Store<State>,
    delivery: &Delivery,
    message: &Message,
) -> wasmtime::Result<Returned> {
    let Message { payload, headers, route: _ } = message;
    let message = MessageIn { payload, headers, route: None };
    let (returned,) = handle.call_async(store, (&*delivery.redis_channel, message)).await?;
    Ok(returned)
}

/// Whether what came back keeps the limits, as messages or as the handler's own failure.
pub(in crate::plugin) fn judge(
    returned: Returned,
    limits: &HandlerLimits,
) -> Result<Vec<Message>, Fault> {
    let outputs = match returned {
        Ok(outputs) => outputs,
        Err(failure) => return Err(failed(failure)),
    };
    if outputs.len() > limits.max_outputs {
        return Err(Fault {
            kind: FailureKind::Output,
            reason: format!(
                "it returned {} messages, and `max_outputs` permits {}",
                outputs.len(),
                limits.max_outputs
            ),
        });
    }
    // Both have the same layout: the list stays where it is.
    let outputs: Vec<Message> = outputs
        .into_iter()
        .map(|MessageOut { payload, headers, route }| Message { payload, headers, route })
        .collect();
    let headers = |message: &Message| message.headers.len() * size_of::<Header>();
    let bytes: usize = outputs.iter().map(|message| message.size() + headers(message)).sum();
    if bytes > limits.max_output {
        return Err(failure::too_much_output(limits.max_output));
    }
    Ok(outputs)
}

fn failed(failure: FailureOut) -> Fault {
    let (kind, text) = match failure {
        FailureOut::Reject(text) => (FailureKind::Reject, text),
        FailureOut::Retry(text) => (FailureKind::Retry { after: None }, text),
        FailureOut::RetryAfter((pause, text)) => {
            (FailureKind::Retry { after: Some(Duration::from_millis(pause)) }, text)
        }
    };
    Fault { kind, reason: failure::shorten(text) }
}
