//! What every Levelflow process needs: configuration, telemetry, threads, shutdown,
//! supervised tasks, secret settings, breakers, the ways to an HTTP server and to a PostgreSQL database.

pub mod breaker;
pub mod config;
pub mod http_client;
pub mod postgres;
pub mod secret;
pub mod shutdown;
pub mod task;
pub mod telemetry;
pub mod threads;
pub mod tls;
