//! Which files are plugins, and what is said of the others.

use super::support::*;
use crate::plugin::{FileKind, PluginError, WIT};

/// Why a file is refused.
async fn refusal(bytes: &[u8]) -> String {
    let bench = Bench::new();
    let config = bench.config(bytes);
    let error = bench.load(&config).await.err().expect("it is refused");
    let inspection = bench.host.inspect(&config.plugin).await.expect("it can be read");
    assert_eq!(inspection.refusal.as_deref(), Some(&*error.to_string()));
    let text = error.to_string();
    let file = config.plugin.display().to_string();
    assert!(text.contains(&file), "{text}");
    text.replace(&file, "FILE")
}

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("the test's text is right")
}

#[tokio::test]
async fn what_is_not_webassembly_is_refused() {
    let begin = "; `handlerd plugin new NAME` begins a plugin";
    let unknown = format!("it is not WebAssembly (it doesn't begin with `\\0asm`){begin}");
    let elf = format!("it is a native program or library (ELF), not WebAssembly{begin}");
    let page = "it is a web page (HTML), not WebAssembly: download the file itself, by the link \
                that says raw or download";
    for (bytes, what) in [
        (&b""[..], &*format!("it is empty, not WebAssembly{begin}")),
        (b"#!/bin/sh", &unknown),
        (b"\0as", &unknown),
        (b"<", &unknown),
        (b"\x7fELF", &elf),
        (b"\x7fELF\x02\x01\x01\x00\x00", &elf),
        (b"PK\x03\x04", "it is an archive, not WebAssembly: unpack it"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "it only says where Git LFS keeps the file: `git lfs pull` gets the file itself",
        ),
        (b"\n\n<!DOCTYPE html>\n<html lang=\"en\">", page),
        (b"\xef\xbb\xbf<HTML><title>404</title>", page),
        (
            b"\n(component)",
            "it is WebAssembly's text format: make a binary of it by wat2wasm or wasm-tools parse",
        ),
    ] {
        assert_eq!(refusal(bytes).await, format!("FILE is no handlerd plugin: {what}"));
    }
    let module = Source { body: ECHO, ..Source::default() }.module();
    for length in [4, 8 + 3, module.len() / 2, module.len() - 1] {
        let text = refusal(&module[..length]).await;
        assert!(text.contains("it begins like WebAssembly but is damaged or cut short"), "{text}");
    }
    let mut damaged = module.clone();
    damaged[4] = 9;
    let text = refusal(&damaged).await;
    assert!(text.contains("damaged"), "{text}");
}

#[tokio::test]
async fn what_is_compiled_already_is_told_from_a_native_library() {
    let engine = crate::plugin::engine::engine().expect("it runs here");
    let compiled = [
        engine.precompile_component(&wat("(component)")).expect("it is compiled"),
        engine.precompile_module(&wat("(module)")).expect("it is compiled"),
    ];
    for bytes in compiled {
        let expected = "FILE is no handlerd plugin: it is machine code that wasmtime has made \
                        (.cwasm): use the .wasm file that it was made of";
        assert_eq!(refusal(&bytes).await, expected);
    }
}

#[tokio::test]
async fn an_invalid_module_is_refused() {
    let mut module = Source { body: ECHO, ..Source::default() }.module();
    // A function that leaves nothing where it must leave a number.
    let at = module.windows(2).position(|w| w == [0x41, 0x00]).expect("an i32.const 0");
    module[at] = 0x01;
    module[at + 1] = 0x01;
    let text = refusal(&module).await;
    assert!(text.starts_with("can't compile the plugin FILE: "), "{text}");
}

#[tokio::test]
async fn an_empty_module_and_an_empty_component_are_no_plugins() {
    let text = refusal(&wat("(module)")).await;
    assert!(text.contains("it is a core module without a component type"), "{text}");
    assert!(text.contains("wit-bindgen"), "{text}");
    let text = refusal(&wat("(component)")).await;
    assert!(
        text.ends_with("it exports no handlerd:plugin/handler@0.1: it exports nothing"),
        "{text}"
    );
}

