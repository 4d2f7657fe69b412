//! The chunks of one attempt, from the one who gives them to the session that sends them.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use levelflow_common::limits::{MAX_CHUNK_BYTES, MAX_STREAM_BYTES, MAX_STREAM_CHUNKS};
use levelflow_common::{Code, Failure};
use levelflow_proto::v1;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

/// Bytes that may wait to be sent before whoever gives more has to wait.
const MAX_UNSENT_BYTES: usize = 256 * 1024;

/// Where logs with something to send are told of. At most once at a time for each log.
pub(crate) type Announce = UnboundedSender<Arc<ChunkLog>>;

/// The chunks of an attempt. All are kept: after a lost stream they are sent again.
pub(crate) struct ChunkLog {
    pub(crate) token: u64,
    state: Mutex<State>,
    /// Tells that chunks were sent, or that there will be no more.
    room: Notify,
    announce: Announce,
}

#[derive(Default)]
struct State {
    chunks: Vec<Bytes>,
    bytes: usize,
    sent: usize,
    unsent_bytes: usize,
    /// The session knows that there is something to send.
    is_announced: bool,
    /// The attempt has ended.
    is_closed: bool,
}

impl fmt::Debug for ChunkLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkLog")
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

impl ChunkLog {
    pub(crate) fn new(token: u64, announce: Announce) -> Arc<Self> {
        Arc::new(Self {
            token,
            state: Mutex::default(),
            room: Notify::new(),
            announce,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a chunk, once there is room for it.
    ///
    /// # Errors
    /// When it is over a limit, which leaves those before as they are, and when the attempt is to stop.
    pub(crate) async fn push(
        self: &Arc<Self>,
        chunk: Bytes,
        cancelled: &CancellationToken,
    ) -> Result<(), Failure> {
        loop {
            let room = self.room.notified();
            if self.try_push(&chunk)? {
                return Ok(());
            }
            tokio::select! {
                () = room => {}
                () = cancelled.cancelled() => return Err(crate::attempt::cancelled()),
            }
        }
    }

    /// Adds a chunk; false if there is no room for it now.
    fn try_push(self: &Arc<Self>, chunk: &Bytes) -> Result<bool, Failure> {
        let mut state = self.state();
        if state.is_closed {
            return Err(crate::attempt::cancelled());
        }
        if let Some(problem) = state.over_limit(chunk.len()) {
            return Err(Failure::permanent(Code::StreamTooLarge, problem));
        }
        if state.unsent_bytes > 0 && state.unsent_bytes + chunk.len() > MAX_UNSENT_BYTES {
            return Ok(false);
        }
        state.bytes += chunk.len();
        state.unsent_bytes += chunk.len();
        state.chunks.push(chunk.clone());
        if !std::mem::replace(&mut state.is_announced, true) {
            // Nobody listens any more when the worker has ended.
            let _ = self.announce.send(Arc::clone(self));
        }
        Ok(true)
    }

    /// The attempt has ended. Gives the number of its chunks, which is final.
    pub(crate) fn close(&self) -> u32 {
        let mut state = self.state();
        state.is_closed = true;
        self.room.notify_waiters();
        state.chunks.len() as u32
    }

    /// Nobody wants the chunks any more.
    pub(crate) fn discard(&self) {
        let mut state = self.state();
        *state = State {
            is_announced: true,
            is_closed: true,
            ..State::default()
        };
        self.room.notify_waiters();
    }

    /// The next chunks to send, until they have so many bytes. Gives their bytes.
    pub(crate) fn take(&self, most: usize, into: &mut Vec<v1::Chunk>) -> usize {
        let mut state = self.state();
        let mut bytes = 0;
        while bytes < most
            && let Some(data) = state.chunks.get(state.sent).cloned()
        {
            bytes += data.len();
            into.push(v1::Chunk {
                token: self.token,
                index: state.sent as u32,
                data,
            });
            state.sent += 1;
        }
        state.unsent_bytes -= bytes;
        state.is_announced = state.has_unsent();
        self.room.notify_waiters();
        bytes
    }

    /// The stream was lost: all chunks have to be sent again. Whether there are any.
    pub(crate) fn rewind(&self) -> bool {
        let mut state = self.state();
        state.sent = 0;
        state.unsent_bytes = state.bytes;
        state.is_announced = state.has_unsent();
        state.is_announced
    }

    pub(crate) fn has_unsent(&self) -> bool {
        self.state().has_unsent()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.state().bytes
    }
}

impl State {
    fn has_unsent(&self) -> bool {
        self.sent < self.chunks.len()
    }

    fn over_limit(&self, size: usize) -> Option<String> {
        if size > MAX_CHUNK_BYTES {
            Some(format!(
                "a chunk of {size} bytes is larger than {MAX_CHUNK_BYTES} bytes"
            ))
        } else if self.chunks.len() == MAX_STREAM_CHUNKS {
            Some(format!(
                "the attempt gives more than {MAX_STREAM_CHUNKS} chunks"
            ))
        } else if self.bytes + size > MAX_STREAM_BYTES {
            Some(format!(
                "the chunks of the attempt have more than {MAX_STREAM_BYTES} bytes"
            ))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;

    fn log() -> (Arc<ChunkLog>, UnboundedReceiver<Arc<ChunkLog>>) {
        let (announce, announced) = unbounded_channel();
        (ChunkLog::new(7, announce), announced)
    }

    async fn push(log: &Arc<ChunkLog>, chunk: &'static [u8]) -> Result<(), Failure> {
        let cancelled = CancellationToken::new();
        log.push(Bytes::from_static(chunk), &cancelled).await
    }

    fn taken(log: &ChunkLog, most: usize) -> Vec<(u32, Bytes)> {
        let mut chunks = Vec::new();
        log.take(most, &mut chunks);
        let chunks = chunks.into_iter();
        chunks.map(|chunk| (chunk.index, chunk.data)).collect()
    }

    #[tokio::test]
    async fn chunks_are_sent_in_order_and_again_after_a_lost_stream() {
        let (log, mut announced) = log();
        push(&log, b"1").await.unwrap();
        push(&log, b"22").await.unwrap();
        assert!(announced.try_recv().is_ok() && announced.try_recv().is_err());
        assert_eq!(taken(&log, 1), [(0, "1".into())]);
        assert!(log.has_unsent());
        push(&log, b"3").await.unwrap();
        assert!(announced.try_recv().is_err(), "it is known to have some");
        assert_eq!(taken(&log, 10), [(1, "22".into()), (2, "3".into())]);
        assert!(!log.has_unsent());
        assert!(log.rewind());
        assert_eq!(log.close(), 3);
        assert_eq!(taken(&log, 10).len(), 3);
        assert!(push(&log, b"4").await.is_err());
        assert_eq!(log.close(), 3);
    }

    #[tokio::test]
    async fn whoever_gives_more_than_is_sent_waits() {
        static LARGE: [u8; MAX_CHUNK_BYTES] = [b'1'; MAX_CHUNK_BYTES];
        let (log, _announced) = log();
        for _ in 0..MAX_UNSENT_BYTES / MAX_CHUNK_BYTES {
            push(&log, &LARGE).await.unwrap();
        }
        let mut waiting = std::pin::pin!(push(&log, b"1"));
        assert!(waiting.as_mut().now_or_never().is_none());
        taken(&log, 1);
        waiting.await.unwrap();

        let mut waiting = std::pin::pin!(push(&log, &LARGE));
        assert!(waiting.as_mut().now_or_never().is_none());
        log.close();
        assert_eq!(waiting.await.unwrap_err().code, Code::Cancelled);
        let cancelled = CancellationToken::new();
        cancelled.cancel();
        log.discard();
        assert!(log.push(Bytes::new(), &cancelled).await.is_err());
    }

    #[tokio::test]
    async fn chunks_have_limits() {
        static LARGE: [u8; MAX_CHUNK_BYTES + 1] = [b'1'; MAX_CHUNK_BYTES + 1];
        let (log, _announced) = log();
        let failure = push(&log, &LARGE).await.unwrap_err();
        assert_eq!(failure.code, Code::StreamTooLarge);
        assert!(!failure.retryable);
        for _ in 0..MAX_STREAM_BYTES / MAX_CHUNK_BYTES {
            push(&log, &LARGE[1..]).await.unwrap();
            taken(&log, usize::MAX);
        }
        let failure = push(&log, b"1").await.unwrap_err();
        assert_eq!(failure.code, Code::StreamTooLarge);

        let (log, _announced) = self::log();
        for _ in 0..MAX_STREAM_CHUNKS {
            push(&log, b"1").await.unwrap();
        }
        assert!(push(&log, b"1").await.is_err());
        assert_eq!(log.close() as usize, MAX_STREAM_CHUNKS);
    }
}
