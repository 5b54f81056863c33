//! The article's own programs, unchanged in shape, with handlerd between them: what the subscriber
//! did by itself in a loop is done by plugins before it hears of the message.

mod support;

use support::{Handlerd, Redis, Run};

const CHANNELS: &str = r#"
    [handlers.redact]
    config = { words = "secret" }

    [channels.plain]
    subscribe = "plain"
    handlers = ["announce"]
    publish = "plain.out"

    [channels.chat]
    handlers = ["redact"]
    publish = "chat.out"
"#;

#[test]
fn the_publisher_and_the_subscribe_loop() {
    let redis = Redis::start();
    let _daemon = Handlerd::start(&redis, CHANNELS);
    redis.wait_subscribed("plain", 1);
    let subscriber = Run::python("subscriber.py", &[&redis.url(), "plain.out"]).spawn();
    redis.wait_subscribed("plain.out", 1);

    let messages = ["Hello, World!", "Grüße 👋", "it's"];
    let url = redis.url();
    let args = [&[url.as_str(), "plain"], &messages[..]].concat();
    Run::python("publisher.py", &args).output().expect(0);

    let expected: String = messages
        .iter()
        .map(|message| {
            format!(
                "Received message 'Received message '{message}' from channel 'plain'' \
                 from channel 'plain.out'\n"
            )
        })
        .collect();
    assert_eq!(subscriber.wait_stdout(&expected), expected);
}

#[test]
fn the_chat_class_with_several_callbacks() {
    let redis = Redis::start();
    let _daemon = Handlerd::start(&redis, CHANNELS);
    redis.wait_subscribed("chat", 1);
    let url = redis.url();
    let talk = |name| Run::python("chat.py", &[&url, name, "chat", "chat.out"]).interactive();
    let (mut ann, mut bob) = (talk("ann").spawn(), talk("bob").spawn());
    redis.wait_subscribed("chat.out", 2);

    ann.type_in("hello bob\n");
    for chat in [&ann, &bob] {
        chat.wait_stdout("sees on chat.out: ann: hello bob\n");
        chat.wait_stdout("has seen 1\n");
    }
    bob.type_in("the secret is out\n");
    for chat in [&ann, &bob] {
        chat.wait_stdout("has seen 2\n");
        assert!(chat.stdout().contains("sees on chat.out: bob: the ****** is out\n"));
    }
    for (name, chat) in [("ann", ann), ("bob", bob)] {
        let output = chat.wait().expect(0);
        assert_eq!(output.text().matches(&format!("{name} has seen")).count(), 2);
        assert!(!output.text().contains("secret"));
    }
}
