//! Tells where a message came from: the payload becomes
//! `Received message 'PAYLOAD' from channel 'CHANNEL'`.

use handlerd_plugin::{Failure, Message, plugin};

fn handle(channel: String, mut message: Message) -> Result<Vec<Message>, Failure> {
    // What is no UTF-8 shows as U+FFFD: the sentence is for people, and always text.
    let text = String::from_utf8_lossy(&message.payload);
    message.payload = format!("Received message '{text}' from channel '{channel}'").into_bytes();
    Ok(vec![message])
}

plugin!(handle);
