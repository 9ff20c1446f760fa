//! How this worker keeps users' processes in their place: decided once at the start, by trying it. Says
//! what a sandbox is made of; [`crate::shim`] makes it.

use crate::{
    cgroup::{Cgroup, Cgroups, Resources},
    executor::{ATTEMPT_ID_VARIABLE, AttemptDir},
    limits,
    shim::{Confinement, ExitCause, Helper, Identity, LaunchSpec, Layer, Mount, find_bubblewrap, has_landlock},
    staging::PythonEnvironment,
};
use fetchml_api::AttemptId;
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

/// What the worker's owner wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Isolation {
    /// Bubblewrap, or the worker does not start.
    #[default]
    Required,
    /// The best that works here.
    Auto,
    /// Tasks run as the worker's own user and may do what it may.
    None,
}

impl FromStr for Isolation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "required" => Ok(Self::Required),
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            other => Err(format!("{other:?} is not an isolation: required, auto or none")),
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Required => "required",
            Self::Auto => "auto",
            Self::None => "none",
        })
    }
}

/// What a sandbox holds besides the attempt's own directories.
#[derive(Clone, Debug, Default)]
pub struct Contents<'a> {
    /// The environment of the task.
    pub python: Option<&'a PythonEnvironment>,
    /// Further files and directories, such as datasets.
    pub mounts: Vec<Mount>,
    /// Device nodes of the given GPUs.
    pub devices: Vec<PathBuf>,
    /// Whether the task may use the network.
    pub network: bool,
    /// What it may use.
    pub resources: Resources,
}

/// What this worker does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sandboxes {
    layer: Option<Layer>,
    /// Whether each attempt gets a user of its own.
    drops_user: bool,
    data_dir: PathBuf,
    cgroups: Option<Cgroups>,
    why_not_better: Option<String>,
}

impl Sandboxes {
    /// No sandbox.
    pub fn none(data_dir: &Path) -> Self {
        let data_dir = data_dir.to_owned();
        Self { layer: None, drops_user: false, data_dir, cgroups: None, why_not_better: None }
    }

    /// Finds out what works on this machine, by running a program in it.
    ///
    /// # Errors
    /// When it is required and does not work: one sentence.
    pub async fn probe(wanted: Isolation, helper: &Helper, data_dir: &Path) -> Result<Self, String> {
        let cgroups = Cgroups::find();
        let found = Self::probe_layer(wanted, helper, data_dir).await?;
        let sandboxes = Self { cgroups, ..found };
        // Limits that look well may still be refused: without them rather than not at all.
        Ok(match sandboxes.try_out(helper).await {
            Err(problem) if sandboxes.cgroups.is_some() => {
                tracing::warn!(problem, "no control groups");
                Self { cgroups: None, ..sandboxes }
            }
            _ => sandboxes,
        })
    }

    async fn probe_layer(wanted: Isolation, helper: &Helper, data_dir: &Path) -> Result<Self, String> {
        if wanted == Isolation::None {
            return Ok(Self::none(data_dir));
        }
        let why = match find_bubblewrap() {
            None => "bubblewrap is not installed (apt install bubblewrap)".to_owned(),
            Some(bwrap) => {
                let sandboxes = Self::with(Layer::Bubblewrap(bwrap), data_dir);
                match sandboxes.try_out(helper).await {
                    Ok(()) => return Ok(sandboxes),
                    Err(problem) => format!("bubblewrap does not work here: {problem}"),
                }
            }
        };
        if wanted == Isolation::Required {
            return Err(why);
        }
        match Self::landlock(helper, data_dir).await {
            Ok(sandboxes) => Ok(Self { why_not_better: Some(why), ..sandboxes }),
            Err(problem) => Ok(Self { why_not_better: Some(format!("{why}; {problem}")), ..Self::none(data_dir) }),
        }
    }

    /// Landlock alone, if it works on this machine.
    ///
    /// # Errors
    /// One sentence.
    pub async fn landlock(helper: &Helper, data_dir: &Path) -> Result<Self, String> {
        if !has_landlock() {
            return Err("this kernel has no Landlock".to_owned());
        }
        let sandboxes = Self::with(Layer::Landlock, data_dir);
        match sandboxes.try_out(helper).await {
            Ok(()) => Ok(sandboxes),
            Err(problem) => Err(format!("Landlock does not work here: {problem}")),
        }
    }

    fn with(layer: Layer, data_dir: &Path) -> Self {
        Self { layer: Some(layer), drops_user: rustix::process::geteuid().is_root(), ..Self::none(data_dir) }
    }

