//! Channels whose chains are alike go through them together: nobody may notice.

mod support;

use support::{Handlerd, Redis, wait_until};

const CHANNELS: usize = 60;
const MESSAGES: usize = 100;

fn config(channels: usize) -> String {
    let channel = |n| {
        format!(
            "[channels.c{n}]\nsubscribe = \"in.{n}\"\nhandlers = [\"misbehave\"]\n\
             push = \"out.{n}\"\n"
        )
    };
    (0..channels).map(channel).collect()
}

/// One message for each channel after the other, over and over, in one pipeline.
fn publish(
    redis: &Redis,
    channels: usize,
    rounds: usize,
    payload: impl Fn(usize, usize) -> String,
) {
    let mut pipe = redis::pipe();
    for round in 0..rounds {
        for channel in 0..channels {
            let payload = payload(channel, round);
            pipe.cmd("PUBLISH").arg(format!("in.{channel}")).arg(payload).ignore();
        }
    }
    pipe.query::<()>(redis.client().raw()).expect("pipelined PUBLISH");
}

#[test]
fn each_channel_has_its_own_messages_in_order_and_its_own_failures() {
    let redis = Redis::start();
    let mut daemon = Handlerd::start(&redis, &config(CHANNELS));
    redis.wait_subscribed(&format!("in.{}", CHANNELS - 1), 1);
    // Every third channel's messages fail now and then, in every way that costs an instance or not.
    let fails = |channel: usize, round: usize| channel.is_multiple_of(3) && round % 10 == 5;
    publish(&redis, CHANNELS, MESSAGES, |channel, round| {
        match (fails(channel, round), round % 4) {
            (true, 1) => "trap".to_owned(),
            (true, _) => format!("reject {round}"),
            (false, _) => format!("echo {channel}.{round}"),
        }
    });
    let stopped = daemon.stop();
    let mut client = redis.client();
    for channel in 0..CHANNELS {
        let expected: Vec<Vec<u8>> = (0..MESSAGES)
            .filter(|round| !fails(channel, *round))
            .map(|round| format!("{channel}.{round}").into_bytes())
            .collect();
        assert_eq!(client.list(&format!("out.{channel}")), expected, "channel {channel}");
    }
    let failed = CHANNELS / 3 * MESSAGES / 10;
    let handled = CHANNELS * MESSAGES - failed;
    let number = |name| stopped.number(name);
    assert_eq!((number("handled"), number("failed")), (handled as u64, failed as u64));
}

#[test]
fn a_channel_whose_messages_are_slow_does_not_hold_up_the_others_for_long() {
    let redis = Redis::start();
    let short = "[handlers.misbehave]\ntimeout = \"1s\"\n";
    let _daemon = Handlerd::start(&redis, &format!("{short}{}", config(20)));
    redis.wait_subscribed("in.19", 1);
    // Each takes the whole `timeout`: minutes of work for channel 0.
    let mut pipe = redis::pipe();
    for _ in 0..200 {
        pipe.cmd("PUBLISH").arg("in.0").arg("loop").ignore();
    }
    pipe.query::<()>(redis.client().raw()).expect("pipelined PUBLISH");
    publish(&redis, 20, 10, |channel, round| match channel {
        0 => "loop".to_owned(),
        _ => format!("echo {round}"),
    });
    let begun = std::time::Instant::now();
    let mut client = redis.client();
    wait_until("the other channels' messages", || {
        (1..20).all(|channel| client.list(&format!("out.{channel}")).len() == 10)
    });
    // Not a measurement: in turn with channel 0 they would take longer than this by far.
    assert!(begun.elapsed().as_secs() < 45, "{:?}", begun.elapsed());
}
