//! What goes over the wire: the gRPC schemas with their generated types and conversions to and from the
//! vocabulary, the JSON forms of what clients read, and the one mapping of error codes to status.
//!
//! Vocabulary to message is `From`; message to vocabulary is `TryFrom`, or `From` where nothing can be
//! wrong. Where proto3 has no presence, an empty or zero field stands for one that was not given.

mod breaker;
mod chunk;
mod definition;
pub mod enumeration;
pub mod error;
mod event;
mod failure;
pub mod invalid;
pub mod json;
mod overview;
pub mod protocol;
mod run;
mod secret;
pub mod status;

pub use enumeration::Enumeration;
pub use error::{ApiError, FieldViolation};
pub use invalid::{InvalidField, InvalidMessage};
pub use status::{from_status, http_status, to_status};

/// What KEDA asks an external scaler.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    rustdoc::all
)]
pub mod keda {
    tonic::include_proto!("externalscaler");
}

/// Version 1 of the API.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    rustdoc::all
)]
pub mod v1 {
    tonic::include_proto!("levelflow.v1");

    /// The descriptors of the schemas, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/levelflow.v1.bin"));
}
