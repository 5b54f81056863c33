//! What is published arrives, exactly as it was sent, where it belongs.

use super::support::*;

#[tokio::test]
async fn messages_come_byte_for_byte_and_in_order() {
    let redis = Redis::start(&[]);
    let running = Running::one(&redis.tcp(), subscribe(&["chat"]));
    until("subscribed", || redis.subscribers("chat") == 1).await;
    let payloads: [&[u8]; 4] = [b"hello", b"", b"\r\n$3\r\n\x00\xff", &[7; 300_000]];
    for payload in payloads {
        redis.publish("chat", payload);
    }
    let seen = running.channels[0].take(payloads.len()).await;
    for (seen, sent) in seen.iter().zip(payloads) {
        assert_eq!(seen.message.payload, sent);
        assert_eq!(&*seen.delivery.redis_channel, "chat");
        assert_eq!(&*seen.delivery.table, "table0");
        assert_eq!(seen.delivery.pattern, None);
    }
    running.stop().await;
    assert_eq!(redis.subscribers("chat"), 0);
}
