//! Tasks whose results others can use: one of those that would compute the same does it, the others
//! wait for it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use levelflow_common::{
    CacheKey, CacheTier, CacheUse, CachedFrom, Failure, RunStatus, Similar, TaskStatus, Timestamp,
};

use crate::command::{BatchNumber, Command, Computed};
use crate::engine::Engine;
use crate::event::{RunKey, Ticket};
use crate::handler_version::HandlerVersion;
use crate::live::LiveTask;
use crate::record::{Fact, RecordedStream, TaskIndex};

/// What the cache said of a task that is about to be queued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// What its result is found by.
    pub key: CacheKey,
    /// The version of its handler, which is part of the key.
    pub handler_version: HandlerVersion,
    /// What was found.
    pub found: Option<Found>,
    /// What the task is shown that computes it.
    pub near: Option<Box<NearHit>>,
}

/// A result of a nearly equal text, for the task to make its own of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearHit {
    /// Whose.
    pub similar: Similar,
    /// What handlers see: a JSON object with the output, the text, and where it comes from.
    pub shown: Bytes,
}

/// A result that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The output, or a failure that was remembered.
    pub result: Result<Output, Failure>,
    /// Where it came from.
    pub from: CachedFrom,
    /// Whose it is, where it is that of a nearly equal text.
    pub similar_to: Option<Box<Similar>>,
}

/// What a task gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// A JSON value.
    pub value: Bytes,
    /// The chunks that came before it, if any.
    pub stream: Option<Box<RecordedStream>>,
}

type TaskKey = (RunKey, TaskIndex);

/// What a task computes or waits for.
#[derive(Clone, Debug)]
struct Sought {
    key: CacheKey,
    handler_version: HandlerVersion,
}

/// Who computes which result, and who waits for it.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    flights: BTreeMap<CacheKey, Flight>,
    /// What the tasks compute or wait for.
    sought: BTreeMap<TaskKey, Sought>,
    /// Results that the cache may not have yet, or that a task may just have missed there.
    landed: BTreeMap<CacheKey, Landed>,
    /// Those that the cache has, each with the last task that was looked up before.
    kept: VecDeque<(Ticket, CacheKey)>,
    /// Tasks that are being looked up.
    asking: BTreeSet<Ticket>,
    /// The chunks of a task that is about to end; the state of its run only counts them.
    streams: BTreeMap<TaskKey, Box<RecordedStream>>,
    /// What tasks that compute are shown.
    near: BTreeMap<TaskKey, Box<NearHit>>,
}

/// A result on its way into the cache.
#[derive(Debug)]
struct Landed {
    result: Result<Output, Failure>,
    at: Timestamp,
    took: Duration,
}

#[derive(Debug)]
struct Flight {
    leader: TaskKey,
    /// In the order in which they came.
    followers: VecDeque<TaskKey>,
}

/// What becomes of those who waited.
struct Landing {
    sought: Sought,
    /// Whether the task that left was the one that computed it.
    led: bool,
    followers: VecDeque<TaskKey>,
}

impl Flights {
    /// Has a task compute a result, unless another does: then it waits for that one.
    fn join(&mut self, task: TaskKey, sought: Sought) -> bool {
        let flight = self.flights.entry(sought.key).or_insert(Flight {
            leader: task,
            followers: VecDeque::new(),
        });
        let leads = flight.leader == task;
        if !leads {
            flight.followers.push_back(task);
        }
        self.sought.insert(task, sought);
        leads
    }

