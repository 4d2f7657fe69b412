//! The shell around the engine: store, clients, workers and time, all under the control of a test.

mod owners;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levelflow_common::chunk::pack;
use levelflow_common::{
    AttemptResult, CacheKey, CacheUse, Code, Failure, FencingToken, Priority, RunId, RunStatus,
    ShardId, TaskStatus, Timestamp, UpstreamCall, UpstreamReport, WorkflowDigest,
};
use levelflow_engine::command::{Answer, Prepare, Quarantined, RenderOutputs};
use levelflow_engine::event::{ReplyId, SessionId};
use levelflow_engine::record::{RecordedStream, SubmitKey};
use levelflow_engine::task::TaskState;
use levelflow_engine::{
    BatchNumber, BreakerState, Command, Config, Definition, Effect, Engine, Event, Gathered,
    Output, Record, Rejection, RunNumber, RunState, Submitted,
};

use crate::audit::{Audit, Folds, compare};
use crate::preparer::{self, Cache};
use crate::worker::{FakeWorker, Held};

pub(crate) struct Shell {
    pub(crate) engine: Engine,
    pub(crate) config: Config,
    pub(crate) now: Timestamp,
    pub(crate) workers: Vec<FakeWorker>,
    pub(crate) prepares: Vec<Prepare>,
    pub(crate) renders: Vec<RenderOutputs>,
    pub(crate) audit: Audit,
    /// What is durable.
    pub(crate) store: Folds,
    pub(crate) journals: BTreeMap<RunNumber, Vec<Record>>,
    /// What the engine said, durable or not.
    pub(crate) told: Folds,
    pub(crate) numbers: BTreeMap<RunId, RunNumber>,
    pub(crate) answers: BTreeMap<ReplyId, Answer>,
    /// What was last told of each breaker.
    pub(crate) breakers: BTreeMap<Arc<str>, BreakerState>,
    /// The workers that were said to be lost, and with how many attempts.
    pub(crate) lost: Vec<(Arc<str>, usize)>,
    pub(crate) quarantined: Vec<Quarantined>,
    /// What the next heartbeat tells of upstreams.
    pub(crate) answered: Vec<(FencingToken, UpstreamCall)>,
    /// What was put into the cache; it outlives crashes.
    pub(crate) cache: Cache,
    /// What is on its way there.
    pub(crate) keeping: Vec<(CacheKey, Result<Output, Failure>)>,
    /// Shards that another engine has, for all that this one knows.
    pub(crate) away: BTreeSet<ShardId>,
    /// Leases of before the last crash have tokens below this.
    crashed_at: FencingToken,
    /// The results that nobody computes any more, though nobody has them.
    pub(crate) given_up: Vec<CacheKey>,
    definitions: BTreeMap<WorkflowDigest, Arc<Definition>>,
    requests: BTreeMap<ReplyId, Request>,
    committing: VecDeque<Gathered>,
    taken: BatchNumber,
    durable: BatchNumber,
    effects: Vec<Effect>,
    last_id: u64,
}

enum Request {
    Submit(Box<Submitted>),
    Cancel(RunId),
}

/// What an attempt gives before its outcome: three of four give some chunks.
pub(crate) fn stream(token: FencingToken) -> Option<Box<RecordedStream>> {
    let chunks: Vec<_> = (0..token.0 % 4).map(|chunk| chunk.to_string()).collect();
    let recorded = RecordedStream {
        stream: token,
        chunks: chunks.len() as u32,
        packed: pack(&chunks.into_iter().map(Into::into).collect::<Vec<_>>()),
    };
    (recorded.chunks > 0).then(|| Box::new(recorded))
}

