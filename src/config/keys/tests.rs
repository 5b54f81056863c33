//! The table of keys, `config.toml` and the full example name the same keys, and say the same of them.

use super::*;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Whether the key stands in the text: with a value, as a table, or inside a `{ … }`.
fn stands_in(text: &str, key: &str) -> bool {
    let forms = [("", " = "), ("[", "]"), ("[", "."), (".", "]")];
    forms.into_iter().any(|(a, b)| text.contains(&format!("{a}{key}{b}")))
}

#[test]
fn every_key_is_in_the_full_example() {
    let read = |name| {
        let file = format!("{ROOT}/tests/fixtures/config/valid/{name}");
        std::fs::read_to_string(file).expect("the fixture")
    };
    // No Redis is both far away and embedded.
    let text = read("full.toml") + &read("embedded.toml");
    for key in Table::ALL.into_iter().flat_map(Table::names) {
        assert!(stands_in(&text, key), "{key}");
    }
}

/// A key as the reference shows it.
struct Shown {
    table: &'static str,
    key: String,
    /// What stands behind `=`; empty for a table, or within a `{ … }`.
    value: String,
    /// What is said about it, without `for example`; empty where that is elsewhere.
    comment: String,
    /// Whether the value is the default, commented out.
    is_default: bool,
}

impl Shown {
    fn new(table: Table, key: &str, line: Option<(&str, &str, bool)>) -> Self {
        let (value, comment, is_default) = line.unwrap_or_default();
        let (table, key) = (table.title(), key.to_owned());
        Shown { table, key, value: value.to_owned(), comment: comment.to_owned(), is_default }
    }
}

/// The keys that the reference shows, commented out or not, in its order.
fn shown(text: &str) -> Vec<Shown> {
    let mut found = Vec::new();
    let mut table = Table::Root;
    for written in text.lines() {
        let line = written.strip_prefix("# ").unwrap_or(written);
        if let Some(head) = line.strip_prefix('[') {
            let name = head.split(['.', ']']).next().unwrap_or_default();
            found.push(Shown::new(Table::Root, name, None));
            table = match name {
                "redis" | "connections" => Table::Connection,
                "plugins" => Table::Plugins,
                "handlers" => Table::Handler,
                "channels" => Table::Channel,
                "limits" => Table::Limits,
                "daemon" => Table::Daemon,
                "log" => Table::Log,
                "http" => Table::Http,
                other => panic!("what is [{other}]?"),
            };
        } else if let Some((key, rest)) = line.split_once(" = ") {
            let (value, comment) = rest.split_once(" # ").unwrap_or((rest, ""));
            let plain = ["for example, required; ", "for example; "]
                .into_iter()
                .find_map(|mark| comment.strip_prefix(mark));
            let is_default = written.starts_with('#') && plain.is_none();
            let line = (value.trim(), plain.unwrap_or(comment), is_default);
            found.push(Shown::new(table, key, Some(line)));
        } else if let (Some(more), Some(last)) =
            (line.trim_start().strip_prefix("# "), found.last_mut())
            && !last.comment.is_empty()
        {
            last.comment.push(' ');
            last.comment.push_str(more);
            continue;
        }
        // Tables within a line, also in what is said about it.
        for (key, inner) in [
            ("tls", Table::Tls),
            ("routes", Table::Routes),
            ("publish", Table::PublishTarget),
            ("push", Table::PushTarget),
            ("append", Table::AppendTarget),
        ] {
            let Some((_, inside)) = line.split_once(&format!("{key} = {{ ")) else { continue };
            let (inside, _) = inside.split_once(" }").expect("it ends");
            let keys = inside.split(" = ").filter_map(|part| part.rsplit(' ').next());
            found.extend(keys.map(|key| Shown::new(inner, key, None)));
        }
    }
    found
}

fn reference() -> Vec<Shown> {
    let text = std::fs::read_to_string(format!("{ROOT}/config.toml")).expect("it is there");
    shown(&text)
}

#[test]
fn every_key_is_in_the_reference_below_its_table() {
    let shown = reference();
    for table in Table::ALL {
        for key in table.names() {
            let is_shown =
                shown.iter().any(|shown| shown.table == table.title() && shown.key == key);
            assert!(is_shown, "config.toml doesn't show `{key}` in {}", table.title());
        }
    }
}

#[test]
fn the_reference_says_of_a_key_what_its_documentation_begins_with() {
    let shown = reference();
    let mut compared = 0;
    for table in Table::ALL {
        for key in table.keys() {
            // Where it stands again it is said what is different there.
            let mut places = shown.iter().filter(|shown| {
                shown.table == table.title() && shown.key == key.name && !shown.value.is_empty()
            });
            let Some(shown) = places.next() else { continue };
            let said = shown.comment.as_str();
            assert!(!said.is_empty(), "config.toml says nothing of `{}`", key.name);
            assert!(
                key.about.starts_with(said),
                "config.toml says of `{}`\n  {said}\nand its documentation\n  {}",
                key.name,
                key.about
            );
            compared += 1;
        }
    }
    assert!(compared > 45, "only {compared} keys were compared");
}

#[test]
fn the_defaults_of_the_reference_are_those_of_the_table() {
    let shown = reference();
    for table in Table::ALL {
        for key in table.keys() {
            let mut places = shown.iter().filter(|shown| {
                shown.is_default && shown.table == table.title() && shown.key == key.name
            });
            // What depends on NAME or on the source has another default in each place.
            let depends = ["pub/sub", "NAME unless", "NAME.wasm unless"]
                .iter()
                .any(|words| key.about.contains(words));
            if let (Some(first), false) = (places.next(), depends) {
                let (name, title) = (key.name, table.title());
                assert_eq!(key.default, Some(first.value.as_str()), "{name} of {title}");
            }
            for written in [key.default, key.example].into_iter().flatten() {
                let json: Result<serde_json::Value, _> = serde_json::from_str(written);
                assert!(json.is_ok(), "{} of {}: {written}", key.name, table.title());
            }
        }
    }
}

#[test]
fn a_key_is_of_this_version_or_of_a_later_one() {
    for (table, key, _) in LATER {
        assert!(!table.has(key), "{key} of {}", table.title());
        let sentence = table.later(key).unwrap_or_default();
        assert!(sentence.ends_with("not in this version of handlerd"), "{sentence}");
    }
    assert!(Table::ALL.iter().all(|table| table.later("frobnicate").is_none()));
}
