//! Outcomes that the coordinator has not acknowledged yet.

use std::collections::{HashMap, HashSet, VecDeque};

use levelflow_proto::v1;

use crate::chunk_spool::ChunkSpool;

/// Outcomes in one frame; more would delay the first of them.
const MAX_FRAME_OUTCOMES: usize = 1_000;
/// Bytes of outcomes in one frame, well below the limit of a message.
const MAX_FRAME_BYTES: usize = 4 * 1024 * 1024;
/// What an outcome takes beside its output and message.
const OVERHEAD: usize = 128;

/// Keeps each outcome until it is acknowledged, and gives it out again after a lost stream.
#[derive(Debug)]
pub(crate) struct Spool {
    unsent: VecDeque<v1::Outcome>,
    sent: HashMap<u64, v1::Outcome>,
    bytes: usize,
    max_outcomes: usize,
    max_bytes: usize,
}

fn size(outcome: &v1::Outcome) -> usize {
    let message = outcome.failure.as_ref().map_or(0, |f| f.message.len());
    OVERHEAD + outcome.output.len() + message
}

impl Spool {
    pub(crate) fn new(max_outcomes: usize, max_bytes: usize) -> Self {
        Self {
            unsent: VecDeque::new(),
            sent: HashMap::new(),
            bytes: 0,
            max_outcomes,
            max_bytes,
        }
    }

    pub(crate) fn push(&mut self, outcome: v1::Outcome) {
        self.bytes += size(&outcome);
        self.unsent.push_back(outcome);
    }

    /// Outcomes that are not acknowledged.
    pub(crate) fn len(&self) -> usize {
        self.unsent.len() + self.sent.len()
    }

    /// Whether no more work should be asked for. What is under way still fits: the bound is passed by
    /// at most the outcomes of the attempts that were granted before.
    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.max_outcomes || self.bytes >= self.max_bytes
    }

    pub(crate) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// The outcomes of the next frame, without those that have to wait for their chunks.
    pub(crate) fn take_batch(&mut self, chunks: &ChunkSpool) -> Vec<v1::Outcome> {
        let mut batch = Vec::with_capacity(self.unsent.len().min(MAX_FRAME_OUTCOMES));
        let mut bytes = 0;
        let mut held_back = Vec::new();
        while batch.len() < MAX_FRAME_OUTCOMES && bytes < MAX_FRAME_BYTES {
            let Some(outcome) = self.unsent.pop_front() else {
                break;
            };
            if outcome.chunks > 0 && chunks.goes_before(outcome.token) {
                held_back.push(outcome);
                continue;
            }
            bytes += size(&outcome);
            self.sent.insert(outcome.token, outcome.clone());
            batch.push(outcome);
        }
        for outcome in held_back.into_iter().rev() {
            self.unsent.push_front(outcome);
        }
        batch
    }

    /// Drops an outcome that was acknowledged.
    pub(crate) fn acknowledge(&mut self, token: u64) {
        if let Some(outcome) = self.sent.remove(&token) {
            self.bytes -= size(&outcome);
        }
    }

    /// Drops outcomes that nobody wants any more, sent or not.
    pub(crate) fn forget(&mut self, tokens: &HashSet<u64>) {
        for &token in tokens {
            self.acknowledge(token);
        }
        let freed = &mut self.bytes;
        self.unsent.retain(|outcome| {
            let keep = !tokens.contains(&outcome.token);
            if !keep {
                *freed -= size(outcome);
            }
            keep
        });
    }

    /// The stream was lost: everything has to be sent again, the oldest first.
    pub(crate) fn rewind(&mut self) {
        let mut again: Vec<_> = self.sent.drain().map(|(_, outcome)| outcome).collect();
        again.sort_unstable_by_key(|outcome| outcome.token);
        for outcome in again.into_iter().rev() {
            self.unsent.push_front(outcome);
        }
    }

    /// The tokens of all outcomes.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = u64> {
        let unsent = self.unsent.iter().map(|outcome| outcome.token);
        self.sent.keys().copied().chain(unsent)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn outcome(token: u64, bytes: usize) -> v1::Outcome {
        v1::Outcome {
            token,
            output: Bytes::from(vec![b'1'; bytes]),
            ..v1::Outcome::default()
        }
    }

    fn chunks() -> ChunkSpool {
        ChunkSpool::new().1
    }

    fn tokens(batch: &[v1::Outcome]) -> Vec<u64> {
        batch.iter().map(|outcome| outcome.token).collect()
    }

    #[test]
    fn keeps_what_was_sent_until_it_is_acknowledged() {
        let mut spool = Spool::new(10, 1 << 20);
        for token in 1..=3 {
            spool.push(outcome(token, 1));
        }
        assert_eq!(tokens(&spool.take_batch(&chunks())), [1, 2, 3]);
        assert!(spool.take_batch(&chunks()).is_empty());
        spool.acknowledge(2);
        spool.push(outcome(4, 1));
        spool.rewind();
        assert_eq!(tokens(&spool.take_batch(&chunks())), [1, 3, 4]);
        for token in [1, 3, 4] {
            spool.acknowledge(token);
        }
        spool.rewind();
        assert!(!spool.has_unsent());
        assert_eq!((spool.len(), spool.bytes), (0, 0));
    }

    #[test]
    fn is_full_by_count_and_by_bytes() {
        let mut spool = Spool::new(2, 10_000);
        spool.push(outcome(1, 1));
        assert!(!spool.is_full());
        spool.push(outcome(2, 1));
        assert!(spool.is_full());
        spool.forget(&HashSet::from([1]));
        assert!(!spool.is_full());
        spool.push(outcome(3, 10_000));
        spool.forget(&HashSet::from([2]));
        assert!(spool.is_full());
        spool.take_batch(&chunks());
        assert!(spool.is_full(), "sent is not acknowledged");
        spool.acknowledge(3);
        assert!(!spool.is_full());
    }

    #[test]
    fn a_frame_is_bounded() {
        let mut spool = Spool::new(10_000, usize::MAX);
        for token in 0..2_500 {
            spool.push(outcome(token, 1));
        }
        assert_eq!(spool.take_batch(&chunks()).len(), MAX_FRAME_OUTCOMES);
        let mut spool = Spool::new(10_000, usize::MAX);
        for token in 0..10 {
            spool.push(outcome(token, MAX_FRAME_BYTES / 2));
        }
        assert_eq!(spool.take_batch(&chunks()).len(), 2);
    }
}
