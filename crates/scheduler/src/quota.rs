//! How much a user may have at once. A quota makes tasks wait; a submit is refused only when too many
//! tasks of the user wait already, or when the task alone asks for more than it may ever have.

use crate::NewTask;
use crate::{
    Answer, Effect, Scheduler, audit,
    event::Refusal,
    share::{Account, Amounts},
};
use fetchml_api::{Demand, Quota, QuotaRecord, QuotaScope, Role};
use std::collections::BTreeMap;

/// All quotas, as set and as configured.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Quotas {
    configured: BTreeMap<QuotaScope, Quota>,
    set: BTreeMap<QuotaScope, Quota>,
}

impl Quotas {
    pub(crate) fn new(configured: &BTreeMap<QuotaScope, Quota>) -> Self {
        Self { configured: configured.clone(), set: BTreeMap::new() }
    }

    pub(crate) fn put(&mut self, record: QuotaRecord) {
        self.set.insert(record.scope, record.quota);
    }

    pub(crate) fn set(&self) -> &BTreeMap<QuotaScope, Quota> {
        &self.set
    }

    /// What holds for a user who acts in a role: field by field the user's own, else the role's; of each
    /// what was set, else what is configured.
    pub(crate) fn of(&self, user: &str, role: Role) -> Quota {
        let (own, role) = (QuotaScope::User(user.to_owned()), QuotaScope::Role(role));
        let levels = [&own, &role].map(|scope| [self.set.get(scope), self.configured.get(scope)]).concat();
        let first = |field: fn(&Quota) -> Option<u32>| levels.iter().flatten().find_map(|quota| field(quota));
        Quota {
            running: first(|quota| quota.running),
            queued: first(|quota| quota.queued),
            gpus: first(|quota| quota.gpus),
            max_priority: levels.iter().flatten().find_map(|quota| quota.max_priority),
        }
    }
}

/// Which quota stands in the way of one more attempt.
pub(crate) fn stops(quota: &Quota, account: &Account, demand: &Demand) -> Option<Refusal> {
    if let Some(limit) = quota.running.filter(|&limit| account.attempts >= limit) {
        return Some(Refusal::Running { limit });
    }
    // Those of a reservation count already.
    let counts = demand.gpu > 0 && demand.reservation.is_none();
    let gpus = account.gpus() + Amounts::of(demand).gpu;
    quota.gpus.filter(|&limit| counts && gpus > u64::from(limit)).map(|limit| Refusal::Gpus { limit })
}

impl Scheduler {
    /// Why so many tasks may not even wait.
    pub(crate) fn refuses(&self, new: &NewTask, count: usize) -> Option<Refusal> {
        let NewTask { user_id: user, role, demand, priority, .. } = new;
        let (quota, priority) = (self.quotas.of(user, *role), *priority);
        if let Some(limit) = quota.max_priority.filter(|&limit| priority > limit) {
            return Some(Refusal::Priority { limit });
        }
        // The task alone, as if its user had nothing.
        if let Some(refusal) = stops(&quota, &Account::default(), demand) {
            return Some(refusal);
        }
        let queued = self.users.find(user).map_or(0, |id| self.users.value(id).queued as usize);
        quota.queued.filter(|&limit| queued + count > limit as usize).map(|limit| Refusal::Queued { limit })
    }

    /// Which quota of its user keeps a task from being placed now.
    pub(crate) fn stopped_by_quota(&self, user: u32, demand: &Demand) -> Option<Refusal> {
        let account = self.users.value(user);
        stops(&self.quotas.of(self.users.key(user), account.role), account, demand)
    }

    pub(crate) fn on_quota_requested(
        &mut self,
        scope: QuotaScope,
        quota: Quota,
        by: &str,
        effects: &mut Vec<Effect>,
    ) -> Answer {
        if self.quotas.set.get(&scope).copied().unwrap_or_default() == quota {
            return Answer::Unchanged;
        }
        let record = QuotaRecord { scope, quota };
        effects.push(Effect::Audit(audit::quota_draft(self.now, by, &record)));
        effects.push(Effect::PutQuota(record.clone()));
        self.quotas.put(record);
        Answer::Done
    }
}
