//! The engine: owner of all open runs of a coordinator.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use levelflow_common::{Protection, RunId, RunStatus, Timestamp, WorkflowDigest};
use slab::Slab;

use crate::command::{BatchNumber, Command, Effect};
use crate::config::Config;
use crate::counters::Counters;
use crate::event::{Event, RunKey, Ticket};
use crate::flight::Flights;
use crate::lane::Lanes;
use crate::lease::Leases;
use crate::limit::Limits;
use crate::live::{LiveRun, LiveTask};
use crate::measured::Measured;
use crate::outcome::AttemptEnd;
use crate::placement::Placing;
use crate::record::{Entry, Fact, Record, RunNumber, TaskIndex};
use crate::rejection::Rejection;
use crate::run::Change;
use crate::shards::OwnedShards;
use crate::timer::Timers;
use crate::upstream::Upstreams;
use crate::worker::Workers;

/// The engine.
///
/// It is told events with [`Engine::handle`]; after some of them [`Engine::assign`] gives waiting tasks
/// to workers. What both lead to is gathered: journal entries until [`Engine::take_batch`], commands
/// until [`Engine::take_effects`]. A command may be carried out when the batch that it names is durable.
#[derive(Debug)]
pub struct Engine {
    pub(crate) config: Config,
    pub(crate) runs: Slab<LiveRun>,
    pub(crate) by_id: BTreeMap<RunId, RunKey>,
    pub(crate) keys: BTreeMap<KeyName, KnownKey>,
    /// Keys of evicted runs, by the time when they are forgotten.
    pub(crate) fading_keys: VecDeque<(Timestamp, RunId, KeyName)>,
    pub(crate) workers: Workers,
    pub(crate) placing: Placing,
    pub(crate) lanes: Lanes,
    pub(crate) leases: Leases,
    pub(crate) limits: Limits,
    pub(crate) flights: Flights,
    pub(crate) timers: Timers,
    pub(crate) upstreams: Upstreams,
    pub(crate) sweep_at: Option<Timestamp>,
    pub(crate) measured: Measured,
    pub(crate) next_run: RunNumber,
    pub(crate) shards: OwnedShards,
    pub(crate) open_runs: usize,
    pub(crate) stale_results: u64,
    pub(crate) counters: Counters,
    next_ticket: u64,
    gathering: BatchNumber,
    entries: Vec<Entry>,
    definitions: Vec<(WorkflowDigest, Bytes)>,
    pub(crate) effects: Vec<Effect>,
    changes: Vec<Change>,
}

/// Tenant and submit key.
pub(crate) type KeyName = (Arc<str>, Arc<str>);

/// What a submit key stands for.
#[derive(Clone, Debug)]
pub(crate) struct KnownKey {
    pub(crate) run_id: RunId,
    pub(crate) content: [u8; 32],
    pub(crate) submitted_in: BatchNumber,
    pub(crate) expires_at: Option<Timestamp>,
}

/// Journal entries that become durable together.
#[derive(Debug)]
pub struct Gathered {
    /// The batch.
    pub number: BatchNumber,
    /// Canonical forms of workflows that the store may not know.
    pub definitions: Vec<(WorkflowDigest, Bytes)>,
    /// The entries, in order.
    pub entries: Vec<Entry>,
}

/// How much an engine has under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Runs that have not ended.
    pub open_runs: usize,
    /// Attempts on workers.
    pub leases: usize,
    /// Workers with a live session.
    pub workers: usize,
    /// Results that were refused because their lease had gone.
    pub stale_results: u64,
}

impl Engine {
    /// An engine without runs; the next submit gets the number `next_run`.
    pub fn new(config: Config, next_run: RunNumber) -> Self {
        let shards = OwnedShards::new(config.shards);
        Self {
            leases: Leases::new(config.epoch),
            upstreams: Upstreams::new(config.breaker.clone()),
            placing: Placing::new(config.placement, config.seed),
            config,
            runs: Slab::new(),
            by_id: BTreeMap::new(),
            keys: BTreeMap::new(),
            fading_keys: VecDeque::new(),
            workers: Workers::default(),
            lanes: Lanes::default(),
            limits: Limits::default(),
            flights: Flights::default(),
            timers: Timers::default(),
            sweep_at: None,
            measured: Measured::default(),
            next_run,
            shards,
            open_runs: 0,
            stale_results: 0,
            counters: Counters::default(),
            next_ticket: 0,
            gathering: BatchNumber(1),
            entries: Vec::new(),
            definitions: Vec::new(),
            effects: Vec::new(),
            changes: Vec::new(),
        }
    }

    /// Takes an event in.
    ///
    /// # Errors
    /// When a client's or worker's request is refused; nothing has changed then.
    pub fn handle(&mut self, now: Timestamp, event: Event) -> Result<(), Rejection> {
        match event {
            Event::Submit {
                reply,
                submitted,
                definition,
            } => self.submit(now, reply, *submitted, &definition)?,
            Event::Cancel {
                reply,
                run_id,
                reason,
            } => self.cancel(now, reply, run_id, reason)?,
            Event::Prepared {
                run,
                task,
                ticket,
                result,
            } => self.prepared(now, run, task, ticket, result),
            Event::OutputsRendered {
                run,
                ticket,
                result,
            } => self.outputs_rendered(now, run, ticket, result),
            Event::Joined { session, hello } => self.joined(now, session, *hello)?,
            Event::Left { session } => self.left(now, session),
            Event::Granted { session, credits } => self.granted(now, session, credits),
            Event::Draining { session } => self.draining(session),
            Event::Outcome {
                session,
                token,
                result,
                duration,
                upstreams,
                stream,
            } => {
                let ended = AttemptEnd {
                    result,
                    duration,
                    stream,
                };
                self.outcome(now, session, token, ended, upstreams.as_deref());
            }
            Event::Refused { session, token } => self.refused(now, session, token),
            Event::Heartbeat {
                session,
                running,
                progressed,
                calls,
                intake,
            } => {
                self.heartbeat(now, session, &running, &progressed, intake);
                self.calls_went_on(now, session, calls);
            }
            Event::Kept { key } => self.kept(key),
            Event::Tick => self.tick(now),
        }
        Ok(())
    }

