//! What the source costs beside a bare loop; by hand, for it needs a quiet machine:
//! `CARGO_PROFILE_DEV_OPT_LEVEL=3 cargo test --lib stream::tests::speed -- --ignored --nocapture`

use std::time::{Duration, Instant};

use super::support::*;
use crate::broker::connection::Connector;
use crate::broker::resp::{self, FrameReader};
use crate::broker::stream::Settings;
use tokio::io::AsyncWriteExt;

const ENTRIES: usize = 200_000;
const BATCH: usize = 128;

fn fill(redis: &Redis) {
    redis.cli::<()>("FLUSHALL");
    redis.cli::<()>("XGROUP CREATE in g 0 MKSTREAM");
    let payload = "x".repeat(64);
    for _ in 0..ENTRIES / 10_000 {
        redis.add("in", std::iter::repeat_n(&payload, 10_000));
    }
}

/// XREADGROUP, a native change, pipelined XADD and XACK, and again.
async fn bare(redis: &Redis) -> Duration {
    let mut link = Connector::new(&redis.connection()).connect().await.unwrap();
    let mut reader = FrameReader::with_limit(1 << 30);
    let begin = Instant::now();
    let count = BATCH.to_string();
    let mut out = Vec::new();
    loop {
        out.clear();
        resp::command(
            &mut out,
            &[
                b"XREADGROUP",
                b"GROUP",
                b"g",
                b"bare",
                b"COUNT",
                count.as_bytes(),
                b"STREAMS",
                b"in",
                b">",
            ],
        );
        link.stream.write_all(&out).await.unwrap();
        out.clear();
        let mut written = 0;
        loop {
            if let Some(frame) = reader.next_reply().unwrap() {
                let Some(entries) = frame.items().get(1).map(|entries| entries.items()) else {
                    return begin.elapsed();
                };
                for entry in entries {
                    let entry = entry.items();
                    let (id, fields) = (entry[0].string().unwrap(), entry[1].items());
                    let payload = fields[1].string().unwrap().to_ascii_uppercase();
                    resp::command(&mut out, &[b"XADD", b"out", b"*", b"payload", &payload]);
                    resp::command(&mut out, &[b"XACK", b"in", b"g", id]);
                    written += 2;
                }
                break;
            }
            reader.fill(&mut link.stream).await.unwrap();
        }
        link.stream.write_all(&out).await.unwrap();
        while written > 0 {
            match reader.next_reply().unwrap() {
                Some(_) => written -= 1,
                None => drop(reader.fill(&mut link.stream).await.unwrap()),
            }
        }
    }
}

async fn source(redis: &Redis) -> Duration {
    let begin = Instant::now();
    let long = Settings { claim_idle: Duration::from_secs(30), batch: BATCH, ..settings("me") };
    let running = Running::handling(&redis.connection(), long, |mut message| {
        message.payload.make_ascii_uppercase();
        to_out(message)
    });
    while running.metrics.delivered.get() < ENTRIES as u64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = begin.elapsed();
    running.stop().await;
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn beside_a_bare_loop() {
    let redis = Redis::start(&[]);
    for _ in 0..4 {
        fill(&redis);
        let bare = bare(&redis).await;
        assert_eq!(redis.cli::<usize>("XLEN out"), ENTRIES);
        fill(&redis);
        let source = source(&redis).await;
        assert_eq!(redis.cli::<usize>("XLEN out"), ENTRIES);
        let rate = |took: Duration| ENTRIES as f64 / took.as_secs_f64();
        println!(
            "bare {:.0}/s, source {:.0}/s: {:.2}",
            rate(bare),
            rate(source),
            rate(source) / rate(bare)
        );
    }
}
