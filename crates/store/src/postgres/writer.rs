//! The task that commits, one group of batches after the other.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use levelflow_common::ShardId;
use levelflow_runtime::postgres::Connection;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::columns::Columns;
use super::commit::{self, Setback, Settled};
use super::database::Database;
use super::membership::{Held, Membership};
use super::partition::Partition;
use super::recovery;
use crate::codec::Encoder;
use crate::error::StoreError;
use crate::group::GroupSize;
use crate::port::{Batch, Recovery};
use crate::sequences::Sequences;

/// How long is waited before a connection is tried again, at first and at most.
const SHORTEST_WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A batch with the way back to who appended it.
pub(super) struct Append {
    pub(super) batch: Batch,
    pub(super) done: oneshot::Sender<Result<(), StoreError>>,
}

/// What the writer is asked to do, in order.
pub(super) enum Request {
    Append(Append),
    Recover(oneshot::Sender<Result<Recovery, StoreError>>),
    /// To go on from what a claim found.
    TakeUp {
        recovery: Recovery,
        done: oneshot::Sender<Recovery>,
    },
    /// To say when all that came before is done.
    Flush(oneshot::Sender<()>),
}

pub(super) struct Writer {
    database: Arc<Database>,
    membership: Arc<Membership>,
    requests: mpsc::UnboundedReceiver<Request>,
    /// How many batches wait for their commit.
    waiting: Arc<AtomicUsize>,
    /// How long it is tried to get a commit done.
    commit_within: Duration,
    encoder: Encoder,
    sequences: Sequences,
    /// Partitions that were made or seen.
    partitions: BTreeSet<Partition>,
    /// None until the first commit, and after one whose outcome was unknown.
    connection: Option<Connection>,
    /// Why the store takes no batches until it is recovered.
    suspended: Option<Arc<StoreError>>,
}

impl Writer {
    pub(super) fn new(
        database: Arc<Database>,
        membership: Arc<Membership>,
        requests: mpsc::UnboundedReceiver<Request>,
        waiting: Arc<AtomicUsize>,
        commit_within: Duration,
    ) -> Self {
        Self {
            sequences: Sequences::new(database.shards),
            database,
            membership,
            requests,
            waiting,
            commit_within,
            encoder: Encoder::default(),
            partitions: BTreeSet::new(),
            connection: None,
            suspended: None,
        }
    }

    /// Serves until every sender is gone and what they sent is done.
    pub(super) async fn run(mut self) {
        let mut group = Vec::new();
        let mut next = None;
        loop {
            let request = match next.take() {
                Some(request) => request,
                None => match self.requests.recv().await {
                    Some(request) => request,
                    None => break,
                },
            };
            // Who asked may have gone; what was asked for is done all the same.
            match request {
                Request::Append(append) => {
                    next = self.gather(append, &mut group);
                    self.commit(&mut group).await;
                }
                Request::Recover(done) => {
                    let _ = done.send(self.recover().await);
                }
                Request::TakeUp { recovery, done } => {
                    self.sequences.take_up(&recovery);
                    let _ = done.send(recovery);
                }
                Request::Flush(done) => {
                    let _ = done.send(());
                }
            }
        }
        if let Some(connection) = self.connection {
            connection.give_back();
        }
    }

    /// Takes the batches that wait already, up to a bound; gives back the request that ended it.
    fn gather(&mut self, first: Append, group: &mut Vec<Append>) -> Option<Request> {
        let mut size = GroupSize::default();
        let mut append = first;
        loop {
            size.add(&append.batch);
            group.push(append);
            if size.is_full() {
                return None;
            }
            match self.requests.try_recv() {
                Ok(Request::Append(next)) => append = next,
                Ok(other) => return Some(other),
                Err(_) => return None,
            }
        }
    }

