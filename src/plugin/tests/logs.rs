//! What plugins say.

use super::support::*;
use crate::message::Message;

pub(super) const LOGGING: Source<'_> = Source {
    world: "import wasi:logging/logging@0.1.0-draft;",
    imports: r#"(import "wasi:logging/logging@0.1.0-draft" "log" (func $log (param i32 i32 i32 i32 i32)))"#,
    items: "",
    body: "",
};

#[tokio::test]
async fn a_line_has_its_level_and_the_names() {
    let log = Log::capture();
    let bench = Bench::new();
    let items = r#"(data (i32.const 16) "mainhello\0a\1b[31mworld")"#;
    let body = format!(
        "(call $log (i32.const 3) (i32.const 16) (i32.const 4) (i32.const 20) (i32.const 16)) {ECHO}"
    );
    let handler = bench.handler(&Source { body: &body, items, ..LOGGING }, |_| {}).await;
    handle(&handler, b"x").await.expect("it echoes");
    let text = log.text();
    let line = text.lines().last().expect("a line");
    assert!(
        line.trim_start().starts_with("WARN handlerd::plugin: hello\\n\\u{1b}[31mworld"),
        "{text}"
    );
    for field in
        ["plugin=\"test.wasm\"", "handler=\"test\"", "channel=\"rooms\"", "context=\"main\""]
    {
        assert!(line.contains(field), "{field} in {line}");
    }
}

#[tokio::test]
async fn a_flood_is_cut_off_once_a_call() {
    let log = Log::capture();
    let bench = Bench::new();
    // 10,000 lines of 100 bytes.
    let body = format!(
        r#"(local.set $channel (i32.const 10000))
        (loop $more
            (call $log (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 16) (i32.const 100))
            (br_if $more (local.tee $channel (i32.sub (local.get $channel) (i32.const 1)))))
        {ECHO}"#
    );
    let handler =
        bench.handler(&Source { body: &body, ..LOGGING }, |c| c.limits.max_log = 10_000).await;
    for calls in 1..=2 {
        assert_eq!(handle(&handler, b"x").await.expect("it echoes"), [Message::new("x")]);
        let text = log.text();
        let cuts = text.lines().filter(|line| line.contains("`max_log` permits 10000 bytes"));
        assert_eq!(cuts.count(), calls);
        let lines = text.lines().filter(|line| line.contains("INFO handlerd::plugin:")).count();
        assert!((70 * calls..=100 * calls).contains(&lines), "{lines} lines");
    }
}

#[tokio::test]
async fn a_huge_line_is_cut_and_its_rest_not_even_looked_at() {
    let log = Log::capture();
    let bench = Bench::new();
    // 60 MB that the host neither copies nor counts to its own memory.
    let items = "(func $more (drop (memory.grow (i32.const 900)))) (start $more)";
    let body = format!(
        r#"(memory.fill (i32.const 65536) (i32.const 97) (i32.const 10000000))
        (call $log (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 65536) (i32.const 10000000))
        {ECHO}"#
    );
    let handler = bench.handler(&Source { body: &body, items, ..LOGGING }, |_| {}).await;
    handle(&handler, b"x").await.expect("it echoes");
    assert!(log.text().len() < 70_000, "{} bytes", log.text().len());
}

/// Writes 4096 bytes at 16, so many times, to this stream.
fn printing(stream: &str, times: u32, len: u32) -> (String, String, String) {
    let world = format!("import wasi:cli/{stream}@0.2.0; import wasi:io/streams@0.2.0;");
    let imports = format!(
        r#"(import "wasi:cli/{stream}@0.2.0" "get-{stream}" (func $stream (result i32)))
        (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
            (func $write (param i32 i32 i32 i32)))"#
    );
    let body = format!(
        r#"(local.set $headers (call $stream))
        (local.set $channel (i32.const {times}))
        (loop $more
            (call $write (local.get $headers) (i32.const 16) (i32.const {len}) (i32.const 8))
            (if (i32.load8_u (i32.const 8)) (then unreachable))
            (br_if $more (local.tee $channel (i32.sub (local.get $channel) (i32.const 1)))))
        (call $message (local.get $payload) (local.get $len))"#
    );
    (world, imports, body)
}

