//! How the slots of a worker are divided among the coordinators that it works for.
//!
//! A worker never runs more attempts than it has slots, whoever sent them, so what all coordinators may send
//! is bounded together. A coordinator with tasks that wait for this worker says so. It then gets what nobody
//! uses, and what others were granted and do not use is asked back for it; among several that want more, each
//! gets the same share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The slots of a worker, and who has how many of them.
#[derive(Debug)]
pub(crate) struct Division(Mutex<State>);

/// What one coordinator has of it.
#[derive(Debug)]
pub(crate) struct Share {
    division: Arc<Division>,
    id: u64,
    changed: Arc<Notify>,
}

#[derive(Debug)]
struct State {
    size: usize,
    prefetch: usize,
    /// Only half of the slots are used, and nothing is taken beyond them.
    is_cut: bool,
    parties: BTreeMap<u64, Party>,
    last_id: u64,
}

#[derive(Debug, Default)]
struct Party {
    in_use: Use,
    /// Tasks of it wait for this worker.
    wants: bool,
    /// It gives credits back when it is asked for them, and says whether it wants more.
    gives_back: bool,
    /// Credits that it is to be asked for.
    to_ask: usize,
    /// Credits that it was asked for and that it has not given back yet.
    asked: usize,
    changed: Arc<Notify>,
}

/// What a coordinator has under way on a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Use {
    /// Credits that it has not used.
    pub(crate) granted: usize,
    /// Attempts that wait here.
    pub(crate) queued: usize,
    /// Slots that are occupied.
    pub(crate) occupied: usize,
}

impl Use {
    fn total(self) -> usize {
        self.granted + self.queued + self.occupied
    }
}

impl State {
    fn usable(&self) -> usize {
        if self.is_cut {
            self.size.div_ceil(2)
        } else {
            self.size
        }
    }

    fn capacity(&self) -> usize {
        let prefetch = if self.is_cut { 0 } else { self.prefetch };
        self.usable() + prefetch
    }

    fn free(&self) -> usize {
        let used: usize = self.parties.values().map(|it| it.in_use.total()).sum();
        self.capacity().saturating_sub(used)
    }

    fn occupied(&self) -> usize {
        self.parties.values().map(|it| it.in_use.occupied).sum()
    }

    /// What each of those that want more may have.
    fn fair(&self) -> usize {
        let wanting = self.parties.values().filter(|it| it.wants).count();
        (self.capacity() / wanting.max(1)).max(1)
    }

    /// How many credits a party may be granted now.
    fn room(&self, id: u64) -> usize {
        let (Some(party), free) = (self.parties.get(&id), self.free()) else {
            return 0;
        };
        if self.parties.len() == 1 {
            return free;
        }
        let fair = self.fair();
        let mut others = self.parties.iter().filter(|(other, _)| **other != id);
        let total = party.in_use.total();
        if !party.wants {
            let even = (self.capacity() / self.parties.len()).max(1);
            let another_wants = others.any(|(_, it)| it.wants);
            return if another_wants {
                0
            } else {
                even.saturating_sub(total).min(free)
            };
        }
        let reserved: usize = others
            .filter(|(_, it)| it.wants)
            .map(|(_, it)| fair.saturating_sub(it.in_use.total()))
            .sum();
        let beyond = free.saturating_sub(reserved);
        beyond.max(fair.saturating_sub(total).min(free))
    }

    /// Asks credits back that are not used, for those that want more and have less than their share.
    fn reclaim(&mut self) {
        if self.parties.len() < 2 {
            return;
        }
        let fair = self.fair();
        let coming: usize = self.parties.values().map(|it| it.asked + it.to_ask).sum();
        let short = |it: &Party| {
            if it.wants {
                fair.saturating_sub(it.in_use.total())
            } else {
                0
            }
        };
        let short: usize = self.parties.values().map(short).sum();
        let mut missing = short.saturating_sub(self.free() + coming);
        for party in self.parties.values_mut().filter(|it| it.gives_back) {
            let surplus = match party.wants {
                true => party.in_use.total().saturating_sub(fair),
                false => party.in_use.total(),
            };
            let unasked = party
                .in_use
                .granted
                .saturating_sub(party.asked + party.to_ask);
            let taken = missing.min(surplus).min(unasked);
            if taken > 0 {
                missing -= taken;
                party.to_ask += taken;
                party.changed.notify_one();
            }
        }
    }

