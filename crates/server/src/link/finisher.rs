//! Moves the logs and metrics of attempts that are over from live files to object storage.

use crate::app::App;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;
use tracing::warn;

/// Starts the task; it ends with the driver. What it misses (a lag, a crash) stays readable where it
/// is: moving is housekeeping.
pub fn start_finisher(app: &Arc<App>) -> tokio::task::JoinHandle<()> {
    let mut changes = app.driver.subscribe();
    let app = Arc::clone(app);
    tokio::spawn(async move {
        loop {
            let change = match changes.recv().await {
                Ok(change) => change,
                Err(RecvError::Lagged(missed)) => {
                    warn!(missed, "fell behind; some logs stay in their live files");
                    continue;
                }
                Err(RecvError::Closed) => return,
            };
            let Some(attempt) = change.attempt_over else { continue };
            for streams in [&app.logs, app.metrics.streams()] {
                if let Err(error) = streams.finish(change.task.state.id, attempt).await {
                    warn!(%attempt, %error, "cannot move what an attempt wrote to object storage");
                }
            }
        }
    })
}
