//! Tasks that wait for the same key.

use std::collections::{BTreeMap, BTreeSet};

use levelflow_common::Priority;

use crate::event::Ticket;
use crate::limit::{LimitedTask, Turn};
use crate::ready::AGED_ONE_IN;

/// Tasks that wait for the same key; those with the same limit wait together.
#[derive(Debug)]
pub(crate) struct Waiting<L> {
    groups: BTreeMap<L, Group>,
}

/// In a group the more urgent goes first, then the first come; now and then the first come goes before
/// all, so that none waits for ever.
#[derive(Debug, Default)]
struct Group {
    by_age: BTreeMap<Ticket, (Priority, LimitedTask)>,
    by_priority: BTreeSet<Turn>,
    taken: u32,
}

impl<L> Default for Waiting<L> {
    fn default() -> Self {
        Self {
            groups: BTreeMap::new(),
        }
    }
}

impl<L: Copy + Ord> Waiting<L> {
    pub(crate) fn insert(&mut self, limit: L, turn: Turn, task: LimitedTask) {
        let group = self.groups.entry(limit).or_default();
        group.by_age.insert(turn.1, (turn.0, task));
        group.by_priority.insert(turn);
    }

    pub(crate) fn remove(&mut self, limit: L, turn: Turn) {
        if let Some(group) = self.groups.get_mut(&limit) {
            group.by_age.remove(&turn.1);
            group.by_priority.remove(&turn);
            if group.by_age.is_empty() {
                self.groups.remove(&limit);
            }
        }
    }

    /// Takes the next task with this limit.
    pub(crate) fn take(&mut self, limit: L) -> Option<LimitedTask> {
        let group = self.groups.get_mut(&limit)?;
        let (&oldest, &(priority, _)) = group.by_age.first_key_value()?;
        group.taken = group.taken.wrapping_add(1);
        let turn = if group.taken.is_multiple_of(AGED_ONE_IN) {
            (priority, oldest)
        } else {
            *group.by_priority.first()?
        };
        let (_, task) = *group.by_age.get(&turn.1)?;
        self.remove(limit, turn);
        Some(task)
    }

    /// The limits for which tasks wait, from the lowest.
    pub(crate) fn limits(&self) -> impl Iterator<Item = L> {
        self.groups.keys().copied()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.groups.values().map(|group| group.by_age.len()).sum()
    }

    /// All that wait.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (L, LimitedTask)> {
        self.groups.iter().flat_map(|(&limit, group)| {
            let tasks = group.by_age.values();
            tasks.map(move |&(_, task)| (limit, task))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::RunKey;
    use crate::record::TaskIndex;

    fn task(number: u32) -> LimitedTask {
        (RunKey(0), TaskIndex(number))
    }

    #[test]
    fn the_more_urgent_goes_first_but_the_oldest_is_not_forgotten() {
        let mut waiting = Waiting::default();
        waiting.insert(1, (Priority::Low, Ticket(0)), task(0));
        waiting.insert(1, (Priority::Low, Ticket(1)), task(1));
        for number in 2..8 {
            let turn = (Priority::High, Ticket(number.into()));
            waiting.insert(1, turn, task(number));
        }
        waiting.insert(2, (Priority::Critical, Ticket(9)), task(9));
        waiting.remove(1, (Priority::High, Ticket(7)));
        let mut order = Vec::new();
        while let Some((_, TaskIndex(number))) = waiting.take(1) {
            order.push(number);
        }
        assert_eq!(order, [2, 3, 4, 0, 5, 6, 1]);
        assert_eq!(waiting.limits().collect::<Vec<_>>(), [2]);
        assert_eq!((waiting.len(), waiting.take(3)), (1, None));
    }
}
