//! What waits, what is dropped, and who has a turn.

use super::*;
use crate::message::{Delivery, Message};

fn received(payload: &str) -> Received {
    Received {
        message: Message::new(payload),
        delivery: Arc::new(Delivery {
            table: "t".into(),
            redis_channel: "c".into(),
            pattern: None,
            id: None,
            attempt: 1,
            received_at: 0,
        }),
        entry: None,
        order: 0,
    }
}

fn payloads(batch: &mut Batch) -> Vec<String> {
    let payloads: Vec<String> =
        batch.drain().map(|r| String::from_utf8(r.message.payload).unwrap()).collect();
    batch.done(payloads.len());
    payloads
}

fn queue_of(messages: usize, overflow: Overflow, budget: &Arc<Budget>) -> Arc<Queue> {
    let limit = messages * received("x").footprint();
    Queue::new(1, limit, overflow, budget, Arc::default(), Box::new(|| false))
}

fn all(queue: &Arc<Queue>) -> Vec<String> {
    queue.close();
    let mut batch = Batch::default();
    let mut seen = Vec::new();
    while queue.take(&mut batch) {
        seen.extend(payloads(&mut batch));
    }
    seen
}

#[test]
fn a_full_queue_loses_by_its_policy_and_counts() {
    for (overflow, left) in [(Overflow::DropOldest, ["b", "c"]), (Overflow::DropNewest, ["a", "b"])]
    {
        let budget = Budget::new(usize::MAX);
        let queue = queue_of(2, overflow, &budget);
        queue.push(&mut ["a", "b", "c"].map(received).into());
        assert_eq!(all(&queue), left);
        assert_eq!(queue.metrics().dropped(DropReason::Overflow), 1);
        assert_eq!(queue.metrics().received.get(), 3);
        assert_eq!(budget.used(), 0);
    }
}

#[test]
fn what_overflows_while_the_output_is_away_is_counted_as_that() {
    let budget = Budget::new(usize::MAX);
    let (limit, metrics) = (received("x").footprint(), Arc::default());
    let away = Box::new(|| true);
    let queue = Queue::new(1, limit, Overflow::DropOldest, &budget, metrics, away);
    queue.push(&mut ["a", "b"].map(received).into());
    assert_eq!(queue.metrics().dropped(DropReason::RedisAway), 1);
    assert_eq!(queue.metrics().dropped(DropReason::Overflow), 0);
}

#[test]
fn the_fullest_queue_pays_for_all() {
    let size = received("x").footprint();
    let budget = Budget::new(5 * size);
    let long = queue_of(100, Overflow::DropOldest, &budget);
    let short = queue_of(100, Overflow::DropOldest, &budget);
    long.push(&mut (0..4).map(|n| received(&n.to_string())).collect());
    short.push(&mut ["a", "b"].map(received).into());
    assert!(budget.used() <= 5 * size);
    assert_eq!(long.metrics().dropped(DropReason::Memory), 1);
    assert_eq!(all(&long), ["1", "2", "3"]);
    assert_eq!(all(&short), ["a", "b"]);
}

#[test]
fn a_message_larger_than_the_queue_is_dropped_alone() {
    let budget = Budget::new(usize::MAX);
    let queue = queue_of(2, Overflow::DropOldest, &budget);
    queue.push(&mut vec![received("a"), received(&"x".repeat(10_000))]);
    assert_eq!(all(&queue), ["a"]);
}

#[test]
fn what_a_dropped_batch_held_is_counted() {
    let budget = Budget::new(usize::MAX);
    let queue = queue_of(9, Overflow::DropOldest, &budget);
    queue.push(&mut ["a", "b", "c"].map(received).into());
    let mut batch = Batch::default();
    assert!(queue.take(&mut batch));
    assert_eq!(batch.drain().count(), 3);
    batch.done(1);
    drop(batch);
    assert_eq!(queue.metrics().dropped(DropReason::Shutdown), 2);
    assert_eq!(budget.used(), 0);
}

