//! What waits for the filer.
//!
//! Commits come thousands of times a second and may wait, so the filer is woken for the first of them
//! and when there are many; requests wake it at once. A request is done after the commits before it.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::commit::Commit;
use crate::error::StoreError;

/// Makes a queue.
pub(super) fn queue<R>(limits: Limits) -> (Sender<R>, Receiver<R>) {
    let shared = Arc::new(Shared {
        limits,
        state: Mutex::new(State {
            commits: Vec::new(),
            entries: 0,
            bytes: 0,
            since: None,
            requests: VecDeque::new(),
            senders: 1,
            has_receiver: true,
        }),
        changed: Condvar::new(),
    });
    (Sender(shared.clone()), Receiver(shared))
}

/// When commits that wait are handed out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The first has waited so long, ...
    pub(super) time: Duration,
    /// ... they have so many entries, ...
    pub(super) entries: usize,
    /// ... or bytes.
    pub(super) bytes: usize,
}

/// What the filer gets.
#[derive(Debug)]
pub(super) enum Next<R> {
    /// Commits, to be filed together.
    Commits(Vec<Commit>),
    Request(R),
    /// Nothing came for as long as was allowed.
    Idle,
    /// Every sender is gone, and everything was handed out.
    Closed,
}

#[derive(Debug)]
pub(super) struct Sender<R>(Arc<Shared<R>>);

#[derive(Debug)]
pub(super) struct Receiver<R>(Arc<Shared<R>>);

#[derive(Debug)]
struct Shared<R> {
    limits: Limits,
    state: Mutex<State<R>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<R> {
    commits: Vec<Commit>,
    entries: usize,
    bytes: usize,
    /// When the first commit came.
    since: Option<Instant>,
    requests: VecDeque<R>,
    senders: usize,
    has_receiver: bool,
}

impl<R> Shared<R> {
    fn state(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R> State<R> {
    fn take_commits(&mut self) -> Next<R> {
        (self.entries, self.bytes, self.since) = (0, 0, None);
        Next::Commits(std::mem::take(&mut self.commits))
    }

    fn is_full(&self, limits: Limits) -> bool {
        self.entries >= limits.entries || self.bytes >= limits.bytes
    }
}

/// The filer's thread has ended.
fn lost() -> StoreError {
    StoreError::ThreadLost { thread: "filer" }
}

impl<R> Sender<R> {
    /// Puts a commit into the queue, and tells how many bytes of commits wait.
    pub(super) fn commit(&self, commit: Commit) -> Result<usize, StoreError> {
        let mut state = self.0.state();
        if !state.has_receiver {
            return Err(lost());
        }
        let was_full = state.is_full(self.0.limits);
        let is_first = state.since.is_none();
        state.since.get_or_insert_with(Instant::now);
        state.entries += commit.entries.len();
        state.bytes += commit.bytes;
        state.commits.push(commit);
        let bytes = state.bytes;
        let wakes = is_first || (!was_full && state.is_full(self.0.limits));
        drop(state);
        if wakes {
            self.0.changed.notify_one();
        }
        Ok(bytes)
    }

    pub(super) fn request(&self, request: R) -> Result<(), StoreError> {
        let mut state = self.0.state();
        if !state.has_receiver {
            return Err(lost());
        }
        state.requests.push_back(request);
        drop(state);
        self.0.changed.notify_one();
        Ok(())
    }
}

impl<R> Receiver<R> {
    /// Waits for what is next, at most for `idle` if that is given.
    pub(super) fn next(&self, idle: Option<Duration>) -> Next<R> {
        let idle_until = idle.map(|idle| Instant::now() + idle);
        let mut state = self.0.state();
        loop {
            // What a request asks about is filed first.
            let is_due = !state.requests.is_empty() || state.senders == 0;
            let due_at = state.since.map(|since| since + self.0.limits.time);
            let now = Instant::now();
            if !state.commits.is_empty()
                && (is_due || state.is_full(self.0.limits) || due_at.is_some_and(|at| at <= now))
            {
                return state.take_commits();
            }
            if let Some(request) = state.requests.pop_front() {
                return Next::Request(request);
            }
            if state.senders == 0 {
                return Next::Closed;
            }
            let until = due_at.or(idle_until);
            state = match until {
                Some(until) if until <= now => return Next::Idle,
                Some(until) => {
                    let waited = self.0.changed.wait_timeout(state, until - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let waited = self.0.changed.wait(state);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }
}

impl<R> Clone for Sender<R> {
    fn clone(&self) -> Self {
        self.0.state().senders += 1;
        Self(self.0.clone())
    }
}

impl<R> Drop for Sender<R> {
    fn drop(&mut self) {
        self.0.state().senders -= 1;
        self.0.changed.notify_one();
    }
}

impl<R> Drop for Receiver<R> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.has_receiver = false;
        // Who waits for the answer to a request learns that there will be none.
        state.requests.clear();
        state.commits.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        time: Duration::from_millis(20),
        entries: 100,
        bytes: 1000,
    };

    fn commit(number: u64, bytes: usize) -> Commit {
        Commit {
            number,
            definitions: Vec::new(),
            entries: Vec::new(),
            bytes,
        }
    }

    fn numbers(next: &Next<u8>) -> Vec<u64> {
        match next {
            Next::Commits(commits) => commits.iter().map(|commit| commit.number).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn commits_gather_for_a_while() {
        let (sender, receiver) = queue::<u8>(LIMITS);
        let started = Instant::now();
        assert_eq!(sender.commit(commit(1, 10)).unwrap(), 10);
        assert_eq!(sender.commit(commit(2, 10)).unwrap(), 20);
        assert_eq!(numbers(&receiver.next(None)), [1, 2]);
        assert!(started.elapsed() >= LIMITS.time);
        assert!(matches!(receiver.next(Some(Duration::ZERO)), Next::Idle));
    }

    #[test]
    fn many_bytes_and_requests_do_not_wait() {
        let slow = Limits {
            time: Duration::from_secs(3600),
            ..LIMITS
        };
        let (sender, receiver) = queue::<u8>(slow);
        sender.commit(commit(1, 1000)).unwrap();
        assert_eq!(numbers(&receiver.next(None)), [1]);
        sender.commit(commit(2, 1)).unwrap();
        sender.request(7).unwrap();
        sender.commit(commit(3, 1)).unwrap();
        assert_eq!(numbers(&receiver.next(None)), [2, 3]);
        assert!(matches!(receiver.next(None), Next::Request(7)));
        sender.commit(commit(4, 1)).unwrap();
        drop(sender);
        assert_eq!(numbers(&receiver.next(None)), [4]);
        assert!(matches!(receiver.next(None), Next::Closed));
    }

    #[test]
    fn a_queue_whose_filer_is_gone_says_so() {
        let (sender, receiver) = queue::<u8>(LIMITS);
        sender.request(7).unwrap();
        drop(receiver);
        assert!(sender.request(8).is_err());
        assert!(sender.commit(commit(1, 1)).is_err());
    }
}
