//! Whether entries follow the journal.

use std::collections::HashMap;

use levelflow_common::ShardCount;
use levelflow_engine::{Entry, RunNumber};

use crate::commit::begins_run;
use crate::error::StoreError;
use crate::port::Recovery;

/// Where the journal of each open run goes on, in the shards that were taken up.
#[derive(Debug)]
pub(crate) struct Sequences {
    shards: ShardCount,
    next: HashMap<RunNumber, u64>,
    /// By shard, a number above those of its runs.
    next_run: Vec<RunNumber>,
}

impl Sequences {
    /// Of a store in which nothing was taken up yet.
    pub(crate) fn new(shards: ShardCount) -> Self {
        Self {
            shards,
            next: HashMap::new(),
            next_run: vec![RunNumber::default(); usize::from(shards.get())],
        }
    }

    /// Goes on from a recovery, in the shards that it is about.
    pub(crate) fn take_up(&mut self, recovery: &Recovery) {
        let shards = self.shards;
        self.next
            .retain(|run, _| !recovery.shards.contains(&shards.of_number(run.0)));
        let open = recovery.open.iter();
        self.next
            .extend(open.map(|(run, records)| (*run, records.len() as u64 + 1)));
        for shard in &recovery.shards {
            self.next_run[usize::from(shard.0)] = recovery.next_run;
        }
    }

    /// Takes the next entry. After an error only a recovery helps.
    pub(crate) fn follow(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let refused = |problem| StoreError::Refused {
            run: entry.run,
            problem,
        };
        let after = entry.first_sequence + entry.records.len() as u64;
        let shard = self.shards.of_number(entry.run.0);
        let next_run = &mut self.next_run[usize::from(shard.0)];
        match self.next.get_mut(&entry.run) {
            Some(next) if *next == entry.first_sequence => *next = after,
            Some(_) => return Err(refused("its sequence does not follow the journal")),
            None if !begins_run(entry) => return Err(refused("its run is unknown")),
            None if entry.run < *next_run => return Err(refused("its run is already known")),
            None => {
                *next_run = RunNumber(entry.run.0 + 1);
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

#[cfg(test)]
mod tests {
    use levelflow_common::ShardId;

    use super::*;
    use crate::conformance::sample;

    #[test]
    fn shards_are_numbered_and_taken_up_apart() {
        let shards = ShardCount::new(4).unwrap();
        let mut sequences = Sequences::new(shards);
        sequences.follow(&sample::submit(9)).unwrap();
        sequences.follow(&sample::submit(6)).unwrap();
        assert!(sequences.follow(&sample::submit(5)).is_err(), "9 is there");
        sequences.take_up(&Recovery {
            shards: vec![ShardId(1)],
            next_run: RunNumber(17),
            open: vec![(RunNumber(13), sample::submit(13).records)],
            ..Recovery::default()
        });
        sequences.follow(&sample::succeed(13, 2, 1)).unwrap();
        sequences.follow(&sample::succeed(6, 2, 1)).unwrap();
        let gone = sequences.follow(&sample::succeed(9, 2, 1)).unwrap_err();
        assert!(gone.to_string().ends_with("its run is unknown"), "{gone}");
        assert!(sequences.follow(&sample::submit(9)).is_err());
        sequences.follow(&sample::submit(17)).unwrap();
    }
}
