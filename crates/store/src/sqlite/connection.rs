//! Opening the database file: settings, and the version of its schema.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, TransactionBehavior};

use crate::error::StoreError;
use crate::migration::{self, Migration};

/// How long a statement waits for a lock that another connection holds for a moment.
const BUSY: Duration = Duration::from_secs(5);

/// Larger pages than SQLite's 4 KiB: the journal is appended in large pieces, which then need fewer
/// pages and fewer checksums.
pub(super) const PAGE_BYTES: u32 = 16 * 1024;
const WRITER_CACHE_KIB: i64 = 64 * 1024;
const READER_CACHE_KIB: i64 = 16 * 1024;

/// Opens the database for writing, and makes or migrates its tables.
pub(super) fn open_writer(path: &Arc<Path>) -> Result<Connection, StoreError> {
    let failed = |error| StoreError::database("open", path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY).map_err(failed)?;
    // Transactions need not be synced: the log has what is in them until a checkpoint. Checkpoints are
    // the filer's own business. No `mmap_size`: with it an I/O error is a SIGBUS.
    connection
        .execute_batch(&format!(
            "PRAGMA page_size = {PAGE_BYTES};
             PRAGMA journal_mode = WAL;
             PRAGMA synchronous = NORMAL;
             PRAGMA wal_autocheckpoint = 0;
             PRAGMA temp_store = MEMORY;
             PRAGMA cache_size = -{WRITER_CACHE_KIB};"
        ))
        .map_err(failed)?;
    migrate(&mut connection, path, migration::SQLITE)?;
    Ok(connection)
}

/// Makes a change that is durable when this returns, with everything before it.
pub(super) fn synced<T>(
    connection: &Connection,
    change: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    connection.execute_batch("PRAGMA synchronous = FULL")?;
    let changed = change(connection);
    connection.execute_batch("PRAGMA synchronous = NORMAL")?;
    changed
}

/// Opens the database for reading beside the writer.
pub(super) fn open_reader(path: &Arc<Path>) -> Result<Connection, StoreError> {
    let failed = |error| StoreError::database("open", path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY).map_err(failed)?;
    connection
        .execute_batch(&format!("PRAGMA cache_size = -{READER_CACHE_KIB};"))
        .map_err(failed)?;
    Ok(connection)
}

/// Brings the schema to the newest version of `set`.
fn migrate(
    connection: &mut Connection,
    path: &Arc<Path>,
    set: &[Migration],
) -> Result<(), StoreError> {
    let failed = |error| StoreError::database("migrate", path, error);
    let found = version(connection).map_err(failed)?;
    let pending = migration::pending(set, found).ok_or_else(|| StoreError::TooNew {
        database: path.display().to_string().into(),
        found,
        supported: migration::latest(set),
    })?;
    for migration in pending {
        let step = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed)?;
        step.execute_batch(
            "CREATE TABLE IF NOT EXISTS meta (name TEXT NOT NULL PRIMARY KEY, value BIGINT NOT NULL);
             INSERT OR IGNORE INTO meta (name, value) VALUES ('schema_version', 0), ('epoch', 0);",
        )
        .and_then(|()| step.execute_batch(migration.sql))
        .and_then(|()| {
            step.execute(
                "UPDATE meta SET value = ?1 WHERE name = 'schema_version'",
                [migration.version],
            )
        })
        .and_then(|_| step.commit())
        .map_err(failed)?;
        tracing::info!(version = migration.version, "migrated the store");
    }
    Ok(())
}

/// The schema version of a database; 0 for an empty one.
fn version(connection: &Connection) -> rusqlite::Result<u32> {
    let known: bool = connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'meta')",
        [],
        |row| row.get(0),
    )?;
    if !known {
        return Ok(0);
    }
    let version = connection
        .query_row(
            "SELECT value FROM meta WHERE name = 'schema_version'",
            [],
            |row| row.get(0),
        )
        .optional()?;
    Ok(version.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::tests::migration;

    fn database() -> (Connection, Arc<Path>) {
        (
            Connection::open_in_memory().unwrap(),
            Arc::from(Path::new("test.db")),
        )
    }

    #[test]
    fn an_older_schema_is_brought_forward() {
        let (mut connection, path) = database();
        let first = migration(1, "CREATE TABLE a (x BLOB);");
        let second = migration(2, "ALTER TABLE a ADD COLUMN y BIGINT;");
        migrate(&mut connection, &path, &[first]).unwrap();
        connection
            .execute("INSERT INTO a (x) VALUES (x'01')", [])
            .unwrap();
        migrate(&mut connection, &path, &[first, second]).unwrap();
        migrate(&mut connection, &path, &[first, second]).unwrap();
        assert_eq!(version(&connection).unwrap(), 2);
        let row: (Vec<u8>, Option<i64>) = connection
            .query_row("SELECT x, y FROM a", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap();
        assert_eq!(row, (vec![1], None));
    }

    #[test]
    fn a_failed_step_leaves_the_version_before_it() {
        let (mut connection, path) = database();
        let first = migration(1, "CREATE TABLE a (x BLOB);");
        let broken = migration(2, "CREATE TABLE b (x BLOB); CREATE TABLE a (x BLOB);");
        let error = migrate(&mut connection, &path, &[first, broken]).unwrap_err();
        assert_eq!(error.to_string(), "could not migrate test.db");
        assert_eq!(version(&connection).unwrap(), 1);
        let tables: i64 = connection
            .query_row(
                "SELECT count(*) FROM sqlite_schema WHERE name = 'b'",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(tables, 0);
    }
}
