//! The rows that commits become, whatever the database.

use std::sync::Arc;

use bytes::Bytes;
use levelflow_common::Timestamp;
use levelflow_engine::{Progress, RunNumber, Submitted};

use crate::commit::CommittedEntry;

/// A journal row takes the records of further entries of its run up to so many bytes: who reads from
/// the middle of a journal reads a whole row.
const MAX_ROW_BYTES: usize = 256 * 1024;

/// The entries of one run in commits that are written together; they follow one another.
pub(crate) struct RunEntries<'a>(&'a [&'a CommittedEntry]);

/// A row of the journal.
pub(crate) struct JournalRow {
    pub(crate) run: RunNumber,
    pub(crate) first_sequence: u64,
    pub(crate) records: Bytes,
}

/// What commits do to the row of a run. A run that starts and ends in them is written once.
pub(crate) struct RunChange<'a> {
    pub(crate) run: RunNumber,
    pub(crate) submitted: Option<&'a (Timestamp, Arc<Submitted>)>,
    pub(crate) progress: Option<&'a Progress>,
}

/// Puts entries together by run, and has each run told, by number.
pub(crate) fn by_run<E>(
    mut entries: Vec<&CommittedEntry>,
    mut each: impl FnMut(RunEntries<'_>) -> Result<(), E>,
) -> Result<(), E> {
    // The entries of a run stay in their order.
    entries.sort_by_key(|entry| entry.run);
    entries
        .chunk_by(|a, b| a.run == b.run)
        .try_for_each(|of_run| each(RunEntries(of_run)))
}

impl RunEntries<'_> {
    /// As few rows as can be.
    pub(crate) fn journal(&self) -> impl Iterator<Item = JournalRow> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let [first, after @ ..] = rest else {
                return None;
            };
            let mut bytes = first.records.len();
            let joined = after
                .iter()
                .take_while(|entry| {
                    bytes += entry.records.len();
                    bytes <= MAX_ROW_BYTES
                })
                .count();
            let records = match joined {
                0 => first.records.clone(),
                _ => {
                    let parts = rest[..=joined].iter().map(|entry| &entry.records[..]);
                    parts.collect::<Vec<_>>().concat().into()
                }
            };
            rest = &after[joined..];
            Some(JournalRow {
                run: first.run,
                first_sequence: first.first_sequence,
                records,
            })
        })
    }

    /// What becomes of the row of the run, if anything.
    pub(crate) fn change(&self) -> Option<RunChange<'_>> {
        let [first, ..] = self.0 else {
            return None;
        };
        let entries = self.0.iter();
        let change = RunChange {
            run: first.run,
            submitted: entries.clone().find_map(|entry| entry.submitted.as_ref()),
            progress: entries.rev().find_map(|entry| entry.progress.as_ref()),
        };
        (change.submitted.is_some() || change.progress.is_some()).then_some(change)
    }
}
