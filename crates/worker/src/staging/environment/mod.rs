//! Python environments, built once for each content of their requirements and reused after.
//!
//! An environment lies in `<data>/envs/<hash>` and counts only with its marker; without it
//! the directory is wiped and built again. Builders run under shims of their own (`<hash>.build`), so
//! that stopping one leaves no process behind, even across a restart of the agent.

mod builder;
pub(super) mod marker;
mod packages;
mod requirements;
mod tools;

use super::{
    StageError,
    cache::{Cache, Kept, Key},
};
use crate::{
    isolation::Sandboxes,
    limits,
    shim::{Exit, ExitCause, Helper, LaunchSpec, Reattached, reattach},
};
use builder::Places;
use fetchml_api::{AttemptId, FailureCause, PythonFacts};
use requirements::Requirements;
use rustix::fs::{FlockOperation, flock};
use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tokio_util::sync::CancellationToken;
use tools::Tools;

/// A Python environment that is ready.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PythonEnvironment {
    /// Its directory.
    pub root: PathBuf,
    /// Hash of all that went into it, hex.
    pub hash: String,
    /// Whether it was there already.
    pub reused: bool,
    /// Where the interpreter behind it has its own files, as far as they are not the system's.
    pub prefixes: Vec<PathBuf>,
}

impl PythonEnvironment {
    /// Its programs.
    pub fn bin(&self) -> PathBuf {
        self.root.join("bin")
    }

    /// What is in it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn facts(&self) -> io::Result<PythonFacts> {
        packages::read(&self.root)
    }

    /// Its interpreter.
    pub fn python(&self) -> PathBuf {
        self.bin().join("python")
    }
}

/// The file in a snapshot that asks for an environment.
pub(crate) fn requirements_file(snapshot_root: &Path) -> Option<&'static str> {
    Requirements::find(snapshot_root).ok()?.map(|wanted| wanted.file_name())
}

/// Who an environment is prepared for.
#[derive(Clone, Copy, Debug)]
pub struct EnvironmentRequest<'a> {
    /// Where the snapshot's files lie.
    pub snapshot_root: &'a Path,
    /// The snapshot.
    pub snapshot_id: &'a str,
    /// The attempt's log: what builders say is appended as they say it.
    pub log: &'a Path,
    /// A small number that no other attempt at hand has.
    pub slot: u32,
    /// Stops the build.
    pub cancel: &'a CancellationToken,
}

