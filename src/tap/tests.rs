//! Who is shown how much.

use super::*;

#[test]
fn so_many_a_second_and_as_many_at_once_after_a_quiet_one() {
    let start = Instant::now();
    let mut bucket = Bucket { samples: 5.0, filled: start };
    let mut take = |ms, wanted| bucket.take(5.0, wanted, start + Duration::from_millis(ms));
    assert_eq!(take(0, 100), 5);
    assert_eq!(take(100, 100), 0);
    assert_eq!(take(300, 100), 1);
    assert_eq!(take(1300, 2), 2);
    assert_eq!(take(1300, 100), 3);
    assert_eq!(take(60_000, 100), 5);
}

#[test]
fn a_tap_is_the_same_over_a_reload_and_gone_with_its_channel() {
    let hub = Hub::default();
    let (old, name) = (hub.tap(&"a".into()), Arc::from("a"));
    let new = hub.tap(&name);
    assert!(Arc::ptr_eq(&old, &new));
    let listener = hub.listen("a", Wish::default());
    assert!(listener.is_ok());
    assert!(old.is_on());
    drop(listener);
    assert!(!old.is_on());
    drop((old, new));
    let gone = hub.listen("a", Wish::default()).err();
    assert_eq!(gone, Some(Refused::Unknown { names: Vec::new() }));
}

#[test]
fn only_so_many_look_on_and_one_that_ends_makes_place() {
    let hub = Hub::default();
    let _tap = hub.tap(&"a".into());
    let listen = || hub.listen("a", Wish::default());
    let mut listeners: Vec<Listener> = (0..MOST_CLIENTS).filter_map(|_| listen().ok()).collect();
    assert_eq!(listeners.len(), MOST_CLIENTS);
    assert_eq!(listen().err(), Some(Refused::Full));
    listeners.pop();
    assert!(listen().is_ok());
}

#[tokio::test]
async fn what_was_not_shown_is_told_before_the_end() {
    for is_closed in [true, false] {
        let hub = Hub::default();
        let tap = hub.tap(&"a".into());
        let mut listener = hub.listen("a", Wish::default()).expect("a place");
        (0..3).for_each(|_| tap.passed());
        if is_closed {
            hub.close();
        } else {
            drop(tap);
        }
        let missed = listener.next().await;
        assert!(matches!(missed, Some(Line::Missed { missed: 3 })), "{missed:?}");
        let end = listener.next().await;
        assert!(
            matches!(end, Some(Line::End { channel_is_gone, .. }) if channel_is_gone != is_closed)
        );
        assert!(listener.next().await.is_none());
    }
}
