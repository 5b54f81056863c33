//! `handlerd plugin wit`: the text of the interface.

use std::path::{Path, PathBuf};

use crate::cli::console::Out;
use crate::cli::exit::{Code, Fault, Outcome};
use crate::plugin::WIT;

/// Print the interface that plugins are made for, or write its files.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  handlerd plugin wit
  handlerd plugin wit --out my-plugin/wit")]
pub struct Args {
    /// Write the files into this folder, which is made; no file with other content is replaced
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Print or write.
pub fn main(args: Args) -> Outcome {
    let mut out = Out::text();
    match args.out {
        Some(folder) => {
            for (name, text) in WIT {
                let file = folder.join(name);
                write(&file, text)?;
                out.line(file.display())?;
            }
        }
        None => {
            for (index, (name, text)) in WIT.iter().enumerate() {
                let gap = if index == 0 { "" } else { "\n" };
                out.write(format!("{gap}// {name}\n{text}").as_bytes())?;
            }
        }
    }
    Ok(Code::Success)
}

fn write(file: &Path, text: &str) -> Result<(), Fault> {
    let cant = |e: std::io::Error| {
        Fault::say(Code::CantCreate, format_args!("can't write {}: {e}", file.display()))
    };
    if let Ok(there) = std::fs::read(file) {
        if there == text.as_bytes() {
            return Ok(());
        }
        return Err(Fault::say(
            Code::CantCreate,
            format_args!(
                "{} is there already and has another content: move it away, or name another folder",
                file.display()
            ),
        ));
    }
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(cant)?;
    }
    std::fs::write(file, text).map_err(cant)
}
