//! Bytes to messages, however the network cuts them.

use std::sync::Arc;
use std::time::Instant;

use super::support::*;
use crate::broker::pubsub::Subscription;
use crate::broker::pubsub::answer::Answer;
use crate::broker::pubsub::intake::Intake;
use crate::broker::pubsub::plan::Plan;
use crate::broker::resp::FrameReader;
use crate::config::{Overflow, Source};
use crate::queue::{Batch, Budget, Queue, Received};
use crate::telemetry::DropReason;

struct Bench {
    intake: Intake,
    reader: FrameReader,
    queues: Vec<Arc<Queue>>,
}

impl Bench {
    fn new(sources: Vec<(Source, usize)>) -> Self {
        let budget = Budget::new(usize::MAX);
        let mut queues = Vec::new();
        let mut subscriptions = Vec::new();
        for (source, max_payload) in sources {
            let queue = Queue::new(
                1,
                usize::MAX,
                Overflow::DropOldest,
                &budget,
                Arc::default(),
                Box::new(|| false),
            );
            queues.push(queue.clone());
            subscriptions.push(Subscription {
                source,
                table: "t".into(),
                max_payload,
                queue,
                single: None,
            });
        }
        let plan = Plan::new(subscriptions.into(), Instant::now());
        Bench { intake: plan.intake, reader: FrameReader::default(), queues }
    }

    /// One read's worth; answers what came beside messages.
    async fn feed(&mut self, mut bytes: &[u8]) -> std::io::Result<Vec<Answer>> {
        self.reader.fill(&mut bytes).await.unwrap();
        assert!(bytes.is_empty());
        let mut answers = Vec::new();
        self.intake.begin();
        let end = loop {
            match self.intake.next(&mut self.reader) {
                Ok(Some(answer)) => answers.push(answer),
                Ok(None) => break Ok(answers),
                Err(error) => break Err(error),
            }
        };
        self.intake.flush();
        end
    }

    async fn messages(&self, queue: usize) -> Vec<Received> {
        let (queue, mut batch) = (&self.queues[queue], Batch::default());
        queue.close();
        let mut seen = Vec::new();
        while queue.take(&mut batch) {
            let before = seen.len();
            seen.extend(batch.drain());
            batch.done(seen.len() - before);
        }
        seen
    }
}

fn frame(sigil: char, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("{sigil}{}\r\n", parts.len()).into_bytes();
    for part in parts {
        out.extend(format!("${}\r\n", part.len()).as_bytes());
        out.extend(*part);
        out.extend(b"\r\n");
    }
    out
}

#[tokio::test]
async fn messages_come_out_whole_however_the_bytes_come_in() {
    let long_name = vec![b'r'; 70_000];
    let large = vec![b'L'; 20_000];
    for sigil in ['>', '*'] {
        let mut wire = Vec::new();
        wire.extend(frame(sigil, &[b"message", b"a", b"one"]));
        wire.extend(frame(sigil, &[b"pmessage", b"r*", b"room\xff", b"not UTF-8"]));
        wire.extend(frame(sigil, &[b"pmessage", b"r*", b"room", b"two"]));
        wire.extend(format!("{sigil}3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:2\r\n").into_bytes());
        wire.extend(frame(sigil, &[b"message", b"a", &[b'x'; 30_001]]));
        wire.extend(frame(sigil, &[b"message", b"nobody's", b"x"]));
        wire.extend(frame(sigil, &[b"pmessage", b"r*", &long_name, b"name too long"]));
        wire.extend(b"-ERR no\r\n");
        wire.extend(frame(sigil, &[b"message", b"a", b""]));
        wire.extend(frame(sigil, &[b"message", b"a", &large]));
        wire.extend(frame(sigil, &[b"message", b"a", b"\r\n$1\r\n"]));
        for size in (1..200).chain([511, 4096, 16_384, 65_536]) {
            let mut bench =
                Bench::new(vec![(subscribe(&["a"]), 30_000), (pattern(&["r*"]), 30_000)]);
            let mut answers = Vec::new();
            for chunk in wire.chunks(size) {
                answers.extend(bench.feed(chunk).await.unwrap());
            }
            let subscribed = Answer::Subscribed { pattern: false, name: b"a".to_vec(), count: 2 };
            assert_eq!(answers, [subscribed, Answer::Error("ERR no".into())]);
            let seen = bench.messages(0).await;
            let payloads: Vec<_> = seen.iter().map(|m| m.message.payload.as_slice()).collect();
            assert_eq!(
                payloads,
                [b"one".as_slice(), b"", &large, b"\r\n$1\r\n"],
                "chunks of {size}"
            );
            let by_name = bench.queues[0].metrics();
            assert_eq!((by_name.received.get(), by_name.dropped(DropReason::TooLarge)), (5, 1));
            let by_pattern = bench.queues[1].metrics();
            assert_eq!((by_pattern.received.get(), by_pattern.dropped(DropReason::Name)), (3, 2));
            let [room] = &bench.messages(1).await[..] else { panic!("one is left of three") };
            assert_eq!(&*room.delivery.redis_channel, "room");
            assert_eq!(room.delivery.pattern.as_deref(), Some("r*"));
        }
    }
}

#[tokio::test]
async fn what_nobody_takes_is_not_kept() {
    let mut bench = Bench::new(vec![(subscribe(&["a"]), 1000)]);
    bench.feed(b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$400000000\r\n").await.unwrap();
    for _ in 0..1000 {
        bench.feed(&[b'x'; 50_000]).await.unwrap();
        assert_eq!(bench.reader.unread(), b"");
    }
    assert_eq!(bench.queues[0].metrics().dropped(DropReason::TooLarge), 1);
}

#[tokio::test]
async fn what_is_not_the_protocol_ends_the_session() {
    let endless = [b'x'; 60_000];
    let cases: [&[u8]; 6] = [
        b">3\r\n$7\r\nmessage\r\n:1\r\n",
        b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$x\r\n",
        b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$99999999999\r\n",
        b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$3\r\nfour\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"+",
    ];
    for case in cases {
        let mut bench = Bench::new(vec![(subscribe(&["a"]), 1000)]);
        let mut end = bench.feed(case).await;
        for _ in 0..20 {
            if end.is_ok() {
                end = bench.feed(&endless).await;
            }
        }
        let error = end.expect_err(&String::from_utf8_lossy(case));
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    }
}
