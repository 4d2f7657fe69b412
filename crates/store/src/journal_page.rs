//! Records of a run's journal as they are read from rows, each of which has some.

use levelflow_engine::{Record, RunNumber};

use crate::error::{DecodeError, StoreError};
use crate::port::SequencedRecord;

/// The records that were asked for, while they are gathered.
pub(crate) struct JournalPage {
    run: RunNumber,
    /// The sequence of the first record that is wanted.
    pub(crate) wanted: u64,
    limit: usize,
    /// Where the next row has to begin.
    expected: Option<u64>,
    found: Vec<SequencedRecord>,
}

impl JournalPage {
    /// Of a run, after a sequence number.
    pub(crate) fn new(run: RunNumber, after_sequence: u64, limit: usize) -> Self {
        Self {
            run,
            wanted: after_sequence.saturating_add(1),
            limit,
            expected: None,
            found: Vec::new(),
        }
    }

    /// Whether there is room for no more.
    pub(crate) fn is_full(&self) -> bool {
        self.found.len() >= self.limit
    }

    /// Takes what is wanted of a row. The first may begin before the first record that is wanted.
    pub(crate) fn add(&mut self, first: u64, records: Vec<Record>) -> Result<(), StoreError> {
        let expected = self.expected.unwrap_or(first.min(self.wanted));
        check_follows(self.run, expected, first)?;
        self.expected = Some(first + records.len() as u64);
        let room = self.limit - self.found.len();
        self.found.extend(
            (first..)
                .zip(records)
                .map(|(sequence, record)| SequencedRecord { sequence, record })
                .skip_while(|record| record.sequence < self.wanted)
                .take(room),
        );
        Ok(())
    }

    /// The records.
    pub(crate) fn into_records(self) -> Vec<SequencedRecord> {
        self.found
    }
}

/// Whether records of a run begin where those before them end.
pub(crate) fn check_follows(run: RunNumber, expected: u64, found: u64) -> Result<(), StoreError> {
    if expected == found {
        return Ok(());
    }
    Err(StoreError::RecordCorrupt {
        run,
        sequence: expected,
        source: DecodeError::Gap { found },
    })
}
