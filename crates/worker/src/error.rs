//! Why a worker cannot start or had to end.

use std::borrow::Cow;

use levelflow_common::Code;
use levelflow_common::limits::MAX_CACHE_TAG_BYTES;
use levelflow_proto::protocol::NoCommonVersion;
use levelflow_proto::status::from_status;
use levelflow_transport::nats::NatsError;

/// Why a worker could not be built, or ended other than by a drain.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A setting is out of its range.
    #[error("`{setting}` {problem}")]
    Setting {
        /// The name of the setting.
        setting: Cow<'static, str>,
        /// What is wrong, and what is allowed.
        problem: String,
    },
    /// The address is not one of a coordinator.
    #[error("`{address}` is not an address; write for example http://127.0.0.1:7400")]
    Address {
        /// What was given.
        address: String,
        /// What the parser said.
        #[source]
        source: Option<tonic::transport::Error>,
    },
    /// Two handlers have the same name.
    #[error("the handler `{0}` is registered twice")]
    DuplicateHandler(String),
    /// A version was given before any handler.
    #[error("the version `{0}` comes before the handler that has it")]
    StrayVersion(String),
    /// The version of a handler is empty or too long.
    #[error("the version of the handler `{0}` must have 1 to {MAX_CACHE_TAG_BYTES} bytes")]
    HandlerVersion(String),
    /// The threads for CPU-heavy handlers could not be started.
    #[error("the threads for CPU-heavy handlers could not be started")]
    CpuThreads(#[source] rayon::ThreadPoolBuildError),
    /// The process was started for an isolated handler, and cannot speak to the worker that wants it.
    #[error("the process of an isolated handler cannot speak to its worker")]
    Child(#[source] std::io::Error),
    /// NATS does not let the worker in, and would not the next time.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// The coordinator does not take this worker, and would not the next time.
    #[error("the coordinator refused the worker: {}", .0.message())]
    Refused(#[source] Box<tonic::Status>),
    /// The coordinator speaks another version of the protocol.
    #[error("the coordinator does not speak with this worker: {0}")]
    Protocol(#[from] NoCommonVersion),
    /// The worker had to end before the coordinator had confirmed all outcomes. The tasks run again.
    #[error("{0} outcomes were not acknowledged before the worker had to end")]
    Unacknowledged(usize),
}

impl WorkerError {
    /// The stable code of the error.
    pub fn code(&self) -> Code {
        match self {
            Self::Setting { .. }
            | Self::Address { .. }
            | Self::DuplicateHandler(_)
            | Self::StrayVersion(_)
            | Self::HandlerVersion(_) => Code::ConfigInvalid,
            Self::CpuThreads(_) | Self::Child(_) => Code::Internal,
            Self::Nats(error) => error.code(),
            Self::Refused(status) => from_status(status).code(),
            Self::Protocol(_) => Code::ProtocolUnsupported,
            Self::Unacknowledged(_) => Code::ServerUnreachable,
        }
    }
}
