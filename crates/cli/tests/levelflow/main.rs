//! The program as users run it.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod examples;
mod harness;
mod offline;
mod run;
mod serve;
