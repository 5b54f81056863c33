//! The settings, parsed into a `Throttle`. An error is one sentence for whoever wrote them.

use std::num::NonZeroUsize;

use handlerd_plugin::config::Settings;
use lru::LruCache;
use shared::{Invalid, Pointer};

use crate::throttle::{Key, Over, Throttle};

/// How many keys are kept unless a setting says otherwise.
const KEYS: u64 = 10_000;

/// The most keys that a setting may say: some 40 MiB, if all are of the greatest length.
const MOST_KEYS: u64 = 100_000;

/// How many times are kept, all keys together: 8 bytes each, with room to grow 16 MiB. With the
/// keys that is what the 64 MiB hold that an instance has unless configured.
const TIMES: u64 = 1_000_000;

/// A throttle made of the settings.
pub fn throttle(mut settings: Settings) -> Result<Throttle, String> {
    let limit = settings.whole_number("limit")?;
    let per = settings.duration("per")?;
    let key = settings.parsed("key", "\"channel\" or a JSON Pointer, such as \"/user\"", key)?;
    let over = settings.choice("over", &[("drop", Over::Drop), ("reject", Over::Reject)])?;
    let keys = settings.whole_number("keys")?;
    let invalid = Invalid::read(&mut settings)?;
    settings.finish()?;
    let (Some(limit), Some(per)) = (limit, per) else {
        return Err("`limit` and `per` are needed, which say how many messages may pass in what \
                    time: write, for example, limit = 5, per = \"10s\""
            .to_owned());
    };
    if !(1..=TIMES).contains(&limit) {
        return Err(format!("`limit` has to be from 1 to {TIMES}, not {limit}"));
    }
    if per.is_zero() {
        return Err("`per` has to be longer than nothing, such as \"10s\"".to_owned());
    }
    let most_keys = MOST_KEYS.min(TIMES / limit);
    let keys = keys.unwrap_or(KEYS.min(most_keys));
    if !(1..=most_keys).contains(&keys) {
        return Err(format!(
            "`keys` has to be from 1 to {most_keys}, not {keys}: with this `limit` more need too \
             much memory"
        ));
    }
    Ok(Throttle {
        limit: usize::try_from(limit).unwrap_or(usize::MAX),
        per: u64::try_from(per.as_millis()).unwrap_or(u64::MAX),
        key: key.unwrap_or(Key::Channel),
        over: over.unwrap_or(Over::Drop),
        invalid,
        passed: LruCache::new(
            usize::try_from(keys).ok().and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN),
        ),
    })
}

fn key(value: &str) -> Result<Key, &'static str> {
    match value {
        "channel" => Ok(Key::Channel),
        pointer => Pointer::parse(pointer).map(Key::Value),
    }
}
