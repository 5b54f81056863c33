//! `handlerd top`: a running daemon on a terminal's screen, each second anew.
//!
//! A task asks the daemon, the screen's own thread draws and reads keys: a daemon that doesn't
//! answer never makes the screen stand still.

mod columns;
mod rates;
mod screen;

use std::io::IsTerminal;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use super::exit::{Code, Fault, OrExit, Outcome};
use super::inside::{self, DaemonArgs, NoAnswer};
use super::load;
use crate::control::place::{self, Found};
use crate::service::Stop;
use crate::status::Status;
use screen::{Flow, Screen};

/// How often the daemon is asked.
const EVERY: Duration = Duration::from_secs(1);

/// How long it may take until a signal or an answer is seen.
const LOOK: Duration = Duration::from_millis(100);

/// Show a running daemon on the screen: channels with their rates, handlers, Redis, what is wrong.
///
/// Keys: Tab changes between channels and handlers, the arrows left and right choose what they are
/// sorted by, r reverses that, up, down and the page keys scroll, q ends. A daemon that is started
/// again is found again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  handlerd top
  handlerd --config /etc/handlerd/config.toml top

Exit codes: 0 ended by a key or a signal, 64 standard output is no terminal, or several daemons run
and --pid doesn't say which, 69 no daemon runs; and those of every verb, see handlerd --help.")]
pub struct Args {
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// Show it.
pub fn main(args: Args, config: Option<&Path>) -> Outcome {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Fault::usage(
            "top draws on a terminal, and this is none: `handlerd status` prints the same once, and \
             `handlerd status --json` for programs",
        ));
    }
    let found = args.daemon.find(config)?;
    let runtime = load::runtime()?;
    let ended = Arc::new(AtomicBool::new(false));
    runtime.block_on(async { end_at_signal(ended.clone()) })?;
    let (sender, answers) = mpsc::channel();
    runtime.spawn(ask(found, sender));
    let mut terminal = ratatui::try_init().or_exit(Code::Io)?;
    let shown = show(&mut terminal, &answers, &ended);
    ratatui::restore();
    shown.or_exit(Code::Io)?;
    Ok(Code::Success)
}

/// Draw what comes until a key or a signal ends it.
fn show(
    terminal: &mut DefaultTerminal,
    answers: &mpsc::Receiver<Result<Status, String>>,
    ended: &AtomicBool,
) -> std::io::Result<()> {
    let mut screen = Screen::default();
    let mut is_stale = true;
    while !ended.load(Relaxed) {
        while let Ok(answer) = answers.try_recv() {
            screen.take(answer);
            is_stale = true;
        }
        if is_stale {
            terminal.draw(|frame| screen.draw(frame))?;
            is_stale = false;
        }
        if !event::poll(LOOK)? {
            continue;
        }
        is_stale = true;
        if let Event::Key(key) = event::read()?
            && screen.key(key) == Flow::End
        {
            break;
        }
    }
    Ok(())
}

/// Ask the daemon for ever; where it is gone, the one that was started in its place.
async fn ask(mut found: Found, answers: mpsc::Sender<Result<Status, String>>) {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let answer = inside::status_text(&found).await;
        let answer = answer.and_then(|text| inside::read_status(&text)).map_err(|no_answer| {
            if let Some(again) = place::again(&found) {
                found = again;
            }
            match no_answer {
                NoAnswer::Refused(_, refusal) => refusal.error,
                NoAnswer::Broken(reason) => reason,
            }
        });
        if answers.send(answer).is_err() {
            return;
        }
    }
}

/// Have a signal end it in an orderly way: the terminal is to be as it was.
fn end_at_signal(ended: Arc<AtomicBool>) -> Result<(), Fault> {
    let mut stop = Stop::listen().or_exit(Code::Software)?;
    let mut hangup = signal(SignalKind::hangup()).or_exit(Code::Software)?;
    tokio::spawn(async move {
        tokio::select! {
            _ = stop.next() => {}
            _ = hangup.recv() => {}
        }
        ended.store(true, Relaxed);
        // Where the terminal is gone, looking for keys never ends: crossterm reads its end again and
        // again.
        tokio::time::sleep(5 * LOOK).await;
        ratatui::restore();
        std::process::exit(Code::Success as i32);
    });
    Ok(())
}
