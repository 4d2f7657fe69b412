//! Errors of embedding models.

use std::path::PathBuf;
use std::time::Duration;

use levelflow_common::{Code, HumanDuration};
use levelflow_runtime::config::InvalidSetting;

/// Why texts have no vectors.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddingError {
    /// The endpoint cannot be reached.
    #[error("the endpoint cannot be reached")]
    Unreachable(#[source] hyper_util::client::legacy::Error),
    /// The answer broke off, or is too long.
    #[error("the answer of the endpoint cannot be received")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The endpoint refused.
    #[error("the answer of the endpoint has status {0}")]
    Status(u16),
    /// The answer is none.
    #[error("the answer of the endpoint is not understood")]
    Answer(#[source] serde_json::Error),
    /// The answer does not have one vector for each text.
    #[error("the endpoint did not give one vector for each text")]
    Count,
    /// The request cannot be written.
    #[error("the request cannot be made")]
    Request(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It took too long.
    #[error("no answer within {}", HumanDuration(*.0))]
    TimedOut(Duration),
    /// The model that runs in this process failed.
    #[error("the model failed")]
    Model(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The thread of the model is gone.
    #[error("the thread of the model is gone")]
    Gone,
}

impl EmbeddingError {
    /// The stable code.
    pub const fn code(&self) -> Code {
        match self {
            Self::Model(_) | Self::Gone => Code::Internal,
            _ => Code::CacheUnavailable,
        }
    }
}

/// Why a model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is wrong.
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    /// A file of the model cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file of the model makes no sense.
    #[error("{} is not what an embedding model needs", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The system gives no threads.
    #[error("the threads of an embedding model could not be started")]
    Threads(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl StartError {
    /// The stable code.
    pub const fn code(&self) -> Code {
        match self {
            Self::Setting(_) | Self::Unreadable { .. } | Self::Malformed { .. } => {
                Code::ConfigInvalid
            }
            Self::Threads(_) => Code::Internal,
        }
    }
}
