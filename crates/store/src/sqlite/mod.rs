//! The store in one SQLite file of a data directory.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use async_trait::async_trait;
use bytes::Bytes;
use levelflow_common::view::RunSummary;
use levelflow_common::{RunId, Timestamp, WorkflowDigest};
use levelflow_engine::RunNumber;
use tokio::sync::{mpsc as channel, oneshot};

use self::filer::Filer;
use self::query::Database;
use self::writer::{Append, Place, Request, Writer};
use crate::error::StoreError;
use crate::group::MAX_WAITING;
use crate::lock::DirLock;
use crate::log::sync_directory;
use crate::port::{Batch, KnownKey, Recovery, RunFilter, RunPage, SequencedRecord, Store};

mod connection;
mod filer;
mod filing_queue;
mod prune;
mod query;
mod reader;
mod write;
mod writer;

/// The name of the database in its data directory.
pub const FILE_NAME: &str = "levelflow.db";
/// The name of the directory of the log beside it. It is there while the store is open, and after a
/// crash.
pub const LOG_NAME: &str = "journal";

/// How the store uses its machine.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads that read; at least one.
    pub readers: usize,
    /// How long the write-ahead log of the database may get, in bytes, before it is copied into it.
    pub max_wal_bytes: u64,
    /// How many bytes of commits may be in the log and not durable in the database before they are made
    /// so; about as large the log gets.
    pub max_log_bytes: u64,
    /// How long one file of the log is.
    pub segment_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            readers: 2,
            max_wal_bytes: 64 * 1024 * 1024,
            max_log_bytes: 32 * 1024 * 1024,
            segment_bytes: 2 * 1024 * 1024,
        }
    }
}

/// A store in a data directory that this process has for itself.
#[derive(Debug)]
pub struct Sqlite {
    lock: Arc<DirLock>,
    // Never held across an await.
    threads: Mutex<Threads>,
    waiting: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Threads {
    /// None once the store is closed.
    senders: Option<Senders>,
    writer: Option<JoinHandle<()>>,
    readers: Vec<JoinHandle<()>>,
    /// A batch was turned away; those after it must be, too, until the next recovery.
    overloaded: Option<Arc<StoreError>>,
}

#[derive(Debug)]
struct Senders {
    writer: Sender<Request>,
    filer: filer::Sender,
    reader: channel::Sender<reader::Job>,
}

impl Sqlite {
    /// Opens the store of a data directory, which is made if it is missing. Blocks for a moment.
    ///
    /// # Errors
    /// When another process uses the directory, when the database is damaged or of a newer version,
    /// or when the system refuses.
    pub fn open(data_dir: &Path, options: &Options) -> Result<Self, StoreError> {
        fs::create_dir_all(data_dir)
            .map_err(|error| StoreError::io("create the directory", data_dir, error))?;
        let lock = Arc::new(DirLock::acquire(data_dir)?);
        let path: Arc<Path> = data_dir.join(FILE_NAME).into();
        let (sender, requests) = mpsc::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let max_wal_pages = options.max_wal_bytes / u64::from(connection::PAGE_BYTES);
        let mut filer = Filer::open(&path, max_wal_pages, options.max_log_bytes)?;
        let (to_filer, filer_queue) = filer::queue();
        let place = Place {
            directory: data_dir.join(LOG_NAME),
            segment_bytes: options.segment_bytes,
        };
        let writer = Writer::open(
            place,
            requests,
            waiting.clone(),
            &mut filer,
            to_filer.clone(),
        )?;
        sync_directory(data_dir)?;
        let readers = options.readers.max(1);
        let (reader, readers) = reader::start(&path, readers, &to_filer, &filer.filed())?;
        let start = |name: &str| thread::Builder::new().name(name.to_owned());
        let failed = |error| StoreError::io("start a thread to write", &path, error);
        let files = start("store-filer")
            .spawn(move || filer.run(&filer_queue))
            .map_err(failed)?;
        let held = lock.clone();
        let handle = start("store-writer")
            .spawn(move || {
                writer.run(files);
                // The directory stays locked until the last commit is done.
                drop(held);
            })
            .map_err(failed)?;
        Ok(Self {
            lock,
            threads: Mutex::new(Threads {
                senders: Some(Senders {
                    writer: sender,
                    filer: to_filer,
                    reader,
                }),
                writer: Some(handle),
                readers,
                overloaded: None,
            }),
            waiting,
        })
    }

    /// Tells others who find the data directory locked where this process serves.
    ///
    /// # Errors
    /// When the lock file cannot be written.
    pub fn publish_address(&self, address: &str) -> Result<(), StoreError> {
        self.lock.write(Some(address))
    }