impl Shell {
    pub(crate) fn new(config: Config) -> Self {
        let mut engine = Engine::new(config.clone(), RunNumber(1));
        let all: Vec<_> = config.shards.all().collect();
        engine.take_up(config.epoch, &all, RunNumber(1));
        Self {
            engine,
            now: Timestamp::from_micros(1_000_000_000),
            workers: Vec::new(),
            prepares: Vec::new(),
            renders: Vec::new(),
            audit: Audit::new(&config),
            store: Folds::new(),
            journals: BTreeMap::new(),
            told: Folds::new(),
            numbers: BTreeMap::new(),
            answers: BTreeMap::new(),
            breakers: BTreeMap::new(),
            lost: Vec::new(),
            quarantined: Vec::new(),
            answered: Vec::new(),
            cache: Cache::new(),
            keeping: Vec::new(),
            given_up: Vec::new(),
            away: BTreeSet::new(),
            crashed_at: FencingToken(config.epoch << 44),
            definitions: BTreeMap::new(),
            requests: BTreeMap::new(),
            committing: VecDeque::new(),
            taken: BatchNumber(0),
            durable: BatchNumber(0),
            effects: Vec::new(),
            last_id: 0,
            config,
        }
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// A submit of a definition, to be filled in by the caller.
    pub(crate) fn submission(&mut self, definition: &Arc<Definition>) -> Submitted {
        self.definitions
            .insert(definition.digest, definition.clone());
        let id = self.next_id();
        let workflow = &definition.workflow;
        Submitted {
            // The last bits name the shard.
            run_id: RunId::from_slice(&(u128::from(id) << 16 | u128::from(id % 97)).to_be_bytes())
                .unwrap(),
            digest: definition.digest,
            workflow: definition.name.clone(),
            tenant: "default".into(),
            priority: workflow.priority,
            durability: workflow.durability,
            cache: CacheUse::Use,
            labels: BTreeMap::new(),
            inputs: Bytes::from_static(
                br#"{"yes":true,"no":false,"x":7,"three":[1,2,3],"none":[]}"#,
            ),
            key: None,
            resumed_from: None,
            kept: Vec::new(),
        }
    }

    /// Submits, as the coordinator does: it looks in the store for the key first.
    pub(crate) fn submit(&mut self, submitted: Submitted) -> Result<ReplyId, Rejection> {
        let reply = ReplyId(self.next_id());
        if let Some(key) = &submitted.key
            && let Some((known, run_id)) = self.stored_key(&submitted.tenant, key)
        {
            if known.content != key.content {
                return Err(Rejection::KeyReused { run_id });
            }
            self.answered(
                reply,
                &Request::Submit(Box::new(submitted)),
                Answer::Submitted {
                    run_id,
                    existing: true,
                },
            );
            return Ok(reply);
        }
        let definition = self.definitions[&submitted.digest].clone();
        self.requests
            .insert(reply, Request::Submit(Box::new(submitted.clone())));
        self.engine.handle(
            self.now,
            Event::Submit {
                reply,
                submitted: Box::new(submitted),
                definition,
            },
        )?;
        self.settle_event();
        Ok(reply)
    }

    fn stored_key(&self, tenant: &Arc<str>, key: &SubmitKey) -> Option<(SubmitKey, RunId)> {
        self.store.values().rev().find_map(|run| {
            let known = run.submitted.key.as_ref()?;
            let lives = known.expires_at.is_none_or(|at| at > self.now);
            (run.submitted.tenant == *tenant && known.key == key.key && lives)
                .then(|| (known.clone(), run.submitted.run_id))
        })
    }

    /// Submits with all defaults, and commits.
    pub(crate) fn run(&mut self, definition: &Arc<Definition>) -> RunId {
        let submitted = self.submission(definition);
        let run_id = submitted.run_id;
        self.submit(submitted).unwrap();
        self.flush();
        self.commit_all();
        run_id
    }

    /// Submits with a priority and for a tenant, without a commit.
    pub(crate) fn enqueue(
        &mut self,
        definition: &Arc<Definition>,
        priority: Priority,
        tenant: &str,
    ) -> RunId {
        let mut submitted = self.submission(definition);
        submitted.priority = priority;
        submitted.tenant = tenant.into();
        let run_id = submitted.run_id;
        self.submit(submitted).unwrap();
        run_id
    }

    pub(crate) fn cancel(&mut self, run_id: RunId) -> Result<ReplyId, Rejection> {
        let reply = ReplyId(self.next_id());
        self.requests.insert(reply, Request::Cancel(run_id));
        self.engine.handle(
            self.now,
            Event::Cancel {
                reply,
                run_id,
                reason: "test".into(),
            },
        )?;
        self.settle_event();
        Ok(reply)
    }

    pub(crate) fn event(&mut self, event: Event) -> Result<(), Rejection> {
        self.engine.handle(self.now, event)?;
        self.settle_event();
        Ok(())
    }

    pub(crate) fn settle_event(&mut self) {
        self.engine.assign(self.now);
        self.engine.check_invariants();
    }

    /// Takes the batch and the effects that were gathered.
    pub(crate) fn flush(&mut self) {
        let mut touched = Vec::new();
        if let Some(batch) = self.engine.take_batch() {
            assert_eq!(batch.number.0, self.taken.0 + 1, "a batch was left out");
            self.taken = batch.number;
            for entry in &batch.entries {
                let before = self.told.remove(&entry.run).unwrap_or_else(|| {
                    let first = &entry.records[0].fact;
                    let levelflow_engine::Fact::Submitted(submitted) = first else {
                        panic!("a run begins with {first:?}");
                    };
                    let definition = self.definitions[&submitted.digest].clone();
                    RunState::new(entry.run, submitted.clone(), definition)
                });
                let after = self.audit.written(&before, entry);
                self.numbers.insert(after.submitted.run_id, entry.run);
                self.told.insert(entry.run, after);
                touched.push(entry.run);
            }
            self.committing.push_back(batch);
        }
        self.effects.extend(self.engine.take_effects());
        for effect in &self.effects {
            assert!(
                effect.after <= self.taken,
                "{effect:?} waits for a batch that may never come"
            );
        }
        for number in touched {
            self.compare_views(number);
        }
        self.release();
    }

    fn compare_views(&self, number: RunNumber) {
        let told = &self.told[&number];
        if let Some((after, served)) = self.engine.view(told.submitted.run_id) {
            assert!(after <= self.taken);
            compare(&told.view(), &served);
        }
    }

    /// Makes the oldest batch durable.
    pub(crate) fn commit(&mut self) {
        if let Some(batch) = self.committing.pop_front() {
            self.durable = batch.number;
            for entry in batch.entries {
                let records = self.journals.entry(entry.run).or_default();
                records.extend(entry.records.iter().cloned());
                let fold = match self.store.remove(&entry.run) {
                    Some(mut fold) => {
                        for record in &entry.records {
                            fold.apply(record, &mut Vec::new());
                        }
                        fold
                    }
                    None => {
                        let definition = self.told[&entry.run].definition.clone();
                        RunState::replay(entry.run, definition, &*records).unwrap()
                    }
                };
                self.store.insert(entry.run, fold);
            }
        }
        self.release();
    }

    pub(crate) fn commit_all(&mut self) {
        while !self.committing.is_empty() {
            self.commit();
        }
    }

    /// Carries out the effects whose batch is durable, in order.
    fn release(&mut self) {
        let durable = self.durable;
        let (due, later) = std::mem::take(&mut self.effects)
            .into_iter()
            .partition(|effect| effect.after <= durable);
        self.effects = later;
        for Effect { command, .. } in due {
            self.carry_out(command);
        }
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Reply { reply, answer } => {
                let request = self.requests.remove(&reply).expect("one answer a request");
                self.answered(reply, &request, answer);
            }
            Command::Prepare(prepare) => {
                let definition = &prepare.context.definition;
                let needs = definition.plan.needs(prepare.defined).len();
                assert_eq!(prepare.context.tasks.len(), needs, "a need has not ended");
                self.prepares.push(*prepare);
            }
            Command::RenderOutputs(render) => self.renders.push(*render),
            Command::Dispatch { session, token } => self.dispatch(session, token),
            Command::Stop { session, token } => {
                if let Some(held) = self.held(session, token) {
                    held.stopped = true;
                }
            }
            Command::Acknowledge { session, token } => {
                let worker = self.with_session(session);
                if let Some(held) = worker.and_then(|worker| worker.held.remove(&token)) {
                    self.acknowledged(token, &held);
                }
            }
            Command::Welcome { session, revoked } => {
                if let Some(worker) = self.with_session(session) {
                    for token in revoked {
                        worker.held.remove(&token);
                    }
                }
            }
            Command::Close { session, .. } => {
                if let Some(worker) = self.with_session(session) {
                    worker.session = None;
                }
            }
            Command::Keep(computed) => {
                let run = &self.store[&self.numbers[&computed.run_id]];
                let is_durable = |task: &TaskState| task.status.is_terminal();
                let ends = run.tasks.iter().filter(|task| is_durable(task)).count();
                assert!(ends > 0, "a result is kept before it is durable");
                self.keeping.push((computed.key, computed.result));
            }
            Command::GiveUp { key } => self.given_up.push(key),
            Command::BreakerChanged { upstream, state } => {
                self.breakers.insert(upstream, state);
            }
            Command::WorkerLost {
                worker, attempts, ..
            } => self.lost.push((worker.0, attempts)),
            Command::Quarantined(quarantined) => self.quarantined.push(*quarantined),
            Command::Ended(ended) => {
                let fold = &self.store[&ended.number];
                assert_eq!(fold.status, ended.status, "told before it is durable");
                assert_eq!(fold.outputs, ended.outputs);
                assert_eq!(fold.failure, ended.failure);
                self.audit.ended(ended.run_id, ended.status);
                self.engine.evict(self.now, ended.run);
                self.engine.check_invariants();
            }
        }
    }

