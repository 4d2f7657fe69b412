//! One session with a coordinator: from its Welcome to the end of the stream.

use std::collections::HashSet;
use std::time::Duration;

use levelflow_proto::protocol::Feature;
use levelflow_proto::v1;
use levelflow_transport::{Inbound, SessionError};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_stream::StreamExt as _;

use crate::attempt::Ended;
use crate::chunk_spool::ChunkSpool;
use crate::link::{News, Reporter};
use crate::memory::{Level, MemoryState, MemoryWatch, resident_bytes};
use crate::shutdown::Shutdown;
use crate::slots::Slots;
use crate::spool::Spool;

/// Attempts that are started before the session looks at its streams again.
const START_BATCH: usize = 256;
/// Ends of attempts that are taken in at once.
const END_BATCH: usize = 256;
/// The shortest time between heartbeats, whatever the coordinator asks for.
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(50);

/// How long the coordinator may take to close the stream of a drained worker.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// What the worker holds, across sessions.
pub(crate) struct Held {
    pub(crate) slots: Slots,
    pub(crate) spool: Spool,
    pub(crate) chunks: ChunkSpool,
    pub(crate) ended: mpsc::UnboundedReceiver<Ended>,
    pub(crate) memory: MemoryWatch,
}

impl Held {
    /// Takes in the attempts that ended while there was no session.
    pub(crate) fn collect(&mut self) {
        while let Ok(ended) = self.ended.try_recv() {
            self.end(ended);
        }
        self.chunks.collect();
    }

    /// The tokens that the worker still has a claim to.
    pub(crate) fn tokens(&self) -> Vec<u64> {
        self.slots.tokens().chain(self.spool.tokens()).collect()
    }

    /// Whether there is nothing to run and nothing to tell.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_idle() && self.spool.len() == 0
    }

    fn end(&mut self, ended: Ended) {
        if let Some(outcome) = self.slots.end(ended) {
            self.spool.push(outcome);
        }
    }
}

/// How a session ended.
pub(crate) enum SessionEnd {
    /// The stream is gone; connect again.
    Lost(Option<SessionError>),
    /// The worker was told to end, and has nothing left.
    Drained,
    /// The worker was told to end, and its time is up.
    OutOfTime,
}

/// The two directions of an open stream, after the handshake.
pub(crate) struct Streams {
    pub(crate) outbound: mpsc::Sender<v1::WorkerFrame>,
    pub(crate) inbound: Inbound<v1::CoordinatorFrame>,
    pub(crate) welcome: v1::Welcome,
    /// What came with the welcome.
    pub(crate) first: v1::CoordinatorFrame,
}

/// Lets the last frames go out: the coordinator ends its direction when it has read them.
async fn close(mut inbound: Inbound<v1::CoordinatorFrame>) {
    let rest = async { while let Some(Ok(_)) = inbound.next().await {} };
    if timeout(CLOSE_WITHIN, rest).await.is_err() {
        tracing::debug!("coordinator did not close the session");
    }
}

/// A session.
pub(crate) struct Session<'a> {
    held: &'a mut Held,
    reporter: &'a Reporter,
    /// Tokens to refuse with the next frame.
    refused: Vec<u64>,
    heartbeat_is_due: bool,
    /// To tell with the next frame.
    alerts: Vec<v1::MemoryAlert>,
    /// The worker ends.
    draining: bool,
    draining_is_told: bool,
    /// The coordinator stops and should be asked for nothing more.
    coordinator_drains: bool,
    /// As the coordinator was told, or will be with the next frame.
    memory: MemoryState,
}

impl<'a> Session<'a> {
    /// Runs a session to its end. The caller's future does all the work except for attempts that do
    /// not end at once.
    pub(crate) async fn run(
        held: &'a mut Held,
        streams: Streams,
        shutdown: &mut Shutdown,
        reporter: &'a Reporter,
    ) -> SessionEnd {
        let Streams {
            outbound,
            mut inbound,
            welcome,
            first,
        } = streams;
        let memory = *held.memory.state.borrow();
        let mut session = Self {
            held,
            reporter,
            refused: Vec::new(),
            // So that the worker is known from the start.
            heartbeat_is_due: true,
            alerts: Vec::new(),
            draining: false,
            draining_is_told: false,
            coordinator_drains: false,
            memory,
        };
        session.begin(&welcome);
        session.receive(first);

        let period = Duration::from_millis(welcome.heartbeat_interval_ms.into());
        let period = period.max(SHORTEST_HEARTBEAT);
        let mut heartbeat = interval_at(Instant::now() + period, period);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ends = Vec::with_capacity(END_BATCH);
        let asked_to_stop = shutdown.token().clone();
        let mut asked_to_stop = std::pin::pin!(asked_to_stop.cancelled());

        loop {
            session.start();
            if session.is_drained() {
                drop(outbound);
                close(inbound).await;
                return SessionEnd::Drained;
            }
            let unfinished = session.held.slots.can_start();
            let has_frame = session.has_frame();
            let next_step = shutdown.next_step();

            // Everything that has gathered is taken in before the next frame goes out, so that the
            // frame carries all of it.
            tokio::select! {
                biased;
                () = &mut asked_to_stop, if !session.draining => {
                    shutdown.begin();
                    session.drain();
                }
                () = sleep_until(next_step.unwrap_or_else(Instant::now)), if next_step.is_some() => {
                    if shutdown.is_out_of_time() {
                        return SessionEnd::OutOfTime;
                    }
                    shutdown.abandon();
                    session.held.slots.abandon_all();
                }
                _ = heartbeat.tick() => session.heartbeat_is_due = true,
                Ok(()) = session.held.memory.state.changed() => session.see_memory(),
                Ok(alert) = session.held.memory.alerts.recv() => session.alerts.push(alert),
                frame = inbound.next() => match frame {
                    Some(Ok(frame)) => session.receive(frame),
                    Some(Err(error)) => return SessionEnd::Lost(Some(error)),
                    None => return SessionEnd::Lost(None),
                },
                () = session.held.slots.share().changed() => {}
                () = session.held.chunks.announced() => {}
                _ = session.held.ended.recv_many(&mut ends, END_BATCH) => {
                    for ended in ends.drain(..) {
                        session.held.end(ended);
                    }
                }
                permit = outbound.reserve(), if has_frame => match permit {
                    Ok(permit) => permit.send(session.frame()),
                    Err(_) => return SessionEnd::Lost(None),
                },
                () = tokio::task::yield_now(), if unfinished => {}
            }
        }
    }

