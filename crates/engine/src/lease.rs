//! Leases: which attempt is on which worker, and until when.

use std::collections::BTreeMap;

use bytes::Bytes;
use levelflow_common::{FencingToken, Timestamp};

use crate::event::RunKey;
use crate::record::TaskIndex;
use crate::worker::WorkerKey;

/// A worker's time-bound right to an attempt.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) run: RunKey,
    pub(crate) task: TaskIndex,
    pub(crate) attempt: u32,
    pub(crate) worker: WorkerKey,
    pub(crate) input: Option<Bytes>,
    /// Whether the attempt was sent. Until then it can be taken back without the worker.
    pub(crate) sent: bool,
    /// When it was sent; until then, when it was given.
    pub(crate) started_at: Timestamp,
    /// When the worker last said that it holds it.
    pub(crate) renewed_at: Timestamp,
    /// When the handler last reported progress.
    pub(crate) progressed_at: Timestamp,
}

/// The leases, by token.
#[derive(Debug)]
pub(crate) struct Leases {
    by_token: BTreeMap<FencingToken, Lease>,
    next: u64,
}

/// Tokens count within an epoch: 2^44 attempts, five years at 100 000 a second, in 2^20 epochs.
const EPOCH_SHIFT: u32 = 44;

impl Leases {
    pub(crate) fn new(epoch: u64) -> Self {
        Self {
            by_token: BTreeMap::new(),
            next: epoch << EPOCH_SHIFT,
        }
    }

    pub(crate) fn grant(&mut self, lease: Lease) -> FencingToken {
        self.next += 1;
        let token = FencingToken(self.next);
        self.by_token.insert(token, lease);
        token
    }

    pub(crate) fn get(&self, token: FencingToken) -> Option<&Lease> {
        self.by_token.get(&token)
    }

    pub(crate) fn get_mut(&mut self, token: FencingToken) -> Option<&mut Lease> {
        self.by_token.get_mut(&token)
    }

    pub(crate) fn revoke(&mut self, token: FencingToken) -> Option<Lease> {
        self.by_token.remove(&token)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (FencingToken, &Lease)> {
        self.by_token.iter().map(|(&token, lease)| (token, lease))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_token.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_token.len()
    }
}
