//! The programs that build environments: uv where it is on PATH, else `venv` and pip.

use super::{StageError, definite, requirements::Requirements};
use std::{
    env,
    ffi::{OsStr, OsString},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::{
    process::Command,
    sync::{Mutex, MutexGuard, OnceCell},
};

/// The interpreter that environments are made from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Python {
    pub(super) program: PathBuf,
    /// Implementation and version, such as `cpython 3.11.7`.
    pub(super) version: String,
}

/// Finds the programs once.
#[derive(Debug)]
pub(super) struct Tools {
    /// Where a uv that FetchML installed lies.
    own_uv: PathBuf,
    /// Held by a build that may install it.
    installing_uv: Mutex<()>,
    python: OnceCell<Python>,
}

/// Commands that build one environment, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Steps {
    builder: &'static str,
    commands: Vec<Vec<OsString>>,
}

impl Steps {
    /// What builds it, for people.
    pub(super) fn builder(&self) -> &'static str {
        self.builder
    }

    pub(super) fn commands(&self) -> &[Vec<OsString>] {
        &self.commands
    }

    pub(super) fn len(&self) -> usize {
        self.commands.len()
    }
}

impl Tools {
    pub(super) fn new(data_dir: &Path) -> Self {
        Self { own_uv: data_dir.join("tools").join("uv"), installing_uv: Mutex::new(()), python: OnceCell::new() }
    }

    /// The worker's Python 3.
    pub(super) async fn python(&self) -> Result<Python, StageError> {
        const SHOW: &str = "import sys; print(sys.implementation.name, '.'.join(map(str, sys.version_info[:3])))";
        let find = || async {
            let missing = || definite("this worker has no Python 3: install python3 and its venv module".to_owned());
            let program = on_path("python3").or_else(|| on_path("python")).ok_or_else(missing)?;
            let answer = Command::new(&program).args(["-c", SHOW]).stdin(Stdio::null()).output().await;
            let answer = answer.map_err(|error| super::local(&program, &error))?;
            let version = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
            if !answer.status.success() || version.is_empty() {
                return Err(definite(format!("{} does not work on this worker", program.display())));
            }
            Ok(Python { program, version })
        };
        self.python.get_or_try_init(find).await.cloned()
    }

    /// Waits for other builds that may install uv, when this one may.
    pub(super) async fn turn(&self, wanted: &Requirements) -> Option<MutexGuard<'_, ()>> {
        match wanted {
            Requirements::Lock(_) if on_path("uv").is_none() => Some(self.installing_uv.lock().await),
            _ => None,
        }
    }

    /// The commands that build `root`, run from the snapshot's root; `work` is a scratch directory.
    pub(super) fn steps(&self, wanted: &Requirements, python: &Python, root: &Path, work: &Path) -> Steps {
        let uv = on_path("uv");
        let text = match wanted {
            Requirements::Lock(_) => return self.lock_steps(uv, python),
            Requirements::Text(_) => PathBuf::from("requirements.txt"),
            Requirements::Project(_) => Requirements::written(work),
        };
        let own_python = root.join("bin").join("python");
        match uv {
            Some(uv) => Steps {
                builder: "uv",
                commands: vec![
                    words([
                        uv.as_os_str(),
                        "venv".as_ref(),
                        "--python".as_ref(),
                        python.program.as_ref(),
                        root.as_ref(),
                    ]),
                    words([
                        uv.as_os_str(),
                        "pip".as_ref(),
                        "install".as_ref(),
                        "--python".as_ref(),
                        own_python.as_ref(),
                        "-r".as_ref(),
                        text.as_ref(),
                    ]),
                ],
            },
            None => Steps {
                builder: "pip",
                commands: vec![
                    words([python.program.as_os_str(), "-m".as_ref(), "venv".as_ref(), root.as_ref()]),
                    pip_install(&own_python, ["-r".as_ref(), text.as_os_str()]),
                ],
            },
        }
    }

    /// Only uv can read its lock; where it is missing pip brings it in, once.
    fn lock_steps(&self, uv: Option<PathBuf>, python: &Python) -> Steps {
        let own_bin = self.own_uv.join("bin");
        let own = own_bin.join("uv");
        let mut commands = Vec::new();
        if uv.is_none() && !is_executable(&own) {
            commands.push(words([python.program.as_os_str(), "-m".as_ref(), "venv".as_ref(), self.own_uv.as_ref()]));
            commands.push(pip_install(&own_bin.join("python"), ["uv".as_ref()]));
        }
        let uv = uv.unwrap_or(own);
        let python = python.program.as_os_str();
        commands.push(words([
            uv.as_os_str(),
            "sync".as_ref(),
            "--frozen".as_ref(),
            "--no-install-project".as_ref(),
            "--python".as_ref(),
            python,
        ]));
        Steps { builder: "uv", commands }
    }

    /// Variables of builders: few, but with the settings by which a site names its mirrors, proxies
    /// and certificates. HOME stays the worker's: pip's and uv's own settings and caches are there.
    pub(super) fn variables() -> Vec<(OsString, OsString)> {
        const NAMES: [&str; 16] = [
            "PATH",
            "HOME",
            "USER",
            "LANG",
            "TMPDIR",
            "XDG_CACHE_HOME",
            "XDG_CONFIG_HOME",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
            "NO_PROXY",
            "http_proxy",
            "https_proxy",
            "all_proxy",
            "no_proxy",
            "REQUESTS_CA_BUNDLE",
        ];
        const PREFIXES: [&str; 3] = ["PIP_", "UV_", "SSL_CERT_"];
        env::vars_os()
            .filter(|(name, _)| {
                name.to_str()
                    .is_some_and(|name| NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
            })
            .collect()
    }
}

fn pip_install<const N: usize>(python: &Path, what: [&OsStr; N]) -> Vec<OsString> {
    let mut command = words([
        python.as_os_str(),
        "-m".as_ref(),
        "pip".as_ref(),
        "install".as_ref(),
        "--disable-pip-version-check".as_ref(),
        "--no-input".as_ref(),
    ]);
    command.extend(words(what));
    command
}

fn words<const N: usize>(words: [&OsStr; N]) -> Vec<OsString> {
    words.map(OsStr::to_owned).into()
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(program))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}
