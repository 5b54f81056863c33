//! Says it louder: `hello` on the channel `chat` becomes `chat: HELLO`.

use handlerd_plugin::{Failure, Message, plugin};

/// No message ends the way of this one, one goes on in its place, several fan it out.
fn handle(channel: String, message: Message) -> Result<Vec<Message>, Failure> {
    let text = message.text()?; // bytes that are no text are rejected
    Ok(vec![message.with_payload(format!("{channel}: {}", text.to_uppercase()))])
}

plugin!(handle);
