//! Several daemons on one group, and everything that can end does: each entry goes out once.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use super::support::*;

/// A sequence that its seed repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

#[tokio::test]
async fn whatever_ends_when_each_entry_goes_out_once() {
    const ENTRIES: usize = 15_000;
    let seed = match std::env::var("SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => RandomState::new().build_hasher().finish(),
    };
    println!("SEED={seed}");
    let mut random = Random(seed);
    let mut redis = Redis::start(&["appendonly yes", "appendfsync always"]);
    redis.cli::<()>("XGROUP CREATE in g 0 MKSTREAM");
    let start =
        |redis: &Redis, n: usize| Running::copying(&redis.unix(), settings(&format!("daemon{n}")));
    let mut daemons: Vec<Running> = (0..3).map(|n| start(&redis, n)).collect();
    for part in 0..30 {
        redis.add("in", (part * ENTRIES / 30)..((part + 1) * ENTRIES / 30));
        tokio::time::sleep(Duration::from_millis(random.below(60))).await;
        let n = random.below(3) as usize;
        match random.below(5) {
            0 => {
                let restarted = start(&redis, n);
                std::mem::replace(&mut daemons[n], restarted).kill().await;
            }
            1 => {
                let restarted = start(&redis, n);
                std::mem::replace(&mut daemons[n], restarted).stop().await;
            }
            2 => drop(redis.cli::<redis::Value>("CLIENT KILL TYPE normal SKIPME yes")),
            3 => drop(redis.cli::<redis::Value>("SCRIPT FLUSH")),
            _ => {
                redis.kill();
                redis.start_again();
                until("it has read its data", || redis.try_ask::<usize>(&[b"DBSIZE"]).is_ok())
                    .await;
            }
        }
    }
    until("all is acknowledged", || {
        redis.cli::<usize>("XLEN out") >= ENTRIES && redis.pending("in") == 0
    })
    .await;
    let mut out: Vec<usize> = redis.payloads("out").iter().map(|n| n.parse().unwrap()).collect();
    out.sort_unstable();
    assert_eq!(out, (0..ENTRIES).collect::<Vec<_>>());
    for daemon in daemons {
        daemon.stop().await;
    }
}
