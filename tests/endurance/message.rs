//! The messages: each has a number, and its stream id and payload follow from that.
//!
//! Ids are the feeder's, not Redis's: an XADD whose answer was lost is sent again, and Redis refuses
//! it when the first one had gone in. So it is certain what is in the stream.

/// What a handler is to do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Pass it on.
    Good,
    /// The same, after longer than a busy machine stands still.
    Slow,
    /// One of `trap`, `panic`, `loop`, `reject`, `die` (which kills daemons that have the failpoint
    /// for it, and passes otherwise): it becomes a dead letter.
    Bad(&'static str),
}

const FIRST_MS: u64 = 1_700_000_000_000;
/// Several in a millisecond, so that both parts of ids count.
const PER_MS: u64 = 7;

/// The id of this number's entry.
pub fn id(number: u64) -> String {
    format!("{}-{}", FIRST_MS + number / PER_MS, number % PER_MS)
}

/// The number of the entry with this id; 0 for ids before the first.
pub fn number_of_id(id: &str) -> u64 {
    let (ms, sequence) = id.split_once('-').expect("an id has two parts");
    let part = |text: &str| text.parse::<u64>().expect("parts of an id are numbers");
    part(ms).checked_sub(FIRST_MS).map_or(0, |ms| ms * PER_MS + part(sequence))
}

/// What is sent. Some are long enough to be cut in two by a network.
pub fn payload(number: u64, kind: Kind) -> String {
    match kind {
        Kind::Bad(word) => format!("{word} {number}"),
        Kind::Slow => format!("sleep 6000 {number}"),
        Kind::Good if number % 97 == 5 => format!("echo {} {number}", "x".repeat(3000)),
        // In hand for a while, so that something is whenever something happens.
        Kind::Good if number % 8 == 3 => format!("sleep 3 {number}"),
        Kind::Good => format!("echo {number}"),
    }
}

/// The number in a payload as it was sent, or as it came out.
pub fn number(payload: &[u8]) -> u64 {
    let text = str::from_utf8(payload).expect("payloads are text");
    let word = text.rsplit(' ').next().unwrap_or(text);
    word.parse().unwrap_or_else(|_| panic!("{text:.80} is none of the messages that were sent"))
}
