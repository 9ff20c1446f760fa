//! What each user holds and has used, for fair shares: heads of one level go in the order of their
//! users' shares. Use decays by half in seven days. Integers only, so that every machine orders the
//! same; decay comes in whole hours of logical time.
//!
//! What is durable is the use up to some instant. The use since then follows from the attempts that
//! are charged: those with GPUs from the moment these are set aside, others from the start of user
//! code, all until their processes are dead.

use crate::{Effect, Scheduler, attempt::Holding};
use fetchml_api::{
    AttemptId, AttemptPhase, AttemptRecord, Demand, Micros, Role, ShareRecord, TaskId, TaskStatus, time::SECOND,
};

const HOUR: i64 = 3_600 * SECOND;
const HOUR_MS: u64 = 3_600_000;
/// 2^(-1/168) in parts of 2^64: what an hour leaves of a use that halves in seven days.
const HOURLY: u128 = 18_370_791_886_079_017_691;
/// Hours after which nothing is left of any use: 64 half-lives.
const HOURS_MAX: u64 = 64 * 168;
/// What a use comes to when the same is held for ever, as time: 7 days / ln 2, milliseconds.
const STEADY_MS: u128 = 872_541_960;
/// Shares are in parts of this.
const SCALE: u128 = 1 << 40;

/// Amounts of what a worker has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Amounts {
    pub(crate) cpu: u64,
    pub(crate) memory_gb: u64,
    pub(crate) gpu: u64,
}

impl Amounts {
    pub(crate) fn of(demand: &Demand) -> Self {
        let nodes = |amount: u32| u64::from(amount) * u64::from(demand.nodes);
        Self { cpu: nodes(demand.cpu), memory_gb: nodes(demand.memory_gb), gpu: nodes(demand.gpu) }
    }

    pub(crate) const fn add(&mut self, other: Self) {
        self.cpu += other.cpu;
        self.memory_gb += other.memory_gb;
        self.gpu += other.gpu;
    }

    pub(crate) const fn subtract(&mut self, other: Self) {
        self.cpu -= other.cpu;
        self.memory_gb -= other.memory_gb;
        self.gpu -= other.gpu;
    }

    /// Whether one node that needs this finds as much here.
    pub(crate) fn covers(&self, demand: &Demand) -> bool {
        self.cpu >= u64::from(demand.cpu)
            && self.memory_gb >= u64::from(demand.memory_gb)
            && self.gpu >= u64::from(demand.gpu)
    }

    const fn is_none(self) -> bool {
        self.cpu == 0 && self.memory_gb == 0 && self.gpu == 0
    }

    fn map(self, f: impl Fn(u64) -> u64) -> Self {
        Self { cpu: f(self.cpu), memory_gb: f(self.memory_gb), gpu: f(self.gpu) }
    }

    /// What this comes to in so many milliseconds.
    fn for_ms(self, ms: u64) -> Self {
        self.map(|amount| amount.saturating_mul(ms))
    }

    fn plus(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_add(other.cpu),
            memory_gb: self.memory_gb.saturating_add(other.memory_gb),
            gpu: self.gpu.saturating_add(other.gpu),
        }
    }
}

/// One user's account.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    /// Attempts that hold or will hold a slot.
    pub(crate) attempts: u32,
    /// Tasks that wait.
    pub(crate) queued: u32,
    /// In which the user submitted last.
    pub(crate) role: Role,
    /// What these attempts hold, or will, without the GPUs of reservations.
    pub(crate) held: Amounts,
    /// GPUs of reservations, held or not.
    pub(crate) reserved: u64,
    /// The part of it that is charged.
    charged: Amounts,
    /// Decayed use at `as_of`, each amount times milliseconds.
    used: Amounts,
    /// None: nothing was ever charged, and there is no row.
    as_of: Option<Micros>,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            attempts: 0,
            queued: 0,
            role: Role::User,
            held: Amounts::default(),
            reserved: 0,
            charged: Amounts::default(),
            used: Amounts::default(),
            as_of: None,
        }
    }
}

/// A share as a part of all.
pub(crate) fn fraction(share: u64) -> f64 {
    share as f64 / SCALE as f64
}

impl Account {
    pub(crate) fn from_record(record: &ShareRecord) -> Self {
        Self {
            used: Amounts { cpu: record.cpu_ms, memory_gb: record.memory_gb_ms, gpu: record.gpu_ms },
            as_of: Some(record.as_of),
            ..Self::default()
        }
    }

