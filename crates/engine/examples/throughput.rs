//! Prints how many tasks a second the engine alone gets through: the shape 1→3→1 with constant inputs,
//! 64 runs in flight, one worker with 512 credits, commits that take no time, the allocator of the
//! product. Median and best of windows of 200 ms, since other processes disturb some of them.
//!
//! `cargo run --release -p levelflow-engine --example throughput [SECONDS]`

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use levelflow_common::{FencingToken, RunId, TaskKind, Timestamp, WorkerId, Workflow};
use levelflow_engine::command::Command;
use levelflow_engine::event::{Hello, ReplyId, RunKey, SessionId};
use levelflow_engine::{Config, Definition, Engine, Event, RunNumber, Submitted};
use serde_json::json;

const IN_FLIGHT: usize = 64;
const CREDITS: u32 = 512;
const SESSION: SessionId = SessionId(1);
const TASKS: u64 = 5;

const WINDOW: Duration = Duration::from_millis(200);

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let seconds: usize = std::env::args().nth(1).map_or(3, |seconds| {
        seconds
            .parse()
            .expect("the argument is a number of seconds")
    });
    let mut bench = Bench::new();
    bench.run_for(WINDOW);
    let mut nanos: Vec<f64> = (0..seconds.max(1) * 5)
        .map(|_| {
            let (tasks, took) = bench.run_for(WINDOW);
            took.as_nanos() as f64 / tasks as f64
        })
        .collect();
    nanos.sort_by(f64::total_cmp);
    for (name, nanos) in [("median", nanos[nanos.len() / 2]), ("best", nanos[0])] {
        println!("{name}: {:.0} tasks/s, {nanos:.0} ns/task", 1e9 / nanos);
    }
}

struct Bench {
    engine: Engine,
    definition: Arc<Definition>,
    tenant: Arc<str>,
    now: u64,
    runs: u64,
    tokens: Vec<FencingToken>,
    dispatched: Vec<FencingToken>,
    ended: Vec<RunKey>,
}

impl Bench {
    fn new() -> Self {
        let workflow: Workflow = serde_json::from_value(json!({
            "name": "small",
            "tasks": [
                { "id": "first", "type": "transform" },
                { "id": "left", "type": "transform" },
                { "id": "middle", "type": "transform" },
                { "id": "right", "type": "transform" },
                { "id": "last", "type": "transform" },
            ],
        }))
        .expect("the workflow is well-formed");
        let edges = [(0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 4)];
        let mut engine = Engine::new(Config::default(), RunNumber(1));
        let hello = Hello {
            worker: WorkerId("worker".into()),
            instance: 1,
            slots: CREDITS,
            queues: ["default".to_owned()].into(),
            labels: BTreeMap::new(),
            kinds: TaskKind::ALL.into_iter().collect(),
            handlers: ["".to_owned()].into(),
            held: Vec::new(),
        };
        let joined = Event::Joined {
            session: SESSION,
            hello: Box::new(hello),
        };
        let now = Timestamp::from_micros(1);
        engine.handle(now, joined).expect("the name is free");
        let granted = Event::Granted {
            session: SESSION,
            credits: CREDITS,
        };
        engine.handle(now, granted).expect("grants are taken");
        Self {
            engine,
            definition: Arc::new(Definition::new(workflow, &edges).expect("it is a DAG")),
            tenant: "default".into(),
            now: 1,
            runs: 0,
            tokens: Vec::new(),
            dispatched: Vec::new(),
            ended: Vec::new(),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "it measures")]
    fn run_for(&mut self, span: Duration) -> (u64, Duration) {
        let start = Instant::now();
        let before = self.runs;
        while start.elapsed() < span {
            for _ in 0..100 {
                self.turn();
            }
        }
        ((self.runs - before) * TASKS, start.elapsed())
    }

    /// What the shell does in one turn: everything that came in, one batch, its effects.
    fn turn(&mut self) {
        self.now += 100;
        let now = Timestamp::from_micros(self.now);
        let mut tokens = std::mem::take(&mut self.tokens);
        for token in tokens.drain(..) {
            let outcome = Event::Outcome {
                session: SESSION,
                token,
                result: Ok(Bytes::from_static(b"null")),
                duration: Duration::from_micros(50),
                upstreams: None,
            };
            self.handle(now, outcome);
            let credits = 1;
            self.handle(
                now,
                Event::Granted {
                    session: SESSION,
                    credits,
                },
            );
        }
        while self.engine.load().open_runs < IN_FLIGHT {
            self.submit(now);
        }
        self.engine.assign(now);
        let batch = self.engine.take_batch();
        assert!(batch.is_some_and(|batch| !batch.entries.is_empty()));
        let mut dispatched = std::mem::take(&mut self.dispatched);
        for effect in self.engine.take_effects() {
            match effect.command {
                Command::Dispatch { token, .. } => dispatched.push(token),
                Command::Ended(ended) => self.ended.push(ended.run),
                _ => {}
            }
        }
        for token in dispatched.drain(..) {
            let attempt = self.engine.start(now, token);
            tokens.extend(attempt.map(|attempt| attempt.token));
        }
        (self.tokens, self.dispatched) = (tokens, dispatched);
        for run in self.ended.drain(..) {
            self.engine.evict(now, run);
        }
    }

    fn handle(&mut self, now: Timestamp, event: Event) {
        self.engine
            .handle(now, event)
            .expect("nothing is refused here");
    }

    fn submit(&mut self, now: Timestamp) {
        self.runs += 1;
        let id = u128::from(self.runs).to_be_bytes();
        let submitted = Submitted {
            run_id: RunId::from_slice(&id).expect("sixteen bytes are an id"),
            digest: self.definition.digest,
            workflow: self.definition.name.clone(),
            tenant: self.tenant.clone(),
            priority: self.definition.workflow.priority,
            durability: self.definition.workflow.durability,
            labels: BTreeMap::new(),
            inputs: Bytes::from_static(b"{}"),
            key: None,
            resumed_from: None,
            kept: Vec::new(),
        };
        let event = Event::Submit {
            reply: ReplyId(self.runs),
            submitted: Box::new(submitted),
            definition: self.definition.clone(),
        };
        self.handle(now, event);
    }
}
