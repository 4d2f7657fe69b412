//! A store that forgets everything when its process ends: for tests and ephemeral servers.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use levelflow_common::view::RunSummary;
use levelflow_common::{RunId, ShardId, Timestamp, WorkflowDigest};
use levelflow_engine::record::SubmitKey;
use levelflow_engine::{Entry, Fact, Record, RunNumber};
use tokio::sync::oneshot;

use crate::error::StoreError;
use crate::port::{Batch, KnownKey, Recovery, RunFilter, RunPage, SequencedRecord, Store};
use crate::summary;

/// How many ended runs are kept unless it is said otherwise.
const DEFAULT_KEPT_RUNS: usize = 10_000;

/// An in-memory store. It keeps every open run, and the newest of those that ended.
#[derive(Debug)]
pub struct Memory {
    // Never held across an await, and nothing in it can panic half-way through a change.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    closed: bool,
    /// Why a batch was refused, until the next recovery.
    suspended: Option<Arc<StoreError>>,
    epoch: u64,
    kept_runs: usize,
    last: u64,
    runs: BTreeMap<RunNumber, Run>,
    numbers: HashMap<RunId, RunNumber>,
    /// Runs of a submit key, the newest last.
    keys: HashMap<(String, String), Vec<RunNumber>>,
    ended: VecDeque<RunNumber>,
    definitions: HashMap<WorkflowDigest, Bytes>,
}

#[derive(Debug)]
struct Run {
    summary: RunSummary,
    key: Option<SubmitKey>,
    records: Vec<Record>,
}

impl Default for Memory {
    fn default() -> Self {
        Self::keeping(DEFAULT_KEPT_RUNS)
    }
}

