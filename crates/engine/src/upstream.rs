//! The upstreams that tasks call, and what their breakers hold back.
//!
//! Tasks that call the same upstream wait in lanes of their own, which are held back while its breaker
//! has no room. What is known of an upstream is not recorded: after a restart it is learned again, at the
//! price of as many calls as open a breaker.

use std::collections::BTreeMap;
use std::sync::Arc;

use levelflow_common::view::{BreakerStatus, BreakerView};
use levelflow_common::{FencingToken, Timestamp, UpstreamCall};
use slab::Slab;

use crate::breaker::{Breaker, BreakerPolicy, BreakerState, Period};
use crate::command::{BatchNumber, Command};
use crate::engine::Engine;
use crate::event::SessionId;
use crate::lane::{Hold, LaneId};
use crate::timer::Timer;

/// An upstream in the memory of one engine. It is not forgotten while a task waits for it or calls it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct UpstreamKey(u32);

/// An attempt was let through to an upstream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passed {
    pub(crate) upstream: UpstreamKey,
    period: Period,
}

#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) name: Arc<str>,
    pub(crate) breaker: Breaker,
    /// The lanes of tasks that call it.
    pub(crate) lanes: Vec<LaneId>,
    /// Attempts that call it, of any period.
    pub(crate) running: u32,
    used_at: Timestamp,
}

/// The upstreams that are known.
#[derive(Debug)]
pub(crate) struct Upstreams {
    policy: BreakerPolicy,
    all: Slab<Upstream>,
    by_name: BTreeMap<Arc<str>, UpstreamKey>,
}

impl Upstreams {
    pub(crate) fn new(policy: BreakerPolicy) -> Self {
        Self {
            policy,
            all: Slab::new(),
            by_name: BTreeMap::new(),
        }
    }

    pub(crate) fn get(&self, key: UpstreamKey) -> &Upstream {
        &self.all[key.0 as usize]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (UpstreamKey, &Upstream)> {
        self.all
            .iter()
            .map(|(key, it)| (UpstreamKey(key as u32), it))
    }

    pub(crate) fn has_room(&self, key: UpstreamKey) -> bool {
        self.get(key).breaker.has_room(&self.policy)
    }
}

impl Upstream {
    fn waiting(&self, engine: &Engine) -> usize {
        let lanes = self.lanes.iter().map(|&lane| engine.lanes.get(lane));
        lanes.map(|lane| lane.waiting + lane.parked).sum()
    }

    fn is_idle(&self, engine: &Engine) -> bool {
        self.running == 0 && self.waiting(engine) == 0
    }
}

impl Engine {
    /// The breakers by the names of their upstreams.
    pub fn breakers(&self) -> Vec<BreakerView> {
        let keys = self.upstreams.by_name.values();
        keys.map(|&key| self.breaker_view(key)).collect()
    }

    fn breaker_view(&self, key: UpstreamKey) -> BreakerView {
        let upstream = self.upstreams.get(key);
        let limit = upstream.breaker.limit(&self.upstreams.policy);
        let (status, probes_at) = match upstream.breaker.state() {
            BreakerState::Closed => (BreakerStatus::Closed, None),
            BreakerState::Open { until } => (BreakerStatus::Open, Some(until)),
            BreakerState::HalfOpen { .. } => (BreakerStatus::HalfOpen, None),
        };
        BreakerView {
            upstream: upstream.name.clone(),
            status,
            failures: upstream.breaker.failures(),
            probes_at,
            limit: (limit < u32::MAX).then_some(limit),
            running: upstream.running,
            waiting: upstream.waiting(self) as u32,
        }
    }

    /// Upstreams that workers must not call, except in attempts that were let through.
    pub fn open_breakers(&self) -> impl Iterator<Item = &Arc<str>> {
        self.upstreams
            .iter()
            .filter(|(_, it)| it.breaker.state() != BreakerState::Closed)
            .map(|(_, it)| &it.name)
    }

    /// Closes the breaker of an upstream by hand; how it stands then, if the upstream is known.
    pub fn reset_breaker(&mut self, now: Timestamp, name: &str) -> Option<BreakerView> {
        let &key = self.upstreams.by_name.get(name)?;
        let breaker = &mut self.upstreams.all[key.0 as usize].breaker;
        let was_closed = breaker.state() == BreakerState::Closed;
        breaker.reset(now);
        self.breaker_changed(key, !was_closed);
        Some(self.breaker_view(key))
    }

    /// The upstream of that name; none if there are no breakers, or more upstreams in use than are
    /// known at once.
    pub(crate) fn intern_upstream(&mut self, now: Timestamp, name: &str) -> Option<UpstreamKey> {
        if let Some(&key) = self.upstreams.by_name.get(name) {
            self.upstreams.all[key.0 as usize].used_at = now;
            return Some(key);
        }
        let policy = &self.upstreams.policy;
        if policy.failures == 0 {
            return None;
        }
        if self.upstreams.all.len() >= policy.max_upstreams {
            self.forget_an_upstream()?;
        }
        let name: Arc<str> = name.into();
        let key = self.upstreams.all.insert(Upstream {
            name: name.clone(),
            breaker: Breaker::new(now),
            lanes: Vec::new(),
            running: 0,
            used_at: now,
        });
        let key = UpstreamKey(key as u32);
        self.upstreams.by_name.insert(name, key);
        Some(key)
    }

