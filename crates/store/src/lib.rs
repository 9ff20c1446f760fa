//! The only SQL of FetchML: one text for SQLite and PostgreSQL, one writer, group commit.
//!
//! [`Store::commit`] hands its writes to the one writer, which takes all that waits, numbers and chains audit
//! and change rows, and applies it in one transaction. Reads go over connections of their own. Decisions are
//! made elsewhere: this crate knows rows, not scheduling.

mod array;
mod audit;
mod database;
pub mod limits;
mod migrate;
mod model;
mod outbox;
mod postgres;
mod prepare;
mod read;
mod retention;
mod rows;
mod sql;
mod sqlite;
mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod value;
mod writer;

pub use audit::{AuditFilter, StoredAudit};
pub use migrate::OpenError;
pub use model::*;
pub use outbox::{Delivery, OutboxWrite, WebhookRecord};
pub use retention::{BlobPage, Collect, Holdings, Past, PastTask};
pub use store::{Location, Store};
pub use writer::CommitMeasure;
