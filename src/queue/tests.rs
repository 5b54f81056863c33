//! What waits, what is dropped, and who has a turn.

use std::time::Duration;

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
        number: 0,
    }
}

fn payloads(batch: &mut Batch) -> Vec<String> {
    let payloads = payloads_of(batch);
    batch.done(payloads.len());
    payloads
}

fn queue_of(messages: usize, overflow: Overflow, budget: &Arc<Budget>) -> Arc<Queue> {
    let limit = messages * received("x").footprint();
    Queue::new(1, limit, overflow, budget, Arc::default(), Box::new(|| false))
}

/// How often a queue asks for a turn.
fn counted_turns(queue: &Queue) -> Arc<AtomicUsize> {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    queue.on_ready(Box::new(move || {
        counted.fetch_add(1, Relaxed);
    }));
    asked
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
    let asked = counted_turns(&queue);
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

/// One for two workers.
fn queue_by_key_that(overflow: Overflow) -> Arc<Queue> {
    let budget = Budget::new(usize::MAX);
    let order_by = Some(crate::config::OrderBy::Header("key".into()));
    let workers = Workers { most: 2, order_by };
    let away = Box::new(|| false);
    Queue::new(workers, usize::MAX / 2, overflow, &budget, Arc::default(), away)
}

/// The same, and how often it asked for a turn.
fn queue_by_key() -> (Arc<Queue>, Arc<AtomicUsize>) {
    let queue = queue_by_key_that(Overflow::DropOldest);
    let asked = counted_turns(&queue);
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
    // a1 is being tried again, for minutes. a2 comes: nothing to do, so nobody is told.
    queue.push(&mut ["a2"].map(ordered).into());
    assert_eq!(asked.load(Relaxed), 1);
    // b1 has nothing to do with it.
    queue.push(&mut ["b1"].map(ordered).into());
    assert_eq!(asked.load(Relaxed), 2, "nobody is told of b1");
    let mut second = Batch::default();
    assert!(queue.take(&mut second));
    assert_eq!(payloads(&mut second), ["b1"]);
    assert!(!queue.end_turn());
    first.done(1);
    assert_eq!(asked.load(Relaxed), 3, "nobody is told of a2");
    assert!(queue.take(&mut second));
    assert_eq!(payloads(&mut second), ["a2"]);
}

#[test]
fn however_much_waits_for_a_busy_key_another_one_is_found() {
    let (queue, asked) = queue_by_key();
    let alike = (0..3 * LOOK_AT).map(|n| ordered(&format!("a{n}")));
    queue.push(&mut alike.chain([ordered("b1")]).collect());
    let mut first = Batch::default();
    assert!(queue.take(&mut first));
    let taken = payloads_of(&mut first);
    let mut second = Batch::default();
    while !queue.take(&mut second) {
        assert!(queue.end_turn(), "nobody looks further");
    }
    assert_eq!(payloads(&mut second), ["b1"]);
    assert!(!queue.end_turn());
    // Nobody is told of what has to wait, and the next one is found at once.
    queue.push(&mut ["a"].map(ordered).into());
    assert_eq!(asked.load(Relaxed), 2);
    queue.push(&mut ["c1"].map(ordered).into());
    assert_eq!(asked.load(Relaxed), 3);
    assert!(queue.take(&mut second));
    assert_eq!(payloads(&mut second), ["c1"]);
    assert!(!queue.end_turn());
    first.done(taken.len());
    assert_eq!(asked.load(Relaxed), 4);
    assert!(queue.take(&mut second));
    assert_eq!(payloads(&mut second)[0], format!("a{}", taken.len()));
}

/// The same as `payloads`, still in hand.
fn payloads_of(batch: &mut Batch) -> Vec<String> {
    batch.drain().map(|r| String::from_utf8(r.message.payload).unwrap()).collect()
}

/// A queue for one worker, and how often it asked for a turn.
fn queue_for_one() -> (Arc<Queue>, Arc<AtomicUsize>) {
    let queue = queue_of(1 << 20, Overflow::DropOldest, &Budget::new(usize::MAX));
    let asked = counted_turns(&queue);
    (queue, asked)
}

#[test]
fn what_is_held_back_waits_and_what_was_there_before_does_not() {
    let (queue, asked) = queue_for_one();
    let mut batch = Batch::default();
    queue.push(&mut ["a", "b"].map(received).into());
    queue.hold(1);
    queue.push(&mut ["c"].map(received).into());
    assert!(queue.take(&mut batch));
    assert_eq!(payloads(&mut batch), ["a", "b"]);
    assert!(!queue.end_turn());
    queue.push(&mut ["d"].map(received).into());
    assert_eq!(asked.load(Relaxed), 1);
    assert!(!queue.take(&mut batch));
    // Held twice, at two places: each is released by itself.
    queue.hold(2);
    queue.push(&mut ["e"].map(received).into());
    queue.release_held(1);
    assert_eq!(asked.load(Relaxed), 2);
    assert!(queue.take(&mut batch));
    assert_eq!(payloads(&mut batch), ["c", "d"]);
    assert!(!queue.end_turn());
    queue.release_held(2);
    assert_eq!(asked.load(Relaxed), 3);
    assert!(queue.take(&mut batch));
    assert_eq!(payloads(&mut batch), ["e"]);
}

#[test]
fn a_mark_is_passed_when_what_was_before_it_is_done_with() {
    let (queue, _) = queue_for_one();
    let passed = Arc::new(AtomicUsize::new(0));
    let mark = || {
        let passed = passed.clone();
        queue.when_passed(1, move || {
            passed.fetch_add(1, Relaxed);
        });
    };
    mark();
    assert_eq!(passed.load(Relaxed), 1, "nothing was before it");
    queue.push(&mut ["a"].map(received).into());
    mark();
    queue.push(&mut ["b"].map(received).into());
    let mut batch = Batch::default();
    assert!(queue.take(&mut batch));
    let taken: Vec<Received> = batch.drain().collect();
    assert_eq!(passed.load(Relaxed), 1, "it is in hand");
    batch.put_back(taken, None);
    assert!(queue.end_turn());
    assert_eq!(passed.load(Relaxed), 1, "it waits again");
    assert!(queue.take(&mut batch));
    assert_eq!(payloads(&mut batch), ["a", "b"]);
    assert!(!queue.end_turn());
    assert_eq!(passed.load(Relaxed), 2);
}

#[test]
fn with_order_by_a_mark_waits_for_each_that_was_before_it() {
    let (queue, _) = queue_by_key();
    let passed = Arc::new(AtomicUsize::new(0));
    let counted = passed.clone();
    queue.push(&mut ["a1", "b1"].map(ordered).into());
    let (mut first, mut second) = (Batch::default(), Batch::default());
    assert!(queue.take(&mut first));
    assert!(queue.take(&mut second));
    queue.push(&mut ["a2"].map(ordered).into());
    queue.when_passed(1, move || {
        counted.fetch_add(1, Relaxed);
    });
    queue.push(&mut ["c1", "d1"].map(ordered).into());
    // As many as were before it are done with or in hand; a2 isn't among them.
    assert_eq!(payloads(&mut second), ["b1"]);
    assert!(queue.take(&mut second));
    assert_eq!(payloads(&mut second), ["c1"]);
    assert!(queue.end_turn());
    assert_eq!(passed.load(Relaxed), 0, "a1 is in hand, a2 waits");
    assert_eq!(payloads(&mut first), ["a1"]);
    assert!(queue.take(&mut first));
    assert_eq!(payloads_of(&mut first), ["a2"]);
    assert!(queue.take(&mut second));
    assert_eq!(payloads(&mut second), ["d1"]);
    assert!(!queue.end_turn());
    assert_eq!(passed.load(Relaxed), 0, "a2 is in hand");
    first.done(1);
    queue.end_turn();
    assert_eq!(passed.load(Relaxed), 1);
}

#[test]
fn with_order_by_what_was_let_in_before_a_drop_is_waited_for_by_its_own_number() {
    let queue = queue_by_key_that(Overflow::DropNewest);
    queue.push(&mut ["b1", "b2", "c1"].map(ordered).into());
    let (mut first, mut second) = (Batch::default(), Batch::default());
    assert!(queue.take(&mut first));
    assert_eq!(payloads_of(&mut first), ["b1"]);
    assert!(queue.take(&mut second));
    assert_eq!(payloads_of(&mut second), ["c1"]);
    // The newest that waits is older than one that is in hand.
    Holder::shed(&*queue, 1);
    assert_eq!(queue.metrics().dropped(DropReason::Memory), 1);
    let passed = Arc::new(AtomicUsize::new(0));
    let counted = passed.clone();
    queue.when_passed(1, move || {
        counted.fetch_add(1, Relaxed);
    });
    first.done(1);
    queue.end_turn();
    assert_eq!(passed.load(Relaxed), 0, "c1 is in hand");
    second.done(1);
    queue.end_turn();
    assert_eq!(passed.load(Relaxed), 1);
}

#[test]
fn what_is_in_hand_by_other_rules_is_waited_for() {
    let (queue, _) = queue_by_key();
    queue.push(&mut ["a1", "b1"].map(ordered).into());
    let (mut first, mut second) = (Batch::default(), Batch::default());
    assert!(queue.take(&mut first));
    assert!(queue.take(&mut second));
    let taken = [payloads_of(&mut first), payloads_of(&mut second)];
    assert_eq!(taken, [["a1"], ["b1"]]);
    // In order, too, but by no key any more.
    queue.adopt(Rules { limit: usize::MAX / 2, ..Rules::of_stream(1) });
    let passed = Arc::new(AtomicUsize::new(0));
    let counted = passed.clone();
    queue.when_passed(1, move || {
        counted.fetch_add(1, Relaxed);
    });
    second.done(1);
    assert!(!queue.end_turn());
    assert_eq!(passed.load(Relaxed), 0, "a1 is in hand");
    first.done(1);
    assert!(!queue.end_turn());
    assert_eq!(passed.load(Relaxed), 1);
}

#[test]
fn what_is_dropped_is_not_waited_for() {
    let budget = Budget::new(usize::MAX);
    let queue = queue_of(2, Overflow::DropNewest, &budget);
    queue.push(&mut ["a", "b", "c"].map(received).into());
    let passed = Arc::new(AtomicUsize::new(0));
    let counted = passed.clone();
    queue.when_passed(1, move || {
        counted.fetch_add(1, Relaxed);
    });
    queue.shed(1);
    let mut batch = Batch::default();
    assert!(queue.take(&mut batch));
    assert_eq!(payloads(&mut batch), ["a"]);
    queue.push(&mut ["d"].map(received).into());
    queue.end_turn();
    assert_eq!(passed.load(Relaxed), 1);
}

#[test]
fn other_rules_are_those_of_what_waits_already() {
    let (queue, asked) = queue_by_key();
    queue.push(&mut ["a1", "a2"].map(ordered).into());
    let mut batch = Batch::default();
    assert!(queue.take(&mut batch));
    assert_eq!(payloads(&mut batch).len(), 1);
    let mut rules = Rules::of_stream(1);
    rules.limit = received("x").footprint();
    rules.overflow = Overflow::DropOldest;
    queue.adopt(rules);
    queue.push(&mut ["b"].map(received).into());
    assert_eq!(queue.metrics().dropped(DropReason::Overflow), 1);
    // Two turns were asked for, and now there may be one.
    assert_eq!(asked.load(Relaxed), 2);
    assert!(!queue.end_turn());
    assert!(queue.end_turn());
    assert!(queue.take(&mut batch));
    assert_eq!(payloads(&mut batch), ["b"]);
}

#[tokio::test]
async fn a_closed_queue_has_ended_when_the_last_turn_is_over() {
    let (queue, _) = queue_for_one();
    queue.push(&mut ["a"].map(received).into());
    queue.close();
    let mut batch = Batch::default();
    assert!(queue.take(&mut batch));
    let ended = tokio::spawn({
        let queue = queue.clone();
        async move { queue.ended().await }
    });
    payloads(&mut batch);
    tokio::task::yield_now().await;
    assert!(!ended.is_finished(), "the turn is not over");
    assert!(!queue.end_turn());
    tokio::time::timeout(Duration::from_secs(60), ended).await.expect("it has").expect("no panic");
}

#[test]
fn what_is_put_back_waits_again_and_the_accounts_are_exact() {
    let (queue, asked) = queue_by_key();
    let budget = queue.budget.clone();
    queue.push(&mut ["a1", "b1", "a2", "c1", "c2", "c3"].map(ordered).into());
    let (all, size) = (budget.used(), ordered("a1").footprint());
    assert_eq!(all, 6 * size);
    let mut first = Batch::default();
    assert!(queue.take(&mut first));
    let mut taken: Vec<Received> = first.drain().collect();
    assert_eq!(taken.len(), 3);
    // a1 is tried again; b1 and a2 need not be in its batch.
    let kept = taken.remove(0);
    first.put_back(taken, Some(kept.order));
    assert_eq!((first.bytes(), queue.bytes(), budget.used()), (size, 5 * size, all));
    assert!(!first.is_done());
    assert_eq!(asked.load(Relaxed), 2);
    // They are before all others; a2 waits for a1.
    let mut second = Batch::default();
    let mut seen = Vec::new();
    while queue.take(&mut second) {
        seen.extend(payloads(&mut second));
    }
    assert_eq!(seen, ["b1", "c1", "c2", "c3"]);
    assert_eq!((queue.bytes(), budget.used()), (size, 2 * size));
    first.done(1);
    assert!(first.is_done());
    assert!(queue.take(&mut second));
    assert_eq!(payloads(&mut second), ["a2"]);
    assert_eq!((queue.bytes(), budget.used()), (0, 0));
}

#[test]
fn what_is_put_back_into_a_stream_that_is_closed_goes_back_to_it() {
    let queue = Queue::of_stream(2, Arc::default());
    queue.push(&mut ["a", "b", "c"].map(received).into());
    let mut batch = Batch::default();
    assert!(queue.take(&mut batch));
    let mut taken: Vec<Received> = batch.drain().collect();
    queue.close();
    let kept = taken.remove(0);
    batch.put_back(taken, Some(kept.order));
    assert_eq!((queue.bytes(), queue.budget.used()), (0, kept.footprint()));
    batch.done(1);
    assert_eq!(queue.budget.used(), 0);
    assert_eq!(queue.metrics().dropped(DropReason::Shutdown), 0);
}

#[test]
fn who_waits_for_a_queue_that_is_held_back_waits_for_that_too() {
    let (queue, _) = queue_for_one();
    let passed = Arc::new(AtomicUsize::new(0));
    let mark = |exchange| {
        let passed = passed.clone();
        queue.when_passed(exchange, move || {
            passed.fetch_add(1, Relaxed);
        });
    };
    queue.hold(1);
    // Of the same exchange: two channels that take names over from each other don't wait in a circle.
    mark(1);
    assert_eq!(passed.load(Relaxed), 1);
    mark(2);
    assert_eq!(passed.load(Relaxed), 1);
    queue.release_held(1);
    assert_eq!(passed.load(Relaxed), 2);
}

#[tokio::test]
async fn what_is_shed_is_not_waited_for() {
    let (queue, _) = queue_for_one();
    queue.push(&mut ["a"].map(received).into());
    queue.end_turn();
    queue.hold(1);
    queue.push(&mut ["b"].map(received).into());
    let passed = Arc::new(AtomicUsize::new(0));
    let counted = passed.clone();
    let mut batch = Batch::default();
    assert!(queue.take(&mut batch));
    payloads(&mut batch);
    assert!(!queue.end_turn());
    queue.when_passed(1, move || {
        counted.fetch_add(1, Relaxed);
    });
    queue.close();
    queue.shed(1);
    assert_eq!(passed.load(Relaxed), 1);
    queue.ended().await;
}
