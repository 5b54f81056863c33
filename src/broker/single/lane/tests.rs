//! What is held, and where it is counted.

use super::*;
use crate::broker::stream::Finish;
use crate::config::Overflow;
use crate::message::{Delivery, Message};
use crate::queue::Budget;

fn delivery() -> Arc<Delivery> {
    Arc::new(Delivery {
        table: "orders".into(),
        redis_channel: "in".into(),
        pattern: None,
        id: None,
        attempt: 1,
        received_at: 0,
    })
}

/// A message as the subscription takes it.
fn arrived(lane: &Arc<Lane>) -> Received {
    let entry = Some(lane.arrives(None).expect("it is taken"));
    Received { message: Message::new("x"), delivery: delivery(), entry, order: 0, number: 0 }
}

fn size() -> usize {
    Received { message: Message::new("x"), delivery: delivery(), entry: None, order: 0, number: 0 }
        .footprint()
}

/// One that stands by, with room for as many as there are, and its queue.
fn standby(budget: &Arc<Budget>) -> (Arc<Lane>, Arc<Queue>) {
    standby_of(budget, Arc::default())
}

fn standby_of(budget: &Arc<Budget>, metrics: Arc<ChannelMetrics>) -> (Arc<Lane>, Arc<Queue>) {
    let (lane, queue) = unattached(budget, metrics);
    lane.attach();
    (lane, queue)
}

fn unattached(budget: &Arc<Budget>, metrics: Arc<ChannelMetrics>) -> (Arc<Lane>, Arc<Queue>) {
    let source = Source::Subscribe(vec!["in".into()]);
    let away = Box::new(|| false);
    let queue = Queue::new(1, usize::MAX, Overflow::DropOldest, budget, metrics, away);
    let lane = Lane::new(&"orders".into(), &source, usize::MAX, queue.clone());
    (lane, queue)
}

#[test]
fn what_is_held_is_in_the_budget_and_the_oldest_go() {
    let budget = Budget::new(10 * size());
    let (lane, queue) = standby(&budget);
    let (other, _) = standby(&budget);
    other.push(&mut (0..3).map(|_| arrived(&other)).collect());
    lane.push(&mut (0..20).map(|_| arrived(&lane)).collect());
    // The fullest gives up, and that isn't a loss yet: another may have handled it.
    assert_eq!((Holder::bytes(&*lane), budget.used()), (7 * size(), 10 * size()));
    assert_eq!((Holder::bytes(&*other), queue.metrics().ended()), (3 * size(), 0));
    lane.take(None, Some(std::time::Duration::ZERO), None);
    assert_eq!((Holder::bytes(&*lane), queue.bytes()), (0, 7 * size()));
    assert_eq!(queue.metrics().dropped(DropReason::Memory), 13);
    assert_eq!((queue.metrics().received.get(), budget.used()), (20, 10 * size()));
    // Held again, and it still counts once.
    lane.demote(&mut Vec::new());
    assert_eq!((Holder::bytes(&*lane), queue.bytes()), (7 * size(), 0));
    assert_eq!(budget.used(), 10 * size());
    budget.set_limit(5 * size());
    assert!(budget.used() <= 5 * size());
}

#[test]
fn a_channel_that_ends_holds_nothing_any_more() {
    let budget = Budget::new(usize::MAX);
    let (lane, queue) = standby(&budget);
    lane.push(&mut (0..20).map(|_| arrived(&lane)).collect());
    assert_eq!(budget.used(), 20 * size());
    let gone = Arc::downgrade(&lane);
    lane.close();
    assert!(lane.is_undecided() && budget.used() > 0, "it may be nobody's");
    lane.leave_all();
    assert!(lane.is_settled());
    assert_eq!(budget.used(), 0);
    drop(lane);
    drop(queue);
    assert_eq!(gone.strong_count(), 0);
}