    fn answered(&mut self, reply: ReplyId, request: &Request, answer: Answer) {
        self.answers.insert(reply, answer);
        match (request, answer) {
            (Request::Submit(submitted), Answer::Submitted { run_id, existing }) => {
                let number = self.numbers[&run_id];
                assert!(self.store.contains_key(&number), "a submit is not durable");
                assert_eq!(existing, run_id != submitted.run_id);
                self.audit.submitted.insert(run_id);
                if let Some(key) = &submitted.key
                    && key.expires_at.is_none()
                {
                    let name = (submitted.tenant.clone(), key.key.clone());
                    let known = (run_id, key.content);
                    let before = *self.audit.keys.entry(name).or_insert(known);
                    assert_eq!(before, known, "one key stands for two runs");
                }
            }
            (Request::Cancel(run_id), Answer::Cancelling { status }) => {
                let stored = &self.store[&self.numbers[run_id]];
                assert!(status == RunStatus::Cancelling || status.is_terminal());
                assert_ne!(stored.status, RunStatus::Running, "a cancel is not durable");
                self.audit.cancelled.insert(*run_id);
            }
            _ => panic!("an answer to something else: {answer:?}"),
        }
    }

    /// A worker may forget an outcome: it is durable, or nobody will ask for it.
    fn acknowledged(&self, token: FencingToken, held: &Held) {
        let Held {
            attempt, outcome, ..
        } = held;
        let outcome = outcome.as_ref().expect("only outcomes are acknowledged");
        let stopped = matches!(outcome, Err(failure) if failure.code == Code::Cancelled);
        let parked = outcome.is_err() && held.upstreams.parked_on.is_some();
        if stopped || parked || !self.audit.accepted.contains(&token) {
            return;
        }
        let run = &self.store[&attempt.number];
        let task = run.find(&attempt.task_id, attempt.item).expect("the task");
        assert!(
            run.task(task).attempts >= attempt.attempt || run.status != RunStatus::Running,
            "an outcome was acknowledged before it was durable"
        );
    }

