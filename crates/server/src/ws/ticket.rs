//! Tickets: what opens `/ws` once and soon, so that no key stands in a URL. Kept in memory as digests; a server
//! that restarts has none, and its clients ask for another.

use crate::{auth::Caller, error::AppError, limits};
use sha2::{Digest as _, Sha256};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

const PREFIX: &str = "fmt_";

/// Tickets that were not used yet.
#[derive(Default)]
pub(crate) struct Tickets(Mutex<HashMap<[u8; 32], Waiting>>);

struct Waiting {
    caller: Caller,
    until: Instant,
}

impl Tickets {
    /// A new ticket.
    ///
    /// # Errors
    /// 429 when the key has too many that were not used, 503 when all have.
    pub(crate) fn issue(&self, caller: Caller, now: Instant) -> Result<String, AppError> {
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(AppError::internal)?;
        let ticket = format!("{PREFIX}{}", hex::encode(random));
        let mut waiting = self.waiting();
        waiting.retain(|_, ticket| ticket.until > now && !ticket.caller.key_has_ended());
        if waiting.values().filter(|ticket| ticket.caller.key == caller.key).count() >= limits::WS_TICKETS_PER_KEY {
            return Err(AppError::RateLimited { retry_after_s: limits::WS_TICKET_LASTS.as_secs() });
        }
        if waiting.len() >= limits::WS_TICKETS_MAX {
            let reason = "Too many tickets are waiting to be used.".to_owned();
            return Err(AppError::Unavailable { reason, retry_after_s: limits::RETRY_AFTER_S.into() });
        }
        waiting.insert(digest(&ticket), Waiting { caller, until: now + limits::WS_TICKET_LASTS });
        Ok(ticket)
    }

    /// Whom a ticket stands for. It works no more, whatever comes of it.
    pub(crate) fn redeem(&self, ticket: &str, ip: Option<IpAddr>, now: Instant) -> Option<Caller> {
        let Waiting { mut caller, until } = self.waiting().remove(&digest(ticket))?;
        caller.ip = ip;
        (until > now && !caller.key_has_ended()).then_some(caller)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<[u8; 32], Waiting>> {
        // No code panics while it holds the table, which is never half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looked up by digest, so that the time of a look-up says nothing about a ticket.
fn digest(ticket: &str) -> [u8; 32] {
    Sha256::digest(ticket.as_bytes()).into()
}

/// The ticket in a query.
pub(crate) fn ticket_of(query: &str) -> Option<&str> {
    query.split('&').find_map(|part| part.strip_prefix("ticket=")).filter(|ticket| ticket.starts_with(PREFIX))
}
