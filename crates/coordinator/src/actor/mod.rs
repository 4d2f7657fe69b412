//! The scheduler actor: the one owner of the engine.
//!
//! It takes in whatever has gathered in its inbox, lets the engine handle it, and hands the journal
//! entries that came of it to the store. While one batch is committed the next gathers. Effects are
//! carried out only when their batch is durable.

mod chunks;
mod held;
mod measures;
mod message;
mod overview;
mod sessions;
mod shards;
mod streams;
mod watchers;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use levelflow_common::alert::AlertSubject;
use levelflow_common::event::{RunEvent, TaskRef};
use levelflow_common::limits::MAX_UPSTREAMS_PER_ATTEMPT;
use levelflow_common::upstream::is_name;
use levelflow_common::{
    Code, Failure, FencingToken, HumanDuration, ShardId, Timestamp, UpstreamCall, UpstreamReport,
    WorkerId,
};
use levelflow_engine::autoscale::Demand;
use levelflow_engine::command::Answer;
use levelflow_engine::event::{Intake, ReplyId, SessionId};
use levelflow_engine::{BatchNumber, BreakerState, Command, Engine, Event, Rejection, RunNumber};
use levelflow_proto::v1;
use levelflow_store::{Batch, Store, StoreError};
use slab::Slab;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use self::held::{Held, HeldEffects};
use self::measures::CommitMeasures;
use self::sessions::Sessions;
use self::shards::Leaving;
use self::streams::Streams;
use self::watchers::Watchers;
use crate::alert::{self, Alerts};
use crate::clock::Clock;
use crate::prepare::PreparePool;
use crate::recovery::Recover;
use crate::webhook::AlertsConfig;

pub(crate) use sessions::Agreed;
pub(crate) use streams::TaskStream;

pub(crate) use measures::{Histogram, Measures, WorkerMeasures};
pub(crate) use message::{
    Accepted, Message, Refused, RunEnding, SessionFrame, StreamAnswer, SubmitReply, Watched,
};

/// Messages that may wait in the inbox before senders do.
pub(crate) const INBOX: usize = 8192;
/// Batches that are with the store at once. It joins what waits, and need not wait in turn for the next
/// while the actor is busy with what the last one let go.
const MAX_COMMITTING: usize = 4;
/// Messages that are taken in before effects are looked at.
const TURN: usize = 1024;

/// The actor.
pub(crate) struct Actor {
    engine: Engine,
    clock: Clock,
    store: Arc<dyn Store>,
    recover: Recover,
    inbox: mpsc::Receiver<Message>,
    prepare: PreparePool,
    coordinator_id: String,
    heartbeat_interval: Duration,
    lease: Duration,
    replies: Slab<PendingReply>,
    /// Those who ask what waits for workers.
    asking_demand: Vec<oneshot::Sender<Demand>>,
    /// Those who wait until no run is open.
    idle: Vec<oneshot::Sender<()>>,
    sessions: Sessions,
    watchers: Watchers,
    alerts: Alerts,
    streams: Streams,
    held: HeldEffects,
    /// The batches that are being committed, the oldest first.
    committing: VecDeque<Committing>,
    commits: CommitMeasures,
    /// Shards that are about to go to another coordinator.
    leaving: Vec<Leaving>,
    /// Until when nobody else can have the shards; none if nobody ever can.
    shards_until: Option<Instant>,
    /// Those who had everything read again.
    reloading: Vec<oneshot::Sender<Vec<ShardId>>>,
    stopping: Option<Stopping>,
}

enum PendingReply {
    Submit(SubmitReply),
    Cancel(oneshot::Sender<Result<levelflow_common::RunStatus, Refused>>),
}

/// A batch that is being committed.
struct Committing {
    began: Instant,
    done: oneshot::Receiver<Result<(), StoreError>>,
}

struct Stopping {
    deadline: Instant,
    done: oneshot::Sender<()>,
}

/// What an actor is made of.
pub(crate) struct Parts {
    pub(crate) engine: Engine,
    pub(crate) clock: Clock,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) recover: Recover,
    pub(crate) inbox: mpsc::Receiver<Message>,
    pub(crate) prepare: PreparePool,
    pub(crate) coordinator_id: String,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) lease: Duration,
    pub(crate) alerts: AlertsConfig,
}

