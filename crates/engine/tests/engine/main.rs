//! The engine under a small simulated shell: a store that commits late, workers that fail, clients,
//! crashes.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod audit;
mod definitions;
mod guarantees;
mod preparer;
mod progress;
mod shell;
mod worker;
