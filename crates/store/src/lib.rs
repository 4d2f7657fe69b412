//! The durable journal of runs, and the listing of them.
//!
//! Whoever owns runs asks a store through the port [`Store`]; [`Sqlite`] keeps them in a file of a data
//! directory, [`Postgres`] in a database that coordinators share, [`Memory`] forgets them. All pass one
//! suite, `conformance.rs`. What follows is about SQLite; `postgres/mod.rs` and `postgres/commit.rs` tell of
//! the other.
//!
//! # How a commit works
//!
//! 1. [`Store::append`] takes a [`Batch`] of entries, puts it in the queue of the writer thread and
//!    returns at once with a receiver for the outcome.
//! 2. The writer (`sqlite/writer.rs`) takes everything that waits, up to a bound, as one *group*. While
//!    it is busy the next group gathers: there is no timer, and the group is as large as the load.
//! 3. `commit.rs` makes one frame of it: all records of an entry in the bytes of `codec.rs`. The *log*
//!    (`log/`) appends the frame to a file and syncs it: one write and one `fdatasync`. Only then is
//!    each batch of the group answered.
//! 4. If anything fails, the whole group fails, and every later batch is refused: it may build on
//!    records that are not there. [`Store::recover`] opens the log again and tells what is.
//!
//! # How it gets into the database
//!
//! The filer (`sqlite/filer.rs`) lets commits gather for a moment and files them as one transaction,
//! with the number of the last: all entries of a run in it are one row of the append-only table
//! `journal`, and the run gets its row in `runs` written once, however often it changed. These
//! transactions are not synced. A checkpoint makes them durable, and the files of the log that they
//! came from are written again. What a crash left in the log is filed at the next start; a store that
//! was closed has no log, only the one file of the database.
//!
//! Questions go to reader threads with connections of their own. They have the filer catch up first, so
//! that they see all that is durable.

pub mod codec;
pub mod error;
pub mod lock;
pub mod memory;
pub mod port;
pub mod postgres;
pub mod shards;
pub mod sqlite;

#[cfg(test)]
mod conformance;

mod column;
mod commit;
mod group;
mod journal_page;
mod log;
mod migration;
mod rows;
mod sequences;
mod summary;

pub use error::StoreError;
pub use lock::{Owner, owner};
pub use memory::Memory;
pub use port::{Batch, KnownKey, Recovery, RunFilter, RunPage, SequencedRecord, Store};
pub use postgres::Postgres;
pub use shards::{ClusterView, Member, MemberId, ShardState, Shards};
pub use sqlite::Sqlite;
