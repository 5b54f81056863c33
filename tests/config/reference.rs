//! `config.toml` of the repository is the reference: it works as it stands, and what is commented
//! out in it is what it says.

use std::path::Path;
use std::sync::LazyLock;

use handlerd::config::{Config, Environment};

#[path = "../support/committed.rs"]
mod committed;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Marks a line whose value is an example, not the default.
const EXAMPLE: &str = "for example";

/// Marks a line of a table that is commented out, without which the table makes no sense.
const REQUIRED: &str = "for example, required;";

const EMBEDDED: &str = "url = \"embedded\"";

/// What examples of outputs by another connection go over.
const CONNECTION: &str = "\n[connections.eu]\nurl = \"redis://eu.example.com\"\n";

fn text() -> String {
    committed::text("config.toml")
}

fn parse(text: &str) -> Result<String, String> {
    let environment = Environment::from_iter::<[(&str, &str); 0]>([]);
    let loaded = Config::parse(text, &folder().join("config.toml"), &environment);
    loaded.map(|loaded| format!("{:#?}", loaded.config)).map_err(|errors| errors.to_string())
}

/// A folder with the files that the examples name.
fn folder() -> &'static Path {
    static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
        let folder = tempfile::tempdir().expect("a folder");
        for file in ["redis-password", "ca.pem", "client.pem", "client.key"] {
            std::fs::write(folder.path().join(file), "x").expect("a file");
        }
        let plugins = Path::new(ROOT).join("plugins");
        std::os::unix::fs::symlink(plugins, folder.path().join("plugins")).expect("a link");
        folder
    });
    FOLDER.path()
}

/// A commented-out key.
struct Commented {
    line: String,
    /// The text in which it isn't. A table that is commented out comes along with its key, and
    /// with what the table requires.
    with: String,
    /// The text without it, and with the same table.
    without: String,
}

/// The keys that are commented out.
fn uncommented(text: &str) -> Vec<Commented> {
    let lines: Vec<&str> = text.lines().collect();
    let is_key = |line: &str| {
        let key = line.split_once(" = ").map_or("", |(key, _)| key);
        !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    };
    let mut found = Vec::new();
    // Where the commented-out table that the line is in begins, if it is in one.
    let mut table = None;
    for (n, line) in lines.iter().enumerate() {
        let Some(inside) = line.strip_prefix("# ") else {
            table = None;
            continue;
        };
        if inside.starts_with('[') {
            table = Some(n);
        } else if is_key(inside) {
            let mut without = lines.clone();
            if let Some(table) = table {
                let required = |line: &str| line.contains(REQUIRED);
                let end = lines[table..].iter().position(|line| !line.starts_with('#'));
                let end = end.map_or(lines.len(), |length| table + length);
                // A table is begun only for a key, or where a key needs it.
                let is_begun = lines[table..end].iter().any(|line| required(line));
                for (n, line) in lines[table..end].iter().enumerate() {
                    if is_begun && (n == 0 || required(line)) {
                        without[table + n] = &line[2..];
                    }
                }
            }
            let mut with = without.clone();
            with[n] = inside;
            if let Some(table) = table {
                with[table] = &lines[table][2..];
            }
            found.push(Commented {
                line: inside.to_owned(),
                with: with.join("\n"),
                without: without.join("\n"),
            });
        }
    }
    found
}

#[test]
fn it_works_as_it_stands() {
    let config = parse(&text()).expect("it is valid");
    for part in ["Embedded", "\"chat\"", "\"redact\"", "\"announce\"", "chat.out", "Log"] {
        assert!(config.contains(part), "{part} isn't in {config}");
    }
}

#[test]
fn the_example_of_a_sum_can_not_be_taken_for_a_files() {
    // That of a plugin would be wrong as soon as the plugin is built anew.
    let text = text();
    let (_, rest) = text.split_once("# sha256 = \"").expect("an example");
    let (sum, rest) = rest.split_once('"').expect("it ends");
    assert_eq!((sum.len(), sum.trim_matches('0')), (64, ""));
    assert!(rest.lines().next().is_some_and(|line| line.contains("sha256sum")), "{rest}");
}

#[test]
fn what_is_commented_out_is_the_default_or_a_valid_example() {
    let found = uncommented(&text());
    assert!(found.len() > 45, "only {} keys were found", found.len());
    for Commented { line, with, without } in found {
        let redis = |text: &str| match line.split(' ').next() {
            Some("listen") => text.to_owned(),
            Some("url") => text.replace(EMBEDDED, ""),
            // The embedded broker has neither users nor lists nor streams nor TLS.
            _ => text.replace(EMBEDDED, "url = \"rediss://localhost\"") + CONNECTION,
        };
        // The order of one worker needs no key.
        let with = match line.starts_with("order_by") {
            true => with.replace(&line, &format!("workers = 2\n{line}")),
            false => with,
        };
        let with = parse(&redis(&with)).unwrap_or_else(|errors| panic!("{line}\n{errors}"));
        if !line.contains(EXAMPLE) {
            let without = parse(&redis(&without)).expect("it is valid");
            assert_eq!(with, without, "this is not the default: {line}");
        }
    }
}
