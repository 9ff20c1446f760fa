//! How many files the server's process may open: each connection takes one.

use crate::limits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the process may open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenFiles {
    /// Before it was raised: what processes that it starts should have.
    pub before: Option<u64>,
    /// Now.
    pub now: usize,
}

impl OpenFiles {
    /// Raises the limit of this process as far as it may, and as the server has use for. Says so when that is little.
    pub fn raise() -> Self {
        let Rlimit { current: before, maximum } = getrlimit(Resource::Nofile);
        let wanted = maximum.map_or(limits::OPEN_FILES, |maximum| maximum.min(limits::OPEN_FILES));
        if before.is_some_and(|before| before < wanted)
            && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
        {
            tracing::warn!(%error, "the number of open files cannot be raised");
        }
        let (now, connections) = (limits::open_files_max(), limits::connections_max());
        if connections < limits::CONNECTIONS_MAX {
            tracing::warn!(
                "this process may open {now} files, so that it takes {connections} connections at a time instead of {}; \
                 raise the hard limit of open files (ulimit -Hn, LimitNOFILE= of systemd) to {} for more",
                limits::CONNECTIONS_MAX,
                limits::OPEN_FILES
            );
        }
        Self { before, now }
    }
}
