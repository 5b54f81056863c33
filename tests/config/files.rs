//! Files that can't be read at all.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use handlerd::config::Config;

/// What loading this file says, with its folder left out.
fn refusal(file: &Path) -> String {
    let errors = match Config::load(file) {
        Ok(_) => panic!("{} was accepted", file.display()),
        Err(errors) => errors,
    };
    assert_eq!(errors.count(), 1);
    let folder = format!("{}/", file.parent().expect("a folder").display());
    errors.to_string().replace(&folder, "")
}

#[test]
fn a_file_that_is_not_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = refusal(&folder.path().join("config.toml"));
    assert!(text.starts_with("error: there is no such configuration file\n--> config.toml\n"));
    assert!(text.contains("help: write one, or name another with --config"), "{text}");
}

#[test]
fn a_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = refusal(folder.path());
    assert!(text.starts_with("error: the configuration is a folder, not a file\n"), "{text}");
    assert!(text.contains("help: name the file in it with --config"), "{text}");
}

#[test]
fn a_file_that_may_not_be_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.toml");
    fs::write(&file, "").expect("write");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).expect("chmod");
    if fs::read(&file).is_ok() {
        eprintln!("not tested: root may read everything");
        return;
    }
    let text = refusal(&file);
    assert!(text.starts_with("error: the configuration file may not be read\n"), "{text}");
}

#[test]
fn a_file_in_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.toml");
    fs::write(&file, "").expect("write");
    let text = refusal(&file.join("config.toml"));
    assert!(text.starts_with("error: the configuration file can't be read: Not a dir"), "{text}");
}

#[test]
fn bytes_that_are_not_utf8() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.toml");
    fs::write(&file, b"[channels.chat]\npublish = \"\xc3\xa9\xff\"\nlog = true\n").expect("write");
    let text = refusal(&file);
    let expected = "error: the configuration file is not UTF-8\n--> config.toml:2:13\n";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.contains("help: save it as UTF-8"), "{text}");
}
