//! What no case beside the plugin can say, since each has one message: what becomes of the next.

use handlerd_plugin::config::Settings;
use handlerd_plugin::{Failure, Message};

use crate::settings::throttle;
use crate::throttle::Throttle;

fn settings(pairs: &[(&str, &str)]) -> Settings {
    pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn made(pairs: &[(&str, &str)]) -> Throttle {
    throttle(settings(pairs)).unwrap()
}

/// Whether an empty message on this channel passes.
fn passes(throttle: &mut Throttle, channel: &str, now: u64) -> bool {
    !throttle.handle(channel, Message::new(""), now).unwrap().is_empty()
}

#[test]
fn so_many_pass_in_any_span_of_the_time() {
    let mut throttle = made(&[("limit", "2"), ("per", "10s")]);
    let came = [0, 4_000, 9_999, 10_000, 13_999, 14_000, 19_999, 20_000];
    let passed: Vec<_> = came.into_iter().filter(|now| passes(&mut throttle, "a", *now)).collect();
    assert_eq!(passed, [0, 4_000, 10_000, 14_000, 20_000]);
}

#[test]
fn what_is_refused_is_not_counted() {
    let mut throttle = made(&[("limit", "1"), ("per", "1s")]);
    assert!(passes(&mut throttle, "a", 0));
    assert!((1..1000).all(|now| !passes(&mut throttle, "a", now)));
    assert!(passes(&mut throttle, "a", 1000));
}

#[test]
fn each_key_is_counted_for_itself() {
    let mut channels = made(&[("limit", "1"), ("per", "1s")]);
    assert!(passes(&mut channels, "a", 0) && passes(&mut channels, "b", 0));
    assert!(!passes(&mut channels, "a", 1) && !passes(&mut channels, "b", 1));

    let mut users = made(&[("limit", "1"), ("per", "1s"), ("key", "/user")]);
    let mut passes =
        |payload: &str| users.handle("a", Message::new(payload), 0).map(|out| out.len());
    assert_eq!(passes(r#"{"user": "ann"}"#).unwrap(), 1);
    assert_eq!(passes(r#"{"user": "bob"}"#).unwrap(), 1);
    assert_eq!(passes(r#"{"user": "ann", "n": 2}"#).unwrap(), 0);
    assert!(matches!(passes("{}"), Err(Failure::Reject(text)) if text.contains("`/user`")));
}

#[test]
fn the_key_that_came_longest_ago_is_forgotten() {
    let mut throttle = made(&[("limit", "1"), ("per", "1h"), ("keys", "2")]);
    assert!(passes(&mut throttle, "a", 0) && passes(&mut throttle, "b", 1));
    // Refused, but it came: b is the older one now.
    assert!(!passes(&mut throttle, "a", 2));
    assert!(passes(&mut throttle, "c", 3));
    assert!(!passes(&mut throttle, "a", 4));
    assert!(passes(&mut throttle, "b", 5));
}

#[test]
fn a_clock_that_is_set_back_stops_nothing() {
    let mut throttle = made(&[("limit", "1"), ("per", "10s")]);
    assert!(passes(&mut throttle, "a", 3_600_000));
    assert!(!passes(&mut throttle, "a", 3_599_000), "one second is as good as none");
    assert!(passes(&mut throttle, "a", 5));
    assert!(!passes(&mut throttle, "a", 6));
}

#[test]
fn what_is_over_the_limit_can_be_rejected() {
    let mut throttle = made(&[("limit", "1"), ("per", "1m"), ("over", "reject")]);
    assert!(passes(&mut throttle, "a", 0));
    let Err(Failure::Reject(reason)) = throttle.handle("a", Message::new(""), 1) else { panic!() };
    assert_eq!(reason, "`a` has had 1 messages within 60000 ms");
}

#[test]
fn a_key_without_bounds_is_refused() {
    let mut throttle = made(&[("limit", "1"), ("per", "1m")]);
    assert!(passes(&mut throttle, &"a".repeat(256), 0));
    let answer = throttle.handle(&"a".repeat(257), Message::new(""), 0);
    assert!(matches!(answer, Err(Failure::Reject(text)) if text.contains("257 bytes")));
}

#[test]
fn a_great_limit_keeps_fewer_keys() {
    assert_eq!(made(&[("limit", "5"), ("per", "1s")]).passed.cap().get(), 10_000);
    assert_eq!(made(&[("limit", "1000"), ("per", "1s")]).passed.cap().get(), 1_000);
}

#[test]
fn an_error_says_what_to_write() {
    let error = |pairs: &[(&str, &str)]| throttle(settings(pairs)).err().unwrap();
    let with = |key, value| error(&[("limit", "5"), ("per", "1s"), (key, value)]);
    assert!(error(&[("limit", "5")]).contains("limit = 5, per = \"10s\""));
    assert!(error(&[("limit", "0"), ("per", "1s")]).contains("`limit` has to be from 1 to"));
    assert!(error(&[("limit", "2000000"), ("per", "1s")]).contains("`limit` has to be from 1 to"));
    assert!(error(&[("limit", "5"), ("per", "0s")]).contains("`per` has to be longer"));
    assert!(error(&[("limit", "5"), ("per", "10")]).contains("`per` has to be a time"));
    assert!(with("keys", "0").contains("`keys` has to be from 1 to 100000, not 0"));
    assert!(with("keys", "100001").contains("`keys` has to be from 1 to 100000"));
    assert!(with("key", "user").contains("`key` has to be \"channel\" or a JSON Pointer"));
    assert!(with("over", "pass").contains("`over` has to be \"drop\" or \"reject\""));
    assert!(with("rate", "1").contains("there is no setting `rate`: there are `limit`, `per`,"));
}
