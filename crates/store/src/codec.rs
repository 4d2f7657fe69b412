//! The bytes of journal records: protobuf messages with field numbers that never change meaning.
//!
//! All records of one entry are one message. Payloads stay opaque; on reading they are slices of the
//! row they came in. A field number that is not known here is skipped by the decoder, so a record that
//! then lacks its fact was written by a newer version or is damaged: both are an error, never a guess.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levelflow_common::view::TaskCounts;
use levelflow_common::workflow::{Durability, Priority};
use levelflow_common::{
    CacheTier, CacheUse, CachedFrom, Code, Failure, FencingToken, HumanDuration, RunId, RunStatus,
    Similar, Similarity, Timestamp, WorkerId, WorkflowDigest,
};
use levelflow_engine::record::{Kept, KeptEnd, RecordedStream, SubmitKey};
use levelflow_engine::{Fact, Progress, Record, RunNumber, Submitted, TaskIndex};
use prost::Message as _;

use crate::error::{DecodeError, StoreError};

/// Turns entries into bytes, reusing its memory.
#[derive(Debug, Default)]
pub struct Encoder {
    row: EntryRow,
}

impl Encoder {
    /// Appends the bytes of one entry's records. Bytes of entries that follow one another are together
    /// the bytes of one entry.
    pub fn encode(&mut self, records: &[Record], bytes: &mut Vec<u8>) {
        self.row.records.extend(records.iter().map(RecordRow::of));
        self.row.encode(bytes).expect("a vector grows as needed");
        self.row.records.clear();
    }
}

/// The records of one entry.
///
/// # Errors
/// When the bytes are damaged, or those of a newer version.
pub fn decode(
    run: RunNumber,
    first_sequence: u64,
    bytes: Bytes,
) -> Result<Vec<Record>, StoreError> {
    let corrupt = |sequence, source| StoreError::RecordCorrupt {
        run,
        sequence,
        source,
    };
    let row = EntryRow::decode(bytes).map_err(|error| corrupt(first_sequence, error.into()))?;
    if row.records.is_empty() {
        return Err(corrupt(first_sequence, DecodeError::Missing("records")));
    }
    (first_sequence..)
        .zip(row.records)
        .map(|(sequence, record)| record.read().map_err(|error| corrupt(sequence, error)))
        .collect()
}

/// The records in the bytes of one entry.
pub(crate) fn decode_records(bytes: Bytes) -> Result<Vec<Record>, DecodeError> {
    let rows = EntryRow::decode(bytes)?.records.into_iter();
    rows.map(RecordRow::read).collect()
}

/// Appends the bytes of how a run stands.
pub(crate) fn encode_progress(progress: &Progress, bytes: &mut Vec<u8>) {
    ProgressRow::of(progress)
        .encode(bytes)
        .expect("a vector grows as needed");
}

/// How a run stands.
pub(crate) fn decode_progress(bytes: &[u8]) -> Result<Progress, DecodeError> {
    ProgressRow::decode(bytes)?.read()
}

/// The bytes of a failure, for the row of a run.
pub(crate) fn encode_failure(failure: &Failure) -> Vec<u8> {
    FailureRow::of(failure).encode_to_vec()
}

/// The failure in the row of a run.
pub(crate) fn decode_failure(bytes: &[u8]) -> Result<Failure, DecodeError> {
    FailureRow::decode(bytes)?.read()
}

