//! What came out becomes what is expected: rewrites cases and leaves everything else as it is,
//! comments and layout included.

use std::collections::BTreeMap;

use toml_edit::{Array, DocumentMut, InlineTable, Item, Key, RawString, TableLike, Value};

use super::{Came, Case, EXPECTATIONS, Expected, ExpectedMessage};
use crate::message::{Header, Message};

/// The text of a file, with these cases expecting what came.
///
/// # Errors
/// A sentence, when the text isn't what `cases` were read from.
pub(super) fn rewrite(
    text: &str,
    cases: &[Case],
    came: &BTreeMap<usize, Came>,
) -> Result<String, String> {
    let changed = || "the file has changed meanwhile; run it again".to_owned();
    let mut document: DocumentMut = text.parse().map_err(|_| changed())?;
    for (index, came) in came {
        let case = cases.get(*index).ok_or_else(changed)?;
        if expresses(&case.expected, came) {
            continue;
        }
        let table = document.get_mut("case").and_then(|list| case_table(list, *index));
        expect(table.ok_or_else(changed)?, case, came);
    }
    Ok(document.to_string())
}

/// Whether what is expected is met by what came.
pub(super) fn expresses(expected: &Expected, came: &Came) -> bool {
    match (expected, came) {
        (Expected::Out(expected), Came::Out(messages)) => {
            expected.len() == messages.len()
                && expected.iter().zip(messages).all(|(e, m)| e.matches(m))
        }
        (Expected::Reject(part), Came::Reject(text))
        | (Expected::Retry(part), Came::Retry(text))
        | (Expected::Setup(part), Came::Setup(text)) => text.contains(part.as_str()),
        _ => false,
    }
}

/// A case: `[[case]]`, or a table in `case = [ … ]`.
fn case_table(list: &mut Item, index: usize) -> Option<&mut dyn TableLike> {
    match list {
        Item::ArrayOfTables(tables) => tables.get_mut(index).map(|t| t as &mut dyn TableLike),
        Item::Value(Value::Array(items)) => {
            let table = items.get_mut(index).and_then(Value::as_inline_table_mut);
            table.map(|table| table as &mut dyn TableLike)
        }
        _ => None,
    }
}

fn expect(table: &mut dyn TableLike, case: &Case, came: &Came) {
    let (key, text) = match came {
        Came::Out(messages) => {
            if let (Expected::Out(expected), Some(Item::Value(Value::Array(list)))) =
                (&case.expected, table.get_mut("out"))
            {
                return update(list, expected, messages, case);
            }
            let list = messages.iter().map(|m| message_value(m, wants_headers(m, case)));
            return put(table, "out", Value::Array(list.collect()));
        }
        Came::Reject(text) => ("reject", text),
        Came::Retry(text) => ("retry", text),
        Came::Setup(text) => ("setup", text),
    };
    put(table, key, text.as_str().into());
}

/// Change only the items that differ, so that the others keep their comments and their form.
fn update(list: &mut Array, expected: &[ExpectedMessage], messages: &[Message], case: &Case) {
    for (index, message) in messages.iter().enumerate() {
        match (expected.get(index), list.get_mut(index)) {
            (Some(old), Some(_)) if old.matches(message) => {}
            (Some(old), Some(value)) => {
                let headers = old.headers.is_some() || wants_headers(message, case);
                let decor = value.decor().clone();
                *value = message_value(message, headers);
                *value.decor_mut() = decor;
            }
            _ => append(list, message_value(message, wants_headers(message, case))),
        }
    }
    while list.len() > messages.len() {
        // What stands before the closing bracket stays there.
        let removed = list.remove(list.len() - 1);
        let end = removed.decor().suffix().cloned().unwrap_or_default();
        if let Some(last) = list.iter_mut().last() {
            last.decor_mut().set_suffix(end);
        }
    }
}

/// Put a value at the end. In a list of several lines it gets a line of its own, indented like the
/// one before it, and a comment behind that one stays behind it.
fn append(list: &mut Array, mut value: Value) {
    let text = |raw: Option<&RawString>| raw.and_then(RawString::as_str).unwrap_or("").to_owned();
    let Some(last) = list.len().checked_sub(1).and_then(|last| list.get(last)) else {
        return list.push(value);
    };
    let before = text(last.decor().prefix());
    let indent = before.rsplit_once('\n').map_or("", |(_, indent)| indent);
    // Where the last item has no comma, what follows it is its own.
    let has_comma = list.trailing_comma();
    let after = if has_comma { text(Some(list.trailing())) } else { text(last.decor().suffix()) };
    let Some((comment, closing)) = after.rsplit_once('\n') else {
        return list.push(value);
    };
    value.decor_mut().set_prefix(format!("{comment}\n{indent}"));
    if has_comma {
        list.set_trailing(format!("\n{closing}"));
    } else {
        value.decor_mut().set_suffix(format!("\n{closing}"));
        if let Some(last) = list.iter_mut().last() {
            last.decor_mut().set_suffix("");
        }
    }
    list.push_formatted(value);
}

/// Headers that go through unchanged are not worth writing.
fn wants_headers(message: &Message, case: &Case) -> bool {
    message.headers != case.input.headers
}

/// Put an expectation in the place of the one that is there, or at the end of the case.
fn put(table: &mut dyn TableLike, key: &str, value: Value) {
    if let Some(Item::Value(old)) = table.get_mut(key) {
        let decor = old.decor().clone();
        *old = value;
        *old.decor_mut() = decor;
        return;
    }
    let old = EXPECTATIONS.iter().find(|old| table.contains_key(old));
    let decor = old.and_then(|old| {
        let decor = table.key(old).map(|key| key.leaf_decor().clone());
        table.remove(old);
        decor
    });
    let mut key = Key::new(key);
    if let Some(decor) = decor {
        *key.leaf_decor_mut() = decor;
    }
    table.entry_format(&key).or_insert(Item::Value(value));
}

fn message_value(message: &Message, headers: bool) -> Value {
    let text = std::str::from_utf8(&message.payload).ok();
    if let (Some(text), false, None) = (text, headers, &message.route) {
        return text.into();
    }
    let mut table = InlineTable::new();
    match text {
        Some(text) => table.insert("payload", text.into()),
        None => table.insert("payload_hex", hex(&message.payload).into()),
    };
    if headers {
        table.insert("headers", Value::Array(message.headers.iter().map(header_value).collect()));
    }
    if let Some(route) = &message.route {
        table.insert("route", route.as_str().into());
    }
    table.into()
}

fn header_value((name, content): &Header) -> Value {
    let content: Value = match std::str::from_utf8(content) {
        Ok(text) => text.into(),
        Err(_) => InlineTable::from_iter([("hex", hex(content))]).into(),
    };
    Value::Array([Value::from(name.as_str()), content].into_iter().collect())
}

/// Bytes as `00 ff 7f`.
fn hex(bytes: &[u8]) -> String {
    let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    pairs.join(" ")
}
