//! A message in, messages out.

use super::support::*;
use crate::message::Message;

#[tokio::test]
async fn a_message_comes_back_byte_for_byte() {
    let bench = Bench::new();
    let handler = bench.handler(&Source { body: ECHO, ..Source::default() }, |_| {}).await;
    let all: Vec<u8> = (0..=255).collect();
    for payload in [&b""[..], b"hello", &all, &vec![7; 1 << 20]] {
        let outputs = handle(&handler, payload).await.expect("it echoes");
        assert_eq!(outputs, [Message::new(payload)]);
    }
}
