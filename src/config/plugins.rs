//! `[plugins]`: the folder of plugin files, and which file a name means.

use std::collections::{BTreeSet, HashSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::keys::Table as Keys;
use super::reader::{Reader, Value, header, quoted};
use super::suggest;
use crate::file::unreadable;

/// How plugin files end.
const EXTENSION: &str = ".wasm";

/// The plugin folder and what is in it.
pub(super) struct Plugins {
    /// Absolute.
    pub dir: PathBuf,
    /// NAME of every NAME.wasm directly in it, or why it can't be read.
    names: Result<BTreeSet<String>, std::io::Error>,
    /// Files that count as there.
    kept: Vec<PathBuf>,
}

impl Plugins {
    /// Read `[plugins]`, which may be absent, and look into the folder.
    pub fn read(reader: &Reader<'_>, value: Option<&Value<'_, '_>>, kept: &[PathBuf]) -> Self {
        let table = value.and_then(|value| value.table(Keys::Plugins));
        let written = table.and_then(|table| table.get("dir"));
        let path = written.as_ref().map(Value::path);
        let is_wrong = path == Some(None);
        let dir = path.flatten().unwrap_or_else(|| reader.path("plugins"));
        let names = list(&dir);
        if let (Err(error), Some(written), false) = (&names, &written, is_wrong) {
            let help = remedy(error).to_owned();
            let message = format!("the plugin folder {} {}", dir.display(), unreadable(error));
            written.error(message, Some(help));
        }
        Plugins { dir, names, kept: kept.to_vec() }
    }

    /// Where the file of a plugin of this name is, or would be.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}{EXTENSION}"))
    }

    /// Whether the folder has a plugin of this name.
    pub fn has(&self, name: &str) -> bool {
        self.names.as_ref().is_ok_and(|names| names.contains(name))
            || self.kept.contains(&self.file(name))
    }

    /// Names of the plugins in the folder.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().flatten().map(String::as_str)
    }

    /// What is in the folder, for people.
    pub fn content(&self) -> String {
        const MOST: usize = 12;
        let dir = self.dir.display();
        let names: Vec<&str> = match &self.names {
            Err(error) => return format!("the plugin folder {dir} {}", unreadable(error)),
            Ok(names) => names.iter().map(String::as_str).collect(),
        };
        match names.len() {
            0 => format!(
                "the plugin folder {dir} has no .wasm file in it: copy some there, such as those in \
                 `plugins` of handlerd's repository, or make one by `handlerd plugin new NAME`"
            ),
            n if n > MOST => {
                format!("in {dir} there are {} and {} more", names[..MOST].join(", "), n - MOST)
            }
            _ => format!("in {dir} there are: {}", names.join(", ")),
        }
    }

    /// `plugin` of a handler: a file in the folder, or where it has a `/` any path, relative to
    /// the configuration like all paths.
    pub fn read_plugin(&self, value: &Value<'_, '_>) -> Option<PathBuf> {
        let text = value.text()?;
        let path = value.path()?;
        let file = if text.value.contains('/') { path } else { self.dir.join(&text.value) };
        if file.is_file() || self.kept.contains(&file) {
            return Some(file);
        }
        let stem = text.value.trim_end_matches(EXTENSION);
        let mut help = Vec::new();
        if let Some(near) = suggest::nearest(stem, self.names()) {
            help.push(format!("did you mean \"{near}{EXTENSION}\"?"));
        }
        let unread = crate::file::check(&file).err();
        let is_there = unread.as_ref().is_some_and(|unread| !unread.is_missing());
        if !text.value.contains('/') {
            help.push(self.content());
        } else if !is_there {
            help.push("a name without `/` is looked for in the plugin folder".to_owned());
        }
        let state = unread.map_or("has just come".to_owned(), |unread| unread.to_string());
        let message = format!("the plugin file {} {state}", file.display());
        value.reader.error(&value.span(), message, help);
        value.reader.misses(file);
        None
    }

    /// Report a `[handlers.NAME]` without `plugin` for which there is no NAME.wasm.
    pub fn check_named(&self, handler: &Value<'_, '_>) {
        let name = handler.key;
        if self.has(name) {
            return;
        }
        let message = format!(
            "{} names no `plugin`, and there is no {}",
            header("handlers", name),
            quoted(&format!("{name}{EXTENSION}"))
        );
        let mut help = vec!["add plugin = \"FILE.wasm\"".to_owned()];
        if let Some(near) = suggest::nearest(name, self.names()) {
            help = vec![format!("add plugin = \"{near}{EXTENSION}\"")];
        }
        help.push(self.content());
        handler.reader.missing(&handler.key_span, message, help);
    }

    /// The name of the handler that an item of a channel's `handlers` means: a table of that
    /// name, else a file in the folder. Answers whether it is a file's.
    pub fn resolve(&self, value: &Value<'_, '_>, tables: &HashSet<&str>) -> Option<(String, bool)> {
        let text = value.text()?;
        let name = text.value.as_str();
        if tables.contains(&name) {
            return Some((name.to_owned(), false));
        }
        let stem = name.strip_suffix(EXTENSION).unwrap_or(name);
        if tables.contains(&stem) {
            return Some((stem.to_owned(), false));
        }
        if self.has(stem) {
            return Some((stem.to_owned(), true));
        }
        let message = format!(
            "there is no handler {}: neither {} nor a plugin file of that name",
            text.quoted(),
            text.header("handlers")
        );
        let mut help = Vec::new();
        if name.contains('/') {
            help.push("handlers are named, not given by path: write [handlers.NAME] with plugin = \"PATH\"".to_owned());
        } else if let Some(near) =
            suggest::nearest(stem, tables.iter().copied().chain(self.names()))
        {
            help.push(format!("did you mean \"{near}\"?"));
        }
        help.push(self.content());
        value.reader.missing(&value.span(), message, help);
        None
    }
}

/// What helps where the folder can't be looked into.
fn remedy(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => {
            "let the user that handlerd runs as read it and enter it, its folders included"
        }
        ErrorKind::NotADirectory => "name the folder that the plugin files are in",
        _ => "make the folder, or name another",
    }
}

fn list(dir: &Path) -> std::io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let file = entry.file_name();
        let Some(stem) = file.to_str().and_then(|file| file.strip_suffix(EXTENSION)) else {
            continue;
        };
        // By the path, so that a link to a file counts.
        if !stem.is_empty() && entry.path().is_file() {
            names.insert(stem.to_owned());
        }
    }
    Ok(names)
}
