//! What was probably meant.

use super::keys::Table;
use super::reader::quoted;

/// The name that is nearest to `wrong`, if one is near enough to be meant.
pub(super) fn nearest<'n>(wrong: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    // Comparing is quadratic, and nobody mistypes a name into something this long.
    const LONGEST: usize = 100;
    if wrong.len() > LONGEST {
        return None;
    }
    let wrong = wrong.to_lowercase();
    let distance = |name: &str| strsim::damerau_levenshtein(&wrong, &name.to_lowercase());
    let near = names.filter(|name| name.len() <= LONGEST).map(|name| (distance(name), name));
    let (distance, name) = near.min_by_key(|(distance, _)| *distance)?;
    (distance <= 1 + wrong.chars().count().min(name.chars().count()) / 4).then_some(name)
}

/// The sentence about a key that a table can't have, and what to do.
pub(super) fn unknown_key(table: Table, key: &str) -> (String, Vec<String>) {
    if let Some(sentence) = table.later(key) {
        return (sentence, Vec::new());
    }
    let message = format!("{} is not a key of {}", quoted(key), table.title());
    (message, vec![key_help(table, key)])
}

fn key_help(table: Table, key: &str) -> String {
    let lower = key.to_lowercase();
    if table == Table::Connection && ["password", "pass", "passwd"].contains(&lower.as_str()) {
        return "write the password into a file and name it with `password_file`".to_owned();
    }
    if let Some(near) = nearest(key, table.keys().iter().copied()) {
        return format!("did you mean `{near}`?");
    }
    if let Some(near) = nearest(key, table.later_keys()) {
        if let Some(sentence) = table.later(near) {
            return format!("did you mean `{near}`? {sentence}");
        }
    }
    let elsewhere = Table::ALL.into_iter().find(|other| other.keys().contains(&key));
    if let Some(other) = elsewhere {
        return format!("`{key}` is a key of {}", other.title());
    }
    format!("its keys are {}", table.keys().join(", "))
}
