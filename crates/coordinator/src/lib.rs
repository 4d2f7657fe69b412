//! The coordinator: the shell around the engine.
//!
//! Start reading at `actor`, the one owner of the engine; then `service`, which turns gRPC calls into
//! messages to it; then `prepare`, where expressions are evaluated.

mod actor;
mod alert;
mod clock;
mod config;
mod coordinator;
mod definitions;
mod error;
mod listen;
mod prepare;
mod recovery;
mod retention;
mod server;
mod service;

pub use alert::AlertFeed;
pub use config::{CoordinatorConfig, Storage};
pub use coordinator::Coordinator;
pub use error::{RecoveryError, StartError};
pub use listen::{InvalidListen, Listen};
