//! `/v1/usage`.

use crate::{
    app::App,
    auth::{Caller, Decision, Reach},
    driver::UsageNow,
    error::AppError,
    query::Query,
};
use axum::{Extension, Json, extract::State};
use fetchml_api::{Holding, Usage, UsageReport};
use fetchml_store::UsageRow;
use std::{collections::BTreeMap, sync::Arc};

/// What was used, and what is held now
///
/// An admin sees everybody, or one user with `user_id`; others see themselves.
#[utoipa::path(get, path = "/v1/usage",
    params(("user_id" = Option<String>, Query, description = "Only this user", nullable = false)),
    responses((status = 200, description = "By user and experiment", body = UsageReport)))]
pub(super) async fn show_usage(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Extension(reach): Extension<Reach>,
    mut query: Query,
) -> Result<Json<UsageReport>, AppError> {
    let wanted = query.text("user_id");
    query.finish()?;
    let wanted = match (reach.0, wanted) {
        (Decision::Allow, wanted) => wanted,
        (_, Some(other)) if other != caller.user_id => {
            return Err(AppError::forbidden(
                "Your key may see only what you used yourself.",
                "Leave user_id out, or ask an admin: only admins see what others used.",
            ));
        }
        (_, _) => Some(caller.user_id.clone()),
    };
    let is_wanted = |user: &str| wanted.as_deref().is_none_or(|wanted| wanted == user);
    // In this order: what ends in between is counted once too often for a moment, not lost.
    let UsageNow { own, holdings, used } = app.driver.usage(&caller.user_id, caller.role).await?;
    let stored = app.store.usage().await?;
    let mut sums: BTreeMap<(String, Option<String>), UsageRow> = BTreeMap::new();
    for row in stored.into_iter().chain(used).filter(|row| is_wanted(&row.user_id)) {
        let sum = sums.entry((row.user_id, row.experiment_id)).or_default();
        sum.cpu_ms += row.cpu_ms;
        sum.gpu_ms += row.gpu_ms;
        sum.idle_gpu_ms += row.idle_gpu_ms;
    }
    let usage = sums.into_iter().map(|((user_id, experiment_id), sum)| Usage {
        user_id,
        experiment_id,
        cpu_seconds: seconds(sum.cpu_ms),
        gpu_seconds: seconds(sum.gpu_ms),
        // An estimate: what looks happen to add up to must not be more than there was.
        idle_gpu_seconds: seconds(sum.idle_gpu_ms.min(sum.gpu_ms)),
    });
    let mut holdings: Vec<Holding> = holdings.into_iter().filter(|holding| is_wanted(&holding.user_id)).collect();
    if holdings.is_empty() && is_wanted(&own.user_id) {
        // Who has submitted nothing yet may want to know how much is allowed.
        holdings.push(own);
    }
    Ok(Json(UsageReport { usage: usage.collect(), holdings }))
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}
