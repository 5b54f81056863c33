//! Passes at most so many messages in a time for each key. README.md tells the settings.

mod settings;
#[cfg(test)]
mod tests;
mod throttle;

use std::cell::RefCell;

use handlerd_plugin::config::Settings;
use handlerd_plugin::{Failure, Message, delivery, plugin};
use throttle::Throttle;

thread_local! {
    /// Made by `prepare`. What it counts is gone with the instance.
    static THROTTLE: RefCell<Option<Throttle>> = const { RefCell::new(None) };
}

fn prepare() -> Result<(), String> {
    let throttle = settings::throttle(Settings::read()?)?;
    THROTTLE.set(Some(throttle));
    Ok(())
}

fn handle(channel: String, message: Message) -> Result<Vec<Message>, Failure> {
    THROTTLE.with_borrow_mut(|throttle| {
        let throttle = throttle.as_mut().ok_or_else(|| Failure::retry("setup has not run"))?;
        throttle.handle(&channel, message, delivery::received_at())
    })
}

plugin!(handle, setup = prepare);
