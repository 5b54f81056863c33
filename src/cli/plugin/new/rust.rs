//! The files of a plugin in Rust. The SDK and the interface are those that this program was built
//! with, embedded, so that nothing else than the program is needed to write a plugin.

use super::File;
use crate::plugin::WIT;

/// The plugin's own files, as templates: path, text, whether it is a program.
const OWN: &[(&str, &str, bool)] = &[
    ("src/lib.rs", include_str!("rust/lib.rs"), false),
    ("{{name}}.toml", include_str!("rust/cases.toml"), false),
    ("build", include_str!("rust/build"), true),
    ("README.md", include_str!("rust/README.md"), false),
    ("Cargo.toml", include_str!("rust/manifest.toml"), false),
    (".cargo/config.toml", include_str!("rust/cargo-config.toml"), false),
    (".gitignore", include_str!("rust/gitignore"), false),
];

/// The versions of other crates that the bundled plugins are built with. Cargo takes those that
/// it needs, and drops the rest.
const LOCK: &str = include_str!("../../../../plugins/Cargo.lock");

macro_rules! sdk {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../../../plugins/sdk/rust/", $path)))),*]
    };
}

/// The crate handlerd-plugin, without its `wit` folder.
const SDK: &[(&str, &str)] = sdk![
    "Cargo.toml",
    "README.md",
    "src/config.rs",
    "src/delivery.rs",
    "src/export.rs",
    "src/lib.rs",
    "src/log.rs",
    "src/message.rs",
];

/// The files of a new plugin. The name must have passed [`check_name`].
pub(super) fn files(name: &str) -> Vec<File> {
    let fill = |text: &str| {
        text.replace("{{name}}", name)
            .replace("{{crate}}", &name.replace('-', "_"))
            .replace("{{version}}", env!("CARGO_PKG_VERSION"))
    };
    let own =
        OWN.iter().map(|&(path, text, runs)| File { path: fill(path), text: fill(text), runs });
    let as_it_is = |path: String, text: &str| File { path, text: text.to_owned(), runs: false };
    let lock = as_it_is("Cargo.lock".into(), LOCK);
    let sdk = SDK.iter().map(|(path, text)| as_it_is(format!("sdk/{path}"), text));
    let wit = WIT.iter().map(|(path, text)| as_it_is(format!("sdk/wit/{path}"), text));
    own.chain([lock]).chain(sdk).chain(wit).collect()
}

/// Longest name.
const MAX_NAME: usize = 64;

/// Rust's keywords (The Rust Reference, "Keywords": strict and reserved ones), which no crate may
/// have as its name.
const KEYWORDS: &[&str] = &[
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate",
    "do", "dyn", "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl",
    "in", "let", "loop", "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref",
    "return", "self", "static", "struct", "super", "trait", "true", "try", "type", "typeof",
    "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
];

/// Crates that are part of every build of a plugin.
const CRATES: &[&str] =
    &["alloc", "core", "handlerd_plugin", "proc_macro", "std", "test", "wit_bindgen"];

/// Whether a plugin can have this name, which is also that of its crate and its files.
///
/// # Errors
/// Why not, with one that it can have where there is one near.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let Some(why) = refusal(name) else { return Ok(()) };
    Err(match near(name) {
        Some(near) => format!("{why}; {near:?} would do"),
        None => why,
    })
}

/// Why a plugin can't have this name.
fn refusal(name: &str) -> Option<String> {
    let permitted = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-' | '_');
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(permitted) {
        return Some("it must begin with a letter and have small letters, digits, - and _".into());
    }
    if name.len() > MAX_NAME {
        return Some(format!("it has {} letters, and {MAX_NAME} are the most", name.len()));
    }
    let krate = name.replace('-', "_");
    if KEYWORDS.contains(&&*krate) {
        return Some("it is a keyword of Rust".into());
    }
    if CRATES.contains(&&*krate) {
        return Some("it is the name of a crate that plugins are built with".into());
    }
    // Its cases would be cargo.toml, which some file systems take for Cargo.toml.
    (name == "cargo").then(|| "cargo.toml is for Cargo".into())
}

/// A name near this one that a plugin can have.
fn near(name: &str) -> Option<String> {
    let name = name.rsplit('/').next().unwrap_or(name).trim_end_matches(".wasm").to_lowercase();
    let permitted = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let name: String = name.chars().map(permitted).collect();
    let name = name.trim_matches(|c: char| c == '-' || c == '_');
    refusal(name).is_none().then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sdk_needs_nothing_of_the_workspace_around_it() {
        let (_, manifest) = SDK[0];
        assert!(!manifest.contains("workspace = true"), "{manifest}");
    }

    #[test]
    fn nothing_is_left_to_fill_in() {
        for file in files("json-route") {
            assert!(!file.path.contains("{{"), "{}", file.path);
            assert!(
                !file.text.contains("{{name") && !file.text.contains("{{crate"),
                "{}",
                file.path
            );
        }
    }

    #[test]
    fn names_that_can_not_be_are_refused_with_one_that_can() {
        for name in ["a", "shout", "json-route", "v2_x", "x--", "serde"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for (name, said) in [
            ("", "begin with a letter"),
            ("Shout", "\"shout\""),
            ("my plugin", "\"my-plugin\""),
            ("../x/shout.wasm", "\"shout\""),
            ("größe", "\"gr--e\""),
            ("2x", "begin with a letter"),
            ("-x", "\"x\""),
            ("a\nb", "\"a-b\""),
            ("fn", "keyword"),
            ("test", "crate"),
            ("proc-macro", "crate"),
            ("handlerd-plugin", "crate"),
            ("cargo", "Cargo"),
            (&"x".repeat(65), "64"),
        ] {
            let why = check_name(name).expect_err(name);
            assert!(why.contains(said), "{name}: {why}");
        }
    }
}
