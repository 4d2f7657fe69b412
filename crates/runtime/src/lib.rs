//! What every Levelflow process needs: configuration, telemetry, threads, shutdown,
//! supervised tasks, secret settings, the way to a PostgreSQL database.

pub mod config;
pub mod postgres;
pub mod secret;
pub mod shutdown;
pub mod task;
pub mod telemetry;
pub mod threads;
pub mod tls;
