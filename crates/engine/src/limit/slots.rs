//! The slots of one concurrency key.

use std::collections::BTreeMap;

use crate::event::Ticket;
use crate::lane::LaneId;
use crate::limit::LimitedTask;
use crate::limit::waiting::Waiting;

/// Who has a slot of one concurrency key, and who waits for one.
///
/// Each task has a limit of its own, and gets a slot when fewer than that are taken.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    /// Tasks that know the key.
    tasks: usize,
    /// The tasks that count: they have a slot or wait, and were not displaced. The oldest first.
    counted: BTreeMap<Ticket, LimitedTask>,
    /// The tasks whose attempts have a slot; the oldest first.
    holders: BTreeMap<Ticket, LimitedTask>,
    /// Tasks in the queues of lanes, which take a slot when they are given to a worker.
    queued: BTreeMap<LaneId, usize>,
    /// Those with the same limit wait together for each lane, since one lane may be served while another
    /// is not.
    pub(crate) waiting: Waiting<(u32, LaneId)>,
}

impl Slots {
    /// A task comes in. With `displace`, gives those that have to go so that no more than its limit
    /// count.
    pub(crate) fn enter(
        &mut self,
        ticket: Ticket,
        task: LimitedTask,
        limit: u32,
        displace: bool,
    ) -> Vec<(Ticket, LimitedTask)> {
        let mut displaced = Vec::new();
        while displace && self.is_full(limit) {
            displaced.extend(self.counted.pop_first());
        }
        self.counted.insert(ticket, task);
        self.tasks += 1;
        displaced
    }

    /// A task that came in is gone.
    pub(crate) fn leave(&mut self, ticket: Ticket) {
        self.counted.remove(&ticket);
        self.tasks -= 1;
    }

    /// Whether as many tasks have a slot or wait as may have one.
    pub(crate) fn is_full(&self, limit: u32) -> bool {
        self.counted.len() >= limit as usize
    }

    /// Whether one more attempt may start.
    pub(crate) fn has_room(&self, limit: u32) -> bool {
        self.holders.len() < limit as usize
    }

    /// Whether one more task may be queued, without going before those that wait.
    pub(crate) fn admits(&self, limit: u32, lane: LaneId) -> bool {
        let is_next = self.waiting.is_empty() || self.may_call(limit, lane);
        self.has_room(limit) && is_next
    }

    fn may_call(&self, limit: u32, lane: LaneId) -> bool {
        self.holders.len() + self.queued_in(lane) < limit as usize
    }

    pub(crate) fn queued_in(&self, lane: LaneId) -> usize {
        self.queued.get(&lane).copied().unwrap_or_default()
    }

    /// The next task that waits and may be queued.
    pub(crate) fn call(&mut self) -> Option<LimitedTask> {
        let group = self
            .waiting
            .limits()
            .find(|&(limit, lane)| self.may_call(limit, lane))?;
        self.waiting.take(group)
    }

    /// A task was queued.
    pub(crate) fn queue(&mut self, lane: LaneId) {
        *self.queued.entry(lane).or_default() += 1;
    }

    /// A task left its queue.
    pub(crate) fn unqueue(&mut self, lane: LaneId) {
        if let Some(count) = self.queued.get_mut(&lane) {
            *count -= 1;
            if *count == 0 {
                self.queued.remove(&lane);
            }
        }
    }

    /// An attempt of a task starts.
    pub(crate) fn take(&mut self, ticket: Ticket, task: LimitedTask) {
        self.holders.insert(ticket, task);
    }

    /// Its lease ended.
    pub(crate) fn free(&mut self, ticket: Ticket) {
        self.holders.remove(&ticket);
    }

    pub(crate) fn is_unused(&self) -> bool {
        self.tasks == 0
    }

    /// Those that have a slot; the oldest first.
    pub(crate) fn holders(&self) -> impl ExactSizeIterator<Item = LimitedTask> {
        self.holders.values().copied()
    }
}