    fn dispatch(&mut self, session: SessionId, token: FencingToken) {
        let Some(attempt) = self.engine.start(self.now, token) else {
            return;
        };
        let told = &self.told[&attempt.number];
        let durable = self.store.get(&attempt.number);
        self.audit.started(self.now, &attempt, durable, told);
        let worker = self
            .with_session(session)
            .expect("attempts go only to live sessions");
        assert!(worker.credits > 0, "more attempts than the worker granted");
        worker.credits -= 1;
        assert_eq!(attempt.token, token);
        worker.held.insert(
            token,
            Held {
                attempt,
                stopped: false,
                is_forgotten: false,
                outcome: None,
                upstreams: UpstreamReport::default(),
            },
        );
    }

    fn with_session(&mut self, session: SessionId) -> Option<&mut FakeWorker> {
        self.workers
            .iter_mut()
            .find(|worker| worker.session == Some(session))
    }

    fn held(&mut self, session: SessionId, token: FencingToken) -> Option<&mut Held> {
        self.with_session(session)?.held.get_mut(&token)
    }

    /// Opens a session for a worker, and grants what its slots allow. What it could not report before
    /// it reports now.
    pub(crate) fn join(&mut self, worker: usize) -> Result<(), Rejection> {
        let session = SessionId(self.next_id());
        let hello = Box::new(self.workers[worker].hello());
        self.engine
            .handle(self.now, Event::Joined { session, hello })?;
        self.workers[worker].session = Some(session);
        self.workers[worker].credits = 0;
        self.settle_event();
        self.flush();
        let spooled: Vec<_> = self.workers[worker]
            .held
            .iter()
            .filter_map(|(&token, held)| Some((token, held.outcome.clone()?)))
            .collect();
        for (token, result) in spooled {
            self.report(worker, token, result);
        }
        let free = self.workers[worker].free_slots();
        self.grant(worker, free);
        Ok(())
    }

