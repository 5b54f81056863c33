//! `handlerd reload`: have a running daemon read its configuration again, and hear how that went.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::console::Out;
use super::exit::{Code, Fault, Outcome};
use super::inside::{self, DaemonArgs};
use super::load;
use super::show::escaped;
use crate::control::place::Found;
use crate::status::Reload;

/// How often the daemon is asked whether it is done.
const LOOK: Duration = Duration::from_millis(50);

/// Have a running daemon take over what has changed, and wait until it has.
///
/// The daemon reads its configuration again and builds and checks everything new beside the old. When
/// something is wrong with it, everything goes on as it was, and the daemon's log says all of it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  handlerd reload
  handlerd --config /etc/handlerd/config.toml reload

Exit codes: 0 it was taken over, 78 the configuration or a plugin is wrong and the old goes on, 64
several daemons run and --pid doesn't say which, 69 no daemon runs, it doesn't answer, or this user may
not signal it; and those of every verb, see handlerd --help.")]
pub struct Args {
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// Ask for it, and wait.
pub fn main(args: Args, config: Option<&Path>) -> Outcome {
    let found = args.daemon.find(config)?;
    let reload = load::runtime()?.block_on(reload(&found))?;
    let Some(last) = reload.last else { return Ok(Code::Success) };
    let message = escaped(last.message.as_bytes());
    if !last.ok {
        let sentence = format!("the reload was refused, everything goes on as it was: {message}");
        return Err(Fault::say(Code::Config, sentence));
    }
    Out::text().line(format_args!("reloaded: {message}"))?;
    Ok(Code::Success)
}

async fn reload(found: &Found) -> Result<Reload, Fault> {
    let before = state(found).await?.asked;
    let pid = i32::try_from(found.pid).ok().and_then(Pid::from_raw);
    let signalled = pid.map(|pid| kill_process(pid, Signal::HUP));
    if let Some(Err(error)) = signalled {
        let pid = found.pid;
        let sentence = format!(
            "the handlerd of process {pid} can't be signalled: {error}; try it as root, or as the \
             user that it runs as"
        );
        return Err(Fault::say(Code::Unavailable, sentence));
    }
    loop {
        tokio::time::sleep(LOOK).await;
        let now = state(found).await?;
        if now.asked > before {
            return Ok(now);
        }
    }
}

async fn state(found: &Found) -> Result<Reload, Fault> {
    let text = inside::status_text(found).await.map_err(|no_answer| no_answer.into_fault(found))?;
    let status = inside::read_status(&text).map_err(|no_answer| no_answer.into_fault(found))?;
    Ok(status.reload)
}
