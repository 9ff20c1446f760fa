//! What a caller may see of a stored task.

use crate::{app::App, auth::Caller};
use fetchml_api::{Micros, Task};
use fetchml_store::StoredTask;

/// What `viewer` may see of a task now. `output` and `warnings` are left out.
pub(crate) fn task_view(app: &App, task: &StoredTask, viewer: &Caller) -> Task {
    task_view_at(app, task, viewer, app.driver.now())
}

/// The same at another logical time.
pub(crate) fn task_view_at(app: &App, task: &StoredTask, viewer: &Caller, now: Micros) -> Task {
    let mut view = Task::from_records(&task.spec, &task.state, now, app.driver.aging_interval_s());
    if !viewer.sees_env_of(&task.spec.user_id) {
        view.mask_env();
    }
    if !viewer.sees_content_of(&task.spec.user_id, app.options.visibility) {
        view.hide_content();
    }
    view
}
