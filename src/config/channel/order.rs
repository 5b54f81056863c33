//! `order_by`: what several workers keep the order of.

use super::{Channel, Source};
use crate::config::reader::{Table, Value};

/// `order_by`: messages with the same value there are handled one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderBy {
    /// The value of a header.
    Header(String),
    /// The value at a JSON Pointer (RFC 6901) in the payload: it begins with `/`, and each `~` in
    /// it is followed by 0 or 1.
    Pointer(String),
}

/// Read it; source and `workers` have been read.
pub(super) fn read(table: &Table<'_, '_>, channel: &Channel) -> Option<OrderBy> {
    let value = table.get("order_by")?;
    let order = read_place(&value)?;
    if let OrderBy::Header(name) = &order {
        check_header(&value, name, &channel.source);
    }
    let workers = table.get("workers");
    let is_wrong = workers.as_ref().is_some_and(|workers| !workers.value.get_ref().is_integer());
    if channel.workers == 1 && !is_wrong {
        let help = match workers {
            Some(_) => "remove it, or have more `workers`",
            None => "add workers = 4, or as many as you want, or remove it",
        };
        let message = "`order_by` means nothing with one worker: it keeps the order of all";
        value.reader.error(&value.key_span, message.to_owned(), vec![help.to_owned()]);
    }
    Some(order)
}

fn read_place(value: &Value<'_, '_>) -> Option<OrderBy> {
    let text = value.text()?;
    let place = text.value.as_str();
    if place.is_empty() {
        let help = "name a header, or a place in a JSON payload: \"/customer/id\"".to_owned();
        value.error("`order_by` is empty", Some(help));
        return None;
    }
    if !place.starts_with('/') {
        return Some(OrderBy::Header(place.to_owned()));
    }
    // Another `~` would be taken for itself by some and be an error for others.
    if place.split('~').skip(1).any(|after| !after.starts_with(['0', '1'])) {
        let help = "in a JSON Pointer, write `~0` for `~` and `~1` for `/`".to_owned();
        let message = format!("`order_by` has a `~` that is not escaped: {}", text.quoted());
        value.error(message, Some(help));
        return None;
    }
    Some(OrderBy::Pointer(place.to_owned()))
}

/// Whether messages of this source can have such a header.
fn check_header(value: &Value<'_, '_>, name: &str, source: &Source) {
    let Source::Stream(source) = source else {
        let help = format!("name a place in a JSON payload: \"/{}\"", name.escape_debug());
        value.error("`order_by` names a header, and messages of pub/sub have none", Some(help));
        return;
    };
    if *name == *source.payload_field {
        let help = "name a header, or a place in a JSON payload: \"/customer/id\"".to_owned();
        value.error("`order_by` names the payload's field, which is no header", Some(help));
    }
}
