//! One end of a session, whatever carries it.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use prost::Message;
use tokio::sync::mpsc;
use tonic::Streaming;

use crate::error::SessionError;
use crate::nats;

/// One end of a session. `S` is what is sent, `R` what is received.
///
/// Without the sender the other side is told that nothing more comes; without either half the session ends.
pub struct Session<S, R> {
    /// Takes the next frame when the one before it is under way.
    pub outbound: mpsc::Sender<S>,
    /// The frames of the other side. After an error, or the end, nothing more comes.
    pub inbound: Inbound<R>,
}

/// The frames that come in a session.
pub struct Inbound<R>(Carrier<R>);

enum Carrier<R> {
    Grpc(Box<Streaming<R>>),
    Nats(nats::Frames<R>),
}

impl<R> From<Streaming<R>> for Inbound<R> {
    fn from(frames: Streaming<R>) -> Self {
        Self(Carrier::Grpc(Box::new(frames)))
    }
}

impl<R> From<nats::Frames<R>> for Inbound<R> {
    fn from(frames: nats::Frames<R>) -> Self {
        Self(Carrier::Nats(frames))
    }
}

impl<R: Message + Default> Stream for Inbound<R> {
    type Item = Result<R, SessionError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut self.0 {
            Carrier::Grpc(frames) => Pin::new(frames)
                .poll_next(cx)
                .map(|frame| frame.map(|frame| frame.map_err(SessionError::from))),
            Carrier::Nats(frames) => frames.poll_frame(cx),
        }
    }
}
