//! A server that is away, such as for an upgrade, costs no attempt: what staging asks of it is asked again.

use crate::limits;
use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// Calls until the answer is not that the server is away, or it is away for longer than
/// [`limits::STAGING_OUTAGE_MAX`].
pub(crate) async fn outlast<T, E, F>(is_away: impl Fn(&E) -> bool, call: impl FnMut() -> F) -> Result<T, E>
where
    E: Display,
    F: Future<Output = Result<T, E>>,
{
    outlast_for(limits::STAGING_OUTAGE_MAX, is_away, call).await
}

async fn outlast_for<T, E, F>(
    outage_max: Duration,
    is_away: impl Fn(&E) -> bool,
    mut call: impl FnMut() -> F,
) -> Result<T, E>
where
    E: Display,
    F: Future<Output = Result<T, E>>,
{
    let began = Instant::now();
    let mut pause = limits::UPLOAD_RETRY_FIRST;
    loop {
        match call().await {
            Err(error) if is_away(&error) && began.elapsed() < outage_max => {
                tracing::debug!(%error, "staging waits for the server");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(limits::UPLOAD_RETRY_MAX);
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::ready;

    #[tokio::test]
    async fn an_outage_is_waited_for_but_no_other_failure_and_not_for_ever() {
        let mut answers = vec![Err("refused"), Ok(7), Err("away"), Err("away")];
        let is_away = |error: &&str| *error == "away";
        assert_eq!(outlast(is_away, || ready(answers.pop().unwrap())).await, Ok(7));
        assert_eq!(outlast(is_away, || ready(answers.pop().unwrap())).await, Err("refused"));
        assert_eq!(answers.len(), 0);
        assert_eq!(outlast_for(Duration::ZERO, is_away, || ready(Err::<(), _>("away"))).await, Err("away"));
    }
}
