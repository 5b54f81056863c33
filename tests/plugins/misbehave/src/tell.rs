//! What the plugin sees, as text.

use handlerd_plugin::{Failure, Message, config, delivery};

pub fn headers(message: &Message) -> String {
    let lines = message.headers.iter();
    let lines = lines.map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value)));
    lines.collect::<Vec<_>>().join("\n")
}

pub fn delivery(channel: &str) -> String {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".to_owned());
    format!(
        "channel={channel}\ntable={}\npattern={}\nid={}\nattempt={}\nreceived-at={}",
        delivery::table(),
        or_none(delivery::pattern()),
        or_none(delivery::id()),
        delivery::attempt(),
        delivery::received_at(),
    )
}

pub fn setting(key: &str) -> Result<String, Failure> {
    let value = config::get(key).map_err(Failure::reject)?;
    Ok(value.unwrap_or_else(|| "none".to_owned()))
}
