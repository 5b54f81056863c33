//! What a plugin's author does with messages and failures.

use crate::{Failure, Message};

impl Message {
    /// A message with this payload, no headers and no route.
    pub fn new(payload: impl Into<Vec<u8>>) -> Self {
        Self { payload: payload.into(), headers: Vec::new(), route: None }
    }

    /// The payload as text.
    ///
    /// # Errors
    /// [`Failure::Reject`] where it isn't UTF-8: trying again wouldn't help.
    pub fn text(&self) -> Result<&str, Failure> {
        str::from_utf8(&self.payload)
            .map_err(|error| Failure::Reject(format!("the payload is no text: {error}")))
    }

    /// The same message with another payload: headers and route are kept.
    ///
    /// To change a payload without copying the headers, assign to [`Message::payload`].
    #[must_use]
    pub fn with_payload(&self, payload: impl Into<Vec<u8>>) -> Self {
        Self { payload: payload.into(), headers: self.headers.clone(), route: self.route.clone() }
    }

    /// The value of the first header with this name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|header| header.0 == name).map(|header| header.1.as_slice())
    }

    /// The message with one more header, after those it has. Names that begin with `handlerd-`
    /// are reserved. Headers leave the daemon by `append` only.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The message with its way ended here: it goes to the Redis channel, stream or list `name`,
    /// if the channel's `routes` permit it, and later handlers don't see it.
    #[must_use]
    pub fn routed_to(mut self, name: impl Into<String>) -> Self {
        self.route = Some(name.into());
        self
    }
}

impl Failure {
    /// The message never can be handled: it becomes a dead letter at once.
    pub fn reject(text: impl Into<String>) -> Self {
        Self::Reject(text.into())
    }

    /// Perhaps later: it is tried again as the channel's `retries` say.
    pub fn retry(text: impl Into<String>) -> Self {
        Self::Retry(text.into())
    }

    /// Perhaps later, but not before `milliseconds` have passed.
    pub fn retry_after(milliseconds: u64, text: impl Into<String>) -> Self {
        Self::RetryAfter((milliseconds, text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_that_is_no_text_is_rejected_with_the_position() {
        let Failure::Reject(text) = Message::new(*b"ab\xff").text().unwrap_err() else { panic!() };
        assert!(text.contains("index 2"), "{text}");
    }

    #[test]
    fn another_payload_keeps_headers_and_route() {
        let message =
            Message::new("a").with_header("lang", "en").routed_to("vip").with_payload("b");
        assert_eq!(message.payload, b"b");
        assert_eq!(message.header("lang"), Some(&b"en"[..]));
        assert_eq!(message.header("none"), None);
        assert_eq!(message.route.as_deref(), Some("vip"));
    }
}
