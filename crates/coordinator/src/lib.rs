//! The coordinator: the shell around the engine.
//!
//! Start reading at `actor`, the one owner of the engine; then `service`, which turns calls into messages
//! to it, and `http`, which serves the same to others than gRPC clients; then `prepare`, where expressions are evaluated.

mod actor;
mod alert;
mod autoscale;
mod cache;
mod clock;
mod cluster;
mod config;
mod coordinator;
mod definitions;
mod error;
mod http;
mod listen;
mod nats;
mod prefetch;
mod prepare;
mod recovery;
mod retention;
mod semantic;
mod server;
mod service;
mod webhook;

pub use alert::AlertFeed;
pub use autoscale::Decisions;
pub use config::{ClusterConfig, CoordinatorConfig, Storage};
pub use coordinator::Coordinator;
pub use error::{RecoveryError, StartError};
pub use http::HttpConfig;
pub use levelflow_store::postgres::Config as PostgresConfig;
pub use levelflow_transport::nats::{NatsConfig, NatsTls};
pub use listen::{InvalidListen, Listen};
pub use webhook::AlertsConfig;
