//! Real files, real links, real events.

use std::fs::{self, File};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use super::place::QUIET;
use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

async fn watch_of(plugins: &Path, config: Option<&Path>) -> Watch {
    Watch::new(plugins, [], config).await
}

async fn told(watch: &mut Watch) -> Changed {
    tokio::time::timeout(PATIENCE, watch.next()).await.expect("something has changed")
}

async fn nothing(watch: &mut Watch, what: &str) {
    let told = tokio::time::timeout(3 * QUIET, watch.next()).await;
    assert!(told.is_err(), "{what}: {told:?}");
}

#[tokio::test]
async fn a_file_is_told_of_when_it_is_whole() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut watch = watch_of(dir.path(), None).await;
    fs::write(dir.path().join("notes.txt"), "x").expect("written");
    nothing(&mut watch, "a file that is no plugin").await;
    let mut file = File::create(dir.path().join("a.wasm")).expect("made");
    file.write_all(b"half").expect("written");
    nothing(&mut watch, "half a file").await;
    file.write_all(b"whole").expect("written");
    drop(file);
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    nothing(&mut watch, "what was told already").await;
    fs::rename(dir.path().join("a.wasm"), dir.path().join("b.wasm")).expect("renamed");
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    fs::remove_file(dir.path().join("b.wasm")).expect("removed");
    assert_eq!(told(&mut watch).await, Changed::Plugins);
}

#[tokio::test]
async fn the_configuration_is_watched_by_its_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let plugins = dir.path().join("plugins");
    fs::create_dir(&plugins).expect("made");
    let config = dir.path().join("config.toml");
    fs::write(&config, "1").expect("written");
    let mut watch = watch_of(&plugins, Some(&config)).await;
    fs::write(dir.path().join("other.toml"), "x").expect("written");
    nothing(&mut watch, "another file").await;
    // As editors do it.
    fs::write(dir.path().join("config.toml~"), "2").expect("written");
    fs::rename(dir.path().join("config.toml~"), &config).expect("renamed");
    assert_eq!(told(&mut watch).await, Changed::Config);
}

#[tokio::test]
async fn a_folder_that_comes_later_is_watched_then() {
    let dir = tempfile::tempdir().expect("a folder");
    let plugins = dir.path().join("plugins");
    let mut watch = watch_of(&plugins, None).await;
    nothing(&mut watch, "nothing is there").await;
    fs::create_dir(&plugins).expect("made");
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    fs::write(plugins.join("a.wasm"), "x").expect("written");
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    fs::remove_dir_all(&plugins).expect("removed");
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    fs::create_dir(&plugins).expect("made");
    fs::write(plugins.join("b.wasm"), "x").expect("written");
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    let other = dir.path().join("other");
    fs::create_dir(&other).expect("made");
    watch.follow(&other, []).await;
    fs::write(other.join("c.wasm"), "x").expect("written");
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    // Another one in its place.
    let next = dir.path().join("next");
    fs::create_dir(&next).expect("made");
    fs::rename(&other, dir.path().join("before")).expect("moved away");
    fs::rename(&next, &other).expect("moved there");
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    fs::write(other.join("e.wasm"), "x").expect("written");
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    fs::write(plugins.join("d.wasm"), "x").expect("written");
    nothing(&mut watch, "the folder before").await;
}

#[tokio::test]
async fn what_happens_before_the_folder_is_another_is_told_of_afterwards() {
    let dir = tempfile::tempdir().expect("a folder");
    let [one, other] = ["one", "other"].map(|name| dir.path().join(name));
    fs::create_dir(&one).expect("made");
    fs::create_dir(&other).expect("made");
    let plugin = other.join("a.wasm");
    let mut watch = watch_of(&one, None).await;
    // As a reload does: it reads this file, and then takes the configuration that names it.
    watch.follow_also([&*plugin]).await;
    let mut file = File::create(&plugin).expect("made");
    file.write_all(b"half").expect("written");
    let seen = watch.seen.clone();
    let until = Instant::now() + PATIENCE;
    while !seen.marks().plugins.has_unfinished() {
        assert!(Instant::now() < until, "it is seen");
        sleep(Duration::from_millis(10)).await;
    }
    watch.follow(&other, [&*plugin]).await;
    assert!(watch.unfinished().contains(&plugin).await);
    drop(file);
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    // The same when it was closed before.
    watch.follow_also([&*one.join("b.wasm")]).await;
    fs::write(one.join("b.wasm"), "whole").expect("written");
    while seen.marks().plugins.due().is_none() || seen.marks().plugins.has_unfinished() {
        assert!(Instant::now() < until, "it is seen");
        sleep(Duration::from_millis(10)).await;
    }
    watch.follow(&one, [&*one.join("b.wasm")]).await;
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    nothing(&mut watch, "that another folder is watched by itself").await;
}