    pub(crate) fn record(&self, user_id: &str) -> Option<ShareRecord> {
        Some(ShareRecord {
            user_id: user_id.to_owned(),
            cpu_ms: self.used.cpu,
            memory_gb_ms: self.used.memory_gb,
            gpu_ms: self.used.gpu,
            as_of: self.as_of?,
        })
    }

    /// GPUs of attempts and of reservations.
    pub(crate) const fn gpus(&self) -> u64 {
        self.held.gpu + self.reserved
    }

    /// Decayed use at `now`.
    fn used_at(&self, now: Micros) -> Amounts {
        let Some(from) = self.as_of.filter(|&from| from < now) else { return self.used };
        let hours = now.0.div_euclid(HOUR).abs_diff(from.0.div_euclid(HOUR));
        if hours == 0 {
            return self.used.plus(self.charged.for_ms(milliseconds(from, now)));
        }
        if self.charged.is_none() {
            return decayed(self.used, hours);
        }
        let first = Micros((from.0.div_euclid(HOUR) + 1) * HOUR);
        let mut used = self.used.plus(self.charged.for_ms(milliseconds(from, first)));
        used = decayed(used, 1);
        // Beyond this many hours the sum does not change any more.
        for _ in 1..hours.min(HOURS_MAX) {
            used = decayed(used.plus(self.charged.for_ms(HOUR_MS)), 1);
        }
        let last = Micros(now.0.div_euclid(HOUR) * HOUR);
        used.plus(self.charged.for_ms(milliseconds(last, now)))
    }

    /// Dominant share of `totals`: of use over time and of what is held now, in parts of [`SCALE`].
    pub(crate) fn share(&self, now: Micros, totals: Amounts) -> u64 {
        let used = self.used_at(now);
        let of = |used: u64, held: u64, total: u64| {
            let amount = u128::from(used) * SCALE / STEADY_MS + u128::from(held) * SCALE;
            // What no worker has weighs nothing.
            amount.checked_div(total.into()).unwrap_or(0)
        };
        let cpu = of(used.cpu, self.held.cpu, totals.cpu);
        let memory = of(used.memory_gb, self.held.memory_gb, totals.memory_gb);
        let gpu = of(used.gpu, self.gpus(), totals.gpu);
        u64::try_from(cpu.max(memory).max(gpu)).unwrap_or(u64::MAX)
    }

    fn settle(&mut self, now: Micros) {
        self.used = self.used_at(now);
        self.as_of = Some(self.as_of.map_or(now, |as_of| as_of.max(now)));
    }
}

const fn milliseconds(from: Micros, to: Micros) -> u64 {
    // Times of logical clocks are whole microseconds; both ends are cut alike, so that nothing adds up.
    (to.0.div_euclid(1_000)).abs_diff(from.0.div_euclid(1_000))
}

/// What so many hours leave.
fn decayed(used: Amounts, hours: u64) -> Amounts {
    if hours >= HOURS_MAX {
        return Amounts::default();
    }
    let (mut factor, mut square, mut left) = (1_u128 << 64, HOURLY, hours);
    while left > 0 {
        if left & 1 == 1 {
            factor = (factor * square) >> 64;
        }
        square = (square * square) >> 64;
        left >>= 1;
    }
    used.map(|amount| u64::try_from((u128::from(amount) * factor) >> 64).expect("decay makes nothing more"))
}

/// Whether an attempt is charged, as far as its record tells.
pub(crate) fn is_charged(record: &AttemptRecord, demand: &Demand) -> bool {
    record.phase == AttemptPhase::Running || (demand.gpu > 0 && record.phase < AttemptPhase::Collecting)
}

/// Since when, if it is.
fn charged_from(record: &AttemptRecord, demand: &Demand) -> Micros {
    if demand.gpu > 0 { record.created_at } else { record.started_at.unwrap_or(record.created_at) }
}

impl Scheduler {
    /// A user's share now; the lowest goes first among heads of one level.
    pub(crate) fn share(&self, user: u32) -> u64 {
        self.users.value(user).share(self.now, self.fleet.totals())
    }

    /// A new attempt of this user counts from now on.
    pub(crate) fn begin_holding(&mut self, task: TaskId) {
        let (user, amounts) = self.amounts(task);
        let account = self.users.value_mut(user);
        account.attempts += 1;
        account.held.add(amounts);
    }