/// The environments of a worker.
#[derive(Debug)]
pub struct Environments {
    cache: Arc<Cache>,
    tools: Tools,
    helper: Arc<Helper>,
    sandboxes: Sandboxes,
    building: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Environments {
    /// Environments kept in `cache`, the builders' tools below `data_dir`; builders are started through `helper`, in a
    /// sandbox of `sandboxes`.
    pub fn new(cache: Arc<Cache>, data_dir: &Path, helper: Arc<Helper>, sandboxes: Sandboxes) -> Self {
        Self { cache, tools: Tools::new(data_dir), helper, sandboxes, building: Mutex::default() }
    }

    /// The environment that the snapshot asks for, built if it is not there; `None` when it asks for
    /// none. It stays while the pin lives.
    ///
    /// # Errors
    /// Cause `environment`, transient when the network failed; `cancelled` when it was.
    pub async fn prepare(
        &self,
        request: EnvironmentRequest<'_>,
    ) -> Result<Option<(PythonEnvironment, Kept)>, StageError> {
        let Some(wanted) = Requirements::find(request.snapshot_root)? else { return Ok(None) };
        let python = self.tools.python().await?;
        let hash = wanted.hash(&python, request.snapshot_id);
        let key = Key::Environment(hash.clone());
        let root = self.cache.path(&key);
        let prefixes = || python.prefixes.clone();
        let environment =
            |reused| PythonEnvironment { root: root.clone(), hash: hash.clone(), reused, prefixes: prefixes() };
        let short = &hash[..12];
        if let Some(pin) = self.cache.pin(&key) {
            note(request.log, &format!("environment {short}: reused"))?;
            return Ok(Some((environment(true), pin)));
        }
        let turn = Arc::clone(lock(&self.building).entry(hash.clone()).or_default());
        let _turn = if let Ok(turn) = turn.try_lock() {
            turn
        } else {
            note(request.log, &format!("environment {short}: waiting for the build that another task started"))?;
            tokio::select! {
                turn = turn.lock() => turn,
                () = request.cancel.cancelled() => return Err(cancelled()),
            }
        };
        let _file = self.lock_file(&hash, request.cancel).await?;
        if let Some(pin) = self.there(&key, &root)? {
            note(request.log, &format!("environment {short}: reused"))?;
            return Ok(Some((environment(true), pin)));
        }
        let build = Build { environments: self, wanted: &wanted, python: &python, root: &root, hash: &hash, request };
        let built = build.run().await;
        if built.is_err() {
            blocking(&root, remove_tree).await?;
        }
        let pin = self.cache.add(key, built?);
        lock(&self.building).remove(&hash);
        Ok(Some((environment(false), pin)))
    }

    /// Keeps an environment that an earlier agent prepared, for a process that still runs in it.
    pub(crate) fn keep(&self, hash: &str) -> Option<Kept> {
        self.cache.pin(&Key::Environment(hash.to_owned()))
    }

    /// An environment that is ready, also when another process built it.
    fn there(&self, key: &Key, root: &Path) -> Result<Option<Kept>, StageError> {
        if let Some(pin) = self.cache.pin(key) {
            return Ok(Some(pin));
        }
        let marker = marker::read(root).map_err(|error| local(root, &error))?;
        Ok(marker.map(|(_, size_bytes)| self.cache.add(key.clone(), size_bytes)))
    }

    /// Keeps other processes out, such as an agent that was started twice.
    async fn lock_file(&self, hash: &str, cancel: &CancellationToken) -> Result<File, StageError> {
        let dir = self.cache.environments();
        fs::create_dir_all(&dir).map_err(|error| local(&dir, &error))?;
        let path = dir.join(format!("{hash}.lock"));
        let file = File::options().create(true).append(true).open(&path).map_err(|error| local(&path, &error))?;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(error) => return Err(local(&path, &error)),
            }
            tokio::select! {
                () = tokio::time::sleep(limits::ENVIRONMENT_LOCK_RETRY) => {}
                () = cancel.cancelled() => return Err(cancelled()),
            }
        }
    }
}

/// One build.
struct Build<'a> {
    environments: &'a Environments,
    wanted: &'a Requirements,
    python: &'a tools::Python,
    root: &'a Path,
    hash: &'a str,
    request: EnvironmentRequest<'a>,
}

