//! What an earlier agent left in the data directory, and how each attempt goes on from there. It only
//! looks and clears; the core takes over what it finds.

use crate::{
    agent::{
        StartError,
        attempt::{self, Begin},
        core::Taken,
        identity::DataDir,
    },
    executor::AttemptDir,
    shim::{Reattached, reattach},
};
use fetchml_api::AttemptId;
use std::{fs, io, path::Path};

/// Every attempt in the data directory, in the order of assignment.
pub(crate) fn find(data: &DataDir) -> Result<Vec<(Taken, Begin)>, StartError> {
    let failed = |source| StartError::DataDir { path: data.path().to_owned(), source };
    fs::create_dir_all(data.path().join("trash")).map_err(failed)?;
    let mut found = Vec::new();
    for entry in fs::read_dir(data.attempts()).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(attempt) = name.to_str().and_then(|name| name.parse::<AttemptId>().ok()) else { continue };
        let dir = AttemptDir::new(data.path(), attempt);
        let taken = match read_taken(&dir.assignment(), attempt) {
            Ok(taken) => taken,
            Err(error) => {
                // It was never accepted, or only on paper that a power cut ate: the server assigns it again.
                tracing::warn!(%attempt, %error, "an attempt's directory without a readable assignment is deleted");
                let _ = fs::rename(dir.root(), data.path().join("trash").join(&name));
                continue;
            }
        };
        let copied = || StartError::Copied { path: data.path().to_owned() };
        let begin = begin(data, &dir, &taken).ok_or_else(copied)?;
        tracing::info!(%attempt, task = %taken.assignment.spec.id, begin = said(&begin), "taken up");
        found.push((taken, begin));
    }
    found.sort_by_key(|(taken, _)| (taken.assignment.epoch, taken.assignment.attempt));
    Ok(found)
}

/// The devices of those that were found.
pub(crate) fn devices(found: &[(Taken, Begin)]) -> Vec<(AttemptId, Vec<u32>)> {
    let with_devices = found.iter().map(|(taken, _)| &taken.assignment).filter(|its| !its.gpus.is_empty());
    with_devices.map(|its| (its.attempt, its.gpus.clone())).collect()
}

fn read_taken(path: &Path, attempt: AttemptId) -> io::Result<Taken> {
    let taken: Taken = serde_json::from_slice(&fs::read(path)?)?;
    if taken.assignment.attempt == attempt { Ok(taken) } else { Err(io::Error::other("it is of another attempt")) }
}

/// `None`: it runs, and from another directory.
fn begin(data: &DataDir, dir: &AttemptDir, taken: &Taken) -> Option<Begin> {
    Some(match reattach(dir.root()) {
        Ok(Reattached::Running(running)) => Begin::Running(running),
        Ok(Reattached::Ended(exit)) => Begin::Exited(exit),
        Ok(Reattached::Copied) => return None,
        Ok(Reattached::Lost) => Begin::Over(attempt::lost("its supervisor and the agent were both gone when it ended")),
        // Of another boot: files that would tell may be lost, so nothing proves that it never ran.
        Ok(Reattached::NeverRan) if taken.boot_id != data.boot_id() => {
            Begin::Over(attempt::lost("the machine was restarted"))
        }
        Ok(Reattached::NeverRan) => match attempt::clear_staging(dir) {
            Ok(()) => Begin::Staging,
            Err(error) => Begin::Over(attempt::launch_failed(&error)),
        },
        Err(error) => Begin::Over(attempt::lost(&format!("what is left of it cannot be read: {error}"))),
    })
}

fn said(begin: &Begin) -> &'static str {
    match begin {
        Begin::Staging => "staging",
        Begin::Running(_) => "running",
        Begin::Exited(_) => "exited",
        Begin::Over(_) => "over",
    }
}
