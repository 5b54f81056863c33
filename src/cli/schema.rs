//! `handlerd schema`: the JSON Schema of the configuration, for editors.

use super::console::Out;
use super::exit::{Code, OrExit, Outcome};
use crate::config;

/// Print the JSON Schema of the configuration, by which editors complete, explain and check it.
///
/// An editor with a TOML language server (Taplo; Even Better TOML in VS Code) reads it where the
/// first line of the configuration says `#:schema ./handlerd.schema.json`, a path from the file.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  handlerd schema > handlerd.schema.json")]
pub struct Args {}

/// Print it.
pub fn main(Args {}: Args) -> Outcome {
    let text = serde_json::to_string_pretty(&config::schema()).or_exit(Code::Software)?;
    Out::text().line(text)?;
    Ok(Code::Success)
}
