//! `setup`, and what answers in it.

use std::time::{Duration, Instant};

use super::support::*;
use crate::chain::FailureKind;
use crate::message::Message;
use crate::plugin::PluginError;

/// A plugin whose setup has this body; it leaves the address of its result.
fn with_setup(body: &str) -> String {
    format!(
        r#"(func $setup (export "handlerd:plugin/setup@0.1.0#setup") (result i32) {body})
        (global $count (mut i32) (i32.const 0))
        (data (i32.const 16) "bad expression \1b[31m")
        (func $ok (result i32) (i32.store8 (i32.const 512) (i32.const 0)) (i32.const 512))
        (func $error (param $at i32) (param $len i32) (result i32)
            (i32.store8 (i32.const 512) (i32.const 1))
            (i32.store (i32.const 516) (local.get $at))
            (i32.store (i32.const 520) (local.get $len))
            (i32.const 512))"#
    )
}

const WORLD: &str = "export handlerd:plugin/setup@0.1.0;";

#[tokio::test]
async fn it_runs_before_the_first_message_and_once() {
    let bench = Bench::new();
    let items =
        with_setup("(global.set $count (i32.add (global.get $count) (i32.const 1))) (call $ok)");
    let body = "(i32.store8 (i32.const 600) (global.get $count)) (call $message (i32.const 600) (i32.const 1))";
    let source = Source { world: WORLD, items: &items, body, ..Source::default() };
    let handler = bench.handler(&source, |_| {}).await;
    for _ in 0..2 {
        assert_eq!(handle(&handler, b"").await.expect("it counts"), [Message::new([1])]);
    }
    let inspection = bench.host.inspect(&bench.write(&source.module())).await.expect("a file");
    assert!(inspection.has_setup);
    assert_eq!(inspection.refusal, None);
}

#[tokio::test]
async fn its_error_refuses_the_config_and_is_shown_escaped() {
    let bench = Bench::new();
    let items = with_setup("(call $error (i32.const 16) (i32.const 20))");
    let source = Source { world: WORLD, items: &items, body: ECHO, ..Source::default() };
    let error = bench.load(&bench.config(&source.module())).await.err().expect("it refuses");
    assert!(matches!(error, PluginError::Setup { .. }));
    let text = error.to_string();
    assert!(text.ends_with("test.wasm can't be set up: bad expression \\u{1b}[31m"), "{text}");
    assert!(text.starts_with("handler test: "), "{text}");
}

#[tokio::test]
async fn a_trap_in_it_is_told() {
    let bench = Bench::new();
    let items = with_setup("unreachable");
    let source = Source { world: WORLD, items: &items, body: ECHO, ..Source::default() };
    let error = bench.load(&bench.config(&source.module())).await.err().expect("it traps");
    assert!(error.to_string().contains("trap: it reached `unreachable`"), "{error}");
}

#[tokio::test]
async fn it_ends_after_ten_seconds() {
    let items = with_setup("(loop $l (br $l)) unreachable");
    let looping = Source { world: WORLD, items: &items, body: ECHO, ..Source::default() };
    let sleeping_world =
        format!("{WORLD} import wasi:clocks/monotonic-clock@0.2.0; import wasi:io/poll@0.2.0;");
    let sleeping_items = with_setup(
        r#"(i32.store (i32.const 512) (call $in (i64.const 60000000000)))
        (call $poll (i32.const 512) (i32.const 1) (i32.const 520)) (call $ok)"#,
    );
    let sleeping = Source {
        world: &sleeping_world,
        imports: r#"
            (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $in (param i64) (result i32)))
            (import "wasi:io/poll@0.2.0" "poll" (func $poll (param i32 i32 i32)))"#,
        items: &sleeping_items,
        body: ECHO,
    };
    let ended = async |source: &Source<'_>| {
        let bench = Bench::new();
        let began = Instant::now();
        let error = bench.load(&bench.config(&source.module())).await.err().expect("it is late");
        let took = began.elapsed();
        assert!((9..30).contains(&took.as_secs()), "it took {took:?}");
        assert!(error.to_string().contains("timeout: it took longer than 10s"), "{error}");
    };
    tokio::join!(ended(&looping), ended(&sleeping));
}

#[tokio::test]
async fn delivery_answers_nothing_in_it() {
    let bench = Bench::new();
    let items = with_setup(
        r#"(call $table (i32.const 600))
        (if (i32.load (i32.const 604)) (then unreachable))
        (if (call $attempt) (then unreachable))
        (if (i64.ne (call $received) (i64.const 0)) (then unreachable))
        (call $id (i32.const 600))
        (if (i32.load8_u (i32.const 600)) (then unreachable))
        (call $ok)"#,
    );
    let world = format!("{WORLD} import handlerd:plugin/delivery@0.1.0;");
    let imports = r#"
        (import "handlerd:plugin/delivery@0.1.0" "table" (func $table (param i32)))
        (import "handlerd:plugin/delivery@0.1.0" "id" (func $id (param i32)))
        (import "handlerd:plugin/delivery@0.1.0" "attempt" (func $attempt (result i32)))
        (import "handlerd:plugin/delivery@0.1.0" "received-at" (func $received (result i64)))"#;
    let source = Source { world: &world, imports, items: &items, body: ECHO };
    let handler = bench.handler(&source, |_| {}).await;
    assert_eq!(handle(&handler, b"x").await.expect("it echoes"), [Message::new("x")]);
}

/// A plugin that works once and refuses whatever comes after a trap: its file says so in a
/// setting, which can't change, so it goes by the clock.
#[tokio::test]
async fn when_a_later_instance_fails_the_message_does() {
    let bench = Bench::new();
    let world = format!(
        "{WORLD} import wasi:clocks/monotonic-clock@0.2.0; import wasi:io/poll@0.2.0; \
         import wasi:random/random@0.2.0;"
    );
    // One setup in two refuses, by a random byte.
    let imports =
        r#"(import "wasi:random/random@0.2.0" "get-random-bytes" (func $random (param i64 i32)))"#;
    let items = with_setup(
        r#"(call $random (i64.const 1) (i32.const 600))
        (if (result i32) (i32.and (i32.load8_u (i32.load (i32.const 600))) (i32.const 1))
            (then (call $error (i32.const 16) (i32.const 14)))
            (else (call $ok)))"#,
    );
    let source = Source { world: &world, imports, items: &items, body: ECHO };
    let mut config = bench.config(&source.module());
    config.instance = crate::config::InstancePolicy::Fresh;
    let handler = loop {
        match bench.load(&config).await {
            Ok(handler) => break handler,
            Err(PluginError::Setup { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    };
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        if let Err(failure) = handle(&handler, b"x").await {
            assert_eq!((failure.kind, &*failure.reason), (FailureKind::Setup, "bad expression"));
            break;
        }
        assert!(Instant::now() < until, "a random byte is odd at last");
    }
}