    /// One word for the worker's capabilities: `bubblewrap`, `landlock` or `none`.
    pub fn name(&self) -> &'static str {
        match self.layer {
            Some(Layer::Bubblewrap(_)) => "bubblewrap",
            Some(Layer::Landlock) => "landlock",
            Some(Layer::Open | Layer::Container(_)) | None => "none",
        }
    }

    /// One line for people: what is done, and why not more.
    pub fn describe(&self) -> String {
        let what = match (&self.layer, self.drops_user) {
            (Some(Layer::Bubblewrap(_)), true) => "bubblewrap, a user of its own for each task",
            (Some(Layer::Bubblewrap(_)), false) => "bubblewrap",
            (Some(Layer::Landlock), true) => "Landlock and a user of its own for each task",
            (Some(Layer::Landlock), false) => "Landlock only: tasks share this user's processes and network",
            (Some(Layer::Open | Layer::Container(_)) | None, _) => "none: tasks may do what this user may",
        };
        let limits = match &self.cgroups {
            Some(cgroups) => format!("limits by {cgroups}"),
            None => "limits by rlimit".to_owned(),
        };
        match &self.why_not_better {
            Some(why) => format!("{what} ({why}); {limits}"),
            None => format!("{what}; {limits}"),
        }
    }

    /// Whether there is a sandbox.
    pub fn is_on(&self) -> bool {
        self.layer.is_some()
    }

    /// Whether a sandbox shows files at other paths than they have outside.
    pub fn remaps(&self) -> bool {
        matches!(self.layer, Some(Layer::Bubblewrap(_)))
    }

    /// The sandbox of an attempt; `slot` is a small number that no other attempt at hand has.
    pub fn confine(&self, dir: &AttemptDir, slot: u32, contents: Contents<'_>) -> Option<Confinement> {
        let layer = match &self.layer {
            Some(layer) => layer.clone(),
            // Without isolation only what was asked for is worth a process more.
            None if contents.resources.memory_bytes.is_some() || !contents.network => Layer::Open,
            None => return None,
        };
        let mut mounts = vec![Mount::writable(dir.tmp())];
        if self.remaps() {
            mounts[0].target = "/tmp".into();
        }
        mounts.extend([dir.work(), dir.output(), dir.checkpoint(), dir.home(), dir.metrics()].map(Mount::writable));
        if let Some(python) = contents.python {
            mounts.push(Mount::read_only(&python.root));
            mounts.extend(python.prefixes.iter().map(Mount::read_only));
        }
        mounts.extend(contents.mounts);
        Some(Confinement {
            layer,
            identity: self.identity(slot),
            mounts,
            devices: contents.devices,
            network: contents.network,
            resources: contents.resources,
            cgroups: self.cgroups.clone(),
            hidden: self.data_dir.clone(),
        })
    }

    /// The sandbox of what builds the environment of an attempt: as its user, with a network; none without isolation.
    pub(crate) fn confine_builder(&self, slot: u32, mounts: Vec<Mount>, resources: Resources) -> Option<Confinement> {
        Some(Confinement {
            layer: self.layer.clone()?,
            identity: self.identity(slot),
            mounts,
            devices: Vec::new(),
            network: true,
            resources,
            cgroups: self.cgroups.clone(),
            hidden: self.data_dir.clone(),
        })
    }

    fn identity(&self, slot: u32) -> Option<Identity> {
        let id = limits::SANDBOX_ID_FIRST + slot;
        self.drops_user.then_some(Identity { uid: id, gid: id })
    }

    /// The control group of an attempt, if this worker made one for it.
    pub(crate) fn cgroup(&self, attempt: AttemptId) -> Option<Cgroup> {
        self.cgroups.as_ref().map(|cgroups| cgroups.group(attempt)).filter(Cgroup::is_there)
    }

    /// Runs a program that writes a file, as a task would.
    async fn try_out(&self, helper: &Helper) -> Result<(), String> {
        let attempt = AttemptId(uuid::Uuid::new_v4());
        let base = self.data_dir.join("probe");
        let dir = AttemptDir::new(&base, attempt);
        let result = self.try_out_in(helper, attempt, &dir).await;
        let _ = fs::remove_dir_all(&base);
        result
    }

    async fn try_out_in(&self, helper: &Helper, attempt: AttemptId, dir: &AttemptDir) -> Result<(), String> {
        let failed = |error: io::Error| error.to_string();
        dir.create().and_then(|()| dir.create_files()).map_err(failed)?;
        let resources =
            Resources { memory_bytes: Some(1 << 30), cpus: Some(1), processes: Some(limits::PROCESSES_PER_CPU) };
        let contents = Contents { network: true, resources, ..Contents::default() };
        let spec = LaunchSpec {
            attempt,
            dir: dir.root().to_owned(),
            argv: ["/bin/sh", "-c", "echo well > said && test -r /dev/null"].map(Into::into).into(),
            env: vec![(ATTEMPT_ID_VARIABLE.into(), attempt.to_string().into())],
            cwd: dir.output(),
            time_limit_s: Some(limits::SANDBOX_PROBE_S),
            grace_s: 0,
            confinement: self.confine(dir, limits::ATTEMPTS_MAX as u32, contents),
            fence: None,
        };
        let exit = helper.launch(spec).await.map_err(failed)?.wait().await;
        match exit.cause {
            _ if exit.is_success() && dir.output().join("said").exists() => Ok(()),
            ExitCause::Timeout => Err("a trial run did not end".to_owned()),
            _ => Err(exit.error.unwrap_or_else(|| "a trial run could not write its output".to_owned())),
        }
    }
}
