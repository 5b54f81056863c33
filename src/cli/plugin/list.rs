//! `handlerd plugin list`: the plugins of a folder, and who uses them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::cli::console::{BAD, DIM, GOOD, NAME, Out};
use crate::cli::exit::{Code, Fault, Outcome};
use crate::cli::show::{digits, escaped};
use crate::cli::{load, way};
use crate::config::Config;
use crate::plugin::{Host, Inspection};
use crate::telemetry::with_causes;

/// List the plugins of a folder: size, sha256, whether they can be used, which channels use them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  handlerd plugin list
  handlerd plugin list ./plugins --json

Exit codes: 0 all can be used, 65 one can't, 66 the folder can't be read, 78 the configuration is
wrong or missing; and those of every verb, see handlerd --help.")]
pub struct Args {
    /// The folder [default: that of the configuration]
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print a JSON object for each plugin
    #[arg(long)]
    json: bool,
}

/// Digits of the sum that are shown: enough to tell files apart.
const SUM_DIGITS: usize = 12;

/// A plugin in the list.
struct Row {
    name: String,
    file: PathBuf,
    inspected: Result<Inspection, String>,
    /// Names of channels.
    used_by: Vec<Arc<str>>,
}

impl Row {
    fn refusal(&self) -> Option<&str> {
        match &self.inspected {
            Ok(inspection) => inspection.refusal.as_deref(),
            Err(error) => Some(error),
        }
    }
}

/// List.
pub fn main(args: Args, config: Option<&Path>) -> Outcome {
    let (dir, config) = match &args.dir {
        // The folder alone is enough; a configuration only adds who uses what.
        Some(dir) if config.is_none() && load::find_config(None).is_err() => (dir.clone(), None),
        Some(dir) => (dir.clone(), Some(load::config(config)?)),
        None => {
            let config = load::config(config)?;
            (config.plugin_dir.clone(), Some(config))
        }
    };
    let files = plugin_files(&dir).map_err(|e| {
        let dir = dir.display();
        Fault::say(Code::NoInput, format_args!("can't read the plugin folder {dir}: {e}"))
    })?;
    let host = load::host()?;
    let rows = load::runtime()?.block_on(rows(&host, files, config.as_ref()));
    let mut out = Out::text();
    if args.json {
        rows.iter().try_for_each(|row| out.line(as_json(row)))?;
    } else {
        print(&dir, &rows, &mut out)?;
    }
    let all_good = rows.iter().all(|row| row.refusal().is_none());
    Ok(if all_good { Code::Success } else { Code::Data })
}

fn plugin_files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "wasm") && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

async fn rows(host: &Arc<Host>, files: Vec<PathBuf>, config: Option<&Config>) -> Vec<Row> {
    let rows = files.into_iter().map(|file| async move {
        let inspected = host.inspect(&file).await.map_err(|error| with_causes(&error));
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let used_by = config.map(|config| used_by(config, &file)).unwrap_or_default();
        Row { name, file, inspected, used_by }
    });
    futures_util::future::join_all(rows).await
}

/// The channels with a handler that is made of this file.
fn used_by(config: &Config, file: &Path) -> Vec<Arc<str>> {
    let same = |a: &Path, b: &Path| match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    };
    let of_file: Vec<&Arc<str>> =
        config.handlers.values().filter(|h| same(&h.plugin, file)).map(|h| &h.name).collect();
    let uses = |name: &Arc<str>| of_file.contains(&name);
    let channels = config.channels.iter().filter(|channel| channel.handlers.iter().any(uses));
    channels.map(|channel| channel.name.clone()).collect()
}

fn print(dir: &Path, rows: &[Row], out: &mut Out) -> Result<(), Fault> {
    if rows.is_empty() {
        return out.line(format_args!(
            "{DIM}there are no plugins in {}; `handlerd plugin new NAME` begins one, and handlerd's \
             repository has some in `plugins`{DIM:#}",
            dir.display()
        ));
    }
    let width = rows.iter().map(|row| escaped(row.name.as_bytes()).chars().count()).max();
    let width = width.unwrap_or_default().max("NAME".len());
    let (name, size, sum, state, channels) = ("NAME", "SIZE", "SHA256", "STATE", "CHANNELS");
    let head = format!("{name:width$}  {size:>9}  {sum:SUM_DIGITS$}  {state:7}  {channels}");
    out.line(format_args!("{DIM}{head}{DIM:#}"))?;
    for row in rows {
        let name = escaped(row.name.as_bytes());
        let (size, mut sum) = match &row.inspected {
            Ok(i) => (bytesize::ByteSize(i.size).to_string(), digits(&i.sha256)),
            Err(_) => ("-".to_owned(), "-".to_owned()),
        };
        sum.truncate(SUM_DIGITS);
        let (style, state) = if row.refusal().is_none() { (GOOD, "ok") } else { (BAD, "refused") };
        let channels: Vec<String> = row.used_by.iter().map(|name| way::shown(name)).collect();
        let channels = if channels.is_empty() { "-".to_owned() } else { channels.join(", ") };
        out.line(format_args!(
            "{NAME}{name:width$}{NAME:#}  {size:>9}  {sum:SUM_DIGITS$}  \
             {style}{state:7}{style:#}  {channels}"
        ))?;
        if let Some(refusal) = row.refusal() {
            out.line(format_args!("  {refusal}"))?;
        }
    }
    Ok(())
}

fn as_json(row: &Row) -> Json {
    let inspection = row.inspected.as_ref().ok();
    json!({
        "name": row.name,
        "file": row.file.to_string_lossy(),
        "size": inspection.map(|inspection| inspection.size),
        "sha256": inspection.map(|inspection| digits(&inspection.sha256)),
        "refusal": row.refusal(),
        "channels": row.used_by.iter().map(|name| Json::from(&**name)).collect::<Vec<_>>(),
    })
}
