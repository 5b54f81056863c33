//! Whether a compiled component is a plugin: what it exports, and what it wants to import.
//!
//! Decided before any of its code runs. Every refusal names the interface and says what to do.

use std::fmt::Write;

use wasmtime::Engine;
use wasmtime::component::types::{ComponentFunc, ComponentItem};
use wasmtime::component::{Component, ComponentExportIndex, Type};

use super::driver;
use super::failure::shorten;
use super::file::Outline;
use super::import::CONFIG_VERSIONS;

/// The version of the interface that this program has.
const VERSION: &str = "0.1.0";

/// What all versions have in common that it understands.
const TRACK: &str = "0.1";

const HANDLER: &str = "handlerd:plugin/handler";
const SETUP: &str = "handlerd:plugin/setup";

/// The interface's types, as [`render`] writes them.
const HANDLE_MESSAGE_TYPE: &str = "func(string, record { payload: list<u8>, headers: \
     list<tuple<string, list<u8>>>, route: option<string> }) -> result<list<record { payload: \
     list<u8>, headers: list<tuple<string, list<u8>>>, route: option<string> }>, variant { \
     reject(string), retry(string), retry-after(tuple<u64, string>) }>";
const SETUP_TYPE: &str = "func() -> result<_, string>";

/// Where a plugin's functions are.
pub(super) struct Exports {
    pub(super) handle_message: ComponentExportIndex,
    pub(super) setup: Option<ComponentExportIndex>,
    /// The driver's.
    pub(super) run: Option<ComponentExportIndex>,
    /// Version of the interface that it is made for.
    pub(super) version: String,
}

/// Names of what a component imports and exports.
pub(super) struct Names {
    pub(super) imports: Vec<String>,
    pub(super) exports: Vec<String>,
}

/// What the driver adds is not the plugin's.
pub(super) fn names(engine: &Engine, component: &Component) -> Names {
    let ty = component.component_type();
    let own = |name: &&str| !driver::is_own(name);
    Names {
        imports: ty.imports(engine).map(|(name, _)| name).filter(own).map(str::to_owned).collect(),
        exports: ty.exports(engine).map(|(name, _)| name).filter(own).map(str::to_owned).collect(),
    }
}

/// What a plugin must export; else a sentence that says what is wrong.
pub(super) fn exports(component: &Component) -> Result<Exports, String> {
    let names = names(component.engine(), component).exports;
    let Some(handler) = find_interface(&names, HANDLER)? else {
        return Err(format!(
            "it exports no {HANDLER}@{TRACK}: {}",
            what_it_is(&names).unwrap_or_else(|| exported_instead(&names))
        ));
    };
    let handle_message = function(component, &handler, "handle-message", HANDLE_MESSAGE_TYPE)?;
    let setup = match find_interface(&names, SETUP)? {
        Some(setup) => Some(function(component, &setup, "setup", SETUP_TYPE)?),
        None => None,
    };
    let version = version_of(&handler).unwrap_or_default().to_owned();
    let run = component.get_export_index(None, driver::RUN);
    Ok(Exports { handle_message, setup, run, version })
}

fn version_of(name: &str) -> Option<&str> {
    name.split_once('@').map(|(_, version)| version)
}

/// Whether a version is one of ours: 0.1.x, and no pre-release.
fn is_known(version: &str) -> bool {
    version
        .strip_prefix(TRACK)
        .and_then(|rest| rest.strip_prefix('.'))
        .is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|b| b.is_ascii_digit()))
}

/// The name under which an interface of ours is exported.
fn find_interface(names: &[String], interface: &str) -> Result<Option<String>, String> {
    let of_interface = |name: &&String| name.split('@').next() == Some(interface);
    let mut found: Vec<&String> = names.iter().filter(of_interface).collect();
    if let Some(known) = found.iter().position(|name| version_of(name).is_some_and(is_known)) {
        return Ok(Some(found.swap_remove(known).clone()));
    }
    match found.first() {
        Some(other) => Err(other_version(version_of(other))),
        None => Ok(None),
    }
}

fn other_version(version: Option<&str>) -> String {
    let Some(version) = version else {
        return format!(
            "it is made for handlerd:plugin without a version; this handlerd knows {TRACK}: build \
             it with the interface that `handlerd plugin wit` prints"
        );
    };
    // Patches of one version make no difference, but before a release they may.
    let shown = match version.split('.').collect::<Vec<_>>()[..] {
        [major, minor, patch] if patch.bytes().all(|b| b.is_ascii_digit()) => {
            format!("{major}.{minor}")
        }
        _ => version.to_owned(),
    };
    format!("it is made for handlerd:plugin {shown}; this handlerd knows {TRACK}")
}

