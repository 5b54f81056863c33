//! The unit and its user, as systemd's own tools see them, in a root of the test's own.

mod support;

use std::path::Path;
use std::process::Command;

use support::plugins;

/// The highest exposure that `systemd-analyze security` may find, of ten.
const EXPOSURE: &str = "15";

/// A root with what systemd/README.md installs, as far as the tools look at it.
fn root() -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a folder");
    let from = plugins::root().join("systemd");
    for (file, to) in [
        (from.join("handlerd.service"), "etc/systemd/system/handlerd.service"),
        (from.join("handlerd.sysusers"), "usr/lib/sysusers.d/handlerd.conf"),
        (env!("CARGO_BIN_EXE_handlerd").into(), "usr/bin/handlerd"),
    ] {
        let to = root.path().join(to);
        std::fs::create_dir_all(to.parent().expect("a parent")).expect("a folder");
        std::fs::copy(file, to).expect("a copy");
    }
    root
}

/// What a tool printed; `None` where it isn't installed, which is said.
fn run(tool: &str, root: &Path, arguments: &[&str]) -> Option<String> {
    let root = format!("--root={}", root.display());
    let output = match Command::new(tool).arg(root).args(arguments).output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: {tool} is not installed");
            return None;
        }
        Err(error) => panic!("{tool}: {error}"),
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{tool} {arguments:?}: {}\n{text}", output.status);
    Some(text)
}

#[test]
fn the_unit_is_verified_without_a_word() {
    let root = root();
    // Targets that the system has and this root doesn't.
    for target in ["network-online", "multi-user", "sysinit", "basic", "shutdown"] {
        let file = root.path().join(format!("etc/systemd/system/{target}.target"));
        std::fs::write(file, "[Unit]\nDefaultDependencies=no\n").expect("a file");
    }
    let unit = "handlerd.service";
    if let Some(said) = run("systemd-analyze", root.path(), &["verify", "--man=no", unit]) {
        let ours: Vec<&str> = said.lines().filter(|line| line.contains("handlerd")).collect();
        assert!(ours.is_empty(), "{said}");
    }
}

#[test]
fn the_unit_is_exposed_little() {
    let root = root();
    let arguments =
        ["security", "--offline=true", &format!("--threshold={EXPOSURE}"), "handlerd.service"];
    // With a threshold the tool fails where the exposure is above it.
    if let Some(said) = run("systemd-analyze", root.path(), &arguments) {
        assert!(said.contains("Overall exposure level for handlerd.service"), "{said}");
    }
}

#[test]
fn the_user_is_a_system_user_without_a_shell() {
    let root = root();
    if run("systemd-sysusers", root.path(), &["handlerd.conf"]).is_some() {
        let users = std::fs::read_to_string(root.path().join("etc/passwd")).expect("it is made");
        let user = users.lines().find(|line| line.starts_with("handlerd:")).expect("the user");
        assert!(user.ends_with("/nologin"), "{user}");
        let id: u32 = user.split(':').nth(2).and_then(|id| id.parse().ok()).expect("a number");
        assert!(id < 1000, "{user}");
    }
}