impl Actor {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            engine: parts.engine,
            clock: parts.clock,
            store: parts.store,
            recover: parts.recover,
            inbox: parts.inbox,
            prepare: parts.prepare,
            coordinator_id: parts.coordinator_id,
            heartbeat_interval: parts.heartbeat_interval,
            lease: parts.lease,
            replies: Slab::new(),
            asking_demand: Vec::new(),
            idle: Vec::new(),
            sessions: Sessions::default(),
            watchers: Watchers::default(),
            alerts: Alerts::new(&parts.alerts),
            streams: Streams::default(),
            held: HeldEffects::default(),
            committing: VecDeque::new(),
            commits: CommitMeasures::default(),
            leaving: Vec::new(),
            shards_until: None,
            reloading: Vec::new(),
            stopping: None,
        }
    }

    /// Runs until it is told to stop, or until nobody can tell it anything any more.
    pub(crate) async fn run(mut self) {
        let mut messages = Vec::with_capacity(TURN);
        loop {
            self.turn();
            if self.has_stopped() {
                break;
            }
            if !self.reloading.is_empty() {
                if !self.reload().await {
                    break;
                }
                let shards: Vec<_> = self.engine.open_shards().collect();
                for reply in self.reloading.drain(..) {
                    let _ = reply.send(shards.clone());
                }
                continue;
            }
            let wake_at = self.wake_at();
            tokio::select! {
                biased;
                result = committed(&mut self.committing), if !self.committing.is_empty() => {
                    match result {
                        Ok(took) => self.committed(took),
                        Err(error) => {
                            tracing::error!(error = %error, "commit failed, reloading from the store");
                            if !self.reload().await {
                                break;
                            }
                        }
                    }
                }
                count = self.inbox.recv_many(&mut messages, TURN) => {
                    if count == 0 {
                        break;
                    }
                    let now = self.clock.now();
                    for message in messages.drain(..) {
                        self.take_in(now, message);
                    }
                }
                () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => {}
            }
        }
        self.sessions.close_all(&Refused::Stopping);
        if let Err(error) = self.store.close().await {
            tracing::error!(error = %error, "store did not close");
        }
        if let Some(stopping) = self.stopping {
            let _ = stopping.done.send(());
        }
    }

    /// Does what is due, and lets everything out that may go.
    fn turn(&mut self) {
        let now = self.clock.now();
        if self.engine.next_deadline().is_some_and(|at| at <= now) {
            self.handle(now, Event::Tick);
        }
        if self.stopping.is_none() && self.is_sure_of_shards() {
            self.engine.assign(now);
        }
        self.tell_demand(now);
        if !self.leaving.is_empty() {
            self.give_away(now);
        }
        if self.sessions.are_shared() {
            for (session, wants) in self.engine.wanting() {
                self.sessions.wants(session, wants);
            }
        }
        self.take_effects(now);
        self.commit();
        self.sessions.flush();
        if !self.idle.is_empty() && self.engine.load().open_runs == 0 {
            for reply in self.idle.drain(..) {
                let _ = reply.send(());
            }
        }
    }

    fn commit(&mut self) {
        if self.committing.len() == MAX_COMMITTING {
            return;
        }
        if let Some(gathered) = self.engine.take_batch() {
            self.watchers.commit(&gathered.entries);
            self.streams.commit(&gathered.entries, &self.engine);
            self.held.commit(gathered.number);
            self.commits.began(gathered.entries.len());
            let done = self.store.append(Batch {
                definitions: gathered.definitions,
                entries: gathered.entries,
            });
            let began = Instant::now();
            self.committing.push_back(Committing { began, done });
        }
    }

    fn committed(&mut self, took: Duration) {
        self.commits.ended(took);
        let now = self.clock.now();
        self.watchers.committed();
        self.streams.committed();
        for effect in self.held.committed() {
            self.carry_out(now, effect);
        }
    }

    fn take_effects(&mut self, now: Timestamp) {
        let effects: Vec<_> = self.engine.take_effects().collect();
        for effect in effects {
            if let Some(effect) = self.held.hold(effect.after, Held::Command(effect.command)) {
                self.carry_out(now, effect);
            }
        }
    }

    fn handle(&mut self, now: Timestamp, event: Event) {
        if let Err(rejection) = self.engine.handle(now, event) {
            tracing::warn!(error = %rejection, "event was rejected");
        }
    }

    fn take_in(&mut self, now: Timestamp, message: Message) {
        match message {
            Message::Engine(event) => self.handle(now, event),
            Message::Submit {
                submitted,
                definition,
                reply,
            } => {
                if self.stopping.is_some() {
                    self.answer_submit(reply, Err(Refused::Stopping));
                    return;
                }
                let id = self.replies.insert(PendingReply::Submit(reply));
                let reply = ReplyId(id as u64);
                let event = Event::Submit {
                    reply,
                    submitted,
                    definition,
                };
                self.handle_request(now, reply, event);
            }
            Message::Cancel {
                run_id,
                reason,
                reply,
            } => {
                let id = self.replies.insert(PendingReply::Cancel(reply));
                let reply = ReplyId(id as u64);
                let event = Event::Cancel {
                    reply,
                    run_id,
                    reason,
                };
                self.handle_request(now, reply, event);
            }
            Message::View { run_id, reply } => match self.engine.view(run_id) {
                Some((after, view)) => self.answer(now, after, move || {
                    let _ = reply.send(Some(Box::new(view)));
                }),
                None => drop(reply.send(None)),
            },
            Message::Summaries { run_ids, reply } => {
                let open: Vec<_> = run_ids
                    .into_iter()
                    .filter_map(|run_id| self.engine.summary(run_id))
                    .collect();
                let after = open.iter().map(|(after, _)| *after).max();
                let open = open.into_iter().map(|(_, summary)| summary).collect();
                self.answer(now, after.unwrap_or_default(), move || {
                    let _ = reply.send(open);
                });
            }
            Message::Explain {
                run_id,
                task_id,
                item,
                reply,
            } => match self.engine.explain(now, run_id, &task_id, item) {
                Ok((after, explanation)) => self.answer(now, after, move || {
                    let _ = reply.send(Ok(explanation));
                }),
                Err(rejection) => drop(reply.send(Err(rejection))),
            },
            Message::Measures { reply } => drop(reply.send(Box::new(self.measures(now)))),
            Message::Breakers { reply } => drop(reply.send(self.engine.breakers())),
            Message::ResetBreaker { upstream, reply } => {
                let _ = reply.send(self.engine.reset_breaker(now, &upstream));
            }
            Message::Alerts { after, reply } => drop(reply.send(self.alerts.feed(after))),
            Message::NewestAlerts { after, most, reply } => {
                let _ = reply.send(self.alerts.newest(after, most));
            }
            Message::Workers { reply } => drop(reply.send(self.workers(now))),
            Message::Overview { reply } => drop(reply.send(self.overview(now))),
            Message::Demand { reply } => self.asking_demand.push(reply),
            Message::Idle { reply } => self.idle.push(reply),
            Message::TakeUp { recovered, reply } => self.take_up(*recovered, reply),
            Message::GiveAway {
                shards,
                grace,
                reply,
            } => self.begin_to_give(now, shards, grace, reply),
            Message::Renewed { until } => self.shards_until = Some(until),
            Message::Reload { reply } => self.reloading.push(reply),
            Message::Coordinators(coordinators) => {
                self.sessions.coordinators_changed(coordinators);
            }
            Message::Watch {
                run_id,
                chunks,
                reply,
            } => drop(reply.send(self.watch(run_id, chunks))),
            Message::FollowTask {
                run_id,
                task_id,
                item,
                reply,
            } => self.follow_task(now, run_id, &task_id, item, reply),
            Message::Opened {
                session,
                hello,
                agreed,
                frames,
            } => {
                self.sessions.open(now, session, agreed, frames);
                self.opened(now, session, hello);
            }
            Message::Frame { session, frame } => self.frame(now, session, *frame),
            Message::Closed { session } => {
                self.sessions.close(session, None);
                self.handle(now, Event::Left { session });
            }
            Message::Stop { grace, done } => {
                let deadline = Instant::now() + grace;
                self.stopping = Some(Stopping { deadline, done });
                self.sessions.drain();
            }
        }
    }

    fn handle_request(&mut self, now: Timestamp, reply: ReplyId, event: Event) {
        if let Err(rejection) = self.engine.handle(now, event) {
            // A refusal tells of the state, too: that a run has ended, or has a key.
            let after = self.engine.latest_batch();
            if let Some(effect) = self.held.hold(after, Held::Refusal(reply, rejection)) {
                self.carry_out(now, effect);
            }
        }
    }

    fn refuse(&mut self, reply: ReplyId, rejection: Rejection) {
        match self.replies.try_remove(reply.0 as usize) {
            Some(PendingReply::Submit(reply)) => self.answer_submit(reply, Err(rejection.into())),
            Some(PendingReply::Cancel(reply)) => drop(reply.send(Err(rejection.into()))),
            None => {}
        }
    }

    fn opened(
        &mut self,
        now: Timestamp,
        session: SessionId,
        hello: Box<levelflow_engine::event::Hello>,
    ) {
        let worker = hello.worker.clone();
        match self.engine.handle(now, Event::Joined { session, hello }) {
            Ok(()) => tracing::info!(worker = %worker, "worker joined"),
            Err(rejection) => self.sessions.close(session, Some(rejection.into())),
        }
        if self.stopping.is_some() {
            self.sessions.drain();
        }
    }

    fn frame(&mut self, now: Timestamp, session: SessionId, frame: v1::WorkerFrame) {
        if !self.sessions.contains(session) {
            return;
        }
        if !frame.alerts.is_empty() {
            self.memory_alerts(now, session, &frame.alerts);
        }
        self.take_chunks(session, &frame.chunks);
        for outcome in frame.outcomes {
            let upstreams = upstream_report(outcome.calls, outcome.parked_on);
            let result = match outcome.failure {
                None => Ok(outcome.output),
                Some(failure) => Err(Failure::from(failure)),
            };
            let token = FencingToken(outcome.token);
            let (result, stream) = self.with_stream(session, token, outcome.chunks, result);
            self.handle(
                now,
                Event::Outcome {
                    session,
                    token,
                    result,
                    duration: Duration::from_micros(outcome.duration_us),
                    upstreams,
                    stream,
                },
            );
        }
        for token in frame.refused {
            let token = FencingToken(token);
            self.handle(now, Event::Refused { session, token });
        }
        if frame.credits > 0 {
            let credits = frame.credits;
            self.handle(now, Event::Granted { session, credits });
        }
        if frame.reclaimed > 0 {
            let returned = self.engine.reclaim(session, frame.reclaimed);
            self.sessions.give_back(session, returned);
        }
        if let Some(mut heartbeat) = frame.heartbeat {
            self.sessions.heartbeat(now, session, &mut heartbeat);
            let tokens = |tokens: Vec<u64>| tokens.into_iter().map(FencingToken).collect();
            let intake = intake(&heartbeat);
            let event = Event::Heartbeat {
                session,
                intake,
                running: tokens(heartbeat.running),
                progressed: tokens(heartbeat.progressed),
                calls: attempt_calls(heartbeat.calls),
            };
            self.handle(now, event);
        }
        if frame.draining {
            self.handle(now, Event::Draining { session });
        }
    }

    fn memory_alerts(&mut self, now: Timestamp, session: SessionId, told: &[v1::MemoryAlert]) {
        let Some(worker) = self.engine.worker_of(session) else {
            return;
        };
        for told in told.iter().take(alert::MAX_IN_FRAME) {
            if let Some(subject) = alert::memory_alert(worker.clone(), told) {
                self.alerts.raise(now, subject);
            }
        }
    }

    /// Sends an answer that was read from the engine, when what it shows is durable.
    fn answer(&mut self, now: Timestamp, after: BatchNumber, send: impl FnOnce() + Send + 'static) {
        if let Some(effect) = self.held.hold(after, Held::Answer(Box::new(send))) {
            self.carry_out(now, effect);
        }
    }

    fn carry_out(&mut self, now: Timestamp, effect: Held) {
        let command = match effect {
            Held::Answer(send) => return send(),
            Held::Refusal(reply, rejection) => return self.refuse(reply, rejection),
            Held::Command(command) => command,
        };
        match command {
            Command::Reply { reply, answer } => self.reply(reply, answer),
            Command::Prepare(work) => self.prepare.prepare(work),
            Command::Keep(computed) => self.prepare.keep(computed),
            Command::GiveUp { key } => self.prepare.give_up(key),
            Command::RenderOutputs(work) => self.prepare.render_outputs(work),
            Command::Dispatch { session, token } => self.dispatch(now, session, token),
            Command::Stop { session, token } => self.sessions.stop(session, token),
            Command::Acknowledge { session, token } => self.sessions.acknowledge(session, token),
            Command::Welcome { session, revoked } => self.sessions.welcome(
                session,
                &self.coordinator_id,
                self.heartbeat_interval,
                self.lease,
                revoked,
                self.engine
                    .open_breakers()
                    .map(ToString::to_string)
                    .collect(),
            ),
            Command::Close { session, code } => {
                tracing::info!(session = session.0, code = %code, "session was replaced");
                self.sessions.close(session, Some(Refused::Replaced));
            }
            Command::BreakerChanged { upstream, state } => {
                self.breaker_changed(now, upstream, state);
            }
            Command::WorkerLost {
                worker,
                reason,
                attempts,
            } => {
                let subject = AlertSubject::WorkerLost {
                    worker,
                    reason,
                    attempts,
                };
                self.alerts.raise(now, subject);
            }
            Command::Quarantined(quarantined) => {
                let subject = AlertSubject::TaskQuarantined {
                    run_id: quarantined.run_id,
                    task_id: quarantined.task_id,
                    item: quarantined.item,
                    code: quarantined.code,
                    reason: quarantined.reason,
                };
                self.alerts.raise(now, subject);
            }
            Command::Ended(ended) => {
                if let Some(prefetch) = self.engine.prefetch(ended.run) {
                    self.prepare.prefetch(prefetch);
                }
                self.engine.evict(now, ended.run);
                self.streams.ended(ended.number);
                self.watchers.ended(*ended);
            }
        }
    }

    fn breaker_changed(&mut self, now: Timestamp, upstream: Arc<str>, state: BreakerState) {
        match state {
            BreakerState::Open { until } => {
                self.sessions.breaker_changed(&upstream, true);
                let open_for = HumanDuration(until.since(now));
                let subject = AlertSubject::BreakerOpened { upstream, open_for };
                self.alerts.raise(now, subject);
            }
            BreakerState::HalfOpen { .. } => {
                tracing::info!(upstream = &*upstream, "breaker lets probes through");
            }
            BreakerState::Closed => {
                self.sessions.breaker_changed(&upstream, false);
                self.alerts
                    .raise(now, AlertSubject::BreakerClosed { upstream });
            }
        }
    }

    fn dispatch(&mut self, now: Timestamp, session: SessionId, token: FencingToken) {
        let Some(attempt) = self.engine.start(now, token) else {
            return;
        };
        if self.watchers.is_watched(attempt.number)
            && let Some(worker) = self.engine.worker_of(session)
        {
            let event = started(&attempt, worker);
            self.watchers.live(attempt.number, now, &event);
        }
        self.streams
            .started(attempt.number, attempt.task, token, attempt.attempt);
        self.sessions.attempt(session, attempt);
    }

    fn reply(&mut self, reply: ReplyId, answer: Answer) {
        match (self.replies.try_remove(reply.0 as usize), answer) {
            (Some(PendingReply::Submit(reply)), Answer::Submitted { run_id, existing }) => {
                self.answer_submit(reply, Ok(Accepted { run_id, existing }));
            }
            (Some(PendingReply::Cancel(reply)), Answer::Cancelling { status }) => {
                let _ = reply.send(Ok(status));
            }
            _ => tracing::error!("engine answered a request of another kind"),
        }
    }

    fn answer_submit(&mut self, reply: SubmitReply, result: Result<Accepted, Refused>) {
        match reply {
            SubmitReply::One(reply) => drop(reply.send(result)),
            SubmitReply::Stream {
                tag,
                report_end,
                answers,
            } => {
                // The end of a run that was there before is found by the stream itself.
                let number: Option<RunNumber> = match &result {
                    Ok(accepted) if report_end && !accepted.existing => {
                        self.engine.number(accepted.run_id)
                    }
                    _ => None,
                };
                let _ = answers.send(StreamAnswer::Submitted { tag, result });
                if let Some(number) = number {
                    self.watchers.wait(number, tag, answers);
                }
            }
        }
    }

    /// After a commit whose outcome is unknown, or when shards were lost: forgets everything and starts
    /// from the store. False if it was told to stop first.
    async fn reload(&mut self) -> bool {
        self.leaving.clear();
        self.committing.clear();
        self.held = HeldEffects::default();
        self.sessions.close_all(&Refused::Store);
        self.watchers.clear();
        self.streams.clear();
        for reply in self.replies.drain() {
            match reply {
                PendingReply::Submit(SubmitReply::One(reply)) => {
                    let _ = reply.send(Err(Refused::Store));
                }
                PendingReply::Submit(SubmitReply::Stream { tag, answers, .. }) => {
                    let result = Err(Refused::Store);
                    let _ = answers.send(StreamAnswer::Submitted { tag, result });
                }
                PendingReply::Cancel(reply) => drop(reply.send(Err(Refused::Store))),
            }
        }
        let mut wait = Duration::from_millis(100);
        loop {
            match self.recover.engine(&*self.store, self.clock).await {
                Ok(engine) => {
                    self.engine = engine;
                    return true;
                }
                Err(error) => {
                    tracing::error!(error = %error, code = %error.code(), "store did not recover");
                }
            }
            if self.stopping.is_some() || self.inbox.is_closed() {
                return false;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(5));
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        let deadline = self.engine.next_deadline().map(|at| self.clock.instant(at));
        let stop = self.stopping.as_ref().map(|stopping| stopping.deadline);
        let leaving = self.leaving.iter().map(|leaving| leaving.deadline).min();
        [deadline, stop, leaving].into_iter().flatten().min()
    }

    fn has_stopped(&self) -> bool {
        self.stopping.as_ref().is_some_and(|stopping| {
            let settled = self.committing.is_empty() && self.held.is_empty();
            settled && (self.engine.load().leases == 0 || Instant::now() >= stopping.deadline)
        })
    }
}

