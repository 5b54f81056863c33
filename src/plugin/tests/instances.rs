//! Which instance handles which message.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::support::*;
use crate::chain::FailureKind;
use crate::config::InstancePolicy;
use crate::message::Message;

/// Answers how many messages the instance has had, in one byte; `!` traps.
const COUNTING: Source<'_> = Source {
    world: "",
    imports: "",
    items: "(global $count (mut i32) (i32.const 0))",
    body: r#"(if (i32.and (local.get $len) (i32.eq (i32.load8_u (local.get $payload)) (i32.const 33)))
            (then unreachable))
        (global.set $count (i32.add (global.get $count) (i32.const 1)))
        (i32.store8 (i32.const 600) (global.get $count))
        (call $message (i32.const 600) (i32.const 1))"#,
};

#[tokio::test]
async fn a_reused_instance_keeps_its_memory_until_it_traps() {
    let bench = Bench::new();
    let handler = bench.handler(&COUNTING, |_| {}).await;
    for n in 1..=3 {
        assert_eq!(handle(&handler, b"").await.expect("it counts"), [Message::new([n])]);
    }
    let failure = handle(&handler, b"!").await.expect_err("it traps");
    assert_eq!(failure.kind, FailureKind::Trap);
    assert_eq!(handler.waiting(), 0);
    assert_eq!(handle(&handler, b"").await.expect("it counts"), [Message::new([1])]);
}

#[tokio::test]
async fn fresh_instances_have_no_memory_of_other_messages() {
    let bench = Bench::new();
    let handler = bench.handler(&COUNTING, |c| c.instance = InstancePolicy::Fresh).await;
    for _ in 0..3 {
        assert_eq!(handle(&handler, b"").await.expect("it counts"), [Message::new([1])]);
    }
    assert_eq!(handler.waiting(), 0);
}

#[tokio::test]
async fn an_instance_that_has_grown_is_dropped() {
    let bench = Bench::new();
    let body = format!("(drop (memory.grow (local.get $len))) {}", COUNTING.body);
    let source = Source { body: &body, ..COUNTING };
    let handler = bench.handler(&source, |c| c.limits.memory = 1 << 20).await;
    // 16 pages are permitted, two are had at first.
    assert_eq!(handle(&handler, &[0; 5]).await.expect("it counts"), [Message::new([1])]);
    assert_eq!(handle(&handler, &[0; 5]).await.expect("it counts"), [Message::new([2])]);
    assert_eq!(handler.waiting(), 1);
    assert_eq!(handle(&handler, &[0; 3]).await.expect("it counts"), [Message::new([3])]);
    assert_eq!(handler.waiting(), 0);
    assert_eq!(handle(&handler, b"").await.expect("it counts"), [Message::new([1])]);
}

#[tokio::test]
async fn who_finds_no_instance_waits_in_turn() {
    let bench = Bench::new();
    let handler = bench.handler(&SLOW, |config| config.limits.instances = 2).await;
    let began = Instant::now();
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for n in 0..6u8 {
        let (handler, order) = (handler.clone(), order.clone());
        tasks.push(tokio::spawn(async move {
            handle(&handler, &[n]).await.expect("it echoes");
            order.lock().expect("nobody panics").push(n / 2);
        }));
        // Each has asked before the next one does.
        tokio::task::yield_now().await;
    }
    for task in tasks {
        task.await.expect("it ends");
    }
    assert_eq!(*order.lock().expect("nobody panics"), [0, 0, 1, 1, 2, 2]);
    assert!(began.elapsed() >= Duration::from_millis(150), "two at a time");
    assert_eq!(handler.waiting(), 2);
}

#[tokio::test]
async fn a_call_that_is_given_up_gives_its_turn_back() {
    let bench = Bench::new();
    // Longer than the machine stands still.
    let body = SLOW.body.replace("50000000", "2000000000");
    let slower = Source { body: &body, ..SLOW };
    let handler = bench.handler(&slower, |config| config.limits.instances = 1).await;
    let call = tokio::time::timeout(Duration::from_millis(10), handle(&handler, b"x")).await;
    assert!(call.is_err(), "it sleeps longer");
    assert_eq!(handler.waiting(), 0, "an interrupted instance is not used again");
    assert_eq!(handle(&handler, b"x").await.expect("it echoes"), [Message::new("x")]);
}

#[tokio::test]
async fn unused_instances_are_dropped_after_a_minute() {
    let bench = Bench::new();
    let handler = bench.handler(&COUNTING, |_| {}).await;
    assert!(bench.host.pools().sweep(Instant::now() + Duration::from_secs(50)));
    assert_eq!(handler.waiting(), 1);
    assert!(!bench.host.pools().sweep(Instant::now() + Duration::from_secs(61)));
    assert_eq!(handler.waiting(), 0);
    assert_eq!(handle(&handler, b"").await.expect("it counts"), [Message::new([1])]);
}

#[tokio::test]
async fn a_plugin_may_have_several_names() {
    let bench = Bench::new();
    let config = bench.config(&COUNTING.module());
    let (one, other) = tokio::join!(bench.load(&config), bench.load(&config));
    let (one, other) = (one.expect("it is loaded"), other.expect("it is loaded"));
    assert_eq!(bench.host.compilations(), 1);
    for handler in [one, other] {
        assert_eq!(handle(&handler, b"").await.expect("it counts"), [Message::new([1])]);
    }
}

#[tokio::test]
async fn all_handlers_together_have_only_so_many_instances() {
    let bench = Bench::new();
    let host = crate::plugin::Host::builder(bench.dir().join("cache"))
        .compile_in_process()
        .instances(1)
        .build()
        .expect("a host");
    let config = bench.config(&COUNTING.module());
    let handler = host.load(&config).await.expect("there is room for one");
    let error = host.load(&config).await.err().expect("there is no room");
    assert!(error.to_string().contains("vm.max_map_count"), "{error}");
    handle(&handler, b"!").await.expect_err("it traps");
    let other = host.load(&config).await.expect("there is room again");
    let failure = handle(&handler, b"").await.expect_err("there is no room");
    assert_eq!(failure.kind, FailureKind::Setup);
    drop(other);
    assert_eq!(handle(&handler, b"").await.expect("there is room"), [Message::new([1])]);
}

#[tokio::test]
async fn the_hosts_thread_ends_with_the_last_handler() {
    let bench = Bench::new();
    let handler = bench.handler(&COUNTING, |_| {}).await;
    let host = Arc::downgrade(&bench.host);
    drop(bench);
    assert_eq!(handle(&handler, b"").await.expect("it counts"), [Message::new([1])]);
    assert!(host.upgrade().is_some());
    // Dropping it joins the thread, so this ends only if that does.
    drop(handler);
    assert!(host.upgrade().is_none());
}
