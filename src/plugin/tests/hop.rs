//! A message in, messages out.

use std::sync::Arc;
use std::time::Duration;

use super::support::*;
use crate::chain::{FailureKind, handle_one};
use crate::config::Setting;
use crate::message::{Delivery, Message};

#[tokio::test]
async fn a_message_comes_back_byte_for_byte() {
    let bench = Bench::new();
    let handler = bench.handler(&Source { body: ECHO, ..Source::default() }, |_| {}).await;
    let all: Vec<u8> = (0..=255).collect();
    for payload in [&b""[..], b"hello", &all, &vec![7; 1 << 20]] {
        let outputs = handle(&handler, payload).await.expect("it echoes");
        assert_eq!(outputs, [Message::new(payload)]);
    }
}

#[tokio::test]
async fn headers_keep_their_order_and_repetition() {
    let bench = Bench::new();
    let handler = bench.handler(&Source { body: ECHO, ..Source::default() }, |_| {}).await;
    let headers =
        vec![("b".into(), vec![0, 255]), ("a".into(), vec![]), ("b".into(), b"again".to_vec())];
    let message = Message { payload: b"x".to_vec(), headers, route: None };
    let outputs = handle_one(&*handler, &delivery(), message.clone()).await.expect("it echoes");
    assert_eq!(outputs, [message]);
}

#[tokio::test]
async fn no_message_and_several_messages_may_come_out() {
    let bench = Bench::new();
    let filter =
        bench.handler(&Source { body: "(call $nothing)", ..Source::default() }, |_| {}).await;
    assert_eq!(handle(&filter, b"x").await.expect("it filters"), []);
    // Two of them, one behind the other, the second with the route `vip`.
    let body = r#"(drop (call $message (local.get $payload) (local.get $len)))
        (memory.copy (i32.const 2076) (i32.const 2048) (i32.const 28))
        (i32.store8 (i32.const 2092) (i32.const 1))
        (i32.store (i32.const 2096) (i32.const 16))
        (i32.store (i32.const 2100) (i32.const 3))
        (call $messages (i32.const 2048) (i32.const 2))"#;
    let items = r#"(data (i32.const 16) "vip")"#;
    let fan = bench.handler(&Source { body, items, ..Source::default() }, |_| {}).await;
    let outputs = handle(&fan, b"x").await.expect("it fans out");
    let routed = Message { route: Some("vip".into()), ..Message::new("x") };
    assert_eq!(outputs, [Message::new("x"), routed]);
}

#[tokio::test]
async fn a_handler_says_why_it_fails() {
    let bench = Bench::new();
    let failing = |case: u32| {
        format!("(call $failure (i32.const {case}) (local.get $payload) (local.get $len))")
    };
    let reject = failing(0);
    let handler = bench.handler(&Source { body: &reject, ..Source::default() }, |_| {}).await;
    let failure = handle(&handler, b"no number").await.expect_err("it rejects");
    assert_eq!((failure.kind, &*failure.reason), (FailureKind::Reject, "no number"));
    assert_eq!(&*failure.handler, "test");
    let retry = failing(1);
    let handler = bench.handler(&Source { body: &retry, ..Source::default() }, |_| {}).await;
    let failure = handle(&handler, b"busy").await.expect_err("it asks to retry");
    assert_eq!(failure.kind, FailureKind::Retry { after: None });
    let later = r#"(i32.store8 (i32.const 1024) (i32.const 1))
        (i32.store8 (i32.const 1032) (i32.const 2))
        (i64.store (i32.const 1040) (i64.const 1500))
        (i32.store (i32.const 1048) (local.get $payload))
        (i32.store (i32.const 1052) (local.get $len))
        (i32.const 1024)"#;
    let handler = bench.handler(&Source { body: later, ..Source::default() }, |_| {}).await;
    let failure = handle(&handler, b"later").await.expect_err("it asks to retry later");
    assert_eq!(failure.kind, FailureKind::Retry { after: Some(Duration::from_millis(1500)) });
    assert_eq!(failure.reason, "later");
    // The instance is as good as before.
    assert_eq!(handler.waiting(), 1);
}

#[tokio::test]
async fn delivery_tells_of_the_message_in_hand() {
    let bench = Bench::new();
    let imports = r#"
        (import "handlerd:plugin/delivery@0.1.0" "table" (func $table (param i32)))
        (import "handlerd:plugin/delivery@0.1.0" "pattern" (func $pattern (param i32)))
        (import "handlerd:plugin/delivery@0.1.0" "id" (func $id (param i32)))
        (import "handlerd:plugin/delivery@0.1.0" "attempt" (func $attempt (result i32)))
        (import "handlerd:plugin/delivery@0.1.0" "received-at" (func $received (result i64)))"#;
    // Four messages: the table, the pattern, the Redis channel, and numbers in binary.
    let body = r#"(memory.fill (i32.const 2048) (i32.const 0) (i32.const 112))
        (call $table (i32.const 2048))
        (memory.fill (i32.const 512) (i32.const 0) (i32.const 16))
        (call $pattern (i32.const 512))
        (i32.store (i32.const 2076) (i32.load (i32.const 516)))
        (i32.store (i32.const 2080) (i32.load (i32.const 520)))
        (i32.store (i32.const 2104) (local.get $channel))
        (i32.store (i32.const 2108) (local.get $channel_len))
        (call $id (i32.const 512))
        (i32.store (i32.const 600) (call $attempt))
        (i64.store (i32.const 604) (call $received))
        (i32.store8 (i32.const 612) (i32.load8_u (i32.const 512)))
        (i32.store (i32.const 2132) (i32.const 600))
        (i32.store (i32.const 2136) (i32.const 13))
        (call $messages (i32.const 2048) (i32.const 4))"#;
    let world = "import handlerd:plugin/delivery@0.1.0;";
    let handler =
        bench.handler(&Source { world, imports, body, ..Source::default() }, |_| {}).await;
    let told = |delivery: Delivery| {
        let handler = handler.clone();
        async move {
            let outputs = handle_one(&*handler, &Arc::new(delivery), Message::default()).await;
            outputs.expect("it tells").into_iter().map(|m| m.payload).collect::<Vec<_>>()
        }
    };
    let mut numbers = 1u32.to_le_bytes().to_vec();
    numbers.extend(1_700_000_000_123u64.to_le_bytes());
    numbers.push(0);
    let expected = [b"rooms".to_vec(), b"room.*".to_vec(), b"room.1".to_vec(), numbers.clone()];
    assert_eq!(told((*delivery()).clone()).await, expected);
    *numbers.last_mut().expect("a byte") = 1;
    let entry = Delivery { id: Some("1-0".into()), pattern: None, ..(*delivery()).clone() };
    assert_eq!(told(entry).await, [&b"rooms"[..], b"", b"room.1", &numbers]);
}

