//! One transaction for a group of batches.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use levelflow_common::{RunId, RunStatus, Timestamp};
use levelflow_engine::{Entry, Fact, Progress, Record, RunNumber, Submitted};
use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::column;
use crate::codec::{self, Encoder};
use crate::error::StoreError;
use crate::port::Batch;

/// What a group does to the row of a run. A run that starts and ends in one group is written once.
#[derive(Default)]
struct RunChange<'a> {
    submitted: Option<(Timestamp, &'a Submitted)>,
    progress: Option<&'a Progress>,
}

/// Commits batches, all of them or none.
pub(super) fn commit<'a>(
    connection: &mut Connection,
    path: &Arc<Path>,
    encoder: &mut Encoder,
    batches: impl Iterator<Item = &'a Batch> + Clone,
) -> Result<(), StoreError> {
    let failed = |source| StoreError::Commit {
        path: path.clone(),
        source: Arc::new(source),
    };
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(failed)?;
    write_definitions(&transaction, batches.clone()).map_err(failed)?;
    let entries = batches.flat_map(|batch| &batch.entries);
    let changes = write_journal(&transaction, encoder, entries).map_err(|(run, error)| {
        if is_duplicate(&error) {
            StoreError::Refused {
                run,
                problem: "its sequence does not follow the journal",
            }
        } else {
            failed(error)
        }
    })?;
    for (run, change) in changes {
        let written = write_run(&transaction, run, &change).map_err(|error| {
            if is_duplicate(&error) {
                StoreError::Refused {
                    run,
                    problem: "its run is already known",
                }
            } else {
                failed(error)
            }
        })?;
        if written == 0 {
            return Err(StoreError::Refused {
                run,
                problem: "its run is unknown",
            });
        }
    }
    transaction.commit().map_err(failed)
}

fn is_duplicate(error: &rusqlite::Error) -> bool {
    use rusqlite::ffi::{SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE};

    error.sqlite_error().is_some_and(|error| {
        [SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE].contains(&error.extended_code)
    })
}

fn write_definitions<'a>(
    transaction: &Transaction<'_>,
    batches: impl Iterator<Item = &'a Batch>,
) -> rusqlite::Result<()> {
    let mut definitions = batches.flat_map(|batch| &batch.definitions).peekable();
    if definitions.peek().is_none() {
        return Ok(());
    }
    let mut insert = transaction
        .prepare_cached("INSERT OR IGNORE INTO definitions (digest, canonical) VALUES (?1, ?2)")?;
    for (digest, canonical) in definitions {
        insert.execute(params![digest.as_bytes(), &canonical[..]])?;
    }
    Ok(())
}

fn write_journal<'a>(
    transaction: &Transaction<'_>,
    encoder: &mut Encoder,
    entries: impl Iterator<Item = &'a Entry>,
) -> Result<BTreeMap<RunNumber, RunChange<'a>>, (RunNumber, rusqlite::Error)> {
    let mut changes: BTreeMap<RunNumber, RunChange<'a>> = BTreeMap::new();
    let mut insert = transaction
        .prepare_cached("INSERT INTO journal (run, first_sequence, records) VALUES (?1, ?2, ?3)")
        .map_err(|error| (RunNumber::default(), error))?;
    for entry in entries {
        let records = encoder.encode(&entry.records);
        insert
            .execute(params![
                column::integer(entry.run.0),
                column::integer(entry.first_sequence),
                records
            ])
            .map_err(|error| (entry.run, error))?;
        if let Some(Record {
            at,
            fact: Fact::Submitted(submitted),
        }) = entry.records.first()
        {
            changes.entry(entry.run).or_default().submitted = Some((*at, submitted));
        }
        if let Some(progress) = &entry.progress {
            changes.entry(entry.run).or_default().progress = Some(progress);
        }
    }
    Ok(changes)
}

/// Gives the number of rows that were written.
fn write_run(
    transaction: &Transaction<'_>,
    run: RunNumber,
    change: &RunChange<'_>,
) -> rusqlite::Result<usize> {
    let number = column::integer(run.0);
    let progress = change.progress;
    let status = progress.map_or(RunStatus::Running, |progress| progress.status);
    let finished_at = progress.and_then(|progress| progress.finished_at);
    let counts = progress.map(|progress| progress.counts).unwrap_or_default();
    let failure = progress.and_then(|progress| progress.failure.as_ref());
    let failure = failure.map(codec::encode_failure);
    let Some((at, submitted)) = change.submitted else {
        return transaction
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
            ]);
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
            column::micros(at),
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
        ])
}
