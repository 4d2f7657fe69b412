//! One transaction for commits that are filed together.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use levelflow_common::{RunId, RunStatus, Timestamp, WorkflowDigest};
use levelflow_engine::{Progress, RunNumber, Submitted};
use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::column;
use crate::codec;
use crate::commit::{Commit, CommittedEntry};
use crate::error::StoreError;

/// A journal row takes the records of further entries of its run up to so many bytes: who reads from
/// the middle of a journal reads a whole row.
const MAX_ROW_BYTES: usize = 256 * 1024;

/// What commits do to the row of a run. A run that starts and ends in them is written once.
#[derive(Default)]
struct RunChange<'a> {
    submitted: Option<&'a (Timestamp, Arc<Submitted>)>,
    progress: Option<&'a Progress>,
}

/// Files commits, all of them or none.
pub(super) fn file(
    connection: &mut Connection,
    path: &Arc<Path>,
    commits: &[Commit],
) -> Result<(), StoreError> {
    write(connection, commits).map_err(|error| StoreError::database("write", path, error))
}

fn write(connection: &mut Connection, commits: &[Commit]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    write_definitions(
        &transaction,
        commits.iter().flat_map(|commit| &commit.definitions),
    )?;
    let mut entries: Vec<_> = commits.iter().flat_map(|commit| &commit.entries).collect();
    // The entries of a run stay in their order.
    entries.sort_by_key(|entry| entry.run);
    for of_run in entries.chunk_by(|a, b| a.run == b.run) {
        write_journal(&transaction, of_run)?;
        let change = RunChange {
            submitted: of_run.iter().find_map(|entry| entry.submitted.as_ref()),
            progress: of_run
                .iter()
                .rev()
                .find_map(|entry| entry.progress.as_ref()),
        };
        if change.submitted.is_some() || change.progress.is_some() {
            write_run(&transaction, of_run[0].run, &change)?;
        }
    }
    if let Some(last) = commits.last() {
        transaction
            .prepare_cached("UPDATE meta SET value = ?1 WHERE name = 'filed'")?
            .execute([column::integer(last.number)])?;
    }
    transaction.commit()
}

fn write_definitions<'a>(
    transaction: &Transaction<'_>,
    definitions: impl Iterator<Item = &'a (WorkflowDigest, Bytes)>,
) -> rusqlite::Result<()> {
    let mut insert = transaction
        .prepare_cached("INSERT OR IGNORE INTO definitions (digest, canonical) VALUES (?1, ?2)")?;
    for (digest, canonical) in definitions {
        insert.execute(params![digest.as_bytes(), &canonical[..]])?;
    }
    Ok(())
}

/// Writes the entries of one run, which follow one another, as few rows.
fn write_journal(
    transaction: &Transaction<'_>,
    entries: &[&CommittedEntry],
) -> rusqlite::Result<()> {
    let mut insert = transaction
        .prepare_cached("INSERT INTO journal (run, first_sequence, records) VALUES (?1, ?2, ?3)")?;
    let mut insert = |first: &CommittedEntry, records: &[u8]| {
        insert.execute(params![
            column::integer(first.run.0),
            column::integer(first.first_sequence),
            records
        ])
    };
    let mut row = Vec::new();
    let mut rest = entries;
    while let [first, after @ ..] = rest {
        let mut bytes = first.records.len();
        let joined = after
            .iter()
            .take_while(|entry| {
                bytes += entry.records.len();
                bytes <= MAX_ROW_BYTES
            })
            .count();
        if joined == 0 {
            insert(first, &first.records)?;
        } else {
            row.clear();
            for entry in &rest[..=joined] {
                row.extend_from_slice(&entry.records);
            }
            insert(first, &row)?;
        }
        rest = &after[joined..];
    }
    Ok(())
}

fn write_run(
    transaction: &Transaction<'_>,
    run: RunNumber,
    change: &RunChange<'_>,
) -> rusqlite::Result<()> {
    let number = column::integer(run.0);
    let progress = change.progress;
    let status = progress.map_or(RunStatus::Running, |progress| progress.status);
    let finished_at = progress.and_then(|progress| progress.finished_at);
    let counts = progress.map(|progress| progress.counts).unwrap_or_default();
    let failure = progress.and_then(|progress| progress.failure.as_ref());
    let failure = failure.map(codec::encode_failure);
    let Some((at, submitted)) = change.submitted else {
        transaction
            .prepare_cached(
                "UPDATE runs SET status = ?2, finished_at = ?3, total = ?4, succeeded = ?5, \
                 failed = ?6, skipped = ?7, cancelled = ?8, failure = ?9 WHERE number = ?1",
            )?
            .execute(params![
                number,
                status.as_str(),
                finished_at.map(column::micros),
                counts.total,
                counts.succeeded,
                counts.failed,
                counts.skipped,
                counts.cancelled,
                failure,
            ])?;
        return Ok(());
    };
    let key = submitted.key.as_ref();
    let labels =
        serde_json::to_string(&submitted.labels).expect("labels are a map of texts by text");
    transaction
        .prepare_cached(
            "INSERT INTO runs (number, run_id, workflow, digest, tenant, priority, labels, \
             submitted_at, status, finished_at, total, succeeded, failed, skipped, cancelled, \
             failure, resumed_from, key, key_content, key_expires_at) VALUES \
             (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)",
        )?
        .execute(params![
            number,
            submitted.run_id.as_bytes(),
            submitted.workflow,
            submitted.digest.as_bytes(),
            submitted.tenant,
            submitted.priority.as_str(),
            labels,
            column::micros(*at),
            status.as_str(),
            finished_at.map(column::micros),
            counts.total,
            counts.succeeded,
            counts.failed,
            counts.skipped,
            counts.cancelled,
            failure,
            submitted.resumed_from.as_ref().map(RunId::as_bytes),
            key.map(|key| &key.key),
            key.map(|key| key.content),
            key.and_then(|key| key.expires_at).map(column::micros),
        ])?;
    Ok(())
}