    /// Takes out a task that ended. What it computed or waited for, and, if it led, those who waited.
    fn leave(&mut self, task: TaskKey) -> Option<Landing> {
        let sought = self.sought.remove(&task)?;
        self.near.remove(&task);
        let mut followers = VecDeque::new();
        let mut led = false;
        if let Some(flight) = self.flights.get_mut(&sought.key) {
            led = flight.leader == task;
            if led {
                followers = std::mem::take(&mut flight.followers);
                self.flights.remove(&sought.key);
            } else {
                flight.followers.retain(|&follower| follower != task);
            }
        }
        for follower in &followers {
            self.sought.remove(follower);
        }
        Some(Landing {
            sought,
            led,
            followers,
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sought.is_empty()
    }

    /// Whether a task computes or waits for a result that others can use.
    pub(crate) fn has(&self, key: RunKey, task: TaskIndex) -> bool {
        self.sought.contains_key(&(key, task))
    }

    /// A task is being looked up.
    pub(crate) fn asked(&mut self, ticket: Ticket) {
        self.asking.insert(ticket);
    }

    /// A lookup was answered.
    pub(crate) fn answered(&mut self, ticket: Ticket) {
        if self.asking.remove(&ticket) {
            self.forget_kept();
        }
    }

    /// The cache has a result, or will not have it. `last` is the last task that may have missed it.
    fn kept(&mut self, key: CacheKey, last: Ticket) {
        self.kept.push_back((last, key));
        self.forget_kept();
    }

    fn forget_kept(&mut self) {
        let oldest = self.asking.first().copied();
        while let Some(&(last, key)) = self.kept.front()
            && oldest.is_none_or(|oldest| last < oldest)
        {
            self.kept.pop_front();
            self.landed.remove(&key);
        }
    }

    /// What the attempts of a task are shown.
    pub(crate) fn near_hit(&self, key: RunKey, task: TaskIndex) -> Option<Bytes> {
        Some(self.near.get(&(key, task))?.shown.clone())
    }

    /// Whose result the attempts of a task were shown.
    pub(crate) fn shown(&self, key: RunKey, task: TaskIndex) -> Option<Box<Similar>> {
        Some(Box::new(self.near.get(&(key, task))?.similar.clone()))
    }

    /// Who computes what a task waits for.
    pub(crate) fn leader_of(&self, key: CacheKey) -> Option<TaskKey> {
        Some(self.flights.get(&key)?.leader)
    }

    /// How many tasks wait.
    pub(crate) fn followers(&self) -> usize {
        let waiting = |flight: &Flight| flight.followers.len();
        self.flights.values().map(waiting).sum()
    }

    /// Checks the parts against each other; `is_following` says what the task itself knows.
    ///
    /// # Panics
    /// When they do not agree.
    pub(crate) fn check_invariants(&self, following: impl Fn(TaskKey) -> Option<CacheKey>) {
        let key_of = |task| self.sought.get(&task).map(|sought| sought.key);
        for task in self.near.keys() {
            let key = key_of(*task).expect("who is shown something computes");
            let leads = self.flights.get(&key).is_some_and(|it| it.leader == *task);
            assert!(leads, "a task that waits is shown something");
        }
        for (&key, flight) in &self.flights {
            assert_eq!(key_of(flight.leader), Some(key), "a leader is lost");
            assert_eq!(following(flight.leader), None, "a leader waits for itself");
            for follower in &flight.followers {
                assert_eq!(key_of(*follower), Some(key), "a follower is lost");
                assert_eq!(following(*follower), Some(key), "a follower does not wait");
            }
        }
    }
}

impl Engine {
    /// Ends a task with a result that was found, or has it wait for one that is being computed. Whether
    /// it is to be queued.
    pub(crate) fn look_up(
        &mut self,
        now: Timestamp,
        key: RunKey,
        task: TaskIndex,
        lookup: Lookup,
    ) -> bool {
        if let Some(found) = lookup.found {
            self.use_found(now, key, task, found);
            return false;
        }
        let known = self.flights.sought.get(&(key, task));
        if known.is_some_and(|known| known.key != lookup.key) {
            // It tries again, and computes something else than before.
            self.land(now, key, task);
        }
        let sought = Sought {
            key: lookup.key,
            handler_version: lookup.handler_version,
        };
        if self.run(key).state.submitted.cache == CacheUse::Refresh {
            self.flights.sought.insert((key, task), sought);
            return true;
        }
        if let Some(landed) = self.flights.landed.get(&lookup.key) {
            let found = Found {
                result: landed.result.clone(),
                from: CachedFrom {
                    tier: CacheTier::Flight,
                    age: now.since(landed.at),
                    saved: landed.took,
                },
                similar_to: None,
            };
            if found.result.is_ok() || self.remembers_failures(key, task) {
                self.use_found(now, key, task, found);
                return false;
            }
        }
        self.flights.near.remove(&(key, task));
        if self.flights.join((key, task), sought) {
            if let Some(near) = lookup.near {
                self.flights.near.insert((key, task), near);
            }
            return true;
        }
        // It leaves its place to others: the one that it waits for may need it.
        self.release(now, key, task);
        *self.live_task(key, task) = LiveTask::Following(lookup.key);
        self.admit_gated(now, key);
        false
    }

    fn use_found(&mut self, now: Timestamp, key: RunKey, task: TaskIndex, found: Found) {
        let within_bounds = found.result.and_then(|output| {
            let chunk_bytes = output.stream.as_ref().map_or(0, |it| it.packed.len());
            self.within_bounds(key, Ok(output.value.clone()), chunk_bytes)?;
            Ok(output)
        });
        match within_bounds {
            Ok(output) => {
                self.keep_stream(key, task, output.stream.as_deref());
                let fact = Fact::Succeeded {
                    task,
                    attempt: self.run(key).state.task(task).attempts,
                    started_at: now,
                    worker: None,
                    output: output.value,
                    stream: output.stream,
                    cached: Some(Box::new(found.from)),
                    similar_to: found.similar_to,
                };
                self.record(now, key, fact);
            }
            Err(failure) => self.fail_unstarted(now, key, task, failure),
        }
    }

    /// Keeps the chunks of a task until its end is seen, if others can use its result.
    pub(crate) fn keep_stream(
        &mut self,
        key: RunKey,
        task: TaskIndex,
        stream: Option<&RecordedStream>,
    ) {
        if let Some(stream) = stream
            && self.flights.has(key, task)
        {
            let stream = Box::new(stream.clone());
            self.flights.streams.insert((key, task), stream);
        }
    }

    /// A task ended. Its result goes to the cache and to those who waited for it; without one, the first
    /// of them computes it.
    pub(crate) fn land(&mut self, now: Timestamp, key: RunKey, task: TaskIndex) {
        let Some(landing) = self.flights.leave((key, task)) else {
            return;
        };
        let stream = self.flights.streams.remove(&(key, task));
        let run = self.run(key);
        let state = run.state.task(task);
        let took = match (state.started_at, state.finished_at) {
            (Some(from), Some(to)) => to.since(from),
            _ => Duration::ZERO,
        };
        let result = match (state.status, &state.output, &state.failure) {
            (TaskStatus::Succeeded, Some(value), _) => Some(Ok(Output {
                value: value.clone(),
                stream,
            })),
            (TaskStatus::Failed, _, Some(failure))
                if !failure.retryable && failure.code.is_of_input() =>
            {
                Some(Err(failure.as_ref().clone()))
            }
            _ => None,
        };
        let (age, saved, is_fresh) = match state.cached.as_deref() {
            Some(from) => (from.age, from.saved, false),
            None => (Duration::ZERO, took, state.attempts > 0),
        };
        // What a task was shown that computed its own is no source of the result.
        let similar_to = match is_fresh {
            true => None,
            false => state.similar_to.clone(),
        };
        let after = run.recorded_in.0;
        let Landing {
            sought,
            led,
            followers,
        } = landing;
        let spec = &run.state.definition.tasks[run.state.defined(task).0 as usize];
        // A worker of another version computed something else than was asked for.
        let is_sought =
            !is_fresh || self.is_of_version(state.worker.as_ref(), spec, &sought.handler_version);
        let result = result.filter(|_| is_sought);
        let is_kept = match &result {
            Some(result) if is_fresh => {
                let result = result.clone();
                self.keep(now, after, &sought, (key, task), result, took)
            }
            _ => false,
        };
        let from = CachedFrom {
            tier: CacheTier::Flight,
            age,
            saved,
        };
        let mut waiting = VecDeque::new();
        for (key, task) in followers {
            let run = self.run(key);
            let state = &run.state;
            // What ended together with the leader waits for nothing, and was taken out of its place.
            if state.status != RunStatus::Running
                || run.is_leaving
                || state.task(task).status.is_terminal()
            {
                continue;
            }
            *self.live_task(key, task) = LiveTask::Idle;
            match &result {
                Some(result) if result.is_ok() || self.remembers_failures(key, task) => {
                    let found = Found {
                        result: result.clone(),
                        from,
                        similar_to: similar_to.clone(),
                    };
                    self.use_found(now, key, task, found);
                }
                _ => waiting.push_back((key, task)),
            }
        }
        let Some(leader) = waiting.pop_front() else {
            if led && !is_kept {
                let give_up = Command::GiveUp { key: sought.key };
                self.command(BatchNumber::default(), give_up);
            }
            return;
        };
        for &task in [&leader].into_iter().chain(&waiting) {
            self.flights.sought.insert(task, sought.clone());
        }
        for &(key, task) in &waiting {
            *self.live_task(key, task) = LiveTask::Following(sought.key);
        }
        let followers = waiting;
        let flight = Flight { leader, followers };
        self.flights.flights.insert(sought.key, flight);
        self.readmit(now, leader.0, leader.1);
    }

    fn remembers_failures(&self, key: RunKey, task: TaskIndex) -> bool {
        let state = &self.run(key).state;
        let spec = &state.definition.tasks[state.defined(task).0 as usize];
        let policy = spec.cache.as_ref().map(|cache| &cache.policy);
        policy.is_some_and(|policy| policy.on_error.is_some())
    }

    /// Puts what a task computed into the cache, when it is durable. Whether it does.
    fn keep(
        &mut self,
        now: Timestamp,
        after: BatchNumber,
        sought: &Sought,
        (key, task): TaskKey,
        result: Result<Output, Failure>,
        took: Duration,
    ) -> bool {
        if result.is_err() && !self.remembers_failures(key, task) {
            return false;
        }
        let state = &self.run(key).state;
        let landed = Landed {
            result: result.clone(),
            at: now,
            took,
        };
        let computed = Computed {
            key: sought.key,
            definition: state.definition.clone(),
            task: state.defined(task),
            tenant: state.submitted.tenant.clone(),
            run_id: state.submitted.run_id,
            handler_version: sought.handler_version.clone(),
            result,
            took,
        };
        self.flights.landed.insert(sought.key, landed);
        self.command(after, Command::Keep(Box::new(computed)));
        true
    }

    /// The cache took a result in, or refused it.
    pub(crate) fn kept(&mut self, cache_key: CacheKey) {
        let last = self.last_ticket();
        self.flights.kept(cache_key, last);
    }
}
