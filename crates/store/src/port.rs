//! The port: what a coordinator asks of any store.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use levelflow_common::view::RunSummary;
use levelflow_common::{RunId, RunStatus, ShardId, Timestamp, WorkflowDigest};
use levelflow_engine::{Entry, Record, RunNumber};
use tokio::sync::oneshot;

use crate::error::StoreError;

/// A durable journal of runs, with a listing of them.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Makes a batch durable: all of it or nothing. Batches become durable in the order of the calls.
    /// Returns at once; the receiver is told when the batch is durable, or why its outcome is unknown.
    /// After one failed, all later ones are refused until [`Store::recover`].
    fn append(&self, batch: Batch) -> oneshot::Receiver<Result<(), StoreError>>;

    /// Opens the store for one coordinator: raises the epoch, and gives what is needed to go on. What
    /// was appended before is either in the recovery or was not made durable and never will be. Of a
    /// store that coordinators share, it gives what is open in the shards that this one owns.
    async fn recover(&self) -> Result<Recovery, StoreError>;

    /// Durable records of a run after `after_sequence`, at most `limit`; none if the run is unknown.
    async fn journal(
        &self,
        run: RunId,
        after_sequence: u64,
        limit: usize,
    ) -> Result<Option<Vec<SequencedRecord>>, StoreError>;

    /// The row of a run.
    async fn summary(&self, run: RunId) -> Result<Option<RunSummary>, StoreError>;

    /// Runs that pass the filter, the newest first, after `cursor`, at most `limit`.
    async fn list(
        &self,
        filter: RunFilter,
        cursor: Option<RunNumber>,
        limit: usize,
    ) -> Result<RunPage, StoreError>;

    /// The newest run of that submit key that has not expired at `now`.
    async fn find_key(
        &self,
        tenant: &str,
        key: &str,
        now: Timestamp,
    ) -> Result<Option<KnownKey>, StoreError>;

    /// The canonical form of a workflow.
    async fn definition(&self, digest: WorkflowDigest) -> Result<Option<Bytes>, StoreError>;

    /// Deletes runs that ended before a time, the oldest first, and says how many: at most `limit`, except
    /// that a store which keeps them in partitions deletes the last of those whole. Runs that were
    /// submitted before it and have not ended stay.
    async fn prune(&self, ended_before: Timestamp, limit: usize) -> Result<usize, StoreError>;

    /// Waits for what was appended, gives away what it owns, and closes.
    async fn close(&self) -> Result<(), StoreError>;
}

/// What one commit makes durable.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Canonical forms of workflows that entries of this batch are the first to use. Known ones may
    /// come again.
    pub definitions: Vec<(WorkflowDigest, Bytes)>,
    /// Records, in the order in which they happened. A run's first entry begins with
    /// [`levelflow_engine::Fact::Submitted`], from which its row is made.
    pub entries: Vec<Entry>,
}

/// What a coordinator starts from.
#[derive(Debug, Default)]
pub struct Recovery {
    /// Higher than at every open before, and than that of every other coordinator so far.
    pub epoch: u64,
    /// The shards that this is about: all that the coordinator owns, or those that it just took.
    pub shards: Vec<ShardId>,
    /// A number above those of all runs that are known in these shards.
    pub next_run: RunNumber,
    /// The canonical forms of the workflows of open runs.
    pub definitions: Vec<(WorkflowDigest, Bytes)>,
    /// The journals of the runs that have not ended, by number.
    pub open: Vec<(RunNumber, Vec<Record>)>,
}

/// A record with its place in the journal of its run.
#[derive(Clone, Debug, PartialEq)]
pub struct SequencedRecord {
    /// From 1, without a gap.
    pub sequence: u64,
    /// The record.
    pub record: Record,
}

/// Which runs to list; all conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunFilter {
    /// One of these; any if empty.
    pub statuses: Vec<RunStatus>,
    /// The name of the workflow.
    pub workflow: Option<String>,
    /// The tenant.
    pub tenant: Option<String>,
    /// Labels that the run has.
    pub labels: BTreeMap<String, String>,
    /// Submitted at or after.
    pub submitted_after: Option<Timestamp>,
    /// Submitted before.
    pub submitted_before: Option<Timestamp>,
}

impl RunFilter {
    /// Whether a run passes.
    pub fn matches(&self, run: &RunSummary) -> bool {
        (self.statuses.is_empty() || self.statuses.contains(&run.status))
            && self
                .workflow
                .as_deref()
                .is_none_or(|workflow| workflow == &*run.workflow)
            && self
                .tenant
                .as_deref()
                .is_none_or(|tenant| tenant == &*run.tenant)
            && self
                .labels
                .iter()
                .all(|(name, value)| run.labels.get(name) == Some(value))
            && self
                .submitted_after
                .is_none_or(|bound| run.submitted_at >= bound)
            && self
                .submitted_before
                .is_none_or(|bound| run.submitted_at < bound)
    }
}

/// A page of a list of runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunPage {
    /// The runs.
    pub runs: Vec<RunSummary>,
    /// Where the next page goes on; none on the last.
    pub next: Option<RunNumber>,
}

/// The run that a submit key stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownKey {
    /// The run.
    pub run_id: RunId,
    /// The digest of what was submitted under the key.
    pub content: [u8; 32],
}
