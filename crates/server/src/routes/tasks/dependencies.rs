//! What a new task depends on: what of it has ended already, and how, is looked up here, since the
//! core knows only what has not.

use crate::{app::App, error::AppError};
use fetchml_api::{Dependency, DependencyOn, Problem, TaskId, TaskStatus};

/// What a submit has to wait for.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// Of what it depends on, that which has not ended.
    pub(super) open: Vec<Dependency>,
    /// Of the rest, the first that did not end as it had to.
    pub(super) broken_by: Option<TaskId>,
    /// What there is not.
    pub(super) problems: Vec<Problem>,
}

/// Looks up each. Everybody sees every task, and may wait for it.
pub(super) async fn look_up(app: &App, depends_on: &[Dependency]) -> Result<Needs, AppError> {
    let mut needs = Needs::default();
    for (i, need) in depends_on.iter().enumerate() {
        match how(app, need.id).await? {
            Some(How::Open) => needs.open.push(*need),
            Some(How::Ended { well }) => {
                if need.on == DependencyOn::Ok && !well {
                    needs.broken_by.get_or_insert(need.id);
                }
            }
            None => {
                let problem = format!("there is no task or array {}", need.id);
                needs.problems.push(Problem::new(format!("depends_on[{i}]"), problem));
            }
        }
    }
    Ok(needs)
}

enum How {
    Open,
    Ended { well: bool },
}

async fn how(app: &App, id: TaskId) -> Result<Option<How>, AppError> {
    let task = match app.driver.live(id) {
        Some(task) => Some(task),
        None => app.store.task(id).await?,
    };
    if let Some(task) = task {
        let well = task.state.status == TaskStatus::Completed;
        return Ok(Some(if task.state.status.is_terminal() { How::Ended { well } } else { How::Open }));
    }
    let array = app.store.array(id).await?;
    Ok(array.map(|array| if array.counts.is_over { How::Ended { well: array.counts.is_well } } else { How::Open }))
}
