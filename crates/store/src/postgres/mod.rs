//! The store in PostgreSQL, which the coordinators of a cluster share.
//!
//! Runs and their journals are in tables that are cut into partitions by run number (`partition.rs`). Each
//! coordinator commits for the shards that it has claimed (`shards.rs`); a group of batches is one
//! transaction and one round trip, in which the epochs of its shards are checked (`commit.rs`). Nothing is
//! kept in a session, so that a pooler in transaction mode may stand between (`database.rs`).

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use levelflow_common::view::RunSummary;
use levelflow_common::{RunId, Timestamp, WorkflowDigest};
use levelflow_engine::RunNumber;
use levelflow_runtime::task;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use self::database::Database;
use self::membership::Membership;
use self::writer::{Append, Request, Writer};
use crate::error::StoreError;
use crate::group::MAX_WAITING;
use crate::port::{Batch, KnownKey, Recovery, RunFilter, RunPage, SequencedRecord, Store};
use crate::shards::Shards;

mod columns;
mod commit;
mod config;
mod database;
mod membership;
mod partition;
mod prune;
mod query;
mod recovery;
mod schema;
mod shards;
mod text;
mod writer;

pub use config::Config;

const WRITER_LOST: StoreError = StoreError::ThreadLost { thread: "writer" };

/// A store in a PostgreSQL database, as one coordinator has it.
pub struct Postgres {
    database: Arc<Database>,
    membership: Arc<Membership>,
    /// Held while the coordinator tells the database what it owns, so that one change is seen by the next.
    changing: tokio::sync::Mutex<()>,
    // Never held across an await.
    state: Mutex<State>,
    waiting: Arc<AtomicUsize>,
}

struct State {
    /// None once the store is closed.
    writer: Option<mpsc::UnboundedSender<Request>>,
    task: Option<JoinHandle<()>>,
    /// A batch was turned away; those after it must be, too, until the next recovery.
    overloaded: Option<Arc<StoreError>>,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("schema", &self.database.schema)
            .field("membership", &self.membership)
            .finish_non_exhaustive()
    }
}

impl Postgres {
    /// Opens the store, and makes or migrates its tables. It owns no shard yet, and takes no batches.
    ///
    /// # Errors
    /// When a setting is wrong, when the server cannot be reached, is too old or may lose what it confirms,
    /// or when the tables are of a newer version or of another number of shards.
    pub async fn open(config: &Config) -> Result<Self, StoreError> {
        let database = Arc::new(schema::open(config).await?);
        let membership = Arc::new(Membership::default());
        let waiting = Arc::new(AtomicUsize::new(0));
        let (sender, requests) = mpsc::unbounded_channel();
        let writer = Writer::new(
            database.clone(),
            membership.clone(),
            requests,
            waiting.clone(),
            config.commit_within.0,
        );
        Ok(Self {
            database,
            membership,
            changing: tokio::sync::Mutex::default(),
            state: Mutex::new(State {
                writer: Some(sender),
                task: Some(task::spawn("store-writer", writer.run())),
                overloaded: None,
            }),
            waiting,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The database, unless the store is closed.
    fn open_database(&self) -> Result<&Database, StoreError> {
        match self.state().writer {
            Some(_) => Ok(&self.database),
            None => Err(StoreError::Closed),
        }
    }

    /// Asks the writer, and waits until what came before is done.
    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, StoreError> {
        let (done, answer) = oneshot::channel();
        {
            let state = self.state();
            let writer = state.writer.as_ref().ok_or(StoreError::Closed)?;
            writer.send(request(done)).map_err(|_| WRITER_LOST)?;
        }
        answer.await.map_err(|_| WRITER_LOST)
    }

    fn send(&self, append: Append) {
        let mut state = self.state();
        let refused = match (&state.writer, &state.overloaded) {
            (None, _) => StoreError::Closed,
            (Some(_), Some(source)) => StoreError::Suspended {
                source: source.clone(),
            },
            (Some(writer), None) => {
                let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
                if waiting < MAX_WAITING {
                    // Fails only when the writer panicked: then the way back is dropped, which tells.
                    let _ = writer.send(Request::Append(append));
                    return;
                }
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                let overloaded = StoreError::Overloaded { waiting };
                state.overloaded = Some(Arc::new(overloaded.clone()));
                overloaded
            }
        };
        // Who appended may have gone.
        let _ = append.done.send(Err(refused));
    }
}

#[async_trait]
impl Store for Postgres {
    fn append(&self, batch: Batch) -> oneshot::Receiver<Result<(), StoreError>> {
        let (done, receiver) = oneshot::channel();
        self.send(Append { batch, done });
        receiver
    }

    async fn recover(&self) -> Result<Recovery, StoreError> {
        let (done, answer) = oneshot::channel();
        {
            let mut state = self.state();
            let writer = state.writer.as_ref().ok_or(StoreError::Closed)?;
            writer
                .send(Request::Recover(done))
                .map_err(|_| WRITER_LOST)?;
            state.overloaded = None;
        }
        answer.await.map_err(|_| WRITER_LOST)?
    }

    async fn journal(
        &self,
        run: RunId,
        after_sequence: u64,
        limit: usize,
    ) -> Result<Option<Vec<SequencedRecord>>, StoreError> {
        let database = self.open_database()?;
        database.journal(run, after_sequence, limit).await
    }

    async fn summary(&self, run: RunId) -> Result<Option<RunSummary>, StoreError> {
        self.open_database()?.summary(run).await
    }

    async fn list(
        &self,
        filter: RunFilter,
        cursor: Option<RunNumber>,
        limit: usize,
    ) -> Result<RunPage, StoreError> {
        self.open_database()?.list(&filter, cursor, limit).await
    }

    async fn find_key(
        &self,
        tenant: &str,
        key: &str,
        now: Timestamp,
    ) -> Result<Option<KnownKey>, StoreError> {
        self.open_database()?.find_key(tenant, key, now).await
    }

    async fn definition(&self, digest: WorkflowDigest) -> Result<Option<Bytes>, StoreError> {
        self.open_database()?.definition(digest).await
    }

    async fn prune(&self, ended_before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.open_database()?.prune(ended_before, limit).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        if self.membership.id().is_ok()
            && let Err(error) = self.leave().await
        {
            tracing::warn!(error = %error, "shards were not given away, and run out");
        }
        let task = {
            let mut state = self.state();
            state.writer = None;
            state.task.take()
        };
        if let Some(task) = task {
            task.await.map_err(|_| WRITER_LOST)?;
            self.database.pool.close();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
