//! What the tests of this crate share: a helper, attempts in a scratch directory, looking for
//! survivors, waiting for a condition with a deadline.

use fetchml_api::AttemptId;
use fetchml_worker::shim::{Helper, LaunchSpec};
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A wait longer than this is a failure.
const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) fn helper_command() -> Vec<OsString> {
    vec![env!("CARGO_BIN_EXE_fetchml-helper").into()]
}

pub(crate) async fn helper() -> Helper {
    Helper::start(&helper_command()).await.unwrap()
}

pub(crate) fn new_attempt() -> AttemptId {
    AttemptId(uuid::Uuid::new_v4())
}

/// `sh -c script` in `dir`, with a grace of 1 s and the attempt's mark in its environment.
pub(crate) fn shell(dir: &Path, attempt: AttemptId, script: &str) -> LaunchSpec {
    let path = std::env::var_os("PATH").unwrap();
    LaunchSpec {
        attempt,
        dir: dir.to_owned(),
        argv: vec!["/bin/sh".into(), "-c".into(), script.into()],
        env: vec![
            ("PATH".into(), path),
            ("FETCHML_ATTEMPT_ID".into(), attempt.to_string().into()),
            ("DIR".into(), dir.into()),
        ],
        cwd: dir.to_owned(),
        time_limit_s: None,
        grace_s: 1,
        confinement: None,
        fence: None,
    }
}

/// Processes started with the attempt's mark that are not dead.
pub(crate) fn survivors(attempt: AttemptId) -> Vec<PathBuf> {
    let mark = format!("FETCHML_ATTEMPT_ID={attempt}");
    let entries = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    entries
        .filter(|process| {
            fs::read(process.join("environ")).is_ok_and(|env| env.split(|b| *b == 0).any(|e| e == mark.as_bytes()))
        })
        .collect()
}

/// Waits until `condition` gives something.
pub(crate) async fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(began.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether no agent holds the data directory: a dropped one ends a moment later.
pub(crate) fn is_unlocked(data: &Path) -> bool {
    use rustix::fs::{FlockOperation, flock};
    let lock = fs::File::open(data.join("lock")).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
}

pub(crate) async fn until_exists(path: &Path) {
    until(&path.display().to_string(), || path.exists().then_some(())).await;
}
