//! What a hop costs. Run by
//! `CARGO_PROFILE_DEV_OPT_LEVEL=3 cargo test --lib plugin::tests::speed -- --ignored --nocapture --test-threads 1`

use std::time::{Duration, Instant};

use super::support::*;
use crate::chain::{Handler as _, Transit};
use crate::config::{InstancePolicy, Setting};
use crate::message::Message;
use crate::plugin::PluginHandler;

/// What this thread has had of the processor, so that a busy machine matters less.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells it");
    let nanos = text.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
    Duration::from_nanos(nanos)
}

/// Nanoseconds of the processor a message, the best of ten rounds, so many messages at once.
async fn measure(what: &str, handler: &PluginHandler, payload: usize, at_once: usize, calls: u32) {
    let delivery = delivery();
    let payload = vec![7; payload];
    let mut best = Duration::MAX;
    for _ in 0..10 {
        let began = processor_time();
        for _ in 0..calls / at_once as u32 {
            let message = || Transit::new(delivery.clone(), Message::new(payload.as_slice()));
            let mut messages: Vec<Transit> =
                std::iter::repeat_with(message).take(at_once).collect();
            let mut left = messages.as_mut_slice();
            while !left.is_empty() {
                let handled = handler.handle(left).await;
                left = &mut left[handled..];
            }
            assert!(messages.iter().all(|transit| transit.outcome.is_ok()), "it echoes");
        }
        best = best.min((processor_time() - began) / calls);
    }
    println!("{what}, {} bytes, {at_once} at once: {} ns", payload.len(), best.as_nanos());
}

#[tokio::test]
#[ignore = "a measurement"]
async fn a_hop() {
    let began = Instant::now();
    let bench = Bench::new();
    println!("a host: {:?}", began.elapsed());
    let source = Source { body: ECHO, ..Source::default() };
    let reused = bench.handler(&source, |_| {}).await;
    let fresh = bench.handler(&source, |c| c.instance = InstancePolicy::Fresh).await;
    for payload in [16, 64, 1024, 65536] {
        for at_once in [1, 128] {
            let calls = 128_000 / (1 + payload as u32 / 4096);
            measure("reused", &reused, payload, at_once, calls).await;
        }
    }
    measure("fresh", &fresh, 64, 1, 2000).await;
}

/// Another plugin file: `HANDLERD_PLUGIN=announce.wasm`.
#[tokio::test]
#[ignore = "a measurement"]
async fn a_hop_through_a_file() {
    let Some(file) = std::env::var_os("HANDLERD_PLUGIN") else { return };
    let bench = Bench::new();
    let mut config = bench.config(b"");
    config.plugin = file.into();
    config.config = vec![("words".into(), Setting::Plain("foo, bar".into()))];
    config.limits.timeout = Duration::from_secs(2);
    for start in ["cold", "warm"] {
        let host = super::cache::host_with_child(&bench.dir().join("cache"));
        let began = Instant::now();
        let handler = host.load(&config).await.unwrap_or_else(|e| panic!("{e}"));
        println!("{start}: {} compiled, loaded in {:?}", host.compilations(), began.elapsed());
        let log = Log::capture();
        for payload in ["hello", "print", "raise"] {
            match handle(&handler, payload.as_bytes()).await {
                Ok(outputs) => {
                    println!("{payload}: {:?}", String::from_utf8_lossy(&outputs[0].payload))
                }
                Err(failure) => println!("{payload}: {failure}"),
            }
        }
        println!("{}", log.text());
        for payload in [16, 64, 1024, 65536] {
            for at_once in [1, 128] {
                let calls = 25_600 / (1 + payload as u32 / 4096);
                measure("reused", &handler, payload, at_once, calls).await;
            }
        }
    }
    println!("{:?}", bench.host.inspect(&config.plugin).await);
}