#[tokio::test]
async fn standard_output_and_error_become_lines() {
    for (stream, level) in [("stdout", "INFO"), ("stderr", "WARN")] {
        let log = Log::capture();
        let bench = Bench::new();
        let (world, imports, body) = printing(stream, 1, 18);
        let items = r#"(data (i32.const 16) "one\0d\0a\0atwo\1b[0mthree")"#;
        let source = Source { world: &world, imports: &imports, body: &body, items };
        let handler = bench.handler(&source, |_| {}).await;
        handle(&handler, b"x").await.expect("it echoes");
        let text = log.text();
        let lines: Vec<&str> = text.lines().filter(|l| l.contains("handlerd::plugin: ")).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].contains(&format!("{level} handlerd::plugin: one plugin=")), "{text}");
        assert!(lines[1].contains("two\\u{1b}[0mthree plugin="), "{text}");
        assert!(lines[1].contains("channel=\"rooms\""), "{text}");
    }
}

#[tokio::test]
async fn output_without_line_ends_is_bounded() {
    let log = Log::capture();
    let bench = Bench::new();
    let (world, imports, body) = printing("stdout", 200, 4096);
    let items = r#"(func $fill (memory.fill (i32.const 16) (i32.const 97) (i32.const 4096))) (start $fill)"#;
    // The messages are written where the text is: the echo's own memory isn't of interest.
    let body =
        body.replace("(call $message (local.get $payload) (local.get $len))", "(call $nothing)");
    let source = Source { world: &world, imports: &imports, body: &body, items };
    let handler = bench.handler(&source, |_| {}).await;
    handle(&handler, b"x").await.expect("it filters");
    let text = log.text();
    assert!(text.len() < 70_000, "{} bytes", text.len());
    assert!(text.lines().all(|line| line.len() < 4400), "a line is bounded");
    assert_eq!(text.lines().filter(|line| line.contains("`max_log` permits")).count(), 1);
}

#[tokio::test]
async fn what_was_said_before_a_trap_is_logged() {
    let log = Log::capture();
    let bench = Bench::new();
    let (world, imports, body) = printing("stderr", 1, 4);
    let items = r#"(data (i32.const 16) "last")"#;
    let body = body.replace("(call $message (local.get $payload) (local.get $len))", "unreachable");
    let source = Source { world: &world, imports: &imports, body: &body, items };
    let handler = bench.handler(&source, |_| {}).await;
    handle(&handler, b"x").await.expect_err("it traps");
    assert!(log.text().contains("handlerd::plugin: last"), "{}", log.text());
}

#[test]
fn escaping_leaves_text_as_it_is_and_shows_what_would_harm() {
    use crate::plugin::guest_log::escape;
    assert_eq!(escape("größe 'x' \"y\" \\ 日本 é"), "größe 'x' \"y\" \\ 日本 é");
    assert_eq!(escape("a\r\n\tb\u{7}\u{9b}\u{202e}c"), "a\\r\\n\\tb\\u{7}\\u{9b}\\u{202e}c");
}

#[tokio::test]
async fn lines_that_the_filter_drops_cost_nothing_of_max_log() {
    let log = Log::capture_from("handlerd=info");
    let bench = Bench::new();
    let items = r#"(data (i32.const 16) "debuginfo!")"#;
    let body = format!(
        r#"(local.set $channel (i32.const 1000))
        (loop $more
            (call $log (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 16) (i32.const 5))
            (br_if $more (local.tee $channel (i32.sub (local.get $channel) (i32.const 1)))))
        (call $log (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 21) (i32.const 5))
        {ECHO}"#
    );
    let handler =
        bench.handler(&Source { body: &body, items, ..LOGGING }, |c| c.limits.max_log = 100).await;
    handle(&handler, b"x").await.expect("it echoes");
    assert!(log.text().contains("handlerd::plugin: info!"), "{}", log.text());
    assert!(!log.text().contains("max_log"), "{}", log.text());
}
