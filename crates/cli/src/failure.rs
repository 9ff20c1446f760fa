//! How a command fails: the message, what to try, and the exit code.

use crate::terminal;
use fetchml_api::{FailureCause, Task, TaskStatus};
use fetchml_client::ClientError;
use std::{fmt, io, process::ExitCode};

/// The exit codes of all commands. `submit --follow` and `wait` tell the task's outcome by them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// Done; the task completed.
    Success = 0,
    /// The task failed.
    TaskFailed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The task was cancelled.
    TaskCancelled = 3,
    /// The task was lost with its worker or could not be started.
    TaskLost = 4,
    /// The server could not be reached or refused, or a local file failed.
    Error = 5,
    /// `wait --timeout` passed.
    TimedOut = 124,
    /// Interrupted from the terminal; the task goes on.
    Interrupted = 130,
}

/// The codes, for help texts.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    the task completed
  1    the task failed
  2    the command line or configuration is wrong
  3    the task was cancelled
  4    the task was lost with its worker or could not be started
  5    the server could not be reached or refused, or a local file failed
  124  --timeout passed (wait)
  130  interrupted with Ctrl-C; the task goes on";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// What was compared differs, as the shell's `diff` says it.
    pub(crate) const DIFFERENT: Self = Self::TaskFailed;

    /// The code that tells how an ended task ended.
    pub(crate) fn of(task: &Task) -> Self {
        if task.status == TaskStatus::Completed {
            return Self::Success;
        }
        match task.failure.as_ref().map(|failure| failure.cause) {
            Some(FailureCause::Cancelled) => Self::TaskCancelled,
            Some(FailureCause::Lost | FailureCause::Launch | FailureCause::Plugin | FailureCause::Preempted) => {
                Self::TaskLost
            }
            Some(
                FailureCause::ExitNonzero
                | FailureCause::Signal
                | FailureCause::OomHost
                | FailureCause::OomGpu
                | FailureCause::Timeout
                | FailureCause::Stalled
                | FailureCause::Dataset
                | FailureCause::Environment
                | FailureCause::Image
                | FailureCause::Snapshot
                | FailureCause::Secret
                | FailureCause::Dependency
                | FailureCause::Quota,
            )
            | None => Self::TaskFailed,
        }
    }
}

/// A failure with its own words, hint and exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    exit: Exit,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl Failure {
    /// The command line or the configuration is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, exit: Exit::Usage }
    }

    /// Anything else.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, exit: Exit::Error }
    }

    /// Adds what to try.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Says what went wrong on stderr and returns the exit code.
pub(crate) fn report(error: &anyhow::Error) -> Exit {
    // Whoever read our output has enough of it: `fetchml tasks | head` is no failure.
    let closed = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(closed) {
        return Exit::Success;
    }
    let (hint, exit) = error
        .chain()
        .find_map(|cause| {
            if let Some(failure) = cause.downcast_ref::<Failure>() {
                return Some((failure.hint.clone(), failure.exit));
            }
            let client = cause.downcast_ref::<ClientError>()?;
            let usage = matches!(client, ClientError::BadUrl { .. } | ClientError::BadKey { .. });
            Some((client.hint(), if usage { Exit::Usage } else { Exit::Error }))
        })
        .unwrap_or((None, Exit::Error));
    terminal::say_error(&format!("{error:#}"));
    if let Some(hint) = hint {
        terminal::say_hint(&hint);
    }
    exit
}
