//! The only SQL of FetchML: one text for SQLite and PostgreSQL, one writer, group commit.

pub mod model;
pub use model::*;
