//! Steps of an entry's way at which a test has the daemon kill itself, as if by `kill -9`.
//!
//! Only in builds with debug assertions, and only where the environment variable
//! `HANDLERD_FAILPOINT` names a step: `read:3` when it is reached for the third time, `handler:TEXT`
//! when a payload that begins with TEXT is given to a handler; several with commas in between.
//! Called by whoever takes a step; elsewhere a call is nothing. A leaf.

macro_rules! steps {
    ($($step:ident = $name:literal,)+) => {
        /// A step. The words are the variable's.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Step {
            $(#[doc = $name] $step,)+
        }

        impl Step {
            /// All of them, in the order of an entry's way.
            pub const ALL: &[Step] = &[$(Step::$step,)+];

            /// The word.
            pub fn name(self) -> &'static str {
                match self {
                    $(Step::$step => $name,)+
                }
            }
        }
    };
}

steps! {
    GroupMade = "group_made",
    CursorWritten = "cursor_written",
    OwnTaken = "own_taken",
    Claimed = "claimed",
    Read = "read",
    Begun = "begun",
    FarWritten = "far_written",
    Handled = "handled",
    InLine = "in_line",
    LetterInLine = "letter_in_line",
    FinishSent = "finish_sent",
    FinishAnswered = "finish_answered",
    GivingBack = "giving_back",
    GivenBack = "given_back",
}

/// A step is reached.
#[inline]
pub fn reach(step: Step) {
    #[cfg(debug_assertions)]
    armed::reach(step);
    #[cfg(not(debug_assertions))]
    let _ = step;
}

/// These payloads are given to a handler.
#[inline]
pub fn handling<'m>(payloads: impl Iterator<Item = &'m [u8]>) {
    #[cfg(debug_assertions)]
    armed::handling(payloads);
    #[cfg(not(debug_assertions))]
    let _ = payloads;
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    use rustix::process::{Signal, getpid, kill_process};

    use super::Step;

    enum Point {
        /// The step, and how often it has still to be reached.
        Step(Step, AtomicU64),
        Handler(String),
    }

    static POINTS: LazyLock<Vec<Point>> = LazyLock::new(|| {
        let points = std::env::var("HANDLERD_FAILPOINT").unwrap_or_default();
        points.split(',').filter(|point| !point.is_empty()).map(parse).collect()
    });

    fn parse(point: &str) -> Point {
        let (name, rest) = point.split_once(':').unwrap_or((point, "1"));
        if name == "handler" {
            return Point::Handler(rest.to_owned());
        }
        let step = Step::ALL.iter().find(|step| step.name() == name);
        match (step, rest.parse()) {
            (Some(step), Ok(times)) => Point::Step(*step, AtomicU64::new(times)),
            _ => {
                eprintln!("HANDLERD_FAILPOINT: {point:?} is not STEP:N or handler:TEXT");
                std::process::exit(64);
            }
        }
    }

    pub(super) fn reach(step: Step) {
        for point in &*POINTS {
            if let Point::Step(armed, left) = point
                && *armed == step
                && left.fetch_sub(1, SeqCst) == 1
            {
                die();
            }
        }
    }

    pub(super) fn handling<'m>(mut payloads: impl Iterator<Item = &'m [u8]>) {
        let texts = POINTS.iter().filter_map(|point| match point {
            Point::Handler(text) => Some(text.as_bytes()),
            Point::Step(..) => None,
        });
        if payloads.any(|payload| texts.clone().any(|text| payload.starts_with(text))) {
            die();
        }
    }

    fn die() {
        // Nothing comes after it in this thread, and nothing can refuse it.
        let _ = kill_process(getpid(), Signal::KILL);
    }
}
