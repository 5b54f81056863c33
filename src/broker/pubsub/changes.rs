//! What is wanted, as it changes: from whoever reloads to whoever subscribes.
//!
//! Holds the newest list only: one that was replaced before it was taken is never subscribed to. Lives
//! as long as the [`Subscriber`], over a restart of its task too.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::{Subscriber, Subscription};

/// A list of subscriptions, and the how-manieth it is.
#[derive(Clone)]
pub(super) struct Wanted {
    pub(super) number: u64,
    pub(super) subscriptions: Arc<[Subscription]>,
    /// Called when it is taken; once.
    pub(super) switch: Arc<Mutex<Option<Switch>>>,
}

/// What is to happen between the last message that goes the old way and the first that goes the new.
pub(super) type Switch = Box<dyn FnOnce() + Send>;

impl Wanted {
    pub(super) fn new(number: u64, subscriptions: Arc<[Subscription]>, switch: Switch) -> Self {
        let switch = Arc::new(Mutex::new(Some(switch)));
        Wanted { number, subscriptions, switch }
    }

    /// It is taken: what comes from now on goes its way.
    fn take(self) -> Arc<[Subscription]> {
        let switch = self.switch.lock().unwrap_or_else(PoisonError::into_inner).take();
        switch.into_iter().for_each(|switch| switch());
        self.subscriptions
    }
}

/// The end at which changes are taken.
pub(super) struct Changes {
    wanted: watch::Receiver<Wanted>,
    done: watch::Sender<u64>,
    /// The number of the list that was taken last.
    taken: u64,
}

impl Changes {
    /// Of this subscriber, with what it wants now. As there is no connection, that is done.
    pub(super) fn of(subscriber: &Subscriber) -> (Self, Arc<[Subscription]>) {
        let mut wanted = subscriber.wanted.subscribe();
        let newest = wanted.borrow_and_update().clone();
        let changes = Changes { wanted, done: subscriber.done.clone(), taken: newest.number };
        changes.done();
        (changes, newest.take())
    }

    /// Wait for other subscriptions; not while a change is under way. Cancel safe.
    pub(super) async fn next(&mut self) -> Arc<[Subscription]> {
        if self.under_way() || self.wanted.changed().await.is_err() {
            return std::future::pending().await;
        }
        let newest = self.wanted.borrow_and_update().clone();
        self.taken = newest.number;
        newest.take()
    }

    /// Whether a change was taken and isn't done.
    pub(super) fn under_way(&self) -> bool {
        *self.done.borrow() < self.taken
    }

    /// The change that was taken is done.
    pub(super) fn done(&self) {
        self.done.send_replace(self.taken);
    }
}

impl Drop for Changes {
    /// The task has ended, however: nothing comes any more, so all changes are done, those too that are
    /// still to be made. When it is started again, it begins with the newest list.
    fn drop(&mut self) {
        self.done.send_replace(u64::MAX);
    }
}
