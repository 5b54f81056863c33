//! Every file of `tests/fixtures/config/bad` beside the text that it is refused with, and every
//! file of `warned` beside what is said although it is valid.
//!
//! With `HANDLERD_BLESS=1` in the environment the texts are written instead of compared.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use handlerd::config::{Config, ConfigErrors, Environment, Loaded};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The secrets of the fixtures: no rendered text may have one of them in it.
const SECRETS: [&str; 3] = ["hunter2", "hun/ter2", "ter2"];

/// What the fixtures find in the environment.
fn environment(with_credentials: bool) -> Environment {
    let mut variables = vec![
        ("CHANNEL", OsString::from("chat")),
        ("PASSWORD", OsString::from("hunter2")),
        ("WORKERS", OsString::from("3")),
        ("NOT_UTF8", OsString::from_vec(vec![b'a', 0xff])),
    ];
    if with_credentials {
        let folder = Path::new(ROOT).join("tests/fixtures/config/credentials");
        variables.push(("CREDENTIALS_DIRECTORY", folder.into()));
    }
    variables.into_iter().collect()
}

/// The files of a folder of fixtures, relative to the package like errors show them.
fn fixtures(folder: &str) -> BTreeSet<PathBuf> {
    let folder = Path::new("tests/fixtures/config").join(folder);
    let entries = std::fs::read_dir(Path::new(ROOT).join(&folder)).expect("the fixtures");
    let files = entries.map(|entry| folder.join(entry.expect("an entry").file_name()));
    files.filter(|file| file.extension().is_some_and(|extension| extension == "toml")).collect()
}

fn load(file: &Path) -> Result<Loaded, ConfigErrors> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    Config::load_with(file, &environment(name.starts_with("credentials")))
}

/// Compare a text with the file beside a fixture; answers whether they are the same.
fn compare(fixture: &Path, text: &str) -> bool {
    let file = Path::new(ROOT).join(fixture).with_extension("txt");
    let text = format!("{}\n", text.replace(ROOT, "[ROOT]"));
    for secret in SECRETS {
        assert!(!text.contains(secret), "{} shows a secret:\n{text}", fixture.display());
    }
    if std::env::var_os("HANDLERD_BLESS").is_some() {
        std::fs::write(&file, text).expect("write");
        return true;
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    if expected != text {
        eprintln!("--- {}: expected\n{expected}\n--- but got\n{text}", file.display());
    }
    expected == text
}

#[test]
fn bad_files_are_refused_with_their_errors() {
    std::env::set_current_dir(ROOT).expect("the package");
    let files = fixtures("bad");
    assert!(files.len() >= 50, "only {} fixtures", files.len());
    let mut wrong = Vec::new();
    for file in &files {
        let errors = match load(file) {
            Ok(loaded) => panic!("{} was accepted: {loaded:#?}", file.display()),
            Err(errors) => errors,
        };
        assert!(errors.count() > 0);
        let places: Vec<_> = errors.diagnostics().iter().map(|d| d.position()).collect();
        assert!(places.iter().all(Option::is_some), "{}: no place", file.display());
        assert!(places.is_sorted(), "{}: not in the file's order", file.display());
        let debug = format!("{errors:?}");
        assert!(SECRETS.iter().all(|secret| !debug.contains(secret)), "{debug}");
        if !compare(file, &errors.render(false)) {
            wrong.push(file);
        }
    }
    assert!(wrong.is_empty(), "see above; HANDLERD_BLESS=1 accepts what is printed: {wrong:?}");
}

#[test]
fn doubtful_files_are_warned_of() {
    std::env::set_current_dir(ROOT).expect("the package");
    let mut wrong = Vec::new();
    for file in &fixtures("warned") {
        let loaded = load(file).unwrap_or_else(|errors| panic!("{errors}"));
        let warnings: Vec<String> = loaded.warnings.iter().map(|w| w.to_string()).collect();
        if !compare(file, &warnings.join("\n\n")) {
            wrong.push(file.clone());
        }
    }
    assert!(wrong.is_empty(), "see above; HANDLERD_BLESS=1 accepts what is printed: {wrong:?}");
}

#[test]
fn colour_changes_the_look_only() {
    std::env::set_current_dir(ROOT).expect("the package");
    for file in &fixtures("bad") {
        let Err(errors) = load(file) else { continue };
        let colored = errors.render(true);
        assert!(colored.contains("\u{1b}["), "{}", file.display());
        let mut plain = String::new();
        let mut rest = colored.as_str();
        while let Some((text, code)) = rest.split_once("\u{1b}[") {
            plain.push_str(text);
            rest = code.split_once('m').map_or("", |(_, rest)| rest);
        }
        plain.push_str(rest);
        assert_eq!(plain, errors.render(false), "{}", file.display());
    }
}
