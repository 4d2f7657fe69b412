//! Who follows which run.

use std::collections::{BTreeMap, VecDeque};

use levelflow_common::Timestamp;
use levelflow_common::event::{RunEvent, TaskRef};
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
    /// The batches that are being committed, the oldest first.
    committing: VecDeque<Committing>,
}

/// What a batch is to watchers, until it is durable.
#[derive(Default)]
struct Committing {
    /// Its entries of runs that were watched when it was made.
    entries: Vec<Entry>,
    /// Runs that got a watcher since: it may have looked into the store before the batch was there.
    joined: Vec<RunNumber>,
}

struct Waiter {
    tag: u64,
    answers: mpsc::UnboundedSender<StreamAnswer>,
}

impl Watchers {
    /// A watcher that is told of these first.
    pub(crate) fn watch(&mut self, run: RunNumber, first: Vec<Watched>) -> mpsc::Receiver<Watched> {
        let (sender, receiver) = mpsc::channel(WATCH_BUFFER + first.len());
        for watched in first {
            // There is room for all of them.
            let _ = sender.try_send(watched);
        }
        if let Some(newest) = self.committing.back_mut() {
            newest.joined.push(run);
        }
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

    /// How many follow a run.
    pub(crate) fn count(&self) -> usize {
        self.watching.values().map(Vec::len).sum()
    }

    pub(crate) fn is_watched(&self, run: RunNumber) -> bool {
        !self.watching.is_empty() && self.watching.contains_key(&run)
    }

    /// Keeps what watchers will be told when the batch is durable.
    pub(crate) fn commit(&mut self, entries: &[Entry]) {
        let mut committing = Committing::default();
        if !self.watching.is_empty() {
            let watched = entries
                .iter()
                .filter(|entry| self.watching.contains_key(&entry.run));
            committing.entries = watched.cloned().collect();
        }
        self.committing.push_back(committing);
    }

    /// The oldest batch is durable.
    pub(crate) fn committed(&mut self) {
        let committing = self.committing.pop_front().unwrap_or_default();
        for entry in committing.entries {
            let run = entry.run;
            self.tell(run, || Watched::Records {
                first_sequence: entry.first_sequence,
                records: entry.records.clone(),
            });
        }
        for run in committing.joined {
            self.tell(run, || Watched::Stored);
        }
    }

    /// A task gives its first chunks.
    pub(crate) fn streaming(&mut self, run: RunNumber, task: &TaskRef) {
        self.tell(run, || Watched::Streaming(task.clone()));
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

    /// The run is not here any more: its watchers read from the store, and come back or go elsewhere.
    pub(crate) fn moved(&mut self, run: RunNumber) {
        self.watching.remove(&run);
        for waiter in self.waiting.remove(&run).into_iter().flatten() {
            let _ = waiter.answers.send(StreamAnswer::Moved { tag: waiter.tag });
        }
    }

    /// The same for all runs.
    pub(crate) fn clear(&mut self) {
        for waiter in std::mem::take(&mut self.waiting).into_values().flatten() {
            let _ = waiter.answers.send(StreamAnswer::Moved { tag: waiter.tag });
        }
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use levelflow_engine::{Fact, Record};

    use super::*;

    #[test]
    fn who_comes_during_a_commit_is_told_to_look_again() {
        let run = RunNumber(1);
        let record = Record {
            at: Timestamp::from_micros(1),
            fact: Fact::TimedOut,
        };
        let entry = Entry {
            run,
            first_sequence: 7,
            records: vec![record],
            progress: None,
        };
        let mut watchers = Watchers::default();
        watchers.commit(std::slice::from_ref(&entry));
        let mut live = watchers.watch(run, Vec::new());
        assert!(live.try_recv().is_err());
        watchers.committed();
        assert!(matches!(live.try_recv(), Ok(Watched::Stored)));

        watchers.commit(&[entry]);
        watchers.committed();
        assert!(matches!(
            live.try_recv(),
            Ok(Watched::Records {
                first_sequence: 7,
                ..
            })
        ));
        assert!(live.try_recv().is_err());
    }
}
