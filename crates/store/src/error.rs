//! Errors of the store.

use levelflow_common::Code;

/// Why the store could not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store has closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// The stable code.
    pub const fn code(&self) -> Code {
        match self {
            Self::Closed => Code::StoreUnavailable,
        }
    }
}
