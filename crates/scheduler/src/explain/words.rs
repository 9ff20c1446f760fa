//! The sentences. Every one says what is so and, where there is something, how much.

use super::{
    candidate::Candidate,
    changes,
    estimate::Ahead,
    verdict::{Group, Survey, matching},
};
use crate::{BlockedBy, Refusal, Scheduler};
use fetchml_api::{
    Change, ChangeEffect, ChangeKind, Constraint, Demand, Explanation, GpuState, TaskId, TaskStatus, Verdict,
    WaitReason, WorkerId, WorkerName, time::SECOND,
};

/// An explanation of which there is no more to say.
pub(super) fn plain(task_id: Option<TaskId>, reason: WaitReason, summary: &str) -> Explanation {
    Explanation {
        task_id,
        reason,
        summary: summary.to_owned(),
        waits_for: Vec::new(),
        ahead: 0,
        estimated_start: None,
        changes: Vec::new(),
        workers: Vec::new(),
        warnings: Vec::new(),
    }
}

pub(super) fn placed(status: TaskStatus) -> String {
    match status {
        TaskStatus::Preparing => "It has its place: its worker prepares code and environment.".into(),
        TaskStatus::Running => "It runs.".into(),
        TaskStatus::Collecting => "It has run; its log and files are being stored.".into(),
        TaskStatus::Queued | TaskStatus::Completed | TaskStatus::Failed => "It does not wait for a place.".into(),
    }
}

impl Scheduler {
    pub(super) fn summary(
        &self,
        candidate: &Candidate,
        reason: WaitReason,
        survey: &Survey<'_>,
        ahead: &Ahead,
    ) -> String {
        let demand = &candidate.needs.demand;
        match reason {
            WaitReason::Starts => "It would start at once.".into(),
            WaitReason::Deciding => "Something has just changed: it is placed within a second, or not.".into(),
            WaitReason::Placed | WaitReason::Ended => "It does not wait.".into(),
            WaitReason::Dependency => match &candidate.blocked {
                Some(BlockedBy::Dependencies { count: 1, .. }) => "It waits for another task to end.".into(),
                Some(BlockedBy::Dependencies { count, .. }) => format!("It waits for {count} other tasks to end."),
                _ => "A task that it depends on did not complete: it is about to fail.".into(),
            },
            WaitReason::ArrayLimit => match &candidate.blocked {
                Some(BlockedBy::ArrayLimit(limit)) => {
                    format!("It waits for its turn: its array runs at most {} at once.", of(*limit, "task"))
                }
                _ => "It waits for its turn within its array.".into(),
            },
            WaitReason::Backoff => {
                let wait = candidate.not_before.map_or(0, |at| at.since(self.now));
                format!("Its last attempt failed; the next is made in {}.", time(wait))
            }
            WaitReason::QuotaRunning | WaitReason::QuotaGpus => Self::quota_summary(candidate),
            WaitReason::NoWorkers if survey.all.is_empty() => "No worker has ever been connected.".into(),
            WaitReason::NoWorkers => "No worker is connected.".into(),
            WaitReason::NothingFits => nothing_fits(demand, survey),
            WaitReason::TooFewWorkers => {
                let could = survey.all.iter();
                let could = could.filter(|((verdict, _), _)| !matches!(verdict, Verdict::Lacks | Verdict::Excluded));
                let could: usize = could.map(|(_, group)| group.count).sum();
                format!("It needs {} at once, and only {could} could run it.", of(demand.nodes, "worker"))
            }
            WaitReason::Unavailable => unavailable(survey),
            WaitReason::GpusUnavailable => self.gpus_unavailable(candidate, survey),
            WaitReason::Reserved => match demand.reservation {
                Some(reservation) => format!("Its reservation {reservation} does not hold enough GPUs yet."),
                None => "GPUs that it needs are set aside for reservations.".into(),
            },
            WaitReason::Held => self.held_for_others(survey),
            WaitReason::Behind => {
                let waits = if ahead.count == 1 { "waits" } else { "wait" };
                let more = if ahead.count >= super::COUNTED { "at least " } else { "" };
                let why = if ahead.others {
                    "by priority, waiting time and fair share"
                } else {
                    "by priority and waiting time"
                };
                let tasks = of(ahead.count, "task");
                format!(
                    "{}, and {more}{tasks} that {waits} go{} before it {why}.",
                    full(demand, survey),
                    s(ahead.count)
                )
            }
            WaitReason::Busy if candidate.hold.is_some() => {
                let workers = candidate.hold.as_ref().map(|hold| survey.names(&hold.workers)).unwrap_or_default();
                format!("{} held for it, and it starts when enough of what runs there has ended.", are(&workers))
            }
            WaitReason::Busy => format!("{}; it is next.", full(demand, survey)),
        }
    }

