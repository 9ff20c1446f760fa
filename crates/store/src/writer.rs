//! The one writer: takes all commits that wait, applies them in ONE transaction, and alone numbers audit and
//! change rows. A row that the database refuses costs only its own commit. What memory knows of the logs' ends
//! moves only after COMMIT, and is read again after a commit that failed.

use crate::{
    array,
    database::Database,
    limits::{BATCH_WRITES, CHANGE_AGE_US, CHANGE_ROWS, DAY_S, PROBE_BYTES, PRUNE_EVERY, PRUNE_ROWS},
    migrate::first_int,
    model::{Committed, Restored, StoreError},
    prepare::{LAST_TIME, PROBE, Prepared},
    rows, sql,
    sql::{Inserts, Table},
    value::{Run, Statement, Value, unreadable},
};
use fetchml_api::Micros;
use fetchml_audit::{Chain, Hash, genesis_hash};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked. Answered in order.
pub(crate) enum Command {
    Commit(Prepared, Reply<Committed>),
    Restore(Reply<Restored>),
    Probe(Reply<()>),
    Close(oneshot::Sender<()>),
}

/// End of the audit log as last committed, shown to readers.
pub(crate) type AuditHead = Arc<Mutex<(u64, Hash)>>;

/// One transaction, for whoever measures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommitMeasure {
    /// Commits that shared it.
    pub commits: usize,
    /// From its first statement until it was durable, or had failed.
    pub took: Duration,
    /// Whether it was committed.
    pub succeeded: bool,
}

/// Who is told of each transaction; nobody at first.
pub(crate) type Observer = Arc<OnceLock<Box<dyn Fn(CommitMeasure) + Send + Sync>>>;

/// What readers see of the ends of the logs, as last committed.
#[derive(Clone)]
pub(crate) struct Published {
    pub(crate) observer: Observer,
    pub(crate) audit: AuditHead,
    /// Number of the last change row; 0: none yet.
    pub(crate) change: watch::Receiver<u64>,
}

/// Where the logs end.
#[derive(Clone)]
struct Heads {
    chain: Chain,
    change: u64,
    last_time: i64,
}

pub(crate) struct Writer<D> {
    database: D,
    log_id: String,
    /// None after a failed commit, until they are read again.
    heads: Option<Heads>,
    observer: Observer,
    audit_head: AuditHead,
    change_head: watch::Sender<u64>,
    inserts: Inserts,
    /// Number of the newest change row at the last pruning.
    pruned_at: u64,
    /// Why nothing may be written any more.
    fatal: Option<StoreError>,
}

impl<D: Database> Writer<D> {
    pub(crate) async fn new(database: D, log_id: String) -> Result<Self, StoreError> {
        let audit_head = Arc::new(Mutex::new((0, genesis_hash(&log_id))));
        let mut writer = Self {
            database,
            log_id,
            heads: None,
            observer: Observer::default(),
            audit_head,
            change_head: watch::Sender::new(0),
            inserts: Inserts::new(D::INSERT_ROWS),
            pruned_at: 0,
            fatal: None,
        };
        let heads = writer.heads().await?;
        writer.pruned_at = heads.change;
        Ok(writer)
    }

    pub(crate) fn published(&self) -> Published {
        Published {
            observer: Arc::clone(&self.observer),
            audit: Arc::clone(&self.audit_head),
            change: self.change_head.subscribe(),
        }
    }

