//! Messages that are handed to a plugin together: each is handled as if it were alone.

use std::sync::Arc;
use std::time::Duration;

use super::support::*;
use crate::chain::{FailureKind, Handler as _, Transit};
use crate::message::{Delivery, Message};
use crate::plugin::{PluginHandler, driver};

/// Echoes; `!` traps, `?` is rejected, `@` loops for ever.
const MOODY: &str = r#"
    (if (i32.eq (local.get $len) (i32.const 0)) (then (return (call $nothing))))
    (local.set $channel (i32.load8_u (local.get $payload)))
    (if (i32.eq (local.get $channel) (i32.const 33)) (then unreachable))
    (if (i32.eq (local.get $channel) (i32.const 63))
        (then (return (call $failure (i32.const 0) (local.get $payload) (local.get $len)))))
    (if (i32.eq (local.get $channel) (i32.const 64)) (then (loop $l (br $l))))"#;

fn moody() -> String {
    format!("{MOODY} {ECHO}")
}

fn batch(payloads: &[&str]) -> Vec<Transit> {
    payloads.iter().map(|payload| Transit::new(delivery(), Message::new(*payload))).collect()
}

/// What has become of each when they are handed over until one fails: what came out, or how it failed;
/// `-` where it wasn't handled. Where the machine is busy, one time isn't enough.
async fn hand_over(handler: &PluginHandler, messages: &mut [Transit]) -> Vec<String> {
    let mut handled = 0;
    while handled < messages.len() && messages[..handled].iter().all(|done| done.outcome.is_ok()) {
        handled += handler.handle(&mut messages[handled..]).await;
    }
    let text = |message: &Message| String::from_utf8_lossy(&message.payload).into_owned();
    let show = |transit: &Transit| match &transit.outcome {
        Ok(messages) => messages.iter().map(text).collect::<Vec<_>>().join("+"),
        Err(failure) => failure.kind.as_str().to_owned(),
    };
    let (done, left) = messages.split_at(handled);
    assert!(left.iter().all(|transit| transit.single().is_some()));
    done.iter().map(show).chain(left.iter().map(|_| "-".to_owned())).collect()
}

#[tokio::test]
async fn each_message_of_a_batch_has_its_own_outcome() {
    let bench = Bench::new();
    let handler = bench.handler(&Source { body: &moody(), ..Source::default() }, |_| {}).await;
    let mut messages = batch(&["a", "", "c"]);
    messages[2] = Transit::new(delivery(), {
        let mut message = Message::new("c");
        message.headers = vec![
            ("k".into(), b"v\0\xff".to_vec()),
            ("k".into(), vec![]),
            (String::new(), b"w".to_vec()),
        ];
        message
    });
    let came = messages[2].single().expect("one").clone();
    assert_eq!(hand_over(&handler, &mut messages).await, ["a", "", "c"]);
    assert_eq!(messages[2].single(), Some(&came));
    assert_eq!(messages[1].outcome.as_ref().expect("it is filtered").len(), 0);
}

#[tokio::test]
async fn what_fails_ends_the_batch_and_takes_nothing_along() {
    let bench = Bench::new();
    let change = |config: &mut crate::config::Handler| {
        // Long enough for what doesn't loop, also on a busy machine.
        config.limits.timeout = Duration::from_secs(1);
        config.limits.instances = 1;
    };
    let handler = bench.handler(&Source { body: &moody(), ..Source::default() }, change).await;
    for (bad, kind) in [("!", "trap"), ("?no", "reject"), ("@", "timeout")] {
        let mut messages = batch(&["a", "b", bad, "d", bad]);
        assert_eq!(hand_over(&handler, &mut messages).await, ["a", "b", kind, "-", "-"]);
        let rest = &mut messages[3..];
        assert_eq!(hand_over(&handler, rest).await, ["d", kind]);
    }
}

#[tokio::test]
async fn what_a_slow_message_made_does_not_wait_for_the_next() {
    let bench = Bench::new();
    let handler =
        bench.handler(&SLOW, |config| config.limits.timeout = Duration::from_secs(3)).await;
    let mut messages = batch(&["a", "b", "c"]);
    assert_eq!(handler.handle(&mut messages).await, 1);
}

#[tokio::test]
async fn each_message_of_a_batch_has_its_own_log() {
    let log = Log::capture();
    let bench = Bench::new();
    // Eleven lines of 100 bytes: more than a tenth of what a batch of ten says together.
    let body = format!(
        r#"(local.set $headers_len (i32.const 11))
        (loop $more
            (call $log (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 16) (i32.const 100))
            (br_if $more (local.tee $headers_len (i32.sub (local.get $headers_len) (i32.const 1)))))
        {ECHO}"#
    );
    let source = Source {
        world: "import wasi:logging/logging@0.1.0-draft;",
        imports: r#"(import "wasi:logging/logging@0.1.0-draft" "log" (func $log (param i32 i32 i32 i32 i32)))"#,
        body: &body,
        ..Source::default()
    };
    let handler = bench.handler(&source, |config| config.limits.max_log = 2_000).await;
    let mut messages: Vec<Transit> = (0..10)
        .map(|n| {
            let table: Arc<str> = format!("table{n}").into();
            Transit::new(Arc::new(Delivery { table, ..(*delivery()).clone() }), Message::new("x"))
        })
        .collect();
    let mut left = messages.as_mut_slice();
    while !left.is_empty() {
        let handled = handler.handle(left).await;
        left = &mut left[handled..];
    }
    let text = log.text();
    assert!(!text.contains("is cut off"), "{text}");
    for n in 0..10 {
        let own = format!("channel=\"table{n}\"");
        assert_eq!(text.lines().filter(|line| line.contains(&own)).count(), 11, "{own}");
    }
}

