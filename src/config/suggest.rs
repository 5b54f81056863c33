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

/// A name that begins with `wrong`, which is cut short perhaps.
fn completed<'n>(wrong: &str, mut names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    names.find(|name| wrong.len() > 2 && name.starts_with(wrong))
}

/// The sentence about a key that a table, called `title`, can't have, and what to do.
pub(super) fn unknown_key(table: Table, title: &str, key: &str) -> (String, Vec<String>) {
    match table.later(key) {
        Some(sentence) => (sentence, vec!["remove it".to_owned()]),
        None => (format!("{} is not a key of {title}", quoted(key)), key_help(table, key)),
    }
}

fn key_help(table: Table, key: &str) -> Vec<String> {
    let lower = key.to_lowercase();
    if table == Table::Connection && ["password", "pass", "passwd"].contains(&lower.as_str()) {
        return vec!["write the password into a file and name it with `password_file`".to_owned()];
    }
    let known = || table.names();
    if let Some(near) = nearest(key, known()).or_else(|| completed(key, known())) {
        return vec![format!("did you mean `{near}`?")];
    }
    if let Some(near) = nearest(key, table.later_keys()) {
        let meant = format!("did you mean `{near}`?");
        return std::iter::once(meant).chain(table.later(near)).collect();
    }
    let all = || Table::ALL.into_iter();
    if let Some(other) = all().find(|other| other.has(key)) {
        return vec![format!("`{key}` is a key of {}", other.title())];
    }
    let elsewhere = all().find_map(|other| Some((other, nearest(key, other.names())?)));
    if let Some((other, near)) = elsewhere {
        return vec![format!("did you mean `{near}`? It is a key of {}", other.title())];
    }
    match table.names().collect::<Vec<_>>().as_slice() {
        [only] => vec![format!("its only key is {only}")],
        keys => vec![format!("its keys are {}", keys.join(", "))],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let names = ["publish", "push", "handlers", "max_payload", "log"];
        for (wrong, meant) in [
            ("publsih", Some("publish")),
            ("Publish", Some("publish")),
            ("pus", Some("push")),
            ("handler", Some("handlers")),
            ("maxpayload", Some("max_payload")),
            ("log", Some("log")),
            ("lag", Some("log")),
            ("x", None),
            ("frobnicate", None),
            ("", None),
        ] {
            assert_eq!(nearest(wrong, names.into_iter()), meant, "{wrong}");
        }
        assert_eq!(nearest(&"publish".repeat(100), names.into_iter()), None);
    }
}