#[test]
fn the_end_of_a_channel_does_not_hide_that_another_of_its_name_leads() {
    let (budget, metrics) = (Budget::new(usize::MAX), Arc::<ChannelMetrics>::default());
    let (old, _) = standby_of(&budget, metrics.clone());
    let (new, _) = standby_of(&budget, metrics.clone());
    [&old, &new].into_iter().for_each(|lane| lane.push(&mut vec![arrived(lane)]));
    old.take(None, Some(std::time::Duration::ZERO), None);
    assert!(metrics.single.is_leader());
    new.take(None, Some(std::time::Duration::ZERO), None);
    old.demote(&mut Vec::new());
    assert!(metrics.single.is_leader());
    new.demote(&mut Vec::new());
    assert!(!metrics.single.is_leader());
    assert_eq!(metrics.single.takeovers.get(), 2);
}

#[test]
fn what_comes_after_a_subscription_that_was_dead_is_not_taken_for_what_it_missed() {
    let budget = Budget::new(usize::MAX);
    let (lane, _queue) = standby(&budget);
    lane.push(&mut vec![arrived(&lane)]);
    lane.heard(b"life 1");
    assert!(lane.may_lead());
    // Another handles messages that don't come here.
    let source = fingerprint(&Source::Subscribe(vec!["in".into()]));
    lane.follow(Some(&format!("{source} mark life 1 100")));
    assert!(!lane.may_lead() && !lane.state().is_ready);
    // That is noticed.
    lane.cut();
    lane.push(&mut (0..3).map(|_| arrived(&lane)).collect());
    lane.heard(b"life 2");
    assert_eq!(Holder::bytes(&*lane), 3 * size());
    lane.follow(Some(&format!("{source} mark life 2 -1")));
    assert_eq!(Holder::bytes(&*lane), size());
    assert!(lane.may_lead() && lane.state().is_ready);
}

#[test]
fn what_a_leader_missed_whose_subscription_was_dead_is_a_gap() {
    let budget = Budget::new(usize::MAX);
    let (lane, queue) = standby(&budget);
    lane.push(&mut vec![arrived(&lane)]);
    lane.heard(b"life 1");
    let source = fingerprint(&Source::Subscribe(vec!["in".into()]));
    let place = format!("{source} mark life 1 100");
    let take = |gaps| {
        lane.take(Some(place.clone()), Some(std::time::Duration::ZERO), None);
        assert_eq!(queue.metrics().single.gaps.get(), gaps);
    };
    take(0);
    lane.cut();
    lane.released();
    lane.push(&mut vec![arrived(&lane)]);
    take(1);
    assert_eq!(queue.bytes(), size());
}

#[test]
fn what_comes_in_a_life_of_the_data_without_a_place_was_handled_by_nobody() {
    let now = Some(std::time::Duration::ZERO);
    for (looked_at, unwritten, handed_on) in [
        (Some("new"), Some("new"), 5),
        (Some("new"), Some("other"), 0),
        (Some("new"), None, 0),
        (None, Some("new"), 0),
    ] {
        let (lane, queue) = standby(&Budget::new(usize::MAX));
        lane.heard(b"old 1");
        lane.take(None, now, None);
        lane.push(&mut (0..4).map(|_| arrived(&lane)).collect());
        handle(&queue, 3);
        lane.finished(lane.place(1), 1);
        // Redis is gone, and with it whether the second and the third were written.
        lane.cut();
        lane.look_unwritten(looked_at);
        lane.push(&mut (0..2).map(|_| arrived(&lane)).collect());
        lane.demote(&mut Vec::new());
        lane.take(None, now, unwritten.map(str::to_owned));
        // Others are to be able to tell where it begins.
        assert_eq!(queue.bytes(), 0);
        lane.marked(Mark::parse("new 1").expect("a mark"));
        lane.push(&mut (0..3).map(|_| arrived(&lane)).collect());
        lane.heard(b"new 1");
        assert_eq!(queue.bytes(), handed_on * size(), "{looked_at:?} {unwritten:?}");
        assert_eq!(queue.metrics().dropped(DropReason::Unknown), 3 + (5 - handed_on as u64));
        assert_eq!(queue.metrics().received.get(), 9);
    }
}

