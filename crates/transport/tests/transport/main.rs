//! Sessions over gRPC and over NATS, with a real server of each.

#![allow(clippy::unwrap_used, reason = "tests unwrap what must be there")]

mod authentication;
mod conformance;
mod grpc;
mod loss;
mod nats;
mod proxy;
mod server;
