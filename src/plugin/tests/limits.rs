//! What a plugin can't do: each ends in a failure of its own kind, and the next message is handled.

use std::time::{Duration, Instant};

use super::logs::LOGGING;
use super::support::*;
use crate::chain::{Failure, FailureKind};
use crate::config::InstancePolicy;
use crate::message::Message;

/// Bodies do something bad for a payload that begins with `!`, and echo others.
fn bad(body: &str) -> String {
    format!(
        r#"(if (i32.and (local.get $len) (i32.eq (i32.load8_u (local.get $payload)) (i32.const 33)))
            (then {body}))
        {ECHO}"#
    )
}

/// The failure of the bad body; and that the next message is handled as if nothing were.
async fn failure_of(source: Source<'_>) -> Failure {
    let bench = Bench::new();
    let body = bad(source.body);
    let handler = bench.handler(&Source { body: &body, ..source.clone() }, |_| {}).await;
    let failure = handle(&handler, b"!").await.expect_err("it is bad");
    assert_eq!(handle(&handler, b"x").await.expect("it echoes"), [Message::new("x")]);
    failure
}

/// Long enough for what doesn't loop, also on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(1);

/// See that the bad body ends on time, and the next message is handled.
async fn ends_on_time(source: Source<'_>, policy: InstancePolicy) {
    let bench = Bench::new();
    let body = bad(source.body);
    let handler = bench
        .handler(&Source { body: &body, ..source.clone() }, |config| {
            config.limits.timeout = TIMEOUT;
            config.instance = policy;
        })
        .await;
    for _ in 0..2 {
        let began = Instant::now();
        let failure = handle(&handler, b"!").await.expect_err("it is bad");
        let took = began.elapsed();
        assert_eq!(failure.kind, FailureKind::Timeout, "{failure}");
        assert_eq!(failure.reason, "it took longer than 1s");
        assert!(took >= TIMEOUT && took < 20 * TIMEOUT, "it took {took:?}");
        assert_eq!(handler.waiting(), 0);
    }
    assert_eq!(handle(&handler, b"x").await.expect("it echoes"), [Message::new("x")]);
}

#[tokio::test]
async fn a_loop_ends_on_time() {
    let source = Source { body: "(loop $l (br $l))", ..Source::default() };
    ends_on_time(source.clone(), InstancePolicy::Reuse).await;
    ends_on_time(source, InstancePolicy::Fresh).await;
}

const SLEEP: Source<'_> = Source {
    world: "import wasi:clocks/monotonic-clock@0.2.0; import wasi:io/poll@0.2.0;",
    imports: r#"
        (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $in (param i64) (result i32)))
        (import "wasi:io/poll@0.2.0" "poll" (func $poll (param i32 i32 i32)))"#,
    body: r#"(i32.store (i32.const 512) (call $in (i64.const 60000000000)))
        (call $poll (i32.const 512) (i32.const 1) (i32.const 520))"#,
    items: "",
};

#[tokio::test]
async fn a_sleep_ends_on_time() {
    ends_on_time(SLEEP, InstancePolicy::Reuse).await;
    ends_on_time(SLEEP, InstancePolicy::Fresh).await;
}

#[tokio::test]
async fn a_short_sleep_is_permitted() {
    let bench = Bench::new();
    let body = format!("{} {ECHO}", SLEEP.body.replace("60000000000", "20000000"));
    let handler = bench.handler(&Source { body: &body, ..SLEEP }, |_| {}).await;
    let began = Instant::now();
    assert_eq!(handle(&handler, b"x").await.expect("it echoes"), [Message::new("x")]);
    assert!(began.elapsed() >= Duration::from_millis(20));
}

#[tokio::test]
async fn a_loop_after_a_long_sleep_ends_on_time() {
    // Long enough for the ticker to have gone to sleep meanwhile.
    let bench = Bench::new();
    let body =
        format!("{} (loop $l (br $l)) unreachable", SLEEP.body.replace("60000000000", "400000000"));
    let handler = bench
        .handler(&Source { body: &body, ..SLEEP }, |c| {
            c.limits.timeout = Duration::from_millis(600)
        })
        .await;
    let began = Instant::now();
    let failure = handle(&handler, b"x").await.expect_err("it loops");
    assert_eq!(failure.kind, FailureKind::Timeout);
    let took = began.elapsed();
    assert!((590..20_000).contains(&took.as_millis()), "it took {took:?}");
}

/// A log that takes longer than a guest may.
struct Stalled;

