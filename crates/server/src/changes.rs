//! Change rows for streams. A stream asks for what comes after its place, whenever the log of changes
//! has grown; nothing is queued for it, so a slow one costs no memory and only falls behind: first out
//! of what is kept here, then, much later, out of what the store keeps.

use crate::{app::App, auth::Caller, limits, options::Visibility};
use fetchml_api::{Notify, NotifyOn, Task, TaskId, TaskStatus};
use fetchml_store::{ChangeRow, Store, StoreError};
use serde::Deserialize;
use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};
use tokio::sync::{Mutex, watch};

/// The log of changes.
pub struct Changes {
    store: Store,
    head: watch::Receiver<u64>,
    recent: Mutex<Recent>,
}

/// The rows after `before`, without a gap, up to some number.
#[derive(Default)]
struct Recent {
    before: u64,
    rows: VecDeque<Arc<Change>>,
}

/// The kind of change rows about tasks.
pub(crate) const JOB: &str = "job";

/// A row, and what all streams want to know of it, found out once.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) row: ChangeRow,
    /// The task that it is about.
    pub(crate) task: Option<AboutTask>,
    /// Whose task it is.
    pub(crate) user: Option<Box<str>>,
    /// What mail is sent about it.
    pub(crate) mail: Option<MailWish>,
    /// The body for those who may not see all of it, made when the first of them asks.
    hidden: OnceLock<Box<str>>,
}

/// What mail is wished about a task. The address is not in the log of changes.
#[derive(Debug)]
pub(crate) struct MailWish {
    pub(crate) on: Vec<NotifyOn>,
    /// The array that it is of: told of as one.
    pub(crate) array: Option<TaskId>,
}

/// What a row about a task says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AboutTask {
    pub(crate) id: TaskId,
    /// The state that it shows.
    pub(crate) status: TaskStatus,
}

impl Change {
    fn of(row: ChangeRow) -> Arc<Self> {
        #[derive(Deserialize)]
        struct Shown {
            status: TaskStatus,
            user_id: Option<Box<str>>,
            array_id: Option<TaskId>,
            notify: Option<Notify>,
        }
        let shown: Option<Shown> = (row.kind == JOB).then(|| serde_json::from_str(&row.body).ok()).flatten();
        let id = row.entity.parse().ok();
        let task = shown.as_ref().zip(id).map(|(shown, id)| AboutTask { id, status: shown.status });
        let (user, mail) = shown.map_or((None, None), |shown| {
            let array = shown.array_id;
            (shown.user_id, shown.notify.map(|notify| MailWish { on: notify.on, array }))
        });
        Arc::new(Self { row, task, user, mail, hidden: OnceLock::new() })
    }

    /// The body as that reader may see it.
    pub(crate) fn body_for(&self, reader: &Reader) -> &str {
        if self.task.is_none() || self.user.as_deref().is_some_and(|owner| reader.sees_content_of(owner)) {
            return &self.row.body;
        }
        self.hidden.get_or_init(|| {
            // What cannot be read is not shown to those who may not see all of it.
            let Ok(mut task) = serde_json::from_str::<Task>(&self.row.body) else { return "{}".into() };
            task.hide_content();
            serde_json::to_string(&task).expect("it has only string keys and finite numbers").into()
        })
    }
}

/// Who is told of changes.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    caller: Caller,
    visibility: Visibility,
}

impl Reader {
    /// A caller of this server.
    pub(crate) fn new(app: &App, caller: &Caller) -> Self {
        Self { caller: caller.clone(), visibility: app.options.visibility }
    }

    fn sees_content_of(&self, owner: &str) -> bool {
        self.caller.sees_content_of(owner, self.visibility)
    }
}

/// A task as its change rows show it to that reader; none when it is hidden.
///
/// # Errors
/// The store cannot be read.
pub(crate) async fn task_as_told(app: &App, id: TaskId, reader: &Reader) -> Result<Option<Task>, StoreError> {
    let task = match app.driver.live(id) {
        Some(task) => Some(task),
        None => app.store.task(id).await?,
    };
    Ok(task.map(|task| {
        let driver = &app.driver;
        let mut shown = Task::from_records(&task.spec, &task.state, driver.now(), driver.aging_interval_s());
        if reader.sees_content_of(&task.spec.user_id) {
            shown.mask_env();
        } else {
            shown.hide_content();
        }
        shown
    }))
}

/// What comes after a place.
#[derive(Debug)]
pub(crate) enum After {
    /// These rows, oldest first, none left out; empty when the place is the end.
    Rows(Vec<Arc<Change>>),
    /// Some of it is gone, or the place never was.
    Gone,
}

impl Changes {
    /// The changes of a store.
    pub(crate) fn new(store: &Store) -> Self {
        Self { store: store.clone(), head: store.change_head(), recent: Mutex::default() }
    }

    /// Number of the last durable row, and of each later one.
    pub(crate) fn head(&self) -> watch::Receiver<u64> {
        self.head.clone()
    }

