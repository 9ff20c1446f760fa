//! What can go wrong.

use crate::{MINUTE, SECOND, Time};
use std::{fmt, str::FromStr};

/// A kind of fault. A plan names those that may strike.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fault {
    /// The server is killed at any moment, also between commit and reply, and starts again.
    ServerCrash,
    /// The server's process stands still for a while.
    ServerPause,
    /// The server's wall clock jumps.
    ClockJump,
    /// A commit is refused for a while: busy, disconnected, disk full.
    DatabaseBusy,
    /// A commit takes up to a minute.
    DatabaseSlow,
    /// Nobody knows whether a commit was done.
    CommitUnknown,
    /// The database is replaced by an older copy of itself.
    RestoredBackup,
    /// An agent is killed at any moment and starts again.
    AgentCrash,
    /// An agent's process stands still for a while.
    AgentPause,
    /// A shim is killed.
    ShimCrash,
    /// A machine loses power: what was not synced is gone.
    HostCrash,
    /// A machine sleeps; its boot clock goes on.
    HostSuspend,
    /// A machine's disk takes no new attempts for a while.
    HostDiskFull,
    /// A data directory is copied and an agent started on the copy.
    ClonedWorker,
    /// A connection breaks; what was on its way is lost.
    LinkBreak,
    /// Nothing comes through from a worker to the server for a while.
    CutUp,
    /// Nothing comes through from the server to a worker for a while.
    CutDown,
    /// Everything on a link takes seconds for a while.
    Delay,
    /// Messages come twice.
    Repeat,
    /// Tasks that ignore SIGTERM, always fail, or never end.
    PoisonTask,
}

impl Fault {
    /// All.
    pub const ALL: [Self; 20] = [
        Self::ServerCrash,
        Self::ServerPause,
        Self::ClockJump,
        Self::DatabaseBusy,
        Self::DatabaseSlow,
        Self::CommitUnknown,
        Self::RestoredBackup,
        Self::AgentCrash,
        Self::AgentPause,
        Self::ShimCrash,
        Self::HostCrash,
        Self::HostSuspend,
        Self::HostDiskFull,
        Self::ClonedWorker,
        Self::LinkBreak,
        Self::CutUp,
        Self::CutDown,
        Self::Delay,
        Self::Repeat,
        Self::PoisonTask,
    ];

    /// Its word in plans.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ServerCrash => "server_crash",
            Self::ServerPause => "server_pause",
            Self::ClockJump => "clock_jump",
            Self::DatabaseBusy => "database_busy",
            Self::DatabaseSlow => "database_slow",
            Self::CommitUnknown => "commit_unknown",
            Self::RestoredBackup => "restored_backup",
            Self::AgentCrash => "agent_crash",
            Self::AgentPause => "agent_pause",
            Self::ShimCrash => "shim_crash",
            Self::HostCrash => "host_crash",
            Self::HostSuspend => "host_suspend",
            Self::HostDiskFull => "host_disk_full",
            Self::ClonedWorker => "cloned_worker",
            Self::LinkBreak => "link_break",
            Self::CutUp => "cut_up",
            Self::CutDown => "cut_down",
            Self::Delay => "delay",
            Self::Repeat => "repeat",
            Self::PoisonTask => "poison_task",
        }
    }

    /// Mean time between two of it in one lab, at the usual strength. None: it strikes on its own occasion.
    pub(crate) const fn every(self) -> Option<Time> {
        Some(match self {
            Self::ServerCrash => 5 * MINUTE,
            Self::ServerPause | Self::HostCrash => 8 * MINUTE,
            Self::ClockJump | Self::CommitUnknown => 6 * MINUTE,
            Self::DatabaseBusy | Self::HostSuspend => 10 * MINUTE,
            Self::DatabaseSlow | Self::AgentPause => 4 * MINUTE,
            Self::RestoredBackup | Self::ClonedWorker => 15 * MINUTE,
            Self::AgentCrash | Self::ShimCrash | Self::LinkBreak => 90 * SECOND,
            Self::HostDiskFull => 9 * MINUTE,
            Self::CutUp | Self::CutDown | Self::Delay => 3 * MINUTE,
            Self::Repeat | Self::PoisonTask => return None,
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|fault| fault.as_str() == text).ok_or_else(|| format!("unknown fault {text:?}"))
    }
}
