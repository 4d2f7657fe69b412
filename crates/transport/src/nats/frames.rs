//! The frames that come in a session over NATS.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use levelflow_common::limits::MAX_MESSAGE_BYTES;
use prost::Message;
use tokio::sync::{Notify, mpsc};

use super::window::{WINDOW_BYTES, WINDOW_MESSAGES};
use crate::error::SessionError;

/// What is read is told to the other side when it has become so much of the window.
const TELL_MESSAGES: usize = WINDOW_MESSAGES / 4;
const TELL_BYTES: usize = WINDOW_BYTES / 4;

/// A frame or a piece of one, as it came.
pub(super) struct Received {
    pub(super) body: Bytes,
    pub(super) is_last: bool,
}

/// How far the reader has read.
#[derive(Default)]
pub(super) struct ReadMark {
    messages: AtomicU64,
    bytes: AtomicUsize,
    worth_telling: Notify,
}

impl ReadMark {
    /// The number of the last message that was read.
    pub(super) fn messages(&self) -> u64 {
        self.messages.load(Ordering::Acquire)
    }

    /// Bytes of all that was read; wraps around.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }

    /// Waits until enough was read for the other side to be told.
    pub(super) async fn is_worth_telling(&self) {
        self.worth_telling.notified().await;
    }
}

/// The frames that come in a session over NATS.
pub struct Frames<R> {
    received: mpsc::Receiver<Result<Received, SessionError>>,
    mark: Arc<ReadMark>,
    untold_messages: usize,
    untold_bytes: usize,
    /// The pieces of a frame, as far as they came.
    begun: BytesMut,
    has_failed: bool,
    frame: PhantomData<fn() -> R>,
}

impl<R: Message + Default> Frames<R> {
    pub(super) fn new(
        received: mpsc::Receiver<Result<Received, SessionError>>,
        mark: Arc<ReadMark>,
    ) -> Self {
        Self {
            received,
            mark,
            untold_messages: 0,
            untold_bytes: 0,
            begun: BytesMut::new(),
            has_failed: false,
            frame: PhantomData,
        }
    }

    /// The next frame. Nothing is lost by not waiting for it.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<R, SessionError>>> {
        if self.has_failed {
            return Poll::Ready(None);
        }
        loop {
            let read = match ready!(self.received.poll_recv(cx)) {
                Some(Ok(received)) => self.join(received),
                Some(Err(error)) => Err(error),
                None => return Poll::Ready(None),
            };
            match read.transpose() {
                None => {}
                Some(frame) => {
                    self.has_failed = frame.is_err();
                    return Poll::Ready(Some(frame));
                }
            }
        }
    }

    fn join(&mut self, received: Received) -> Result<Option<R>, SessionError> {
        self.mark_read(received.body.len());
        if received.is_last && self.begun.is_empty() {
            return Ok(Some(R::decode(received.body)?));
        }
        if self.begun.len() + received.body.len() > MAX_MESSAGE_BYTES {
            return Err(SessionError::TooLarge);
        }
        self.begun.extend_from_slice(&received.body);
        if !received.is_last {
            return Ok(None);
        }
        let whole = std::mem::take(&mut self.begun).freeze();
        Ok(Some(R::decode(whole)?))
    }

    fn mark_read(&mut self, bytes: usize) {
        self.mark.bytes.fetch_add(bytes, Ordering::AcqRel);
        self.mark.messages.fetch_add(1, Ordering::AcqRel);
        self.untold_messages += 1;
        self.untold_bytes += bytes;
        if self.untold_messages >= TELL_MESSAGES || self.untold_bytes >= TELL_BYTES {
            self.untold_messages = 0;
            self.untold_bytes = 0;
            self.mark.worth_telling.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use levelflow_proto::v1::WorkerFrame;
    use std::future::poll_fn;

    use super::*;

    fn frames() -> (
        mpsc::Sender<Result<Received, SessionError>>,
        Frames<WorkerFrame>,
    ) {
        let (sender, receiver) = mpsc::channel(WINDOW_MESSAGES);
        (sender, Frames::new(receiver, Arc::default()))
    }

    fn piece(bytes: usize, is_last: bool) -> Result<Received, SessionError> {
        Ok(Received {
            body: Bytes::from(vec![0; bytes]),
            is_last,
        })
    }

    #[tokio::test]
    async fn nothing_comes_after_an_error() {
        let (sender, mut frames) = frames();
        // A zero is no tag of a field.
        sender.send(piece(1, true)).await.unwrap();
        sender.send(piece(0, true)).await.unwrap();
        let first = poll_fn(|cx| frames.poll_frame(cx)).await.unwrap();
        assert!(matches!(first, Err(SessionError::Frame(_))), "{first:?}");
        assert!(poll_fn(|cx| frames.poll_frame(cx)).await.is_none());
    }

    #[tokio::test]
    async fn pieces_without_an_end_are_bounded() {
        let (sender, mut frames) = frames();
        let pieces = MAX_MESSAGE_BYTES / (1024 * 1024);
        for _ in 0..=pieces {
            sender.send(piece(1024 * 1024, false)).await.unwrap();
        }
        let error = poll_fn(|cx| frames.poll_frame(cx)).await.unwrap();
        assert!(matches!(error, Err(SessionError::TooLarge)), "{error:?}");
        assert_eq!(frames.mark.messages(), pieces as u64 + 1);
    }
}
