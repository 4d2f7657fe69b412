//! The engine under a small simulated shell: a store that commits late, workers that fail, clients,
//! crashes.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod audit;
mod autoscale;
mod breakers;
mod chunks;
mod clients;
mod definitions;
mod explanations;
mod flights;
mod guarantees;
mod handler_versions;
mod levels;
mod limits;
mod lists;
mod losses;
mod order;
mod overview;
mod placement;
mod preparer;
mod progress;
mod quarantine;
mod recovery;
mod retries;
mod shards;
mod shell;
mod size;
mod timeouts;
#[cfg(feature = "weakened")]
mod weakened;
mod worker;