    /// The rows after number `place`: at most [`limits::CHANGES_AT_ONCE`].
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) async fn after(&self, place: u64) -> Result<After, StoreError> {
        let head = *self.head.borrow();
        if place >= head {
            return Ok(if place == head { After::Rows(Vec::new()) } else { After::Gone });
        }
        let mut recent = self.recent.lock().await;
        if place < recent.before {
            drop(recent);
            return self.stored_after(place).await;
        }
        if place >= recent.end() {
            recent.read_on(&self.store, place).await?;
        }
        Ok(recent.after(place))
    }

    /// Rows about one entity after number `place`, as [`Changes::after`].
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) async fn after_of(&self, place: u64, entity: &str) -> Result<After, StoreError> {
        if place > *self.head.borrow() || self.store.change_first().await? > place.saturating_add(1) {
            return Ok(After::Gone);
        }
        let rows = self.store.change_rows_of(entity, place, limits::CHANGES_AT_ONCE as u32).await?;
        Ok(After::Rows(rows.into_iter().map(Change::of).collect()))
    }

    async fn stored_after(&self, place: u64) -> Result<After, StoreError> {
        let rows = self.store.change_rows(place, limits::CHANGES_AT_ONCE as u32).await?;
        Ok(match rows.first() {
            Some(first) if first.sequence == place + 1 => After::Rows(rows.into_iter().map(Change::of).collect()),
            _ => After::Gone,
        })
    }
}

impl Recent {
    /// Number of the last row.
    fn end(&self) -> u64 {
        self.before + self.rows.len() as u64
    }

    /// Reads rows until `place` is not the end. Whoever comes first reads for all.
    async fn read_on(&mut self, store: &Store, place: u64) -> Result<(), StoreError> {
        if place - self.end() > limits::CHANGES_RECENT as u64 {
            // Nobody has asked for long: what lies between is of no use.
            (self.before, self.rows) = (place, VecDeque::new());
        }
        while self.end() <= place {
            let read = store.change_rows(self.end(), limits::CHANGES_RECENT as u32).await?;
            if read.first().is_none_or(|first| first.sequence != self.end() + 1) {
                // Pruned meanwhile, or another database than before.
                (self.before, self.rows) = (place, VecDeque::new());
                return Ok(());
            }
            self.rows.extend(read.into_iter().map(Change::of));
            let surplus = self.rows.len().saturating_sub(limits::CHANGES_RECENT);
            self.rows.drain(..surplus);
            self.before += surplus as u64;
        }
        Ok(())
    }

    fn after(&self, place: u64) -> After {
        match place.checked_sub(self.before) {
            Some(skip) if skip < self.rows.len() as u64 => {
                After::Rows(self.rows.iter().skip(skip as usize).take(limits::CHANGES_AT_ONCE).cloned().collect())
            }
            _ => After::Gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fetchml_api::Micros;
    use fetchml_store::{ChangeDraft, Location, Write};

    async fn write(store: &Store, count: u64) {
        let draft =
            |n: u64| ChangeDraft { at: Micros(1), kind: "job", entity: (n % 2).to_string(), body: n.to_string() };
        store.commit((0..count).map(|n| Write::Change(draft(n))).collect()).await.unwrap();
    }

    async fn numbers(changes: &Changes, place: u64) -> Option<Vec<u64>> {
        match changes.after(place).await.unwrap() {
            After::Rows(rows) => Some(rows.iter().map(|change| change.row.sequence).collect()),
            After::Gone => None,
        }
    }

    #[tokio::test]
    async fn every_place_is_followed_by_the_next_row_wherever_it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Sqlite(dir.path().join("test.db"))).await.unwrap();
        let changes = Changes::new(&store);
        assert_eq!(numbers(&changes, 0).await, Some(vec![]));
        assert_eq!(numbers(&changes, 1).await, None, "a place that never was");
        write(&store, 3).await;
        assert_eq!(numbers(&changes, 0).await, Some(vec![1, 2, 3]));
        assert_eq!(numbers(&changes, 2).await, Some(vec![3]));
        assert_eq!(numbers(&changes, 3).await, Some(vec![]));

        let many = 2 * limits::CHANGES_RECENT as u64;
        write(&store, many).await;
        let end = 3 + many;
        for place in [0, 2, 3, 4, 500, many / 2, end - 2, end - 1, 1, end - 1] {
            let after = numbers(&changes, place).await.unwrap();
            assert_eq!(after[0], place + 1);
            assert!(after.windows(2).all(|pair| pair[0] + 1 == pair[1]), "no gap after {place}");
            assert!(after.len() <= limits::CHANGES_AT_ONCE);
        }
        assert!(changes.recent.lock().await.rows.len() <= limits::CHANGES_RECENT);

        let After::Rows(of_one) = changes.after_of(1, "1").await.unwrap() else { panic!("nothing is gone") };
        assert!(of_one.iter().all(|change| change.row.entity == "1" && change.row.sequence > 1));
        assert!(matches!(changes.after_of(end + 1, "1").await.unwrap(), After::Gone));
    }
}
