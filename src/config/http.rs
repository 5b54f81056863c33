//! `[http]`: where the endpoints for looking at the daemon listen, if they do.

use std::net::{Ipv4Addr, SocketAddr};

use toml::de::DeValue;

use super::keys::Table as Keys;
use super::reader::{Value, quoted};

/// `[http]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http {
    /// `listen`; `None` where it is `false`. Default 127.0.0.1:9847.
    pub listen: Option<SocketAddr>,
}

impl Default for Http {
    fn default() -> Self {
        Http { listen: Some((Ipv4Addr::LOCALHOST, 9847).into()) }
    }
}

impl Http {
    /// Read the table, if it is there.
    pub(super) fn read(value: Option<&Value<'_, '_>>) -> Self {
        let table = value.and_then(|value| value.table(Keys::Http));
        let listen = table.and_then(|table| table.get("listen"));
        listen.map_or_else(Http::default, |value| Http { listen: read_listen(&value) })
    }
}

/// An address with a port, or `false`; `None` for that, and for what was reported.
fn read_listen(value: &Value<'_, '_>) -> Option<SocketAddr> {
    let help = "write an address and a port, \"127.0.0.1:9847\", or false for no endpoints";
    let help = || Some(help.to_owned());
    match value.value.get_ref() {
        DeValue::Boolean(false) => return None,
        DeValue::String(_) => {}
        _ => {
            value.wrong_kind("an address with a port, or false", help());
            return None;
        }
    }
    let text = value.text()?;
    match text.value.parse::<SocketAddr>() {
        Ok(address) if address.port() > 0 => return Some(address),
        Ok(_) => value.error(format!("{} has port 0", quoted(value.key)), help()),
        Err(_) => {
            let message = format!("`listen` is not an IP address with a port: {}", text.quoted());
            value.error(message, help());
        }
    }
    None
}
