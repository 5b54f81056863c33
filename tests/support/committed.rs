//! Files of the repository as they came: whoever tries handlerd changes config.toml, as README.md
//! says, and the tests are about the one that is in the repository.

use std::process::Command;

/// The text of a file as it is committed; as it lies there where git doesn't know.
pub fn text(file: &str) -> String {
    let root = env!("CARGO_MANIFEST_DIR");
    let committed = format!("HEAD:./{file}");
    let git = Command::new("git").args(["-C", root, "show", &committed]).output();
    match git {
        Ok(output) if output.status.success() => {
            String::from_utf8(output.stdout).expect("it is text")
        }
        _ => std::fs::read_to_string(format!("{root}/{file}")).expect("it is there"),
    }
}
