//! The programs that build environments: uv where it is on PATH, else `venv` and pip.

use super::{StageError, definite, requirements::Requirements};
use crate::limits;
use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
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
    /// Where it has its own files, as far as they are not the system's.
    pub(super) prefixes: Vec<PathBuf>,
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
    commands: Vec<Step>,
    /// A uv of the worker's own that is used.
    uv: Option<PathBuf>,
}

/// One command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Step {
    pub(super) argv: Vec<OsString>,
    /// Whether nothing of a user's has a say in it: it makes what all builds use.
    pub(super) is_own: bool,
}

impl Step {
    fn of_user(argv: Vec<OsString>) -> Self {
        Self { argv, is_own: false }
    }

    fn own(argv: Vec<OsString>) -> Self {
        Self { argv, is_own: true }
    }
}

impl Steps {
    /// What builds it, for people.
    pub(super) fn builder(&self) -> &'static str {
        self.builder
    }

    pub(super) fn commands(&self) -> &[Step] {
        &self.commands
    }

    /// The program that must be seen where it is not the system's.
    pub(super) fn uv(&self) -> Option<&Path> {
        self.uv.as_deref()
    }

    pub(super) fn len(&self) -> usize {
        self.commands.len()
    }
}

impl Tools {
    pub(super) fn new(data_dir: &Path) -> Self {
        Self { own_uv: data_dir.join("tools").join("uv"), installing_uv: Mutex::new(()), python: OnceCell::new() }
    }

    /// Where a uv that FetchML installed lies.
    pub(super) fn own_uv(&self) -> &Path {
        &self.own_uv
    }

    /// The worker's Python 3: the interpreter itself, not what may stand for it on the PATH.
    pub(super) async fn python(&self) -> Result<Python, StageError> {
        const SHOW: &str = "import sys; print(sys.implementation.name, '.'.join(map(str, sys.version_info[:3]))); \
                            print(getattr(sys, '_base_executable', None) or sys.executable)";
        let find = || async {
            let missing = || definite("this worker has no Python 3: install python3 and its venv module".to_owned());
            let program = on_path("python3").or_else(|| on_path("python")).ok_or_else(missing)?;
            let answer = Command::new(&program).args(["-I", "-c", SHOW]).stdin(Stdio::null()).output().await;
            let answer = answer.map_err(|error| super::local(&program, &error))?;
            let answered = String::from_utf8_lossy(&answer.stdout);
            match answered.trim().split_once('\n') {
                Some((version, base)) if answer.status.success() && Path::new(base).is_absolute() => {
                    let program = PathBuf::from(base);
                    Ok(Python { prefixes: prefixes(&program), program, version: version.to_owned() })
                }
                _ => Err(definite(format!("{} does not work on this worker", program.display()))),
            }
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
        // The file itself: links on the way to it are not in a sandbox.
        let uv = on_path("uv").map(|uv| uv.canonicalize().unwrap_or(uv));
        let text = match wanted {
            Requirements::Lock(_) => return self.lock_steps(uv, python),
            Requirements::Text(_) => PathBuf::from("requirements.txt"),
            Requirements::Project(_) => Requirements::written(work),
        };
        let own_python = root.join("bin").join("python");
        match uv {
            Some(uv) => Steps {
                builder: "uv",
                commands: [
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
                ]
                .map(Step::of_user)
                .into(),
                uv: Some(uv),
            },
            None => Steps {
                builder: "pip",
                commands: [venv(python, root), pip_install(&own_python, ["-r".as_ref(), text.as_os_str()])]
                    .map(Step::of_user)
                    .into(),
                uv: None,
            },
        }
    }

    /// Only uv can read its lock; where it is missing pip brings it in, once.
    fn lock_steps(&self, uv: Option<PathBuf>, python: &Python) -> Steps {
        let own_bin = self.own_uv.join("bin");
        let own = own_bin.join("uv");
        let mut commands = Vec::new();
        if uv.is_none() && !is_executable(&own) {
            commands.push(Step::own(venv(python, &self.own_uv)));
            let words = ["--only-binary".as_ref(), ":all:".as_ref(), "uv".as_ref()];
            commands.push(Step::own(pip_install(&own_bin.join("python"), words)));
        }
        let program = uv.as_ref().unwrap_or(&own);
        let python = python.program.as_os_str();
        commands.push(Step::of_user(words([
            program.as_os_str(),
            "sync".as_ref(),
            "--frozen".as_ref(),
            "--no-install-project".as_ref(),
            "--python".as_ref(),
            python,
        ])));
        Steps { builder: "uv", commands, uv }
    }
}

/// `-I`: no module of the directory it is started in stands in for Python's own.
fn venv(python: &Python, root: &Path) -> Vec<OsString> {
    words([python.program.as_os_str(), "-I".as_ref(), "-m".as_ref(), "venv".as_ref(), root.as_ref()])
}

fn pip_install<const N: usize>(python: &Path, what: [&OsStr; N]) -> Vec<OsString> {
    let mut command = words([
        python.as_os_str(),
        "-I".as_ref(),
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

/// Where an interpreter has its own files, as far as they are not the system's. Asked of the worker's own one only: an
/// environment could name any place.
fn prefixes(interpreter: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut add = |program: &Path| {
        // <prefix>/bin/python
        if let Some(prefix) = program.parent().and_then(Path::parent) {
            let own = ["/usr", "/opt", "/bin", "/"].iter().any(|dir| prefix == Path::new(dir))
                || prefix.starts_with("/usr")
                || prefix.starts_with("/opt");
            if !own && !found.contains(&prefix.to_owned()) {
                found.push(prefix.to_owned());
            }
        }
    };
    // Each link on the way: the interpreter looks for its library beside any of them.
    let mut program = interpreter.to_owned();
    for _ in 0..limits::LINKS_MAX {
        add(&program);
        match fs::read_link(&program) {
            Ok(target) => program = program.parent().unwrap_or(Path::new("/")).join(target),
            Err(_) => break,
        }
    }
    if let Ok(program) = fs::canonicalize(&program) {
        add(&program);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn an_interpreter_outside_the_system_is_found_through_its_links() {
        let dir = tempfile::tempdir().unwrap();
        let (real, alias) = (dir.path().join("py3.11.4"), dir.path().join("py3.11"));
        fs::create_dir_all(real.join("bin")).unwrap();
        fs::write(real.join("bin/python3.11"), "").unwrap();
        symlink("py3.11.4", &alias).unwrap();
        assert_eq!(prefixes(&alias.join("bin/python3.11")), [alias, real]);
        assert_eq!(prefixes(Path::new("/usr/bin/python3")), Vec::<PathBuf>::new());
    }
}
