//! The client against a small server whose answers each test writes down.

mod calls;
mod following;
mod server;
mod uploads;
