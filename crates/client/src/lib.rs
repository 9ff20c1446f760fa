//! Typed HTTP client of a FetchML server, used by the command line, by workers for their uploads and
//! by tests. It speaks only HTTP and reads only the files it is told to upload; it prints nothing and
//! keeps no state on disk.

mod audit;
mod blob;
mod connection;
mod error;
mod events;
pub mod guarded;
pub mod limits;
mod logs;
mod metrics;
mod resources;
pub mod snapshot;
pub mod sse;
mod trust;

pub use blob::{BlobSource, ByteStream};
pub use connection::{Client, shown_url};
pub use error::ClientError;
pub use events::Incoming;
pub use logs::{LogChunk, LogEvent, LogQuery};
pub use metrics::MetricsQuery;
pub use trust::{BadAuthorities, Trust, untrusted};