impl Memory {
    /// A store that keeps at most so many ended runs.
    pub fn keeping(ended_runs: usize) -> Self {
        Self {
            state: Mutex::new(State {
                closed: false,
                suspended: None,
                epoch: 0,
                kept_runs: ended_runs,
                last: 0,
                runs: BTreeMap::new(),
                numbers: HashMap::new(),
                keys: HashMap::new(),
                ended: VecDeque::new(),
                definitions: HashMap::new(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.state();
        if state.closed {
            return Err(StoreError::Closed);
        }
        Ok(state)
    }
}

impl State {
    fn append(&mut self, batch: Batch) -> Result<(), StoreError> {
        if let Some(source) = &self.suspended {
            return Err(StoreError::Suspended {
                source: source.clone(),
            });
        }
        if let Err(error) = self.check(&batch) {
            self.suspended = Some(Arc::new(error.clone()));
            return Err(error);
        }
        for (digest, canonical) in batch.definitions {
            self.definitions.entry(digest).or_insert(canonical);
        }
        for entry in batch.entries {
            self.write(entry);
        }
        self.forget();
        Ok(())
    }

    /// All or nothing: whatever could refuse the batch is looked at before anything is changed.
    fn check(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut next: HashMap<RunNumber, u64> = HashMap::new();
        for entry in &batch.entries {
            let refused = |problem| StoreError::Refused {
                run: entry.run,
                problem,
            };
            let known = next.get(&entry.run).copied().or_else(|| {
                let run = self.runs.get(&entry.run)?;
                Some(run.records.len() as u64 + 1)
            });
            let is_submit = matches!(
                entry.records.first(),
                Some(Record {
                    fact: Fact::Submitted(_),
                    ..
                })
            );
            let expected = match known {
                None if is_submit => 1,
                None => return Err(refused("its run is unknown")),
                Some(_) if is_submit => return Err(refused("its run is already known")),
                Some(expected) => expected,
            };
            if entry.first_sequence != expected {
                return Err(refused("its sequence does not follow the journal"));
            }
            next.insert(entry.run, expected + entry.records.len() as u64);
        }
        Ok(())
    }

    fn write(&mut self, entry: Entry) {
        let number = entry.run;
        if let Some(Record {
            at,
            fact: Fact::Submitted(submitted),
        }) = entry.records.first()
        {
            let run = Run {
                summary: summary::of(submitted, *at),
                key: submitted.key.clone(),
                records: Vec::new(),
            };
            if let Some(key) = &run.key {
                self.keys
                    .entry((submitted.tenant.to_string(), key.key.to_string()))
                    .or_default()
                    .push(number);
            }
            self.numbers.insert(submitted.run_id, number);
            self.last = self.last.max(number.0);
            self.runs.insert(number, run);
        }
        let Some(run) = self.runs.get_mut(&number) else {
            return;
        };
        run.records.extend(entry.records);
        if let Some(progress) = &entry.progress {
            let was_open = !run.summary.status.is_terminal();
            summary::advance(&mut run.summary, progress);
            if was_open && run.summary.status.is_terminal() {
                self.ended.push_back(number);
            }
        }
    }

    /// Drops the oldest ended runs over the bound. Definitions stay: whoever appends sends them once.
    fn forget(&mut self) {
        while self.ended.len() > self.kept_runs {
            if let Some(number) = self.ended.pop_front() {
                self.remove(number);
            }
        }
    }

    fn prune(&mut self, ended_before: Timestamp, limit: usize) -> usize {
        let old: Vec<RunNumber> = self
            .runs
            .iter()
            .filter(|(_, run)| {
                let finished_at = run.summary.finished_at;
                finished_at.is_some_and(|at| at < ended_before)
            })
            .map(|(&number, _)| number)
            .take(limit)
            .collect();
        self.ended.retain(|number| !old.contains(number));
        for &number in &old {
            self.remove(number);
        }
        old.len()
    }

    fn remove(&mut self, number: RunNumber) {
        let Some(run) = self.runs.remove(&number) else {
            return;
        };
        self.numbers.remove(&run.summary.run_id);
        if let Some(key) = run.key {
            let name = (run.summary.tenant.to_string(), key.key.to_string());
            if let Some(runs) = self.keys.get_mut(&name) {
                runs.retain(|other| *other != number);
                if runs.is_empty() {
                    self.keys.remove(&name);
                }
            }
        }
    }

    fn recover(&mut self) -> Recovery {
        self.suspended = None;
        self.epoch += 1;
        let open: Vec<_> = self
            .runs
            .iter()
            .filter(|(_, run)| !run.summary.status.is_terminal())
            .collect();
        let digests: BTreeSet<_> = open.iter().map(|(_, run)| run.summary.digest).collect();
        Recovery {
            epoch: self.epoch,
            shards: vec![ShardId(0)],
            next_run: RunNumber(self.last + 1),
            definitions: digests
                .into_iter()
                .filter_map(|digest| Some((digest, self.definitions.get(&digest)?.clone())))
                .collect(),
            open: open
                .into_iter()
                .map(|(number, run)| (*number, run.records.clone()))
                .collect(),
        }
    }

    fn run(&self, id: RunId) -> Option<&Run> {
        self.runs.get(self.numbers.get(&id)?)
    }
}

#[async_trait]
impl Store for Memory {
    fn append(&self, batch: Batch) -> oneshot::Receiver<Result<(), StoreError>> {
        let (done, receiver) = oneshot::channel();
        let result = self.open().and_then(|mut state| state.append(batch));
        // The receiver is in this function.
        let _ = done.send(result);
        receiver
    }

    async fn recover(&self) -> Result<Recovery, StoreError> {
        Ok(self.open()?.recover())
    }

    async fn journal(
        &self,
        run: RunId,
        after_sequence: u64,
        limit: usize,
    ) -> Result<Option<Vec<SequencedRecord>>, StoreError> {
        let state = self.open()?;
        let skip = usize::try_from(after_sequence).unwrap_or(usize::MAX);
        Ok(state.run(run).map(|run| {
            (1..)
                .zip(&run.records)
                .skip(skip)
                .take(limit)
                .map(|(sequence, record)| SequencedRecord {
                    sequence,
                    record: record.clone(),
                })
                .collect()
        }))
    }

    async fn summary(&self, run: RunId) -> Result<Option<RunSummary>, StoreError> {
        Ok(self.open()?.run(run).map(|run| run.summary.clone()))
    }

    async fn list(
        &self,
        filter: RunFilter,
        cursor: Option<RunNumber>,
        limit: usize,
    ) -> Result<RunPage, StoreError> {
        let state = self.open()?;
        let upper = cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let mut matching = state
            .runs
            .range((Bound::Unbounded, upper))
            .rev()
            .filter(|(_, run)| filter.matches(&run.summary));
        let page: Vec<_> = matching.by_ref().take(limit).collect();
        let next = page.last().map(|(number, _)| **number);
        Ok(RunPage {
            runs: page.iter().map(|(_, run)| run.summary.clone()).collect(),
            next: next.filter(|_| matching.next().is_some()),
        })
    }

    async fn find_key(
        &self,
        tenant: &str,
        key: &str,
        now: Timestamp,
    ) -> Result<Option<KnownKey>, StoreError> {
        let state = self.open()?;
        let Some(runs) = state.keys.get(&(tenant.to_owned(), key.to_owned())) else {
            return Ok(None);
        };
        Ok(runs.iter().rev().find_map(|number| {
            let run = state.runs.get(number)?;
            let key = run.key.as_ref()?;
            key.expires_at
                .is_none_or(|expiry| expiry > now)
                .then_some(KnownKey {
                    run_id: run.summary.run_id,
                    content: key.content,
                })
        }))
    }

    async fn definition(&self, digest: WorkflowDigest) -> Result<Option<Bytes>, StoreError> {
        Ok(self.open()?.definitions.get(&digest).cloned())
    }

    async fn prune(&self, ended_before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        Ok(self.open()?.prune(ended_before, limit))
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.state().closed = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{conformance, sample};

    conformance!((Memory::default(), ()));

    #[tokio::test]
    async fn the_oldest_ended_runs_are_forgotten() {
        let store = Memory::keeping(2);
        for number in 1..=4 {
            let batch = sample::batch(vec![sample::submit(number), sample::finish(number, 2)]);
            store.append(batch).await.unwrap().unwrap();
        }
        let page = store.list(RunFilter::default(), None, 10).await.unwrap();
        let ids: Vec<_> = page.runs.iter().map(|run| run.run_id).collect();
        assert_eq!(ids, [sample::run_id(4), sample::run_id(3)]);
        assert_eq!(store.summary(sample::run_id(1)).await.unwrap(), None);
        assert_eq!(store.recover().await.unwrap().next_run, RunNumber(5));
    }
}