impl Build<'_> {
    /// To the size of what was built, bytes.
    async fn run(&self) -> Result<u64, StageError> {
        let work = self.environments.cache.environments().join(format!("{}.build", self.hash));
        let _turn = tokio::select! {
            turn = self.environments.tools.turn(self.wanted) => turn,
            () = self.request.cancel.cancelled() => return Err(cancelled()),
        };
        let steps = self.environments.tools.steps(self.wanted, self.python, self.root, &work);
        self.clear(&work, steps.len()).await?;
        let log = self.request.log;
        let short = &self.hash[..12];
        note(log, &format!("environment {short}: building from {} with {}", self.wanted.file_name(), steps.builder()))?;
        let places = Places {
            root: self.root,
            work: &work,
            snapshot: self.request.snapshot_root,
            own_uv: self.environments.tools.own_uv(),
        };
        places.create().and_then(|()| self.wanted.write_to(&work)).map_err(|error| local(&work, &error))?;
        let began = fs::metadata(log).map_or(0, |m| m.len());
        let deadline = tokio::time::Instant::now() + limits::ENVIRONMENT_BUILD;
        let file_name = self.wanted.file_name();
        let sandboxes = &self.environments.sandboxes;
        for (number, step) in steps.commands().iter().enumerate() {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let confinement = if step.is_own {
                None
            } else {
                places.confinement(sandboxes, self.request.slot, self.wanted, self.python, steps.uv())
            };
            let mut env = places.variables(confinement.as_ref(), sandboxes.remaps());
            env.push(("UV_PROJECT_ENVIRONMENT".into(), self.root.into()));
            let spec = LaunchSpec {
                attempt: AttemptId(uuid::Uuid::new_v4()),
                dir: work.join(number.to_string()),
                argv: step.argv.clone(),
                env,
                cwd: if step.is_own { work.clone() } else { places.cwd(self.wanted) },
                time_limit_s: Some(u32::try_from(left.as_secs().max(1)).unwrap_or(u32::MAX)),
                grace_s: limits::ENVIRONMENT_BUILD_GRACE_S,
                confinement,
                fence: None,
            };
            let exit = self.step(spec).await?;
            if self.request.cancel.is_cancelled() {
                return Err(cancelled());
            }
            if !exit.is_success() {
                return Err(self.failure(&exit, began));
            }
        }
        let facts = PythonFacts {
            environment: self.hash.to_owned(),
            version: self.python.version.clone(),
            requirements: file_name.to_owned(),
            packages: Vec::new(),
        };
        let seal = if sandboxes.is_on() { take_over } else { seal };
        let size_bytes =
            blocking(self.root, move |root| packages::record(root, facts).and_then(|()| seal(root))).await?;
        blocking(&work, remove_tree).await?;
        note(log, &format!("environment {short}: ready"))?;
        Ok(size_bytes)
    }

    /// Stops what an earlier agent left building, then removes everything it made.
    async fn clear(&self, work: &Path, steps: usize) -> Result<(), StageError> {
        for number in 0..steps.max(limits::ENVIRONMENT_STEPS) {
            let step = work.join(number.to_string());
            if let Ok(Reattached::Running(mut running)) = reattach(&step) {
                running.stop(FailureCause::Cancelled, 0).map_err(|error| local(&step, &error))?;
                running.wait().await;
            }
        }
        blocking(work, remove_tree).await?;
        blocking(self.root, remove_tree).await?;
        for number in 0..steps {
            let step = work.join(number.to_string());
            fs::create_dir_all(&step)
                // The builder's output goes to the log of the attempt that builds.
                .and_then(|()| symlink(self.request.log, step.join(crate::shim::files::LOG)))
                .map_err(|error| local(&step, &error))?;
        }
        Ok(())
    }

    async fn step(&self, mut spec: LaunchSpec) -> Result<Exit, StageError> {
        spec.env.push((crate::executor::ATTEMPT_ID_VARIABLE.into(), spec.attempt.to_string().into()));
        let dir = &spec.dir.clone();
        let mut running = self.environments.helper.launch(spec).await.map_err(|error| local(dir, &error))?;
        tokio::select! {
            exit = running.wait() => return Ok(exit),
            () = self.request.cancel.cancelled() => {}
        }
        running.stop(FailureCause::Cancelled, limits::ENVIRONMENT_BUILD_GRACE_S).map_err(|error| local(dir, &error))?;
        Ok(running.wait().await)
    }

    fn failure(&self, exit: &Exit, began: u64) -> StageError {
        let file = self.wanted.file_name();
        let tail = tail(self.request.log, began).unwrap_or_default();
        let lines = meaningful_lines(&tail);
        let what = match exit.cause {
            ExitCause::Timeout => format!("it took longer than {} minutes", limits::ENVIRONMENT_BUILD.as_secs() / 60),
            ExitCause::Lost | ExitCause::NeverStarted => "the builder was killed".to_owned(),
            _ => exit.error.clone().unwrap_or_else(|| lines.join("\n")),
        };
        StageError {
            cause: FailureCause::Environment,
            transient: matches!(exit.cause, ExitCause::Lost | ExitCause::NeverStarted) || is_network_fault(&tail),
            message: format!("the environment of {file} could not be built:\n{what}"),
        }
    }
}

/// Makes what a sandbox built the worker's own, then seals it.
fn take_over(root: &Path) -> io::Result<u64> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    own(root, (uid, gid), limits::ENVIRONMENT_DEPTH_MAX)?;
    seal(root)
}

