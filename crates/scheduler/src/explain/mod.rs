//! Why a task waits. Reads the core and changes nothing, and asks the same functions that place tasks: where
//! [`WaitReason::Starts`] is said, the next turn places the task, and where another reason is said, it does not.
//!
//! What is said holds at the end of a turn. When something has changed since, placement has to run first, and the
//! answer is [`WaitReason::Deciding`].

mod candidate;
mod changes;
mod estimate;
mod verdict;
mod words;

use crate::{BlockedBy, NewTask, Refusal, Scheduler, limits};
use candidate::Candidate;
use fetchml_api::{Explanation, TaskId, TaskStatus, Verdict as Kind, WaitReason};
use verdict::Survey;

impl Scheduler {
    /// Why a task has not started. None: it has ended, or never was.
    pub fn explain(&self, id: TaskId) -> Option<Explanation> {
        let task = self.tasks.get(&id)?;
        if task.status != TaskStatus::Queued {
            let reason = WaitReason::Placed;
            return Some(words::plain(Some(id), reason, &words::placed(task.status)));
        }
        let candidate = self.candidate(id);
        let mut explanation = self.explain_candidate(&candidate);
        explanation.task_id = Some(id);
        Some(explanation)
    }

    /// What would become of a task if it were submitted now; of the first of `count` alike.
    ///
    /// # Errors
    /// It would be refused.
    pub fn explain_new(&self, new: &NewTask, count: usize) -> Result<Explanation, Refusal> {
        match self.refuses_new(new, count) {
            Some(refusal) => Err(refusal),
            None => Ok(self.explain_candidate(&self.candidate_new(new))),
        }
    }

    fn explain_candidate(&self, candidate: &Candidate) -> Explanation {
        let survey = self.survey(candidate);
        let workers = survey.groups();
        let ahead = self.tasks_ahead(candidate, &survey);
        let reason = self.reason(candidate, &survey, ahead.count);
        let summary = self.summary(candidate, reason, &survey, &ahead);
        let estimated_start = self.estimated_start(candidate, reason, &survey, ahead.count);
        let changes = self.changes(candidate, reason, &survey, &ahead);
        let waits_for = match &candidate.blocked {
            Some(BlockedBy::Dependencies { first, .. }) => first.clone(),
            Some(BlockedBy::Broken(need)) => vec![*need],
            Some(BlockedBy::ArrayLimit(_)) | None => Vec::new(),
        };
        let ahead = i64::try_from(ahead.count).expect("it is counted up to a limit");
        Explanation { summary, waits_for, ahead, estimated_start, changes, workers, ..words::plain(None, reason, "") }
    }

    /// What must change first.
    fn reason(&self, candidate: &Candidate, survey: &Survey<'_>, ahead: usize) -> WaitReason {
        if !self.groups.are_settled() {
            return WaitReason::Deciding;
        }
        match candidate.blocked {
            Some(BlockedBy::ArrayLimit(_)) => return WaitReason::ArrayLimit,
            Some(_) => return WaitReason::Dependency,
            None => {}
        }
        if candidate.not_before.is_some() {
            return WaitReason::Backoff;
        }
        match candidate.stopped_by_quota() {
            Some(Refusal::Running { .. }) => return WaitReason::QuotaRunning,
            Some(_) => return WaitReason::QuotaGpus,
            None => {}
        }
        if self.is_undecided(candidate) {
            return WaitReason::Deciding;
        }
        if self.would_start(candidate) {
            // What waits already would have been placed.
            return if candidate.waits { WaitReason::Deciding } else { WaitReason::Starts };
        }
        let of = |kinds: &[Kind]| kinds.iter().map(|kind| survey.count(*kind)).sum::<usize>();
        let wanted = candidate.needs.demand.nodes as usize;
        let (now, held) = (of(&[Kind::Fits, Kind::Held, Kind::Full]), of(&[Kind::Fits, Kind::Held]));
        let with_reserved = now + of(&[Kind::Reserved]);
        let with_devices = with_reserved + of(&[Kind::GpusUnavailable]);
        let ever = with_devices + of(&[Kind::Draining, Kind::Unfit, Kind::Offline]);
        match () {
            () if survey.connected == 0 => WaitReason::NoWorkers,
            () if ever == 0 => WaitReason::NothingFits,
            () if ever < wanted => WaitReason::TooFewWorkers,
            () if now >= wanted && held >= wanted => WaitReason::Held,
            () if now >= wanted && ahead > 0 => WaitReason::Behind,
            () if now >= wanted => WaitReason::Busy,
            () if with_reserved >= wanted => WaitReason::Reserved,
            () if with_devices >= wanted => WaitReason::GpusUnavailable,
            () => WaitReason::Unavailable,
        }
    }
}

/// How many of something are counted, at most.
const COUNTED: usize = limits::EXPLAIN_AHEAD_MAX;