#[test]
fn what_comes_when_nothing_older_is_on_its_way_is_behind_the_place_that_is_stored() {
    let source = fingerprint(&Source::Subscribe(vec!["in".into()]));
    let place = |number| format!("{source} mark life 1 {number}");
    for (has_passed, stored, handed_on) in [(true, 7, 3), (true, 8, 0), (false, 7, 0)] {
        let (lane, queue) = unattached(&Budget::new(usize::MAX), Arc::default());
        lane.follow(Some(&place(7)));
        if has_passed {
            lane.has_passed();
            // What was handled up to there may be on its way again.
            lane.follow(Some(&place(8)));
        }
        // The names were subscribed to before, for another channel.
        lane.attach();
        lane.push(&mut (0..3).map(|_| arrived(&lane)).collect());
        lane.heard(b"life 2");
        lane.take(Some(place(stored)), Some(std::time::Duration::ZERO), None);
        assert_eq!(queue.bytes(), handed_on * size(), "{has_passed} {stored}");
    }
}

/// As a worker that has handled so many.
fn handle(queue: &Arc<Queue>, messages: usize) {
    let mut batch = crate::queue::Batch::default();
    assert!(queue.take(&mut batch));
    let mut taken: Vec<Received> = batch.drain().collect();
    let left = taken.split_off(messages);
    for message in taken {
        message.entry.expect("a ticket").finish(Finish::new());
        batch.done(1);
    }
    batch.put_back(left, None);
    queue.end_turn();
}

#[test]
fn what_is_led_again_was_received_once_and_what_is_in_line_is_not_lost() {
    let budget = Budget::new(usize::MAX);
    let (lane, queue) = standby(&budget);
    lane.heard(b"life 1");
    lane.take(None, Some(std::time::Duration::ZERO), None);
    lane.push(&mut (0..10).map(|_| arrived(&lane)).collect());
    handle(&queue, 3);
    assert_eq!(queue.bytes(), 7 * size());
    lane.demote(&mut Vec::new());
    lane.push(&mut (0..2).map(|_| arrived(&lane)).collect());
    // Of nine that are held five have no room.
    lane.set_hold(4 * size());
    lane.take(None, Some(std::time::Duration::ZERO), None);
    assert_eq!(queue.bytes(), 4 * size());
    assert_eq!(queue.metrics().dropped(DropReason::Overflow), 5);
    assert_eq!(queue.metrics().received.get(), 12);
}

#[test]
fn what_came_in_one_read_with_the_mark_that_is_gone_on_from_is_counted() {
    let budget = Budget::new(usize::MAX);
    let (lane, queue) = standby(&budget);
    let mut read: Vec<Received> = (0..2).map(|_| arrived(&lane)).collect();
    lane.push(&mut read);
    lane.take(Some("nobody can read it".into()), Some(std::time::Duration::ZERO), None);
    lane.marked(Mark::parse("life 1").expect("a mark"));
    read = (0..3).map(|_| arrived(&lane)).collect();
    lane.heard(b"life 1");
    read.extend((0..4).map(|_| arrived(&lane)));
    lane.push(&mut read);
    assert_eq!(queue.bytes(), 4 * size());
    assert_eq!(queue.metrics().dropped(DropReason::Unknown), 5);
    assert_eq!(queue.metrics().received.get(), 9);
}

#[test]
fn who_leaves_does_not_tell_its_place_by_a_mark_behind_what_it_missed() {
    let budget = Budget::new(usize::MAX);
    let (lane, queue) = standby(&budget);
    lane.heard(b"life 1");
    lane.take(None, None, None);
    lane.push(&mut vec![arrived(&lane)]);
    let mut flight = Vec::new();
    lane.take_line(&mut flight, 10, usize::MAX);
    assert_eq!(flight.len(), 1, "where it begins");
    lane.finished(lane.place(0), 0);
    flight.clear();
    // Its turn isn't over when the message is done with.
    let mut batch = crate::queue::Batch::default();
    assert!(queue.take(&mut batch));
    let message = batch.drain().next().expect("a message");
    message.entry.expect("a ticket").finish(Finish::new());
    lane.take_line(&mut flight, 10, usize::MAX);
    assert_eq!(flight.len(), 1);
    let place = lane.place(1);
    assert!(place.ends_with(" mark life 1 1"), "{place}");
    lane.finished(place, 1);
    flight.clear();
    lane.cut();
    assert!(!lane.may_release());
    lane.heard(b"life 2");
    lane.take_line(&mut flight, 10, usize::MAX);
    assert_eq!(flight.first().and_then(|item| item.place.clone()), None);
    batch.done(1);
    drop(batch);
    queue.end_turn();
    assert!(lane.may_release());
}

