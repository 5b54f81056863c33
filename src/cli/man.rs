//! `handlerd man`: the manual pages, for whoever makes packages.

use std::path::{Path, PathBuf};
use std::{fs, io};

use clap::Command;
use clap_mangen::Man;

use super::exit::{Code, Fault, Outcome};
use crate::config;

/// Write the manual pages into a folder: handlerd(1), a page for each verb, and handlerd.toml(5).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  handlerd man man && man -l man/handlerd-check.1")]
pub struct Args {
    /// The folder, which is made
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Write them.
pub fn main(args: Args) -> Outcome {
    let folder = &args.folder;
    let cant = |error: io::Error| {
        let what = format!("the pages can't be written into {}: {error}", folder.display());
        Fault::say(Code::CantCreate, what)
    };
    fs::create_dir_all(folder).map_err(cant)?;
    let mut command = super::command().disable_help_subcommand(true);
    command.build();
    pages(command, folder).map_err(cant)?;
    fs::write(folder.join("handlerd.toml.5"), config::manual()).map_err(cant)?;
    Ok(Code::Success)
}

/// The page of a command, and those of the verbs within it.
fn pages(command: Command, folder: &Path) -> io::Result<()> {
    if command.is_hide_set() {
        return Ok(());
    }
    for verb in command.get_subcommands() {
        pages(verb.clone(), folder)?;
    }
    let version = concat!("handlerd ", env!("CARGO_PKG_VERSION"));
    let page = Man::new(command).source(version).manual("User commands");
    let mut text = Vec::new();
    page.render(&mut text)?;
    fs::write(folder.join(page.get_filename()), mended(&String::from_utf8_lossy(&text)))
}

/// Sections called as others call them, and no character that a terminal without UTF-8 lacks.
fn mended(page: &str) -> String {
    page.replace(".SH EXTRA\nExamples:\n", ".SH EXAMPLES\n")
        .replace(".SH EXTRA\nExample:\n", ".SH EXAMPLES\n")
        .replace("\n\nExit codes", "\n.SH EXIT STATUS\nExit codes")
        .replace('…', "...")
}
