//! The command line: arguments to a verb, a verb to an exit code. One file a verb.
//!
//! Called by `main`. Results go to standard output, everything else to standard error; the codes
//! are those of sysexits(3), and 1 when what was tried or tested failed. Verbs use the library's
//! parts as the daemon does and own none of their work.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Command, CommandFactory, Parser, Subcommand};

mod check;
mod completions;
mod console;
mod dead;
mod exit;
mod figures;
mod hint;
mod inside;
mod listen;
mod load;
mod man;
mod plugin;
mod reload;
mod replay;
mod run;
mod schema;
mod send;
mod show;
mod status;
mod tap;
mod test;
mod top;
mod r#try;
mod way;

use exit::Code;

use crate::plugin::compile;

/// Passes Redis messages through a chain of sandboxed WebAssembly plugins.
///
/// Subscribes to Redis channels, hands each message to the handlers of its channel and publishes,
/// pushes or logs what comes out. Without a verb it runs the daemon.
#[derive(Debug, Parser)]
#[command(name = "handlerd", version, max_term_width = 100)]
#[command(after_help = "Examples:
  handlerd                               run with ./config.toml, else /etc/handlerd/config.toml
  handlerd check                         is the configuration right?
  handlerd try chat 'hello'              what would become of this message?
  handlerd status                        how is the daemon that runs?
  handlerd --config my.toml run
  handlerd schema > handlerd.schema.json    what an editor completes the configuration by

Exit codes are those of sysexits(3). Each verb's --help lists its own; those of every verb are 64 the
command line makes no sense, 70 a fault of the machine or of handlerd, 74 the output can't be
written.")]
struct Cli {
    /// The configuration [default: ./config.toml, else /etc/handlerd/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(run::Args),
    Check(check::Args),
    Try(r#try::Args),
    Test(test::Args),
    Send(send::Args),
    Listen(listen::Args),
    Tap(tap::Args),
    Top(top::Args),
    Status(status::Args),
    Reload(reload::Args),
    Replay(replay::Args),
    Dead(dead::Args),
    Plugin(plugin::Args),
    Schema(schema::Args),
    Completions(completions::Args),
    #[command(hide = true)]
    Man(man::Args),
}

/// The whole command line, for what is made from it.
fn command() -> Command {
    Cli::command()
}

/// Read the arguments, do what they say, and answer the exit code.
pub fn main() -> ExitCode {
    // The child that compiles a plugin: started by handlerd itself, and no verb for people.
    if std::env::args_os().nth(1).is_some_and(|verb| verb == compile::VERB) {
        return compile::child_main();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A reader that went away is no reason for another code.
            let _ = error.print();
            let code = if error.use_stderr() { Code::Usage } else { Code::Success };
            return code.into();
        }
    };
    let config = cli.config.as_deref();
    let outcome = match cli.verb.unwrap_or(Verb::Run(run::Args::default())) {
        Verb::Run(args) => run::main(args, config),
        Verb::Check(args) => check::main(args, config),
        Verb::Try(args) => r#try::main(args, config),
        Verb::Test(args) => test::main(args, config),
        Verb::Send(args) => send::main(args, config),
        Verb::Listen(args) => listen::main(args, config),
        Verb::Tap(args) => tap::main(args, config),
        Verb::Top(args) => top::main(args, config),
        Verb::Status(args) => status::main(args, config),
        Verb::Reload(args) => reload::main(args, config),
        Verb::Replay(args) => replay::main(args, config),
        Verb::Dead(args) => dead::main(args, config),
        Verb::Plugin(args) => plugin::main(args, config),
        Verb::Schema(args) => schema::main(args),
        Verb::Completions(args) => completions::main(args),
        Verb::Man(args) => man::main(args),
    };
    match outcome {
        Ok(code) => code.into(),
        Err(fault) => {
            fault.print();
            fault.code.into()
        }
    }
}
