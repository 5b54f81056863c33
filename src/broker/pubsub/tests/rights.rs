//! What Redis permits changes while the subscription runs.

use super::support::*;
use crate::config::{Connection, Password};

fn as_user(connection: Connection, name: &str, file: std::path::PathBuf) -> Connection {
    Connection { username: Some(name.into()), password: Password::File(file), ..connection }
}

#[tokio::test]
async fn a_refused_name_is_named_and_the_rest_work_until_the_right_is_granted() {
    for hello in ["", "rename-command HELLO \"\""] {
        let log = Log::capture();
        let redis =
            Redis::start_on_port(&[hello, "user limited on >secret +@all resetchannels &a &p.*"]);
        std::fs::write(redis.file("password"), "secret\n").unwrap();
        let connection = as_user(redis.tcp(), "limited", redis.file("password"));
        let sources =
            vec![(subscribe(&["b", "a", "c"]), 1 << 20), (pattern(&["x.*", "p.*"]), 1 << 20)];
        let running = Running::start(&connection, sources);
        until("subscribed", || redis.cli::<i64>("PUBSUB NUMPAT") == 1).await;
        redis.publish("a", "1");
        redis.publish("b", "refused");
        redis.publish("p.1", "2");
        assert_eq!(running.channels[0].texts(1).await, ["1"]);
        assert_eq!(running.channels[1].texts(1).await, ["2"]);
        until("logged", || {
            log.has("Redis refuses SUBSCRIBE \"b\", SUBSCRIBE \"c\", PSUBSCRIBE \"x.*\": NOPERM")
        })
        .await;

        redis.cli::<()>("ACL SETUSER limited &b &x.*");
        until("granted", || redis.subscribers("b") == 1).await;
        until("granted", || redis.cli::<i64>("PUBSUB NUMPAT") == 2).await;
        redis.publish("b", "3");
        assert_eq!(running.channels[0].texts(1).await, ["3"]);
        until("logged", || log.has("permits SUBSCRIBE \"b\", PSUBSCRIBE \"x.*\" now")).await;
        assert_eq!(running.metrics.reconnects.get(), 0);
        // The second channel has all of its names and the first one hasn't.
        let gap = |i: usize| running.channels[i].metrics.gap_ms.get();
        let (first, second) = (gap(0), gap(1));
        until("the gap grows", || gap(0) > first + 200).await;
        assert_eq!(gap(1), second);
        // Refused once more, every second, but told once.
        assert_eq!(log.count("Redis refuses"), 1);

        // Redis ends the connection of a user that loses a right in use.
        redis.cli::<()>("ACL SETUSER limited resetchannels &a &c");
        until("lost", || redis.subscribers("b") == 0).await;
        until("back", || redis.subscribers("c") == 1 && redis.subscribers("a") == 1).await;
        redis.publish("a", "4");
        redis.publish("c", "5");
        assert_eq!(running.channels[0].texts(2).await, ["4", "5"]);
        assert_eq!(running.metrics.reconnects.get(), 1);
        until("logged", || log.count("Redis refuses") == 2).await;
        running.stop().await;
    }
}

#[tokio::test]
async fn a_user_who_may_not_subscribe_at_all_may_later() {
    let redis = Redis::start_on_port(&["user limited on nopass -@all +hello +auth allchannels"]);
    let connection = Connection {
        username: Some("limited".into()),
        password: Password::Url(crate::config::Secret::new("any")),
        ..redis.tcp()
    };
    let running = Running::one(&connection, subscribe(&["a"]));
    // Several probes go by: PING is refused, too.
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert_eq!(running.metrics.reconnects.get(), 0);
    redis.cli::<()>("ACL SETUSER limited +subscribe");
    until("granted", || redis.subscribers("a") == 1).await;
    redis.publish("a", "1");
    assert_eq!(running.channels[0].texts(1).await, ["1"]);
    assert_eq!(running.metrics.reconnects.get(), 0);
    // UNSUBSCRIBE is refused: stopping doesn't wait for it.
    let begin = std::time::Instant::now();
    running.stop().await;
    assert!(begin.elapsed() < std::time::Duration::from_millis(1500));
}

#[tokio::test]
async fn a_rotated_password_is_read_again() {
    for hello in ["", "rename-command HELLO \"\""] {
        let log = Log::capture();
        let redis =
            Redis::start_on_port(&[hello, "user rotating on >first allcommands allchannels"]);
        std::fs::write(redis.file("password"), "first").unwrap();
        let connection = as_user(redis.tcp(), "rotating", redis.file("password"));
        let running = Running::one(&connection, subscribe(&["a"]));
        until("subscribed", || redis.subscribers("a") == 1).await;
        redis.cli::<()>("ACL SETUSER rotating resetpass >second");
        redis.cli::<()>("CLIENT KILL TYPE pubsub");
        until("refused", || log.has("WRONGPASS")).await;
        std::fs::write(redis.file("password"), "second\n").unwrap();
        until("back", || redis.subscribers("a") == 1).await;
        redis.publish("a", "1");
        assert_eq!(running.channels[0].texts(1).await, ["1"]);
        assert_eq!(log.count("WRONGPASS"), 1);
        assert!(!log.has("first") && !log.has("second"));
        running.stop().await;
    }
}
