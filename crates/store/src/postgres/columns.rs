//! What a group of batches writes, as the arrays of which statements make rows.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use levelflow_common::{RunId, RunStatus, WorkflowDigest};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use uuid::Uuid;

use super::database::Parameter;
use super::partition::{Partition, Partitions};
use super::text;
use crate::codec::{self, Encoder};
use crate::column;
use crate::commit::CommittedEntry;
use crate::port::Batch;
use crate::rows::{self, RunChange};

/// The rows of one commit.
#[derive(Debug, Default)]
pub(super) struct Columns {
    pub(super) definitions: Definitions,
    pub(super) journal: Journal,
    pub(super) submits: Submits,
    pub(super) keys: Keys,
    /// Runs that were there before, by partition.
    pub(super) changes: BTreeMap<Partition, Progresses>,
    /// Where the new runs go.
    pub(super) partitions: BTreeSet<Partition>,
}

#[derive(Debug, Default)]
pub(super) struct Definitions {
    digests: Vec<Vec<u8>>,
    canonical: Vec<Blob>,
}

#[derive(Debug, Default)]
pub(super) struct Journal {
    runs: Vec<i64>,
    first_sequences: Vec<i64>,
    records: Vec<Blob>,
}

/// Bytes that are not copied before they are sent.
#[derive(Debug)]
struct Blob(Bytes);

impl ToSql for Blob {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        (&self.0[..]).to_sql(ty, out)
    }

    fn accepts(ty: &Type) -> bool {
        <&[u8] as ToSql>::accepts(ty)
    }

    to_sql_checked!();
}

/// How runs stand.
#[derive(Debug, Default)]
pub(super) struct Progresses {
    numbers: Vec<i64>,
    statuses: Vec<&'static str>,
    finished_at: Vec<Option<i64>>,
    totals: Vec<i64>,
    succeeded: Vec<i64>,
    failed: Vec<i64>,
    skipped: Vec<i64>,
    cancelled: Vec<i64>,
    failures: Vec<Option<Vec<u8>>>,
}

/// New runs, with how they stand.
#[derive(Debug, Default)]
pub(super) struct Submits {
    progress: Progresses,
    run_ids: Vec<Uuid>,
    workflows: Vec<String>,
    digests: Vec<Vec<u8>>,
    tenants: Vec<String>,
    priorities: Vec<&'static str>,
    labels: Vec<String>,
    submitted_at: Vec<i64>,
    resumed_from: Vec<Option<Uuid>>,
}

/// The submit keys of new runs.
#[derive(Debug, Default)]
pub(super) struct Keys {
    runs: Vec<i64>,
    run_ids: Vec<Uuid>,
    tenants: Vec<String>,
    keys: Vec<String>,
    contents: Vec<Vec<u8>>,
    expires_at: Vec<Option<i64>>,
}

impl Columns {
    /// The rows of a group of batches, in their order.
    pub(super) fn new(
        batches: impl Iterator<Item = Batch>,
        encoder: &mut Encoder,
        partitions: Partitions,
    ) -> Self {
        let mut columns = Self::default();
        let mut definitions = BTreeMap::new();
        let mut entries = Vec::new();
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for batch in batches {
            definitions.extend(batch.definitions);
            for entry in batch.entries {
                encoder.encode(&entry.records, &mut bytes);
                ends.push(bytes.len());
                entries.push(entry);
            }
        }
        let mut bytes = Bytes::from(bytes);
        let mut start = 0;
        let committed: Vec<_> = entries
            .into_iter()
            .zip(ends)
            .map(|(entry, end)| {
                let records = bytes.split_to(end - start);
                start = end;
                CommittedEntry::new(entry, records)
            })
            .collect();
        columns.definitions = Definitions::new(definitions);
        let _: Result<(), std::convert::Infallible> =
            rows::by_run(committed.iter().collect(), |of_run| {
                for row in of_run.journal() {
                    columns.journal.runs.push(column::integer(row.run.0));
                    let first = column::integer(row.first_sequence);
                    columns.journal.first_sequences.push(first);
                    columns.journal.records.push(Blob(row.records));
                }
                if let Some(change) = of_run.change() {
                    columns.add_run(&change, partitions.of(change.run));
                }
                Ok(())
            });
        columns
    }