#[derive(Clone, PartialEq, prost::Message)]
struct EntryRow {
    #[prost(message, repeated, tag = "1")]
    records: Vec<RecordRow>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RecordRow {
    #[prost(fixed64, tag = "1")]
    at: u64,
    #[prost(oneof = "FactRow", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10")]
    fact: Option<FactRow>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum FactRow {
    #[prost(message, boxed, tag = "2")]
    Submitted(Box<SubmittedRow>),
    #[prost(message, tag = "3")]
    Expanded(ExpandedRow),
    #[prost(message, tag = "4")]
    Slept(SleptRow),
    #[prost(message, tag = "5")]
    Succeeded(SucceededRow),
    #[prost(message, boxed, tag = "6")]
    Failed(Box<FailedRow>),
    #[prost(message, tag = "7")]
    Skipped(SkippedRow),
    #[prost(message, tag = "8")]
    CancelRequested(CancelRequestedRow),
    #[prost(message, boxed, tag = "9")]
    Finished(Box<FinishedRow>),
    #[prost(message, tag = "10")]
    TimedOut(()),
}

#[derive(Clone, PartialEq, prost::Message)]
struct SubmittedRow {
    #[prost(bytes = "bytes", tag = "1")]
    run_id: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    digest: Bytes,
    #[prost(string, tag = "3")]
    workflow: String,
    #[prost(string, tag = "4")]
    tenant: String,
    #[prost(uint32, tag = "5")]
    priority: u32,
    #[prost(uint32, tag = "6")]
    durability: u32,
    #[prost(btree_map = "string, string", tag = "7")]
    labels: BTreeMap<String, String>,
    #[prost(bytes = "bytes", tag = "8")]
    inputs: Bytes,
    #[prost(message, optional, tag = "9")]
    key: Option<SubmitKeyRow>,
    #[prost(bytes = "bytes", optional, tag = "10")]
    resumed_from: Option<Bytes>,
    #[prost(message, repeated, tag = "11")]
    kept: Vec<KeptRow>,
    #[prost(uint32, tag = "12")]
    cache: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SubmitKeyRow {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(bytes = "bytes", tag = "2")]
    content: Bytes,
    #[prost(fixed64, optional, tag = "3")]
    expires_at: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeptRow {
    #[prost(uint32, tag = "1")]
    task: u32,
    #[prost(uint32, optional, tag = "2")]
    item: Option<u32>,
    #[prost(oneof = "KeptEndRow", tags = "3, 4")]
    end: Option<KeptEndRow>,
    #[prost(bytes = "bytes", tag = "5")]
    from: Bytes,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum KeptEndRow {
    #[prost(bytes = "bytes", tag = "3")]
    Succeeded(Bytes),
    #[prost(message, tag = "4")]
    Skipped(()),
}

#[derive(Clone, PartialEq, prost::Message)]
struct ExpandedRow {
    #[prost(uint32, tag = "1")]
    task: u32,
    #[prost(uint32, tag = "2")]
    items: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SleptRow {
    #[prost(uint32, tag = "1")]
    task: u32,
    #[prost(fixed64, tag = "2")]
    until: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SucceededRow {
    #[prost(uint32, tag = "1")]
    task: u32,
    #[prost(uint32, tag = "2")]
    attempt: u32,
    #[prost(fixed64, tag = "3")]
    started_at: u64,
    #[prost(string, optional, tag = "4")]
    worker: Option<String>,
    #[prost(bytes = "bytes", tag = "5")]
    output: Bytes,
    #[prost(message, optional, boxed, tag = "6")]
    stream: Option<Box<StreamRow>>,
    #[prost(message, optional, boxed, tag = "7")]
    cached: Option<Box<CachedFromRow>>,
    #[prost(message, optional, boxed, tag = "8")]
    similar_to: Option<Box<SimilarRow>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StreamRow {
    #[prost(fixed64, tag = "1")]
    stream: u64,
    #[prost(uint32, tag = "2")]
    chunks: u32,
    #[prost(bytes = "bytes", tag = "3")]
    packed: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CachedFromRow {
    #[prost(uint32, tag = "1")]
    tier: u32,
    /// In microseconds.
    #[prost(uint64, tag = "2")]
    age: u64,
    /// In microseconds.
    #[prost(uint64, tag = "3")]
    saved: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SimilarRow {
    /// In millionths.
    #[prost(uint32, tag = "1")]
    similarity: u32,
    #[prost(bytes = "bytes", tag = "2")]
    run_id: Bytes,
    #[prost(string, tag = "3")]
    task_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FailedRow {
    #[prost(uint32, tag = "1")]
    task: u32,
    #[prost(uint32, tag = "2")]
    attempt: u32,
    #[prost(fixed64, optional, tag = "3")]
    started_at: Option<u64>,
    #[prost(string, optional, tag = "4")]
    worker: Option<String>,
    #[prost(message, optional, tag = "5")]
    failure: Option<FailureRow>,
    #[prost(fixed64, optional, tag = "6")]
    retry_at: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SkippedRow {
    #[prost(uint32, tag = "1")]
    task: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CancelRequestedRow {
    #[prost(string, tag = "1")]
    reason: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FinishedRow {
    #[prost(uint32, tag = "1")]
    status: u32,
    #[prost(bytes = "bytes", optional, tag = "2")]
    outputs: Option<Bytes>,
    #[prost(message, optional, tag = "3")]
    failure: Option<FailureRow>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FailureRow {
    #[prost(string, tag = "1")]
    code: String,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(bool, tag = "3")]
    retryable: bool,
    /// In microseconds.
    #[prost(uint64, optional, tag = "4")]
    retry_after: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ProgressRow {
    #[prost(uint32, tag = "1")]
    status: u32,
    #[prost(fixed64, optional, tag = "2")]
    finished_at: Option<u64>,
    #[prost(uint32, tag = "3")]
    total: u32,
    #[prost(uint32, tag = "4")]
    succeeded: u32,
    #[prost(uint32, tag = "5")]
    failed: u32,
    #[prost(uint32, tag = "6")]
    skipped: u32,
    #[prost(uint32, tag = "7")]
    cancelled: u32,
    #[prost(message, optional, tag = "8")]
    failure: Option<FailureRow>,
}

impl ProgressRow {
    fn of(progress: &Progress) -> Self {
        let counts = progress.counts;
        Self {
            status: status_number(progress.status),
            finished_at: progress.finished_at.map(Timestamp::as_micros),
            total: counts.total,
            succeeded: counts.succeeded,
            failed: counts.failed,
            skipped: counts.skipped,
            cancelled: counts.cancelled,
            failure: progress.failure.as_ref().map(FailureRow::of),
        }
    }

    fn read(self) -> Result<Progress, DecodeError> {
        Ok(Progress {
            status: read_status(self.status)?,
            finished_at: self.finished_at.map(Timestamp::from_micros),
            counts: TaskCounts {
                total: self.total,
                succeeded: self.succeeded,
                failed: self.failed,
                skipped: self.skipped,
                cancelled: self.cancelled,
            },
            failure: self.failure.map(FailureRow::read).transpose()?,
        })
    }
}

impl RecordRow {
    fn of(record: &Record) -> Self {
        Self {
            at: record.at.as_micros(),
            fact: Some(FactRow::of(&record.fact)),
        }
    }

    fn read(self) -> Result<Record, DecodeError> {
        Ok(Record {
            at: Timestamp::from_micros(self.at),
            fact: self.fact.ok_or(DecodeError::Missing("fact"))?.read()?,
        })
    }
}

impl FactRow {
    fn of(fact: &Fact) -> Self {
        match fact {
            Fact::Submitted(submitted) => Self::Submitted(Box::new(SubmittedRow::of(submitted))),
            Fact::Expanded { task, items } => Self::Expanded(ExpandedRow {
                task: task.0,
                items: *items,
            }),
            Fact::Slept { task, until } => Self::Slept(SleptRow {
                task: task.0,
                until: until.as_micros(),
            }),
            Fact::Succeeded {
                task,
                attempt,
                started_at,
                worker,
                output,
                stream,
                cached,
                similar_to,
            } => Self::Succeeded(SucceededRow {
                task: task.0,
                attempt: *attempt,
                started_at: started_at.as_micros(),
                worker: worker.as_ref().map(|worker| worker.0.to_string()),
                output: output.clone(),
                stream: stream
                    .as_deref()
                    .map(|stream| Box::new(StreamRow::of(stream))),
                cached: cached
                    .as_deref()
                    .map(|from| Box::new(CachedFromRow::of(from))),
                similar_to: similar_to
                    .as_deref()
                    .map(|similar| Box::new(SimilarRow::of(similar))),
            }),
            Fact::Failed {
                task,
                attempt,
                started_at,
                worker,
                failure,
                retry_at,
            } => Self::Failed(Box::new(FailedRow {
                task: task.0,
                attempt: *attempt,
                started_at: started_at.map(Timestamp::as_micros),
                worker: worker.as_ref().map(|worker| worker.0.to_string()),
                failure: Some(FailureRow::of(failure)),
                retry_at: retry_at.map(Timestamp::as_micros),
            })),
            Fact::Skipped { task } => Self::Skipped(SkippedRow { task: task.0 }),
            Fact::CancelRequested { reason } => Self::CancelRequested(CancelRequestedRow {
                reason: reason.to_string(),
            }),
            Fact::TimedOut => Self::TimedOut(()),
            Fact::Finished {
                status,
                outputs,
                failure,
            } => Self::Finished(Box::new(FinishedRow {
                status: status_number(*status),
                outputs: outputs.clone(),
                failure: failure.as_ref().map(FailureRow::of),
            })),
        }
    }

    fn read(self) -> Result<Fact, DecodeError> {
        Ok(match self {
            Self::Submitted(row) => Fact::Submitted(Arc::new(row.read()?)),
            Self::Expanded(row) => Fact::Expanded {
                task: TaskIndex(row.task),
                items: row.items,
            },
            Self::Slept(row) => Fact::Slept {
                task: TaskIndex(row.task),
                until: Timestamp::from_micros(row.until),
            },
            Self::Succeeded(row) => Fact::Succeeded {
                task: TaskIndex(row.task),
                attempt: row.attempt,
                started_at: Timestamp::from_micros(row.started_at),
                worker: row.worker.map(|worker| WorkerId(worker.into())),
                output: row.output,
                stream: row.stream.map(|stream| Box::new(stream.read())),
                cached: row
                    .cached
                    .map(|from| from.read().map(Box::new))
                    .transpose()?,
                similar_to: row
                    .similar_to
                    .map(|similar| similar.read().map(Box::new))
                    .transpose()?,
            },
            Self::Failed(row) => Fact::Failed {
                task: TaskIndex(row.task),
                attempt: row.attempt,
                started_at: row.started_at.map(Timestamp::from_micros),
                worker: row.worker.map(|worker| WorkerId(worker.into())),
                failure: row.failure.ok_or(DecodeError::Missing("failure"))?.read()?,
                retry_at: row.retry_at.map(Timestamp::from_micros),
            },
            Self::Skipped(row) => Fact::Skipped {
                task: TaskIndex(row.task),
            },
            Self::CancelRequested(row) => Fact::CancelRequested {
                reason: row.reason.into(),
            },
            Self::TimedOut(()) => Fact::TimedOut,
            Self::Finished(row) => Fact::Finished {
                status: read_status(row.status)?,
                outputs: row.outputs,
                failure: row.failure.map(FailureRow::read).transpose()?,
            },
        })
    }
}

impl StreamRow {
    fn of(stream: &RecordedStream) -> Self {
        Self {
            stream: stream.stream.0,
            chunks: stream.chunks,
            packed: stream.packed.clone(),
        }
    }

    fn read(self) -> RecordedStream {
        RecordedStream {
            stream: FencingToken(self.stream),
            chunks: self.chunks,
            packed: self.packed,
        }
    }
}

impl SubmittedRow {
    fn of(submitted: &Submitted) -> Self {
        Self {
            run_id: Bytes::copy_from_slice(submitted.run_id.as_bytes()),
            digest: Bytes::copy_from_slice(submitted.digest.as_bytes()),
            workflow: submitted.workflow.to_string(),
            tenant: submitted.tenant.to_string(),
            priority: priority_number(submitted.priority),
            durability: durability_number(submitted.durability),
            labels: submitted.labels.clone(),
            inputs: submitted.inputs.clone(),
            key: submitted.key.as_ref().map(|key| SubmitKeyRow {
                key: key.key.to_string(),
                content: Bytes::copy_from_slice(&key.content),
                expires_at: key.expires_at.map(Timestamp::as_micros),
            }),
            resumed_from: submitted
                .resumed_from
                .map(|run| Bytes::copy_from_slice(run.as_bytes())),
            kept: submitted.kept.iter().map(KeptRow::of).collect(),
            cache: cache_use_number(submitted.cache),
        }
    }

    fn read(self) -> Result<Submitted, DecodeError> {
        Ok(Submitted {
            run_id: read_run_id("run_id", &self.run_id)?,
            digest: WorkflowDigest::from_slice(&self.digest)
                .ok_or(DecodeError::Missing("digest"))?,
            workflow: self.workflow.into(),
            tenant: self.tenant.into(),
            priority: read_priority(self.priority)?,
            durability: read_durability(self.durability)?,
            labels: self.labels,
            cache: read_cache_use(self.cache)?,
            inputs: self.inputs,
            key: self.key.map(SubmitKeyRow::read).transpose()?,
            resumed_from: self
                .resumed_from
                .map(|run| read_run_id("resumed_from", &run))
                .transpose()?,
            kept: self
                .kept
                .into_iter()
                .map(KeptRow::read)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl SubmitKeyRow {
    fn read(self) -> Result<SubmitKey, DecodeError> {
        Ok(SubmitKey {
            key: self.key.into(),
            content: self.content[..]
                .try_into()
                .map_err(|_| DecodeError::Missing("key.content"))?,
            expires_at: self.expires_at.map(Timestamp::from_micros),
        })
    }
}

impl KeptRow {
    fn of(kept: &Kept) -> Self {
        Self {
            task: kept.task.0,
            item: kept.item,
            end: Some(match &kept.end {
                KeptEnd::Succeeded(output) => KeptEndRow::Succeeded(output.clone()),
                KeptEnd::Skipped => KeptEndRow::Skipped(()),
            }),
            from: Bytes::copy_from_slice(kept.from.as_bytes()),
        }
    }

    fn read(self) -> Result<Kept, DecodeError> {
        Ok(Kept {
            task: TaskIndex(self.task),
            item: self.item,
            end: match self.end.ok_or(DecodeError::Missing("kept.end"))? {
                KeptEndRow::Succeeded(output) => KeptEnd::Succeeded(output),
                KeptEndRow::Skipped(()) => KeptEnd::Skipped,
            },
            from: read_run_id("kept.from", &self.from)?,
        })
    }
}

impl CachedFromRow {
    fn of(from: &CachedFrom) -> Self {
        Self {
            tier: tier_number(from.tier),
            age: micros(from.age),
            saved: micros(from.saved),
        }
    }

    fn read(self) -> Result<CachedFrom, DecodeError> {
        Ok(CachedFrom {
            tier: read_tier(self.tier)?,
            age: Duration::from_micros(self.age),
            saved: Duration::from_micros(self.saved),
        })
    }
}

impl SimilarRow {
    fn of(similar: &Similar) -> Self {
        Self {
            similarity: similar.similarity.millionths(),
            run_id: Bytes::copy_from_slice(similar.run_id.as_bytes()),
            task_id: similar.task_id.as_ref().to_owned(),
        }
    }

    fn read(self) -> Result<Similar, DecodeError> {
        Ok(Similar {
            similarity: Similarity::from_millionths(self.similarity),
            run_id: read_run_id("similar_to.run_id", &self.run_id)?,
            task_id: self.task_id.into(),
        })
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

impl FailureRow {
    fn of(failure: &Failure) -> Self {
        Self {
            code: failure.code.as_str().to_owned(),
            message: failure.message.clone(),
            retryable: failure.retryable,
            retry_after: failure.retry_after.map(|wait| micros(wait.0)),
        }
    }

    fn read(self) -> Result<Failure, DecodeError> {
        let code = Code::parse(&self.code).ok_or(DecodeError::Unknown {
            field: "failure.code",
            value: self.code,
        })?;
        Ok(Failure {
            code,
            message: self.message,
            retryable: self.retryable,
            retry_after: self
                .retry_after
                .map(|micros| HumanDuration(Duration::from_micros(micros))),
        })
    }
}

fn read_run_id(field: &'static str, bytes: &[u8]) -> Result<RunId, DecodeError> {
    RunId::from_slice(bytes).ok_or(DecodeError::Missing(field))
}

fn unknown(field: &'static str, number: u32) -> DecodeError {
    DecodeError::Unknown {
        field,
        value: number.to_string(),
    }
}

const fn status_number(status: RunStatus) -> u32 {
    match status {
        RunStatus::Running => 1,
        RunStatus::Cancelling => 2,
        RunStatus::Succeeded => 3,
        RunStatus::Failed => 4,
        RunStatus::Cancelled => 5,
    }
}

fn read_status(number: u32) -> Result<RunStatus, DecodeError> {
    RunStatus::ALL
        .into_iter()
        .find(|status| status_number(*status) == number)
        .ok_or_else(|| unknown("status", number))
}

const fn priority_number(priority: Priority) -> u32 {
    match priority {
        Priority::Critical => 1,
        Priority::High => 2,
        Priority::Normal => 3,
        Priority::Low => 4,
    }
}

fn read_priority(number: u32) -> Result<Priority, DecodeError> {
    Priority::ALL
        .into_iter()
        .find(|priority| priority_number(*priority) == number)
        .ok_or_else(|| unknown("priority", number))
}

const fn tier_number(tier: CacheTier) -> u32 {
    match tier {
        CacheTier::Memory => 1,
        CacheTier::Redis => 2,
        CacheTier::Postgres => 3,
        CacheTier::Flight => 4,
    }
}

fn read_tier(number: u32) -> Result<CacheTier, DecodeError> {
    CacheTier::ALL
        .into_iter()
        .find(|tier| tier_number(*tier) == number)
        .ok_or_else(|| unknown("cached.tier", number))
}

/// Runs from before there was a cache have 0.
const fn cache_use_number(cache: CacheUse) -> u32 {
    match cache {
        CacheUse::Use => 0,
        CacheUse::Refresh => 1,
        CacheUse::Off => 2,
    }
}

fn read_cache_use(number: u32) -> Result<CacheUse, DecodeError> {
    CacheUse::ALL
        .into_iter()
        .find(|cache| cache_use_number(*cache) == number)
        .ok_or_else(|| unknown("cache", number))
}

const fn durability_number(durability: Durability) -> u32 {
    match durability {
        Durability::Strict => 1,
        Durability::Relaxed => 2,
    }
}

fn read_durability(number: u32) -> Result<Durability, DecodeError> {
    [Durability::Strict, Durability::Relaxed]
        .into_iter()
        .find(|durability| durability_number(*durability) == number)
        .ok_or_else(|| unknown("durability", number))
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
