//! Which message is which, as several daemons tell each other.

use super::place::{At, Mark, NoPlace, Place};
use super::track::{Found, Track};

fn mark(number: u64) -> Mark {
    Mark { life: "life".into(), number }
}

/// One that has been subscribed all the time.
fn open(token: &str) -> Track {
    let mut track = Track::new("source", token);
    track.open();
    track
}

fn count(track: &mut Track, messages: u64) {
    (0..messages).for_each(|_| {
        track.count();
    });
}

fn behind(number: u64) -> Found {
    Found::Behind { done: number, number, gap: false }
}

fn gap(number: u64) -> Found {
    Found::Behind { done: number, number, gap: true }
}

/// It can't be told of what came between these.
fn unsure(done: u64, number: u64) -> Found {
    Found::Behind { done, number, gap: true }
}

#[test]
fn a_place_is_read_as_it_is_written() {
    for (text, at) in [
        ("s mark life 7 12", At::Marked(mark(7), 12, None)),
        ("s mark life 7 -3", At::Marked(mark(7), -3, None)),
        ("s mark life 7 1 life 9 -5", At::Marked(mark(7), 1, Some((mark(9), -5)))),
        ("s own token 9", At::Own("token".into(), 9)),
    ] {
        let place = Place { source: "s".into(), at };
        assert_eq!(text.parse().as_ref(), Ok(&place), "{text}");
        assert_eq!(place.to_string(), text);
    }
    for text in [
        "",
        "s",
        "s mark",
        "s mark life 7 1 life",
        "s mark life 7",
        "s mark life x 1",
        "s own t -1",
        "s own t 1 2",
    ] {
        assert_eq!(text.parse::<Place>(), Err(NoPlace), "{text}");
    }
    assert_eq!(Mark::parse("life 7"), Some(mark(7)));
    assert_eq!(["free", "", "life", " 7", "life x"].map(Mark::parse), [const { None }; 5]);
}

#[test]
fn what_one_calls_a_message_the_other_finds() {
    let (mut leader, mut standby) = (open("a"), open("b"));
    // Subscribed at different times, so each has numbers of its own.
    count(&mut leader, 10);
    for track in [&mut leader, &mut standby] {
        track.mark(mark(1));
        count(track, 5);
        track.mark(mark(2));
        count(track, 5);
    }
    for (leaders, standbys) in [(11, 1), (15, 5), (16, 6), (20, 10)] {
        let place = leader.place(leaders);
        assert_eq!(standby.find(Some(&place)), behind(standbys), "{place}");
        assert_eq!(leader.find(Some(&place)), behind(leaders), "{place}");
    }
    // One that the standby hasn't got yet, though Redis has sent it.
    count(&mut leader, 3);
    assert_eq!(standby.find(Some(&leader.place(23))), behind(13));
    // Before the standby was there: nothing that it holds was handled.
    assert_eq!(standby.find(Some(&leader.place(10))), behind(0));
    assert_eq!(standby.find(Some(&leader.place(7))), gap(0));
}

#[test]
fn who_comes_later_is_sure_from_its_first_mark_on() {
    let (mut leader, mut late) = (open("a"), open("b"));
    leader.mark(mark(1));
    count(&mut leader, 5);
    // Between its subscription and its mark.
    count(&mut leader, 2);
    count(&mut late, 2);
    let place = leader.place(4);
    assert_eq!(late.find(Some(&place)), Found::Later);
    leader.mark(mark(2));
    late.mark(mark(2));
    assert_eq!(late.find(Some(&place)), unsure(0, 2));
    // By a mark that both know it can be told.
    assert_eq!(late.find(Some(&leader.place(4))), gap(0));
    assert_eq!(late.find(Some(&leader.place(6))), behind(1));
    count(&mut leader, 4);
    count(&mut late, 4);
    assert_eq!(late.find(Some(&place)), unsure(0, 2));
    assert_eq!(late.find(Some(&leader.place(9))), behind(4));
}

#[test]
fn what_a_hole_may_have_had_is_a_gap() {
    let (mut leader, mut standby) = (open("a"), open("b"));
    for track in [&mut leader, &mut standby] {
        track.mark(mark(1));
        count(track, 10);
    }
    standby.close();
    assert!(!standby.is_open());
    count(&mut leader, 5);
    standby.open();
    leader.mark(mark(2));
    standby.mark(mark(2));
    count(&mut leader, 5);
    count(&mut standby, 5);
    // Before the hole, in it, behind it.
    assert_eq!(standby.find(Some(&leader.place(8))), gap(8));
    assert_eq!(standby.find(Some(&leader.place(12))), gap(10));
    assert_eq!(standby.find(Some(&leader.place(17))), behind(12));
    standby.forget(12);
    assert_eq!(standby.find(Some(&leader.place(18))), behind(13));
    // Nothing was published in a hole: the mark behind it tells so.
    let place = leader.place(20);
    standby.close();
    standby.open();
    assert_eq!(standby.find(Some(&place)), gap(15));
    leader.mark(mark(3));
    standby.mark(mark(3));
    assert_eq!(standby.find(Some(&leader.place(20))), behind(15));
}

