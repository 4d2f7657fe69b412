//! The gRPC schemas of Levelflow: generated types, their conversions to and from the vocabulary, and
//! the one mapping between error codes and gRPC status.

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

/// The version of the session protocol between coordinator and worker.
pub const PROTOCOL_VERSION: u32 = 1;
