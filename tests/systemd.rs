//! The systemd unit and what is written about it. What systemd itself has to say is asked where
//! its tools are installed.

mod support;

use std::path::Path;
use std::process::{Command, Output};

use support::plugins::root;
use tempfile::TempDir;

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// A tool of systemd with these arguments; `None` where it isn't installed.
fn systemd(tool: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(tool).args(arguments).env("SYSTEMD_COLORS", "0").output() {
        Ok(output) => Some(output),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("{tool} is not installed: what it would say is not tested");
            None
        }
        Err(e) => panic!("{tool}: {e}"),
    }
}

/// Everything that a tool said.
fn said(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// The blocks of README.md in this language, below this heading.
fn blocks(heading: &str, language: &str) -> Vec<String> {
    let readme = read("systemd/README.md");
    let section = readme.split("\n## ").find_map(|section| section.strip_prefix(heading));
    let section = section.unwrap_or_else(|| panic!("README.md has no section {heading}"));
    let mut blocks = section.split("```").skip(1).step_by(2);
    let found = blocks.by_ref().filter_map(|block| block.strip_prefix(language));
    let found: Vec<String> = found.map(|block| block.trim_start_matches('\n').to_owned()).collect();
    assert!(!found.is_empty(), "{heading} has no block in {language}");
    found
}

/// A root folder into which handlerd is installed as README.md says.
fn installed() -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let there = dir.path().display();
    std::fs::create_dir_all(dir.path().join("usr/bin")).expect("a folder");
    let script = blocks("Install without a package", "sh").concat();
    // These need the machine that it is installed on.
    let own = |line: &&str| !line.starts_with("systemctl ") && !line.starts_with("systemd-");
    let script: Vec<&str> = script.lines().filter(own).collect();
    let script = script
        .join("\n")
        // The group is made by systemd-sysusers.
        .replace(" -g handlerd ", " ")
        .replace("target/release/handlerd", env!("CARGO_BIN_EXE_handlerd"))
        .replace(" /usr/", &format!(" {there}/usr/"))
        .replace("/etc/", &format!("{there}/etc/"))
        .replace("\nhandlerd ", &format!("\n{there}/usr/bin/handlerd "));
    let mut shell = Command::new("sh");
    shell.args(["-euc", &script]).current_dir(root());
    shell.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
    let done = shell.output().expect("a shell");
    assert!(done.status.success(), "{script}\n{}", said(&done));
    assert!(said(&done).contains("ok: 1 channel, 1 handler"), "{}", said(&done));
    dir
}

#[test]
fn installed_as_it_is_written_the_unit_is_right() {
    let dir = installed();
    let units = dir.path().join("etc/systemd/system");
    let unit = std::fs::read_to_string(units.join("handlerd.service")).expect("the unit");
    assert!(dir.path().join("etc/handlerd/plugins/announce.wasm").is_file());
    let program = "ExecStart=/usr/bin/handlerd run --config /etc/handlerd/config.toml\n";
    assert!(unit.contains(program), "{unit}");
    for name in ["Cache", "State"] {
        assert!(unit.contains(&format!("\n{name}Directory=handlerd\n")), "no {name} in {unit}");
    }

    // With what README.md would add to it, and the system's own units around it.
    let more = units.join("handlerd.service.d");
    std::fs::create_dir(&more).expect("a folder");
    let dropins = ["The Redis password", "Only one Redis in reach"];
    for (number, heading) in dropins.iter().enumerate() {
        let text = blocks(heading, "ini").concat();
        std::fs::write(more.join(format!("{number}.conf")), text).expect("a drop-in");
    }
    let of_system = dir.path().join("usr/lib/systemd/system");
    std::fs::create_dir_all(&of_system).expect("a folder");
    for entry in std::fs::read_dir("/lib/systemd/system").into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|kind| kind == "target" || kind == "slice") {
            std::fs::copy(entry.path(), of_system.join(entry.file_name())).expect("a copy");
        }
    }
    let there = format!("--root={}", dir.path().display());
    std::fs::copy(root().join("systemd/handlerd@.service"), units.join("handlerd@.service"))
        .expect("a copy");
    for unit in ["handlerd.service", "handlerd@eu.service"] {
        let Some(verified) = systemd("systemd-analyze", &["verify", &there, unit]) else { return };
        // It can warn and answer 0: whatever it says is a failure.
        assert_eq!(said(&verified), "");
        assert!(verified.status.success());
    }
}

#[test]
fn little_is_exposed() {
    for name in ["handlerd.service", "handlerd@.service"] {
        let unit = root().join("systemd").join(name).display().to_string();
        let most = ["security", "--offline=true", "--threshold=15", &unit];
        let Some(judged) = systemd("systemd-analyze", &most) else { return };
        assert!(judged.status.success(), "{}", said(&judged));
        let score = said(&judged);
        let score = score.rsplit(".service: ").next().and_then(|rest| rest.split(' ').next());
        let readme = read("systemd/README.md");
        // Other versions weigh otherwise; README.md's number is that of its own.
        let here = systemd("systemd-analyze", &["--version"]).map(|output| said(&output));
        if here.is_some_and(|version| version.starts_with("systemd 252")) {
            let score = format!("gives it {} of 10", score.expect("a score"));
            assert!(readme.contains(&score), "README.md doesn't say: {score}");
        }
    }
}

