//! The chunks of all attempts whose outcomes are not acknowledged.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use levelflow_proto::v1;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::chunk_log::{Announce, ChunkLog};

/// Bytes of chunks in one frame, well below the limit of a message.
const MAX_FRAME_BYTES: usize = 1024 * 1024;
/// Chunks in one frame.
const MAX_FRAME_CHUNKS: usize = 8_192;
/// Bytes of one attempt that go before those of another.
const TURN_BYTES: usize = 64 * 1024;
/// Bytes that are kept before the worker asks for no more work.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Keeps the chunks of each attempt until its outcome is acknowledged, and gives them out again after a
/// lost stream.
#[derive(Debug)]
pub(crate) struct ChunkSpool {
    announced: UnboundedReceiver<Arc<ChunkLog>>,
    logs: HashMap<u64, Arc<ChunkLog>>,
    /// Those with something to send.
    unsent: VecDeque<Arc<ChunkLog>>,
}

impl ChunkSpool {
    /// An empty spool, and where logs tell that they have chunks.
    pub(crate) fn new() -> (Announce, Self) {
        let (announce, announced) = unbounded_channel();
        let spool = Self {
            announced,
            logs: HashMap::new(),
            unsent: VecDeque::new(),
        };
        (announce, spool)
    }

    /// Takes in logs that have chunks to send.
    pub(crate) fn collect(&mut self) {
        while let Ok(log) = self.announced.try_recv() {
            self.add(log);
        }
    }

    /// Waits until a log has chunks to send. Nothing is lost when this is dropped.
    pub(crate) async fn announced(&mut self) {
        match self.announced.recv().await {
            Some(log) => self.add(log),
            None => std::future::pending().await,
        }
    }

    fn add(&mut self, log: Arc<ChunkLog>) {
        // Its chunks may have been discarded meanwhile.
        if log.has_unsent() {
            self.logs.insert(log.token, Arc::clone(&log));
            self.unsent.push_back(log);
        }
    }

    pub(crate) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Whether chunks of the attempt have to go before its outcome.
    pub(crate) fn goes_before(&self, token: u64) -> bool {
        self.logs.get(&token).is_some_and(|log| log.has_unsent())
    }

    /// Whether no more work should be asked for.
    pub(crate) fn is_full(&self) -> bool {
        let bytes = self.logs.values().map(|log| log.bytes());
        !self.logs.is_empty() && bytes.sum::<usize>() >= MAX_BYTES
    }

    /// The chunks of the next frame: a piece of each attempt in turn.
    pub(crate) fn take_batch(&mut self) -> Vec<v1::Chunk> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while bytes < MAX_FRAME_BYTES
            && batch.len() < MAX_FRAME_CHUNKS
            && let Some(log) = self.unsent.pop_front()
        {
            bytes += log.take(TURN_BYTES, &mut batch);
            if log.has_unsent() {
                self.unsent.push_back(log);
            }
        }
        batch
    }

    /// The outcome of the attempt was acknowledged, or nobody wants it any more.
    pub(crate) fn forget(&mut self, token: u64) {
        if self.logs.is_empty() {
            return;
        }
        if let Some(log) = self.logs.remove(&token) {
            log.discard();
        }
    }

    /// The stream was lost: everything has to be sent again.
    pub(crate) fn rewind(&mut self) {
        self.collect();
        let again = self.logs.values().filter(|log| log.rewind()).cloned();
        self.unsent = again.collect();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio_util::sync::CancellationToken;

    use super::*;

    async fn push(log: &Arc<ChunkLog>, chunks: usize, size: usize) {
        let chunk = Bytes::from(vec![b'1'; size]);
        for _ in 0..chunks {
            let cancelled = CancellationToken::new();
            log.push(chunk.clone(), &cancelled).await.unwrap();
        }
    }

    fn count(batch: &[v1::Chunk], token: u64) -> usize {
        batch.iter().filter(|chunk| chunk.token == token).count()
    }

    #[tokio::test]
    async fn chunks_stay_until_they_are_forgotten() {
        let (announce, mut spool) = ChunkSpool::new();
        let [one, two] = [1, 2].map(|token| ChunkLog::new(token, announce.clone()));
        push(&one, 3, 1).await;
        push(&two, 2, 1).await;
        spool.collect();
        assert!(spool.goes_before(1) && spool.goes_before(2) && !spool.goes_before(3));
        let batch = spool.take_batch();
        assert_eq!((count(&batch, 1), count(&batch, 2)), (3, 2));
        assert!(!spool.has_unsent() && !spool.goes_before(1));

        push(&two, 1, 1).await;
        spool.forget(1);
        spool.rewind();
        let batch = spool.take_batch();
        assert_eq!((count(&batch, 1), count(&batch, 2)), (0, 3));
        assert!(!spool.has_unsent());
        spool.forget(2);
        spool.rewind();
        assert!(!spool.has_unsent() && spool.logs.is_empty());
    }

    #[tokio::test]
    async fn an_attempt_with_much_to_send_does_not_hold_up_the_others() {
        let (announce, mut spool) = ChunkSpool::new();
        let [much, little] = [1, 2].map(|token| ChunkLog::new(token, announce.clone()));
        push(&much, 20, 10_000).await;
        push(&little, 1, 10).await;
        spool.collect();
        let batch = spool.take_batch();
        assert_eq!(count(&batch, 1), 20);
        assert_eq!(batch.iter().position(|chunk| chunk.token == 2), Some(7));
    }
}
