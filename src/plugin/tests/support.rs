//! Plugins from text, a host for them in a folder of their own, and messages.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use wit_component::{StringEncoding, embed_component_metadata};

use crate::chain::{Failure, handle_one};
use crate::config::{Handler, HandlerLimits, InstancePolicy, Setting};
use crate::message::{Delivery, Message};
use crate::plugin::{Host, PluginError, PluginHandler, WIT};

/// A part of WASI 0.2, as far as the tests' plugins import it.
const WASI: &str = r#"
package wasi:root@0.2.0;
package wasi:io@0.2.0 {
    interface poll {
        resource pollable { block: func(); }
        poll: func(in: list<borrow<pollable>>) -> list<u32>;
    }
    interface error { resource error; }
    interface streams {
        use error.{error};
        resource output-stream {
            blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
        }
        variant stream-error { last-operation-failed(error), closed }
    }
}
package wasi:clocks@0.2.0 {
    interface monotonic-clock {
        use wasi:io/poll@0.2.0.{pollable};
        subscribe-duration: func(when: u64) -> pollable;
    }
}
package wasi:random@0.2.0 {
    interface random { get-random-bytes: func(len: u64) -> list<u8>; }
}
package wasi:cli@0.2.0 {
    interface exit { exit: func(status: result); }
    interface environment {
        get-environment: func() -> list<tuple<string, string>>;
        get-arguments: func() -> list<string>;
    }
    interface stdout {
        use wasi:io/streams@0.2.0.{output-stream};
        get-stdout: func() -> output-stream;
    }
    interface stderr {
        use wasi:io/streams@0.2.0.{output-stream};
        get-stderr: func() -> output-stream;
    }
}
package wasi:sockets@0.2.0 {
    interface instance-network {
        resource network;
    }
}
package wasi:http@0.2.0 {
    interface outgoing-handler { handle: func(request: u32); }
}
package wasi:config@0.2.0-draft-2024-09-27 {
    interface store {
        variant error { upstream(string), io(string) }
        get: func(key: string) -> result<option<string>, error>;
        get-all: func() -> result<list<tuple<string, string>>, error>;
    }
}
"#;

/// A memory, an allocator that forgets all when the call is over, and ways to answer.
const PRELUDE: &str = r#"
    (memory (export "memory") 2)
    (global $heap (mut i32) (i32.const 65536))
    (func $realloc (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
        (local $at i32)
        (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
        (global.set $heap (i32.add (local.get $at) (local.get $size)))
        (block $enough
            (loop $more
                (br_if $enough (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536))))
                (if (i32.eq (memory.grow (i32.add (i32.const 1) (i32.shr_u (local.get $size) (i32.const 16)))) (i32.const -1))
                    (then unreachable))
                (br $more)))
        (local.get $at))
    (func (export "cabi_post_handlerd:plugin/handler@0.1.0#handle-message") (param i32)
        (global.set $heap (i32.const 65536)))
    ;; A list of $count times the message in 2048.
    (func $messages (param $list i32) (param $count i32) (result i32)
        (i32.store8 (i32.const 1024) (i32.const 0))
        (i32.store (i32.const 1032) (local.get $list))
        (i32.store (i32.const 1036) (local.get $count))
        (i32.const 1024))
    (func $message (param $at i32) (param $len i32) (result i32)
        (memory.fill (i32.const 2048) (i32.const 0) (i32.const 28))
        (i32.store (i32.const 2048) (local.get $at))
        (i32.store (i32.const 2052) (local.get $len))
        (call $messages (i32.const 2048) (i32.const 1)))
    (func $nothing (result i32) (call $messages (i32.const 0) (i32.const 0)))
    ;; 0 rejects, 1 asks to retry.
    (func $failure (param $case i32) (param $at i32) (param $len i32) (result i32)
        (i32.store8 (i32.const 1024) (i32.const 1))
        (i32.store8 (i32.const 1032) (local.get $case))
        (i32.store (i32.const 1040) (local.get $at))
        (i32.store (i32.const 1044) (local.get $len))
        (i32.const 1024))
"#;

/// A plugin that is to be built: what it imports, and its code.
#[derive(Clone, Default)]
pub(super) struct Source<'a> {
    /// Imports and exports of its world beside the handler, in WIT.
    pub(super) world: &'a str,
    /// `(import …)` of the core module.
    pub(super) imports: &'a str,
    /// The body of handle-message: `$channel $channel_len $payload $len $headers $headers_len`
    /// are there; it leaves the address of a result.
    pub(super) body: &'a str,
    /// Further items of the core module.
    pub(super) items: &'a str,
}

impl Source<'_> {
    /// A core module that carries its component type.
    pub(super) fn module(&self) -> Vec<u8> {
        let Source { world, imports, body, items } = self;
        let text = format!(
            r#"(module {imports} {PRELUDE} {items}
                (func (export "handlerd:plugin/handler@0.1.0#handle-message")
                    (param $channel i32) (param $channel_len i32) (param $payload i32) (param $len i32)
                    (param $headers i32) (param $headers_len i32) (param i32 i32 i32) (result i32)
                    {body}))"#
        );
        module(
            &format!("{world} export handlerd:plugin/handler@0.1.0;"),
            &text,
            // What is used comes before what uses it.
            WIT.iter().rev().map(|(_, text)| (*text).to_owned()),
        )
    }
}

