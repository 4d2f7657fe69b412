//! The port that every embedding model implements.

use std::sync::Arc;

use async_trait::async_trait;

use crate::error::EmbeddingError;
use crate::vector::Vector;

/// Makes vectors of texts.
#[async_trait]
pub trait Embedder: Send + Sync + 'static {
    /// The vectors of texts, in their order; none where a text is longer than the model can take in as a
    /// whole.
    ///
    /// # Errors
    /// When there are none for any of them.
    async fn embed(&self, texts: &[Arc<str>]) -> Result<Vec<Option<Vector>>, EmbeddingError>;
}
