//! Effects that wait for their batch to be durable.

use std::collections::VecDeque;

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

/// Effects by batch: those of the batches that are being committed, and of the one that gathers.
#[derive(Default)]
pub(crate) struct HeldEffects {
    durable: BatchNumber,
    /// By batch, in the order of their numbers, which have no gap.
    committing: VecDeque<(BatchNumber, Vec<Held>)>,
    after_next: Vec<Held>,
}

impl HeldEffects {
    /// Gives the effect back if its batch is durable, and keeps it otherwise.
    pub(crate) fn hold(&mut self, after: BatchNumber, effect: Held) -> Option<Held> {
        if after <= self.durable {
            return Some(effect);
        }
        let first = self.committing.front().map(|(number, _)| number.0);
        let place = first.and_then(|first| usize::try_from(after.0 - first).ok());
        match place.and_then(|place| self.committing.get_mut(place)) {
            Some((_, effects)) => effects.push(effect),
            None => self.after_next.push(effect),
        }
        None
    }

    /// The batch that gathered is being committed.
    pub(crate) fn commit(&mut self, batch: BatchNumber) {
        let effects = std::mem::take(&mut self.after_next);
        self.committing.push_back((batch, effects));
    }

    /// The oldest batch that was being committed is durable: these effects waited for it.
    pub(crate) fn committed(&mut self) -> Vec<Held> {
        let Some((batch, effects)) = self.committing.pop_front() else {
            return Vec::new();
        };
        self.durable = batch;
        effects
    }

    pub(crate) fn is_empty(&self) -> bool {
        let mut committing = self.committing.iter();
        committing.all(|(_, effects)| effects.is_empty()) && self.after_next.is_empty()
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

    #[test]
    fn batches_become_durable_one_after_the_other() {
        let mut held = HeldEffects::default();
        let effect = || Held::Answer(Box::new(|| {}));
        held.commit(BatchNumber(1));
        held.commit(BatchNumber(2));
        assert!(held.hold(BatchNumber(2), effect()).is_none());
        assert!(held.hold(BatchNumber(3), effect()).is_none());
        assert!(held.hold(BatchNumber(1), effect()).is_none());
        assert_eq!(held.committed().len(), 1);
        assert!(held.hold(BatchNumber(1), effect()).is_some());
        assert!(held.hold(BatchNumber(2), effect()).is_none());
        held.commit(BatchNumber(3));
        assert_eq!(held.committed().len(), 2);
        assert_eq!(held.committed().len(), 1);
        assert!(held.is_empty());
    }
}