    pub(crate) fn grant(&mut self, worker: usize, credits: u32) {
        let worker = &mut self.workers[worker];
        if let Some(session) = worker.session {
            worker.credits += credits;
            let event = Event::Granted { session, credits };
            self.event(event).unwrap();
        }
    }

    pub(crate) fn leave(&mut self, worker: usize) {
        if let Some(session) = self.workers[worker].session.take() {
            self.workers[worker].credits = 0;
            self.event(Event::Left { session }).unwrap();
        }
    }

    /// A worker process dies and another takes its place.
    pub(crate) fn restart(&mut self, worker: usize) {
        self.leave(worker);
        let worker = &mut self.workers[worker];
        let runs = |held: &&Held| held.outcome.is_none() && !held.is_forgotten;
        for held in worker.held.values().filter(runs) {
            let attempt = &held.attempt;
            let task = (attempt.number, attempt.task);
            self.audit.lost.insert(task, attempt.attempt);
        }
        worker.instance += 1;
        worker.held.clear();
    }

    /// As [`Shell::complete`], after a call to the upstream that the attempt names, if it names one.
    pub(crate) fn complete_call(
        &mut self,
        worker: usize,
        token: FencingToken,
        result: AttemptResult,
        failed: bool,
    ) {
        let holder = &mut self.workers[worker];
        let held = holder.held.get_mut(&token).expect("the worker holds it");
        if let Some(upstream) = &held.attempt.upstream {
            let upstream = upstream.to_string();
            held.upstreams.calls.push(UpstreamCall { upstream, failed });
        }
        self.complete(worker, token, result);
    }

    /// An attempt ends on its worker, which reports it where it can, and has a free slot.
    pub(crate) fn complete(&mut self, worker: usize, token: FencingToken, result: AttemptResult) {
        let holder = &mut self.workers[worker];
        let held = holder.held.get_mut(&token).expect("the worker holds it");
        assert!(held.outcome.is_none(), "it completed before");
        held.outcome = Some(result.clone());
        self.report(worker, token, result);
        if self.workers[worker].credits < self.workers[worker].free_slots() {
            self.grant(worker, 1);
        }
    }

    /// Sends an outcome; says whether it was accepted.
    pub(crate) fn report(
        &mut self,
        worker: usize,
        token: FencingToken,
        result: AttemptResult,
    ) -> bool {
        let Some(session) = self.workers[worker].session else {
            return false;
        };
        let before = self.engine.load().stale_results;
        let held = self.workers[worker].held.get(&token);
        let outcome = Event::Outcome {
            session,
            token,
            result,
            duration: Duration::from_millis(1),
            upstreams: held.map(|held| Box::new(held.upstreams.clone())),
            stream: stream(token),
        };
        self.event(outcome).unwrap();
        let accepted = self.engine.load().stale_results == before;
        if accepted {
            assert!(
                self.audit.accepted.insert(token),
                "a second result of one lease was accepted"
            );
            assert!(
                token > self.crashed_at,
                "a result from before the crash was accepted"
            );
        }
        accepted
    }

    pub(crate) fn refuse(&mut self, worker: usize, token: FencingToken) {
        let holder = &mut self.workers[worker];
        if let Some(session) = holder.session {
            holder.held.remove(&token);
            self.event(Event::Refused { session, token }).unwrap();
            self.grant(worker, 1);
        }
    }

    pub(crate) fn heartbeat(&mut self, worker: usize) {
        let holder = &self.workers[worker];
        if let Some(session) = holder.session {
            let running: Vec<_> = holder.held.keys().copied().collect();
            let progressed = running.clone();
            let event = Event::Heartbeat {
                session,
                running,
                progressed,
                calls: std::mem::take(&mut self.answered),
                intake: holder.intake,
            };
            self.event(event).unwrap();
        }
    }

    pub(crate) fn answer_prepare(&mut self, place: usize) {
        let asked = self.prepares.remove(place);
        let result = preparer::prepare(&asked, &self.cache);
        let event = Event::Prepared {
            run: asked.run,
            task: asked.task,
            ticket: asked.ticket,
            result,
        };
        self.event(event).unwrap();
    }

    /// The cache takes a result in.
    pub(crate) fn keep(&mut self, place: usize) {
        let (key, result) = self.keeping.remove(place);
        self.cache.insert(key, result);
        self.event(Event::Kept { key }).unwrap();
    }