#[tokio::test]
async fn settings_are_read_in_both_versions_of_wasi_config() {
    for version in ["0.2.0-rc.1", "0.2.0-draft-2024-09-27"] {
        let bench = Bench::new();
        let imports = format!(
            r#"(import "wasi:config/store@{version}" "get" (func $get (param i32 i32 i32)))
               (import "wasi:config/store@{version}" "get-all" (func $all (param i32)))"#
        );
        // Two messages: the value of the key that came, and the list's first key.
        let body = r#"(memory.fill (i32.const 2048) (i32.const 0) (i32.const 56))
            (call $get (local.get $payload) (local.get $len) (i32.const 512))
            (if (i32.load8_u (i32.const 512)) (then unreachable))
            (if (i32.load8_u (i32.const 516)) (then
                (i32.store (i32.const 2048) (i32.load (i32.const 520)))
                (i32.store (i32.const 2052) (i32.load (i32.const 524)))))
            (call $all (i32.const 512))
            (i32.store (i32.const 2076) (i32.load (i32.load (i32.const 516))))
            (i32.store (i32.const 2080) (i32.load offset=4 (i32.load (i32.const 516))))
            (call $messages (i32.const 2048) (i32.const 2))"#;
        let world = format!("import wasi:config/store@{version};");
        let source = Source { world: &world, imports: &imports, body, ..Source::default() };
        let handler = bench
            .handler(&source, |config| {
                config.config.push(("limit".into(), Setting::Plain("3".into())));
            })
            .await;
        for (key, value) in [("word", "foo"), ("limit", "3"), ("other", "")] {
            let outputs = handle(&handler, key.as_bytes()).await.expect("it reads");
            assert_eq!(outputs, [Message::new(value), Message::new("word")], "{version} {key}");
        }
    }
}

#[tokio::test]
async fn a_wrong_answer_of_a_guest_is_a_trap() {
    let bench = Bench::new();
    let bodies = [
        // A list far outside of its memory, a payload that ends outside, no address at all.
        "(call $messages (i32.const -16) (i32.const 1))",
        "(call $message (i32.const 131000) (i32.const 1000))",
        "(i32.const -4)",
        // Neither ok nor err, and a name that isn't UTF-8.
        "(i32.store8 (i32.const 1024) (i32.const 9)) (i32.const 1024)",
        "(i32.store8 (i32.const 512) (i32.const 255)) (call $failure (i32.const 0) (i32.const 512) (i32.const 1))",
    ];
    for body in bodies {
        let handler = bench.handler(&Source { body, ..Source::default() }, |_| {}).await;
        let failure = handle(&handler, b"x").await.expect_err(body);
        assert_eq!(failure.kind, FailureKind::Trap, "{body}: {}", failure.reason);
        assert_eq!(handler.waiting(), 0, "{body}");
    }
}

#[tokio::test]
async fn a_component_is_a_plugin_too() {
    let bench = Bench::new();
    let module = Source { body: ECHO, ..Source::default() }.module();
    let component = wit_component::ComponentEncoder::default()
        .module(&module)
        .and_then(|mut encoder| encoder.encode())
        .expect("it can be encoded");
    let handler = bench.load(&bench.config(&component)).await.expect("it is loaded");
    let outputs = handle(&handler, b"hello").await.expect("it echoes");
    assert_eq!(outputs, [Message::new("hello")]);
}

#[tokio::test]
async fn a_module_for_wasip1_is_adapted() {
    let log = Log::capture();
    let bench = Bench::new();
    let imports = r#"(import "wasi_snapshot_preview1" "fd_write"
        (func $write (param i32 i32 i32 i32) (result i32)))"#;
    // The adapter's own memory comes out of the guest's allocator too.
    let body = format!(
        r#"(i32.store (i32.const 600) (local.get $payload))
        (i32.store (i32.const 604) (local.get $len))
        (if (call $write (i32.const 1) (i32.const 600) (i32.const 1) (i32.const 608)) (then unreachable))
        {ECHO}"#
    );
    let handler =
        bench.handler(&Source { imports, body: &body, ..Source::default() }, |_| {}).await;
    assert_eq!(handle(&handler, b"hello").await.expect("it echoes"), [Message::new("hello")]);
    assert!(log.text().contains("handlerd::plugin: hello plugin="), "{}", log.text());
}