    fn quota_summary(candidate: &Candidate) -> String {
        let (user, account) = (&candidate.user, &candidate.account);
        match candidate.stopped_by_quota() {
            Some(Refusal::Running { limit }) => {
                format!("{user} may have {} running at once, and has {}.", of(limit, "task"), account.attempts)
            }
            Some(Refusal::Gpus { limit }) => {
                let wanted = u64::from(candidate.needs.demand.gpu) * u64::from(candidate.needs.demand.nodes);
                let held = match (account.gpus(), account.reserved) {
                    (held, 0) => held.to_string(),
                    (held, reserved) => format!("{held}, {reserved} of them reserved"),
                };
                format!("{user} may have {} at once and has {held}; this task needs {wanted}.", of(limit, "GPU"))
            }
            _ => format!("A quota of {user} does not allow it now."),
        }
    }

    fn held_for_others(&self, survey: &Survey<'_>) -> String {
        let workers: Vec<WorkerId> = survey.of(Verdict::Held).flat_map(|(_, group)| group.workers.clone()).collect();
        let holder = workers.first().and_then(|&id| self.fleet.get(id)?.held_for.as_ref().map(|held| held.task));
        let names = survey.names(&workers);
        match holder.and_then(|holder| Some((holder, self.tasks.get(&holder)?))) {
            Some((holder, task)) => format!(
                "The room on {} is held for task {holder}, which has waited {}.",
                list(&names),
                time(self.now.since(task.queued_since))
            ),
            None => format!("The room on {} is held for another task.", list(&names)),
        }
    }

    fn gpus_unavailable(&self, candidate: &Candidate, survey: &Survey<'_>) -> String {
        let workers = survey.of(Verdict::GpusUnavailable).flat_map(|(_, group)| group.workers.iter().copied());
        for id in workers {
            if let Some(sentence) = self.lost_device(id, candidate) {
                return sentence;
            }
        }
        "GPUs that it needs are withheld or faulty.".into()
    }

    /// The first device of a worker that is not available, and why.
    fn lost_device(&self, id: WorkerId, candidate: &Candidate) -> Option<String> {
        let worker = self.fleet.get(id)?;
        let gpu = matching(worker, &candidate.gpu_tokens).find(|gpu| gpu.state != GpuState::Available)?;
        let why = gpu.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        Some(format!("GPU {} of {} is {}{why}.", gpu.index, worker.record.name, gpu.state.as_str()))
    }
}

/// What the workers have too little of that come nearest.
fn nothing_fits(demand: &Demand, survey: &Survey<'_>) -> String {
    let Some((constraints, group)) = survey.of(Verdict::Lacks).next() else {
        return "A rule keeps it off every worker that could run it, after attempts there failed.".into();
    };
    let worst = constraints.last().copied().unwrap_or(Constraint::Slots);
    let most = group.obstacles.get(&worst).map_or(0, |obstacle| obstacle.most);
    let have = |wanted: u32, what: &str| {
        let most = if most == 0 { "none has any".to_owned() } else { format!("the most that one has is {most}") };
        format!("No worker has {wanted} {what}; {most}.")
    };
    match worst {
        Constraint::Image => "No worker runs containers, and the task names an image.".into(),
        Constraint::Slots => "No worker has a slot for tasks of its kind.".into(),
        Constraint::Cpu => have(demand.cpu, "cores"),
        Constraint::MemoryGb => have(demand.memory_gb, "GiB of memory"),
        Constraint::Gpus if demand.gpu == 1 => "No worker has a GPU.".into(),
        Constraint::Gpus => have(demand.gpu, "GPUs"),
        Constraint::GpuType => {
            let kind = demand.gpu_type.as_deref().unwrap_or("that type");
            let names: Vec<&str> = group.device_names.iter().map(String::as_str).collect();
            let wanted = if demand.gpu == 1 {
                format!("a GPU of type {kind}")
            } else {
                format!("{} GPUs of type {kind}", demand.gpu)
            };
            format!("No worker has {wanted}; there are: {}.", names.join(", "))
        }
    }
}