    fn add_run(&mut self, change: &RunChange<'_>, partition: Partition) {
        if change.submitted.is_some() {
            self.partitions.insert(partition);
            self.submits.add(change);
            self.keys.add(change);
        } else {
            self.changes.entry(partition).or_default().add(change);
        }
    }

    /// A row of the journal that is there as it is here if and only if all of this was written. One with other
    /// records is of another coordinator, which has the shard by now.
    pub(super) fn witness(&self) -> Option<(i64, i64, &[u8])> {
        let Journal {
            runs,
            first_sequences,
            records,
        } = &self.journal;
        Some((
            *runs.first()?,
            *first_sequences.first()?,
            &records.first()?.0,
        ))
    }

    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.journal.runs.is_empty() && self.definitions.is_empty()
    }
}

impl Definitions {
    /// In the order of their digests, so that two coordinators that write the same ones do not wait for
    /// each other in a circle.
    fn new(definitions: BTreeMap<WorkflowDigest, Bytes>) -> Self {
        let mut columns = Self::default();
        for (digest, canonical) in definitions {
            columns.digests.push(digest.as_bytes().to_vec());
            columns.canonical.push(Blob(canonical));
        }
        columns
    }

    pub(super) fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    pub(super) fn statement(&self, schema: &str) -> String {
        format!(
            "INSERT INTO {schema}.definitions (digest, canonical) \
             SELECT * FROM unnest($1, $2) ON CONFLICT (digest) DO NOTHING"
        )
    }

    pub(super) fn parameters(&self) -> Vec<Parameter<'_>> {
        vec![
            (&self.digests, Type::BYTEA_ARRAY),
            (&self.canonical, Type::BYTEA_ARRAY),
        ]
    }
}

impl Journal {
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub(super) fn statement(&self, schema: &str) -> String {
        format!(
            "INSERT INTO {schema}.journal (run, first_sequence, records) \
             SELECT * FROM unnest($1, $2, $3)"
        )
    }

    pub(super) fn parameters(&self) -> Vec<Parameter<'_>> {
        vec![
            (&self.runs, Type::INT8_ARRAY),
            (&self.first_sequences, Type::INT8_ARRAY),
            (&self.records, Type::BYTEA_ARRAY),
        ]
    }
}

impl Progresses {
    fn add(&mut self, change: &RunChange<'_>) {
        let progress = change.progress;
        let status = progress.map_or(RunStatus::Running, |progress| progress.status);
        let finished_at = progress.and_then(|progress| progress.finished_at);
        let counts = progress.map(|progress| progress.counts).unwrap_or_default();
        let failure = progress.and_then(|progress| progress.failure.as_ref());
        self.numbers.push(column::integer(change.run.0));
        self.statuses.push(status.as_str());
        self.finished_at.push(finished_at.map(column::micros));
        self.totals.push(counts.total.into());
        self.succeeded.push(counts.succeeded.into());
        self.failed.push(counts.failed.into());
        self.skipped.push(counts.skipped.into());
        self.cancelled.push(counts.cancelled.into());
        self.failures.push(failure.map(codec::encode_failure));
    }

    /// Names the table of the partition: planning for all of them would take longer than the update.
    pub(super) fn statement(&self, table: &str) -> String {
        format!(
            "UPDATE {table} AS runs SET status = given.status, finished_at = given.finished_at, \
             total = given.total, succeeded = given.succeeded, failed = given.failed, \
             skipped = given.skipped, cancelled = given.cancelled, failure = given.failure \
             FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9) AS given (number, status, finished_at, \
             total, succeeded, failed, skipped, cancelled, failure) WHERE runs.number = given.number"
        )
    }

