//! Errors of the store.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use levelflow_common::Code;
use levelflow_engine::RunNumber;
use levelflow_runtime::config::InvalidSetting;
use levelflow_runtime::postgres::PoolError;

use crate::lock::Owner;

/// Why the store could not do what was asked.
///
/// One failed commit is told to every batch in it, so errors are cheap to clone.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store has closed.
    #[error("the store is closed")]
    Closed,
    /// The disk does not keep up: too many batches wait. This batch was not written, and later ones
    /// are refused until the next recovery, because they may build on it.
    #[error("the store is overloaded: {waiting} batches wait to be written")]
    Overloaded {
        /// How many batches wait.
        waiting: usize,
    },
    /// An earlier batch failed, and this one may build on it: it was not written. A recovery lifts this.
    #[error("the store takes no batches until it is recovered, because an earlier one failed")]
    Suspended {
        /// Why the earlier batch failed.
        source: Arc<StoreError>,
    },
    /// A batch breaks the rules of the journal: it was refused.
    #[error("an entry of {run} was refused: {problem}", run = RunName(*run))]
    Refused {
        /// The run.
        run: RunNumber,
        /// What is wrong.
        problem: &'static str,
    },
    /// The database did not do what it was asked.
    #[error("could not {action} {}", path.display())]
    Database {
        /// What was tried.
        action: &'static str,
        /// The database file.
        path: Arc<Path>,
        /// What the database said.
        source: Arc<rusqlite::Error>,
    },
    /// A file or directory could not be used. Whether a batch that was to be written is durable is
    /// known after the next recovery.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: Arc<std::io::Error>,
    },
    /// The database file is damaged, or it is not a database.
    #[error("{} is damaged or is not a Levelflow database; restore it from a backup", path.display())]
    DatabaseCorrupt {
        /// The database file.
        path: Arc<Path>,
        /// What the database said.
        source: Arc<rusqlite::Error>,
    },
    /// What was durable in the log is not there any more.
    #[error("frame {frame} of the log is damaged or missing in {}", path.display())]
    LogCorrupt {
        /// The segment of the log where it was looked for.
        path: PathBuf,
        /// Its number.
        frame: u64,
    },
    /// A frame of the log is whole, but is not understood: a newer version wrote it.
    #[error("frame {frame} of the log cannot be read")]
    FrameCorrupt {
        /// Its number.
        frame: u64,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// A journal record is damaged.
    #[error("record {sequence} of {run} is damaged", run = RunName(*run))]
    RecordCorrupt {
        /// The run.
        run: RunNumber,
        /// The record, or the first of those that were written together with it.
        sequence: u64,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// The row of a run is damaged.
    #[error("the row of {run} is damaged", run = RunName(*run))]
    RunCorrupt {
        /// The run.
        run: RunNumber,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// A newer version of Levelflow wrote the database.
    #[error(
        "{database} has schema version {found}, but this version of Levelflow knows only {supported}; \
         use the version that wrote it or a newer one"
    )]
    TooNew {
        /// The database.
        database: Arc<str>,
        /// The version that was found.
        found: u32,
        /// The newest version that is known.
        supported: u32,
    },
    /// The PostgreSQL server did not do what it was asked.
    #[error("could not {action} in PostgreSQL")]
    Postgres {
        /// What was tried.
        action: &'static str,
        /// What the server said.
        source: Arc<tokio_postgres::Error>,
    },
    /// There is no connection to the PostgreSQL server.
    #[error("could not connect to PostgreSQL")]
    Unreachable {
        /// Why.
        source: Arc<PoolError>,
    },
    /// The PostgreSQL server did not answer in time.
    #[error("could not {action} in PostgreSQL within {limit:?}")]
    TimedOut {
        /// What was tried.
        action: &'static str,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The PostgreSQL server is set up so that it may lose what it has said to be durable.
    #[error(
        "PostgreSQL runs with `{setting} = {value}` for this database and user, and may lose what it confirmed; \
         change that, or set `allow_unsafe` if losing runs does no harm"
    )]
    UnsafeServer {
        /// The setting of the server.
        setting: &'static str,
        /// Its value.
        value: String,
    },
    /// The PostgreSQL server is of a version that is not supported.
    #[error("PostgreSQL is of version {found}; at least version {required} is needed")]
    ServerTooOld {
        /// Its version.
        found: i32,
        /// The oldest that is supported.
        required: i32,
    },
    /// The store was made with another number of shards, on which the shard of every run depends.
    #[error(
        "the store in schema `{schema}` was made with {found} shards, and {configured} are configured; \
         set `shards = {found}`, or make another store in another schema"
    )]
    ShardCountDiffers {
        /// The schema.
        schema: String,
        /// How many it has.
        found: i64,
        /// How many were asked for.
        configured: u16,
    },
    /// Another coordinator took a shard that the batch writes to, or this one never had it: nothing was
    /// written. A recovery tells what is left.
    #[error("a shard that the batch writes to is not this coordinator's")]
    ShardLost,
    /// The coordinator has not said yet that it is there, or has left.
    #[error("this coordinator is not a member of the cluster")]
    NotMember,
    /// A setting is wrong.
    #[error(transparent)]
    Setting(InvalidSetting),
    /// Another process uses the data directory.
    #[error(
        "the data directory {} is in use by {}; stop it or choose another directory",
        path.display(),
        OwnerName(owner.as_ref())
    )]
    DataDirLocked {
        /// The data directory.
        path: PathBuf,
        /// Who uses it, where that could be read.
        owner: Option<Owner>,
    },
    /// A thread of the store panicked; that is a bug.
    #[error("the {thread} thread of the store ended unexpectedly")]
    ThreadLost {
        /// Which one.
        thread: &'static str,
    },
}

