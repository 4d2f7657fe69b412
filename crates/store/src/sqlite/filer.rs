//! The thread that files commits: it moves what the log made durable into the database.
//!
//! It lets commits gather for a moment, because most runs then begin and end in one transaction, and
//! take two rows. Its transactions are not synced: until a checkpoint has made them durable, the log
//! keeps what is in them.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use levelflow_common::Timestamp;
use rusqlite::Connection;
use rusqlite::hooks::Wal;
use tokio::sync::oneshot;

use super::filing_queue::{self, Limits, Next};
use super::query::Database;
use super::{connection, prune, write};
use crate::commit::Commit;
use crate::error::StoreError;
use crate::port::Recovery;

/// How long commits gather, unless somebody waits for them.
const GATHER: Limits = Limits {
    time: Duration::from_millis(100),
    entries: 8_000,
    bytes: 8 * 1024 * 1024,
};

/// How long nothing must happen before a checkpoint is made.
const IDLE: Duration = Duration::from_millis(300);
/// Less in the write-ahead log is not worth a checkpoint, in pages: 1 MiB.
const IDLE_CHECKPOINT_PAGES: u64 = 64;

/// What the filer is asked beside filing commits.
#[derive(Debug)]
pub(super) enum Request {
    /// Tells when the commits before it are filed.
    Flush(mpsc::Sender<Result<(), StoreError>>),
    /// Opens the database again after a failure, and tells the last commit that is in it.
    Reopen(mpsc::Sender<Result<u64, StoreError>>),
    /// Tells what is in the database; raises the epoch, durably, if that is asked.
    Recover {
        raise_epoch: bool,
        done: mpsc::Sender<Result<Recovery, StoreError>>,
    },
    Prune {
        ended_before: Timestamp,
        limit: usize,
        done: oneshot::Sender<Result<usize, StoreError>>,
    },
}

pub(super) type Sender = filing_queue::Sender<Request>;
pub(super) type Receiver = filing_queue::Receiver<Request>;

/// The way to a filer.
pub(super) fn queue() -> (Sender, Receiver) {
    filing_queue::queue(GATHER)
}

/// How far the filer is, for other threads.
#[derive(Debug, Default)]
pub(super) struct Filed {
    /// The last commit that was handed to the filer.
    handed: AtomicU64,
    /// The last commit that readers of the database see.
    visible: AtomicU64,
    /// The last commit that is durable in the database.
    durable: AtomicU64,
    failure: Mutex<Option<StoreError>>,
}

impl Filed {
    /// Says that a commit is in the queue of the filer.
    pub(super) fn hand_over(&self, commit: u64) {
        self.handed.store(commit, Ordering::Release);
    }

    /// Whether readers see everything that was handed over.
    pub(super) fn is_complete(&self) -> bool {
        self.visible.load(Ordering::Acquire) >= self.handed.load(Ordering::Acquire)
    }

    pub(super) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Why nothing is filed any more, until a recovery.
    pub(super) fn failure(&self) -> Option<StoreError> {
        self.lock_failure().clone()
    }

    fn set_failure(&self, failure: Option<StoreError>) {
        *self.lock_failure() = failure;
    }

    fn lock_failure(&self) -> MutexGuard<'_, Option<StoreError>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Filer {
    path: Arc<Path>,
    connection: Connection,
    filed: Arc<Filed>,
    /// Pages in the write-ahead log after the last transaction.
    wal_pages: Arc<AtomicU64>,
    max_wal_pages: u64,
    /// Bytes of commits that are not durable in the database.
    undurable_bytes: u64,
    max_log_bytes: u64,
}

impl Filer {
    /// Opens the database, whose file is made if it is missing.
    pub(super) fn open(
        path: &Arc<Path>,
        max_wal_pages: u64,
        max_log_bytes: u64,
    ) -> Result<Self, StoreError> {
        let wal_pages = Arc::new(AtomicU64::new(0));
        let filer = Self {
            connection: open(path, &wal_pages)?,
            path: path.clone(),
            filed: Arc::default(),
            wal_pages,
            max_wal_pages,
            undurable_bytes: 0,
            max_log_bytes,
        };
        filer.filed.visible.store(filer.last()?, Ordering::Release);
        Ok(filer)
    }

    pub(super) fn filed(&self) -> Arc<Filed> {
        self.filed.clone()
    }