fn unavailable(survey: &Survey<'_>) -> String {
    let of = |verdict, word: &str| {
        let count = survey.count(verdict);
        (count > 0).then(|| format!("{count} {word}"))
    };
    let why = [of(Verdict::Draining, "drained"), of(Verdict::Unfit, "unfit"), of(Verdict::Offline, "offline")];
    let why: Vec<String> = why.into_iter().flatten().collect();
    let first = [Verdict::Draining, Verdict::Unfit, Verdict::Offline]
        .into_iter()
        .find_map(|verdict| survey.of(verdict).find_map(|(_, group)| group.workers.first().copied()));
    let name = survey.names(&first.into_iter().collect::<Vec<_>>());
    match (&why[..], &name[..]) {
        ([one], [only]) if one.starts_with("1 ") => {
            format!("Only worker {} could run it now, and it is {}.", only.name, one.trim_start_matches("1 "))
        }
        _ => format!("The workers that could run it take no work: {}.", why.join(", ")),
    }
}

/// How full the workers are that could run it.
fn full(demand: &Demand, survey: &Survey<'_>) -> String {
    let count = survey.hosts.len();
    let of_what = survey.of(Verdict::Full).next().map(|(constraints, _)| constraints);
    // Without a slot the rest is of no use.
    let of_what = of_what.filter(|constraints| !constraints.contains(&Constraint::Slots));
    let of_what = of_what.and_then(|constraints| constraints.last().copied());
    let what = match of_what {
        Some(Constraint::Cpu) => "cores",
        Some(Constraint::MemoryGb) => "memory",
        Some(Constraint::Gpus | Constraint::GpuType) if demand.gpu > 1 => "enough GPUs",
        Some(Constraint::Gpus | Constraint::GpuType) => "GPU",
        Some(Constraint::Slots | Constraint::Image) | None => "slot",
    };
    let free = if matches!(what, "GPU" | "slot") { format!("a free {what}") } else { format!("{what} free") };
    match (&survey.names(&survey.hosts)[..], demand.nodes) {
        ([only], 1) => format!("Worker {} is the only one that could run it, and has not {free} now", only.name),
        (_, 1) => format!("None of the {count} workers that could run it has {free} now"),
        (_, nodes) => format!("Fewer than {nodes} of the {count} workers that could run it have {free} now"),
    }
}

/// What a group of workers means.
pub(super) fn group(survey: &Survey<'_>, verdict: Verdict, group: &Group) -> String {
    let obstacles = || {
        let each = group.obstacles.values().map(|obstacle| {
            let (what, unit) = match obstacle.constraint {
                Constraint::Image => return "no engine for containers".to_owned(),
                Constraint::Slots => return "no slot".to_owned(),
                Constraint::Cpu => ("cores", ""),
                Constraint::MemoryGb => ("memory", " GiB"),
                Constraint::Gpus => ("GPUs", ""),
                Constraint::GpuType => ("GPUs of its type", ""),
            };
            format!("{what}: {}{unit} of {}{unit}", obstacle.most, obstacle.wanted)
        });
        each.collect::<Vec<_>>().join(", ")
    };
    let first = || group.workers.first().and_then(|&id| survey.fleet.get(id));
    match verdict {
        Verdict::Fits => "has room".into(),
        Verdict::Held => match first().and_then(|worker| worker.held_for.as_ref()) {
            Some(held) => format!("held for task {}", held.task),
            None => "held for another task".into(),
        },
        Verdict::Full => format!("full; free {}", obstacles()),
        Verdict::Reserved if survey.candidate.needs.demand.reservation.is_some() => {
            "not set aside for its reservation".into()
        }
        Verdict::Reserved => "set aside for reservations".into(),
        Verdict::GpusUnavailable => format!("withheld or faulty devices; available {}", obstacles()),
        Verdict::Draining => "drained by an operator".into(),
        Verdict::Unfit => match first().and_then(|worker| worker.record.unfit.clone()) {
            Some(why) => format!("drains itself: {why}"),
            None => "drains itself".into(),
        },
        Verdict::Offline => "not connected, or silent".into(),
        Verdict::Excluded => "kept off it by a rule, after an attempt there failed".into(),
        Verdict::Lacks => format!("too small or without what it needs; has {}", obstacles()),
    }
}

