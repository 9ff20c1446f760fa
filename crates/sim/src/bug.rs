//! Faults of the product itself, planted to prove that the checks see them. They sit around the core,
//! in the models of driver, agent and shim, so that the product carries none of this.

use std::{fmt, str::FromStr};

macro_rules! bugs {
    ($($(#[doc = $doc:literal])* $name:ident = $word:literal,)+) => {
        /// A planted bug.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Bug {
            $($(#[doc = $doc])* $name,)+
        }

        impl Bug {
            /// All.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Those that need so rare a meeting of faults that a few hundred small runs may miss them: looked
            /// for in the long form only.
            pub const RARE: &[Self] = &[Self::FenceFromAnswer, Self::SilentOnRepeat];

            /// Its word in plans.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                }
            }
        }
    };
}

bugs! {
    /// A submit is acknowledged before it is durable.
    ReplyBeforeCommit = "reply_before_commit",
    /// Workers get their messages before the decision is durable.
    SendBeforeCommit = "send_before_commit",
    /// Reports are acknowledged before their effect is durable.
    AckBeforeCommit = "ack_before_commit",
    /// After a failed commit the core goes on with what it had decided.
    NoRebuild = "no_rebuild",
    /// A commit whose outcome is unknown is done again.
    RetryUnknown = "retry_unknown",
    /// A report counts whatever attempt it is of.
    SkipEpochCheck = "skip_epoch_check",
    /// What was queued again is not in the audit log.
    SkipAudit = "skip_audit",
    /// A restart goes on in the incarnation that was.
    IncarnationReused = "incarnation_reused",
    /// A restart forgets one waiting task.
    RestoreLosesTask = "restore_loses_task",
    /// A restart forgets who cancelled.
    RestoreLosesCancel = "restore_loses_cancel",
    /// That a process tree is dead does not reach the core, which never frees the slot.
    LeakSlot = "leak_slot",
    /// A task that has run for ten minutes is taken for lost.
    RescueByAge = "rescue_by_age",
    /// A worker's silence is counted from the first beat, not the last.
    LeaseFromFirstBeat = "lease_from_first_beat",
    /// A beat is answered before the core has heard it, which may take as long as a slow commit.
    BeatAnsweredEarly = "beat_answered_early",
    /// The connection of a session that the server has dropped stays open, and beats on it are answered.
    ZombieSession = "zombie_session",
    /// A worker that comes back is not asked what it holds.
    IgnoreInventory = "ignore_inventory",
    /// A server that starts forgets where its tasks run and assigns them anew.
    RequeueAtBoot = "requeue_at_boot",
    /// An exit that nobody saw is reported as 0.
    ExitUnknownIsZero = "exit_unknown_is_zero",
    /// A shim does not mind the lease.
    NoFence = "no_fence",
    /// The lease is counted on a clock that stops while the machine sleeps.
    FenceStopsInSuspend = "fence_stops_in_suspend",
    /// The lease is counted from the answer to a beat, and answers that come late count in full.
    FenceFromAnswer = "fence_from_answer",
    /// An agent says nothing when a server whose database was restored assigns what has run already.
    SilentOnRepeat = "silent_on_repeat",
    /// An attempt that is assigned again starts again.
    StartTwice = "start_twice",
    /// A restarted agent starts again what may have run.
    GoForgotten = "go_forgotten",
    /// A reconnected agent does not repeat what was not acknowledged.
    NoResend = "no_resend",
    /// An agent leaves a forgotten attempt running.
    ForgetIgnored = "forget_ignored",
    /// An agent offers a slot while the process tree in it still ends.
    SlotBeforeDead = "slot_before_dead",
    /// An agent takes the message to cancel only while its attempt stages.
    CancelIgnored = "cancel_ignored",
    /// A restarted agent does not look for living shims and begins anew.
    NoReattach = "no_reattach",
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Bug {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|bug| bug.as_str() == text).ok_or_else(|| format!("unknown bug {text:?}"))
    }
}
