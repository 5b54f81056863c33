//! The way of a message: order, filters, maps, fan-out, several channels, patterns and outputs.

mod support;

use support::{Handlerd, Redis, Watcher};

#[test]
fn a_channel_without_handlers_passes_messages_on_in_order() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let _daemon = Handlerd::start(
        &redis,
        r#"
        [channels.plain]
        subscribe = "in"
        handlers = []
        publish = "out"
        "#,
    );
    redis.wait_subscribed("in", 1);
    let sent: Vec<String> = (0..5000).map(|n| n.to_string()).collect();
    redis.client().publish_all("in", &sent);
    assert_eq!(out.wait_texts(sent.len()), sent);
}
