//! The queue of ready tasks that wait for the same kind of worker.
//!
//! Order: priority class; inside a class tenants take turns; of one tenant's tasks the one with the
//! longest remaining path, then the one with more dependents, then the first come. Now and then a task
//! that has waited for longer than the ageing time goes before all of that.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use levelflow_common::{Priority, Timestamp};

use crate::event::{RunKey, Ticket};
use crate::record::TaskIndex;

/// A task that waits for a worker. Of two, the greater goes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Ready {
    /// Weight of the longest path from the task to the end of its run.
    pub(crate) remaining: u64,
    pub(crate) dependents: u32,
    pub(crate) order: Reverse<Ticket>,
    pub(crate) run: RunKey,
    pub(crate) task: TaskIndex,
    pub(crate) since: Timestamp,
}

/// Of so many tasks that a lane gives out in a row, at most one goes first because of its age: where
/// everything has waited for too long, the more urgent still comes first most of the time.
pub(crate) const AGED_ONE_IN: u32 = 4;

#[derive(Debug, Default)]
pub(crate) struct ReadyQueue {
    classes: [Class; Priority::ALL.len()],
    /// Tasks to take by score before one may be taken by age.
    until_aged: u32,
}

#[derive(Debug, Default)]
struct Class {
    /// Tenants that have tasks, or had some when they last had a turn.
    tenants: BTreeMap<Arc<str>, BinaryHeap<Ready>>,
    /// The same tenants; the first has the next turn.
    turns: VecDeque<Arc<str>>,
    /// The same tasks in the order in which they came. A task that was taken by its score is still
    /// here, and one that was taken by its age is still in its heap, until it comes to the front.
    by_age: VecDeque<Aged>,
    /// Entries of the heaps, dead ones included.
    in_heaps: usize,
    /// Entries of the heaps that were taken by their age.
    dead_in_heaps: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Aged {
    since: Timestamp,
    run: RunKey,
    task: TaskIndex,
    ticket: Ticket,
}

/// What goes next, and how urgent it is: smaller is more urgent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Head {
    /// The oldest that waited for longer than the ageing time.
    Aged { oldest: Aged, class: usize },
    /// The best of the most urgent class.
    Scored { class: usize, ready: Reverse<Ready> },
}

impl ReadyQueue {
    pub(crate) fn push(&mut self, priority: Priority, tenant: &Arc<str>, ready: Ready) {
        self.classes[priority as usize].push(tenant, ready);
    }

    /// What goes next, of priority `least` or a higher one. Entries for which `live` is false have left already and are dropped.
    pub(crate) fn peek(
        &mut self,
        now: Timestamp,
        ageing: Duration,
        least: Priority,
        live: &impl Fn(RunKey, TaskIndex, Ticket) -> bool,
    ) -> Option<Head> {
        let mut best: Option<Head> = None;
        let classes = &mut self.classes[..=least as usize];
        for (number, class) in classes.iter_mut().enumerate() {
            let head = match class.oldest(live) {
                None => continue,
                Some(oldest) if self.until_aged == 0 && now.since(oldest.since) >= ageing => {
                    Head::Aged {
                        oldest,
                        class: number,
                    }
                }
                // Classes come in order, so only the age of a task can be better than this.
                Some(_) if best.is_some() => continue,
                Some(_) => match class.best(live) {
                    Some(ready) => Head::Scored {
                        class: number,
                        ready: Reverse(ready),
                    },
                    None => continue,
                },
            };
            best = Some(best.map_or(head, |best| best.min(head)));
        }
        best
    }

    /// Since when the task waits that came first. Entries for which `live` is false are dropped.
    pub(crate) fn waits_since(
        &mut self,
        live: &impl Fn(RunKey, TaskIndex, Ticket) -> bool,
    ) -> Option<Timestamp> {
        let oldest = self.classes.iter_mut().filter_map(|it| it.oldest(live));
        oldest.map(|it| it.since).min()
    }