    async fn commit(&mut self, group: &mut Vec<Append>) {
        let result = match &self.suspended {
            Some(source) => Err(StoreError::Suspended {
                source: source.clone(),
            }),
            None => {
                let written = self.write(group).await;
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

    async fn write(&mut self, group: &mut [Append]) -> Result<(), StoreError> {
        let count = self.database.shards;
        let mut shards: BTreeSet<ShardId> = BTreeSet::new();
        for entry in group.iter().flat_map(|append| &append.batch.entries) {
            shards.insert(count.of_number(entry.run.0));
            self.sequences.follow(entry)?;
        }
        let batches = group
            .iter_mut()
            .map(|append| std::mem::take(&mut append.batch));
        let columns = Columns::new(batches, &mut self.encoder, self.database.partitions);
        if columns.is_empty() {
            return Ok(());
        }
        let mut tries = self.tries();
        let mut setback = match self.attempt(&columns, &shards).await {
            Ok(()) => return Ok(()),
            Err(setback) => setback,
        };
        loop {
            match setback {
                Setback::Refused(error) => return Err(error),
                Setback::PartitionMissing(error) => {
                    self.partitions.clear();
                    tries.pause(error).await?;
                }
                Setback::Unsettled(error) => {
                    // What is under way on the old connection must not be waited for.
                    self.connection = None;
                    tracing::warn!(%error, "the outcome of a commit is unknown");
                    tries.pause(error).await?;
                    match self.settle(&columns, &tries).await {
                        Ok(Settled::Written) => return Ok(()),
                        Ok(Settled::NotWritten) => {}
                        Err(error) => {
                            setback = Setback::Unsettled(error);
                            continue;
                        }
                    }
                }
            }
            setback = match self.attempt(&columns, &shards).await {
                Ok(()) => return Ok(()),
                Err(setback) => setback,
            };
        }
    }

    /// Writes a group, and keeps the connection for the next if that went well.
    async fn attempt(
        &mut self,
        columns: &Columns,
        shards: &BTreeSet<ShardId>,
    ) -> Result<(), Setback> {
        let held: Held = self.membership.hold(shards).map_err(Setback::Refused)?;
        for &partition in &columns.partitions {
            if !self.partitions.contains(&partition) {
                self.database
                    .make_partitions(partition)
                    .await
                    .map_err(Setback::Unsettled)?;
                self.partitions.insert(partition);
            }
        }
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.database.connect().await.map_err(Setback::Unsettled)?,
        };
        let written = commit::write(&self.database, &connection, columns, &held).await;
        if !matches!(written, Err(Setback::Unsettled(_))) {
            self.connection = Some(connection);
        }
        written
    }

    /// Finds out about a commit, as long as there is time for it.
    async fn settle(&mut self, columns: &Columns, tries: &Tries) -> Result<Settled, StoreError> {
        let settle = async {
            let connection = self.database.connect().await?;
            let settled =
                commit::settle(&self.database, &connection, &self.membership, columns).await?;
            Ok((connection, settled))
        };
        let late = |_| {
            Err(StoreError::TimedOut {
                action: "find out about a commit",
                limit: self.commit_within,
            })
        };
        let (connection, settled) = tokio::time::timeout_at(tries.until, settle)
            .await
            .unwrap_or_else(late)?;
        tracing::info!(?settled, "found out about a commit");
        self.connection = Some(connection);
        Ok(settled)
    }

    async fn recover(&mut self) -> Result<Recovery, StoreError> {
        // Commits of the old connection either are done when the epochs are raised, or fail by them.
        self.connection = None;
        let recovery = recovery::recover(&self.database, &self.membership).await?;
        self.sequences = Sequences::new(self.database.shards);
        self.sequences.take_up(&recovery);
        self.suspended = None;
        Ok(recovery)
    }

    fn tries(&self) -> Tries {
        Tries {
            until: Instant::now() + self.commit_within,
            waits: ExponentialBuilder::new()
                .with_min_delay(SHORTEST_WAIT)
                .with_max_delay(LONGEST_WAIT)
                .with_jitter()
                .without_max_times()
                .build(),
        }
    }
}

/// When it is tried again to get a commit done.
struct Tries {
    until: Instant,
    waits: backon::ExponentialBackoff,
}

impl Tries {
    /// Waits for the next time; when there is none, gives the reason back.
    async fn pause(&mut self, reason: StoreError) -> Result<(), StoreError> {
        let wait = self.waits.next().unwrap_or(LONGEST_WAIT);
        if Instant::now() + wait >= self.until {
            return Err(reason);
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }
}
