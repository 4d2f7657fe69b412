//! What the disk and SQLite allow.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use rusqlite::Connection;

const APPEND_BYTES: usize = 4096;
/// About what a record of the journal takes.
const ROW_BYTES: usize = 64;

/// Appends of 4 KiB that are on the disk, a second.
pub(super) fn syncs_per_s(time: Duration) -> Result<f64> {
    let mut file: File = tempfile::tempfile()?;
    let block = [0x5a; APPEND_BYTES];
    rate(time, || {
        file.write_all(&block)?;
        file.sync_data()?;
        Ok(())
    })
}

/// Commits of so many appended rows, a second.
pub(super) fn commits_per_s(rows: usize, time: Duration) -> Result<f64> {
    let directory = tempfile::tempdir()?;
    let mut journal = open_journal(&directory.path().join("journal.db"))?;
    let row = [0x5a; ROW_BYTES];
    rate(time, || append(&mut journal, (0..rows).map(|_| &row[..])))
}

/// A journal as the product keeps it: appended in the order of its row ids, and every commit durable.
pub(super) fn open_journal(path: &Path) -> Result<Connection> {
    let connection = Connection::open(path)?;
    connection.execute_batch(
        "PRAGMA page_size = 16384;
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         CREATE TABLE journal (place INTEGER PRIMARY KEY, record BLOB NOT NULL);",
    )?;
    Ok(connection)
}

/// Appends rows in one commit.
pub(super) fn append<'a>(
    journal: &mut Connection,
    rows: impl Iterator<Item = &'a [u8]>,
) -> Result<()> {
    let commit = journal.transaction()?;
    {
        let mut insert = commit.prepare_cached("INSERT INTO journal (record) VALUES (?1)")?;
        for row in rows {
            insert.execute([row])?;
        }
    }
    commit.commit()?;
    Ok(())
}

fn rate(time: Duration, mut step: impl FnMut() -> Result<()>) -> Result<f64> {
    step()?;
    let started = Instant::now();
    let mut steps = 0_u64;
    while steps == 0 || started.elapsed() < time {
        step()?;
        steps += 1;
    }
    Ok(steps as f64 / started.elapsed().as_secs_f64())
}
