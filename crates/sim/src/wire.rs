//! What server and workers say to each other here: the messages of the link without what the core does
//! not decide about.

use crate::Time;
use fetchml_api::{
    AttemptId, Capabilities,
    link::{Held, SpooledReport},
};
use fetchml_scheduler::Message;

/// Worker to server.
#[derive(Clone, Debug)]
pub(crate) enum Up {
    Hello {
        run: u64,
        incarnation_seen: u64,
        capabilities: Box<Capabilities>,
        slots: (u32, u32),
        inventory: Vec<Held>,
    },
    /// When it was sent, on the machine's boot clock.
    Beat(Time),
    Reports(Vec<SpooledReport>),
}

/// Server to worker.
#[derive(Clone, Debug)]
pub(crate) enum Down {
    Welcome { incarnation: u64, lost_after: Time, forget: Vec<AttemptId> },
    Refused,
    Order(Message),
    Ack(u64),
    BeatAck(Time),
}
