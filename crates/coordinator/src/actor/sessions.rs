//! The sessions of workers: the frames that go to them, and what they last told of themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use levelflow_common::limits::{MAX_NAME_BYTES, MAX_POOLS};
use levelflow_common::overview::{HeartbeatView, MemoryLevel, SessionView};
use levelflow_common::{FencingToken, TaskKind, Timestamp};
use levelflow_engine::command::Attempt;
use levelflow_engine::event::SessionId;
use levelflow_proto::protocol::Feature;
use levelflow_proto::{Enumeration as _, v1};
use tokio::sync::mpsc;

use super::message::{Refused, SessionFrame};

/// Open sessions, each with the frame that gathers for it.
///
/// The channels need no bound of their own: attempts are bounded by the worker's credits, and
/// acknowledgements by the attempts.
#[derive(Default)]
pub(crate) struct Sessions {
    open: BTreeMap<SessionId, Session>,
    /// Sessions whose frame is not empty.
    dirty: Vec<SessionId>,
    /// The coordinators that share the store; none where one has it for itself.
    coordinators: Vec<v1::CoordinatorAddress>,
}

struct Session {
    frames: mpsc::UnboundedSender<SessionFrame>,
    frame: v1::CoordinatorFrame,
    is_dirty: bool,
    /// Whether the worker was told that tasks wait for its credits.
    wants: bool,
    protocol: u32,
    features: BTreeSet<Feature>,
    view: SessionView,
}

/// What both ends of a session speak.
#[derive(Debug, Default)]
pub(crate) struct Agreed {
    /// Of the worker's software.
    pub(crate) version: String,
    /// The version of the protocol.
    pub(crate) protocol: u32,
    /// What both have beside that.
    pub(crate) features: BTreeSet<Feature>,
}

impl Sessions {
    pub(crate) fn open(
        &mut self,
        now: Timestamp,
        session: SessionId,
        agreed: Agreed,
        frames: mpsc::UnboundedSender<SessionFrame>,
    ) {
        self.open.insert(
            session,
            Session {
                frames,
                frame: v1::CoordinatorFrame::default(),
                is_dirty: false,
                wants: false,
                protocol: agreed.protocol,
                features: agreed.features,
                view: SessionView {
                    version: agreed.version,
                    connected_at: now,
                    heartbeat: None,
                },
            },
        );
    }

    /// Keeps what a worker tells of itself, within bounds.
    pub(crate) fn heartbeat(
        &mut self,
        now: Timestamp,
        session: SessionId,
        heartbeat: &mut v1::Heartbeat,
    ) {
        let Some(session) = self.open.get_mut(&session) else {
            return;
        };
        let pools = std::mem::take(&mut heartbeat.pools).into_iter();
        session.view.heartbeat = Some(HeartbeatView {
            at: now,
            resident_bytes: (heartbeat.resident_bytes > 0).then_some(heartbeat.resident_bytes),
            // A newer worker may tell a level that is not known here.
            memory_level: MemoryLevel::optional("memory_level", heartbeat.memory_level)
                .unwrap_or_default(),
            growth_per_second: heartbeat.growth_per_second,
            pools: pools
                .filter(|pool| pool.name.len() <= MAX_NAME_BYTES)
                .take(MAX_POOLS)
                .map(Into::into)
                .collect(),
        });
    }

    /// What is known of a session.
    pub(crate) fn view(&self, session: SessionId) -> Option<SessionView> {
        self.open.get(&session).map(|session| session.view.clone())
    }

    pub(crate) fn close(&mut self, session: SessionId, why: Option<Refused>) {
        if let (Some(session), Some(why)) = (self.open.remove(&session), why) {
            let _ = session.frames.send(SessionFrame::Close(why));
        }
    }

    pub(crate) fn close_all(&mut self, why: &Refused) {
        for session in std::mem::take(&mut self.open).into_values() {
            let _ = session.frames.send(SessionFrame::Close(why.clone()));
        }
        self.dirty.clear();
    }

    pub(crate) fn contains(&self, session: SessionId) -> bool {
        self.open.contains_key(&session)
    }

