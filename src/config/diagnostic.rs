//! What is wrong with a configuration, and how it is shown.
//!
//! A [`Diagnostic`] owns the line it shows, with secrets already masked: nothing that is kept or
//! printed here has a password in it. Made by `reader`, printed by the verbs.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};

use super::secret::{mask, mask_url};

/// The text of a configuration file and its name.
pub(super) struct Source {
    name: Arc<str>,
    text: String,
    /// Offset of the first byte of each line.
    lines: Vec<usize>,
}

impl Source {
    pub fn new(file: &Path, text: String) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1));
        Source { name: display(file), lines: lines.collect(), text }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The number of the line, counted from 0, that a byte is in.
    pub fn line_of(&self, byte: usize) -> usize {
        self.lines.partition_point(|start| *start <= byte).saturating_sub(1)
    }

    /// The line of this number, counted from 0, without its end.
    pub fn line(&self, number: usize) -> &str {
        let start = self.lines.get(number).copied().unwrap_or(self.text.len());
        let end = self.lines.get(number + 1).map_or(self.text.len(), |next| next - 1);
        self.text.get(start..end).unwrap_or_default().trim_end_matches('\r')
    }

    /// Where a span begins, with its line as it may be shown.
    fn place(&self, span: &Range<usize>) -> Place {
        let number = self.line_of(span.start.min(self.text.len()));
        let line = self.line(number);
        let line_start = self.lines.get(number).copied().unwrap_or_default();
        let within = |byte: usize| {
            let mut byte = byte.saturating_sub(line_start).min(line.len());
            while !line.is_char_boundary(byte) {
                byte -= 1;
            }
            byte
        };
        let (start, end) = (within(span.start), within(span.end));
        let column = line[..start].chars().count() + 1;
        // A line inside of a text of several lines says nothing of what it belongs to: no key
        // tells whether it is a secret.
        let before = self.text.get(..line_start).unwrap_or_default();
        let inside = ["\"\"\"", "'''"].iter().any(|quote| before.matches(quote).count() % 2 == 1);
        let (shown, caret) = if inside {
            ("***".to_owned(), 0..3)
        } else {
            let masked = mask(line);
            let caret = masked.position(start)..masked.position(end);
            (masked.text, caret)
        };
        Place { line: number + 1, column, shown: Some((shown, caret)) }
    }
}

/// A file's name as errors show it.
fn display(file: &Path) -> Arc<str> {
    file.display().to_string().into()
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It works, but perhaps not as it is meant.
    Warning,
}

/// One error or warning about a configuration.
///
/// `Display` is [`Diagnostic::render`] without colour.
#[derive(Clone, PartialEq, Eq)]
pub struct Diagnostic {
    severity: Severity,
    message: String,
    file: Arc<str>,
    place: Option<Place>,
    help: Vec<String>,
}

#[derive(Clone, PartialEq, Eq)]
struct Place {
    /// From 1.
    line: usize,
    /// In characters, from 1.
    column: usize,
    /// The line as it may be shown, and what of it is pointed at; `None` where it isn't text.
    shown: Option<(String, Range<usize>)>,
}

impl Diagnostic {
    /// About a place in the file.
    pub(super) fn at(
        severity: Severity,
        source: &Source,
        span: &Range<usize>,
        message: String,
        help: Vec<String>,
    ) -> Self {
        let place = Some(source.place(span));
        let message = mask_url(message);
        let help = help.into_iter().map(mask_url).collect();
        Diagnostic { severity, message, file: source.name.clone(), place, help }
    }

    /// About the file as a whole.
    pub(super) fn of_file(severity: Severity, file: &Path, message: String, help: String) -> Self {
        Diagnostic { severity, message, file: display(file), place: None, help: vec![help] }
    }

    /// About a byte of a file that can't be shown.
    pub(super) fn of_byte(
        file: &Path,
        (line, column): (usize, usize),
        message: String,
        help: String,
    ) -> Self {
        let place = Some(Place { line, column, shown: None });
        let severity = Severity::Error;
        Diagnostic { severity, message, file: display(file), place, help: vec![help] }
    }

    /// Whether it is an error or a warning.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// What is wrong, in one sentence without its place.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Line and column, both from 1, the column in characters; `None` when it is about the file.
    pub fn position(&self) -> Option<(usize, usize)> {
        self.place.as_ref().map(|place| (place.line, place.column))
    }

    /// The text for people: what, where, the line, what to do. Without a line end at its end.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(self.message.as_str());
        let file = &*self.file;
        let group = match &self.place {
            None => title.element(Origin::path(file)),
            Some(Place { line, column, shown: None }) => {
                title.element(Origin::path(file).line(*line).char_column(*column))
            }
            Some(Place { line, shown: Some((shown, caret)), .. }) => title.element(
                Snippet::source(shown.as_str())
                    .line_start(*line)
                    .path(file)
                    .annotation(AnnotationKind::Primary.span(caret.clone())),
            ),
        };
        let help = self.help.iter().map(|help| Level::HELP.message(help.as_str()));
        let text = renderer.render(&[group.elements(help)]);
        self.correct_column(text)
    }

    /// The renderer counts the column in the line that it shows; before a masked secret that is
    /// another one than in the file.
    fn correct_column(&self, text: String) -> String {
        match &self.place {
            Some(Place { line, column, shown: Some((shown, caret)) }) => {
                let counted = shown[..caret.start].chars().count() + 1;
                if counted == *column {
                    return text;
                }
                let file = &self.file;
                let wrong = format!("{file}:{line}:{counted}");
                text.replacen(&wrong, &format!("{file}:{line}:{column}"), 1)
            }
            _ => text,
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl fmt::Debug for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The lines of rendered diagnostics, each for a record of the log: that has its own word for how bad
/// it is.
pub fn log_lines(rendered: &str) -> impl Iterator<Item = &str> {
    let lines = rendered.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| {
        let text = ["error: ", "warning: "].iter().find_map(|word| line.strip_prefix(word));
        text.unwrap_or(line)
    })
}

/// Every error of a configuration, at least one, in the order of the file.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    diagnostics: Vec<Diagnostic>,
    missing: Vec<PathBuf>,
}

impl ConfigErrors {
    /// The errors among these; warnings can wait until it is valid.
    pub(super) fn new(mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics.retain(|diagnostic| diagnostic.severity == Severity::Error);
        diagnostics.sort_by_key(Diagnostic::position);
        ConfigErrors { diagnostics, missing: Vec::new() }
    }

    /// Because of these plugin files, too.
    pub(super) fn with_missing(self, missing: Vec<PathBuf>) -> Self {
        ConfigErrors { missing, ..self }
    }

    /// Plugin files that handlers name and that aren't there.
    pub fn missing(&self) -> &[PathBuf] {
        &self.missing
    }

    /// How many errors there are.
    pub fn count(&self) -> usize {
        self.diagnostics.len()
    }

    /// The errors.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// All of them as text for people, an empty line between two, no line end at the end.
    pub fn render(&self, color: bool) -> String {
        let rendered: Vec<String> = self.diagnostics.iter().map(|d| d.render(color)).collect();
        rendered.join("\n\n")
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl fmt::Debug for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for ConfigErrors {}