    /// Wakes the others if there may be something for them.
    fn wake_others(&self, id: u64) {
        for (_, other) in self.parties.iter().filter(|(other, _)| **other != id) {
            other.changed.notify_one();
        }
    }
}

impl Division {
    pub(crate) fn new(size: usize, prefetch: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            size,
            prefetch,
            is_cut: false,
            parties: BTreeMap::new(),
            last_id: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A share for another coordinator.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        let changed = Arc::new(Notify::new());
        let mut state = self.state();
        state.last_id += 1;
        let id = state.last_id;
        let party = Party {
            changed: changed.clone(),
            ..Party::default()
        };
        state.parties.insert(id, party);
        drop(state);
        Share {
            division: self.clone(),
            id,
            changed,
        }
    }
}

impl Share {
    /// Waits until there may be more to grant, to start or to ask back.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Notes what the coordinator has under way.
    pub(crate) fn note(&self, in_use: Use) {
        let mut state = self.division.state();
        let Some(party) = state.parties.get_mut(&self.id) else {
            return;
        };
        let before = std::mem::replace(&mut party.in_use, in_use);
        if state.parties.len() > 1 {
            let has_less = in_use.total() < before.total() || in_use.occupied < before.occupied;
            state.reclaim();
            if has_less {
                state.wake_others(self.id);
            }
        }
    }

    /// A session begins or ended: nothing of what it was told holds any more.
    pub(crate) fn reset(&self, in_use: Use) {
        let mut state = self.division.state();
        if let Some(party) = state.parties.get_mut(&self.id) {
            (party.wants, party.to_ask, party.asked) = (false, 0, 0);
        }
        drop(state);
        self.note(in_use);
    }

    /// Whether the coordinator of the session that begins gives credits back.
    pub(crate) fn gives_back(&self, gives_back: bool) {
        let mut state = self.division.state();
        if let Some(party) = state.parties.get_mut(&self.id) {
            party.gives_back = gives_back;
        }
    }

    /// The coordinator has tasks that wait for this worker, or has none any more.
    pub(crate) fn wants(&self, wants: bool) {
        let mut state = self.division.state();
        if let Some(party) = state.parties.get_mut(&self.id) {
            party.wants = wants;
        }
        state.reclaim();
        if !wants {
            state.wake_others(self.id);
        }
    }

    /// Uses half of the slots from now on, or all of them.
    pub(crate) fn cut(&self, is_cut: bool) {
        self.division.state().is_cut = is_cut;
    }

    /// How many credits may be granted.
    pub(crate) fn room(&self) -> usize {
        self.division.state().room(self.id)
    }

    /// Whether a slot is free.
    pub(crate) fn has_slot(&self) -> bool {
        let state = self.division.state();
        state.occupied() < state.usable()
    }

    /// Whether credits are to be asked back.
    pub(crate) fn is_to_ask(&self) -> bool {
        let state = self.division.state();
        state.parties.get(&self.id).is_some_and(|it| it.to_ask > 0)
    }

    /// Credits to ask back now.
    pub(crate) fn ask(&self) -> usize {
        let mut state = self.division.state();
        let Some(party) = state.parties.get_mut(&self.id) else {
            return 0;
        };
        let asked = std::mem::take(&mut party.to_ask).min(party.in_use.granted);
        party.asked += asked;
        asked
    }

