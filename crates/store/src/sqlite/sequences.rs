//! Whether entries follow the journal.

use std::collections::HashMap;

use levelflow_engine::{Entry, RunNumber};

use crate::commit::begins_run;
use crate::error::StoreError;
use crate::port::Recovery;

/// Where the journal of each open run goes on.
#[derive(Debug)]
pub(super) struct Sequences {
    next: HashMap<RunNumber, u64>,
    next_run: RunNumber,
}

impl Sequences {
    /// As a recovery found them.
    pub(super) fn of(recovery: &Recovery) -> Self {
        let open = recovery.open.iter();
        Self {
            next: open
                .map(|(run, records)| (*run, records.len() as u64 + 1))
                .collect(),
            next_run: recovery.next_run,
        }
    }

    /// Takes the next entry. After an error only a recovery helps.
    pub(super) fn follow(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let refused = |problem| StoreError::Refused {
            run: entry.run,
            problem,
        };
        let after = entry.first_sequence + entry.records.len() as u64;
        match self.next.get_mut(&entry.run) {
            Some(next) if *next == entry.first_sequence => *next = after,
            Some(_) => return Err(refused("its sequence does not follow the journal")),
            None if !begins_run(entry) => return Err(refused("its run is unknown")),
            None if entry.run < self.next_run => return Err(refused("its run is already known")),
            None => {
                self.next_run = RunNumber(entry.run.0 + 1);
                self.next.insert(entry.run, after);
            }
        }
        if entry
            .progress
            .as_ref()
            .is_some_and(|progress| progress.status.is_terminal())
        {
            self.next.remove(&entry.run);
        }
        Ok(())
    }
}