    pub(super) fn parameters(&self) -> Vec<Parameter<'_>> {
        vec![
            (&self.numbers, Type::INT8_ARRAY),
            (&self.statuses, Type::TEXT_ARRAY),
            (&self.finished_at, Type::INT8_ARRAY),
            (&self.totals, Type::INT8_ARRAY),
            (&self.succeeded, Type::INT8_ARRAY),
            (&self.failed, Type::INT8_ARRAY),
            (&self.skipped, Type::INT8_ARRAY),
            (&self.cancelled, Type::INT8_ARRAY),
            (&self.failures, Type::BYTEA_ARRAY),
        ]
    }
}

impl Submits {
    fn add(&mut self, change: &RunChange<'_>) {
        let Some((at, submitted)) = change.submitted else {
            return;
        };
        self.progress.add(change);
        self.run_ids.push(uuid(submitted.run_id));
        self.workflows.push(text::of(&submitted.workflow));
        self.digests.push(submitted.digest.as_bytes().to_vec());
        self.tenants.push(text::of(&submitted.tenant));
        self.priorities.push(submitted.priority.as_str());
        self.labels.push(text::of_labels(&submitted.labels));
        self.submitted_at.push(column::micros(*at));
        self.resumed_from.push(submitted.resumed_from.map(uuid));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.run_ids.is_empty()
    }

    pub(super) fn statement(&self, schema: &str) -> String {
        format!(
            "INSERT INTO {schema}.runs (number, status, finished_at, total, succeeded, failed, skipped, \
             cancelled, failure, run_id, workflow, digest, tenant, priority, labels, submitted_at, \
             resumed_from) \
             SELECT number, status, finished_at, total, succeeded, failed, skipped, cancelled, failure, \
             run_id, workflow, digest, tenant, priority, labels::jsonb, submitted_at, resumed_from FROM \
             unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17) \
             AS given (number, status, finished_at, total, succeeded, failed, skipped, cancelled, \
             failure, run_id, workflow, digest, tenant, priority, labels, submitted_at, resumed_from)"
        )
    }

    pub(super) fn parameters(&self) -> Vec<Parameter<'_>> {
        let mut parameters = self.progress.parameters();
        let others: [Parameter<'_>; 8] = [
            (&self.run_ids, Type::UUID_ARRAY),
            (&self.workflows, Type::TEXT_ARRAY),
            (&self.digests, Type::BYTEA_ARRAY),
            (&self.tenants, Type::TEXT_ARRAY),
            (&self.priorities, Type::TEXT_ARRAY),
            (&self.labels, Type::TEXT_ARRAY),
            (&self.submitted_at, Type::INT8_ARRAY),
            (&self.resumed_from, Type::UUID_ARRAY),
        ];
        parameters.extend(others);
        parameters
    }
}

impl Keys {
    fn add(&mut self, change: &RunChange<'_>) {
        let Some((_, submitted)) = change.submitted else {
            return;
        };
        let Some(key) = &submitted.key else {
            return;
        };
        self.runs.push(column::integer(change.run.0));
        self.run_ids.push(uuid(submitted.run_id));
        self.tenants.push(text::of(&submitted.tenant));
        self.keys.push(text::of(&key.key));
        self.contents.push(key.content.to_vec());
        self.expires_at.push(key.expires_at.map(column::micros));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub(super) fn statement(&self, schema: &str) -> String {
        format!(
            "INSERT INTO {schema}.submit_keys (run, run_id, tenant, key, content, expires_at) \
             SELECT * FROM unnest($1, $2, $3, $4, $5, $6)"
        )
    }

    pub(super) fn parameters(&self) -> Vec<Parameter<'_>> {
        vec![
            (&self.runs, Type::INT8_ARRAY),
            (&self.run_ids, Type::UUID_ARRAY),
            (&self.tenants, Type::TEXT_ARRAY),
            (&self.keys, Type::TEXT_ARRAY),
            (&self.contents, Type::BYTEA_ARRAY),
            (&self.expires_at, Type::INT8_ARRAY),
        ]
    }
}

fn uuid(run: RunId) -> Uuid {
    Uuid::from_bytes(*run.as_bytes())
}
