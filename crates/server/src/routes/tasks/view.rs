//! What a caller may see of a stored task.

use crate::auth::Caller;
use fetchml_api::{Micros, Task};
use fetchml_store::StoredTask;

/// What `viewer` may see of a task at the logical time `now`. `output` and `warnings` are left out.
pub(crate) fn task_view(task: &StoredTask, viewer: &Caller, now: Micros, aging_interval_s: i64) -> Task {
    let mut view = Task::from_records(&task.spec, &task.state, now, aging_interval_s);
    if !viewer.sees_env_of(&task.spec.user_id) {
        view.mask_env();
    }
    view
}
