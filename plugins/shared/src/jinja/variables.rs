//! What an expression or a template can name. Each is made when it is first asked for: JSON that
//! nobody asks for is not parsed.

use std::sync::{Arc, OnceLock};

use handlerd_plugin::{Message, delivery};
use minijinja::Value;
use minijinja::value::{Enumerator, Object};

/// The names.
pub const NAMES: [&str; 9] =
    ["channel", "text", "json", "headers", "table", "pattern", "id", "attempt", "received_at"];

/// A message, as an expression or a template sees it.
#[derive(Debug)]
pub struct Variables {
    channel: String,
    message: Message,
    /// `Err` says why there is none.
    text: OnceLock<Result<Value, String>>,
    json: OnceLock<Result<Value, String>>,
}

impl Variables {
    /// The variables of a message that came on the Redis channel `channel`.
    pub fn new(channel: String, message: Message) -> Arc<Self> {
        Arc::new(Self { channel, message, text: OnceLock::new(), json: OnceLock::new() })
    }

    /// The message, when all has been done with the variables.
    pub fn into_message(variables: Arc<Self>) -> Message {
        match Arc::try_unwrap(variables) {
            Ok(variables) => variables.message,
            // Somebody keeps a value that reaches them: nothing that this crate does.
            Err(variables) => variables.message.clone(),
        }
    }

    /// Why `text` or `json` is undefined, where it was asked for.
    pub(super) fn why_undefined(&self) -> Option<&str> {
        let asked_for = [&self.json, &self.text].into_iter().filter_map(OnceLock::get);
        asked_for.filter_map(|value| value.as_ref().err()).map(String::as_str).next()
    }

    fn text(&self) -> Result<Value, String> {
        str::from_utf8(&self.message.payload)
            .map(Value::from)
            .map_err(|error| format!("the payload is no text: {error}"))
    }

    fn json(&self) -> Result<Value, String> {
        serde_json::from_slice(&self.message.payload)
            .map_err(|error| format!("the payload is no JSON: {error}"))
    }

    /// By name; of a name that is repeated the first.
    fn headers(&self) -> Value {
        let headers = self.message.headers.iter().rev();
        Value::from_pairs(
            headers.map(|(name, value)| {
                (Value::from(name), Value::from(String::from_utf8_lossy(value)))
            }),
        )
    }

    fn get(&self, name: &str) -> Option<Value> {
        match name {
            "channel" => Some(Value::from(&self.channel)),
            "text" => self.text.get_or_init(|| self.text()).clone().ok(),
            "json" => self.json.get_or_init(|| self.json()).clone().ok(),
            "headers" => Some(self.headers()),
            "table" => Some(Value::from(delivery::table())),
            "pattern" => delivery::pattern().map(Value::from),
            "id" => delivery::id().map(Value::from),
            "attempt" => Some(Value::from(delivery::attempt())),
            "received_at" => Some(Value::from(delivery::received_at())),
            _ => None,
        }
    }
}

impl Object for Variables {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, name: &str) -> Option<Value> {
        self.get(name)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&NAMES)
    }
}
