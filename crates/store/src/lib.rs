//! The durable journal of runs, and the listing of them.

pub mod error;
pub mod port;

pub use error::StoreError;
pub use port::{Batch, KnownKey, Recovery, RunFilter, RunPage, SequencedRecord, Store};