impl std::io::Write for Stalled {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        std::thread::sleep(Duration::from_millis(300));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_thread_that_stands_still_is_no_fault_of_the_guests() {
    let log = tracing_subscriber::fmt().with_writer(|| Stalled).finish();
    let _log = tracing::subscriber::set_default(log);
    let bench = Bench::new();
    // It sees the ticks that came meanwhile at its next step.
    let body = format!(
        r#"(call $log (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 16) (i32.const 9))
        (local.set $channel (i32.const 10))
        (loop $more
            (br_if $more (local.tee $channel (i32.sub (local.get $channel) (i32.const 1)))))
        {ECHO}"#
    );
    let handler = bench
        .handler(&Source { body: &body, ..LOGGING }, |c| {
            c.limits.timeout = Duration::from_millis(100);
        })
        .await;
    assert_eq!(handle(&handler, b"x").await.expect("it echoes"), [Message::new("x")]);
}

#[tokio::test]
async fn memory_is_bounded() {
    // A panic when there is no more is what a guest's allocator does.
    let body = r#"(loop $more
        (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))
        (br $more))"#;
    let failure = failure_of(Source { body, ..Source::default() }).await;
    assert_eq!(failure.kind, FailureKind::Memory, "{failure}");
    assert!(failure.reason.contains("of memory, and `memory` permits 64.0 MiB"), "{failure}");
}

#[tokio::test]
async fn memory_that_a_guest_does_without_is_no_failure() {
    let bench = Bench::new();
    let body = format!("(drop (memory.grow (i32.const 2000))) {ECHO}");
    let handler = bench.handler(&Source { body: &body, ..Source::default() }, |_| {}).await;
    assert_eq!(handle(&handler, b"x").await.expect("it echoes"), [Message::new("x")]);
}

#[tokio::test]
async fn memory_at_the_start_is_bounded_too() {
    let bench = Bench::new();
    let mut config = bench.config(&Source { body: ECHO, ..Source::default() }.module());
    config.limits.memory = 64 << 10;
    let error = bench.load(&config).await.err().expect("it wants two pages");
    let text = error.to_string();
    assert!(text.contains("memory: it wanted 128.0 KiB of memory"), "{text}");
}

#[tokio::test]
async fn tables_are_bounded() {
    let body = r#"(loop $more
        (if (i32.eq (table.grow $t (ref.null func) (i32.const 10000)) (i32.const -1)) (then unreachable))
        (br $more))"#;
    let items = "(table $t 1 funcref)";
    let failure = failure_of(Source { body, items, ..Source::default() }).await;
    assert_eq!(failure.kind, FailureKind::Memory, "{failure}");
}

#[tokio::test]
async fn recursion_is_bounded() {
    let items = r#"(func $_ZN4test7recurse17h0123456789abcdefE (param i32) (result i32)
        (i32.add (i32.const 1) (call $_ZN4test7recurse17h0123456789abcdefE (local.get 0))))"#;
    let body = "(drop (call $_ZN4test7recurse17h0123456789abcdefE (i32.const 0)))";
    let failure = failure_of(Source { body, items, ..Source::default() }).await;
    assert_eq!(failure.kind, FailureKind::Trap);
    let expected =
        "its call stack is used up: an endless recursion?; in test::recurse < test::recurse";
    assert!(failure.reason.starts_with(expected), "{failure}");
}

#[tokio::test]
async fn a_trap_names_the_functions() {
    let items = "(func $inner unreachable) (func $outer (call $inner))";
    let failure = failure_of(Source { body: "(call $outer)", items, ..Source::default() }).await;
    assert_eq!(failure.kind, FailureKind::Trap);
    assert!(failure.reason.contains("`unreachable`"), "{failure}");
    assert!(failure.reason.contains("; in inner < outer"), "{failure}");
    let body = "(drop (i32.div_u (i32.const 1) (i32.const 0)))";
    let failure = failure_of(Source { body, ..Source::default() }).await;
    assert_eq!(failure.kind, FailureKind::Trap);
    assert!(failure.reason.contains("integer divide by zero"), "{failure}");
}

#[tokio::test]
async fn exit_is_a_trap() {
    for code in [0, 1] {
        let body = format!("(call $exit (i32.const {code}))");
        let failure = failure_of(Source {
            world: "import wasi:cli/exit@0.2.0;",
            imports: r#"(import "wasi:cli/exit@0.2.0" "exit" (func $exit (param i32)))"#,
            body: &body,
            items: "",
        })
        .await;
        assert_eq!(failure.kind, FailureKind::Trap);
        assert!(
            failure.reason.starts_with(&format!("it called exit with code {code}")),
            "{failure}"
        );
    }
}

#[tokio::test]
async fn messages_are_counted() {
    // Zeroes, which memory has below the heap, are empty messages.
    for (count, kind) in [(1001, "1001 messages"), (2000, "2000 messages")] {
        let body = format!("(return (call $messages (i32.const 8192) (i32.const {count})))");
        let items = "(func $more (drop (memory.grow (i32.const 600)))) (start $more)";
        let failure = failure_of(Source { body: &body, items, ..Source::default() }).await;
        assert_eq!(failure.kind, FailureKind::Output, "{failure}");
        assert!(failure.reason.contains(kind), "{failure}");
    }
    // So many aren't even counted out.
    let body = "(return (call $messages (i32.const 131072) (i32.const 1000000)))";
    let items = "(func $more (drop (memory.grow (i32.const 600)))) (start $more)";
    let failure = failure_of(Source { body, items, ..Source::default() }).await;
    assert_eq!(failure.kind, FailureKind::Output, "{failure}");
}