/// An exported function, if it is one and of this type.
fn function(
    component: &Component,
    interface: &str,
    name: &str,
    expected: &str,
) -> Result<ComponentExportIndex, String> {
    let wrong = |what: String| format!("its export {interface} {what}");
    let (item, instance) =
        component.get_export(None, interface).ok_or_else(|| wrong("can't be found".into()))?;
    let ComponentItem::ComponentInstance(_) = item else {
        return Err(wrong("is no interface".into()));
    };
    let (item, index) = component
        .get_export(Some(&instance), name)
        .ok_or_else(|| wrong(format!("has no function {name}, which must be {expected}")))?;
    match item {
        ComponentItem::ComponentFunc(func) => {
            let found = render_function(&func);
            if found == expected {
                Ok(index)
            } else {
                Err(wrong(format!(
                    "has a function {name} of another type than handlerd:plugin {TRACK} has: it is \
                     {}, and must be {expected}",
                    shorten(found)
                )))
            }
        }
        _ => Err(wrong(format!("has {name} as something else than a function"))),
    }
}

/// The type of a function as WIT writes it, without the parameters' names, which don't matter.
fn render_function(func: &ComponentFunc) -> String {
    let params: Vec<String> = func.params().map(|(_, ty)| render(&ty)).collect();
    let results: Vec<String> = func.results().map(|ty| render(&ty)).collect();
    let keyword = if func.async_() { "async func" } else { "func" };
    let mut text = format!("{keyword}({})", params.join(", "));
    if !results.is_empty() {
        let _ = write!(text, " -> {}", results.join(", "));
    }
    text
}

/// A type as WIT writes it, names of types replaced by what they stand for.
fn render(ty: &Type) -> String {
    let list = |types: Vec<String>| types.join(", ");
    match ty {
        Type::Bool => "bool".into(),
        Type::S8 => "s8".into(),
        Type::U8 => "u8".into(),
        Type::S16 => "s16".into(),
        Type::U16 => "u16".into(),
        Type::S32 => "s32".into(),
        Type::U32 => "u32".into(),
        Type::S64 => "s64".into(),
        Type::U64 => "u64".into(),
        Type::Float32 => "f32".into(),
        Type::Float64 => "f64".into(),
        Type::Char => "char".into(),
        Type::String => "string".into(),
        Type::List(of) => format!("list<{}>", render(&of.ty())),
        Type::FixedLengthList(of) => format!("list<{}, {}>", render(&of.ty()), of.len()),
        Type::Map(map) => format!("map<{}, {}>", render(&map.key()), render(&map.value())),
        Type::Record(record) => {
            let field =
                |f: wasmtime::component::types::Field<'_>| format!("{}: {}", f.name, render(&f.ty));
            format!("record {{ {} }}", list(record.fields().map(field).collect()))
        }
        Type::Tuple(tuple) => {
            format!("tuple<{}>", list(tuple.types().map(|t| render(&t)).collect()))
        }
        Type::Variant(variant) => {
            let case = |c: wasmtime::component::types::Case<'_>| match c.ty {
                Some(ty) => format!("{}({})", c.name, render(&ty)),
                None => c.name.to_owned(),
            };
            format!("variant {{ {} }}", list(variant.cases().map(case).collect()))
        }
        Type::Enum(names) => {
            format!("enum {{ {} }}", list(names.names().map(str::to_owned).collect()))
        }
        Type::Option(of) => format!("option<{}>", render(&of.ty())),
        Type::Result(result) => {
            match (result.ok().as_ref().map(render), result.err().as_ref().map(render)) {
                (Some(ok), Some(err)) => format!("result<{ok}, {err}>"),
                (None, Some(err)) => format!("result<_, {err}>"),
                (Some(ok), None) => format!("result<{ok}>"),
                (None, None) => "result".into(),
            }
        }
        Type::Flags(flags) => {
            format!("flags {{ {} }}", list(flags.names().map(str::to_owned).collect()))
        }
        Type::Own(_) => "own<resource>".into(),
        Type::Borrow(_) => "borrow<resource>".into(),
        Type::Future(_) => "future".into(),
        Type::Stream(_) => "stream".into(),
        Type::ErrorContext => "error-context".into(),
    }
}

/// Whether all imports are permitted; else a sentence for each that isn't.
pub(super) fn imports(names: &[String]) -> Result<(), String> {
    let refused: Vec<String> = names
        .iter()
        .filter_map(|name| refusal(name).map(|why| format!("{name} ({why})")))
        .collect();
    if refused.is_empty() { Ok(()) } else { Err(refused.join("; ")) }
}

