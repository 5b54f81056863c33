//! A plugin file: its bytes, their sum, and what kind of WebAssembly they are.
//!
//! Looks at the outline only; whether a file is a plugin is decided by what it exports (`judge`).

use std::fmt;
use std::io::{Error, ErrorKind};
use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};
use wasmparser::{Encoding, Parser, Payload};

use super::PluginError;
use crate::file::{Patience, Unread};

/// Largest plugin file. A Python plugin has 18 MB.
const MAX_FILE: u64 = 256 << 20;

/// What kind of file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A component.
    Component,
    /// A core module that carries its component type; handlerd encodes it when it loads it.
    Module,
    /// A core module without a component type. Not a plugin.
    PlainModule,
    /// Not WebAssembly.
    NotWasm,
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FileKind::Component => "component",
            FileKind::Module => "core module with a component type",
            FileKind::PlainModule => "core module without a component type",
            FileKind::NotWasm => "not WebAssembly",
        })
    }
}

/// A file's bytes and their sum.
pub(super) struct PluginFile {
    pub(super) bytes: Vec<u8>,
    pub(super) sha256: [u8; 32],
}

/// What can be seen of WebAssembly without compiling it.
pub(super) struct Outline {
    pub(super) kind: FileKind,
    /// Of a core module: `module.name`. Empty for components.
    pub(super) imports: Vec<String>,
    /// Of a core module. Empty for components.
    pub(super) exports: Vec<String>,
}

/// For so long nothing may come of a plugin file: a network's may hang.
const SILENCE: Duration = Duration::from_secs(20);

/// What reads plugin files.
pub(super) fn patience() -> Patience {
    Patience::new(SILENCE)
}

/// The bytes of a plugin file.
pub(super) async fn read(path: &Path, files: &Patience) -> Result<Vec<u8>, PluginError> {
    let file = || path.to_owned();
    files.read_large(path, MAX_FILE).await.map_err(|unread| match unread {
        Unread::Io { source, .. } if source.kind() != ErrorKind::IsADirectory => {
            PluginError::Read { file: file(), source }
        }
        Unread::Late(limit) => {
            let why = format!(
                "its file system has not answered for {} s; have it read again when it does",
                limit.as_secs()
            );
            PluginError::Read { file: file(), source: Error::new(ErrorKind::TimedOut, why) }
        }
        other => PluginError::NotAFile { file: file(), what: format!("it {other}") },
    })
}

/// The bytes with their sum. Blocks.
pub(super) fn summed(bytes: Vec<u8>) -> PluginFile {
    let sha256 = Sha256::digest(&bytes).into();
    PluginFile { bytes, sha256 }
}

/// A sum as people write it.
pub(super) fn hex(sum: &[u8]) -> String {
    use fmt::Write;
    sum.iter().fold(String::with_capacity(2 * sum.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Wasmtime's own "operating system" in the header of what it compiles (`ELFOSABI_WASMTIME`).
const OF_WASMTIME: u8 = 200;

/// How a file begins that Git LFS has left where the real one belongs.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/";

/// Why bytes that aren't WebAssembly are no plugin, and what they probably are.
pub(super) fn not_wasm(bytes: &[u8]) -> String {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    let text_begins = |with: &str| {
        text.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()))
    };
    let is_elf = bytes.starts_with(b"\x7fELF");
    if is_elf && bytes.get(7) == Some(&OF_WASMTIME) {
        "it is machine code that wasmtime has made (.cwasm): use the .wasm file that it was made of"
            .into()
    } else if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(&[0x1f, 0x8b]) {
        "it is an archive, not WebAssembly: unpack it".into()
    } else if bytes.starts_with(LFS_POINTER) {
        "it only says where Git LFS keeps the file: `git lfs pull` gets the file itself".into()
    } else if text_begins("<!doctype html") || text_begins("<html") {
        "it is a web page (HTML), not WebAssembly: download the file itself, by the link that says \
         raw or download"
            .into()
    } else if text_begins("(") {
        "it is WebAssembly's text format: make a binary of it by wat2wasm or wasm-tools parse"
            .into()
    } else {
        let what = if bytes.is_empty() {
            "it is empty, not WebAssembly"
        } else if is_elf {
            "it is a native program or library (ELF), not WebAssembly"
        } else {
            "it is not WebAssembly (it doesn't begin with `\\0asm`)"
        };
        format!("{what}; `handlerd plugin new NAME` begins a plugin")
    }
}

/// Look at WebAssembly's outline.
///
/// # Errors
/// A sentence, when it begins like WebAssembly and goes on as something else.
pub(super) fn outline(bytes: &[u8]) -> Result<Outline, String> {
    let mut outline = Outline { kind: FileKind::NotWasm, imports: Vec::new(), exports: Vec::new() };
    if !bytes.starts_with(b"\0asm") {
        return Ok(outline);
    }
    let damaged = |e: wasmparser::BinaryReaderError| {
        format!(
            "it begins like WebAssembly but is damaged or cut short: {} at byte {} of {}",
            e.message(),
            e.offset(),
            bytes.len()
        )
    };
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(damaged)? {
            Payload::Version { encoding, .. } => {
                if depth == 0 {
                    outline.kind = match encoding {
                        Encoding::Component => FileKind::Component,
                        Encoding::Module => FileKind::PlainModule,
                    };
                }
                depth += 1;
            }
            Payload::ImportSection(imports) if outline.kind != FileKind::Component => {
                for import in imports.into_imports() {
                    let import = import.map_err(damaged)?;
                    outline.imports.push(format!("{}.{}", import.module, import.name));
                }
            }
            Payload::ExportSection(exports) if outline.kind != FileKind::Component => {
                for export in exports {
                    outline.exports.push(export.map_err(damaged)?.name.to_owned());
                }
            }
            Payload::CustomSection(section)
                if outline.kind == FileKind::PlainModule
                    && section.name().starts_with("component-type") =>
            {
                outline.kind = FileKind::Module;
            }
            _ => {}
        }
    }
    Ok(outline)
}
