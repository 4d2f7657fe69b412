//! Texts as vectors, and which of the known texts is nearest to one.
//!
//! An [`Embedder`] gives a [`Vector`] for each text: an OpenAI-compatible endpoint (`endpoint.rs`), or a model
//! that runs in this process (`local.rs`, with the feature `local`). [`Embeddings`] stands before one: it
//! gathers texts into batches, remembers the vectors of the latest, and leaves an embedder alone that
//! fails. [`Index`] keeps vectors of results by scope and finds the nearest with a scan of all of a scope.
//!
//! Nothing here is waited for longer than the caller wants: an embedder that fails is a text without a vector.

pub mod config;
pub mod embedder;
pub mod embeddings;
pub mod error;
pub mod index;
pub mod vector;

mod endpoint;
#[cfg(feature = "local")]
mod local;

pub use config::{EmbeddingConfig, EmbeddingModel};
pub use embedder::Embedder;
pub use embeddings::{Embeddings, EmbeddingsStatistics, Pending};
pub use error::{EmbeddingError, StartError};
pub use index::{Index, IndexStatistics, Near, Origin};
pub use vector::Vector;