    pub(crate) fn welcome(
        &mut self,
        session: SessionId,
        coordinator_id: &str,
        heartbeat_interval: Duration,
        lease: Duration,
        revoked: Vec<FencingToken>,
        open_breakers: Vec<String>,
    ) {
        let Some(open) = self.open.get(&session) else {
            return;
        };
        let protocol = open.protocol;
        let features = open.features.iter().map(|it| it.as_str().to_owned());
        let features = features.collect();
        let millis = |span: Duration| u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
        self.gather(session, |frame| {
            frame.welcome = Some(v1::Welcome {
                coordinator_id: coordinator_id.to_owned(),
                protocol,
                features,
                heartbeat_interval_ms: millis(heartbeat_interval),
                lease_ms: millis(lease),
                revoked: revoked.into_iter().map(|token| token.0).collect(),
                open_breakers,
            });
        });
        if !self.coordinators.is_empty() {
            let coordinators = self.coordinators.clone();
            self.gather(session, |frame| {
                frame.coordinators = Some(v1::Coordinators { coordinators });
            });
        }
    }

    /// Tells every worker which coordinators there are now.
    pub(crate) fn coordinators_changed(&mut self, coordinators: Vec<v1::CoordinatorAddress>) {
        for session in self.open.keys().copied().collect::<Vec<_>>() {
            let coordinators = coordinators.clone();
            self.gather(session, |frame| {
                frame.coordinators = Some(v1::Coordinators { coordinators });
            });
        }
        self.coordinators = coordinators;
    }

    /// Whether other coordinators may want the slots of the same workers.
    pub(crate) fn are_shared(&self) -> bool {
        self.coordinators.len() > 1
    }

    /// Tells a worker whether tasks wait for its credits, where that changed.
    pub(crate) fn wants(&mut self, session: SessionId, wants: bool) {
        let known = self.open.get_mut(&session);
        let known = known.filter(|it| it.features.contains(&Feature::SharedSlots));
        if known.is_some_and(|it| std::mem::replace(&mut it.wants, wants) != wants) {
            self.gather(session, |frame| frame.wants = Some(wants));
        }
    }

    /// Gives credits back that a worker asked for.
    pub(crate) fn give_back(&mut self, session: SessionId, credits: u32) {
        self.gather(session, |frame| frame.returned = Some(credits));
    }

    pub(crate) fn attempt(&mut self, session: SessionId, attempt: Attempt) {
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        self.gather(session, |frame| {
            frame.attempts.push(v1::Attempt {
                token: attempt.token.0,
                run_id: bytes::Bytes::copy_from_slice(attempt.run_id.as_bytes()),
                task_id: attempt.task_id.as_ref().to_owned(),
                item: attempt.item,
                attempt: attempt.attempt,
                kind: attempt.kind.number(),
                input: attempt.input,
                secrets: attempt.secrets.iter().map(Into::into).collect(),
                handler: attempt.handler.as_ref().to_owned(),
                timeout_us: micros(attempt.timeout),
                heartbeat_timeout_us: attempt.heartbeat_timeout.map_or(0, micros),
                upstream: attempt
                    .upstream
                    .map_or_else(String::new, |name| name.as_ref().to_owned()),
                near_hit: attempt.near_hit.unwrap_or_default(),
                tenant: match attempt.kind {
                    TaskKind::Handler => attempt.tenant.as_ref().to_owned(),
                    _ => String::new(),
                },
            });
        });
    }

    pub(crate) fn stop(&mut self, session: SessionId, token: FencingToken) {
        self.gather(session, |frame| frame.cancelled.push(token.0));
    }

    pub(crate) fn acknowledge(&mut self, session: SessionId, token: FencingToken) {
        self.gather(session, |frame| frame.acknowledged.push(token.0));
    }

    /// Tells every worker whether an upstream may be called.
    pub(crate) fn breaker_changed(&mut self, upstream: &str, open: bool) {
        for session in self.open.keys().copied().collect::<Vec<_>>() {
            self.gather(session, |frame| {
                let upstream = upstream.to_owned();
                frame.breakers.push(v1::BreakerChange { upstream, open });
            });
        }
    }

    pub(crate) fn drain(&mut self) {
        for session in self.open.keys().copied().collect::<Vec<_>>() {
            self.gather(session, |frame| frame.drain = true);
        }
    }

    fn gather(&mut self, id: SessionId, add: impl FnOnce(&mut v1::CoordinatorFrame)) {
        if let Some(session) = self.open.get_mut(&id) {
            add(&mut session.frame);
            if !session.is_dirty {
                session.is_dirty = true;
                self.dirty.push(id);
            }
        }
    }

    /// Sends what has gathered.
    pub(crate) fn flush(&mut self) {
        for id in self.dirty.drain(..) {
            if let Some(session) = self.open.get_mut(&id) {
                session.is_dirty = false;
                let frame = std::mem::take(&mut session.frame);
                // A session whose stream has ended says so itself.
                let _ = session.frames.send(SessionFrame::Send(frame));
            }
        }
    }
}
