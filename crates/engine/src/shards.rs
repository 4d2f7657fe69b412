//! The shards whose runs the engine has: taking them up from another engine, and giving them away.

use std::collections::BTreeSet;

use levelflow_common::{RunId, ShardCount, ShardId, Timestamp};

use crate::engine::{Engine, KeyName};
use crate::event::RunKey;
use crate::live::{LiveRun, LiveTask};
use crate::record::{RunNumber, TaskIndex};
use crate::rejection::Rejection;

/// The shards whose runs the engine has.
#[derive(Debug)]
pub(crate) struct OwnedShards {
    count: ShardCount,
    owned: BTreeSet<ShardId>,
    /// Those of them in which nothing starts any more, because they are about to be given away.
    leaving: BTreeSet<ShardId>,
}

impl OwnedShards {
    /// An engine that has a store for itself has all of it; one of several is told what it has.
    pub(crate) fn new(count: ShardCount) -> Self {
        let owned = match count {
            ShardCount::ONE => count.all().collect(),
            _ => BTreeSet::new(),
        };
        Self {
            count,
            owned,
            leaving: BTreeSet::new(),
        }
    }

    pub(crate) fn has(&self, shard: ShardId) -> bool {
        self.owned.contains(&shard)
    }
}

impl Engine {
    /// Whether it has the runs of a shard.
    pub fn has_shard(&self, shard: ShardId) -> bool {
        self.shards.has(shard)
    }

    /// The shards whose runs it takes in.
    pub fn open_shards(&self) -> impl Iterator<Item = ShardId> {
        let shards = &self.shards;
        shards.owned.difference(&shards.leaving).copied()
    }

    /// Takes up shards, under an epoch that is above all before: their open runs are to be restored
    /// next. Runs that come get numbers from `next_run` on.
    pub fn take_up(&mut self, epoch: u64, shards: &[ShardId], next_run: RunNumber) {
        self.config.epoch = self.config.epoch.max(epoch);
        self.leases.raise_epoch(self.config.epoch);
        self.next_run = self.next_run.max(next_run);
        self.shards.owned.extend(shards);
    }

    /// Starts nothing more in these shards. What runs on workers goes on, and its outcome counts.
    pub fn withdraw(&mut self, now: Timestamp, shards: &[ShardId]) {
        let shards: BTreeSet<_> = shards.iter().copied().collect();
        let shards = &shards & &self.shards.owned;
        let runs = self.open_runs_in(&shards);
        self.shards.leaving.extend(&shards);
        for &key in &runs {
            let run = self.run_mut(key);
            run.is_leaving = true;
            run.gate.forget_waiting(&run.state);
            for task in run.all_tasks() {
                let live = &self.run(key).tasks[task.0 as usize];
                let runs_already = matches!(live, LiveTask::Leased(token)
                    if self.leases.get(*token).is_some_and(|lease| lease.sent));
                if !runs_already {
                    self.release(now, key, task);
                }
            }
        }
        for &key in &runs {
            for task in self.run(key).all_tasks() {
                if matches!(self.run(key).tasks[task.0 as usize], LiveTask::Idle) {
                    self.land(now, key, task);
                }
            }
        }
    }

    /// How many attempts of these shards are on workers.
    pub fn leases_in(&self, shards: &[ShardId]) -> usize {
        let shards: BTreeSet<_> = shards.iter().copied().collect();
        let runs = self.open_runs_in(&shards).into_iter();
        runs.map(|key| self.run(key).leases as usize).sum()
    }

    /// Forgets the open runs of shards, which then another engine may restore when all that was gathered
    /// before is durable. Workers are told to stop what they still run; it counts as never started.
    pub fn give_away(&mut self, now: Timestamp, shards: &[ShardId]) -> Vec<RunNumber> {
        self.withdraw(now, shards);
        let shards: BTreeSet<_> = shards.iter().copied().collect();
        let runs = self.open_runs_in(&shards);
        let numbers = runs.iter().map(|&key| self.run(key).state.number).collect();
        for key in runs {
            for task in self.run(key).all_tasks() {
                self.release(now, key, task);
                self.land(now, key, task);
            }
            let run = self.runs.remove(key.0 as usize);
            for (at, timer) in run.timers {
                self.timers.disarm(at, timer);
            }
            self.by_id.remove(&run.state.submitted.run_id);
            self.open_runs -= 1;
        }
        let count = self.shards.count;
        let has_left = |(tenant, key): &KeyName| shards.contains(&count.of_key(tenant, key));
        self.keys.retain(|name, _| !has_left(name));
        self.fading_keys.retain(|(_, _, name)| !has_left(name));
        self.shards.owned.retain(|shard| !shards.contains(shard));
        self.shards.leaving.retain(|shard| !shards.contains(shard));
        numbers
    }

    /// Refuses runs of shards that are another's, or are about to be.
    pub(crate) fn check_shard(&self, shard: ShardId) -> Result<(), Rejection> {
        if self.shards.has(shard) && !self.shards.leaving.contains(&shard) {
            return Ok(());
        }
        Err(Rejection::ShardElsewhere(shard))
    }

    /// The number of a new run.
    ///
    /// Where there is one shard they are dense. Where there are more, the remainder names the shard, and
    /// the numbers grow with time, so that those of all engines are in the order of submission.
    pub(crate) fn number_run(&mut self, now: Timestamp, shard: ShardId) -> RunNumber {
        let shards = u64::from(self.shards.count.get());
        let by_time = match self.shards.count {
            ShardCount::ONE => 0,
            _ => (now.as_micros() / 1000) << NUMBERS_PER_MILLISECOND,
        };
        let group = self.next_run.0.div_ceil(shards).max(by_time);
        let number = RunNumber(group * shards + u64::from(shard.0));
        self.next_run = RunNumber(number.0 + 1);
        number
    }

    pub(crate) fn shard_of(&self, run: RunId) -> ShardId {
        self.shards.count.of_run(run)
    }

    fn open_runs_in(&self, shards: &BTreeSet<ShardId>) -> Vec<RunKey> {
        let is_in = |run: &LiveRun| {
            let shard = self.shard_of(run.state.submitted.run_id);
            shards.contains(&shard) && !run.state.status.is_terminal()
        };
        let runs = self.runs.iter().filter(|(_, run)| is_in(run));
        runs.map(|(key, _)| RunKey(key as u32)).collect()
    }
}

impl LiveRun {
    fn all_tasks(&self) -> impl Iterator<Item = TaskIndex> + use<> {
        (0..self.tasks.len() as u32).map(TaskIndex)
    }
}

/// As a power of two: how many runs can be numbered in each millisecond before numbers run ahead of time.
const NUMBERS_PER_MILLISECOND: u32 = 8;
