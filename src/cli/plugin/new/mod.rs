//! `handlerd plugin new`: a folder with all that a plugin begins with.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::cli::console::{NAME, Out};
use crate::cli::exit::{Code, Fault, Outcome};
use crate::cli::load;
use crate::cli::show::shell_path;
use crate::config::Config;

mod rust;

/// Make a folder with a new plugin: its source, its cases, and what builds it.
///
/// All that it needs of handlerd is written into it. Nothing that is there already is touched.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  handlerd plugin new shout
  handlerd plugin new shout --dir ../plugins/shout

Exit codes: 0 it is made, 64 the name can't be one, 73 the folder is there already or can't be made,
78 the configuration that --config names is wrong; and those of every verb, see handlerd --help.")]
pub struct Args {
    /// Of the plugin: small letters, digits, - and _
    #[arg(value_name = "NAME")]
    name: String,
    /// The folder to make [default: NAME]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// What the plugin is written in
    #[arg(long, value_enum, default_value_t = Language::Rust)]
    language: Language,
}

/// What a plugin can be written in.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Language {
    Rust,
}

/// A file of a new plugin.
struct File {
    /// Path in the plugin's folder.
    path: String,
    text: String,
    /// Whether it is a program.
    runs: bool,
}

/// Make it.
pub fn main(args: Args, config: Option<&Path>) -> Outcome {
    let Language::Rust = args.language;
    rust::check_name(&args.name).map_err(|why| {
        Fault::usage(format_args!("a plugin can't be named {:?}: {why}", args.name))
    })?;
    // Before anything is written: a configuration that was named must be right.
    let plugin_dir = plugin_dir(config)?;
    let dir = args.dir.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    let files = rust::files(&args.name);
    make(&dir, &files)?;
    print(&args.name, &dir, &files, plugin_dir.as_deref())
}

/// The plugin folder of the configuration, if there is one.
fn plugin_dir(config: Option<&Path>) -> Result<Option<PathBuf>, Fault> {
    if config.is_some() {
        return Ok(Some(load::config(config)?.plugin_dir));
    }
    // One that wasn't asked for only helps to print what fits.
    let found = load::find_config(None).ok().and_then(|file| Config::load(&file).ok());
    Ok(found.map(|loaded| loaded.config.plugin_dir))
}

/// Write all files into a folder that isn't there yet; none of it stays if one can't be written.
fn make(dir: &Path, files: &[File]) -> Result<(), Fault> {
    let cant = |what: &Path, e: std::io::Error| {
        Fault::say(Code::CantCreate, format_args!("can't make {}: {e}", what.display()))
    };
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent).map_err(|e| cant(parent, e))?;
    }
    DirBuilder::new().mode(0o777).create(dir).map_err(|e| match e.kind() {
        ErrorKind::AlreadyExists => Fault::say(
            Code::CantCreate,
            format_args!(
                "{} is there already, and is left as it is: name another folder by --dir DIR",
                dir.display()
            ),
        ),
        _ => cant(dir, e),
    })?;
    files.iter().try_for_each(|file| write(&dir.join(&file.path), file)).map_err(|(path, e)| {
        let _ = std::fs::remove_dir_all(dir);
        cant(&path, e)
    })
}

fn write(path: &Path, file: &File) -> Result<(), (PathBuf, std::io::Error)> {
    let mode = if file.runs { 0o777 } else { 0o666 };
    let write = || {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(mode);
        options.open(path)?.write_all(file.text.as_bytes())
    };
    write().map_err(|e| (path.to_owned(), e))
}

fn print(name: &str, dir: &Path, files: &[File], plugin_dir: Option<&Path>) -> Outcome {
    let mut out = Out::text();
    let sdk = files.iter().filter(|file| file.path.starts_with("sdk/")).count();
    out.line(format_args!("{NAME}{}{NAME:#} has a new plugin in it:", dir.display()))?;
    for file in files.iter().filter(|file| !file.path.starts_with("sdk/")) {
        out.line(format_args!("  {}", file.path))?;
    }
    out.line(format_args!("  sdk/ ({sdk} files: what handlerd has for plugins in Rust)"))?;
    let shown = shell_path(dir);
    let here = std::env::current_dir().unwrap_or_default();
    let copy = match plugin_dir {
        Some(plugins) => {
            let plugins = shell_path(plugins.strip_prefix(&here).unwrap_or(plugins));
            format!("  cp {shown}/{name}.wasm {plugins}/\n\nand then")
        }
        None => format!("\nThen copy {shown}/{name}.wasm into the plugin folder, and"),
    };
    let program = std::env::args_os().next().map_or("handlerd".into(), PathBuf::from);
    let program = shell_path(&program);
    out.line(format_args!(
        "
Go on with:
  {shown}/build
  {program} test {shown}
  {program} try {shown}/{name}.wasm --channel chat hello
{copy} name it in a channel of the configuration:
  handlers = [\"{name}\"]"
    ))?;
    Ok(Code::Success)
}
