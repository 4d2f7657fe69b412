//! Errors of the coordinator.

use levelflow_cache::CacheError;
use levelflow_common::Code;
use levelflow_engine::ReplayError;
use levelflow_store::StoreError;
use levelflow_transport::nats::NatsError;

use crate::listen::Listen;

/// Why a coordinator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A value of the configuration is wrong.
    #[error("`{field}` {problem}")]
    Config {
        /// Which.
        field: String,
        /// What is wrong.
        problem: String,
    },
    /// The cache could not be started.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// An embedding model cannot be used.
    #[error("the embedding models cannot be used")]
    Embeddings(#[from] levelflow_embedding::StartError),
    /// The process is about to end.
    #[error("the process is about to end")]
    Interrupted,
    /// The store could not be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A run could not be taken up again.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The address could not be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: Listen,
        /// Why.
        source: std::io::Error,
    },
    /// Workers cannot be served over NATS.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// The threads that evaluate expressions could not be started.
    #[error("cannot start the threads that evaluate expressions")]
    Threads(#[source] rayon::ThreadPoolBuildError),
    /// The gRPC service descriptions are malformed.
    #[error("cannot serve reflection")]
    Reflection(#[source] tonic_reflection::server::Error),
}

impl StartError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Config { .. } => Code::ConfigInvalid,
            Self::Cache(error) => error.code(),
            Self::Embeddings(error) => error.code(),
            Self::Interrupted => Code::ShuttingDown,
            Self::Store(error) => error.code(),
            Self::Recovery(error) => error.code(),
            Self::Nats(error) => error.code(),
            Self::Listen { .. } => Code::AddressUnavailable,
            Self::Threads(_) | Self::Reflection(_) => Code::Internal,
        }
    }
}

/// Why the open runs of a store could not be taken up again.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A journal is damaged.
    #[error(transparent)]
    Journal(#[from] ReplayError),
    /// A stored workflow is damaged, or this version refuses it.
    #[error("stored workflow {digest} cannot be read: {problem}")]
    Definition {
        /// Which.
        digest: String,
        /// Why.
        problem: String,
    },
}

impl RecoveryError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Store(error) => error.code(),
            Self::Journal(_) | Self::Definition { .. } => Code::StoreCorrupt,
        }
    }
}