    /// Of the upstreams of which nothing is under way, one with a closed breaker goes first, then the one
    /// that was used least lately.
    fn forget_an_upstream(&mut self) -> Option<()> {
        let (key, is_open) = self
            .upstreams
            .iter()
            .filter(|(_, it)| it.is_idle(self))
            .map(|(key, it)| (key, it, it.breaker.state() != BreakerState::Closed))
            .min_by_key(|&(_, it, is_open)| (is_open, it.used_at))
            .map(|(key, _, is_open)| (key, is_open))?;
        let upstream = self.upstreams.all.remove(key.0 as usize);
        self.upstreams.by_name.remove(&upstream.name);
        for lane in upstream.lanes {
            self.lanes.remove(lane);
        }
        if is_open {
            let state = BreakerState::Closed;
            let upstream = upstream.name;
            self.command(
                BatchNumber::default(),
                Command::BreakerChanged { upstream, state },
            );
        }
        Some(())
    }

    /// The lane for tasks that call an upstream and otherwise require the same as those of `base`.
    pub(crate) fn lane_to(&mut self, base: LaneId, key: UpstreamKey) -> LaneId {
        let upstream = &mut self.upstreams.all[key.0 as usize];
        let requirement = &self.lanes.get(base).requirement;
        let known = upstream.lanes.iter().copied().find(|&lane| {
            let lane = self.lanes.get(lane);
            !lane.is_for_suspects && Arc::ptr_eq(&lane.requirement, requirement)
        });
        if let Some(lane) = known {
            return lane;
        }
        let lane = self.lanes.add_for(base, key);
        upstream.lanes.push(lane);
        let has_room = self.upstreams.has_room(key);
        self.lanes.hold(lane, Hold::Breaker, !has_room);
        lane
    }

    /// The lane for tasks that were lost with their worker before and otherwise wait in `lane`.
    pub(crate) fn lane_for_suspects(&mut self, lane: LaneId) -> LaneId {
        if let Some(known) = self.lanes.get(lane).for_suspects {
            return known;
        }
        let added = self.lanes.add_for_suspects(lane);
        if let Some(key) = self.lanes.get(lane).upstream {
            self.upstreams.all[key.0 as usize].lanes.push(added);
            self.update_holds(key);
        }
        added
    }

    /// Since when, or from when on, only workers hold a lane back.
    pub(crate) fn free_since(&self, now: Timestamp, lane: LaneId) -> Timestamp {
        let lane = self.lanes.get(lane);
        let Some(key) = lane.upstream else {
            return Timestamp::default();
        };
        let breaker = &self.upstreams.get(key).breaker;
        match breaker.state() {
            BreakerState::Open { until } => until,
            _ if lane.is_held() => now,
            _ => breaker.changed_at(),
        }
    }

    /// An attempt at a task of this lane is given to a worker.
    pub(crate) fn pass(&mut self, lane: LaneId) -> Option<Passed> {
        let key = self.lanes.get(lane).upstream?;
        let upstream = &mut self.upstreams.all[key.0 as usize];
        upstream.running += 1;
        let passed = Passed {
            upstream: key,
            period: upstream.breaker.start(),
        };
        self.update_holds(key);
        Some(passed)
    }

    /// An attempt that was let through is over.
    pub(crate) fn passed_ended(&mut self, passed: Passed) {
        let upstream = &mut self.upstreams.all[passed.upstream.0 as usize];
        upstream.running -= 1;
        upstream.breaker.end(passed.period);
        self.update_holds(passed.upstream);
    }

    /// Takes in calls that ended while their attempts go on.
    pub(crate) fn calls_went_on(
        &mut self,
        now: Timestamp,
        session: SessionId,
        calls: Vec<(FencingToken, UpstreamCall)>,
    ) {
        for (token, call) in calls {
            if let Some(lease) = self.leases.get(token)
                && self.workers.get(lease.worker).session == Some(session)
            {
                self.calls_ended(now, lease.passed, std::slice::from_ref(&call));
            }
        }
    }

    /// Takes in how calls of an attempt ended.
    pub(crate) fn calls_ended(
        &mut self,
        now: Timestamp,
        passed: Option<Passed>,
        calls: &[UpstreamCall],
    ) {
        for call in calls {
            let Some(key) = self.intern_upstream(now, &call.upstream) else {
                continue;
            };
            let policy = &self.upstreams.policy;
            let breaker = &mut self.upstreams.all[key.0 as usize].breaker;
            let period = passed
                .filter(|passed| passed.upstream == key)
                .map(|passed| passed.period);
            let changed = breaker.record(now, policy, period, call.failed);
            self.breaker_changed(key, changed);
        }
    }

    /// Breakers that have been open for their time let probes through.
    pub(crate) fn probe_upstreams(&mut self, now: Timestamp) {
        let keys: Vec<_> = self.upstreams.iter().map(|(key, _)| key).collect();
        for key in keys {
            let changed = self.upstreams.all[key.0 as usize].breaker.tick(now);
            if changed {
                self.breaker_changed(key, true);
            }
        }
    }

    fn breaker_changed(&mut self, key: UpstreamKey, state_changed: bool) {
        self.update_holds(key);
        if !state_changed {
            return;
        }
        let upstream = self.upstreams.get(key);
        let state = upstream.breaker.state();
        let upstream = upstream.name.clone();
        if let BreakerState::Open { until } = state {
            self.timers.arm(until, Timer::Breakers);
        }
        // It tells nothing of any run, so it need not wait for what is recorded.
        self.command(
            BatchNumber::default(),
            Command::BreakerChanged { upstream, state },
        );
    }

    fn update_holds(&mut self, key: UpstreamKey) {
        let has_room = self.upstreams.has_room(key);
        for &lane in &self.upstreams.get(key).lanes {
            self.lanes.hold(lane, Hold::Breaker, !has_room);
        }
    }
}
