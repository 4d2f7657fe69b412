//! Shards that the actor takes up and gives away, where several coordinators share a store.

use std::time::Duration;

use levelflow_common::{ShardId, Timestamp};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Actor;
use crate::recovery::Recovered;

/// Shards in which nothing starts any more. They go when nothing of them runs, or when time is up.
pub(super) struct Leaving {
    shards: Vec<ShardId>,
    pub(super) deadline: Instant,
    reply: oneshot::Sender<()>,
}

impl Actor {
    pub(super) fn take_up(&mut self, recovered: Recovered, reply: oneshot::Sender<()>) {
        let shards = recovered.shards.clone();
        match recovered.take_up(&mut self.engine, self.clock) {
            Ok(()) => {
                let _ = reply.send(());
            }
            Err(error) => {
                // Whoever asked finds that nobody answers, and tries again from the store.
                tracing::error!(error = %error, "shards cannot be taken up");
                self.engine.give_away(self.clock.now(), &shards);
            }
        }
    }

    pub(super) fn begin_to_give(
        &mut self,
        now: Timestamp,
        shards: Vec<ShardId>,
        grace: Duration,
        reply: oneshot::Sender<()>,
    ) {
        self.engine.withdraw(now, &shards);
        self.leaving.push(Leaving {
            shards,
            deadline: Instant::now() + grace,
            reply,
        });
    }

    /// Lets go of shards that are ready for it.
    pub(super) fn give_away(&mut self, now: Timestamp) {
        let is_due = |leaving: &mut Leaving| {
            Instant::now() >= leaving.deadline || self.engine.leases_in(&leaving.shards) == 0
        };
        let due: Vec<_> = self.leaving.extract_if(.., is_due).collect();
        for leaving in due {
            for run in self.engine.give_away(now, &leaving.shards) {
                self.watchers.moved(run);
                self.streams.ended(run);
            }
            let after = self.engine.latest_batch();
            self.answer(now, after, move || {
                // Nobody waits for it when the coordinator has lost them.
                let _ = leaving.reply.send(());
            });
        }
    }

    /// Whether attempts may start: nobody else can have the shards yet.
    pub(super) fn is_sure_of_shards(&self) -> bool {
        self.shards_until.is_none_or(|until| Instant::now() < until)
    }
}