/// The settings of a unit, without comments.
fn settings(unit: &str) -> Vec<String> {
    let unit = read(&format!("systemd/{unit}"));
    let is_setting = |line: &&str| !line.is_empty() && !line.starts_with('#');
    unit.lines().filter(is_setting).map(str::to_owned).collect()
}

#[test]
fn one_of_several_is_as_the_only_one_with_names_of_its_own() {
    let only = settings("handlerd.service").into_iter();
    let expected: Vec<String> = only
        .map(|line| match line.split_once('=') {
            Some(("Description", _)) => format!("{line} (%i)"),
            Some(("CacheDirectory" | "StateDirectory" | "RuntimeDirectory", _)) => {
                format!("{line}-%i")
            }
            Some(("LoadCredential", _)) => line.replace("handlerd.redis", "handlerd-%i.redis"),
            _ => line.replace("/config.toml", "/%i.toml"),
        })
        .collect();
    assert_eq!(settings("handlerd@.service"), expected);
}

#[test]
fn a_configuration_that_is_refused_is_not_tried_again_and_again() {
    let settings = settings("handlerd.service");
    let has = |line: &str| settings.iter().any(|setting| setting == line);
    assert!(has("RestartPreventExitStatus=78"));
    // That is about ExecStart: what is run before it must not fail the start.
    let before = settings.iter().filter_map(|line| line.strip_prefix("ExecStartPre="));
    let before: Vec<&str> = before.collect();
    assert_eq!(before, ["-/usr/bin/handlerd check --config /etc/handlerd/config.toml"]);
    // What is wrong fails a reload, so that whoever asked for it sees it: no minus.
    let reload = settings.iter().filter_map(|line| line.strip_prefix("ExecReload="));
    let reload: Vec<&str> = reload.collect();
    assert_eq!(reload, ["/usr/bin/handlerd reload --pid $MAINPID"]);

    let config = "[channels.chat]\nhandlers = [\"nowhere\"]\npublish = \"out\"\n";
    let (_dir, file) = support::handlerd::folder_with(config);
    for verb in ["check", "run"] {
        support::Run::new(&[verb, "--config", &file.display().to_string()]).output().expect(78);
    }
}

#[test]
fn the_user_of_the_unit_is_made() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("usr/lib/sysusers.d");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::create_dir(dir.path().join("etc")).expect("a folder");
    std::fs::copy(root().join("systemd/handlerd.sysusers"), folder.join("handlerd.conf"))
        .expect("a copy");
    let unit = read("systemd/handlerd.service");
    assert!(unit.contains("\nUser=handlerd\nGroup=handlerd\n"), "{unit}");
    let there = format!("--root={}", dir.path().display());
    // Only root may give files to others.
    let is_root = rustix::process::geteuid().is_root();
    let arguments: &[&str] = if is_root { &[&there] } else { &[&there, "--dry-run"] };
    let Some(made) = systemd("systemd-sysusers", arguments) else { return };
    assert!(made.status.success(), "{}", said(&made));
    if !is_root {
        assert!(said(&made).contains("'handlerd'"), "{}", said(&made));
        return;
    }
    for (file, says) in [("passwd", ":/usr/sbin/nologin"), ("group", "")] {
        let text = std::fs::read_to_string(dir.path().join("etc").join(file)).expect(file);
        let line = text.lines().find(|line| line.starts_with("handlerd:")).expect("the user");
        assert!(line.contains(says), "{line}");
    }
}

#[test]
fn the_password_is_read_under_the_name_that_the_unit_gives_it() {
    let unit = read("systemd/handlerd.service");
    let (_, credential) = unit.split_once("\nLoadCredential=").expect("a credential");
    let credential = credential.lines().next().expect("a line");
    let (id, name) = credential.split_once(':').expect("a name in the store");
    // With a folder before it, the unit would not start where there is no such file.
    assert!(!name.contains('/'), "{name}");
    assert!(read("systemd/README.md").contains(&format!("/etc/credstore/{name})")), "{name}");

    let check = format!("-p LoadCredential={credential} ");
    assert!(read("systemd/README.md").contains(&check), "the check lacks {check}");

    let redis = support::Redis::with("requirepass sesame");
    let credentials = tempfile::tempdir().expect("a folder");
    std::fs::write(credentials.path().join(id), "sesame").expect("a password");
    let config = format!(
        "[redis]\nurl = \"{}\"\n[channels.chat]\nhandlers = []\npublish = \"out\"\n",
        redis.url()
    );
    let there = credentials.path().display().to_string();
    let environment = [("CREDENTIALS_DIRECTORY", there.as_str())];
    let folder = support::Handlerd::folder();
    let mut daemon = support::Handlerd::start_in(folder, &config, &environment);
    daemon.wait_log(&["subscribed to 1 of 1"]);
}
