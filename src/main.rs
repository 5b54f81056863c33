//! The program: arguments, a verb, an exit code. All of it is in the library.

use std::process::ExitCode;

/// A message's buffers are made by the thread that reads and freed by the one that writes, which
/// is where the C library's allocator is slow: see `benches/relay`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    handlerd::cli::main()
}
