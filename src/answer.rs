//! An answer that takes long to make: made beside the threads that handle messages, one at a time, and
//! once for all who have asked before it was begun.
//!
//! Used by `http` and `control`, whose clients may ask as often as they like, of ten thousand channels.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

use axum::body::Bytes;
use tokio::sync::Mutex;

/// An answer to one question.
pub struct Answer<T> {
    make: Arc<dyn Fn() -> Option<T> + Send + Sync>,
    /// The one made last, as long as somebody waits for it.
    made: Arc<Mutex<Option<Made<T>>>>,
    waiting: Arc<AtomicUsize>,
}

struct Made<T> {
    begun: Instant,
    answer: Arc<T>,
}

/// One who waits, until this is dropped.
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, SeqCst);
        Waiting(count.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl<T: Send + Sync + 'static> Answer<T> {
    /// The answer that this makes, if it can.
    pub fn new(make: impl Fn() -> Option<T> + Send + Sync + 'static) -> Self {
        Answer { make: Arc::new(make), made: Arc::default(), waiting: Arc::default() }
    }

    /// The answer as it is now, or later; `None` when it could not be made.
    pub async fn get(&self) -> Option<Arc<T>> {
        let asked = Instant::now();
        let waiting = Waiting::new(&self.waiting);
        let mut made = self.made.clone().lock_owned().await;
        drop(waiting);
        let (make, waiting) = (self.make.clone(), self.waiting.clone());
        // Whoever gives up waiting doesn't begin another one beside this.
        let making = tokio::task::spawn_blocking(move || {
            let last = made.take().filter(|made| made.begun >= asked);
            let last = last.or_else(|| {
                let begun = Instant::now();
                Some(Made { begun, answer: Arc::new(make()?) })
            })?;
            let answer = last.answer.clone();
            *made = (waiting.load(SeqCst) > 0).then_some(last);
            Some(answer)
        });
        making.await.ok()?
    }
}

/// The bytes of an answer, for everybody the same in memory.
pub fn body<T: AsRef<[u8]> + Send + Sync + 'static>(answer: Arc<T>) -> Bytes {
    struct Shared<T>(Arc<T>);
    impl<T: AsRef<[u8]>> AsRef<[u8]> for Shared<T> {
        fn as_ref(&self) -> &[u8] {
            (*self.0).as_ref()
        }
    }
    Bytes::from_owner(Shared(answer))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn those_who_ask_while_one_is_made_share_the_next() {
        let (begun, has_begun) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel::<()>();
        let (begun, goes_on) = (std::sync::Mutex::new(begun), std::sync::Mutex::new(goes_on));
        let made = AtomicUsize::new(0);
        let answer = Arc::new(Answer::new(move || {
            begun.lock().unwrap().send(()).unwrap();
            goes_on.lock().unwrap().recv().unwrap();
            Some(made.fetch_add(1, SeqCst))
        }));
        let ask = || {
            tokio::spawn({
                let answer = answer.clone();
                async move { *answer.get().await.unwrap() }
            })
        };
        let first = ask();
        let has_begun = tokio::task::spawn_blocking(move || {
            has_begun.recv().unwrap();
            has_begun
        });
        let has_begun = has_begun.await.unwrap();
        let others: Vec<_> = (0..50).map(|_| ask()).collect();
        while answer.waiting.load(SeqCst) < others.len() {
            tokio::task::yield_now().await;
        }
        // One for the first, one for the others, and one who asks later has a new one.
        (0..3).for_each(|_| go_on.send(()).unwrap());
        assert_eq!(first.await.unwrap(), 0);
        for other in others {
            assert_eq!(other.await.unwrap(), 1);
        }
        assert!(answer.made.lock().await.is_none(), "nobody waits for it");
        assert_eq!(ask().await.unwrap(), 2);
        drop(has_begun);
    }

    #[tokio::test]
    async fn one_that_fails_fails_nobody_elses() {
        let times = AtomicUsize::new(0);
        let answer = Answer::new(move || {
            assert!(times.fetch_add(1, SeqCst) > 0, "the first time it fails");
            Some(())
        });
        assert!(answer.get().await.is_none());
        assert!(answer.get().await.is_some());
    }
}