    pub(crate) fn answer_render(&mut self, place: usize) {
        let asked = self.renders.remove(place);
        let result = preparer::render(&asked);
        let event = Event::OutputsRendered {
            run: asked.run,
            ticket: asked.ticket,
            result,
        };
        self.event(event).unwrap();
    }

    pub(crate) fn tick(&mut self) {
        self.event(Event::Tick).unwrap();
        assert!(
            self.engine.next_deadline().is_none_or(|at| at > self.now),
            "a timer that was due is still there"
        );
    }

    pub(crate) fn advance(&mut self, span: Duration) {
        self.now = self.now.saturating_add(span);
        self.tick();
    }

    /// Answers, commits and completes with success whatever there is, without moving time, until
    /// nothing is left to do.
    pub(crate) fn settle(&mut self) {
        loop {
            self.flush();
            self.commit_all();
            if !self.prepares.is_empty() {
                self.answer_prepare(0);
            } else if !self.keeping.is_empty() {
                self.keep(0);
            } else if !self.renders.is_empty() {
                self.answer_render(0);
            } else {
                return;
            }
        }
    }

    /// As [`Shell::settle`], and workers complete what they have.
    pub(crate) fn work(&mut self) {
        loop {
            self.settle();
            let Some((worker, token)) = self.attempts().first().copied() else {
                return;
            };
            self.complete_call(worker, token, Ok(Bytes::from_static(b"1")), false);
        }
    }

    /// Attempts that run on workers, the first given first.
    pub(crate) fn attempts(&self) -> Vec<(usize, FencingToken)> {
        let mut attempts: Vec<_> = self
            .workers
            .iter()
            .enumerate()
            .flat_map(|(place, worker)| worker.running().into_iter().map(move |it| (place, it)))
            .collect();
        attempts.sort_by_key(|&(_, token)| token);
        attempts
    }

    /// A shell with one worker of that many slots.
    pub(crate) fn with_worker(slots: u32) -> Self {
        let mut shell = Self::new(Config::default());
        shell.workers.push(FakeWorker::new("w", slots));
        shell.join(0).unwrap();
        shell
    }

    /// The ids of the tasks that run, in the order in which they were given.
    pub(crate) fn running(&self) -> Vec<String> {
        let attempts = self.attempts();
        let held = attempts
            .iter()
            .map(|(worker, token)| &self.workers[*worker].held[token].attempt);
        held.map(|attempt| match attempt.item {
            None => attempt.task_id.to_string(),
            Some(item) => format!("{}[{item}]", attempt.task_id),
        })
        .collect()
    }

    /// Completes the attempt that runs longest of those at that task.
    pub(crate) fn finish(&mut self, task: &str, result: AttemptResult) {
        let place = self.running().iter().position(|running| running == task);
        let (worker, token) = self.attempts()[place.expect("it runs")];
        self.complete(worker, token, result);
        self.settle();
    }

    pub(crate) fn succeed(&mut self, task: &str) {
        self.finish(task, Ok(Bytes::from_static(b"1")));
    }

    /// Advances time, with heartbeats that keep every lease.
    pub(crate) fn pass(&mut self, span: Duration) {
        let end = self.now.saturating_add(span);
        while self.now < end {
            for worker in 0..self.workers.len() {
                self.heartbeat(worker);
            }
            let step = end.since(self.now).min(Duration::from_secs(1));
            self.advance(step);
            self.settle();
        }
    }

    /// How a task stands, as it is served.
    pub(crate) fn status(&self, run_id: RunId, task: &str) -> TaskStatus {
        let state = self.state(run_id);
        let index = state.find(task, None).expect("a known task").0 as usize;
        match self.engine.view(run_id) {
            Some((_, run)) => run.tasks[index].status,
            None => state.tasks[index].status,
        }
    }

    /// Why a task of the run failed.
    pub(crate) fn failure(&self, run_id: RunId, task: &str) -> (Code, String) {
        let state = self.state(run_id);
        let index = state.find(task, None).expect("a known task");
        let failure = state.task(index).failure.as_ref().expect("it failed");
        (failure.code, failure.message.clone())
    }

    pub(crate) fn open_runs(&self) -> usize {
        self.told
            .values()
            .filter(|run| !run.status.is_terminal())
            .count()
    }

    pub(crate) fn state(&self, run_id: RunId) -> &RunState {
        &self.told[&self.numbers[&run_id]]
    }
}
