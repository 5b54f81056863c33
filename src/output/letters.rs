//! Dead letters of pub/sub messages on their way to their stream: what becomes of each is counted
//! once, and one that can't be stored is said, so that whoever needs it can find it by its size and
//! hash where it came from.
//!
//! A letter is kept until Redis has answered: as much as the writer takes, and no more. It is
//! hashed only when there is a line to write.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::broker::writer::{Fate, Receipt};
use crate::dead_letter::DeadLetter;
use crate::telemetry::{ChannelMetrics, RateLimit, printable};

/// One lost letter of a channel is logged in this time, with the number of those held back.
const LOG_PERIOD: Duration = Duration::from_secs(1);

/// Bytes of each text that a line shows at most.
const LOGGED_TEXT: usize = 4 << 10;

/// The letters of one channel.
pub(super) struct Letters {
    metrics: Arc<ChannelMetrics>,
    log: RateLimit,
}

impl Letters {
    pub(super) fn new(metrics: Arc<ChannelMetrics>) -> Arc<Self> {
        Arc::new(Letters { metrics, log: RateLimit::new(LOG_PERIOD) })
    }

    /// What is to be told what became of this letter, which goes to this stream.
    pub(super) fn receipt(self: &Arc<Self>, stream: &Arc<str>, letter: Arc<DeadLetter>) -> Receipt {
        let (letters, stream, written) = (self.clone(), stream.clone(), self.metrics.written());
        Box::new(move |fate| {
            letters.ended(&stream, &letter, fate);
            drop(written);
        })
    }

    fn ended(&self, stream: &str, letter: &DeadLetter, fate: Fate<'_>) {
        let Some(lost) = fate.lost() else { return self.metrics.dead_letters.add(1) };
        self.metrics.lost(lost, 1);
        let Some(suppressed) = self.log.admit() else { return };
        let why = match fate {
            Fate::Refused(error) => format!("Redis says {}", printable(error.as_bytes(), 500)),
            Fate::Unknown => {
                "the connection ended before Redis's answer, it may have been stored".to_owned()
            }
            Fate::Unsent | Fate::Done => "handlerd stopped before it could be sent".to_owned(),
        };
        let text = |text: &str| printable(text.as_bytes(), LOGGED_TEXT);
        tracing::warn!(
            channel = &*letter.channel,
            handler = letter.blame.handler.as_deref(),
            kind = &*letter.blame.kind,
            redis_channel = %text(letter.origin.redis_channel()),
            attempts = letter.attempts,
            stream = %text(stream),
            size = letter.payload.len(),
            sha256 = %hex(&letter.payload),
            reason = lost.as_str(),
            suppressed,
            "a dead letter could not be stored: {why}; the message had been given up: {}",
            text(&letter.blame.reason)
        );
    }
}

fn hex(payload: &[u8]) -> String {
    Sha256::digest(payload).iter().map(|byte| format!("{byte:02x}")).collect()
}
