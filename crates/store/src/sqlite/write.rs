//! One transaction for commits that are filed together.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use levelflow_common::{RunId, RunStatus, WorkflowDigest};
use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use crate::commit::Commit;
use crate::error::StoreError;
use crate::rows::{self, JournalRow, RunChange};
use crate::{codec, column};

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
    let entries = commits.iter().flat_map(|commit| &commit.entries).collect();
    rows::by_run(entries, |of_run| {
        write_journal(&transaction, of_run.journal())?;
        match of_run.change() {
            Some(change) => write_run(&transaction, &change),
            None => Ok(()),
        }
    })?;
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

fn write_journal(
    transaction: &Transaction<'_>,
    rows: impl Iterator<Item = JournalRow>,
) -> rusqlite::Result<()> {
    let mut insert = transaction
        .prepare_cached("INSERT INTO journal (run, first_sequence, records) VALUES (?1, ?2, ?3)")?;
    for row in rows {
        insert.execute(params![
            column::integer(row.run.0),
            column::integer(row.first_sequence),
            &row.records[..]
        ])?;
    }
    Ok(())
}

fn write_run(transaction: &Transaction<'_>, change: &RunChange<'_>) -> rusqlite::Result<()> {
    let number = column::integer(change.run.0);
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
