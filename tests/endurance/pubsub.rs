//! Pub/sub through what happens to Redis and to the way there. Messages are lost, as pub/sub is, but
//! none comes twice, and handlerd's own numbers account for each that it received.

use std::time::{Duration, Instant};

use crate::fault::Fault;
use crate::feeder::Way;
use crate::random::Random;
use crate::report::Report;
use crate::scene::{self, Scene};

/// Let faults happen for at least so long, in rounds in which each happens once.
pub fn run(seed: u64, rate: u64, least: Duration) {
    println!("seed {seed}, pub/sub");
    let begin = Instant::now();
    let mut random = Random::new(seed);
    let mut scene = Scene::start(scene::PUBSUB, 1, Way::Publish(scene::IN), rate);
    scene.wait_flow(begin);
    let mut report = Report::default();
    while report.count() == 0 || begin.elapsed() < least {
        for fault in random.shuffled(Fault::OF_REDIS) {
            std::thread::sleep(random.time(0, 700));
            println!("{:8.3} s  {}", begin.elapsed().as_secs_f64(), fault.name());
            let back = fault.happen(&mut scene, &mut random);
            report.passed(fault, scene.wait_flow(back), None);
            scene.collect();
        }
    }
    let published = scene.feeder.stop();
    let stopped = scene.stop_daemon(0);
    scene.collect();

    let reached = scene.feeder.reached();
    let count = |of: &dyn Fn(u64) -> bool| (0..published).filter(|n| of(*n)).count() as u64;
    let out = count(&|n| scene.ledger.appended.of(n) > 0);
    let twice = count(&|n| scene.ledger.appended.of(n) > 1);
    let reached = count(&|n| reached.of(n) > 0);
    let number = |name| stopped.number(name);
    let received = number("received");
    let before = number("overflow") + number("redis_away") + number("failed");
    let (unknown, refused) = (number("unknown"), number("refused"));
    let numbers = [
        ("published", published),
        ("while somebody listened, or perhaps", reached),
        ("received by handlerd", received),
        ("out", out),
        ("lost", published - out),
        ("  while nobody listened", published - reached),
        ("  on the way to handlerd", reached.saturating_sub(received)),
        ("  counted by handlerd: in its queue", before),
        ("  counted by handlerd: refused", refused),
        ("  perhaps, counted by handlerd: unknown", unknown),
        ("twice", twice),
    ];
    report.print(seed, begin.elapsed(), &numbers);
    println!("{}", stopped.last);

    assert_eq!(twice, 0, "seed {seed}");
    assert!(received <= reached, "seed {seed}: more was received than published");
    let (handled, delivered) = (number("handled"), number("delivered"));
    assert_eq!(received, handled + before, "seed {seed}");
    assert_eq!(handled, delivered + unknown + refused + number("shutdown"), "seed {seed}");
    let possible = delivered..=delivered + unknown;
    assert!(possible.contains(&out), "seed {seed}: {out} came out, not {possible:?}");
    assert!(out < published, "seed {seed}: these faults lose messages, and the test would see it");
}
