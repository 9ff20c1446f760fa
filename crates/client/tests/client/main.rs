//! The client against a small server whose answers each test writes down.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

mod calls;
mod following;
mod server;
mod uploads;