/// Why stored data could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not in the format of records.
    #[error("the bytes are not in the format of records")]
    Format(#[from] prost::DecodeError),
    /// A column has the wrong type.
    #[error("a column has the wrong type")]
    Column(#[source] Arc<rusqlite::Error>),
    /// A value in a row is of the wrong type.
    #[error("a value in the row has the wrong type")]
    Row(#[source] Arc<tokio_postgres::Error>),
    /// A part is missing, or of a kind that only a newer version knows.
    #[error("`{0}` is missing or unknown")]
    Missing(&'static str),
    /// A value is not one of those that are known.
    #[error("`{field}` has the unknown value `{value}`")]
    Unknown {
        /// The field.
        field: &'static str,
        /// The value.
        value: String,
    },
    /// Records are missing.
    #[error("the record is missing; the next one is number {found}")]
    Gap {
        /// The number of the record that was found.
        found: u64,
    },
}

impl StoreError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Closed
            | Self::Overloaded { .. }
            | Self::Suspended { .. }
            | Self::Database { .. }
            | Self::Postgres { .. }
            | Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::ShardLost
            | Self::NotMember
            | Self::Io { .. } => Code::StoreUnavailable,
            Self::DatabaseCorrupt { .. }
            | Self::LogCorrupt { .. }
            | Self::FrameCorrupt { .. }
            | Self::RecordCorrupt { .. }
            | Self::RunCorrupt { .. } => Code::StoreCorrupt,
            Self::TooNew { .. } => Code::StoreTooNew,
            Self::UnsafeServer { .. }
            | Self::ServerTooOld { .. }
            | Self::ShardCountDiffers { .. }
            | Self::Setting(_) => Code::ConfigInvalid,
            Self::DataDirLocked { .. } => Code::DataDirLocked,
            Self::Refused { .. } | Self::ThreadLost { .. } => Code::Internal,
        }
    }

    /// An error of the database, told apart by whether the file itself is damaged.
    pub(crate) fn database(
        action: &'static str,
        path: &Arc<Path>,
        source: rusqlite::Error,
    ) -> Self {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};

        let path = path.clone();
        let damaged = matches!(
            source.sqlite_error_code(),
            Some(DatabaseCorrupt | NotADatabase)
        );
        let source = Arc::new(source);
        if damaged {
            Self::DatabaseCorrupt { path, source }
        } else {
            Self::Database {
                action,
                path,
                source,
            }
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source: Arc::new(source),
        }
    }
}

struct RunName(RunNumber);

impl fmt::Display for RunName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run number {}", self.0.0)
    }
}

struct OwnerName<'a>(Option<&'a Owner>);

impl fmt::Display for OwnerName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(Owner {
                pid,
                address: Some(address),
            }) => write!(f, "the Levelflow process {pid}, which serves {address}"),
            Some(Owner { pid, address: None }) => write!(f, "the Levelflow process {pid}"),
            None => f.write_str("another process"),
        }
    }
}