    /// When [`Event::Tick`] is next due.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.timers.next()
    }

    /// The entries gathered since the last call; none if nothing was.
    pub fn take_batch(&mut self) -> Option<Gathered> {
        if self.entries.is_empty() {
            return None;
        }
        let number = self.gathering;
        self.gathering.0 += 1;
        // The next batch is likely to be about as large.
        let next = Vec::with_capacity(self.entries.len());
        Some(Gathered {
            number,
            definitions: std::mem::take(&mut self.definitions),
            entries: std::mem::replace(&mut self.entries, next),
        })
    }

    /// The commands gathered since the last call, in order.
    pub fn take_effects(&mut self) -> std::vec::Drain<'_, Effect> {
        self.effects.drain(..)
    }

    /// The last batch with anything in it: what the engine knows now is durable when that is.
    pub fn latest_batch(&self) -> BatchNumber {
        if self.entries.is_empty() {
            BatchNumber(self.gathering.0 - 1)
        } else {
            self.gathering
        }
    }

    /// How much is under way.
    pub fn load(&self) -> Load {
        Load {
            open_runs: self.open_runs,
            leases: self.leases.len(),
            workers: self
                .workers
                .iter()
                .filter(|(_, worker)| worker.session.is_some())
                .count(),
            stale_results: self.stale_results,
        }
    }

    pub(crate) fn run(&self, key: RunKey) -> &LiveRun {
        &self.runs[key.0 as usize]
    }

    pub(crate) fn run_mut(&mut self, key: RunKey) -> &mut LiveRun {
        &mut self.runs[key.0 as usize]
    }

    pub(crate) fn gathering(&self) -> BatchNumber {
        self.gathering
    }

    /// The batch with the last entry of any run.
    pub(crate) fn last_batch(&self) -> BatchNumber {
        BatchNumber(self.gathering.0 - u64::from(self.entries.is_empty()))
    }

    pub(crate) fn define(&mut self, digest: WorkflowDigest, canonical: Bytes) {
        self.definitions.push((digest, canonical));
    }

    pub(crate) fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    pub(crate) fn last_ticket(&self) -> Ticket {
        Ticket(self.next_ticket)
    }

    pub(crate) fn command(&mut self, after: BatchNumber, command: Command) {
        self.effects.push(Effect { after, command });
    }

    /// Writes a fact to the journal, applies it, and does what follows from it.
    pub(crate) fn record(&mut self, now: Timestamp, key: RunKey, fact: Fact) {
        let batch = self.gathering;
        self.count_fact(key, &fact);
        let run = &mut self.runs[key.0 as usize];
        let record = Record { at: now, fact };
        let status = run.state.status;
        run.state.apply(&record, &mut self.changes);
        if !Protection::WrittenChange.holds()
            && matches!(&record.fact, Fact::Failed { retry_at, .. } if retry_at.is_some())
        {
            return self.follow(now, key);
        }
        if run.recorded_in.0 != batch {
            run.recorded_in = (batch, self.entries.len());
            self.entries.push(Entry {
                run: run.state.number,
                first_sequence: run.state.sequence,
                records: Vec::with_capacity(2),
                progress: None,
            });
        }
        let entry = &mut self.entries[run.recorded_in.1];
        entry.records.push(record);
        if run.state.status != status || run.state.sequence == 1 {
            entry.progress = Some(run.state.progress());
        }
        self.follow(now, key);
    }

    /// Does what follows from changes that were applied to a run.
    pub(crate) fn follow(&mut self, now: Timestamp, key: RunKey) {
        let mut changes = std::mem::take(&mut self.changes);
        let mut freed = false;
        let mut landed = Vec::new();
        for &change in &changes {
            match change {
                Change::Ready(_) => {}
                Change::Ended(task) => {
                    self.count_end(key, task);
                    self.release(now, key, task);
                    if !self.flights.is_empty() {
                        landed.push(task);
                    }
                    if !self.run(key).lists.is_empty() {
                        self.run_mut(key).lists.remove(&task);
                    }
                    freed = true;
                }
                Change::LevelCompleted(_) => {
                    let run = &mut self.runs[key.0 as usize];
                    run.gate.level_completed(&run.state);
                    freed = true;
                }
            }
        }
        // Only now, when all that ended has left its place.
        if self.run(key).state.status == RunStatus::Running {
            for change in &changes {
                if let &Change::Ready(task) = change {
                    self.admit(now, key, task);
                }
            }
            if freed {
                self.admit_gated(now, key);
            }
        }
        changes.clear();
        self.changes = changes;
        self.finish_if_done(now, key);
        for task in landed {
            self.land(now, key, task);
        }
    }

    /// The live side of a task; items get theirs when they are first looked at.
    pub(crate) fn live_task(&mut self, key: RunKey, task: TaskIndex) -> &mut LiveTask {
        let run = &mut self.runs[key.0 as usize];
        let count = run.state.tasks.len();
        if run.tasks.len() < count {
            run.tasks.resize(count, LiveTask::Idle);
        }
        &mut run.tasks[task.0 as usize]
    }
}