    fn begin(&mut self, welcome: &v1::Welcome) {
        let revoked: HashSet<u64> = welcome.revoked.iter().copied().collect();
        self.held.spool.forget(&revoked);
        for token in revoked {
            self.held.slots.revoke(token);
            self.held.chunks.collect();
            self.held.chunks.forget(token);
        }
        self.held.spool.rewind();
        self.held.chunks.rewind();
        let features = Feature::common(&welcome.features);
        let gives_back = features.contains(&Feature::SharedSlots);
        self.held.slots.share().gives_back(gives_back);
        self.held.slots.void_credits();
        let breakers = &self.held.slots.open_breakers;
        breakers.begin_session(&welcome.open_breakers);
        self.see_memory();
    }

    fn see_memory(&mut self) {
        self.memory = *self.held.memory.state.borrow_and_update();
        self.held.slots.cut(self.memory.cuts_slots);
        // The coordinator is not to learn of it with the next regular heartbeat only.
        self.heartbeat_is_due = true;
    }

    fn receive(&mut self, frame: v1::CoordinatorFrame) {
        self.held.slots.open_breakers.change(frame.breakers);
        for token in frame.acknowledged {
            self.held.spool.acknowledge(token);
            self.held.chunks.forget(token);
        }
        for attempt in frame.attempts {
            let token = attempt.token;
            if self.draining {
                self.refused.push(token);
            } else if !self.held.slots.receive(attempt) {
                tracing::warn!(token, "refused an attempt that was not asked for");
                self.refused.push(token);
            }
        }
        for token in frame.cancelled {
            if let Some(outcome) = self.held.slots.cancel(token) {
                self.held.spool.push(outcome);
            }
        }
        if let Some(wants) = frame.wants {
            self.held.slots.share().wants(wants);
        }
        if let Some(credits) = frame.returned {
            self.held.slots.take_back(credits);
        }
        if let Some(told) = frame.coordinators {
            self.reporter.tell(News::Coordinators(told.coordinators));
        }
        if frame.drain && !self.coordinator_drains {
            tracing::info!("coordinator stops");
            self.coordinator_drains = true;
        }
    }

    fn start(&mut self) {
        if self.memory.level == Level::Critical {
            // They came for credits from before; the coordinator gives them to others.
            self.refused.append(&mut self.held.slots.refuse_queued());
        }
        for _ in 0..START_BATCH {
            if !self.held.slots.can_start() {
                break;
            }
            if let Some(outcome) = self.held.slots.start_next() {
                self.held.spool.push(outcome);
            }
        }
        if self.memory.cuts_slots && !self.held.slots.can_start() {
            self.refused.append(&mut self.held.slots.refuse_queued());
        }
    }

    fn drain(&mut self) {
        self.draining = true;
        self.refused.append(&mut self.held.slots.refuse_queued());
        tracing::info!(outcomes = self.held.spool.len(), "worker drains");
    }

    fn is_drained(&self) -> bool {
        self.draining && self.draining_is_told && self.refused.is_empty() && self.held.is_empty()
    }

    fn may_grant(&self) -> bool {
        !self.draining
            && !self.coordinator_drains
            && self.memory.level != Level::Critical
            && !self.held.spool.is_full()
            && !self.held.chunks.is_full()
    }

    fn has_frame(&self) -> bool {
        self.held.spool.has_unsent()
            || self.held.chunks.has_unsent()
            || self.heartbeat_is_due
            || !self.refused.is_empty()
            || !self.alerts.is_empty()
            || self.draining != self.draining_is_told
            || self.held.slots.share().is_to_ask()
            || (self.may_grant() && self.held.slots.ungranted() > 0)
    }

    fn frame(&mut self) -> v1::WorkerFrame {
        let heartbeat = std::mem::take(&mut self.heartbeat_is_due).then(|| self.heartbeat());
        let credits = if self.may_grant() {
            self.held.slots.grant()
        } else {
            0
        };
        self.draining_is_told = self.draining;
        // An attempt that ended has told of all its chunks.
        self.held.chunks.collect();
        let chunks = self.held.chunks.take_batch();
        let outcomes = self.held.spool.take_batch(&self.held.chunks);
        v1::WorkerFrame {
            hello: None,
            outcomes,
            chunks,
            credits,
            heartbeat,
            refused: std::mem::take(&mut self.refused),
            draining: self.draining,
            alerts: std::mem::take(&mut self.alerts),
            reclaimed: self.held.slots.ask_back(),
        }
    }

    fn heartbeat(&self) -> v1::Heartbeat {
        let memory = *self.held.memory.state.borrow();
        v1::Heartbeat {
            running: self.held.slots.tokens().collect(),
            progressed: self.held.slots.take_progressed(),
            resident_bytes: resident_bytes().unwrap_or(0),
            calls: self.held.slots.take_ended_calls(),
            pools: self.held.slots.pools(),
            memory_level: memory.level.number(),
            growth_per_second: memory.growth,
            refuses_low: memory.refuses_low,
        }
    }
}
