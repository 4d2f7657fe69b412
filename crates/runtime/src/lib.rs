//! What every Levelflow process needs: configuration, telemetry, threads, shutdown,
//! supervised tasks.

pub mod config;
pub mod shutdown;
pub mod task;
pub mod telemetry;
pub mod threads;