#[tokio::test]
async fn a_folder_further_up_that_was_moved_is_noticed() {
    let dir = tempfile::tempdir().expect("a folder");
    let [release, next] = ["release", "next"].map(|name| dir.path().join(name));
    let plugins = release.join("app/plugins");
    for dir in [&release, &next] {
        fs::create_dir_all(dir.join("app/plugins")).expect("made");
    }
    let mut watch = watch_of(&plugins, None).await;
    fs::rename(&release, dir.path().join("before")).expect("moved away");
    fs::rename(&next, &release).expect("moved there");
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    fs::write(plugins.join("a.wasm"), "x").expect("written");
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    // The same for a file elsewhere, and when nothing is there for a while.
    let file = release.join("app/plugins/b.wasm");
    fs::write(&file, "1").expect("written");
    let mut watch = Watch::new(&dir.path().join("before"), [&*file], None).await;
    fs::rename(&release, dir.path().join("away")).expect("moved away");
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    fs::create_dir_all(release.join("app/plugins")).expect("made");
    fs::write(&file, "2").expect("written");
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    fs::write(&file, "3").expect("written");
    assert_eq!(told(&mut watch).await, Changed::Plugins);
}

#[tokio::test]
async fn a_glance_tells_of_what_no_event_told_and_of_nothing_else() {
    let dir = tempfile::tempdir().expect("a folder");
    let plugin = dir.path().join("a.wasm");
    fs::write(&plugin, "1").expect("written");
    let mut watch = watch_of(dir.path(), None).await;
    fs::write(&plugin, "other bytes").expect("written");
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    fs::write(dir.path().join("b.txt"), "x").expect("written");
    let glances = tokio::time::timeout(3 * look::GLANCE, watch.next()).await;
    assert!(glances.is_err(), "what was told already, or is no plugin: {glances:?}");
    // As if the event were lost: another machine has written it.
    fs::write(&plugin, "others' bytes").expect("written");
    sleep(QUIET).await;
    {
        let mut marks = watch.seen.marks();
        marks.told.clear();
        marks.plugins.take(Instant::now() + LONGEST_LOOK);
    }
    assert_eq!(told(&mut watch).await, Changed::Plugins);
}

#[tokio::test]
async fn what_is_seen_to_be_written_before_its_event_comes_is_no_other_change() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut file = File::create(dir.path().join("a.wasm")).expect("made");
    let mut watch = watch_of(dir.path(), None).await;
    let is_enough = Arc::new(AtomicBool::new(false));
    let enough = is_enough.clone();
    let writer = std::thread::spawn(move || {
        for n in 0_u64.. {
            if enough.load(Ordering::Relaxed) {
                return file;
            }
            file.write_all(b"more").expect("written");
            std::thread::sleep(Duration::from_micros(n % 1009));
        }
        unreachable!("nobody waits for so long");
    });
    for n in 0..300 {
        watch.follow(dir.path(), []).await;
        let later = Instant::now() + 2 * LONGEST_LOOK;
        assert!(!watch.seen.marks().plugins.take(later), "{n}: it is still being written");
    }
    is_enough.store(true, Ordering::Relaxed);
    let file = writer.join().expect("it has written");
    drop(file);
    assert_eq!(told(&mut watch).await, Changed::Plugins);
}

