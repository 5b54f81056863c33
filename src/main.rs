//! The program: arguments, a verb, an exit code. All of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    handlerd::cli::main()
}
