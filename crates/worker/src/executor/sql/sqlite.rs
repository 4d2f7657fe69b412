//! SQLite files.
//!
//! Each connection is used by one task at a time, on a thread for blocking work. Values keep the type that
//! they have in the file: `integer` and `real` are numbers, `text` is text, `blob` is base64. Parameters:
//! numbers, text and null as they are, `true` and `false` as 1 and 0, lists and maps as JSON text.
//!
//! A transaction takes the lock for writing when it begins, so every isolation that a task can ask for is
//! what it gets.
//!
//! Statements cannot reach other files: attaching is off.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use deadpool::managed::{Manager, Metrics, RecycleResult};
use levelflow_common::{Code, Failure};
use rusqlite::ffi::{self, ErrorCode};
use rusqlite::limits::Limit;
use rusqlite::types::{Null, ToSqlOutput, Value as SqlValue, ValueRef};
use rusqlite::{Connection, InterruptHandle, OpenFlags, TransactionBehavior};
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::answer::{Answer, More, write_bare, write_float, write_plain, write_text};
use super::config::SqlConnection;
use super::pool::{SqlPool, SqlPoolStatistics};
use super::work::{Statement, Work, invalid};
use super::{SqlError, out_of_time};
use crate::attempt::panicked;

/// The longest wait for a lock that another process holds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// A database.
pub(super) struct Sqlite {
    pool: SqlPool<Opener>,
}

/// What an address says beside the scheme; none if it is not one of SQLite.
pub(super) fn path_of(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("sqlite:")?;
    Some(rest.strip_prefix("//").unwrap_or(rest))
}

impl Sqlite {
    /// The file at a path, which may end with `?mode=ro`, `rw` or `rwc`; the last is the default, which
    /// makes the file if there is none.
    pub(super) fn new(path: &str, settings: &SqlConnection) -> Result<Self, String> {
        let (path, query) = path.split_once('?').unwrap_or((path, "mode=rwc"));
        let mode = match query {
            "mode=ro" => OpenFlags::SQLITE_OPEN_READ_ONLY,
            "mode=rw" => OpenFlags::SQLITE_OPEN_READ_WRITE,
            "mode=rwc" => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
            _ => return Err("may end with `?mode=ro`, `?mode=rw` or `?mode=rwc`".to_owned()),
        };
        if path.is_empty() || path.starts_with(':') {
            return Err("must name a file after `sqlite:`".to_owned());
        }
        let opener = Opener {
            path: path.into(),
            flags: mode | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        };
        Ok(Self {
            pool: SqlPool::new(opener, settings),
        })
    }

    pub(super) fn statistics(&self) -> SqlPoolStatistics {
        self.pool.statistics()
    }

    /// Does the work of a task.
    pub(super) async fn run(&self, work: Work) -> Result<Bytes, SqlError> {
        let deadline = Instant::now() + work.timeout;
        let limit = work.timeout;
        let unopened = |error| SqlError::Unreachable(failure(Code::SqlUnavailable, "", &error));
        let mut connection = self.pool.get(limit, unopened).await?;
        let stop = Arc::new(Stop::new(connection.get_interrupt_handle()));
        // However this future ends, the thread does not go on for nobody.
        let _stop_at_end = StopOnDrop(Arc::clone(&stop));
        let asked = Arc::clone(&stop);
        let mut thread = tokio::task::spawn_blocking(move || {
            let result = perform(&mut connection, &work, &asked);
            asked.release();
            result
        });
        let ended = tokio::select! {
            biased;
            ended = &mut thread => ended,
            () = sleep_until(deadline) => {
                stop.ask();
                // A statement that was done by then has had its effect.
                match thread.await {
                    Ok(Err(SqlError::Refused(_))) => return Err(SqlError::Refused(out_of_time(limit))),
                    ended => ended,
                }
            }
        };
        ended.unwrap_or_else(|error| Err(SqlError::Local(panicked(error.into_panic().as_ref()))))
    }
}

/// Opens the file.
struct Opener {
    path: PathBuf,
    flags: OpenFlags,
}

impl Manager for Opener {
    type Type = Connection;
    type Error = rusqlite::Error;

    async fn create(&self) -> Result<Connection, rusqlite::Error> {
        let (path, flags) = (self.path.clone(), self.flags);
        let open = move || {
            let connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(LOCK_TIMEOUT)?;
            connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
            // A file that is not a database, or must not be read, is refused now.
            connection.query_row("select count(*) from sqlite_schema", [], |_| Ok(()))?;
            Ok(connection)
        };
        match tokio::task::spawn_blocking(open).await {
            Ok(opened) => opened,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    async fn recycle(
        &self,
        connection: &mut Connection,
        _: &Metrics,
    ) -> RecycleResult<rusqlite::Error> {
        if !connection.is_autocommit() {
            connection.execute_batch("rollback")?;
        }
        Ok(())
    }
}

/// Tells a thread to stop.
struct Stop {
    asked: AtomicBool,
    /// None when others may have the connection.
    handle: Mutex<Option<InterruptHandle>>,
}

impl Stop {
    fn new(handle: InterruptHandle) -> Self {
        Self {
            asked: AtomicBool::new(false),
            handle: Mutex::new(Some(handle)),
        }
    }

    fn handle(&self) -> MutexGuard<'_, Option<InterruptHandle>> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self) {
        self.asked.store(true, Ordering::SeqCst);
        if let Some(handle) = &*self.handle() {
            handle.interrupt();
        }
    }

    /// The work is done.
    fn release(&self) {
        *self.handle() = None;
    }

    /// An interrupt reaches only the statement that runs, so between them the thread looks here.
    fn check(&self) -> Result<(), SqlError> {
        if self.asked.load(Ordering::SeqCst) {
            return Err(SqlError::Refused(Failure::retryable(
                Code::SqlFailed,
                "interrupted",
            )));
        }
        Ok(())
    }
}

struct StopOnDrop(Arc<Stop>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.ask();
    }
}

