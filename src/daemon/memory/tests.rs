//! What each channel may hold.

use std::path::Path;

use super::*;
use crate::config::Environment;

#[test]
fn streams_and_pubsub_share_the_memory() {
    let config = |queue: &str| {
        let text = format!(
            r#"
            [limits]
            memory = "64MiB"
            [channels.one]
            subscribe = "one"
            log = true
            handlers = []
            [channels.two]
            stream = "two"
            group = "g"
            queue = "{queue}"
            log = true
            handlers = []
            [channels.three]
            stream = "three"
            group = "g"
            log = true
            handlers = []
            [channels.four]
            pattern = "four*"
            log = true
            handlers = []
            "#
        );
        let none: Environment = [("UNUSED", "")].into_iter().collect();
        let loaded = Config::parse(&text, Path::new("/test/config.toml"), &none);
        loaded.unwrap_or_else(|errors| panic!("{}", errors.render(false))).config
    };
    let holds = |config: &Config| {
        let of =
            |name: &str| config.channels.iter().find(|c| &*c.name == name).expect("it is there");
        [hold(config, of("two")) >> 20, hold(config, of("three")) >> 20]
    };
    let wide = config("60MiB");
    assert_eq!((holds(&wide), queues_memory(&wide) >> 20), ([16, 16], 32));
    let narrow = config("4MiB");
    assert_eq!((holds(&narrow), queues_memory(&narrow) >> 20), ([4, 16], 44));
}