/// Waits for the oldest batch, and says how long it took.
async fn committed(committing: &mut VecDeque<Committing>) -> Result<Duration, StoreError> {
    match committing.front_mut() {
        Some(oldest) => {
            let result = (&mut oldest.done).await.unwrap_or(Err(StoreError::Closed));
            let took = oldest.began.elapsed();
            committing.pop_front();
            result.map(|()| took)
        }
        None => std::future::pending().await,
    }
}

/// What a worker takes, as far as its memory is concerned.
fn intake(heartbeat: &v1::Heartbeat) -> Intake {
    if heartbeat.memory_level() == v1::MemoryLevel::Critical {
        Intake::Nothing
    } else if heartbeat.refuses_low {
        Intake::NoLow
    } else {
        Intake::All
    }
}

/// The calls that a heartbeat tells of, within bounds.
fn attempt_calls(calls: Vec<v1::AttemptCall>) -> Vec<(FencingToken, UpstreamCall)> {
    let read = |told: v1::AttemptCall| Some((FencingToken(told.token), upstream_call(told.call?)?));
    calls.into_iter().filter_map(read).collect()
}

fn upstream_call(call: v1::UpstreamCall) -> Option<UpstreamCall> {
    is_name(&call.upstream).then_some(UpstreamCall {
        upstream: call.upstream,
        failed: call.failed,
    })
}