    /// The coordinator was asked for credits and gave some of them back.
    pub(crate) fn answered(&self) {
        if let Some(party) = self.division.state().parties.get_mut(&self.id) {
            party.asked = 0;
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.division.state();
        state.parties.remove(&self.id);
        state.wake_others(self.id);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn using(granted: usize, occupied: usize) -> Use {
        Use {
            granted,
            queued: 0,
            occupied,
        }
    }

    fn share(division: &Arc<Division>) -> Share {
        let share = division.share();
        share.gives_back(true);
        share
    }

    #[test]
    fn who_cannot_give_back_is_not_asked() {
        let division = Division::new(4, 0);
        let (older, busy) = (division.share(), share(&division));
        older.note(using(2, 0));
        busy.note(using(0, 2));
        busy.wants(true);
        assert!(!older.is_to_ask());
        older.note(using(0, 1));
        assert_eq!(busy.room(), 1);
    }

    #[test]
    fn one_coordinator_has_all_of_it() {
        let division = Division::new(4, 2);
        let share = division.share();
        assert_eq!(share.room(), 6);
        share.note(using(2, 4));
        assert_eq!((share.room(), share.has_slot()), (0, false));
        share.cut(true);
        share.note(using(0, 1));
        assert_eq!((share.room(), share.has_slot()), (1, true));
    }

    #[test]
    fn what_an_idle_one_does_not_use_goes_to_a_busy_one() {
        let division = Division::new(4, 0);
        let (idle, busy) = (share(&division), share(&division));
        assert_eq!((idle.room(), busy.room()), (2, 2));
        idle.note(using(2, 0));
        busy.note(using(0, 2));
        assert_eq!(busy.room(), 0);
        busy.wants(true);
        assert_eq!(idle.ask(), 2);
        idle.note(using(0, 0));
        idle.answered();
        assert_eq!((idle.room(), busy.room()), (0, 2));
        busy.note(using(0, 4));

        // Then the other has work, too: it gets its half as slots come free.
        idle.wants(true);
        assert_eq!((idle.room(), busy.ask()), (0, 0));
        busy.note(using(0, 3));
        assert_eq!((idle.room(), busy.room()), (1, 0));
        idle.note(using(0, 1));
        busy.note(using(0, 2));
        assert_eq!((idle.room(), busy.room()), (1, 0));
        idle.note(using(0, 2));
        assert_eq!((idle.room(), busy.room()), (0, 0));
    }

    #[test]
    fn what_a_lost_one_had_is_free_again() {
        let division = Division::new(2, 0);
        let (lost, other) = (share(&division), share(&division));
        lost.note(using(2, 0));
        assert_eq!(other.room(), 0);
        drop(lost);
        assert_eq!(other.room(), 2);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Grant(usize),
        Receive(usize),
        End(usize),
        Wants(usize, bool),
        Answer(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..3_usize).prop_map(Step::Grant),
            4 => (0..3_usize).prop_map(Step::Receive),
            3 => (0..3_usize).prop_map(Step::End),
            1 => (0..3_usize, any::<bool>()).prop_map(|(who, wants)| Step::Wants(who, wants)),
            2 => (0..3_usize).prop_map(Step::Answer),
        ]
    }

    proptest! {
        #[test]
        fn never_more_than_there_are_and_nobody_starves(
            size in 1..9_usize,
            steps in proptest::collection::vec(step(), 0..200),
        ) {
            let division = Division::new(size, 0);
            let shares: Vec<_> = (0..3).map(|_| share(&division)).collect();
            let mut uses = [Use::default(); 3];
            let mut asked = [0_usize; 3];
            let grant = |uses: &mut [Use; 3], who: usize| {
                uses[who].granted += shares[who].room();
                shares[who].note(uses[who]);
            };
            let answer = |uses: &mut [Use; 3], asked: &mut [usize; 3], who: usize| {
                asked[who] += shares[who].ask();
                uses[who].granted -= std::mem::take(&mut asked[who]).min(uses[who].granted);
                shares[who].note(uses[who]);
                shares[who].answered();
            };
            let mut wants = [false; 3];
            for step in steps {
                match step {
                    Step::Grant(who) => grant(&mut uses, who),
                    Step::Receive(who) if uses[who].granted > 0 => {
                        uses[who].granted -= 1;
                        uses[who].occupied += 1;
                        shares[who].note(uses[who]);
                    }
                    Step::End(who) if uses[who].occupied > 0 => {
                        uses[who].occupied -= 1;
                        shares[who].note(uses[who]);
                    }
                    Step::Wants(who, it) => {
                        wants[who] = it;
                        shares[who].wants(it);
                    }
                    Step::Answer(who) => answer(&mut uses, &mut asked, who),
                    _ => {}
                }
                let total: usize = uses.iter().map(|it| it.total()).sum();
                prop_assert!(total <= size, "more was granted than there is");
            }
            // Attempts end, and credits come back: everyone who wants some gets a fair share.
            for _ in 0..3 {
                for who in 0..3 {
                    uses[who].occupied = 0;
                    shares[who].note(uses[who]);
                    answer(&mut uses, &mut asked, who);
                }
                for who in 0..3 {
                    grant(&mut uses, who);
                }
            }
            let wanting = wants.iter().filter(|it| **it).count();
            for who in (0..3).filter(|&who| wants[who]) {
                prop_assert!(uses[who].total() >= size / wanting, "{uses:?} {wants:?}");
            }
        }
    }
}