#[tokio::test]
async fn plugins_of_other_systems_are_recognised() {
    let cases = [
        (r#"(module (import "extism:host/env" "input_length" (func (result i64))))"#, "Extism"),
        (r#"(module (func (export "proxy_abi_version_0_2_1")))"#, "proxy-wasm"),
        (r#"(module (func (export "__guest_call")))"#, "waPC"),
        (r#"(module (func (export "_start")))"#, "a WASI command"),
        (r#"(module (import "wbg" "x" (func)))"#, "browsers"),
        (
            r#"(module (import "env" "opa_abort" (func (param i32))) (import "env" "memory" (memory 2))
                (func (export "opa_eval_ctx_new") (result i32) i32.const 0))"#,
            "it is a policy of Open Policy Agent, which handlerd can't evaluate: the plugin `filter`",
        ),
        (
            r#"(module (import "env" "emscripten_resize_heap" (func (param i32) (result i32)))
                (import "env" "abort" (func)))"#,
            "it is made by Emscripten for its own JavaScript: compile it by wasi-sdk",
        ),
        (
            r#"(module (func (export "_emscripten_stack_restore") (param i32)))"#,
            "it is made by Emscripten",
        ),
        (
            r#"(module (import "env" "abort" (func (param i32 i32 i32 i32))) (memory (export "memory") 1))"#,
            "it is made by AssemblyScript, which makes no components: `handlerd plugin new NAME`",
        ),
        (
            r#"(module (func (export "__pin") (param i32) (result i32) local.get 0)
                (global (export "__rtti_base") i32 (i32.const 1)))"#,
            "it is made by AssemblyScript",
        ),
        (
            r#"(component (component $c) (instance $i (instantiate $c)) (export "fermyon:spin/inbound-redis" (instance $i)))"#,
            "Spin component",
        ),
        (
            r#"(component (component $c) (instance $i (instantiate $c)) (export "wasi:cli/run@0.2.0" (instance $i)))"#,
            "it is a command",
        ),
        (
            r#"(component (component $c) (instance $i (instantiate $c)) (export "wasi:http/incoming-handler@0.2.0" (instance $i)))"#,
            "HTTP component",
        ),
        (
            r#"(component (component $c) (instance $i (instantiate $c)) (export "a:b/c@0.2.0" (instance $i)))"#,
            "it exports a:b/c@0.2.0",
        ),
    ];
    for (text, expected) in cases {
        let refusal = refusal(&wat(text)).await;
        assert!(refusal.contains(expected), "{refusal}");
    }
}

/// A core module with an export of this name and type.
fn exporting(wit: &str, interface: &str, function: &str) -> Vec<u8> {
    let text = format!(
        r#"(module (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
            (func (export "{interface}#{function}") unreachable))"#
    );
    // The type of the core function doesn't matter where the result is looked at.
    module(&format!("export {interface};"), &text, [wit.to_owned()])
}

#[tokio::test]
async fn other_versions_of_the_interface_are_refused() {
    for (version, shown) in
        [("0.3.0", "0.3"), ("0.2.7", "0.2"), ("1.0.0", "1.0"), ("0.1.0-rc.1", "0.1.0-rc.1")]
    {
        let wit = format!(
            "package handlerd:plugin@{version}; interface handler {{ handle-message: func(); }}"
        );
        let interface = format!("handlerd:plugin/handler@{version}");
        let text = refusal(&exporting(&wit, &interface, "handle-message")).await;
        let expected = format!("it is made for handlerd:plugin {shown}; this handlerd knows 0.1");
        assert!(text.contains(&expected), "{text}");
    }
}

#[tokio::test]
async fn wrong_types_are_refused_and_shown() {
    let wit = "package handlerd:plugin@0.1.0; interface handler { handle-message: func(); }";
    let text = refusal(&exporting(wit, "handlerd:plugin/handler@0.1.0", "handle-message")).await;
    assert!(text.contains("handle-message of another type than handlerd:plugin 0.1 has"), "{text}");
    assert!(
        text.contains("it is func(), and must be func(string, record { payload: list<u8>"),
        "{text}"
    );
    let wit = "package handlerd:plugin@0.1.0; interface handler { handle: func(); }";
    let text = refusal(&exporting(wit, "handlerd:plugin/handler@0.1.0", "handle")).await;
    assert!(text.contains("has no function handle-message"), "{text}");
}

#[tokio::test]
async fn a_wrong_setup_is_refused() {
    let wit: Vec<String> = WIT
        .iter()
        .rev()
        .map(|(_, text)| text.replace("setup: func() -> result<_, string>", "setup: func()"))
        .collect();
    let text = r#"(module (memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
        (func (export "handlerd:plugin/setup@0.1.0#setup"))
        (func (export "handlerd:plugin/handler@0.1.0#handle-message")
            (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) unreachable))"#;
    let world = "export handlerd:plugin/handler@0.1.0; export handlerd:plugin/setup@0.1.0;";
    let text = refusal(&module(world, text, wit)).await;
    assert!(text.contains("setup of another type"), "{text}");
    assert!(text.contains("it is func(), and must be func() -> result<_, string>"), "{text}");
}

