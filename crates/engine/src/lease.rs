//! Leases: which attempt is on which worker, and until when.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use levelflow_common::{FencingToken, Protection, Timestamp};

use crate::event::RunKey;
use crate::limit::LimitKeys;
use crate::record::TaskIndex;
use crate::upstream::Passed;
use crate::worker::WorkerKey;

/// A worker's time-bound right to an attempt.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) run: RunKey,
    pub(crate) task: TaskIndex,
    pub(crate) attempt: u32,
    pub(crate) worker: WorkerKey,
    pub(crate) input: Option<Bytes>,
    /// The upstream that the attempt may call, as far as that is known.
    pub(crate) passed: Option<Passed>,
    /// The keys of its limits, once it has ended: its slot and its token went with it.
    pub(crate) keys: Option<Box<LimitKeys>>,
    /// Whether an attempt at the task was lost with its worker before.
    pub(crate) is_suspect: bool,
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
///
/// Most attempts are short, so most leases have a token among the last ones: those are in a window that
/// is indexed by token. The few that stay for long move to a tree.
#[derive(Debug)]
pub(crate) struct Leases {
    old: BTreeMap<FencingToken, Lease>,
    recent: VecDeque<Option<Lease>>,
    /// The token of the first in `recent`.
    first: u64,
    count: usize,
}

/// Tokens count within an epoch: 2^44 attempts, five years at 100 000 a second, in 2^20 epochs.
const EPOCH_SHIFT: u32 = 44;

fn first_token(epoch: u64) -> u64 {
    match Protection::GrowingTokens.holds() {
        true => (epoch << EPOCH_SHIFT) + 1,
        false => 1,
    }
}

impl Leases {
    pub(crate) fn new(epoch: u64) -> Self {
        Self {
            old: BTreeMap::new(),
            recent: VecDeque::new(),
            first: first_token(epoch),
            count: 0,
        }
    }

    /// Makes the tokens that come higher than all of the epochs before.
    pub(crate) fn raise_epoch(&mut self, epoch: u64) {
        let first = first_token(epoch);
        if first <= self.first + self.recent.len() as u64 {
            return;
        }
        for (token, lease) in (self.first..).zip(self.recent.drain(..)) {
            if let Some(lease) = lease {
                self.old.insert(FencingToken(token), lease);
            }
        }
        self.first = first;
    }

    pub(crate) fn grant(&mut self, lease: Lease) -> FencingToken {
        let token = FencingToken(self.first + self.recent.len() as u64);
        self.recent.push_back(Some(lease));
        self.count += 1;
        self.shorten_window();
        token
    }

    fn shorten_window(&mut self) {
        let most = 2 * self.count + 64;
        while self.recent.len() > most || matches!(self.recent.front(), Some(None)) {
            if let Some(Some(lease)) = self.recent.pop_front() {
                self.old.insert(FencingToken(self.first), lease);
            }
            self.first += 1;
        }
    }

    fn place(&self, token: FencingToken) -> Option<usize> {
        token.0.checked_sub(self.first).map(|place| place as usize)
    }

    pub(crate) fn get(&self, token: FencingToken) -> Option<&Lease> {
        match self.place(token) {
            Some(place) => self.recent.get(place)?.as_ref(),
            None => self.old.get(&token),
        }
    }

    pub(crate) fn get_mut(&mut self, token: FencingToken) -> Option<&mut Lease> {
        match self.place(token) {
            Some(place) => self.recent.get_mut(place)?.as_mut(),
            None => self.old.get_mut(&token),
        }
    }

    pub(crate) fn revoke(&mut self, token: FencingToken) -> Option<Lease> {
        let lease = match self.place(token) {
            Some(place) => self.recent.get_mut(place)?.take(),
            None => self.old.remove(&token),
        }?;
        self.count -= 1;
        self.shorten_window();
        Some(lease)
    }

    /// The leases in the order of their tokens.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (FencingToken, &Lease)> {
        let recent = (self.first..).map(FencingToken).zip(&self.recent);
        self.old
            .iter()
            .map(|(&token, lease)| (token, lease))
            .chain(recent.filter_map(|(token, lease)| Some((token, lease.as_ref()?))))
    }

    /// The tokens of a worker's leases.
    pub(crate) fn of(&self, worker: WorkerKey) -> Vec<FencingToken> {
        self.iter()
            .filter(|(_, lease)| lease.worker == worker)
            .map(|(token, _)| token)
            .collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(worker: u32) -> Lease {
        Lease {
            run: RunKey(0),
            task: TaskIndex(0),
            attempt: 1,
            worker: WorkerKey(worker),
            input: None,
            passed: None,
            keys: None,
            is_suspect: false,
            sent: true,
            started_at: Timestamp::default(),
            renewed_at: Timestamp::default(),
            progressed_at: Timestamp::default(),
        }
    }

    #[test]
    fn a_lease_that_stays_for_long_does_not_hold_the_window_open() {
        let mut leases = Leases::new(3);
        let old = leases.grant(lease(7));
        for _ in 0..10_000 {
            let short = leases.grant(lease(1));
            assert_eq!(leases.get(short).map(|it| it.worker), Some(WorkerKey(1)));
            assert!(leases.revoke(short).is_some() && leases.revoke(short).is_none());
        }
        assert!(leases.recent.len() < 100);
        assert_eq!((leases.len(), leases.of(WorkerKey(7))), (1, vec![old]));
        assert!(leases.get_mut(old).is_some());
        let next = leases.grant(lease(7));
        assert_eq!(leases.of(WorkerKey(7)), [old, next]);
        assert!(leases.revoke(old).is_some() && leases.get(old).is_none());
        assert!(leases.revoke(next).is_some() && leases.is_empty());
        assert!(leases.get(FencingToken(u64::MAX)).is_none());
    }
}
