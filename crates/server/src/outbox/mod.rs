//! What is told outside: webhooks hear of the tasks of their users, and mail is sent about tasks that ask for it.
//!
//! The log of changes is looked at once for all ([`dispatch`]), from a durable place; what is to be told goes into the
//! outbox in the transaction that moves the place. Each webhook is a lane, and each user's mail: a task of its own ([`lane`]) tells what waits
//! in it, in order, and ends when nothing does. Nothing waits in memory, and a restart goes on where the store says.

mod dispatch;
mod hooks;
mod lane;
mod mail;
mod request;

pub use mail::MailSettings;

use crate::{
    app::App,
    limits,
    options::{DeliveryTimes, Options},
};
use fetchml_store::StoreError;
use futures_util::FutureExt as _;
use hooks::Hooks;
use mail::Mailer;
use request::Requests;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// What waits to be told, and who hears of it.
pub(crate) struct Outbox {
    pub(crate) hooks: Hooks,
    requests: Requests,
    mailer: Option<Mailer>,
    /// Places for mail: there is one server for all of it.
    mails: Semaphore,
    times: DeliveryTimes,
    /// Those in which something waits; notified when there is more.
    lanes: Mutex<HashMap<String, Arc<Notify>>>,
    places: Places,
}

impl Outbox {
    /// # Errors
    /// TLS to the SMTP server cannot be spoken.
    pub(crate) fn new(options: &Options) -> Result<Self, String> {
        let times = options.deliveries;
        Ok(Self {
            hooks: Hooks::default(),
            requests: Requests::new(&options.webhook_allow_net, times.answer_within),
            mailer: options.mail.clone().map(Mailer::new).transpose()?,
            mails: Semaphore::new(limits::MAILS_AT_ONCE),
            times,
            lanes: Mutex::default(),
            places: Places::new(),
        })
    }

    /// Goes on where the last server ended.
    ///
    /// # Errors
    /// The store cannot be used.
    pub(crate) async fn start(app: &Arc<App>) -> Result<(), StoreError> {
        app.outbox.hooks.load(app).await?;
        let place = dispatch::place(app).await?;
        for (lane, user) in app.store.lanes().await? {
            app.outbox.wake(app, lane, user);
        }
        tokio::spawn(until_stop(Arc::clone(app), dispatch::run(Arc::clone(app), place)));
        Ok(())
    }

    /// What is wrong with a URL of a webhook, as far as can be said without asking anybody.
    pub(crate) fn url_problem(&self, url: &str) -> Option<String> {
        self.requests.problem(url)
    }

    /// Something waits in a lane, or what waited is gone.
    fn wake(&self, app: &Arc<App>, lane: String, user: String) {
        let mut lanes = self.lanes();
        if let Some(awake) = lanes.get(&lane) {
            return awake.notify_one();
        }
        let awake = Arc::new(Notify::new());
        lanes.insert(lane.clone(), Arc::clone(&awake));
        tokio::spawn(until_stop(Arc::clone(app), lane::run(Arc::clone(app), lane, user, awake)));
    }

    /// Nothing waited in a lane when its task looked; whether that is still so, and the task may end.
    fn sleeps(&self, lane: &str, awake: &Notify) -> bool {
        let mut lanes = self.lanes();
        let is_asleep = awake.notified().now_or_never().is_none();
        if is_asleep {
            lanes.remove(lane);
        }
        is_asleep
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<String, Arc<Notify>>> {
        // Whole after each line that changes it.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn until_stop(app: Arc<App>, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = app.stop.cancelled() => {}
    }
}

/// Bounds how much is told at the same time, and how much of it to whom one user named.
struct Places {
    of_all: Arc<Semaphore>,
    of_users: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// Two places, until dropped.
type Place = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl Places {
    fn new() -> Self {
        Self { of_all: Arc::new(Semaphore::new(limits::DELIVERIES_AT_ONCE)), of_users: Mutex::default() }
    }

    /// First the user's own, so that nobody waits for it within a place of all.
    async fn take(&self, user: &str) -> Place {
        let own = self.of_user(user).acquire_owned().await.expect("it is never closed");
        let of_all = Arc::clone(&self.of_all).acquire_owned().await.expect("it is never closed");
        (own, of_all)
    }

    fn of_user(&self, user: &str) -> Arc<Semaphore> {
        let mut of_users = self.of_users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = of_users.get(user).and_then(Weak::upgrade) {
            return places;
        }
        of_users.retain(|_, places| places.strong_count() > 0);
        let places = Arc::new(Semaphore::new(limits::DELIVERIES_OF_USER_AT_ONCE));
        of_users.insert(user.to_owned(), Arc::downgrade(&places));
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_user_who_holds_places_leaves_those_of_others() {
        let places = Places::new();
        let mut held = Vec::new();
        for _ in 0..limits::DELIVERIES_OF_USER_AT_ONCE {
            held.push(places.take("ada").await);
        }
        assert!(places.take("ada").now_or_never().is_none());
        assert!(places.take("bob").now_or_never().is_some());
        held.pop();
        assert!(places.take("ada").now_or_never().is_some());
        drop(held);
        drop(places.take("eve").await);
        assert!(places.of_users.lock().unwrap().len() <= 2, "nobody who holds none is kept");
    }
}