    /// An attempt holds nothing any more.
    pub(crate) fn end_holding(&mut self, task: TaskId) {
        let (user, amounts) = self.amounts(task);
        let account = self.users.value_mut(user);
        account.attempts -= 1;
        account.held.subtract(amounts);
    }

    /// Charges for an attempt from now on.
    pub(crate) fn begin_charge(&mut self, task: TaskId) {
        let (user, amounts) = self.amounts(task);
        self.charge(user, amounts);
    }

    /// Charges for GPUs that a user has to himself from now on, whatever runs on them.
    pub(crate) fn begin_reserved_charge(&mut self, user: u32, gpus: u32) {
        self.charge(user, Amounts { gpu: gpus.into(), ..Amounts::default() });
    }

    fn charge(&mut self, user: u32, amounts: Amounts) {
        if self.users.value(user).as_of.is_none() {
            // The account outlives the user's tasks.
            self.users.retain(user);
        }
        let now = self.now;
        let account = self.users.value_mut(user);
        account.settle(now);
        account.charged.add(amounts);
        self.dirty.insert(user);
    }

    /// Charges no more for an attempt, and adds what it used to what the store counts.
    pub(crate) fn end_charge(&mut self, id: AttemptId, effects: &mut Vec<Effect>) {
        let record = &self.attempts[&id].record;
        let task = record.task_id;
        let demand = self.queues.demand(self.tasks[&task].shape);
        let used = Amounts::of(demand).for_ms(milliseconds(charged_from(record, demand), self.now));
        let (user, amounts) = self.amounts(task);
        self.uncharge(user, amounts);
        effects.push(Effect::AddUsage { task, cpu_ms: used.cpu, gpu_ms: used.gpu });
    }

    /// Charges no more for GPUs that a user had to himself.
    pub(crate) fn end_reserved_charge(&mut self, user: u32, gpus: u32) {
        self.uncharge(user, Amounts { gpu: gpus.into(), ..Amounts::default() });
    }

    fn uncharge(&mut self, user: u32, amounts: Amounts) {
        let now = self.now;
        let account = self.users.value_mut(user);
        account.settle(now);
        account.charged.subtract(amounts);
        self.dirty.insert(user);
    }

    /// The charge of an attempt that is restored: what its user used before is in the user's row.
    pub(crate) fn restore_charge(&mut self, task: TaskId) {
        let (user, amounts) = self.amounts(task);
        self.put_back_charge(user, amounts);
    }

    /// As [`Scheduler::restore_charge`], of a reservation.
    pub(crate) fn restore_reserved_charge(&mut self, user: u32, gpus: u32) {
        self.put_back_charge(user, Amounts { gpu: gpus.into(), ..Amounts::default() });
    }

    fn put_back_charge(&mut self, user: u32, amounts: Amounts) {
        let account = self.users.value_mut(user);
        assert!(account.as_of.is_some(), "who is charged has a row");
        account.charged.add(amounts);
    }

    /// Writes the accounts that changed in this step.
    pub(crate) fn put_shares(&mut self, effects: &mut Vec<Effect>) {
        while let Some(user) = self.dirty.pop_first() {
            let record = self.users.value(user).record(self.users.key(user));
            effects.extend(record.map(Effect::PutShare));
        }
    }

    /// Use of current attempts that the store does not count yet: user, milliseconds of cores and GPUs.
    pub fn usage_running(&self, now: Micros) -> impl Iterator<Item = (TaskId, u64, u64)> {
        self.attempts.values().filter_map(move |attempt| {
            let task = attempt.record.task_id;
            let demand = self.queues.demand(self.tasks[&task].shape);
            (attempt.holding != Holding::Nothing && is_charged(&attempt.record, demand)).then(|| {
                let used =
                    Amounts::of(demand).for_ms(milliseconds(charged_from(&attempt.record, demand), now.max(self.now)));
                (task, used.cpu, used.gpu)
            })
        })
    }

    /// What an attempt of a task counts for in its user's account: the GPUs of a reservation count there
    /// by themselves.
    fn amounts(&self, task: TaskId) -> (u32, Amounts) {
        let task = &self.tasks[&task];
        let demand = self.queues.demand(task.shape);
        let amounts = Amounts::of(demand);
        (task.user, if demand.reservation.is_some() { Amounts { gpu: 0, ..amounts } } else { amounts })
    }