#[tokio::test]
async fn the_rights_of_the_folder_of_a_file_elsewhere_are_noticed() {
    let dir = tempfile::tempdir().expect("a folder");
    let [plugins, library] = ["plugins", "library"].map(|name| dir.path().join(name));
    fs::create_dir(&plugins).expect("made");
    fs::create_dir(&library).expect("made");
    let file = library.join("a.wasm");
    fs::write(&file, "1").expect("written");
    let mut watch = Watch::new(&plugins, [&*file], None).await;
    for mode in [0o700, 0o755] {
        let rights = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(&library, rights).expect("they are set");
        assert_eq!(told(&mut watch).await, Changed::Plugins);
    }
}

/// As `ln -sfn` does it: aside, then renamed.
fn link(target: impl AsRef<Path>, at: &Path) {
    let aside = at.with_file_name("aside.link");
    std::os::unix::fs::symlink(target, &aside).expect("a link");
    fs::rename(&aside, at).expect("renamed");
}

#[tokio::test]
async fn what_a_link_in_the_folder_leads_to_is_watched() {
    let dir = tempfile::tempdir().expect("a folder");
    let [plugins, library, other] =
        ["plugins", "library", "other"].map(|name| dir.path().join(name));
    for dir in [&plugins, &library, &other] {
        fs::create_dir(dir).expect("made");
    }
    fs::write(library.join("a-1.wasm"), "1").expect("written");
    fs::write(other.join("a-2.wasm"), "2").expect("written");
    // By a second link, and not by the same name.
    link("a-1.wasm", &library.join("a.current"));
    link("../library/a.current", &plugins.join("a.wasm"));
    let mut watch = watch_of(&plugins, None).await;
    fs::write(library.join("a-1.wasm"), "other bytes").expect("written");
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    fs::write(library.join("aside"), "3").expect("written");
    nothing(&mut watch, "another file beside it").await;
    fs::rename(library.join("aside"), library.join("a-1.wasm")).expect("renamed");
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    nothing(&mut watch, "what was told already").await;
    // To a folder that was not watched.
    link(other.join("a-2.wasm"), &library.join("a.current"));
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    fs::write(other.join("a-2.wasm"), "other bytes").expect("written");
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    fs::write(library.join("a-1.wasm"), "4").expect("written");
    nothing(&mut watch, "what it led to before").await;
    // Half of it is not looked at, and known to be half by the link's name.
    let mut file = File::create(other.join("a-2.wasm")).expect("made");
    file.write_all(b"half").expect("written");
    nothing(&mut watch, "half a file").await;
    assert!(watch.unfinished().contains(&plugins.join("a.wasm")).await);
    drop(file);
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    assert!(!watch.unfinished().contains(&plugins.join("a.wasm")).await);
    // It leads nowhere for a while.
    fs::remove_file(other.join("a-2.wasm")).expect("removed");
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    fs::write(other.join("a-2.wasm"), "back").expect("written");
    assert_eq!(told(&mut watch).await, Changed::Plugins);
}

#[tokio::test]
async fn a_folder_that_is_a_link_is_watched_where_it_is() {
    let dir = tempfile::tempdir().expect("a folder");
    let [one, two, three, plugins] = ["1", "2", "3", "plugins"].map(|name| dir.path().join(name));
    for release in [&one, &two, &three] {
        fs::create_dir_all(release.join("wasm")).expect("made");
    }
    link(&one, &dir.path().join("current"));
    link("current/wasm", &plugins);
    let mut watch = watch_of(&plugins, None).await;
    fs::write(one.join("wasm/a.wasm"), "1").expect("written");
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    link(&two, &dir.path().join("current"));
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    fs::write(two.join("wasm/a.wasm"), "2").expect("written");
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    fs::write(one.join("wasm/a.wasm"), "3").expect("written");
    nothing(&mut watch, "the folder before").await;
    // Another folder in its place, and the same link.
    fs::rename(two.join("wasm"), two.join("before")).expect("moved away");
    fs::rename(three.join("wasm"), two.join("wasm")).expect("moved there");
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    fs::write(two.join("wasm/b.wasm"), "4").expect("written");
    assert_eq!(told(&mut watch).await, Changed::Plugins);
}

