//! `handlerd plugin inspect`: what a file is, exports and wants.

use std::path::PathBuf;

use serde_json::json;

use crate::cli::console::{BAD, GOOD, NAME, Out};
use crate::cli::exit::{Code, Fault, Outcome};
use crate::cli::load;
use crate::cli::show::{digits, escaped};
use crate::plugin::Inspection;

/// Show what a plugin file is: its kind, sum, exports and imports. Nothing in it is run.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  handlerd plugin inspect plugins/redact.wasm

Exit codes: 0 it can be used, 65 it can't, 66 it can't be read; and those of every verb, see
handlerd --help.")]
pub struct Args {
    /// The plugin
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Inspect.
pub fn main(args: Args) -> Outcome {
    let host = load::host()?;
    let inspection = load::runtime()?.block_on(host.inspect(&args.file));
    let inspection = inspection.map_err(load::plugin_fault)?;
    let mut out = Out::text();
    if args.json {
        out.line(as_json(&args, &inspection))?;
    } else {
        print(&args, &inspection, &mut out)?;
    }
    Ok(if inspection.refusal.is_none() { Code::Success } else { Code::Data })
}

fn print(args: &Args, inspection: &Inspection, out: &mut Out) -> Result<(), Fault> {
    let Inspection { kind, size, sha256, exports, imports, interface_version, has_setup, refusal } =
        inspection;
    out.line(format_args!("{NAME}{}{NAME:#}", args.file.display()))?;
    out.line(format_args!("  kind       {kind}"))?;
    out.line(format_args!("  size       {size} bytes"))?;
    out.line(format_args!("  sha256     {}", digits(sha256)))?;
    if let Some(version) = interface_version {
        out.line(format_args!("  interface  handlerd:plugin {}", escaped(version.as_bytes())))?;
        out.line(format_args!("  setup      {}", if *has_setup { "yes" } else { "no" }))?;
    }
    for (what, names) in [("exports", exports), ("imports", imports)] {
        let mut label = what;
        if names.is_empty() {
            out.line(format_args!("  {what:9}  nothing"))?;
        }
        for name in names {
            out.line(format_args!("  {label:9}  {}", escaped(name.as_bytes())))?;
            label = "";
        }
    }
    match refusal {
        None => out.line(format_args!("{GOOD}ok{GOOD:#}")),
        Some(refusal) => out.line(format_args!("{BAD}refused{BAD:#}: {refusal}")),
    }
}

fn as_json(args: &Args, inspection: &Inspection) -> serde_json::Value {
    let Inspection { kind, size, sha256, exports, imports, interface_version, has_setup, refusal } =
        inspection;
    json!({
        "file": args.file.to_string_lossy(),
        "kind": kind.to_string(),
        "size": size,
        "sha256": digits(sha256),
        "interface_version": interface_version,
        "setup": has_setup,
        "exports": exports,
        "imports": imports,
        "refusal": refusal,
    })
}
