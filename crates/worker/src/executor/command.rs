//! From entry point and arguments to a program and its arguments.
//!
//! `*.py` runs by the environment's Python, `*.sh` by bash, an executable of the snapshot itself;
//! anything else is a command split by shell rules. No shell runs unless the command names one.

use crate::{limits, staging::PythonEnvironment};
use fetchml_api::{FailureCause, TaskSpec, link::Outcome};
use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// The task names nothing that can be started. Its fault, so it counts as an exit with the code that
/// a shell would give.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{error}")]
pub struct CommandError {
    /// 127: not found; 126: found, not runnable; 2: not a command.
    pub exit_code: i32,
    /// One sentence: what is wrong, what to do.
    pub error: String,
}

impl CommandError {
    fn not_found(error: String) -> Self {
        Self { exit_code: 127, error }
    }

    fn not_runnable(error: String) -> Self {
        Self { exit_code: 126, error }
    }

    fn malformed(error: String) -> Self {
        Self { exit_code: 2, error }
    }

    /// The outcome to report.
    pub fn outcome(&self) -> Outcome {
        Outcome {
            cause: Some(FailureCause::ExitNonzero),
            exit_code: Some(self.exit_code),
            error: Some(self.error.clone()),
            ..Outcome::default()
        }
    }
}

/// Where a command's programs are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Programs<'a> {
    /// On this worker, in the directories of `path`.
    Here { path: &'a OsStr, python: Option<&'a PythonEnvironment> },
    /// In an image: whether it has one is seen inside.
    InImage,
}

impl Programs<'_> {
    /// What an image may have in place of a program that it lacks.
    pub(super) fn instead(self, program: &OsStr) -> Vec<OsString> {
        match (self, program.to_str()) {
            (Self::InImage, Some("python3")) => vec!["python".into()],
            (Self::InImage, Some("python")) => vec!["python3".into()],
            (Self::InImage, Some("bash")) => vec!["sh".into()],
            _ => Vec::new(),
        }
    }
}

/// Program and arguments of a task whose snapshot lies in `work`.
pub(super) fn argv(spec: &TaskSpec, work: &Path, programs: Programs<'_>) -> Result<Vec<OsString>, CommandError> {
    let finder = Finder { work, programs };
    let args = split("args", spec.args.as_deref().unwrap_or_default())?;
    let entrypoint = spec.entrypoint.as_deref().map(str::trim).filter(|entrypoint| !entrypoint.is_empty());
    let words = match entrypoint {
        None => args,
        // A file's name is taken whole, spaces and quotes included.
        Some(file) if finder.is_file(file) => [vec![file.to_owned()], args].concat(),
        Some(command) => [split("entrypoint", command)?, args].concat(),
    };
    let (first, rest) = words
        .split_first()
        .ok_or_else(|| CommandError::malformed("the task has no command: set entrypoint or args".to_owned()))?;
    let mut argv = finder.program(first)?;
    argv.extend(rest.iter().map(OsString::from));
    Ok(argv)
}

fn split(field: &str, text: &str) -> Result<Vec<String>, CommandError> {
    shell_words::split(text)
        .map_err(|_| CommandError::malformed(format!("{field} has an unclosed quote and cannot be split into words")))
}

struct Finder<'a> {
    work: &'a Path,
    programs: Programs<'a>,
}

impl Finder<'_> {
    fn is_file(&self, name: &str) -> bool {
        // An absolute path is of the image, where there is one, and never of this worker.
        !self.is_inside(name) && self.work.join(name).is_file()
    }

    fn is_inside(&self, name: &str) -> bool {
        matches!(self.programs, Programs::InImage) && name.starts_with('/')
    }

    /// The first words of the argument vector for the command's first word.
    fn program(&self, name: &str) -> Result<Vec<OsString>, CommandError> {
        let suffix = Path::new(name).extension().and_then(OsStr::to_str);
        match suffix {
            Some("py" | "sh") if !self.is_file(name) && !self.is_inside(name) => {
                Err(CommandError::not_found(format!("{name} does not exist in the snapshot; {}", self.top_files())))
            }
            Some("py") => Ok(vec![self.python()?.into(), name.into()]),
            Some("sh") => Ok(vec![self.on_path("bash")?.into(), name.into()]),
            _ if self.is_file(name) => {
                let file = self.work.join(name);
                if is_executable(&file) {
                    return Ok(vec![file.into()]);
                }
                Err(CommandError::not_runnable(format!(
                    "{name} is not executable: use chmod +x before submitting, or name its interpreter"
                )))
            }
            _ if self.is_inside(name) => Ok(vec![name.into()]),
            _ if name.contains('/') => {
                Err(CommandError::not_found(format!("{name} does not exist; {}", self.top_files())))
            }
            _ if name == "python" || name == "python3" => Ok(vec![self.python()?.into()]),
            _ => Ok(vec![self.on_path(name)?.into()]),
        }
    }

    fn python(&self) -> Result<PathBuf, CommandError> {
        match self.programs {
            Programs::Here { python: Some(environment), .. } => Ok(environment.python()),
            _ => self.on_path("python3").or_else(|error| self.on_path("python").map_err(|_| error)),
        }
    }

    fn on_path(&self, name: &str) -> Result<PathBuf, CommandError> {
        let Programs::Here { path, .. } = self.programs else { return Ok(name.into()) };
        let found = std::env::split_paths(path)
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join(name))
            .find(|file| is_executable(file));
        found.ok_or_else(|| {
            CommandError::not_found(format!(
                "{name:?} is neither a file of the snapshot nor a program on this worker; {}",
                self.top_files()
            ))
        })
    }

    fn top_files(&self) -> String {
        let entries = fs::read_dir(self.work).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .map(|entry| {
                let slash = if entry.path().is_dir() { "/" } else { "" };
                format!("{}{slash}", entry.file_name().to_string_lossy())
            })
            .collect();
        if names.is_empty() {
            return "the snapshot holds no files".to_owned();
        }
        names.sort();
        let more = names.len().saturating_sub(limits::TOP_FILES_SHOWN);
        names.truncate(limits::TOP_FILES_SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("files at the top: {}{more}", names.join(", "))
    }
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}