pub(super) fn change(candidate: &Candidate, kind: ChangeKind, value: i64) -> Change {
    let demand = &candidate.needs.demand;
    let submitted = if candidate.waits { "submitted again" } else { "submitted" };
    let summary = match kind {
        ChangeKind::TimeLimitS => {
            format!(
                "{submitted} with a time limit of at most {}, it would run now on a worker that is held for another",
                time(value * SECOND)
            )
        }
        ChangeKind::Priority => format!("with priority {value} it would be next"),
        ChangeKind::MemoryGb => {
            format!("{submitted} with {value} GiB of memory instead of {}, it would start now", demand.memory_gb)
        }
        ChangeKind::Cpu => format!("{submitted} with {value} cores instead of {}, it would start now", demand.cpu),
        ChangeKind::GpuType => format!("{submitted} without a type of GPU, it would start now"),
        ChangeKind::Gpu => {
            format!("{submitted} with {} instead of {}, it would start now", of(value, "GPU"), demand.gpu)
        }
        ChangeKind::NodeCount => {
            format!("{submitted} for {} instead of {}, it would start now", of(value, "worker"), demand.nodes)
        }
        ChangeKind::QuotaRunning => {
            format!("with a quota of {} running, {} could start it now", of(value, "task"), candidate.user)
        }
        ChangeKind::QuotaGpus => format!("with a quota of {}, {} could start it now", of(value, "GPU"), candidate.user),
        ChangeKind::Undrain | ChangeKind::Gpus | ChangeKind::Workers => String::new(),
    };
    let value = (kind != ChangeKind::GpuType).then_some(value);
    Change { kind, value, effect: changes::effect(kind), summary }
}

/// As many workers more as are missing.
pub(super) fn more_workers(candidate: &Candidate, missing: usize) -> Change {
    let demand = &candidate.needs.demand;
    let missing = missing.max(1);
    let mut has = vec![format!("{} or more", of(demand.cpu.max(1), "core"))];
    if demand.memory_gb > 0 {
        has.push(format!("{} GiB of memory", demand.memory_gb));
    }
    if demand.gpu > 0 {
        let kind = demand.gpu_type.as_ref().map(|kind| format!(" of type {kind}")).unwrap_or_default();
        has.push(format!("{}{kind}", of(demand.gpu, "GPU")));
    }
    if demand.image {
        has.push("an engine for containers".into());
    }
    let (kind, value) = (ChangeKind::Workers, i64::try_from(missing).ok());
    let summary = format!("{} more with {}", of(missing, "worker"), has.join(", "));
    Change { kind, value, effect: ChangeEffect::MakesRoom, summary }
}

pub(super) fn undrain(workers: &[WorkerName]) -> Change {
    let commands: Vec<String> = workers.iter().map(|worker| format!("`fetchml undrain {}`", worker.name)).collect();
    let value = i64::try_from(workers.len()).ok();
    let summary = format!("{} would make room for it", commands.join(", "));
    Change { kind: ChangeKind::Undrain, value, effect: ChangeEffect::MakesRoom, summary }
}

pub(super) fn devices(core: &Scheduler, workers: &[WorkerId], candidate: &Candidate) -> Change {
    let lost = workers.iter().find_map(|&id| core.lost_device(id, candidate));
    let summary = format!("devices available again would make room for it; {}", lost.unwrap_or_default());
    let value = i64::try_from(workers.len()).ok();
    Change { kind: ChangeKind::Gpus, value, effect: ChangeEffect::MakesRoom, summary }
}

/// A count and what is counted.
fn of(count: impl TryInto<u64>, what: &str) -> String {
    match count.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

/// The ending of a verb.
const fn s(count: usize) -> &'static str {
    if count == 1 { "es" } else { "" }
}

fn list(workers: &[WorkerName]) -> String {
    match workers {
        [] => "a worker".into(),
        [one] => one.name.clone(),
        [one, two] => format!("{} and {}", one.name, two.name),
        [one, rest @ ..] => format!("{} and {} others", one.name, rest.len()),
    }
}

fn are(workers: &[WorkerName]) -> String {
    match workers {
        [one] => format!("Worker {} is", one.name),
        several => format!("{} are", of(several.len(), "worker")),
    }
}

/// A time in a few characters, cut to what matters.
fn time(micros: i64) -> String {
    match micros.max(0).div_euclid(SECOND) {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}
