//! Does what its message says: the daemon's tests see by it what a plugin can do to the daemon.
//!
//! The payload is a command and its arguments, separated by single spaces; TEXT is all that
//! follows, and after a number anything may. Sizes are bytes. What is no command passes unchanged.
//!
//! | command | does |
//! | --- | --- |
//! | `echo TEXT` | one message, TEXT |
//! | `fan N` | N messages: `0`, `1`, … |
//! | `outputs N SIZE` | N messages of SIZE bytes each |
//! | `drop` | no message |
//! | `route NAME TEXT` | TEXT, routed to NAME |
//! | `reject TEXT`, `retry TEXT`, `retry-after MS TEXT` | the failure |
//! | `headers` | one message: a line `NAME=VALUE` for each header |
//! | `delivery` | one message: a line for each thing that is known of the delivery |
//! | `config KEY` | one message: the setting, or `none` |
//! | `count` | one message: how many messages this instance has had, this one included |
//! | `header NAME VALUE` | the message with that header, after those it has |
//! | `log SIZE`, `logforever` | one line of SIZE bytes; lines without end |
//! | `stdout TEXT` | TEXT on standard output; then the message unchanged |
//! | `busy MICROS`, `sleep MS` | computes, or sleeps, that long; then the message unchanged |
//! | `alloc SIZE` | allocates and writes SIZE bytes; then the message unchanged |
//! | `loop`, `recurse` | without end |
//! | `panic TEXT`, `trap`, `exit` | ends the instance |
//! | `million` | 1,000,000 empty messages |
//! | `gigabyte` | 64 messages of 16 MiB that share their bytes: 1 GiB out of little memory |

mod harm;
mod tell;

use std::sync::atomic::{AtomicU64, Ordering};

use handlerd_plugin::{Failure, Message, plugin};

/// The messages that this instance has had.
static COUNT: AtomicU64 = AtomicU64::new(0);

fn handle(channel: String, message: Message) -> Result<Vec<Message>, Failure> {
    let count = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    let Ok(payload) = str::from_utf8(&message.payload) else { return Ok(vec![message]) };
    let (command, arguments) = payload.split_once(' ').unwrap_or((payload, ""));
    match command {
        "echo" => Ok(vec![message.with_payload(arguments)]),
        "fan" => {
            let n = number(arguments)?;
            Ok((0..n).map(|index| message.with_payload(index.to_string())).collect())
        }
        "drop" => Ok(Vec::new()),
        "route" => {
            let (name, text) = arguments.split_once(' ').unwrap_or((arguments, ""));
            Ok(vec![message.with_payload(text).routed_to(name)])
        }
        "reject" => Err(Failure::reject(arguments)),
        "retry" => Err(Failure::retry(arguments)),
        "retry-after" => {
            let (pause, text) = arguments.split_once(' ').unwrap_or((arguments, ""));
            Err(Failure::retry_after(number(pause)?, text))
        }
        "count" => Ok(vec![message.with_payload(count.to_string())]),
        "headers" => Ok(vec![message.with_payload(tell::headers(&message))]),
        "header" => {
            let (name, value) = arguments.split_once(' ').unwrap_or((arguments, ""));
            let (name, value) = (name.to_owned(), value.to_owned());
            Ok(vec![message.with_header(name, value)])
        }
        "delivery" => Ok(vec![message.with_payload(tell::delivery(&channel))]),
        "config" => Ok(vec![message.with_payload(tell::setting(arguments)?)]),
        _ => Ok(harm::handle(command, arguments)?.unwrap_or_else(|| vec![message])),
    }
}

fn number(text: &str) -> Result<u64, Failure> {
    text.parse().map_err(|error| Failure::reject(format!("`{text}` is no number: {error}")))
}

plugin!(handle);
