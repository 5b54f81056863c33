//! The plugin files that tests use: the built ones of the repository.

use std::path::{Path, PathBuf};

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `plugins/NAME.wasm`.
pub fn bundled(name: &str) -> PathBuf {
    existing(root().join("plugins").join(format!("{name}.wasm")))
}

/// `tests/plugins/misbehave.wasm`: does what the payload says. See its source for the words.
pub fn misbehave() -> PathBuf {
    existing(root().join("tests/plugins/misbehave.wasm"))
}

fn existing(file: PathBuf) -> PathBuf {
    assert!(file.is_file(), "{} is missing: plugins/build makes it", file.display());
    file
}

/// The announce plugin with other bytes, which does the same: another custom section at its end.
pub fn variant(number: u32) -> Vec<u8> {
    with_section(&std::fs::read(bundled("announce")).expect("the plugin is there"), number)
}

/// A plugin with other bytes, which does the same.
pub fn with_section(plugin: &[u8], number: u32) -> Vec<u8> {
    let mut bytes = plugin.to_vec();
    let name = b"variant";
    let number = number.to_le_bytes();
    bytes.extend([0, (1 + name.len() + number.len()) as u8, name.len() as u8]);
    bytes.extend(name);
    bytes.extend(number);
    bytes
}

/// Fill a folder with every plugin that tests name, so that configs can say `dir = "plugins"`.
pub fn install(dir: &Path) {
    std::fs::create_dir_all(dir).expect("a plugin folder");
    for file in [bundled("announce"), bundled("redact"), misbehave()] {
        let name = file.file_name().expect("a file name");
        std::fs::copy(&file, dir.join(name)).expect("a plugin is copied");
    }
}