/// A core module from text, with the component type of a world made of these items.
pub(super) fn module(world: &str, text: &str, wit: impl IntoIterator<Item = String>) -> Vec<u8> {
    let mut wasm = wat::parse_str(text).expect("the test's module is right");
    let mut resolve = wit_parser::Resolve::default();
    resolve.push_source("wasi.wit", WASI).expect("the test's WIT is right");
    for text in wit {
        resolve.push_source("test.wit", &text).expect("the test's WIT is right");
    }
    let world = format!("package test:plugin; world plugin {{ {world} }}");
    let package = resolve.push_source("world.wit", &world).expect("the test's world is right");
    let world = resolve.select_world(&[package], Some("plugin")).expect("it is there");
    embed_component_metadata(&mut wasm, &resolve, world, StringEncoding::UTF8)
        .expect("the test's module fits its world");
    wasm
}

/// A body that gives back the message that came.
pub(super) const ECHO: &str = "(drop (call $message (local.get $payload) (local.get $len)))
    (i32.store (i32.const 2056) (local.get $headers))
    (i32.store (i32.const 2060) (local.get $headers_len))
    (call $messages (i32.const 2048) (i32.const 1))";

/// Sleeps 50 ms, then echoes.
pub(super) const SLOW: Source<'_> = Source {
    world: "import wasi:clocks/monotonic-clock@0.2.0; import wasi:io/poll@0.2.0;",
    imports: r#"
        (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $in (param i64) (result i32)))
        (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
        (import "wasi:io/poll@0.2.0" "[resource-drop]pollable" (func $drop (param i32)))"#,
    items: "(global $pollable (mut i32) (i32.const 0))",
    body: r#"(global.set $pollable (call $in (i64.const 50000000)))
        (call $block (global.get $pollable))
        (call $drop (global.get $pollable))
        (drop (call $message (local.get $payload) (local.get $len)))
        (call $messages (i32.const 2048) (i32.const 1))"#,
};

/// A host in a folder that goes with it.
pub(super) struct Bench {
    pub(super) host: Arc<Host>,
    dir: TempDir,
}

impl Bench {
    pub(super) fn new() -> Bench {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let host =
            Host::builder(dir.path().join("cache")).compile_in_process().build().expect("a host");
        Bench { host, dir }
    }

    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Write a plugin file.
    pub(super) fn write(&self, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join("test.wasm");
        std::fs::write(&path, bytes).expect("a file");
        path
    }

    /// A handler's settings for a plugin.
    pub(super) fn config(&self, bytes: &[u8]) -> Handler {
        Handler {
            name: "test".into(),
            plugin: self.write(bytes),
            sha256: None,
            config: vec![("word".into(), Setting::Plain("foo".into()))],
            instance: InstancePolicy::Reuse,
            // Unoptimised, on a busy machine, the default of 100 ms isn't much.
            limits: HandlerLimits {
                instances: 2,
                timeout: Duration::from_secs(5),
                ..HandlerLimits::default()
            },
        }
    }

    pub(super) async fn load(&self, config: &Handler) -> Result<Arc<PluginHandler>, PluginError> {
        self.host.load(config).await
    }

    /// A handler of this plugin, with its settings changed.
    pub(super) async fn handler(
        &self,
        source: &Source<'_>,
        change: impl FnOnce(&mut Handler),
    ) -> Arc<PluginHandler> {
        let mut config = self.config(&source.module());
        change(&mut config);
        self.load(&config).await.unwrap_or_else(|e| panic!("{e}"))
    }
}

/// A delivery on the Redis channel `room.1` of the channel `rooms`.
pub(super) fn delivery() -> Arc<Delivery> {
    Arc::new(Delivery {
        table: "rooms".into(),
        redis_channel: "room.1".into(),
        pattern: Some("room.*".into()),
        id: None,
        attempt: 1,
        received_at: 1_700_000_000_123,
    })
}

/// Hand a handler a payload.
pub(super) async fn handle(
    handler: &PluginHandler,
    payload: &[u8],
) -> Result<Vec<Message>, Failure> {
    handle_one(handler, &delivery(), Message::new(payload)).await
}

/// What was logged while it lived, on this thread.
pub(super) struct Log {
    lines: Arc<Mutex<Vec<u8>>>,
    _guard: tracing::subscriber::DefaultGuard,
}

impl Log {
    pub(super) fn capture() -> Log {
        Log::capture_from("handlerd=trace")
    }

    pub(super) fn capture_from(filter: &str) -> Log {
        struct Lines(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().expect("no writer panics").extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let lines = Arc::new(Mutex::new(Vec::new()));
        let written = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .without_time()
            .with_env_filter(filter)
            .with_writer(move || Lines(written.clone()))
            .finish();
        let guard = tracing::subscriber::set_default(subscriber);
        Log { lines, _guard: guard }
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.lines.lock().expect("no writer panics")).into_owned()
    }
}