    /// Whether an entry is there under which the task will be found, both by score and by age.
    pub(crate) fn contains(&self, run: RunKey, task: TaskIndex, ticket: Ticket) -> bool {
        self.classes.iter().any(|class| {
            let scored = |it: &Ready| (it.run, it.task, it.order.0) == (run, task, ticket);
            let aged = |it: &Aged| (it.run, it.task, it.ticket) == (run, task, ticket);
            class.by_age.iter().any(aged)
                && class.turns.iter().any(|tenant| {
                    let heap = class.tenants.get(tenant);
                    heap.is_some_and(|heap| heap.iter().any(scored))
                })
        })
    }

    /// Takes what [`ReadyQueue::peek`] gave, with nothing in between.
    pub(crate) fn take(&mut self, head: Head) -> (RunKey, TaskIndex) {
        match head {
            Head::Aged { oldest, class } => {
                let class = &mut self.classes[class];
                class.by_age.pop_front();
                class.dead_in_heaps += 1;
                self.until_aged = AGED_ONE_IN - 1;
                (oldest.run, oldest.task)
            }
            Head::Scored { class, ready } => {
                self.classes[class].take_turn();
                self.until_aged = self.until_aged.saturating_sub(1);
                (ready.0.run, ready.0.task)
            }
        }
    }
}

impl Class {
    fn push(&mut self, tenant: &Arc<str>, ready: Ready) {
        self.by_age.push_back(Aged {
            since: ready.since,
            run: ready.run,
            task: ready.task,
            ticket: ready.order.0,
        });
        self.in_heaps += 1;
        match self.tenants.get_mut(tenant) {
            Some(heap) => heap.push(ready),
            None => {
                self.turns.push_back(tenant.clone());
                self.tenants
                    .insert(tenant.clone(), BinaryHeap::from([ready]));
            }
        }
    }

    /// The task that came first, if there is one.
    fn oldest(&mut self, live: &impl Fn(RunKey, TaskIndex, Ticket) -> bool) -> Option<Aged> {
        if self.in_heaps == 0 {
            self.by_age.clear();
            return None;
        }
        self.forget_dead(live);
        while let Some(oldest) = self.by_age.front()
            && !live(oldest.run, oldest.task, oldest.ticket)
        {
            self.by_age.pop_front();
        }
        self.by_age.front().copied()
    }

    /// The best task of the tenant whose turn it is. Tenants that have none lose their turn.
    fn best(&mut self, live: &impl Fn(RunKey, TaskIndex, Ticket) -> bool) -> Option<Ready> {
        while let Some(tenant) = self.turns.front() {
            if let Some(heap) = self.tenants.get_mut(tenant) {
                while let Some(best) = heap.peek() {
                    if live(best.run, best.task, best.order.0) {
                        return Some(*best);
                    }
                    heap.pop();
                    self.in_heaps -= 1;
                }
                self.tenants.remove(tenant);
            }
            self.turns.pop_front();
        }
        None
    }

    /// Takes what [`Class::best`] gave. An empty heap is kept until the tenant's next turn, since more
    /// of its tasks may come.
    fn take_turn(&mut self) {
        if let Some(tenant) = self.turns.pop_front() {
            if let Some(heap) = self.tenants.get_mut(&tenant) {
                self.in_heaps -= usize::from(heap.pop().is_some());
            }
            self.turns.push_back(tenant);
        }
    }

