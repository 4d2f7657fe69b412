//! The two ends of a session between a coordinator and a worker, over gRPC and over NATS.
//!
//! A [`Session`] is ordered and exact, or it ends: what one side sends comes to the other once and in order,
//! and an end is told with its reason. It is bounded: who does not read holds back who sends. What is said in
//! a session is not known here.
//!
//! Over gRPC a session is a bidirectional stream ([`grpc`]). Over NATS it is a pair of subjects ([`nats`]), and
//! order, bounds and ends are made here, because NATS promises none of them.

mod error;
pub mod grpc;
pub mod nats;
mod session;

pub use error::SessionError;
pub use session::{Inbound, Session};
