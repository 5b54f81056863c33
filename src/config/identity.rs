//! One name for one configuration file, however it was called: by it a verb finds the daemon that
//! runs with it.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// One path for one file.
pub fn absolute(config: &Path) -> PathBuf {
    std::fs::canonicalize(config)
        .or_else(|_| std::path::absolute(config))
        .unwrap_or_else(|_| config.to_owned())
}

/// A name made of that path: 32 hex digits.
pub fn identity(config: &Path) -> String {
    // Half of it is enough for a name.
    digits(&absolute(config), 16)
}

/// The same of the file and of the path by which it is called, 16 hex digits each: a link may lead
/// elsewhere tomorrow, or nowhere.
pub fn file_and_path(config: &Path) -> [String; 2] {
    let path = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    [absolute(config), path].map(|path| digits(&path, 8))
}

fn digits(path: &Path, bytes: usize) -> String {
    let digest = Sha256::digest(path.as_os_str().as_bytes());
    digest[..bytes].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_has_one_name_and_another_file_another() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name| dir.path().join(name);
        std::fs::write(file("a"), "").unwrap();
        std::fs::write(file("b"), "").unwrap();
        std::os::unix::fs::symlink(file("a"), file("link")).unwrap();
        assert_eq!(identity(&file("a")), identity(&file("link")));
        assert_eq!(identity(&file("a")), identity(&file("./a")));
        assert_ne!(identity(&file("a")), identity(&file("b")));
        assert_eq!(identity(&file("missing")).len(), 32);

        let [of_file, of_path] = file_and_path(&file("link"));
        assert_eq!(file_and_path(&file("a"))[0], of_file);
        assert_ne!(file_and_path(&file("a"))[1], of_path);
        std::fs::remove_file(file("link")).unwrap();
        assert_eq!(file_and_path(&file("link"))[1], of_path);
    }
}
