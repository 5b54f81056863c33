//! What costs time, memory, or the instance.

use std::hint::black_box;

use handlerd_plugin::{Failure, Message, log};

use crate::number;
use clock::wasi::clocks::monotonic_clock;

mod clock {
    wit_bindgen::generate!({ path: "wit", world: "clock", generate_all });
}

const MIB: usize = 1024 * 1024;

pub fn handle(command: &str, arguments: &str, message: &Message) -> Result<Vec<Message>, Failure> {
    match command {
        "outputs" => {
            let (n, size) = arguments.split_once(' ').unwrap_or((arguments, "0"));
            let payload = vec![b'x'; number(size)? as usize];
            return Ok((0..number(n)?).map(|_| Message::new(payload.clone())).collect());
        }
        "million" => return Ok((0..1_000_000).map(|_| Message::new("")).collect()),
        "gigabyte" => return Ok(shared(64, 16 * MIB)),
        "log" => log::info("x".repeat(number(arguments)? as usize)),
        "logforever" => loop {
            log::info("x".repeat(1024));
        },
        "busy" => busy(number(arguments)?),
        "sleep" => sleep(number(arguments)?),
        "alloc" => drop(black_box(vec![1_u8; number(arguments)? as usize])),
        "loop" => loop {
            black_box(());
        },
        "recurse" => drop(black_box(recurse(0))),
        "panic" => panic!("{arguments}"),
        "trap" => std::process::abort(),
        _ => {}
    }
    Ok(vec![message.clone()])
}

fn busy(micros: u64) {
    let start = monotonic_clock::now();
    while monotonic_clock::now() - start < micros.saturating_mul(1000) {
        // Some work between two questions, or the host's clock would be all that is measured.
        for round in 0..100 {
            black_box(round);
        }
    }
}

fn sleep(milliseconds: u64) {
    monotonic_clock::subscribe_duration(milliseconds.saturating_mul(1_000_000)).block();
}

/// Ends where the stack does. The frame's address is looked at, so that no loop is made of it.
#[allow(unconditional_recursion)]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 32]);
    recurse(depth + 1) + frame[31]
}

/// `n` messages whose payloads are the same bytes in memory.
fn shared(n: usize, size: usize) -> Vec<Message> {
    let mut bytes = std::mem::ManuallyDrop::new(vec![b'x'; size]);
    let payload = |bytes: *mut u8| {
        // SAFETY: there is none, on purpose: the vectors alias, and freeing them all would ruin
        // the heap. It is the sandbox's heap, and the daemon must refuse them before that.
        unsafe { Vec::from_raw_parts(bytes, size, size) }
    };
    (0..n).map(|_| Message::new(payload(bytes.as_mut_ptr()))).collect()
}
