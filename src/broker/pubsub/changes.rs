//! What is wanted, as it changes: from whoever reloads to whoever subscribes.
//!
//! Holds the newest list only: one that was replaced before it was taken is never subscribed to. Lives
//! as long as the [`Subscriber`], over a restart of its task too.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Subscriber, Subscription};

/// A list of subscriptions, and the how-manieth it is.
#[derive(Clone)]
pub(super) struct Wanted {
    pub(super) number: u64,
    pub(super) subscriptions: Arc<[Subscription]>,
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
        let Wanted { number, subscriptions } = wanted.borrow_and_update().clone();
        let changes = Changes { wanted, done: subscriber.done.clone(), taken: number };
        changes.done();
        (changes, subscriptions)
    }

    /// Wait for other subscriptions; not while a change is under way. Cancel safe.
    pub(super) async fn next(&mut self) -> Arc<[Subscription]> {
        if self.under_way() || self.wanted.changed().await.is_err() {
            return std::future::pending().await;
        }
        let Wanted { number, subscriptions } = self.wanted.borrow_and_update().clone();
        self.taken = number;
        subscriptions
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