/// No process of the builder lives any more. What has a further name elsewhere could be changed there.
fn own(path: &Path, owner: (u32, u32), depth_left: usize) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    let kind = metadata.file_type();
    let odd = |what: &str| io::Error::other(format!("{} {what}", path.display()));
    if kind.is_file() && metadata.nlink() > 1 {
        return Err(odd("has a second name, which an environment must not have"));
    }
    if !kind.is_file() && !kind.is_dir() && !kind.is_symlink() {
        return Err(odd("is neither a file nor a directory"));
    }
    lchown(path, Some(owner.0), Some(owner.1))?;
    if kind.is_file() {
        // Tasks read it as other users.
        let mode = if metadata.permissions().mode() & 0o111 == 0 { 0o444 } else { 0o555 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    if kind.is_dir() {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        let depth_left = depth_left.checked_sub(1).ok_or_else(|| odd("lies too deep"))?;
        for entry in fs::read_dir(path)? {
            own(&entry?.path(), owner, depth_left)?;
        }
    }
    Ok(())
}

/// Makes the files read-only, then marks the environment as ready; its size, bytes.
fn seal(root: &Path) -> io::Result<u64> {
    make_read_only(root)?;
    let size_bytes = marker::size_of(root)?;
    marker::write(root, size_bytes)?;
    Ok(size_bytes)
}

/// Does what takes long on a big directory off the runtime's threads.
async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<T, StageError> {
    let own = path.to_owned();
    let done = tokio::task::spawn_blocking(move || work(&own)).await.map_err(io::Error::other);
    done.flatten().map_err(|error| local(path, &error))
}

/// Appends a line of FetchML's own to a log.
fn note(log: &Path, text: &str) -> Result<(), StageError> {
    super::note(FailureCause::Environment, log, text)
}

fn tail(log: &Path, began: u64) -> io::Result<String> {
    let mut file = File::open(log)?;
    let from = file.metadata()?.len().saturating_sub(limits::ENVIRONMENT_ERROR_TAIL_BYTES).max(began);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(limits::ENVIRONMENT_ERROR_TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last lines that tell what went wrong.
fn meaningful_lines(tail: &str) -> Vec<String> {
    const NOISE: [&str; 3] = ["[notice]", "WARNING: Retrying", "fetchml: "];
    let mut lines: Vec<String> = tail
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.trim().is_empty() && !NOISE.iter().any(|noise| line.trim_start().starts_with(noise)))
        .rev()
        .take(limits::ENVIRONMENT_ERROR_LINES)
        .map(|line| line.chars().take(limits::ENVIRONMENT_ERROR_LINE_CHARS).collect())
        .collect();
    lines.reverse();
    lines
}

/// Words of pip and uv for a network or an index that did not answer.
fn is_network_fault(tail: &str) -> bool {
    const SIGNS: [&str; 14] = [
        "NewConnectionError",
        "ConnectTimeoutError",
        "ReadTimeoutError",
        "ProtocolError",
        "Connection refused",
        "Connection reset",
        "Connection aborted",
        "Temporary failure in name resolution",
        "Network is unreachable",
        "dns error",
        "tcp connect error",
        "error sending request",
        "502 Server Error",
        "503 Server Error",
    ];
    SIGNS.iter().any(|sign| tail.contains(sign))
}

fn make_read_only(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            make_read_only(&entry.path())?;
        } else if kind.is_file() {
            let mode = entry.metadata()?.permissions().mode();
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode & 0o555))?;
        }
    }
    Ok(())
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn cancelled() -> StageError {
    StageError {
        cause: FailureCause::Cancelled,
        transient: false,
        message: "cancelled while its environment was being built".to_owned(),
    }
}

fn definite(message: String) -> StageError {
    StageError { cause: FailureCause::Environment, transient: false, message }
}

fn local(path: &Path, error: &impl std::fmt::Display) -> StageError {
    StageError::local(FailureCause::Environment, path, error)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_shows_what_pip_said_last_without_noise() {
        let tail = "fetchml: x\nCollecting a\nWARNING: Retrying (Retry(total=4))\nERROR: no\n\n[notice] new pip\n";
        assert_eq!(meaningful_lines(tail), ["Collecting a", "ERROR: no"]);
        assert!(!is_network_fault(tail));
        assert!(is_network_fault("... NewConnectionError('<pip._vendor...>: [Errno 111] Connection refused')"));
    }
}