#[tokio::test]
async fn what_comes_out_is_bounded_in_the_hosts_memory() {
    // 126 messages that share one payload of 1 MiB: 12 MiB in the guest, 126 in the host.
    let body = r#"(drop (memory.grow (i32.const 32)))
        (drop (call $message (i32.const 131072) (i32.const 1048576)))
        (local.set $channel (i32.const 0))
        (loop $next
            (memory.copy
                (i32.add (i32.const 8192) (i32.mul (local.get $channel) (i32.const 28)))
                (i32.const 2048) (i32.const 28))
            (local.set $channel (i32.add (local.get $channel) (i32.const 1)))
            (br_if $next (i32.lt_u (local.get $channel) (i32.const 126))))
        (return (call $messages (i32.const 8192) (i32.const 126)))"#;
    let failure = failure_of(Source { body, ..Source::default() }).await;
    assert_eq!(failure.kind, FailureKind::Output, "{failure}");
    assert!(failure.reason.contains("`max_output` permits: 16.0 MiB"), "{failure}");
}

#[tokio::test]
async fn one_byte_more_than_max_output_is_too_much() {
    let bench = Bench::new();
    let source = Source { body: ECHO, ..Source::default() };
    let handler = bench.handler(&source, |config| config.limits.max_output = 100).await;
    assert!(handle(&handler, &[1; 100]).await.is_ok());
    let failure = handle(&handler, &[1; 101]).await.expect_err("it is too much");
    assert_eq!(failure.kind, FailureKind::Output);
    let big = 17 << 20;
    let handler = bench
        .handler(&source, |config| {
            config.limits.max_output = big;
            config.limits.timeout = Duration::from_secs(5);
        })
        .await;
    assert!(handle(&handler, &vec![1; big]).await.is_ok());
    let failure = handle(&handler, &vec![1; big + 1]).await.expect_err("it is too much");
    assert_eq!(failure.kind, FailureKind::Output);
}

#[tokio::test]
async fn a_message_that_the_guest_has_no_memory_for_is_a_failure() {
    let bench = Bench::new();
    let source = Source { body: ECHO, ..Source::default() };
    let handler = bench.handler(&source, |config| config.limits.memory = 1 << 20).await;
    let failure = handle(&handler, &vec![1; 2 << 20]).await.expect_err("it doesn't fit");
    assert_eq!(failure.kind, FailureKind::Memory, "{failure}");
    assert_eq!(handle(&handler, b"x").await.expect("it echoes"), [Message::new("x")]);
}

#[tokio::test]
async fn random_bytes_are_bounded() {
    let failure = failure_of(Source {
        world: "import wasi:random/random@0.2.0;",
        imports: r#"(import "wasi:random/random@0.2.0" "get-random-bytes" (func $random (param i64 i32)))"#,
        body: "(call $random (i64.const 1000000000000) (i32.const 512))",
        items: "",
    })
    .await;
    assert_eq!(failure.kind, FailureKind::Trap);
    assert!(failure.reason.contains("exceeds limit"), "{failure}");
}

#[tokio::test]
async fn resources_of_the_host_are_bounded() {
    let body = "(loop $more (drop (call $in (i64.const 1))) (br $more))";
    let failure = failure_of(Source { body, ..SLEEP }).await;
    assert_eq!(failure.kind, FailureKind::Trap);
    assert!(failure.reason.contains("too many streams, pollables"), "{failure}");
}

/// A neighbour of two looping plugins gets through on two threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looping_plugins_do_not_starve_a_neighbour() {
    let bench = Bench::new();
    let looping = Source { body: "(loop $l (br $l)) unreachable", ..Source::default() };
    let looping =
        bench.handler(&looping, |config| config.limits.timeout = Duration::from_secs(120)).await;
    let neighbour = bench.handler(&Source { body: ECHO, ..Source::default() }, |_| {}).await;
    let loops: Vec<_> = (0..2)
        .map(|_| {
            let looping = looping.clone();
            tokio::spawn(async move { handle(&looping, b"x").await })
        })
        .collect();
    let calls = tokio::spawn(async move {
        for _ in 0..60 {
            handle(&neighbour, b"x").await.expect("it echoes");
            // As a worker does that waits for its next message.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    calls.await.expect("it ends");
    for task in loops {
        assert!(!task.is_finished(), "it loops meanwhile");
        task.abort();
    }
}
