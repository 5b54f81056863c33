//! Finds a message's route. Knows nothing of settings.

use std::collections::HashMap;

use handlerd_plugin::{Failure, Message};
use shared::{Invalid, Pointer};

/// The routes, and where the value is that chooses one.
pub struct Router {
    pub pointer: Pointer,
    pub routes: HashMap<String, Route>,
    /// Of values without an entry; `None`: they go on along the chain.
    pub default: Option<Route>,
    pub invalid: Invalid,
}

impl Router {
    /// The message, with its route where it has one.
    pub fn handle(&self, mut message: Message) -> Result<Vec<Message>, Failure> {
        let value = match self.pointer.find(&message.payload) {
            Ok(value) => value,
            Err(reason) => return self.invalid.answer(message, reason),
        };
        let route = self.routes.get(value.as_ref()).or(self.default.as_ref());
        message.route = route.map(|route| route.of(&value));
        Ok(vec![message])
    }
}

/// A name with the value in it: what stands around each `{value}`.
pub struct Route(Vec<String>);

impl Route {
    /// A route as it is written. Other braces than those of `{value}` are part of the name.
    pub fn new(text: &str) -> Self {
        Self(text.split("{value}").map(str::to_owned).collect())
    }

    fn of(&self, value: &str) -> String {
        self.0.join(value)
    }
}
