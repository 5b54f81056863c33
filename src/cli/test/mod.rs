//! `handlerd test`: the cases of plugins, each in an instance of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::console::{self, BAD, GOOD, NAME, Out, WARN};
use super::exit::{Code, Fault, OrExit, Outcome};
use super::load;
use super::show::{escaped, meant};
use crate::chain::{Failure, FailureKind, handle_one};
use crate::config::cases::{self, Came, Case, CaseFile, Expected};
use crate::config::{Handler, InstancePolicy};
use crate::message::Delivery;
use crate::plugin::{Host, PluginError};
use crate::telemetry;
use crate::telemetry::with_causes;

mod compare;

/// A case may take longer than a message: what is tested is what comes out, on machines that are
/// busy with other things.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Run the cases of plugins.
///
/// Cases are in NAME.toml beside NAME.wasm. Each is a message in, and what must come of it: the
/// messages that come out, or a failure. Each gets an instance of its own, with the settings of
/// its `config`, and ten seconds.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  handlerd test                          all cases of ./plugins
  handlerd test plugins/redact.wasm --filter masked
  handlerd test plugins --bless          what comes out now is right: write it into the cases

A case:
  [[case]]
  name = \"a word is masked\"
  config = { words = \"foo\" }            # settings of the plugin; none unless given
  channel = \"chat\"                      # default \"test\"
  in = \"say foo\"                        # or in_hex = \"00 ff\", or in_file = \"message.bin\"
  headers = [[\"lang\", \"en\"]]
  out = [\"say ***\"]                     # or reject, retry or setup = \"part of the text\"

A message in `out` is a string or { payload = \"…\" or payload_hex = \"…\", headers = […],
route = \"…\" }; headers are compared where they are given, and a route must be given.

Exit codes: 0 all passed, 1 one failed, 65 a file of cases is wrong, 66 there is nothing to test;
and those of every verb, see handlerd --help.")]
pub struct Args {
    /// A folder of plugins, or one plugin or its cases
    #[arg(value_name = "DIR|FILE", default_value = "plugins")]
    target: PathBuf,
    /// Write what comes out into the cases that fail; comments stay
    #[arg(long)]
    bless: bool,
    /// Only cases that have this in their name, or in their plugin's
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    filter: String,
}

/// Test.
pub fn main(args: Args, _: Option<&Path>) -> Outcome {
    telemetry::log::to_terminal("warn").or_exit(Code::Usage)?;
    let suites = Suites::find(&args.target)?;
    let runtime = load::runtime()?;
    let host = load::host()?;
    let mut report = Report { out: Out::text(), ..Report::default() };
    for orphan in &suites.without_plugin {
        let (shown, plugin) = (orphan.display(), orphan.with_extension("wasm"));
        let text = format!("it has cases, but there is no {}", plugin.display());
        report.out.line(format_args!("{NAME}{shown}{NAME:#}: {BAD}failed{BAD:#}: {text}"))?;
        report.failed += 1;
    }
    for (plugin, cases) in &suites.with_cases {
        runtime.block_on(suite(&args, &host, plugin, cases, &mut report))?;
    }
    for plugin in &suites.without_cases {
        let shown = plugin.display();
        report.out.line(format_args!("{NAME}{shown}{NAME:#}: {WARN}no cases{WARN:#}"))?;
    }
    report.end(&args)
}

/// What there is to test.
#[derive(Default)]
struct Suites {
    /// Plugins and their cases.
    with_cases: Vec<(PathBuf, PathBuf)>,
    /// Plugins.
    without_cases: Vec<PathBuf>,
    /// Files of cases.
    without_plugin: Vec<PathBuf>,
}

impl Suites {
    fn find(target: &Path) -> Result<Self, Fault> {
        let no_input = |text: String| Fault::say(Code::NoInput, text);
        let shown = target.display();
        if target.is_dir() {
            return Suites::in_folder(target)
                .map_err(|e| no_input(format!("can't read the folder {shown}: {e}")));
        }
        let is_named_as_a_file =
            target.extension().is_some_and(|end| end == "wasm" || end == "toml");
        if !target.exists() && !is_named_as_a_file {
            return Err(no_input(format!(
                "there is no folder {shown}: name one with plugins and their cases, as in `handlerd \
                 test DIR`, or make a plugin by `handlerd plugin new NAME`"
            )));
        }
        let pair = (target.with_extension("wasm"), target.with_extension("toml"));
        if target != pair.0 && target != pair.1 {
            return Err(no_input(format!("{shown} is no folder, no .wasm and no .toml file")));
        }
        for file in [&pair.0, &pair.1] {
            if !file.is_file() {
                let near = Suites::near(file);
                return Err(no_input(format!("there is no file {}{near}", file.display())));
            }
        }
        Ok(Suites { with_cases: vec![pair], ..Suites::default() })
    }

    fn in_folder(folder: &Path) -> std::io::Result<Self> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            files.push(entry?.path());
        }
        files.sort();
        let mut suites = Suites::default();
        for file in files.into_iter().filter(|file| file.is_file()) {
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("wasm") => {
                    let cases = file.with_extension("toml");
                    if cases.is_file() {
                        suites.with_cases.push((file, cases));
                    } else {
                        suites.without_cases.push(file);
                    }
                }
                // Other TOML files live there too: Cargo's, for instance.
                Some("toml") if !file.with_extension("wasm").is_file() => {
                    let text = std::fs::read(&file)?;
                    if cases::has_cases(&String::from_utf8_lossy(&text)) {
                        suites.without_plugin.push(file);
                    }
                }
                _ => {}
            }
        }
        Ok(suites)
    }

    /// The file beside this one that was probably meant.
    fn near(file: &Path) -> String {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        let entries = std::fs::read_dir(folder.unwrap_or(Path::new("."))).into_iter().flatten();
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let names: Vec<String> = names.filter(|name| name.ends_with(".wasm")).collect();
        let wrong = file.file_name().unwrap_or_default().to_string_lossy();
        meant(&wrong, names.iter().map(String::as_str))
    }
}

/// What has come of the cases so far.
struct Report {
    out: Out,
    passed: usize,
    failed: usize,
    blessed: usize,
    /// A file of cases could not be read.
    bad_file: bool,
}

impl Default for Report {
    fn default() -> Self {
        Report { out: Out::text(), passed: 0, failed: 0, blessed: 0, bad_file: false }
    }
}

impl Report {
    fn end(mut self, args: &Args) -> Outcome {
        let Report { passed, failed, blessed, bad_file, .. } = self;
        let blessed_too = if args.bless { format!(", {blessed} blessed") } else { String::new() };
        let style = if failed > 0 || bad_file { BAD } else { GOOD };
        self.out
            .line(format_args!("{style}{passed} passed, {failed} failed{blessed_too}{style:#}"))?;
        if bad_file {
            return Ok(Code::Data);
        }
        if failed > 0 {
            return Ok(Code::Failed);
        }
        if passed + blessed == 0 {
            let target = args.target.display();
            let what = match args.filter.as_str() {
                "" => format!("there are no cases in {target}: write NAME.toml beside NAME.wasm"),
                filter => format!("no case in {target} has {filter:?} in its name"),
            };
            return Err(Fault::say(Code::NoInput, what));
        }
        Ok(Code::Success)
    }

    fn pass(&mut self, case: &Case) -> Result<(), Fault> {
        self.passed += 1;
        self.out.line(format_args!("  {GOOD}ok{GOOD:#} {}", escaped(case.name.as_bytes())))
    }

    fn fail(&mut self, file: &Path, case: &Case, lines: &[String]) -> Result<(), Fault> {
        self.failed += 1;
        let (name, file, line) = (escaped(case.name.as_bytes()), file.display(), case.line);
        self.out.line(format_args!("  {BAD}FAILED{BAD:#} {name} ({file}:{line})"))?;
        lines.iter().try_for_each(|line| self.out.line(format_args!("    {line}")))
    }
}

/// The cases of one plugin.
async fn suite(
    args: &Args,
    host: &Arc<Host>,
    plugin: &Path,
    file: &Path,
    report: &mut Report,
) -> Result<(), Fault> {
    let cases = match CaseFile::load(file) {
        Ok(cases) => cases,
        Err(errors) => {
            console::note(errors.render(console::stderr_has_colour()));
            report.bad_file = true;
            return Ok(());
        }
    };
    let stem = plugin.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let chosen = |case: &Case| stem.contains(&args.filter) || case.name.contains(&args.filter);
    let shown = plugin.display();
    if cases.cases.is_empty() {
        return report.out.line(format_args!("{NAME}{shown}{NAME:#}: {WARN}no cases{WARN:#}"));
    }
    if !cases.cases.iter().any(chosen) {
        return Ok(());
    }
    report.out.line(format_args!("{NAME}{shown}{NAME:#}"))?;
    let mut blessings = BTreeMap::new();
    for (index, case) in cases.cases.iter().enumerate().filter(|(_, case)| chosen(case)) {
        let came = match run(host, plugin, case).await {
            Ok(came) => came,
            Err(Broken::Case(reason)) => {
                report.fail(file, case, &[reason])?;
                continue;
            }
            Err(Broken::Plugin(reason)) => {
                // It would be the same for all others.
                report.failed += cases.cases.iter().filter(|case| chosen(case)).count();
                return report.out.line(format_args!("  {BAD}FAILED{BAD:#} {reason}"));
            }
        };
        let differences = judge(&case.expected, &came);
        if differences.is_empty() {
            report.pass(case)?;
        } else if args.bless {
            blessings.insert(index, came);
        } else {
            report.fail(file, case, &differences)?;
        }
    }
    bless(&cases, &blessings, report)
}

fn bless(
    cases: &CaseFile,
    blessings: &BTreeMap<usize, Came>,
    report: &mut Report,
) -> Result<(), Fault> {
    if blessings.is_empty() {
        return Ok(());
    }
    let file = cases.file.display();
    cases.bless(blessings).map_err(|e| {
        Fault::say(Code::CantCreate, format_args!("can't bless the cases of {file}: {e}"))
    })?;
    report.blessed += blessings.len();
    for index in blessings.keys() {
        let (name, line) = (escaped(cases.cases[*index].name.as_bytes()), cases.cases[*index].line);
        report.out.line(format_args!("  {WARN}blessed{WARN:#} {name} ({file}:{line})"))?;
    }
    Ok(())
}

/// Why nothing came of a case.
enum Broken {
    /// A trap, a timeout, a limit.
    Case(String),
    /// The plugin can't be used at all.
    Plugin(String),
}

async fn run(host: &Arc<Host>, plugin: &Path, case: &Case) -> Result<Came, Broken> {
    let mut handler = Handler::for_file(plugin);
    handler.config = case.config.clone();
    handler.instance = InstancePolicy::Fresh;
    handler.limits.timeout = TIMEOUT;
    handler.limits.instances = 1;
    let loaded = match host.load(&handler).await {
        Ok(loaded) => loaded,
        Err(PluginError::Setup { reason, .. }) => return Ok(Came::Setup(reason)),
        Err(error) => {
            return Err(Broken::Plugin(with_causes(&error)));
        }
    };
    let delivery = Arc::new(Delivery {
        table: "test".into(),
        redis_channel: case.channel.as_str().into(),
        pattern: None,
        id: None,
        attempt: 1,
        received_at: 0,
    });
    match handle_one(&*loaded, &delivery, case.input.clone()).await {
        Ok(messages) => Ok(Came::Out(messages)),
        Err(Failure { kind, reason, .. }) => match kind {
            FailureKind::Reject => Ok(Came::Reject(reason)),
            FailureKind::Retry { .. } => Ok(Came::Retry(reason)),
            FailureKind::Setup => Ok(Came::Setup(reason)),
            kind => {
                let reason = escaped(reason.as_bytes());
                Err(Broken::Case(format!("{}: {reason}", kind.as_str())))
            }
        },
    }
}

/// How what came isn't what was expected; empty when it is.
fn judge(expected: &Expected, came: &Came) -> Vec<String> {
    let (part, text) = match (expected, came) {
        (Expected::Out(expected), Came::Out(messages)) => {
            return compare::outputs(expected, messages);
        }
        (Expected::Reject(part), Came::Reject(text))
        | (Expected::Retry(part), Came::Retry(text))
        | (Expected::Setup(part), Came::Setup(text)) => (part, text),
        _ => return vec![expected_line(expected), came_line(came)],
    };
    if text.contains(part.as_str()) {
        return Vec::new();
    }
    let quoted = |text: &str| escaped(text.as_bytes());
    vec![
        "the failure's text has another content".to_owned(),
        format!("  expected  {}", quoted(part)),
        format!("  got       {}", quoted(text)),
    ]
}

fn expected_line(expected: &Expected) -> String {
    let with = |what: &str, part: &str| format!("expected  {what} ({})", escaped(part.as_bytes()));
    match expected {
        Expected::Unsaid => {
            "it expects nothing yet: write `out`, `reject`, `retry` or `setup`, or run with --bless"
                .to_owned()
        }
        Expected::Out(messages) => match messages.len() {
            0 => "expected  no message".to_owned(),
            1 => "expected  1 message".to_owned(),
            n => format!("expected  {n} messages"),
        },
        Expected::Reject(part) => with("reject", part),
        Expected::Retry(part) => with("retry", part),
        Expected::Setup(part) => with("a refusal by setup", part),
    }
}

fn came_line(came: &Came) -> String {
    let with = |what: &str, text: &str| format!("got       {what}: {}", escaped(text.as_bytes()));
    match came {
        Came::Out(messages) => {
            let payloads = messages.iter().map(|m| telemetry::printable(&m.payload, 200));
            match messages.len() {
                0 => "got       no message".to_owned(),
                n => {
                    format!("got       {n} messages: {}", payloads.collect::<Vec<_>>().join(" | "))
                }
            }
        }
        Came::Reject(text) => with("reject", text),
        Came::Retry(text) => with("retry", text),
        Came::Setup(text) => with("setup failed", text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cases::ExpectedMessage;
    use crate::message::Message;

    #[test]
    fn a_failure_is_judged_by_its_kind_and_a_part_of_its_text() {
        let reject = |part: &str| Expected::Reject(part.into());
        let came = Came::Reject("no such word".into());
        assert_eq!(judge(&reject("such"), &came), [""; 0]);
        assert_eq!(judge(&reject(""), &came), [""; 0]);
        assert_eq!(judge(&reject("other"), &came).len(), 3);
        assert_eq!(
            judge(&Expected::Retry("such".into()), &came),
            ["expected  retry (such)", "got       reject: no such word"]
        );
        let message = ExpectedMessage { payload: b"x".to_vec(), headers: None, route: None };
        assert_eq!(
            judge(&Expected::Out(vec![message]), &came),
            ["expected  1 message", "got       reject: no such word"]
        );
        assert_eq!(
            judge(&reject(""), &Came::Out(vec![Message::new("x")])),
            ["expected  reject ()", "got       1 messages: x"]
        );
        assert!(!judge(&Expected::Unsaid, &came).is_empty());
    }

    #[test]
    fn plugins_cases_and_other_files_are_told_apart() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).expect("a file");
        };
        write("a.wasm", "");
        write("a.toml", "");
        write("b.wasm", "");
        write("c.toml", "[[case]]\n");
        write("Cargo.toml", "[workspace]\n");
        let suites = Suites::find(folder.path()).expect("suites");
        let path = |name: &str| folder.path().join(name);
        assert_eq!(suites.with_cases, [(path("a.wasm"), path("a.toml"))]);
        assert_eq!(suites.without_cases, [path("b.wasm")]);
        assert_eq!(suites.without_plugin, [path("c.toml")]);
        for (file, message) in [("b.wasm", "b.toml"), ("c.toml", "c.wasm"), ("d", "is no folder")] {
            let fault = Suites::find(&path(file)).err().expect("a fault");
            assert_eq!(fault.code, Code::NoInput);
            assert!(format!("{fault:?}").contains(message), "{fault:?}");
        }
    }
}
