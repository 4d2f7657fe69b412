//! What every Levelflow process needs: configuration, telemetry, threads, shutdown,
//! supervised tasks, secret settings.

pub mod config;
pub mod secret;
pub mod shutdown;
pub mod task;
pub mod telemetry;
pub mod threads;
