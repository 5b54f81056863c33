//! How a verb ends: exit codes after sysexits(3), and errors that carry one.

use std::fmt;
use std::process::ExitCode;

use super::console;
use crate::telemetry::with_causes;

/// An exit code. Apart from [`Code::Failed`] they are those of sysexits(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Everything went well.
    Success = 0,
    /// What was tried or tested failed; handlerd itself worked.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 64,
    /// An input file has other content than it must have.
    Data = 65,
    /// An input file isn't there or can't be read; or what was being read is gone.
    NoInput = 66,
    /// A Redis can't be reached, or doesn't do what it was asked for.
    Unavailable = 69,
    /// A fault of handlerd or of the machine under it.
    Software = 70,
    /// An output file can't be written.
    CantCreate = 73,
    /// Reading or writing failed half-way.
    Io = 74,
    /// The configuration, or a plugin that it names, is wrong.
    Config = 78,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        ExitCode::from(code as u8)
    }
}

/// Why a verb could not do its work, and the code that it ends with.
#[derive(Debug)]
pub struct Fault {
    /// The exit code.
    pub code: Code,
    text: Text,
}

#[derive(Debug)]
enum Text {
    /// A sentence, with its causes.
    Error(anyhow::Error),
    /// Complete as it is: diagnostics with their places.
    Rendered(String),
    /// Everything has been said already.
    Said,
}

impl Fault {
    /// An error with its causes.
    pub fn new(code: Code, error: impl Into<anyhow::Error>) -> Self {
        Fault { code, text: Text::Error(error.into()) }
    }

    /// A sentence.
    pub fn say(code: Code, sentence: impl fmt::Display) -> Self {
        Fault::new(code, anyhow::anyhow!("{sentence}"))
    }

    /// A command line that clap couldn't refuse by itself.
    pub fn usage(sentence: impl fmt::Display) -> Self {
        Fault::say(Code::Usage, sentence)
    }

    /// Text that is shown as it stands.
    pub fn rendered(code: Code, text: String) -> Self {
        Fault { code, text: Text::Rendered(text) }
    }

    /// Only the code: the rest was printed.
    pub fn said(code: Code) -> Self {
        Fault { code, text: Text::Said }
    }

    /// Print it on standard error.
    pub fn print(&self) {
        match &self.text {
            Text::Error(error) => console::error(with_causes(error.as_ref())),
            Text::Rendered(text) => console::note(text),
            Text::Said => {}
        }
    }
}

/// Give an error its exit code.
pub trait OrExit<T> {
    /// The value, or a [`Fault`] with this code.
    fn or_exit(self, code: Code) -> Result<T, Fault>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, code: Code) -> Result<T, Fault> {
        self.map_err(|error| Fault::new(code, error))
    }
}

/// What a verb answers.
pub type Outcome = Result<Code, Fault>;
