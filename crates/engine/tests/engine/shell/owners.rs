//! Who has the runs: an engine that dies, and shards that change hands.

use std::collections::BTreeSet;

use levelflow_common::{FencingToken, ShardId};
use levelflow_engine::{BatchNumber, Engine, RunNumber, RunState};

use super::Shell;

impl Shell {
    /// The coordinator dies with everything that was not durable, and starts again.
    pub(crate) fn crash(&mut self) {
        self.config.epoch += 1;
        let last = self.store.keys().next_back().map_or(0, |number| number.0);
        self.engine = Engine::new(self.config.clone(), RunNumber(last + 1));
        self.told = self.store.clone();
        self.numbers.retain(|_, number| number.0 <= last);
        self.committing.clear();
        self.effects.clear();
        self.breakers.clear();
        self.forget_attempts();
        self.requests.clear();
        self.prepares.clear();
        self.keeping.clear();
        self.renders.clear();
        (self.taken, self.durable) = (BatchNumber(0), BatchNumber(0));
        for worker in &mut self.workers {
            worker.session = None;
            worker.credits = 0;
        }
        self.away = self.config.shards.all().collect();
        self.crashed_at = FencingToken(self.config.epoch << 44);
        self.take_up(&self.away.clone());
    }

    /// The engine takes up shards that it has not, as another one has left them.
    pub(crate) fn take_up(&mut self, shards: &BTreeSet<ShardId>) {
        self.config.epoch += 1;
        let last = self.store.keys().next_back().map_or(0, |number| number.0);
        let taken: Vec<_> = shards.iter().copied().collect();
        let (epoch, next) = (self.config.epoch, RunNumber(last + 1));
        self.engine.take_up(epoch, &taken, next);
        self.away.retain(|shard| !shards.contains(shard));
        for (&number, fold) in &self.store {
            let records = &self.journals[&number];
            let replayed = RunState::replay(number, fold.definition.clone(), records).unwrap();
            assert_eq!(replayed.view(), fold.view());
            let shard = self.config.shards.of_run(fold.submitted.run_id);
            if !fold.status.is_terminal() && shards.contains(&shard) {
                let definition = fold.definition.clone();
                self.engine
                    .restore(self.now, number, definition, records)
                    .unwrap();
                self.engine.check_invariants();
            }
        }
        self.settle_event();
    }

    /// The engine gives shards away, when all that it said is durable.
    pub(crate) fn give_away(&mut self, shards: &BTreeSet<ShardId>) {
        let given: Vec<_> = shards.iter().copied().collect();
        self.engine.withdraw(self.now, &given);
        self.settle_event();
        self.flush();
        self.commit_all();
        self.engine.give_away(self.now, &given);
        self.forget_attempts();
        self.settle_event();
        self.away.extend(shards);
    }

    /// The engine knows of no attempts any more, or not of all.
    fn forget_attempts(&mut self) {
        self.audit.lost.clear();
        let held = self.workers.iter_mut();
        for held in held.flat_map(|worker| worker.held.values_mut()) {
            held.is_forgotten = true;
        }
    }
}
