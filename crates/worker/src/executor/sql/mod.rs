//! Tasks of type `sql`: statements for a database that the worker's configuration names.
//!
//! Values come as parameters only. What the database gives is read row by row within the bounds of the
//! task; what the output looks like stands in `answer`, what values become in `postgres/value.rs` and
//! `sqlite.rs`.
//!
//! A task whose connection is lost is tried again as its retry policy says, and so is one that the
//! database could not serialize with others. Whether a lost statement had its effect is not known then:
//! write statements that may be repeated, for example `insert … on conflict do nothing`.

mod answer;
mod config;
mod pool;
mod postgres;
mod sqlite;
mod work;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levelflow_common::task_input::SqlInput;
use levelflow_common::{AttemptResult, Code, Failure, HumanDuration};
use levelflow_proto::v1;

use super::output::read_input;
use crate::attempt::cancelled;
use crate::context::Context;
use crate::error::WorkerError;
use postgres::Postgres;
use sqlite::Sqlite;
use work::Work;

pub use config::SqlConnection;
pub use pool::SqlPoolStatistics;

/// The databases that a worker can ask. Cheap to clone.
#[derive(Clone, Default)]
pub struct SqlDatabases(Arc<BTreeMap<String, Database>>);

enum Database {
    Postgres(Box<Postgres>),
    Sqlite(Sqlite),
}

/// Why a task did not get what it asked for.
#[derive(Debug)]
enum SqlError {
    /// The database answered that it will not.
    Refused(Failure),
    /// What was prepared on the connection no longer fits its tables; nothing was done.
    Outdated(Failure),
    /// The database did not answer.
    Unreachable(Failure),
    /// No connection was free.
    Busy(Failure),
    /// The task asked for something that cannot be, or got more than it wanted.
    Local(Failure),
}

impl SqlError {
    /// Whether the database answered.
    fn is_answer(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Outdated(_))
    }
}

impl From<Failure> for SqlError {
    fn from(failure: Failure) -> Self {
        Self::Local(failure)
    }
}

impl From<SqlError> for Failure {
    fn from(error: SqlError) -> Self {
        match error {
            SqlError::Refused(failure)
            | SqlError::Outdated(failure)
            | SqlError::Unreachable(failure)
            | SqlError::Busy(failure)
            | SqlError::Local(failure) => failure,
        }
    }
}

fn out_of_time(limit: Duration) -> Failure {
    Failure::retryable(
        Code::SqlFailed,
        format!("it took longer than {}", HumanDuration(limit)),
    )
}

impl SqlDatabases {
    /// The databases of a configuration that was checked. Nothing is connected yet.
    pub(crate) fn new(connections: &BTreeMap<String, SqlConnection>) -> Result<Self, WorkerError> {
        let mut databases = BTreeMap::new();
        for (name, settings) in connections {
            let wrong = |(key, problem): (String, String)| WorkerError::Setting {
                setting: format!("connections.{name}.{key}").into(),
                problem,
            };
            let url = settings.places().read().map_err(wrong)?;
            let url = url.as_ref().map_or("", |url| url.reveal());
            let database = if postgres::is_postgres(url) {
                Postgres::new(url, settings).map(|it| Database::Postgres(Box::new(it)))
            } else if let Some(path) = sqlite::path_of(url) {
                Sqlite::new(path, settings).map(Database::Sqlite)
            } else {
                Err("must begin with `postgres://` or `sqlite:`".to_owned())
            };
            let database = database.map_err(|problem| wrong(("url".to_owned(), problem)))?;
            databases.insert(name.clone(), database);
        }
        Ok(Self(Arc::new(databases)))
    }

    /// What the connections are doing, by the names of the databases.
    pub fn statistics(&self) -> BTreeMap<String, SqlPoolStatistics> {
        self.0
            .iter()
            .map(|(name, database)| (name.clone(), database.statistics()))
            .collect()
    }

    /// What a heartbeat says of the connections.
    pub(crate) fn pools(&self) -> impl Iterator<Item = v1::Pool> {
        self.0
            .iter()
            .map(|(name, database)| database.statistics().to_message(name))
    }

    /// Their names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Runs an attempt.
    pub(super) async fn run(self, context: Context, input: Bytes) -> AttemptResult {
        let input: SqlInput = read_input(&input)?;
        let Some(database) = self.0.get(&input.connection) else {
            return Err(Failure::permanent(
                Code::TaskUnsupported,
                format!("this worker has no connection `{}`", input.connection),
            ));
        };
        let work = Work::of(input)?;
        let call = context.call_own_upstream();
        let result = tokio::select! {
            biased;
            () = context.cancelled() => return Err(cancelled()),
            result = database.run(work) => result,
        };
        match (call, &result) {
            (Some(call), Err(SqlError::Unreachable(_))) => call.failed(),
            (Some(call), Err(error)) if error.is_answer() => call.succeeded(),
            (Some(call), Ok(_)) => call.succeeded(),
            _ => {}
        }
        Ok(result?)
    }
}

impl Database {
    fn statistics(&self) -> SqlPoolStatistics {
        match self {
            Self::Postgres(database) => database.statistics(),
            Self::Sqlite(database) => database.statistics(),
        }
    }

    async fn run(&self, work: Work) -> Result<Bytes, SqlError> {
        match self {
            Self::Postgres(database) => database.run(&work).await,
            Self::Sqlite(database) => database.run(work).await,
        }
    }
}

impl std::fmt::Debug for SqlDatabases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
