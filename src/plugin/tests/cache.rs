//! Compiled plugins on disk, and the child process that makes them.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::support::*;
use crate::plugin::{Host, PluginError};

fn echo() -> Vec<u8> {
    Source { body: ECHO, ..Source::default() }.module()
}

fn host(cache: &Path) -> Arc<Host> {
    Host::builder(cache.to_owned()).compile_in_process().build().expect("a host")
}

fn entries(cache: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(cache).expect("a folder").flatten().map(|entry| entry.path()).collect()
}

/// Load the echo by a new host, and use it; how many it compiled.
async fn compiled_by_new_host(bench: &Bench, cache: &Path) -> u64 {
    let host = host(cache);
    let handler = host.load(&bench.config(&echo())).await.expect("it is loaded");
    handle(&handler, b"x").await.expect("it echoes");
    host.compilations()
}

#[tokio::test]
async fn a_warm_start_compiles_nothing() {
    let bench = Bench::new();
    let cache = bench.dir().join("deep/er/cache");
    assert_eq!(compiled_by_new_host(&bench, &cache).await, 1);
    assert_eq!(compiled_by_new_host(&bench, &cache).await, 0);
    let entries = entries(&cache);
    assert_eq!(entries.len(), 1, "{entries:?}");
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").mode() & 0o777;
    assert_eq!(mode(&cache), 0o700);
    assert_eq!(mode(&entries[0]) & 0o077, 0);
}

#[tokio::test]
async fn a_damaged_entry_is_compiled_again() {
    let bench = Bench::new();
    let cache = bench.dir().join("own");
    compiled_by_new_host(&bench, &cache).await;
    let entry = entries(&cache).remove(0);
    let sound = std::fs::read(&entry).expect("an entry");
    let mut flipped = sound.clone();
    flipped[sound.len() / 2] ^= 1;
    let damages = [&flipped[..], &sound[..sound.len() / 2], b"", b"garbage", &echo()];
    for damage in damages {
        // Never written to in place: another process may have it mapped.
        std::fs::remove_file(&entry).expect("it is removed");
        std::fs::write(&entry, damage).expect("it is damaged");
        let log = Log::capture();
        assert_eq!(compiled_by_new_host(&bench, &cache).await, 1);
        assert!(log.text().contains("is not used, and compiled again"), "{}", log.text());
        assert_eq!(std::fs::read(&entry).expect("an entry").len(), sound.len());
        assert_eq!(compiled_by_new_host(&bench, &cache).await, 0);
    }
}

#[tokio::test]
async fn an_entry_that_others_could_write_is_not_run() {
    let bench = Bench::new();
    let cache = bench.dir().join("own");
    compiled_by_new_host(&bench, &cache).await;
    let entry = entries(&cache).remove(0);
    std::fs::set_permissions(&entry, PermissionsExt::from_mode(0o666)).expect("it is ours");
    assert_eq!(compiled_by_new_host(&bench, &cache).await, 1);
    // A link to elsewhere isn't followed.
    let elsewhere = bench.dir().join("elsewhere");
    std::fs::rename(&entry, &elsewhere).expect("it is moved");
    std::os::unix::fs::symlink(&elsewhere, &entry).expect("a link");
    assert_eq!(compiled_by_new_host(&bench, &cache).await, 1);
    assert!(!std::fs::symlink_metadata(&entry).expect("an entry").is_symlink());
}

#[tokio::test]
async fn without_a_folder_it_is_compiled_into_a_temporary_one() {
    let bench = Bench::new();
    let file = bench.dir().join("file");
    std::fs::write(&file, "").expect("a file");
    let shared = bench.dir().join("shared");
    std::fs::create_dir(&shared).expect("a folder");
    std::fs::set_permissions(&shared, PermissionsExt::from_mode(0o777)).expect("it is ours");
    for cache in [file.clone(), file.join("below"), shared.clone(), "/proc/self/none".into()] {
        let log = Log::capture();
        let host = host(&cache);
        assert!(log.text().contains("compiled plugins can't be kept in"), "{}", log.text());
        let temporary = host.cache().dir().expect("a temporary folder").to_owned();
        assert!(host.cache().is_temporary());
        assert_eq!(std::fs::metadata(&temporary).expect("a folder").mode() & 0o777, 0o700);
        let handler = host.load(&bench.config(&echo())).await.expect("it is loaded");
        handle(&handler, b"x").await.expect("it echoes");
        assert_eq!(host.compilations(), 1);
        drop((handler, host));
        assert!(!temporary.exists(), "it goes with the host");
    }
    assert!(entries(&shared).is_empty());
}

#[tokio::test]
async fn a_folder_that_was_removed_is_made_again() {
    let bench = Bench::new();
    let (below, cache) = (bench.dir().join("below"), bench.dir().join("below/own"));
    let host = host(&cache);
    // The same plugin with other bytes.
    let load = async |number: u8| {
        let bytes = [echo(), vec![0, 2, 1, number]].concat();
        host.load(&bench.config(&bytes)).await.expect("it is loaded")
    };
    load(0).await;
    std::fs::remove_dir_all(&below).expect("it was there");
    load(1).await;
    assert_eq!(entries(&cache).len(), 1);
    assert_eq!(std::fs::metadata(&cache).expect("a folder").mode() & 0o777, 0o700);
    assert_eq!((host.cache().errors(), host.cache().trouble_now()), (0, None));
    // Where that can't be done, it is said of what.
    std::fs::remove_dir_all(&below).expect("it was there");
    std::fs::write(&below, "").expect("a file");
    load(2).await;
    let (cache, below) = (cache.display(), below.display());
    let said =
        format!("can't be kept in {cache}: the folder {below} can't be made: File exists (os");
    let trouble = host.cache().trouble_now().expect("it is not kept");
    assert!(trouble.contains(&said), "{trouble}");
}

