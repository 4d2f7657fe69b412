//! The engine with as many runs open as were asked for, one worker that does every task at once, and
//! commits that take no time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levelflow_common::{FencingToken, RunId, TaskKind, Timestamp, WorkerId, Workflow};
use levelflow_engine::command::Command;
use levelflow_engine::event::{Hello, ReplyId, RunKey, SessionId};
use levelflow_engine::{Config, Definition, Engine, Event, Gathered, RunNumber, Submitted};
use serde_json::json;

const SESSION: SessionId = SessionId(1);

/// The engine and what is around it.
pub(crate) struct ClosedLoop {
    engine: Engine,
    definition: Arc<Definition>,
    tenant: Arc<str>,
    now: u64,
    submitted: u64,
    dispatched: Vec<FencingToken>,
    started: Vec<FencingToken>,
    ended: Vec<RunKey>,
}

impl ClosedLoop {
    /// An engine without runs, and a worker with so many credits.
    pub(crate) fn new(definition: Arc<Definition>, credits: u32) -> Self {
        let hello = Hello {
            worker: WorkerId("worker".into()),
            instance: 1,
            slots: credits,
            weight: 1,
            queues: ["default".to_owned()].into(),
            labels: BTreeMap::new(),
            kinds: TaskKind::ALL.into_iter().collect(),
            handlers: ["".to_owned()].into(),
            handler_versions: [].into(),
            connections: BTreeSet::new(),
            held: Vec::new(),
        };
        let mut this = Self {
            engine: Engine::new(Config::default(), RunNumber(1)),
            definition,
            tenant: "default".into(),
            now: 1,
            submitted: 0,
            dispatched: Vec::new(),
            started: Vec::new(),
            ended: Vec::new(),
        };
        this.handle(Event::Joined {
            session: SESSION,
            hello: Box::new(hello),
        });
        this.grant(credits);
        this
    }

    /// What the shell does in one turn: everything that came in, one batch, its effects. Gives how many
    /// runs were submitted so far.
    pub(crate) fn turn(&mut self, in_flight: usize) -> u64 {
        self.now += 100;
        self.complete();
        while self.engine.load().open_runs < in_flight {
            self.submit();
        }
        self.assign();
        self.commit().expect("something happens in each turn");
        self.submitted
    }

    /// Submits a run.
    pub(crate) fn submit(&mut self) {
        self.submitted += 1;
        let id = u128::from(self.submitted).to_be_bytes();
        let submitted = Submitted {
            run_id: RunId::from_slice(&id).expect("sixteen bytes are an id"),
            digest: self.definition.digest,
            workflow: self.definition.name.clone(),
            tenant: self.tenant.clone(),
            priority: self.definition.workflow.priority,
            durability: self.definition.workflow.durability,
            cache: levelflow_common::CacheUse::Use,
            labels: BTreeMap::new(),
            inputs: Bytes::from_static(b"{}"),
            key: None,
            resumed_from: None,
            kept: Vec::new(),
        };
        self.handle(Event::Submit {
            reply: ReplyId(self.submitted),
            submitted: Box::new(submitted),
            definition: self.definition.clone(),
        });
    }

    /// Gives waiting tasks to the worker, as many as it has credits.
    pub(crate) fn assign(&mut self) {
        self.engine.assign(Timestamp::from_micros(self.now));
    }

    /// Tells the engine the outcome of every attempt that was started.
    pub(crate) fn complete(&mut self) {
        let mut started = std::mem::take(&mut self.started);
        for token in started.drain(..) {
            self.handle(Event::Outcome {
                session: SESSION,
                token,
                result: Ok(Bytes::from_static(b"null")),
                duration: Duration::from_micros(50),
                upstreams: None,
                stream: None,
            });
            self.grant(1);
        }
        self.started = started;
    }

    /// Takes what was gathered and carries out the commands: attempts start, ended runs are evicted.
    pub(crate) fn commit(&mut self) -> Option<Gathered> {
        let now = Timestamp::from_micros(self.now);
        let batch = self.engine.take_batch();
        for effect in self.engine.take_effects() {
            match effect.command {
                Command::Dispatch { token, .. } => self.dispatched.push(token),
                Command::Ended(ended) => self.ended.push(ended.run),
                _ => {}
            }
        }
        for token in self.dispatched.drain(..) {
            let attempt = self.engine.start(now, token);
            self.started.extend(attempt.map(|attempt| attempt.token));
        }
        for run in self.ended.drain(..) {
            self.engine.evict(now, run);
        }
        batch
    }

    fn grant(&mut self, credits: u32) {
        self.handle(Event::Granted {
            session: SESSION,
            credits,
        });
    }

    fn handle(&mut self, event: Event) {
        self.engine
            .handle(Timestamp::from_micros(self.now), event)
            .expect("nothing is refused here");
    }
}

/// So many tasks: a first one, those that need it, and a last one that needs them all.
pub(crate) fn fan(count: u32) -> Arc<Definition> {
    let tasks: Vec<_> = (0..count)
        .map(|task| json!({ "id": format!("t{task}"), "type": "transform" }))
        .collect();
    let workflow: Workflow = serde_json::from_value(json!({ "name": "fan", "tasks": tasks }))
        .expect("the workflow is well-formed");
    let last = count - 1;
    let edges: Vec<(u32, u32)> = (1..last)
        .flat_map(|task| [(0, task), (task, last)])
        .collect();
    Arc::new(Definition::new(workflow, &edges).expect("it is a DAG"))
}