/// What an outcome tells of upstreams, within bounds; none if that is nothing.
fn upstream_report(calls: Vec<v1::UpstreamCall>, parked_on: String) -> Option<Box<UpstreamReport>> {
    if calls.is_empty() && parked_on.is_empty() {
        return None;
    }
    let calls = calls
        .into_iter()
        .filter_map(upstream_call)
        .take(MAX_UPSTREAMS_PER_ATTEMPT)
        .collect();
    let parked_on = Some(parked_on).filter(|upstream| is_name(upstream));
    Some(Box::new(UpstreamReport { calls, parked_on }))
}

fn started(attempt: &levelflow_engine::command::Attempt, worker: WorkerId) -> RunEvent {
    RunEvent::AttemptStarted {
        task: TaskRef {
            task_id: attempt.task_id.clone(),
            item: attempt.item,
        },
        attempt: attempt.attempt,
        worker,
    }
}

impl Refused {
    /// The stable code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Engine(rejection) => rejection.code(),
            Self::Store => Code::StoreUnavailable,
            Self::Stopping => Code::ShuttingDown,
            Self::Replaced => Code::WorkerIdTaken,
        }
    }

    /// When trying again may help.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Engine(rejection) => rejection.retry_after(),
            Self::Store | Self::Stopping => Some(Duration::from_secs(1)),
            Self::Replaced => None,
        }
    }
}
