//! From a stored task to what the API shows: the only place that does this.

use crate::auth::Caller;
use fetchml_api::{Failure, Micros, NodeAssignment, RetryRule, Task, TaskStatus, time::SECOND};
use fetchml_store::StoredTask;

/// What `viewer` may see of a task at the logical time `now`. `output` and `warnings` are left out.
pub(crate) fn task_view(task: &StoredTask, viewer: &Caller, now: Micros, aging_interval_s: i64) -> Task {
    let StoredTask { spec, state } = task;
    let env = if viewer.user_id == spec.user_id {
        spec.env.clone()
    } else {
        spec.env.keys().map(|name| (name.clone(), "***".to_owned())).collect()
    };
    let failure = state.cause.filter(|_| state.status == TaskStatus::Failed).map(|cause| Failure {
        cause,
        retryable: cause.retry_rule(false) != RetryRule::Final,
        exit_code: state.exit_code,
        signal: state.signal,
    });
    let node_assignments = match state.worker_id {
        Some(worker_id) if state.status != TaskStatus::Queued => {
            vec![NodeAssignment { node_id: 0, worker_id, slot_assigned: state.status.is_active() }]
        }
        _ => Vec::new(),
    };
    Task {
        id: spec.id,
        job_name: spec.job_name.clone(),
        status: state.status,
        priority: i32::from(state.priority),
        created_at: spec.created_at,
        started_at: state.started_at,
        ended_at: state.ended_at,
        worker_id: state.worker_id,
        error: state.error.clone().filter(|_| state.status != TaskStatus::Completed),
        output: None,
        entrypoint: spec.entrypoint.clone(),
        args: spec.args.clone(),
        snapshot_id: spec.snapshot_id.clone(),
        datasets: Vec::new(),
        cpu: spec.demand.cpu as i32,
        memory_gb: spec.demand.memory_gb as i32,
        gpu: spec.demand.gpu as i32,
        gpu_type: spec.demand.gpu_type.clone(),
        user_id: spec.user_id.clone(),
        retry_count: state.retry_count as i32,
        max_retries: spec.max_retries as i32,
        requeue_count: state.requeue_count as i32,
        time_limit_s: spec.time_limit_s.map(i64::from),
        network: spec.network,
        on_lost: spec.on_lost,
        lost_after_s: spec.lost_after_s.map(i64::from),
        stall_after_s: spec.stall_after_s.map(i64::from),
        resume_from: spec.resume_from,
        env,
        metadata: spec.metadata.clone(),
        node_assignments,
        priority_aged: priority_aged(task, now, aging_interval_s),
        attempt_id: state.attempt,
        failure,
        warnings: Vec::new(),
    }
}

/// Priority plus one level per aging interval spent queued. Only a queued task still ages.
fn priority_aged(task: &StoredTask, now: Micros, aging_interval_s: i64) -> f64 {
    let state = &task.state;
    let since = if state.status == TaskStatus::Queued { now.since(state.queued_since).max(0) } else { 0 };
    let waited = state.waited_before.saturating_add(since);
    f64::from(state.priority) + waited as f64 / (aging_interval_s.max(1) * SECOND) as f64
}
