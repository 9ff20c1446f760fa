//! Starting one program: clean signals, nothing above standard error, the log for both outputs. Used by
//! the shim itself, and by [`super::init`] inside a sandbox.

use super::record::{Exit, ExitCause};
use nix::{
    spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn},
    sys::signal::SigSet,
};
use rustix::{io::Errno, process::Pid};
use secrecy::zeroize::Zeroize as _;
use serde::{Deserialize, Serialize};
use std::{
    ffi::{CString, OsStr, OsString},
    fmt, fs, io,
    os::{
        fd::{AsRawFd as _, BorrowedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Path, PathBuf},
};

/// What to execute. The values of its environment may be secrets: not shown, and overwritten when dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Program {
    #[serde(with = "super::wire::os_strings")]
    pub(super) argv: Vec<OsString>,
    #[serde(with = "super::wire::os_string_pairs")]
    pub(super) env: Vec<(OsString, OsString)>,
    #[serde(with = "super::wire::os_string")]
    pub(super) cwd: OsString,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("Program").field("argv", &self.argv).field("env", &names).field("cwd", &self.cwd).finish()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.forget_environment();
    }
}

impl Program {
    /// Overwrites the environment: what was started has its own copy.
    pub(super) fn forget_environment(&mut self) {
        for (_, value) in self.env.drain(..) {
            value.into_vec().zeroize();
        }
    }

    /// Starts it in a process group of its own, with default signals and an empty mask; standard input
    /// is this process' own.
    ///
    /// By `posix_spawn`, which copies no page table. Not by `Command`: that passes blocked signals on,
    /// and unblocking them here for a moment would let a SIGTERM end the shim.
    pub(super) fn spawn(&self, output: BorrowedFd<'_>) -> io::Result<Pid> {
        let program =
            self.argv.first().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "there is no command"))?;
        // Not found: a name with a slash that does not exist either, so that the start fails.
        let path = self.resolve(program).unwrap_or_else(|| Path::new("/nonexistent").join(program));
        let argv = self.argv.iter().map(|word| Ok(CString::new(word.as_bytes())?)).collect::<io::Result<Vec<_>>>()?;
        let entry = |(name, value): &(OsString, OsString)| {
            Ok(CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())?)
        };
        // The last of a name counts, and programs find the first.
        let is_last = |(at, (name, _)): &(usize, &(OsString, OsString))| {
            self.env[at + 1..].iter().all(|(later, _)| later != name)
        };
        let env = self.env.iter().enumerate().filter(is_last).map(|(_, variable)| entry(variable));
        let env = env.collect::<io::Result<Vec<_>>>()?;

        let mut files = PosixSpawnFileActions::init()?;
        for descriptor in [1, 2] {
            files.add_dup2(output.as_raw_fd(), descriptor)?;
        }
        let mut attributes = PosixSpawnAttr::init()?;
        attributes.set_flags(
            PosixSpawnFlags::POSIX_SPAWN_SETPGROUP
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK,
        )?;
        attributes.set_sigdefault(&SigSet::all())?;
        attributes.set_sigmask(&SigSet::empty())?;

        // The process inherits it; this one must not keep a directory busy.
        rustix::process::chdir(&self.cwd)?;
        let started = posix_spawn(path.as_path(), &files, &attributes, &argv, &env);
        rustix::process::chdir("/")?;
        Pid::from_raw(started?.as_raw()).ok_or_else(|| io::Error::other("posix_spawn gave no process id"))
    }

    /// Finds a bare command name in the program's own PATH: with a path in hand the program is started
    /// without copying this process first, and the error says what was looked for.
    pub(super) fn resolve(&self, program: &OsStr) -> Option<PathBuf> {
        use std::os::unix::fs::PermissionsExt as _;
        if program.as_bytes().contains(&b'/') {
            return Some(program.into());
        }
        let path =
            self.env.iter().rev().find(|(name, _)| name == "PATH").map_or_else(OsString::new, |(_, v)| v.clone());
        std::env::split_paths(&path)
            .map(|dir| Path::new(&self.cwd).join(dir).join(program))
            .find(|file| fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
    }

    /// Exit record of this program when it did not start: the task's fault where a shell would say 126
    /// or 127.
    pub(super) fn launch_failed(&self, error: &io::Error) -> Exit {
        let program = self.argv.first().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
        let (exit_code, error) = match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT | Errno::NOTDIR) if !Path::new(&self.cwd).is_dir() => {
                (None, format!("the working directory {} does not exist", Path::new(&self.cwd).display()))
            }
            Some(Errno::NOENT | Errno::NOTDIR) => (
                Some(127),
                format!("{program}: no such program; check its name, and the interpreter in its first line"),
            ),
            Some(Errno::ACCESS | Errno::PERM) => (
                Some(126),
                format!("{program}: permission denied; is it executable (chmod +x) where it was submitted?"),
            ),
            Some(Errno::NOEXEC) => (
                Some(126),
                format!("{program}: not a program this machine can run; a script needs a first line like #!/bin/sh"),
            ),
            Some(Errno::TOOBIG) => (Some(126), format!("{program}: arguments and environment are too long")),
            _ if error.kind() == io::ErrorKind::InvalidInput => (Some(126), format!("{program}: {error}")),
            _ => (None, format!("{program} could not be started: {error}")),
        };
        Exit { exit_code, error: Some(error), ..Exit::unseen(ExitCause::LaunchFailed) }
    }
}
