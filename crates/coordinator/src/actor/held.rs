//! Effects that wait for their batch to be durable.

use levelflow_engine::event::ReplyId;
use levelflow_engine::{BatchNumber, Command, Rejection};

/// Something to do once its batch is durable.
pub(crate) enum Held {
    /// A command of the engine.
    Command(Command),
    /// A refusal, by the engine's state as it was with that batch.
    Refusal(ReplyId, Rejection),
    /// An answer from the engine's state as it was with that batch.
    Answer(Box<dyn FnOnce() + Send>),
}

/// Effects by batch. At most one batch is being committed, and at most one gathers behind it.
#[derive(Default)]
pub(crate) struct HeldEffects {
    durable: BatchNumber,
    committing: Option<BatchNumber>,
    after_commit: Vec<Held>,
    after_next: Vec<Held>,
}

impl HeldEffects {
    /// Gives the effect back if its batch is durable, and keeps it otherwise.
    pub(crate) fn hold(&mut self, after: BatchNumber, effect: Held) -> Option<Held> {
        if after <= self.durable {
            return Some(effect);
        }
        if self.committing == Some(after) {
            self.after_commit.push(effect);
        } else {
            self.after_next.push(effect);
        }
        None
    }

    /// The batch that gathered is being committed.
    pub(crate) fn commit(&mut self, batch: BatchNumber) {
        self.committing = Some(batch);
        std::mem::swap(&mut self.after_commit, &mut self.after_next);
    }

    /// The batch that was being committed is durable: these effects waited for it.
    pub(crate) fn committed(&mut self) -> Vec<Held> {
        if let Some(batch) = self.committing.take() {
            self.durable = batch;
        }
        std::mem::take(&mut self.after_commit)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.after_commit.is_empty() && self.after_next.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_wait_for_their_batch() {
        let mut held = HeldEffects::default();
        let effect = || Held::Answer(Box::new(|| {}));
        assert!(held.hold(BatchNumber(0), effect()).is_some());
        assert!(held.hold(BatchNumber(1), effect()).is_none());
        held.commit(BatchNumber(1));
        assert!(held.hold(BatchNumber(1), effect()).is_none());
        assert!(held.hold(BatchNumber(2), effect()).is_none());
        assert_eq!(held.committed().len(), 2);
        assert!(held.hold(BatchNumber(1), effect()).is_some());
        held.commit(BatchNumber(2));
        assert_eq!(held.committed().len(), 1);
        assert!(held.is_empty());
    }
}
