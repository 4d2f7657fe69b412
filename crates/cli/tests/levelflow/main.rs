//! The program as users run it.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod api;
mod autoscale;
mod breakers;
mod cache;
mod chain;
mod chat;
mod chunks;
mod client;
mod cluster;
mod crash_coordinator;
mod crash_worker;
mod examples;
mod fold;
mod follow;
mod generated;
mod harness;
mod http;
mod https;
#[cfg(target_os = "linux")]
mod leak;
#[cfg(target_os = "linux")]
mod local_workers;
mod memory;
mod nats;
#[path = "../../../transport/tests/transport/server.rs"]
mod nats_server;
mod offline;
mod own_worker;
mod protections;
mod pseudo_terminal;
mod run;
mod secrets;
mod semantic;
mod serve;
mod upstream;
mod versions;
mod witness;
mod workers;
