//! Deleting runs that ended long ago.

use levelflow_common::Timestamp;
use rusqlite::{Connection, TransactionBehavior};

use crate::column;

/// Deletes runs that ended before a time, the oldest first, at most `limit`.
pub(super) fn prune(
    connection: &mut Connection,
    ended_before: Timestamp,
    limit: usize,
) -> rusqlite::Result<usize> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let ended = ended_runs(&transaction, ended_before, limit)?;
    {
        let mut journal = transaction.prepare_cached("DELETE FROM journal WHERE run = ?1")?;
        let mut runs = transaction.prepare_cached("DELETE FROM runs WHERE number = ?1")?;
        for &number in &ended {
            journal.execute([number])?;
            runs.execute([number])?;
        }
    }
    transaction.commit()?;
    Ok(ended.len())
}

/// Runs are numbered in the order of their submits, and none ends before its submit: the search is
/// over at the first that was submitted too late.
fn ended_runs(
    connection: &Connection,
    ended_before: Timestamp,
    limit: usize,
) -> rusqlite::Result<Vec<i64>> {
    let before = column::micros(ended_before);
    let mut statement = connection
        .prepare_cached("SELECT number, submitted_at, finished_at FROM runs ORDER BY number")?;
    let mut rows = statement.query([])?;
    let mut ended = Vec::new();
    while let Some(row) = rows.next()? {
        let (submitted_at, finished_at): (i64, Option<i64>) = (row.get(1)?, row.get(2)?);
        if submitted_at >= before || ended.len() >= limit {
            break;
        }
        if finished_at.is_some_and(|at| at < before) {
            ended.push(row.get(0)?);
        }
    }
    Ok(ended)
}