#[tokio::test]
async fn a_batch_larger_than_its_memory_goes_in_several() {
    let bench = Bench::new();
    let handler = bench
        .handler(&Source { body: ECHO, ..Source::default() }, |config| {
            config.limits.timeout = Duration::from_secs(5);
        })
        .await;
    // From one that is alone in being too large for a batch to the largest that isn't.
    let sizes = [70_000, 1, 9_000, 8_000, 0, 8_170, 30, 8_192, 5_000];
    let mut messages: Vec<Transit> = (0..100)
        .map(|n| Transit::new(delivery(), Message::new(vec![n as u8; sizes[n % sizes.len()]])))
        .collect();
    let mut left = messages.as_mut_slice();
    while !left.is_empty() {
        let handled = handler.handle(left).await;
        left = &mut left[handled..];
    }
    for (n, transit) in messages.iter().enumerate() {
        let message = transit.single().unwrap_or_else(|| panic!("{n}: {:?}", transit.outcome));
        assert_eq!(message.payload, vec![n as u8; sizes[n % sizes.len()]], "{n}");
    }
}

#[tokio::test]
async fn empty_lists_are_allocated_by_the_plugin_too() {
    let bench = Bench::new();
    // What its allocator gives is from 65536 on; Python's runtime frees whatever it is given.
    let body = format!(
        r#"(if (i32.or (i32.lt_u (local.get $payload) (i32.const 65536))
                (i32.lt_u (local.get $headers) (i32.const 65536)))
            (then unreachable))
        {ECHO}"#
    );
    let handler = bench.handler(&Source { body: &body, ..Source::default() }, |_| {}).await;
    assert_eq!(hand_over(&handler, &mut batch(&["", "a", ""])).await, ["", "a", ""]);
}

#[tokio::test]
async fn the_drivers_memory_is_not_the_plugins() {
    let bench = Bench::new();
    // Two pages of its own.
    let source = Source { body: ECHO, ..Source::default() };
    let handler = bench.handler(&source, |config| config.limits.memory = 2 << 16).await;
    assert_eq!(handle(&handler, b"x").await.expect("it echoes"), [Message::new("x")]);
    let mut config = bench.config(&source.module());
    config.limits.memory = (2 << 16) - 1;
    let refused = bench.load(&config).await.err().expect("it needs two pages").to_string();
    assert!(refused.contains("it wanted 128.0 KiB of memory"), "{refused}");
}

#[tokio::test]
async fn the_drivers_names_are_its_own() {
    let bench = Bench::new();
    let host = "package handlerd:driver; interface host { emit: func(x: u32); }";
    let wasm = module(
        "import handlerd:driver/host; export handlerd:plugin/handler@0.1.0;",
        r#"(module (import "handlerd:driver/host" "emit" (func (param i32)))
            (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
            (func (export "handlerd:plugin/handler@0.1.0#handle-message")
                (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) unreachable))"#,
        crate::plugin::WIT
            .iter()
            .rev()
            .map(|(_, text)| (*text).to_owned())
            .chain([host.to_owned()]),
    );
    let refused = bench.load(&bench.config(&wasm)).await.err().expect("it is refused").to_string();
    assert!(refused.contains("handlerd:driver/host, which is handlerd's own"), "{refused}");
}

#[test]
fn what_is_built_otherwise_is_left_alone() {
    for text in ["(component)", r#"(component (core module (func (export "x"))))"#] {
        let component = wat::parse_str(text).expect("a component");
        assert_eq!(driver::add(&component), Ok(None), "{text}");
    }
    assert_eq!(driver::add(b"\0asm nonsense"), Ok(None));
}

#[tokio::test]
async fn a_failure_that_may_pass_is_told_with_its_pause() {
    let bench = Bench::new();
    let body = r#"(i32.store8 (i32.const 1024) (i32.const 1))
        (i32.store8 (i32.const 1032) (i32.const 2))
        (i64.store (i32.const 1040) (i64.const 5000000000))
        (i32.store (i32.const 1048) (local.get $payload))
        (i32.store (i32.const 1052) (local.get $len))
        (i32.const 1024)"#;
    let handler = bench.handler(&Source { body, ..Source::default() }, |_| {}).await;
    let failure = handle(&handler, b"later").await.expect_err("it asks to wait");
    let after = Some(Duration::from_millis(5_000_000_000));
    assert_eq!((failure.kind, &*failure.reason), (FailureKind::Retry { after }, "later"));
}