#[test]
fn a_place_in_a_hole_without_a_mark_behind_it_waits_for_one() {
    let (mut leader, mut standby) = (open("a"), open("b"));
    leader.mark(mark(1));
    standby.mark(mark(1));
    standby.close();
    standby.open();
    count(&mut leader, 3);
    count(&mut standby, 1);
    let place = leader.place(2);
    assert_eq!(standby.find(Some(&place)), Found::Later);
    standby.mark(mark(2));
    assert_eq!(standby.find(Some(&place)), unsure(0, 1));
    // It is told by the later mark, too, when the leader has heard it.
    leader.mark(mark(2));
    assert_eq!(standby.find(Some(&leader.place(3))), behind(1));
    assert_eq!(standby.find(Some(&leader.place(2))), behind(0));
}

#[test]
fn one_that_saw_no_mark_is_understood_by_itself_only() {
    let (mut alone, mut other) = (open("a"), open("b"));
    count(&mut alone, 3);
    count(&mut other, 3);
    let place = alone.place(2);
    assert_eq!(alone.find(Some(&place)), behind(2));
    other.mark(mark(1));
    assert_eq!(other.find(Some(&place)), Found::Unknown);
    // With a mark it can be told to all, for what came before it too.
    alone.mark(mark(1));
    assert_eq!(other.find(Some(&alone.place(2))), behind(2));
}

#[test]
fn what_nobody_can_read_is_unknown() {
    let mut track = open("a");
    track.mark(mark(1));
    count(&mut track, 3);
    // Nothing was ever stored: everything that came is to be handled.
    assert_eq!(track.find(None), behind(0));
    let other = track.place(2).replace("source", "elsewhere");
    assert_eq!(track.find(Some(&other)), Found::Unknown);
    assert_eq!(track.find(Some("nonsense")), Found::Unknown);
    // Redis has lost its data.
    track.set_known(Some(track.place(3)), 3);
    assert_eq!(track.find(None), Found::Unknown);
    // Seen by one that knew of no place.
    let mut late = open("b");
    late.mark(mark(1));
    late.close();
    late.open();
    assert_eq!(late.find(None), gap(0));
    late.mark(Mark { life: "new".into(), number: 1 });
    assert_eq!(late.find(None), Found::Unknown);
    // Of another life of it: a mark of that has to come.
    let later = track.place(2).replace("life", "new");
    assert_eq!(track.find(Some(&later)), Found::Later);
}

#[test]
fn what_was_subscribed_to_after_the_last_place_was_stored_is_behind_it() {
    let mut leader = open("a");
    leader.mark(mark(1));
    count(&mut leader, 3);
    let place = leader.place(3);
    let mut late = Track::new("source", "b");
    late.look_before(Some(&place));
    late.open();
    count(&mut late, 2);
    assert_eq!(late.find(Some(&place)), gap(0));
    late.mark(mark(2));
    assert_eq!(late.find(Some(&place)), gap(0));
    // Somebody has gone on meanwhile.
    assert_eq!(late.find(Some(&leader.place(2))), unsure(0, 2));
    let mut doubtful = Track::new("source", "b");
    doubtful.look_before(Some(&place));
    doubtful.doubt();
    doubtful.open();
    assert_eq!(doubtful.find(Some(&place)), Found::Later);
}

#[test]
fn what_is_forgotten_is_not_needed() {
    let mut track = open("a");
    for number in 1..=1_000 {
        track.mark(mark(number));
        count(&mut track, 2);
        let before = track.place(2 * number - 1);
        track.forget(2 * number - 1);
        assert_eq!(track.find(Some(&before)), behind(2 * number - 1));
    }
    assert_eq!(track.find(Some(&track.place(2_000))), behind(2_000));
    assert_eq!(track.before(&mark(1)), None);
    assert_eq!(track.before(&mark(1_000)), Some(1_998));
}

#[test]
fn many_marks_without_a_message_take_no_more_and_more_memory() {
    let [mut leader, mut other] = [open("a"), open("b")];
    for number in 1..=10_000 {
        [&mut leader, &mut other].into_iter().for_each(|track| track.mark(mark(number)));
        if number % 2_500 == 1 {
            [&mut leader, &mut other].into_iter().for_each(|track| count(track, 1));
        }
        assert!(leader.marks() <= 1_000);
    }
    for number in 1..=4 {
        assert_eq!(other.find(Some(&leader.place(number))), behind(number));
    }
    // One that is forgotten tells less, and nothing wrong.
    assert_eq!(other.find(Some("source mark life 7000 1")), unsure(0, 4));
}
