//! The thread that owns the writing connection.

use std::error::Error as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use bytes::Bytes;
use levelflow_common::Timestamp;
use levelflow_engine::Fact;
use rusqlite::Connection;
use rusqlite::hooks::Wal;
use tokio::sync::oneshot;

use super::query::Database;
use super::{connection, prune, write};
use crate::codec::Encoder;
use crate::error::StoreError;
use crate::port::{Batch, Recovery};

/// A commit takes what waits, up to so many entries ...
const MAX_GROUP_ENTRIES: usize = 1_000;
/// ... and about so many bytes of payload.
const MAX_GROUP_BYTES: usize = 8 * 1024 * 1024;

/// How long nothing must be asked for before the write-ahead log is checkpointed.
const IDLE: Duration = Duration::from_millis(200);
/// A shorter log is not worth a checkpoint, in pages: 4 MiB.
const IDLE_CHECKPOINT_PAGES: u64 = 256;

/// A batch with the way back to who appended it.
pub(super) struct Append {
    pub(super) batch: Batch,
    pub(super) done: oneshot::Sender<Result<(), StoreError>>,
}

/// What the writer is asked to do.
pub(super) enum Request {
    Append(Append),
    Recover(oneshot::Sender<Result<Recovery, StoreError>>),
    Prune {
        ended_before: Timestamp,
        limit: usize,
        done: oneshot::Sender<Result<usize, StoreError>>,
    },
}

pub(super) struct Writer {
    path: Arc<Path>,
    connection: Connection,
    requests: Receiver<Request>,
    /// How many batches wait for their commit.
    waiting: Arc<AtomicUsize>,
    encoder: Encoder,
    /// Why the store takes no batches until it is recovered.
    suspended: Option<Arc<StoreError>>,
    /// Pages in the write-ahead log after the last commit.
    wal_pages: Arc<AtomicU64>,
    max_wal_pages: u64,
}

impl Writer {
    pub(super) fn open(
        path: &Arc<Path>,
        requests: Receiver<Request>,
        waiting: Arc<AtomicUsize>,
        max_wal_pages: u64,
    ) -> Result<Self, StoreError> {
        let wal_pages = Arc::new(AtomicU64::new(0));
        Ok(Self {
            connection: open(path, &wal_pages)?,
            path: path.clone(),
            requests,
            waiting,
            encoder: Encoder::default(),
            suspended: None,
            wal_pages,
            max_wal_pages,
        })
    }

    /// Serves until every sender is gone and what they sent is done.
    pub(super) fn run(mut self) {
        let mut group = Vec::new();
        let mut next = None;
        while let Some(request) = next.take().or_else(|| self.receive()) {
            match request {
                Request::Append(append) => {
                    next = self.gather(append, &mut group);
                    self.commit(&mut group);
                    self.bound_wal();
                }
                Request::Prune {
                    ended_before,
                    limit,
                    done,
                } => {
                    let pruned = prune::prune(&mut self.connection, ended_before, limit)
                        .map_err(|error| StoreError::database("write", &self.path, error));
                    // Who asked may have gone; what was deleted is gone all the same.
                    let _ = done.send(pruned);
                    self.bound_wal();
                }
                Request::Recover(done) => {
                    // Who asked may have gone; the epoch is raised all the same.
                    let _ = done.send(self.recover());
                }
            }
        }
        self.checkpoint();
    }

    /// The next request; uses the time for a checkpoint when none comes.
    fn receive(&mut self) -> Option<Request> {
        loop {
            if self.wal_pages.load(Ordering::Relaxed) < IDLE_CHECKPOINT_PAGES {
                return self.requests.recv().ok();
            }
            match self.requests.recv_timeout(IDLE) {
                Ok(request) => return Some(request),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => self.checkpoint(),
            }
        }
    }

    /// Takes the batches that wait already, up to a bound; gives back the request that ended it.
    fn gather(&mut self, first: Append, group: &mut Vec<Append>) -> Option<Request> {
        let (mut entries, mut bytes) = (0, 0);
        let mut append = first;
        loop {
            entries += append.batch.entries.len();
            bytes += payload_bytes(&append.batch);
            group.push(append);
            if entries >= MAX_GROUP_ENTRIES || bytes >= MAX_GROUP_BYTES {
                return None;
            }
            match self.requests.try_recv() {
                Ok(Request::Append(next)) => append = next,
                Ok(other) => return Some(other),
                Err(_) => return None,
            }
        }
    }

    fn commit(&mut self, group: &mut Vec<Append>) {
        let result = match &self.suspended {
            Some(source) => Err(StoreError::Suspended {
                source: source.clone(),
            }),
            None => {
                let batches = group.iter().map(|append| &append.batch);
                let written =
                    write::commit(&mut self.connection, &self.path, &mut self.encoder, batches);
                if let Err(error) = &written {
                    let cause = error.source().map(tracing::field::display);
                    tracing::error!(%error, cause, "could not commit; the store is suspended");
                    self.suspended = Some(Arc::new(error.clone()));
                }
                written
            }
        };
        self.waiting.fetch_sub(group.len(), Ordering::Relaxed);
        for append in group.drain(..) {
            // Who appended may have gone; the batch is durable all the same.
            let _ = append.done.send(result.clone());
        }
    }

    fn recover(&mut self) -> Result<Recovery, StoreError> {
        if self.suspended.is_some() {
            // A connection whose commit failed may be in any state.
            self.connection = open(&self.path, &self.wal_pages)?;
        }
        self.connection
            .execute("UPDATE meta SET value = value + 1 WHERE name = 'epoch'", [])
            .map_err(|error| StoreError::database("write", &self.path, error))?;
        let recovery = Database {
            connection: &self.connection,
            path: &self.path,
        }
        .recovery()?;
        self.suspended = None;
        Ok(recovery)
    }

    /// Keeps the write-ahead log short under load that leaves no idle time.
    fn bound_wal(&mut self) {
        if self.wal_pages.load(Ordering::Relaxed) >= self.max_wal_pages {
            self.checkpoint();
        }
    }

    /// Copies the write-ahead log into the database; the next commit then begins it anew. A failure
    /// costs only space: the log is kept, and the next checkpoint tries again.
    fn checkpoint(&mut self) {
        self.wal_pages.store(0, Ordering::Relaxed);
        let done = self
            .connection
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        if let Err(error) = done {
            tracing::warn!(%error, "could not checkpoint the store");
        }
    }
}

fn open(path: &Arc<Path>, wal_pages: &Arc<AtomicU64>) -> Result<Connection, StoreError> {
    let mut connection = connection::open_writer(path)?;
    let wal_pages = wal_pages.clone();
    connection
        .wal_hook(Some(move |_: &mut Wal, pages: i32| {
            wal_pages.store(pages.unsigned_abs().into(), Ordering::Relaxed);
            Ok(())
        }))
        .map_err(|error| StoreError::database("open", path, error))?;
    Ok(connection)
}

/// About how much memory a batch takes: the parts of it that may be large.
fn payload_bytes(batch: &Batch) -> usize {
    let definitions = batch
        .definitions
        .iter()
        .map(|(_, canonical)| canonical.len());
    let records = batch.entries.iter().flat_map(|entry| &entry.records);
    let payloads = records.map(|record| match &record.fact {
        Fact::Submitted(submitted) => submitted.inputs.len(),
        Fact::Succeeded { output, .. } => output.len(),
        Fact::Finished { outputs, .. } => outputs.as_ref().map_or(0, Bytes::len),
        _ => 0,
    });
    definitions.chain(payloads).sum()
}
