//! Expressions and templates in the Jinja language, by minijinja: compiled in setup, with all that
//! can be known to be wrong then, and run on a message. What they can name is in [`Variables`].

mod check;
mod variables;

use std::error::Error as _;
use std::sync::Arc;

use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};
pub use variables::Variables;

/// The most work that one run may be, in minijinja's unit: some 60 ms where this was measured, and 32
/// MB of text. A handler's `timeout` and `memory` are behind it, but they can't say what was too much,
/// and cost the instance.
const FUEL: u64 = 500_000;

/// A condition.
pub struct Expression {
    setting: &'static str,
    source: &'static str,
    compiled: minijinja::Expression<'static, 'static>,
}

impl Expression {
    /// Compiles what is written in `setting`. It is kept until the instance ends, so a plugin does
    /// this in its setup function.
    ///
    /// # Errors
    /// A sentence that names the setting and the place: of wrong syntax, or of a variable, filter,
    /// test or function that there isn't.
    pub fn compile(setting: &'static str, source: String) -> Result<Self, String> {
        let (environment, source) = (environment(), &*source.leak());
        let compiled = environment.compile_expression(source);
        let compiled = compiled.map_err(|error| wrong(setting, source, &error))?;
        check::names(environment, source, true, &compiled.undeclared_variables(false))
            .map_err(|(offset, what)| wrong_at(setting, source, offset, &what))?;
        Ok(Self { setting, source, compiled })
    }

    /// Whether it is true of a message, as an `if` of the language would see it.
    ///
    /// # Errors
    /// A sentence that says what failed, and where.
    pub fn is_true(&self, variables: &Arc<Variables>) -> Result<bool, String> {
        self.compiled
            .eval(Value::from_dyn_object(variables.clone()))
            .map(|value| value.is_true())
            .map_err(|error| failed(self.setting, self.source, &error, variables))
    }
}

/// A text to be filled in.
pub struct Template {
    setting: &'static str,
    source: &'static str,
    compiled: minijinja::Template<'static, 'static>,
}

impl Template {
    /// Compiles what is written in `setting`, as [`Expression::compile`] does.
    ///
    /// # Errors
    /// As there.
    pub fn compile(setting: &'static str, source: String) -> Result<Self, String> {
        let (environment, source) = (environment(), &*source.leak());
        let compiled = environment.template_from_str(source);
        let compiled = compiled.map_err(|error| wrong(setting, source, &error))?;
        check::names(environment, source, false, &compiled.undeclared_variables(false))
            .map_err(|(offset, what)| wrong_at(setting, source, offset, &what))?;
        Ok(Self { setting, source, compiled })
    }

    /// The text, filled in.
    ///
    /// # Errors
    /// A sentence that says what failed, and where.
    pub fn render(&self, variables: &Arc<Variables>) -> Result<String, String> {
        self.compiled
            .render(Value::from_dyn_object(variables.clone()))
            .map_err(|error| failed(self.setting, self.source, &error, variables))
    }
}

/// One for the instance's life, since what is compiled borrows it.
fn environment() -> &'static Environment<'static> {
    let mut environment = Environment::new();
    // What isn't there may be asked for, by `is defined`, `default` or `if`; used it is an error.
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    environment.set_fuel(Some(FUEL));
    // Errors say what is undefined.
    environment.set_debug(true);
    // A payload is no HTML, whatever a template is named.
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    Box::leak(Box::new(environment))
}

/// An error of setup.
fn wrong(setting: &str, source: &str, error: &Error) -> String {
    let line_start = || {
        let before = error.line().unwrap_or(1).saturating_sub(1);
        source.split_inclusive('\n').take(before).map(str::len).sum()
    };
    let offset = error.range().map_or_else(line_start, |range| range.start);
    wrong_at(setting, source, offset, &described(error))
}

fn wrong_at(setting: &str, source: &str, offset: usize, what: &str) -> String {
    let before = source.get(..offset).unwrap_or(source);
    let line = before.rsplit('\n').next().unwrap_or_default();
    let column = line.chars().count() + 1;
    let place = if is_one_line(source) {
        format!("character {column}")
    } else {
        format!("line {}, column {column}", before.matches('\n').count() + 1)
    };
    format!("`{setting}` is wrong at {place}: {what}")
}

/// An error of a run. Its column isn't told: of an operator minijinja gives that of what stands
/// before the operands.
fn failed(setting: &str, source: &str, error: &Error, variables: &Variables) -> String {
    let place = match error.line() {
        Some(line) if !is_one_line(source) => format!(" in line {line}"),
        _ => String::new(),
    };
    let mut text = format!("`{setting}` fails{place}: {}", described(error));
    if error.kind() == ErrorKind::UndefinedError
        && let Some(why) = variables.why_undefined()
    {
        text.push_str(&format!(" ({why})"));
    }
    text
}

fn is_one_line(source: &str) -> bool {
    !source.trim_end().contains('\n')
}

fn described(error: &Error) -> String {
    let mut text = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => "it is more work than a message may be".to_owned(),
        (ErrorKind::UndefinedError, Some(detail)) => detail.to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
