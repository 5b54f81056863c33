//! What costs time, memory, or the instance.

use std::hint::black_box;

use handlerd_plugin::{Failure, Message, log};

use crate::number;
use imports::wasi::cli::{exit, stdout};
use imports::wasi::clocks::monotonic_clock;

mod imports {
    wit_bindgen::generate!({ path: "wit", world: "imports", generate_all });
}

const MIB: usize = 1024 * 1024;

/// What comes of a command; `None`: the message passes unchanged, after what was done.
pub fn handle(command: &str, arguments: &str) -> Result<Option<Vec<Message>>, Failure> {
    let mut words = arguments.split(' ');
    let mut size = || -> Result<usize, Failure> {
        Ok(usize::try_from(number(words.next().unwrap_or_default())?).unwrap_or(usize::MAX))
    };
    match command {
        "outputs" => {
            let n = size()?;
            let payload = vec![b'x'; size()?];
            return Ok(Some((0..n).map(|_| Message::new(payload.clone())).collect()));
        }
        "million" => return Ok(Some((0..1_000_000).map(|_| Message::new("")).collect())),
        "gigabyte" => return Ok(Some(shared(64, 16 * MIB))),
        "log" => log::info("x".repeat(size()?)),
        "logforever" => loop {
            log::info("x".repeat(1024));
        },
        "stdout" => print(arguments),
        "busy" => busy(size()? as u64),
        "sleep" => sleep(size()? as u64),
        "alloc" => drop(black_box(vec![1_u8; size()?])),
        "loop" => loop {
            black_box(());
        },
        "recurse" => drop(black_box(recurse(0))),
        "panic" => panic!("{arguments}"),
        "trap" => std::process::abort(),
        "exit" => exit::exit(Ok(())),
        _ => {}
    }
    Ok(None)
}

/// A line on standard output, in pieces as large as WASI takes at once.
fn print(text: &str) {
    let line = format!("{text}\n");
    let output = stdout::get_stdout();
    for piece in line.as_bytes().chunks(4096) {
        // Whether anybody reads it is the daemon's affair.
        let _ = output.blocking_write_and_flush(piece);
    }
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

/// Ends where the call stack does. Its frames take next to nothing of the stack that Rust keeps in
/// the plugin's memory, or that would end first, as an access out of bounds.
#[allow(unconditional_recursion)]
fn recurse(depth: u64) -> u64 {
    // Looked at after the call, so that no loop is made of it.
    black_box(recurse(depth + 1)).wrapping_add(depth)
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
