//! The worker's side of the session, against a coordinator that does what each test says.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod batches;
mod cache;
mod chat;
mod chunks;
mod coordinator;
mod handlers;
mod http;
mod isolated;
mod lifecycle;
#[cfg(target_os = "linux")]
mod memory;
mod pools;
mod process;
mod sql;
mod upstreams;
