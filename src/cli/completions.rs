//! `handlerd completions`: what a shell completes command lines by.

use clap_complete::Shell;

use super::console::Out;
use super::exit::{Code, Outcome};

/// Print what a shell completes handlerd's command lines by.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  handlerd completions bash > ~/.local/share/bash-completion/completions/handlerd
  handlerd completions zsh > ~/.zfunc/_handlerd        # a folder of your $fpath
  handlerd completions fish > ~/.config/fish/completions/handlerd.fish")]
pub struct Args {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Print them.
pub fn main(args: Args) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "handlerd", &mut script);
    Out::bytes().write(&script)?;
    Ok(Code::Success)
}
