//! The terminal: results on standard output, everything else on standard error.
//!
//! Colour only where a terminal shows it and `NO_COLOR` isn't set. A reader that goes away
//! (`| head`) is no error: [`Out`] then swallows what comes, and tells verbs that could go on for
//! ever.

use std::fmt;
use std::io::{self, Write};

use clap::builder::styling::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::exit::{Code, Fault};

/// What succeeded.
pub const GOOD: Style = AnsiColor::Green.on_default().bold();
/// What failed.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// What to know about.
pub const WARN: Style = AnsiColor::Yellow.on_default().bold();
/// Names of things.
pub const NAME: Style = AnsiColor::Cyan.on_default();
/// What matters less.
pub const DIM: Style = Style::new().dimmed();

/// `error: …` on standard error. One that can't be written is lost: there is nowhere left to say it.
pub fn error(text: impl fmt::Display) {
    let _ = writeln!(anstream::stderr(), "{BAD}error{BAD:#}: {text}");
}

/// `warning: …` on standard error.
pub fn warning(text: impl fmt::Display) {
    let _ = writeln!(anstream::stderr(), "{WARN}warning{WARN:#}: {text}");
}

/// A line on standard error as it is.
pub fn note(text: impl fmt::Display) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Whether standard error shows colours.
pub fn stderr_has_colour() -> bool {
    anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never
}

/// A bar on standard error; nothing where nobody would see it.
pub fn progress_bar(template: &str, hidden: bool) -> ProgressBar {
    let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Standard output, for results.
pub struct Out {
    stream: Box<dyn Write + Send>,
    closed: bool,
}

impl Out {
    /// For text: colours leave only to a terminal.
    pub fn text() -> Self {
        Out { stream: Box::new(anstream::stdout()), closed: false }
    }

    /// For bytes that must arrive as they are.
    pub fn bytes() -> Self {
        Out { stream: Box::new(io::stdout()), closed: false }
    }

    /// Whether nobody reads any more.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// A line of text.
    ///
    /// # Errors
    /// What [`Self::write`] says.
    pub fn line(&mut self, text: impl fmt::Display) -> Result<(), Fault> {
        self.write(format!("{text}\n").as_bytes())
    }

    /// Bytes, at once.
    ///
    /// # Errors
    /// Exit code 74 when they can't be written for another reason than that nobody reads them.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if self.closed {
            return Ok(());
        }
        match self.stream.write_all(bytes).and_then(|()| self.stream.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            Err(error) => {
                Err(Fault::say(Code::Io, format_args!("can't write to standard output: {error}")))
            }
        }
    }
}