#[test]
fn what_is_handled_when_its_keeper_has_ended_is_counted_as_left() {
    let budget = Budget::new(usize::MAX);
    let (lane, queue) = standby(&budget);
    lane.heard(b"life 1");
    lane.take(None, None, None);
    lane.push(&mut (0..3).map(|_| arrived(&lane)).collect());
    let mut batch = crate::queue::Batch::default();
    assert!(queue.take(&mut batch));
    let mut messages: Vec<Received> = batch.drain().collect();
    messages.pop().and_then(|message| message.entry).expect("a ticket").finish(Finish::new());
    lane.demote(&mut Vec::new());
    lane.leave_all();
    assert_eq!(queue.metrics().single.left.get(), 1);
    let entries = messages.into_iter().filter_map(|message| message.entry);
    entries.for_each(|entry| entry.finish(Finish::new()));
    batch.done(3);
    assert_eq!(queue.metrics().received.get(), 3);
    assert_eq!(queue.metrics().single.left.get(), 3);
}

#[test]
fn what_is_held_again_is_counted_when_the_channel_ends_before_it_is_known_where_to_go_on() {
    let budget = Budget::new(usize::MAX);
    let (lane, queue) = standby(&budget);
    lane.heard(b"life 1");
    lane.take(None, None, None);
    lane.push(&mut (0..3).map(|_| arrived(&lane)).collect());
    lane.demote(&mut Vec::new());
    lane.take(Some("nobody can read it".into()), None, None);
    assert!(lane.is_taking());
    lane.close();
    assert_eq!(queue.metrics().received.get(), 3);
    assert_eq!(queue.metrics().dropped(DropReason::Unknown), 3);
    assert_eq!(queue.metrics().single.left.get(), 0);
}

#[test]
fn who_leaves_tells_since_when_it_may_have_missed_something() {
    let budget = Budget::new(usize::MAX);
    let (lane, queue) = standby(&budget);
    lane.heard(b"life 1");
    lane.take(None, None, None);
    lane.push(&mut (0..3).map(|_| arrived(&lane)).collect());
    handle(&queue, 3);
    assert_eq!(lane.lag(3), std::time::Duration::ZERO);
    lane.cut();
    let since = std::time::Instant::now();
    std::thread::sleep(std::time::Duration::from_millis(2));
    let least = since.elapsed();
    assert!(lane.lag(3) >= least, "all that came here is done");
    std::thread::sleep(std::time::Duration::from_millis(2));
    lane.push(&mut vec![arrived(&lane)]);
    let least = since.elapsed();
    assert!(lane.lag(3) >= least, "more comes since");
}

#[test]
fn when_redis_goes_back_in_time_what_had_no_room_and_was_done_is_not_lost() {
    let budget = Budget::new(usize::MAX);
    let (lane, queue) = standby(&budget);
    lane.heard(b"life 1");
    lane.set_hold(4 * size());
    lane.push(&mut (0..10).map(|_| arrived(&lane)).collect());
    let source = fingerprint(&Source::Subscribe(vec!["in".into()]));
    let place = |number| Some(format!("{source} mark life 1 {number}"));
    lane.follow(place(8).as_deref());
    lane.take(place(3), None, None);
    assert_eq!(queue.bytes(), 2 * size());
    assert_eq!(queue.metrics().received.get(), 2);
    assert_eq!(queue.metrics().ended(), 0, "nothing is lost");
}
