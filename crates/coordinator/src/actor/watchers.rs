//! Who follows which run.

use std::collections::BTreeMap;

use levelflow_common::Timestamp;
use levelflow_common::event::RunEvent;
use levelflow_engine::command::Ended;
use levelflow_engine::{Entry, RunNumber};
use tokio::sync::mpsc;

use super::message::{RunEnding, StreamAnswer, Watched};

/// Updates that a watcher may be behind before it is dropped. It then reads what it missed from the
/// store and comes back.
pub(crate) const WATCH_BUFFER: usize = 1024;

/// Watchers and waiters of open runs.
#[derive(Default)]
pub(crate) struct Watchers {
    watching: BTreeMap<RunNumber, Vec<mpsc::Sender<Watched>>>,
    waiting: BTreeMap<RunNumber, Vec<Waiter>>,
    /// Entries of watched runs in the batch that is being committed.
    committing: Vec<Entry>,
}

struct Waiter {
    tag: u64,
    answers: mpsc::UnboundedSender<StreamAnswer>,
}

impl Watchers {
    pub(crate) fn watch(&mut self, run: RunNumber) -> mpsc::Receiver<Watched> {
        let (sender, receiver) = mpsc::channel(WATCH_BUFFER);
        self.watching.entry(run).or_default().push(sender);
        receiver
    }

    pub(crate) fn wait(
        &mut self,
        run: RunNumber,
        tag: u64,
        answers: mpsc::UnboundedSender<StreamAnswer>,
    ) {
        let waiter = Waiter { tag, answers };
        self.waiting.entry(run).or_default().push(waiter);
    }

    pub(crate) fn is_watched(&self, run: RunNumber) -> bool {
        !self.watching.is_empty() && self.watching.contains_key(&run)
    }

    /// Keeps what watchers will be told when the batch is durable.
    pub(crate) fn commit(&mut self, entries: &[Entry]) {
        if !self.watching.is_empty() {
            let watched = entries
                .iter()
                .filter(|entry| self.watching.contains_key(&entry.run));
            self.committing = watched.cloned().collect();
        }
    }

    /// The batch is durable.
    pub(crate) fn committed(&mut self) {
        for entry in std::mem::take(&mut self.committing) {
            let run = entry.run;
            self.tell(run, || Watched::Records {
                first_sequence: entry.first_sequence,
                records: entry.records.clone(),
            });
        }
    }

    pub(crate) fn live(&mut self, run: RunNumber, at: Timestamp, event: &RunEvent) {
        self.tell(run, || Watched::Live {
            at,
            event: event.clone(),
        });
    }

    fn tell(&mut self, run: RunNumber, update: impl Fn() -> Watched) {
        if let Some(watchers) = self.watching.get_mut(&run) {
            watchers.retain(|watcher| watcher.try_send(update()).is_ok());
            if watchers.is_empty() {
                self.watching.remove(&run);
            }
        }
    }

    /// The run has ended, and its watchers were told.
    pub(crate) fn ended(&mut self, ended: Ended) {
        self.watching.remove(&ended.number);
        if let Some(waiters) = self.waiting.remove(&ended.number) {
            let end = RunEnding {
                status: ended.status,
                outputs: ended.outputs,
                failure: ended.failure,
            };
            for waiter in waiters {
                // A client that has gone does not wait any more.
                let _ = waiter.answers.send(StreamAnswer::Ended {
                    tag: waiter.tag,
                    end: end.clone(),
                });
            }
        }
    }

    /// Drops everyone: they read from the store and come back.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}
