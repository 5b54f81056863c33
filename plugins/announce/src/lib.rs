//! Tells where a message came from: the payload becomes
//! `Received message 'PAYLOAD' from channel 'CHANNEL'`.

use std::borrow::Cow;

use handlerd_plugin::{Failure, Message, plugin};

fn handle(channel: String, mut message: Message) -> Result<Vec<Message>, Failure> {
    // What is no UTF-8 shows as U+FFFD: the sentence is for people, and always text. Nearly all of
    // it is UTF-8, and looking whether it is takes a fraction of what looking for what isn't takes.
    let text = match str::from_utf8(&message.payload) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(&message.payload),
    };
    // Several times as fast as `format!`.
    let sentence = ["Received message '", &text, "' from channel '", &channel, "'"].concat();
    message.payload = sentence.into_bytes();
    Ok(vec![message])
}

plugin!(handle);