    /// Works until it is closed or nobody can ask any more.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut next = None;
        let mut closing = None;
        while closing.is_none() {
            let Some(command) = (match next.take() {
                Some(command) => Some(command),
                None => commands.recv().await,
            }) else {
                break;
            };
            match command {
                Command::Commit(prepared, reply) => {
                    let mut writes = prepared.writes;
                    let mut group = vec![(prepared, reply)];
                    while writes < BATCH_WRITES {
                        match commands.try_recv() {
                            Ok(Command::Commit(prepared, reply)) => {
                                writes += prepared.writes;
                                group.push((prepared, reply));
                            }
                            Ok(other) => {
                                next = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.commit(group).await;
                }
                Command::Restore(reply) => drop(reply.send(self.restore().await)),
                Command::Probe(reply) => drop(reply.send(self.probe().await)),
                Command::Close(reply) => closing = Some(reply),
            }
        }
        commands.close();
        self.database.close().await;
        if let Some(reply) = closing {
            let _ = reply.send(());
        }
    }

    /// Commits a group; each gets its own answer. A caller that has gone away does not stop its commit.
    async fn commit(&mut self, group: Vec<(Prepared, Reply<Committed>)>) {
        let (all, replies): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        let answers = match self.apply(&all).await {
            Ok(committed) => committed.into_iter().map(Ok).collect(),
            Err(StoreError::Data(_)) if all.len() > 1 => self.replay(&all).await,
            Err(error) => all.iter().map(|_| Err(error.clone())).collect::<Vec<_>>(),
        };
        for (reply, answer) in replies.into_iter().zip(answers) {
            let _ = reply.send(answer);
        }
    }

    /// One transaction each, so that only the offender is refused.
    async fn replay(&mut self, all: &[Prepared]) -> Vec<Result<Committed, StoreError>> {
        let mut answers = Vec::with_capacity(all.len());
        let mut stopped: Option<StoreError> = None;
        for prepared in all {
            let answer = match &stopped {
                // Not even tried, so its outcome is known whatever stopped the one before.
                Some(StoreError::Unknown(why)) => Err(StoreError::Unavailable(why.clone())),
                Some(error) => Err(error.clone()),
                None => self.apply(std::slice::from_ref(prepared)).await.map(|committed| committed[0]),
            };
            if let Err(error) = &answer
                && !matches!(error, StoreError::Data(_))
            {
                stopped = Some(error.clone());
            }
            answers.push(answer);
        }
        answers
    }

    /// One transaction for all of `group`; on success what each did.
    async fn apply(&mut self, group: &[Prepared]) -> Result<Vec<Committed>, StoreError> {
        if let Some(fatal) = &self.fatal {
            return Err(fatal.clone());
        }
        let mut heads = self.heads().await?.clone();
        let mut audit = Vec::new();
        let mut changes = Vec::new();
        let mut committed = Vec::with_capacity(group.len());
        for prepared in group {
            audit.extend(prepared.audit.iter().map(|draft| audit_row(&mut heads.chain, draft)));
            for draft in &prepared.changes {
                heads.change += 1;
                changes.push(vec![
                    Value::unsigned(heads.change)?,
                    draft.at.into(),
                    draft.kind.into(),
                    Value::Text(draft.entity.clone().into()),
                    Value::Text(draft.body.clone().into()),
                ]);
            }
            committed.push(Committed { audit_sequence: heads.chain.sequence, change_sequence: heads.change });
        }
        let counters = counters(group)?;
        let closing = self.closing_statements(group, &mut heads)?;

        let mut runs = Vec::new();
        // Tasks first: everything else may refer to them, they to nothing.
        let tasks: Vec<&[Value]> = group.iter().flat_map(|p| p.tasks.iter().map(Vec::as_slice)).collect();
        self.inserts.push(Table::Task, &tasks, &mut runs);
        runs.extend(counters.iter().map(Statement::run));
        runs.extend(group.iter().flat_map(|prepared| prepared.statements.iter().map(Statement::run)));
        self.inserts.push(Table::Audit, &audit, &mut runs);
        self.inserts.push(Table::Change, &changes, &mut runs);
        runs.extend(closing.iter().map(Statement::run));
        if runs.is_empty() {
            return Ok(committed);
        }
        let began = Instant::now();
        let outcome = self.transact(&runs).await;
        if let Some(tell) = self.observer.get() {
            tell(CommitMeasure { commits: group.len(), took: began.elapsed(), succeeded: outcome.is_ok() });
        }
        outcome?;
        self.publish(heads);
        Ok(committed)
    }

    /// Runs a transaction. After a failure what memory knows counts for nothing.
    async fn transact(&mut self, runs: &[Run<'_>]) -> Result<(), StoreError> {
        let outcome = self.database.transact(runs).await;
        if let Err(error) = &outcome {
            self.heads = None;
            if matches!(error, StoreError::Fatal(_)) {
                self.fatal = Some(error.clone());
            }
        }
        outcome
    }

    /// The latest time when it moved, and pruning of old change rows when it is due.
    fn closing_statements(&mut self, group: &[Prepared], heads: &mut Heads) -> Result<Vec<Statement>, StoreError> {
        let mut statements = Vec::new();
        let last_time = group.iter().map(|prepared| prepared.last_time).max().unwrap_or(0);
        if last_time > heads.last_time {
            heads.last_time = last_time;
            statements.push(Statement::new(sql::META_PUT, vec![LAST_TIME.into(), Value::word(last_time)]));
        }
        if heads.change >= self.pruned_at + PRUNE_EVERY {
            self.pruned_at = heads.change;
            let params = vec![
                Value::unsigned(PRUNE_ROWS)?,
                Value::unsigned(heads.change.saturating_sub(CHANGE_ROWS))?,
                Value::Int(heads.last_time.saturating_sub(CHANGE_AGE_US)),
            ];
            statements.push(Statement::new(sql::CHANGE_PRUNE, params));
        }
        Ok(statements)
    }

    fn publish(&mut self, heads: Heads) {
        *self.audit_head.lock().unwrap_or_else(PoisonError::into_inner) = (heads.chain.sequence, heads.chain.head);
        self.change_head.send_if_modified(|head| std::mem::replace(head, heads.change) != heads.change);
        self.heads = Some(heads);
    }

    /// Where the logs end, from memory or from the database.
    async fn heads(&mut self) -> Result<&Heads, StoreError> {
        if self.heads.is_none() {
            let mut chain = Chain::new(&self.log_id);
            if let Some(mut row) = self.database.query(sql::AUDIT_HEAD, &[]).await?.pop() {
                chain.sequence = row.number()?;
                chain.head = row.hash()?;
            }
            let change = first_int(self.database.query(sql::CHANGE_HEAD, &[]).await?)?;
            let change = u64::try_from(change).map_err(unreadable)?;
            let last_time = match self.database.query(sql::META_GET, &[LAST_TIME.into()]).await?.pop() {
                Some(mut row) => row.parse()?,
                None => 0,
            };
            self.publish(Heads { chain, change, last_time });
        }
        Ok(self.heads.as_ref().expect("published above"))
    }

    /// Reads on the writing connection: what it reads is what the next commit builds on.
    async fn restore(&mut self) -> Result<Restored, StoreError> {
        let last_time = Micros(self.heads().await?.last_time);
        let tasks = self.database.query(sql::TASKS_LIVE, &[]).await?;
        let tasks = tasks.into_iter().map(rows::read_task).collect::<Result<Vec<_>, _>>()?;
        let ended = array::ended(&mut self.database, &tasks).await?;
        let attempts = self.database.query(sql::ATTEMPTS_LIVE, &[]).await?;
        let checkpoints = self.database.query(sql::CHECKPOINTS_LIVE, &[]).await?;
        let workers = self.database.query(sql::WORKERS, &[]).await?;
        let shares = self.database.query(sql::SHARES, &[]).await?;
        let quotas = self.database.query(sql::QUOTAS, &[]).await?;
        let reservations = self.database.query(sql::RESERVATIONS_LIVE, &[]).await?;
        let last = self.database.query(sql::TASK_LAST, &[]).await?.pop();
        let day_ago = last_time.plus_seconds(-DAY_S);
        let completed = self.database.query(sql::COMPLETED_BY_MINUTE, &[day_ago.into()]).await?;
        Ok(Restored {
            completed_by_minute: completed
                .into_iter()
                .map(|mut row| Ok((row.int()?, row.int()?)))
                .collect::<Result<_, StoreError>>()?,
            tasks,
            ended,
            checkpoints: checkpoints
                .into_iter()
                .map(|mut row| Ok((row.parse()?, row.time()?)))
                .collect::<Result<_, StoreError>>()?,
            attempts: attempts.into_iter().map(rows::read_attempt).collect::<Result<_, _>>()?,
            workers: workers.into_iter().map(rows::read_worker).collect::<Result<_, _>>()?,
            shares: shares.into_iter().map(rows::read_share).collect::<Result<_, _>>()?,
            quotas: quotas.into_iter().map(rows::read_quota).collect::<Result<_, _>>()?,
            reservations: reservations.into_iter().map(rows::read_reservation).collect::<Result<_, _>>()?,
            last_task_id: last.ok_or_else(|| unreadable("no row"))?.optional_parse()?,
            last_time,
        })
    }

    /// Writes more than a page and takes it away again.
    async fn probe(&mut self) -> Result<(), StoreError> {
        if let Some(fatal) = &self.fatal {
            return Err(fatal.clone());
        }
        let filler = Value::Text("0".repeat(PROBE_BYTES).into());
        let put = Statement::new(sql::META_PUT, vec![PROBE.into(), filler]);
        let delete = Statement::new(sql::META_DELETE, vec![PROBE.into()]);
        self.transact(&[put.run(), delete.run()]).await
    }
}

fn audit_row(chain: &mut Chain, draft: &fetchml_api::AuditDraft) -> Vec<Value> {
    let sealed = chain.append(draft);
    vec![
        Value::Int(sealed.sequence as i64),
        draft.at.into(),
        draft.kind.as_str().into(),
        Value::Text(draft.user_id.clone().into()),
        Value::Text(draft.resource.clone().into()),
        Value::Text(draft.action.clone().into()),
        draft.success.into(),
        Value::Blob(sealed.body),
        Value::Blob(sealed.prev_hash.to_vec()),
        Value::Blob(sealed.event_hash.to_vec()),
    ]
}

/// One statement for each pair of submitter and status among the new tasks.
fn counters(group: &[Prepared]) -> Result<Vec<Statement>, StoreError> {
    let mut counts: BTreeMap<(&str, &'static str), i64> = BTreeMap::new();
    for (user, status) in group.iter().flat_map(|prepared| &prepared.counted) {
        *counts.entry((user, status)).or_default() += 1;
    }
    let statement = |((user, status), tasks): ((&str, &'static str), i64)| {
        let params = vec![Value::text(user.to_owned())?, status.into(), tasks.into()];
        Ok(Statement::new(sql::COUNTER_ADD, params))
    };
    counts.into_iter().map(statement).collect()
}

#[cfg(test)]
mod tests;
