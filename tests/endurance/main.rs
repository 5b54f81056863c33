//! Faults, over and over, and a count of what came out: each message once, whatever happens.
//!
//! Numbered messages are fed into a stream that several daemons share. What happens to them and to
//! Redis, and when, follows from a seed, which is printed. `tests/soak --minutes N --seed S` runs
//! for as long as it is told; in `cargo test` each fault happens once.
//!
//! ```text
//! feeder --> stream --> daemons --> proxy --> out, list, said, dead --> ledger: the verdict
//!                          ^ fault.rs happens to all of these
//! ```

mod fault;
mod feeder;
mod ledger;
mod listener;
mod message;
mod pubsub;
mod random;
mod report;
mod scene;
mod steps;
#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use fault::Fault;
use feeder::Way;
use random::Random;
use report::Report;
use rustix::process::Signal;
use scene::{DAEMONS, Scene};

/// How soon messages must flow again (99 of 100 times), where no owner has to be waited for.
const FLOWING: Duration = Duration::from_secs(3);

/// What a daemon may need, its first look at plugins included.
const MEMORY: u64 = 256 << 20;

/// Let faults happen for at least so long, in rounds in which each happens once.
fn run(seed: u64, rate: u64, least: Duration) {
    println!("seed {seed}");
    let begin = Instant::now();
    let mut random = Random::new(seed);
    let mut scene = Scene::start(scene::STREAM, DAEMONS, Way::Add(scene::IN), rate);
    scene.wait_flow(begin);
    let mut report = Report::default();
    while report.count() == 0 || begin.elapsed() < least {
        for fault in random.shuffled(&Fault::known()) {
            std::thread::sleep(random.time(0, 700));
            let caught_up = random.below(2) == 0;
            let asleep = (random.below(3) == 0).then(|| random.below(DAEMONS as u64) as usize);
            let asleep = asleep.filter(|_| !fault.stops_a_daemon());
            let note = if asleep.is_some() { ", while a daemon is frozen" } else { "" };
            println!("{:8.3} s  {}{note}", begin.elapsed().as_secs_f64(), fault.name());
            let signal = |scene: &mut Scene, signal| {
                asleep.into_iter().for_each(|place| scene.daemon(place).signal(signal));
            };
            signal(&mut scene, Signal::STOP);
            let back = fault.happen(&mut scene, &mut random);
            signal(&mut scene, Signal::CONT);
            let flowing = scene.wait_flow(back);
            let caught_up = caught_up.then(|| scene.wait_caught_up(back));
            report.passed(fault, flowing, caught_up);
            scene.look_at_memory();
            scene.collect();
        }
    }
    let messages = scene.feeder.stop();
    scene.wait_caught_up(Instant::now());
    scene.collect();
    scene.ledger.bad = scene.feeder.bad();
    let verdict = scene.ledger.judge(messages, &scene.heard());
    let memory = ("most memory of a daemon, MiB", scene.rss >> 20);
    report.print(seed, begin.elapsed(), &[&verdict.numbers()[..], &[memory]].concat());
    let wrong = (verdict.lost, verdict.duplicated, verdict.misjudged);
    assert_eq!(wrong, (0, 0, 0), "seed {seed}:\n{}", verdict.examples);
    // Of less than a hundred it is the longest.
    let limit = (FLOWING + scene::CLAIM_IDLE) * if report.count() < 100 { 2 } else { 1 };
    let p99 = report.flowing_p99();
    assert!(p99 <= limit, "seed {seed}: messages flow again only after {p99:?}");
    assert!(scene.rss <= MEMORY, "seed {seed}: a daemon had {} MiB", scene.rss >> 20);
}

#[test]
fn every_fault_once() {
    run(1, 500, Duration::ZERO);
}

#[test]
fn pubsub_loses_only_what_is_counted() {
    pubsub::run(1, 300, Duration::ZERO);
}

/// What `tests/soak` runs.
#[test]
#[ignore = "runs for as long as tests/soak says"]
fn soak() {
    let number = |name: &str| {
        let text = std::env::var(name).unwrap_or_else(|_| panic!("tests/soak sets {name}"));
        text.parse::<u64>().unwrap_or_else(|_| panic!("{name} is a number"))
    };
    let minutes = Duration::from_secs(60 * number("SOAK_MINUTES"));
    let (seed, rate) = (number("SOAK_SEED"), number("SOAK_RATE"));
    run(seed, rate, minutes);
    // It knows fewer faults, and they are the same each time.
    pubsub::run(seed, rate, minutes / 10);
}