/// Why an import is refused; `None` for one that is permitted.
fn refusal(name: &str) -> Option<String> {
    let (interface, version) = match name.split_once('@') {
        Some((interface, version)) => (interface, version),
        None => (name, ""),
    };
    let (package, _) = interface.split_once('/').unwrap_or((interface, ""));
    match (package, interface) {
        (_, "handlerd:plugin/delivery" | "handlerd:plugin/types") if is_known(version) => None,
        ("handlerd:plugin", "handlerd:plugin/delivery" | "handlerd:plugin/types") => {
            Some(other_version((!version.is_empty()).then_some(version)))
        }
        ("handlerd:plugin", _) => {
            Some(format!("handlerd:plugin {TRACK} has no such interface to import"))
        }
        (_, "wasi:logging/logging") => other_than(version, &["0.1.0-draft"]),
        (_, "wasi:config/store") => other_than(version, &CONFIG_VERSIONS),
        (
            "wasi:clocks" | "wasi:random" | "wasi:io" | "wasi:cli" | "wasi:filesystem"
            | "wasi:sockets",
            _,
        ) => {
            if version.starts_with("0.2.") {
                None
            } else {
                Some("this handlerd has WASI 0.2: build the plugin for it".into())
            }
        }
        ("wasi:http", _) => Some(
            "HTTP is granted by `allow.http`, which this version of handlerd doesn't have yet"
                .into(),
        ),
        ("wasi:keyvalue", _) => Some(
            "state is granted by `allow.keyvalue`, which this version of handlerd doesn't have yet"
                .into(),
        ),
        ("fermyon:spin" | "spin:postgres" | "spin:redis", _) => {
            Some("that is Spin's; handlerd doesn't have it".into())
        }
        _ => Some(
            "handlerd has no such interface; `handlerd plugin wit` prints what a plugin may import"
                .into(),
        ),
    }
}

fn other_than(version: &str, known: &[&str]) -> Option<String> {
    if known.contains(&version) {
        return None;
    }
    Some(format!("this handlerd has it in version {}", known.join(" and ")))
}

/// What the linker says of an import that is permitted by its name and doesn't fit.
pub(super) fn mismatch(names: &[String], error: &wasmtime::Error) -> String {
    let newer = names.iter().find_map(|name| {
        let version = version_of(name)?;
        (name.starts_with("handlerd:plugin/") && version != VERSION).then_some(version)
    });
    let error = shorten(format!("{error:#}"));
    match newer {
        Some(version) => format!(
            "{error} (the plugin is made for handlerd:plugin {version}; this handlerd has \
             {VERSION})"
        ),
        None => error,
    }
}

/// What a component is instead of a plugin, by its exports.
fn what_it_is(exports: &[String]) -> Option<String> {
    let any = |prefix: &str| exports.iter().any(|name| name.starts_with(prefix));
    let what = if any("fermyon:spin/") || any("spin:") {
        "it is a Spin component"
    } else if any("wasi:http/") {
        "it is an HTTP component (it exports wasi:http/incoming-handler)"
    } else if any("wasi:cli/run") {
        "it is a command (it exports wasi:cli/run): build it as a library, a reactor"
    } else if any("wasmcloud:") {
        "it is a wasmCloud component"
    } else if exports.iter().any(|name| name == "handle-message") {
        "it exports handle-message by itself: export the interface handler, as the world \
         handlerd:plugin/plugin says"
    } else {
        return None;
    };
    Some(what.into())
}

fn exported_instead(exports: &[String]) -> String {
    const SHOWN: usize = 5;
    if exports.is_empty() {
        return "it exports nothing".into();
    }
    let more = if exports.len() > SHOWN { ", …" } else { "" };
    format!("it exports {}{more}", exports[..exports.len().min(SHOWN)].join(", "))
}

/// Why a core module without a component type is no plugin, and what it probably is.
pub(super) fn plain_module(outline: &Outline) -> String {
    let imports = |prefix: &str| outline.imports.iter().any(|name| name.starts_with(prefix));
    let exports = |prefix: &str| outline.exports.iter().any(|name| name.starts_with(prefix));
    let what = if imports("extism:") {
        "it is an Extism plugin"
    } else if exports("proxy_abi_version") {
        "it is a proxy-wasm filter"
    } else if exports("__guest_call") {
        "it is a waPC guest"
    } else if imports("__wbindgen") || imports("wbg.") || imports("./") {
        "it is made for browsers by wasm-bindgen"
    } else if imports("gojs.") || imports("go.") {
        "it is made for browsers by Go (GOOS=js)"
    } else if imports("env.opa_") || exports("opa_") {
        "it is a policy of Open Policy Agent, which handlerd can't evaluate: the plugin `filter` \
         passes what a condition is true of"
    } else if ["env.emscripten_", "env._emscripten_", "env.__syscall_"].into_iter().any(imports)
        || exports("emscripten_")
        || exports("_emscripten_")
    {
        "it is made by Emscripten for its own JavaScript: compile it by wasi-sdk with what \
         `wit-bindgen c` writes"
    } else if imports("env.abort") || exports("__rtti_base") {
        "it is made by AssemblyScript, which makes no components: `handlerd plugin new NAME` begins \
         a plugin in Rust"
    } else if exports("_start") {
        "it is a WASI command"
    } else {
        "it is a core module without a component type"
    };
    format!(
        "{what}; a plugin is a component, or a core module made with wit-bindgen for the world \
         handlerd:plugin/plugin, which `handlerd plugin wit` prints"
    )
}
