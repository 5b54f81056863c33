//! Makes messages of a template. README.md tells the settings.

use std::sync::OnceLock;

use handlerd_plugin::config::Settings;
use handlerd_plugin::{Failure, Message, plugin};
use shared::jinja::{Template, Variables};

/// Compiled once for each instance, by `prepare`.
static TEMPLATE: OnceLock<Template> = OnceLock::new();

fn prepare() -> Result<(), String> {
    let mut settings = Settings::read()?;
    let template = settings.text("template");
    settings.finish()?;
    let template = template.ok_or(
        "`template` is missing, which says what the messages become: write, for example, \
         template = \"{{ json.user }} says {{ json.text }}\"",
    )?;
    let template = Template::compile("template", template)?;
    // A second call, which the interface doesn't provide for, would find the same settings.
    let _ = TEMPLATE.set(template);
    Ok(())
}

fn handle(channel: String, message: Message) -> Result<Vec<Message>, Failure> {
    let template = TEMPLATE.get().ok_or_else(|| Failure::retry("setup has not run"))?;
    let variables = Variables::new(channel, message);
    let text = template.render(&variables).map_err(Failure::Reject)?;
    let mut message = Variables::into_message(variables);
    message.payload = text.into_bytes();
    Ok(vec![message])
}

plugin!(handle, setup = prepare);