    fn threads(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reader(&self) -> Result<channel::Sender<reader::Job>, StoreError> {
        let threads = self.threads();
        let senders = threads.senders.as_ref().ok_or(StoreError::Closed)?;
        Ok(senders.reader.clone())
    }

    fn send(&self, append: Append) {
        let mut threads = self.threads();
        let refused = match (&threads.senders, &threads.overloaded) {
            (None, _) => StoreError::Closed,
            (Some(_), Some(source)) => StoreError::Suspended {
                source: source.clone(),
            },
            (Some(senders), None) => {
                let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
                if waiting < MAX_WAITING {
                    // Fails only when the writer panicked: then the way back is dropped, which tells.
                    let _ = senders.writer.send(Request::Append(append));
                    return;
                }
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                let overloaded = StoreError::Overloaded { waiting };
                threads.overloaded = Some(Arc::new(overloaded.clone()));
                overloaded
            }
        };
        // Who appended may have gone.
        let _ = append.done.send(Err(refused));
    }

    async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Database<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (done, answer) = oneshot::channel();
        let job: reader::Job = Box::new(move |database| {
            if !done.is_closed() {
                // Who asked may have gone meanwhile.
                let _ = done.send(database.and_then(question));
            }
        });
        let lost = StoreError::ThreadLost { thread: "reader" };
        let reader = self.reader()?;
        reader.send(job).await.map_err(|_| lost.clone())?;
        // Whoever waits for an answer does not keep the readers alive: that they end answers it.
        drop(reader);
        answer.await.map_err(|_| lost)?
    }
}

#[async_trait]
impl Store for Sqlite {
    fn append(&self, batch: Batch) -> oneshot::Receiver<Result<(), StoreError>> {
        let (done, receiver) = oneshot::channel();
        self.send(Append { batch, done });
        receiver
    }

    async fn recover(&self) -> Result<Recovery, StoreError> {
        let (done, answer) = oneshot::channel();
        let lost = StoreError::ThreadLost { thread: "writer" };
        {
            let mut threads = self.threads();
            let senders = threads.senders.as_ref().ok_or(StoreError::Closed)?;
            senders
                .writer
                .send(Request::Recover(done))
                .map_err(|_| lost.clone())?;
            threads.overloaded = None;
        }
        answer.await.map_err(|_| lost)?
    }

    async fn journal(
        &self,
        run: RunId,
        after_sequence: u64,
        limit: usize,
    ) -> Result<Option<Vec<SequencedRecord>>, StoreError> {
        self.read(move |database| database.journal(run, after_sequence, limit))
            .await
    }

    async fn summary(&self, run: RunId) -> Result<Option<RunSummary>, StoreError> {
        self.read(move |database| database.summary(run)).await
    }

    async fn list(
        &self,
        filter: RunFilter,
        cursor: Option<RunNumber>,
        limit: usize,
    ) -> Result<RunPage, StoreError> {
        self.read(move |database| database.list(&filter, cursor, limit))
            .await
    }

    async fn find_key(
        &self,
        tenant: &str,
        key: &str,
        now: Timestamp,
    ) -> Result<Option<KnownKey>, StoreError> {
        let (tenant, key) = (tenant.to_owned(), key.to_owned());
        self.read(move |database| database.find_key(&tenant, &key, now))
            .await
    }

    async fn definition(&self, digest: WorkflowDigest) -> Result<Option<Bytes>, StoreError> {
        self.read(move |database| database.definition(digest)).await
    }

    async fn prune(&self, ended_before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let (done, answer) = oneshot::channel();
        {
            let threads = self.threads();
            let senders = threads.senders.as_ref().ok_or(StoreError::Closed)?;
            let request = filer::Request::Prune {
                ended_before,
                limit,
                done,
            };
            senders.filer.request(request)?;
        }
        answer
            .await
            .map_err(|_| StoreError::ThreadLost { thread: "filer" })?
    }

    async fn close(&self) -> Result<(), StoreError> {
        let mut threads = std::mem::take(&mut *self.threads());
        let Some(senders) = threads.senders.take() else {
            return Ok(());
        };
        let lock = self.lock.clone();
        // Dropping a sender lets its threads end after what they were sent. The filer is the last to
        // close its connection, because only it can leave one whole file behind; the writer waits for it.
        tokio::task::spawn_blocking(move || {
            drop(senders.reader);
            let mut result = Ok(());
            for reader in threads.readers {
                if reader.join().is_err() {
                    result = Err(StoreError::ThreadLost { thread: "reader" });
                }
            }
            drop((senders.filer, senders.writer));
            if threads.writer.is_some_and(|writer| writer.join().is_err()) {
                result = Err(StoreError::ThreadLost { thread: "writer" });
            }
            lock.release()?;
            result
        })
        .await
        .unwrap_or(Err(StoreError::ThreadLost { thread: "closing" }))
    }
}

#[cfg(test)]
mod tests;
