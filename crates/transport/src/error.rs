//! Why a session ended, or could not be opened.

use std::time::Duration;

use levelflow_common::limits::MAX_MESSAGE_BYTES;
use levelflow_common::{Code, HumanDuration};
use levelflow_proto::from_status;
use tonic::Status;

/// Why a session ended, or could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The other side ended it and said why, or gRPC did.
    #[error("{}", .0.message())]
    Status(#[source] Box<Status>),
    /// A message was lost on the way.
    #[error("message {expected} was lost, {received} came")]
    Lost {
        /// The number of the next message.
        expected: u64,
        /// The number of the one that came.
        received: u64,
    },
    /// Nothing was heard of the other side for too long.
    #[error("nothing was heard for {}", HumanDuration(*.0))]
    Silent(Duration),
    /// Nobody listens at the other end.
    #[error("nobody listens at the other end")]
    Gone,
    /// The other side sent more than may be under way.
    #[error("more was sent than may be under way")]
    Overrun,
    /// A frame is larger than frames may be.
    #[error("a frame has more than {MAX_MESSAGE_BYTES} bytes")]
    TooLarge,
    /// What came is no message of a session.
    #[error("what came is no message of a session")]
    Malformed,
    /// What came is no frame.
    #[error("what came is no frame")]
    Frame(#[from] prost::DecodeError),
    /// The message could not be given to NATS.
    #[error("the message could not be given to NATS")]
    Publish(#[source] async_nats::PublishError),
    /// Messages from NATS cannot be asked for.
    #[error("messages from NATS cannot be asked for")]
    Subscribe(#[source] async_nats::SubscribeError),
    /// The connection to NATS was closed in this process.
    #[error("the connection to NATS was closed")]
    Disconnected,
}

impl SessionError {
    /// The stable code of the error.
    pub fn code(&self) -> Code {
        match self {
            Self::Status(status) => from_status(status).code(),
            Self::TooLarge => Code::TooLarge,
            Self::Overrun | Self::Malformed | Self::Frame(_) => Code::RequestInvalid,
            Self::Lost { .. }
            | Self::Silent(_)
            | Self::Gone
            | Self::Publish(_)
            | Self::Subscribe(_)
            | Self::Disconnected => Code::ServerUnreachable,
        }
    }
}

impl From<Status> for SessionError {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// The status with which the other side is told.
impl From<SessionError> for Status {
    fn from(error: SessionError) -> Self {
        let message = error.to_string();
        match error {
            SessionError::Status(status) => *status,
            SessionError::TooLarge | SessionError::Overrun => Self::resource_exhausted(message),
            SessionError::Malformed | SessionError::Frame(_) => Self::data_loss(message),
            SessionError::Lost { .. }
            | SessionError::Silent(_)
            | SessionError::Gone
            | SessionError::Publish(_)
            | SessionError::Subscribe(_)
            | SessionError::Disconnected => Self::unavailable(message),
        }
    }
}