#[tokio::test]
async fn imports_beyond_what_is_permitted_are_refused() {
    let http = Source {
        world: "import wasi:http/outgoing-handler@0.2.0;",
        imports: r#"(import "wasi:http/outgoing-handler@0.2.0" "handle" (func (param i32)))"#,
        body: ECHO,
        items: "",
    };
    let text = refusal(&http.module()).await;
    let expected = "FILE imports what it can't have: wasi:http/outgoing-handler@0.2.0 (HTTP is \
                    granted by `allow.http`, which this version of handlerd doesn't have yet)";
    assert_eq!(text, expected);
    let own = Source {
        world: "import mine: interface { f: func(); }",
        imports: r#"(import "mine" "f" (func))"#,
        body: ECHO,
        items: "",
    };
    let text = refusal(&own.module()).await;
    assert!(text.contains("mine (handlerd has no such interface"), "{text}");
}

#[tokio::test]
async fn an_interface_of_a_later_patch_is_linked_as_far_as_it_is_known() {
    let wit = |extra: &str| -> Vec<String> {
        let later = |text: &str| {
            text.replace("handlerd:plugin@0.1.0", "handlerd:plugin@0.1.7").replace(
                "  table: func() -> string;",
                &format!("  table: func() -> string;\n{extra}"),
            )
        };
        WIT.iter().rev().map(|(_, text)| later(text)).collect()
    };
    let text = |import: &str| {
        format!(
            r#"(module {import} (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 64)
            (func (export "handlerd:plugin/handler@0.1.7#handle-message")
                (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) i32.const 1024))"#
        )
    };
    let world = "export handlerd:plugin/handler@0.1.7; import handlerd:plugin/delivery@0.1.7;";
    let known = r#"(import "handlerd:plugin/delivery@0.1.7" "attempt" (func (result i32)))"#;
    let bench = Bench::new();
    let handler = bench.load(&bench.config(&module(world, &text(known), wit("")))).await;
    let handler = handler.expect("what it imports is known");
    assert_eq!(handle(&handler, b"").await.expect("it filters"), []);
    let unknown = r#"(import "handlerd:plugin/delivery@0.1.7" "weight" (func (result i32)))"#;
    let text = refusal(&module(world, &text(unknown), wit("weight: func() -> u32;"))).await;
    assert!(text.contains("weight"), "{text}");
    assert!(text.contains("made for handlerd:plugin 0.1.7; this handlerd has 0.1.0"), "{text}");
}

#[tokio::test]
async fn a_pinned_sum_is_kept_to() {
    use sha2::Digest;
    let bench = Bench::new();
    let module = Source { body: ECHO, ..Source::default() }.module();
    let mut config = bench.config(&module);
    config.sha256 = Some(sha2::Sha256::digest(&module).into());
    bench.load(&config).await.expect("it is the pinned one");
    config.sha256 = Some([0xab; 32]);
    let error = bench.load(&config).await.err().expect("it is another");
    assert!(matches!(error, PluginError::Pin { .. }));
    assert!(error.to_string().contains(&"ab".repeat(32)), "{error}");
}

#[tokio::test]
async fn what_is_no_file_is_refused() {
    let bench = Bench::new();
    let mut config = bench.config(b"");
    config.plugin = bench.dir().to_owned();
    let error = bench.load(&config).await.err().expect("a folder is no plugin");
    assert!(error.to_string().ends_with("is no plugin: it is a folder"), "{error}");
    config.plugin = bench.dir().join("missing.wasm");
    let error = bench.load(&config).await.err().expect("it is missing");
    assert!(matches!(error, PluginError::Read { .. }), "{error}");
    let fifo = bench.dir().join("fifo.wasm");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .expect("a fifo");
    config.plugin = fifo;
    let error = bench.load(&config).await.err().expect("a fifo is no plugin");
    assert!(error.to_string().contains("not a regular file"), "{error}");
}

#[tokio::test]
async fn inspecting_tells_all_of_a_plugin() {
    let bench = Bench::new();
    let source = Source {
        world: "import handlerd:plugin/delivery@0.1.0;",
        imports: r#"(import "handlerd:plugin/delivery@0.1.0" "attempt" (func (result i32)))"#,
        body: ECHO,
        items: "",
    };
    let module = source.module();
    let inspection = bench.host.inspect(&bench.write(&module)).await.expect("it can be read");
    assert_eq!(inspection.kind, FileKind::Module);
    assert_eq!(inspection.size, module.len() as u64);
    assert_eq!(inspection.exports, ["handlerd:plugin/handler@0.1.0"]);
    assert!(inspection.imports.contains(&"handlerd:plugin/delivery@0.1.0".to_owned()));
    assert_eq!(inspection.interface_version.as_deref(), Some("0.1.0"));
    assert!(!inspection.has_setup);
    assert_eq!(inspection.refusal, None);
}
