//! The durable journal of runs, and the listing of them.
//!
//! Whoever owns runs asks a store through the port [`Store`]; [`Sqlite`] keeps them in a file of a data
//! directory, [`Memory`] forgets them. Both pass one suite, `conformance.rs`.
//!
//! # How a commit works
//!
//! 1. [`Store::append`] takes a [`Batch`] of entries, puts it in the queue of the writer thread and
//!    returns at once with a receiver for the outcome.
//! 2. The writer (`sqlite/writer.rs`) takes everything that waits, up to a bound, as one *group*. While
//!    it is busy the next group gathers: there is no timer, and the group is as large as the load.
//! 3. `sqlite/write.rs` makes one transaction of it. All records of an entry are one row of the
//!    append-only table `journal`, in the bytes of `codec.rs`; a run that was submitted or changed its
//!    status gets its row in `runs` written once, however often it changed in the group.
//! 4. `COMMIT` syncs the write-ahead log. Only then is each batch of the group answered.
//! 5. If anything fails, the whole group fails, and every later batch is refused: it may build on
//!    records that are not there. [`Store::recover`] reopens the database and tells what is.
//!
//! Questions go to reader threads with connections of their own, which see what is committed and never
//! wait for the writer. The log is copied into the database when the writer is idle, or when it has
//! grown to its bound.

pub mod error;
pub mod lock;
pub mod memory;
pub mod port;
pub mod sqlite;

#[cfg(test)]
mod conformance;

mod codec;
mod migration;
mod summary;

pub use error::StoreError;
pub use lock::{Owner, owner};
pub use memory::Memory;
pub use port::{Batch, KnownKey, Recovery, RunFilter, RunPage, SequencedRecord, Store};
pub use sqlite::Sqlite;