#[test]
fn there_are_as_many_turns_as_workers_and_none_without_messages() {
    let budget = Budget::new(usize::MAX);
    let (limit, metrics) = (usize::MAX / 2, Arc::default());
    let queue = Queue::new(2, limit, Overflow::DropOldest, &budget, metrics, Box::new(|| false));
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    queue.on_ready(Box::new(move || {
        counted.fetch_add(1, Relaxed);
    }));
    let push = |n: usize| queue.push(&mut (0..n).map(|n| received(&n.to_string())).collect());
    push(1);
    assert_eq!(asked.load(Relaxed), 1);
    // More than one takes at once.
    push(3 * BATCH_MESSAGES);
    push(1);
    assert_eq!(asked.load(Relaxed), 2);
    let mut batch = Batch::default();
    assert!(queue.take(&mut batch));
    payloads(&mut batch);
    assert_eq!(asked.load(Relaxed), 2);
    // The first goes on in its own place, the second ends when nothing is left.
    assert!(queue.end_turn());
    while queue.take(&mut batch) {
        payloads(&mut batch);
    }
    assert!(!queue.end_turn());
    push(1);
    assert_eq!(asked.load(Relaxed), 3);
}

fn ordered(key: &str) -> Received {
    let mut received = received(key);
    received.message.headers.push(("key".into(), key[..1].into()));
    received
}

/// One for two workers, and how often it asked for a turn.
fn queue_by_key() -> (Arc<Queue>, Arc<AtomicUsize>) {
    let budget = Budget::new(usize::MAX);
    let order_by = Some(crate::config::OrderBy::Header("key".into()));
    let queue = Queue::new(
        Workers { most: 2, order_by },
        usize::MAX / 2,
        Overflow::DropOldest,
        &budget,
        Arc::default(),
        Box::new(|| false),
    );
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    queue.on_ready(Box::new(move || {
        counted.fetch_add(1, Relaxed);
    }));
    (queue, asked)
}

#[test]
fn with_order_by_only_what_is_unrelated_is_in_hand_at_once() {
    let (queue, asked) = queue_by_key();
    queue.push(&mut ["a1", "a2", "b1", "a3"].map(ordered).into());
    let mut first = Batch::default();
    assert!(queue.take(&mut first));
    assert_eq!(payloads_of(&mut first), ["a1", "a2"]);
    let mut second = Batch::default();
    assert!(queue.take(&mut second));
    assert_eq!(payloads_of(&mut second), ["b1"]);
    second.done(1);
    // There may be more for this turn; but what is left is related to what the first has in
    // hand, and nobody is to look again and again.
    assert!(queue.end_turn());
    let mut third = Batch::default();
    assert!(!queue.take(&mut third));
    assert!(!queue.end_turn());
    assert_eq!(asked.load(Relaxed), 2);
    first.done(2);
    assert_eq!(asked.load(Relaxed), 3);
    assert!(queue.take(&mut third));
    assert_eq!(payloads(&mut third), ["a3"]);
}

#[test]
fn a_new_key_does_not_wait_for_a_busy_one() {
    let (queue, asked) = queue_by_key();
    queue.push(&mut ["a1"].map(ordered).into());
    let mut first = Batch::default();
    assert!(queue.take(&mut first));
    assert_eq!(payloads_of(&mut first), ["a1"]);
    // a1 is being tried again, for minutes. a2 comes: nothing to do.
    queue.push(&mut ["a2"].map(ordered).into());
    assert_eq!(asked.load(Relaxed), 2);
    let mut second = Batch::default();
    assert!(!queue.take(&mut second));
    assert!(!queue.end_turn());
    // b1 has nothing to do with it.
    queue.push(&mut ["b1"].map(ordered).into());
    assert_eq!(asked.load(Relaxed), 3, "nobody is told of b1");
    assert!(queue.take(&mut second));
}

/// The same as `payloads`, still in hand.
fn payloads_of(batch: &mut Batch) -> Vec<String> {
    batch.drain().map(|r| String::from_utf8(r.message.payload).unwrap()).collect()
}
