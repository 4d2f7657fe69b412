//! The core of Levelflow as a pure state machine: events and time in, journal records and commands out.
//!
//! No clock, no randomness, no async, no I/O, no hash-ordered iteration.

pub mod plan;
pub mod record;

pub use record::{Entry, Fact, Progress, Record, RunNumber, Submitted, TaskIndex};
