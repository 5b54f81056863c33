//! Names in Redis as a channel's keys have them: one, or a list.

use std::collections::HashSet;
use std::sync::Arc;

use crate::config::reader::{Span, Text, Value, quoted};

/// Longest name or pattern: Redis itself has hardly a limit.
const LONGEST_NAME: usize = 4096;

/// A name or a list of names: none empty, none twice, and at least one unless it was wrong.
pub(super) fn read_names(value: &Value<'_, '_>, what: &str) -> Vec<(Arc<str>, Span)> {
    let kind = value.value.get_ref();
    if !kind.is_str() && !kind.is_array() {
        value.wrong_kind("a name or a list of names", None);
        return Vec::new();
    }
    let items = value.items();
    if items.is_empty() {
        let help = format!("write the name of {what}, or a list of them");
        value.error(format!("{} is an empty list", quoted(value.key)), Some(help));
    }
    let mut seen = HashSet::new();
    let mut names = Vec::with_capacity(items.len());
    for item in &items {
        let Some(text) = item.text() else { continue };
        if !check_name(item, &text) {
            continue;
        }
        let name: Arc<str> = text.value.as_str().into();
        if seen.insert(name.clone()) {
            names.push((name, item.span()));
        } else {
            let help = Some("remove one of them".to_owned());
            item.error(format!("{} is there twice", text.quoted()), help);
        }
    }
    names
}

/// One name.
pub(super) fn read_name(value: &Value<'_, '_>) -> Option<Arc<str>> {
    let text = value.text()?;
    check_name(value, &text).then(|| text.value.into())
}

/// Whether a text can be a name in Redis.
pub(super) fn check_name(value: &Value<'_, '_>, text: &Text) -> bool {
    if text.value.is_empty() {
        let help = Some("write a name".to_owned());
        value.error(format!("{} has an empty name", quoted(value.key)), help);
        return false;
    }
    if text.value.len() > LONGEST_NAME {
        let message = format!(
            "a name in {} has {} bytes; at most {LONGEST_NAME} are allowed",
            quoted(value.key),
            text.value.len()
        );
        value.error(message, None);
        return false;
    }
    true
}