fn perform(connection: &mut Connection, work: &Work, stop: &Stop) -> Result<Bytes, SqlError> {
    let mut answer = Answer::new(work.bounds, work.in_transaction);
    if !work.in_transaction {
        for statement in &work.statements {
            step(connection, "", statement, &mut answer, stop)?;
        }
        return Ok(answer.finish()?);
    }
    // Taking the lock at once: one that is asked for later cannot be waited for.
    let behavior = if connection.is_readonly("main").unwrap_or(false) {
        TransactionBehavior::Deferred
    } else {
        TransactionBehavior::Immediate
    };
    let transaction = connection
        .transaction_with_behavior(behavior)
        .map_err(|error| refused("", &error))?;
    for (number, statement) in (1..).zip(&work.statements) {
        let what = format!("statement {number}: ");
        step(&transaction, &what, statement, &mut answer, stop)?;
    }
    stop.check()?;
    transaction.commit().map_err(|error| refused("", &error))?;
    Ok(answer.finish()?)
}

fn step(
    connection: &Connection,
    what: &str,
    statement: &Statement,
    answer: &mut Answer,
    stop: &Stop,
) -> Result<(), SqlError> {
    stop.check()?;
    let refused = |error| refused(what, &error);
    let mut prepared = connection.prepare_cached(&statement.sql).map_err(refused)?;
    let wanted = prepared.parameter_count();
    if wanted != statement.params.len() {
        let given = statement.params.len();
        return Err(SqlError::Local(invalid(format!(
            "{what}the statement has {wanted} parameters, `params` has {given}"
        ))));
    }
    for (place, value) in (1..).zip(&statement.params) {
        prepared
            .raw_bind_parameter(place, parameter(value))
            .map_err(refused)?;
    }
    if !statement.wants_rows {
        let changed = run_to_end(&mut prepared, connection, stop).map_err(refused)?;
        answer.affected(changed);
        return Ok(());
    }
    let columns: Vec<String> = prepared.column_names().map(str::to_owned).collect();
    answer.begin_query(columns.iter().map(String::as_str))?;
    let mut rows = prepared.raw_query();
    while let Some(row) = rows.next().map_err(refused)? {
        stop.check()?;
        let more = answer.row(|place, out| {
            let value = row
                .get_ref(place)
                .map_err(|error| failure(Code::SqlFailed, what, &error))?;
            write(out, value).map_err(|problem| failure_of_column(what, &columns[place], problem))
        })?;
        if more == More::Enough {
            break;
        }
    }
    answer.end_query();
    Ok(())
}

/// Runs a statement to its end, and gives the number of rows that it changed. It may give rows, too.
fn run_to_end(
    prepared: &mut rusqlite::Statement<'_>,
    connection: &Connection,
    stop: &Stop,
) -> rusqlite::Result<u64> {
    let before = connection.total_changes();
    let mut rows = prepared.raw_query();
    while rows.next()?.is_some() && !stop.asked.load(Ordering::Relaxed) {}
    Ok(connection.total_changes() - before)
}

fn parameter(value: &Value) -> ToSqlOutput<'_> {
    match value {
        Value::Null => Null.into(),
        Value::Bool(value) => i64::from(*value).into(),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.into(),
            (None, Some(float)) => float.into(),
            (None, None) => ToSqlOutput::Owned(SqlValue::Text(number.to_string())),
        },
        Value::String(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
        value => ToSqlOutput::Owned(SqlValue::Text(value.to_string())),
    }
}

fn write(out: &mut Vec<u8>, value: ValueRef<'_>) -> Result<(), &'static str> {
    match value {
        ValueRef::Null => out.extend_from_slice(b"null"),
        ValueRef::Integer(value) => write_bare(out, value),
        ValueRef::Real(value) => write_float(out, value),
        ValueRef::Text(text) => {
            write_text(
                out,
                std::str::from_utf8(text).map_err(|_| "the text is not UTF-8")?,
            );
        }
        ValueRef::Blob(bytes) => write_plain(out, BASE64_STANDARD.encode(bytes)),
    }
    Ok(())
}

fn failure_of_column(what: &str, column: &str, problem: &str) -> Failure {
    Failure::permanent(
        Code::SqlFailed,
        format!("{what}column `{column}`: {problem}"),
    )
}

fn refused(what: &str, error: &rusqlite::Error) -> SqlError {
    SqlError::Refused(failure(Code::SqlFailed, what, error))
}

/// The failure that an error stands for, with SQLite's extended code of it.
fn failure(code: Code, what: &str, error: &rusqlite::Error) -> Failure {
    let passing = matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::SystemIoFailure
                | ErrorCode::DiskFull
                | ErrorCode::OutOfMemory
                | ErrorCode::OperationInterrupted
                | ErrorCode::FileLockingProtocolFailed
        )
    );
    let message = match (error, error.sqlite_error()) {
        (
            rusqlite::Error::SqlInputError { msg, offset, .. },
            Some(ffi::Error { extended_code, .. }),
        ) => {
            format!("{what}{msg} (SQLite code {extended_code}) at byte {offset}")
        }
        (_, Some(ffi::Error { extended_code, .. })) => {
            format!("{what}{error} (SQLite code {extended_code})")
        }
        (_, None) => format!("{what}{error}"),
    };
    Failure::new(code, message, passing)
}