/// Stands in for `handlerd compile-plugin`: this test program has no verbs. Run by the tests below
/// as a child; does nothing otherwise.
#[test]
fn child_stand_in() {
    if std::env::var_os("RAYON_NUM_THREADS").is_none() || std::env::var_os("PATH").is_some() {
        return;
    }
    // The test harness writes a line to standard output: `host_with_child` leads that elsewhere.
    let artifact = std::fs::File::options().write(true).open("/proc/self/fd/3").expect("a pipe");
    let code = crate::plugin::compile::child(artifact);
    let known = [0, 65, 71].into_iter().find(|&known| code == u8::into(known));
    std::process::exit(known.expect("a code of its documentation").into());
}

pub(super) fn host_with_child(cache: &Path) -> Arc<Host> {
    let this = std::env::current_exe().expect("this program");
    let run = format!(
        "exec 3>&1 '{}' --exact plugin::tests::cache::child_stand_in --nocapture --quiet >/dev/null",
        this.display()
    );
    Host::builder(cache.to_owned()).compile_by("/bin/sh", ["-c", &run]).build().expect("a host")
}

#[tokio::test]
async fn a_child_process_compiles() {
    let bench = Bench::new();
    let cache = bench.dir().join("own");
    let host = host_with_child(&cache);
    let handler = host.load(&bench.config(&echo())).await.expect("it is loaded");
    handle(&handler, b"x").await.expect("it echoes");
    assert_eq!(host.compilations(), 1);
    // What the child made fits what this process would have made.
    assert_eq!(compiled_by_new_host(&bench, &cache).await, 0);
}

#[tokio::test]
async fn what_the_child_says_of_a_file_is_told() {
    let bench = Bench::new();
    let host = host_with_child(&bench.dir().join("own"));
    // Valid on the outside only.
    let component = wat::parse_str("(component (core module (func (result i32) nop)))");
    let config = bench.config(&component.expect("it is text"));
    let error = host.load(&config).await.err().expect("it is refused");
    assert!(matches!(error, PluginError::Compile { .. }), "{error}");
    assert!(error.to_string().contains("type mismatch"), "{error}");
    assert!(entries(&bench.dir().join("own")).is_empty(), "nothing is left");
}

#[tokio::test]
async fn a_child_that_dies_or_is_missing_is_told() {
    let bench = Bench::new();
    let dies = |program: &str, args: &[&str]| {
        Host::builder(bench.dir().join("own"))
            .compile_by(program, args.iter().copied())
            .build()
            .expect("a host")
    };
    let config = bench.config(&echo());
    let error = dies("/bin/sh", &["-c", "kill -XCPU $$"]).load(&config).await.err().expect("dead");
    assert!(error.to_string().contains("it took more than 240 s of the processor"), "{error}");
    let error =
        dies("/bin/sh", &["-c", "echo out of memory >&2; kill -ABRT $$"]).load(&config).await;
    let error = error.err().expect("dead").to_string();
    assert!(error.contains("MiB of memory: out of memory"), "{error}");
    let error = dies("/nonexistent/handlerd", &[]).load(&config).await.err().expect("missing");
    assert!(
        error.to_string().contains("can't start the compiler /nonexistent/handlerd"),
        "{error}"
    );
    // A child that writes nothing makes no entry.
    let error = dies("/bin/true", &[]).load(&config).await.err().expect("nothing is made");
    assert!(matches!(error, PluginError::Compile { .. }), "{error}");
}

#[tokio::test]
async fn only_what_the_machine_did_to_the_compiler_may_go_better_the_next_time() {
    let bench = Bench::new();
    let config = bench.config(&echo());
    let ends = async |program: &str, script: &str| {
        let host = Host::builder(bench.dir().join("own"))
            .compile_by(program, ["-c", script])
            .build()
            .expect("a host");
        match host.load(&config).await.err().expect("it is refused") {
            PluginError::Compile { of_machine, reason, .. } => (of_machine, reason),
            other => panic!("{other}"),
        }
    };
    for (script, said) in [
        ("kill -KILL $$", "short of memory: try again"),
        ("echo no space >&2; exit 71", "no space"),
        // Nothing was written, so nothing can be taken.
        ("exit 0", "can't be loaded"),
    ] {
        let (of_machine, reason) = ends("/bin/sh", script).await;
        assert!(of_machine && reason.contains(said), "{script}: {reason}");
    }
    assert!(ends("/nonexistent/handlerd", "").await.0);
    // One that has very much to say ends as it means to.
    let long = "echo a bad name >&2; head -c 300000 /dev/zero >&2 || exit 101; exit 65";
    let (of_machine, reason) = ends("/bin/sh", long).await;
    assert!(!of_machine && reason.starts_with("a bad name"), "{}", &reason[..100]);
    for (script, said) in [
        ("echo a bad opcode >&2; exit 65", "a bad opcode"),
        ("kill -XCPU $$", "of the processor"),
        ("kill -ABRT $$", "MiB of memory"),
        ("kill -SEGV $$", "MiB of memory"),
        ("exit 101", "MiB of memory"),
    ] {
        let (of_machine, reason) = ends("/bin/sh", script).await;
        assert!(!of_machine && reason.contains(said), "{script}: {reason}");
    }
}
