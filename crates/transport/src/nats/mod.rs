//! Sessions over NATS: a pair of subjects each, over one connection for all sessions of a process.
//!
//! NATS carries messages and promises little: it drops what a slow reader does not take, and what was under
//! way when a connection breaks. So messages of a session are numbered, and acknowledged when they are read.
//! A number that is missing ends the session, and so does a side that is silent or gone; then a new session is
//! opened. Nothing is sent again here: who uses a session knows what has to be said in the next one.
//!
//! Start reading at `carrier.rs`; `proto/levelflow/v1/nats.proto` is the protocol.

mod carrier;
mod config;
mod connection;
mod connector;
mod envelope;
mod frames;
mod listener;
mod pieces;
mod subject;
mod window;

pub use config::{NatsConfig, NatsTls};
pub use connection::{Nats, NatsError};
pub use connector::Connector;
pub use frames::Frames;
pub use listener::Listener;