    /// Drops what left in the other order, and stays behind here, when that is more than what waits.
    fn forget_dead(&mut self, live: &impl Fn(RunKey, TaskIndex, Ticket) -> bool) {
        if self.by_age.len() > 2 * self.in_heaps + 64 {
            self.by_age
                .retain(|entry| live(entry.run, entry.task, entry.ticket));
        }
        if self.dead_in_heaps > self.in_heaps / 2 + 64 {
            for heap in self.tenants.values_mut() {
                heap.retain(|ready| live(ready.run, ready.task, ready.order.0));
            }
            self.in_heaps = self.tenants.values().map(BinaryHeap::len).sum();
            self.dead_in_heaps = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGEING: Duration = Duration::from_secs(30);

    fn ready(task: u32, remaining: u64, seconds: u64) -> Ready {
        Ready {
            remaining,
            dependents: 0,
            order: Reverse(Ticket(u64::from(task))),
            run: RunKey(0),
            task: TaskIndex(task),
            since: Timestamp::from_micros(seconds * 1_000_000),
        }
    }

    fn drain(queue: &mut ReadyQueue, seconds: u64) -> Vec<u32> {
        let now = Timestamp::from_micros(seconds * 1_000_000);
        let taken = std::cell::RefCell::new(std::collections::BTreeSet::new());
        let live = |_: RunKey, task: TaskIndex, _: Ticket| !taken.borrow().contains(&task);
        let mut order = Vec::new();
        while let Some(head) = queue.peek(now, AGEING, Priority::Low, &live) {
            let (_, task) = queue.take(head);
            taken.borrow_mut().insert(task);
            order.push(task.0);
        }
        order
    }

    #[test]
    fn class_then_path_then_first_come() {
        let tenant: Arc<str> = "a".into();
        let mut queue = ReadyQueue::default();
        queue.push(Priority::Low, &tenant, ready(1, 99, 0));
        queue.push(Priority::Normal, &tenant, ready(2, 5, 0));
        queue.push(Priority::Normal, &tenant, ready(3, 7, 0));
        queue.push(Priority::Normal, &tenant, ready(4, 5, 0));
        queue.push(Priority::Critical, &tenant, ready(5, 1, 0));
        assert_eq!(drain(&mut queue, 1), [5, 3, 2, 4, 1]);
    }

    #[test]
    fn what_is_less_urgent_than_asked_for_stays_however_old_it_is() {
        let tenant: Arc<str> = "a".into();
        let mut queue = ReadyQueue::default();
        queue.push(Priority::Low, &tenant, ready(1, 99, 0));
        queue.push(Priority::Normal, &tenant, ready(2, 5, 0));
        let later = Timestamp::from_micros(3_600_000_000);
        let taken = std::cell::Cell::new(0);
        let live = |_: RunKey, task: TaskIndex, _: Ticket| task.0 != taken.get();
        let head = queue.peek(later, AGEING, Priority::Normal, &live).unwrap();
        taken.set(queue.take(head).1.0);
        assert_eq!(taken.get(), 2);
        assert_eq!(queue.peek(later, AGEING, Priority::Normal, &live), None);
        assert!(queue.peek(later, AGEING, Priority::Low, &live).is_some());
    }

    #[test]
    fn tenants_take_turns() {
        let mut queue = ReadyQueue::default();
        for task in 0..3 {
            queue.push(Priority::Normal, &"a".into(), ready(task, 100, 0));
        }
        queue.push(Priority::Normal, &"b".into(), ready(10, 1, 0));
        assert_eq!(drain(&mut queue, 1), [0, 10, 1, 2]);
    }

    #[test]
    fn what_waited_too_long_goes_first_and_only_once() {
        let tenant: Arc<str> = "a".into();
        let mut queue = ReadyQueue::default();
        queue.push(Priority::Low, &tenant, ready(1, 1, 0));
        queue.push(Priority::Low, &tenant, ready(2, 1, 20));
        queue.push(Priority::Critical, &tenant, ready(3, 1, 30));
        assert_eq!(drain(&mut queue, 31), [1, 3, 2]);
    }

    #[test]
    fn entries_that_left_do_not_pile_up() {
        let tenant: Arc<str> = "a".into();
        let mut queue = ReadyQueue::default();
        for task in 0..10_000 {
            queue.push(Priority::Normal, &tenant, ready(task, 1, 0));
            // Everything has aged, and only the newest is still live when it is taken.
            let live = |_: RunKey, other: TaskIndex, _: Ticket| other.0 == task;
            let now = Timestamp::from_micros(60_000_000);
            let head = queue.peek(now, AGEING, Priority::Low, &live).unwrap();
            assert_eq!(queue.take(head).1, TaskIndex(task));
        }
        let class = &queue.classes[Priority::Normal as usize];
        assert!(class.by_age.len() < 200 && class.in_heaps < 400);
    }
}