    /// The last commit that is in the database.
    pub(super) fn last(&self) -> Result<u64, StoreError> {
        self.database().filed()
    }

    fn database(&self) -> Database<'_> {
        Database {
            connection: &self.connection,
            path: &self.path,
        }
    }

    /// Serves until every sender is gone; tells whether everything is in the database and durable.
    pub(super) fn run(mut self, queue: &Receiver) -> bool {
        loop {
            let has_work = self.wal_pages.load(Ordering::Relaxed) >= IDLE_CHECKPOINT_PAGES;
            match queue.next(has_work.then_some(IDLE)) {
                Next::Commits(commits) => self.file(&commits),
                Next::Request(request) => self.serve(request),
                Next::Idle => self.checkpoint(),
                Next::Closed => break,
            }
        }
        self.checkpoint();
        self.filed.failure().is_none()
            && self.filed.durable() >= self.filed.visible.load(Ordering::Acquire)
    }

    fn serve(&mut self, request: Request) {
        // Who asked may have gone meanwhile: answers that nobody takes are dropped.
        match request {
            Request::Flush(done) => drop(done.send(self.filed.failure().map_or(Ok(()), Err))),
            Request::Reopen(done) => drop(done.send(self.reopen())),
            Request::Recover { raise_epoch, done } => drop(done.send(self.recover(raise_epoch))),
            Request::Prune {
                ended_before,
                limit,
                done,
            } => {
                let pruned = prune::prune(&mut self.connection, ended_before, limit)
                    .map_err(|error| StoreError::database("write", &self.path, error));
                let _ = done.send(pruned);
                self.bound_logs();
            }
        }
    }

    /// Files commits. After a failure it does nothing until the database is opened again: the log
    /// still has them.
    pub(super) fn file(&mut self, commits: &[Commit]) {
        let Some(last) = commits.last().map(|commit| commit.number) else {
            return;
        };
        if self.filed.failure().is_some() {
            return;
        }
        match write::file(&mut self.connection, &self.path, commits) {
            Ok(()) => {
                let bytes: usize = commits.iter().map(|commit| commit.bytes).sum();
                self.undurable_bytes += bytes as u64;
                self.filed.visible.store(last, Ordering::Release);
                self.bound_logs();
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(tracing::field::display);
                tracing::error!(%error, cause, "could not file commits; the store is suspended");
                self.filed.set_failure(Some(error));
            }
        }
    }

    fn reopen(&mut self) -> Result<u64, StoreError> {
        // A connection whose transaction failed may be in any state.
        self.connection = open(&self.path, &self.wal_pages)?;
        let last = self.last()?;
        self.filed.visible.store(last, Ordering::Release);
        self.filed.set_failure(None);
        Ok(last)
    }

    fn recover(&mut self, raise_epoch: bool) -> Result<Recovery, StoreError> {
        if let Some(failure) = self.filed.failure() {
            return Err(failure);
        }
        if raise_epoch {
            // Tokens of this epoch may be given out as soon as this returns.
            connection::synced(&self.connection, |connection| {
                connection.execute("UPDATE meta SET value = value + 1 WHERE name = 'epoch'", [])
            })
            .map_err(|error| StoreError::database("write", &self.path, error))?;
        }
        self.database().recovery()
    }

    /// Keeps the write-ahead log and the log of commits short under load that leaves no idle time.
    fn bound_logs(&mut self) {
        if self.wal_pages.load(Ordering::Relaxed) >= self.max_wal_pages
            || self.undurable_bytes >= self.max_log_bytes
        {
            self.checkpoint();
        }
    }

    /// Copies the write-ahead log into the database, durably; the next transaction then begins it anew.
    /// A failure costs only space: the logs are kept, and the next checkpoint tries again.
    fn checkpoint(&mut self) {
        self.wal_pages.store(0, Ordering::Relaxed);
        let done = self
            .connection
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
                let (pages, copied): (i64, i64) = (row.get(1)?, row.get(2)?);
                Ok(pages == copied)
            });
        match done {
            Ok(true) => {
                self.undurable_bytes = 0;
                let visible = self.filed.visible.load(Ordering::Acquire);
                self.filed.durable.store(visible, Ordering::Release);
            }
            Ok(false) => tracing::debug!("a reader keeps the store from a whole checkpoint"),
            Err(error) => tracing::warn!(%error, "could not checkpoint the store"),
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