    /// Panics unless every account is what its attempts say.
    pub(crate) fn assert_accounts(&self) {
        let mut accounts: std::collections::BTreeMap<u32, (u32, Amounts, Amounts)> = std::collections::BTreeMap::new();
        for attempt in self.attempts.values() {
            let (user, amounts) = self.amounts(attempt.record.task_id);
            let account = accounts.entry(user).or_default();
            if attempt.holding != Holding::Nothing {
                account.0 += 1;
                account.1.add(amounts);
            }
            if attempt.holding != Holding::Nothing
                && is_charged(&attempt.record, self.queues.demand(self.tasks[&attempt.record.task_id].shape))
            {
                account.2.add(amounts);
            }
        }
        let mut reserved: std::collections::BTreeMap<&str, u64> = std::collections::BTreeMap::new();
        for record in self.reservations() {
            *reserved.entry(&record.user_id).or_default() += u64::from(record.gpus());
            if record.expires_at.is_some() {
                let user = self.users.find(&record.user_id).expect("who has a reservation has an account");
                accounts.entry(user).or_default().2.gpu += u64::from(record.gpus());
            }
        }
        let mut queued: std::collections::BTreeMap<u32, u32> = std::collections::BTreeMap::new();
        for task in self.tasks.values().filter(|task| task.status == TaskStatus::Queued) {
            *queued.entry(task.user).or_default() += 1;
        }
        for (user, name, account, _) in self.users.iter() {
            assert_eq!(account.queued, queued.remove(&user).unwrap_or(0), "tasks of {name} that wait");
            assert_eq!(account.reserved, reserved.remove(name.as_str()).unwrap_or(0), "GPUs reserved for {name}");
            let expected = accounts.remove(&user).unwrap_or_default();
            assert_eq!((account.attempts, account.held, account.charged), expected, "the account of {name}");
        }
        assert!(self.dirty.is_empty(), "changed accounts are written in the step that changed them");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(charged: u64, used: u64) -> Account {
        let amounts = |cpu| Amounts { cpu, memory_gb: 0, gpu: 0 };
        Account { charged: amounts(charged), used: amounts(used), as_of: Some(Micros(0)), ..Account::default() }
    }

    fn days(n: i64) -> Micros {
        Micros(n * 24 * HOUR)
    }

    #[test]
    fn use_halves_in_seven_days() {
        for (day, expected) in [(0, 1_000_000), (7, 500_000), (14, 250_000), (70, 976)] {
            let left = account(0, 1_000_000).used_at(days(day)).cpu;
            assert!(left.abs_diff(expected) <= 1, "day {day}: {left}");
        }
        assert_eq!(account(0, u64::MAX).used_at(days(10_000)).cpu, 0);
    }

    #[test]
    fn who_holds_the_same_for_ever_has_used_as_much_as_he_holds() {
        let totals = Amounts { cpu: 10, memory_gb: 0, gpu: 0 };
        let share = account(5, 0).share(days(700), totals);
        let half = u64::try_from(SCALE / 2).unwrap();
        assert!(share.abs_diff(half) < half / 100, "{share} of {half}");
        assert_eq!(account(5, 0).used_at(days(7_000)), account(5, 0).used_at(days(9_000)), "it does not grow for ever");
    }

    #[test]
    fn settling_in_between_changes_next_to_nothing() {
        let mut often = account(3, 1_000);
        for hour in 1..=200 {
            often.settle(Micros(hour * HOUR + 7 * SECOND));
        }
        let once = account(3, 1_000).used_at(Micros(200 * HOUR + 7 * SECOND)).cpu;
        assert!(often.used.cpu.abs_diff(once) <= 200, "{} {once}", often.used.cpu);
    }

    #[test]
    fn the_largest_share_of_any_resource_counts() {
        let totals = Amounts { cpu: 100, memory_gb: 1_000, gpu: 4 };
        let held = |cpu, memory_gb, gpu| {
            let account = Account { held: Amounts { cpu, memory_gb, gpu }, ..Account::default() };
            account.share(Micros(0), totals)
        };
        assert_eq!(held(50, 0, 0), held(1, 500, 2));
        assert!(held(1, 0, 1) > held(20, 200, 0));
        let nobody_has_any = Account { held: Amounts { cpu: 0, memory_gb: 0, gpu: 9 }, ..Account::default() };
        assert_eq!(nobody_has_any.share(Micros(0), Amounts::default()), 0);
    }
}
