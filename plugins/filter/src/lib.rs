//! Passes the messages that a condition is true of. README.md tells the settings.

use std::sync::OnceLock;

use handlerd_plugin::config::Settings;
use handlerd_plugin::{Failure, Message, plugin};
use shared::Invalid;
use shared::jinja::{Expression, Variables};

/// Compiled once for each instance, by `prepare`.
static FILTER: OnceLock<Filter> = OnceLock::new();

struct Filter {
    when: Expression,
    invalid: Invalid,
}

fn prepare() -> Result<(), String> {
    let mut settings = Settings::read()?;
    let when = settings.text("when");
    let invalid = Invalid::read(&mut settings)?;
    settings.finish()?;
    let when = when.ok_or(
        "`when` is missing, which says what passes: write, for example, \
         when = \"json.amount > 100 and channel == 'orders'\"",
    )?;
    let when = Expression::compile("when", when)?;
    // A second call, which the interface doesn't provide for, would find the same settings.
    let _ = FILTER.set(Filter { when, invalid });
    Ok(())
}

fn handle(channel: String, message: Message) -> Result<Vec<Message>, Failure> {
    let filter = FILTER.get().ok_or_else(|| Failure::retry("setup has not run"))?;
    let variables = Variables::new(channel, message);
    let passes = filter.when.is_true(&variables);
    let message = Variables::into_message(variables);
    match passes {
        Ok(true) => Ok(vec![message]),
        Ok(false) => Ok(Vec::new()),
        Err(reason) => filter.invalid.answer(message, reason),
    }
}

plugin!(handle, setup = prepare);
