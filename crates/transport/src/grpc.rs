//! Sessions over gRPC: a bidirectional stream each.

use levelflow_common::limits::MAX_MESSAGE_BYTES;
use levelflow_proto::v1;
use levelflow_proto::v1::worker_service_client::WorkerServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::error::SessionError;
use crate::session::Session;

/// What a coordinator answers the call of a worker with.
pub type Answer = ReceiverStream<Result<v1::CoordinatorFrame, Status>>;

/// Opens a session with the coordinator behind a channel. `first` is the first frame: gRPC answers the call
/// when the coordinator has something to say.
///
/// # Errors
/// When the coordinator cannot be reached, or refuses.
pub async fn open(
    channel: Channel,
    first: v1::WorkerFrame,
) -> Result<Session<v1::WorkerFrame, v1::CoordinatorFrame>, SessionError> {
    // One frame waits while another is written; what comes meanwhile gathers at the sender.
    let (outbound, frames) = mpsc::channel(1);
    let closed = |_| Status::unavailable("the session closed during the handshake");
    outbound.send(first).await.map_err(closed)?;
    let inbound = WorkerServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
        .session(ReceiverStream::new(frames))
        .await?
        .into_inner();
    Ok(Session {
        outbound,
        inbound: inbound.into(),
    })
}

/// The coordinator's end of the session that a worker opens with a call, and the answer to the call.
pub fn accept(
    request: Request<Streaming<v1::WorkerFrame>>,
) -> (
    Session<Result<v1::CoordinatorFrame, Status>, v1::WorkerFrame>,
    Response<Answer>,
) {
    let (outbound, frames) = mpsc::channel(1);
    let session = Session {
        outbound,
        inbound: request.into_inner().into(),
    };
    (session, Response::new(ReceiverStream::new(frames)))
}