#[tokio::test]
async fn a_configuration_by_links_as_kubernetes_makes_them_is_watched() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    let version = |name: &str| {
        fs::create_dir(at(name)).expect("made");
        fs::write(at(name).join("config.toml"), name).expect("written");
    };
    fs::create_dir(at("plugins")).expect("made");
    version("..1");
    link("..1", &at("..data"));
    link("..data/config.toml", &at("config.toml"));
    let mut watch = watch_of(&at("plugins"), Some(&at("config.toml"))).await;
    for (before, next) in [("..1", "..2"), ("..2", "..3")] {
        version(next);
        nothing(&mut watch, "what no link leads to yet").await;
        link(next, &at("..data"));
        fs::remove_dir_all(at(before)).expect("removed");
        assert_eq!(told(&mut watch).await, Changed::Config);
        nothing(&mut watch, "what was told already").await;
    }
    fs::write(at("..3/config.toml"), "in place").expect("written");
    assert_eq!(told(&mut watch).await, Changed::Config);
}

#[tokio::test]
async fn a_file_that_is_made_and_not_written_yet_is_waited_for() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut watch = watch_of(dir.path(), None).await;
    let mut file = File::create(dir.path().join("a.wasm")).expect("made");
    nothing(&mut watch, "an empty file").await;
    assert!(watch.unfinished().contains(&dir.path().join("a.wasm")).await);
    file.write_all(b"whole").expect("written");
    drop(file);
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    // The same for one that is emptied to be written anew.
    let file = File::create(dir.path().join("a.wasm")).expect("emptied");
    nothing(&mut watch, "an emptied file").await;
    drop(file);
    assert_eq!(told(&mut watch).await, Changed::Plugins);
}

#[tokio::test]
async fn a_file_that_is_written_slowly_holds_up_no_other() {
    let dir = tempfile::tempdir().expect("a folder");
    let [slow, other] = ["slow.wasm", "other.wasm"].map(|name| dir.path().join(name));
    let mut watch = watch_of(dir.path(), None).await;
    let mut file = File::create(&slow).expect("made");
    file.write_all(b"half").expect("written");
    fs::write(&other, "whole").expect("written");
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    let unfinished = watch.unfinished();
    assert!(unfinished.contains(&slow).await && !unfinished.contains(&other).await);
    nothing(&mut watch, "half a file").await;
    file.write_all(b"whole").expect("written");
    drop(file);
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    assert!(!unfinished.contains(&slow).await);
}

#[tokio::test]
async fn what_others_may_read_by_now_is_told_of_and_new_times_are_not() {
    let dir = tempfile::tempdir().expect("a folder");
    let [plugins, library] = ["plugins", "library"].map(|name| dir.path().join(name));
    fs::create_dir(&plugins).expect("made");
    fs::create_dir(&library).expect("made");
    let (config, plugin) = (dir.path().join("config.toml"), plugins.join("a.wasm"));
    let (real, aside) = (library.join("b-1.wasm"), library.join("aside.wasm"));
    fs::write(&config, "1").expect("written");
    fs::write(&real, "1").expect("written");
    link(&real, &plugins.join("b.wasm"));
    let mode = |path: &Path, mode| {
        let rights = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(path, rights).expect("they are set");
    };
    let mut watch = watch_of(&plugins, Some(&config)).await;
    fs::write(&aside, "1").expect("written");
    mode(&aside, 0o000);
    fs::rename(&aside, &plugin).expect("renamed");
    assert_eq!(told(&mut watch).await, Changed::Plugins);
    for changed in [&plugin, &real, &plugins] {
        mode(changed, 0o755);
        mode(changed, 0o700);
        assert_eq!(told(&mut watch).await, Changed::Plugins, "{}", changed.display());
    }
    mode(&config, 0o600);
    assert_eq!(told(&mut watch).await, Changed::Config);
    // As `touch` and a backup do it; and one that is read.
    let mut open = Vec::new();
    for same in [&plugin, &real, &config] {
        let file = File::options().append(true).open(same).expect("opened");
        let then = std::time::SystemTime::UNIX_EPOCH;
        let times = fs::FileTimes::new().set_modified(then).set_accessed(then);
        file.set_times(times).expect("they are set");
        // Closing it would be the end of a change.
        open.push(file);
        fs::read(same).expect("read");
    }
    mode(&plugin, 0o700);
    nothing(&mut watch, "the same rights as before").await;
}
