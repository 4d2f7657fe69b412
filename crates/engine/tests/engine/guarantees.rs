//! The guarantees, under random workflows and random faults.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levelflow_common::view::BreakerStatus;
use levelflow_common::workflow::Durability;
use levelflow_common::{
    CacheUse, Code, Failure, FencingToken, Placement, Priority, ShardCount, ShardId, Timestamp,
    UpstreamCall,
};
use levelflow_engine::event::{Intake, SessionId};
use levelflow_engine::record::SubmitKey;
use levelflow_engine::{BreakerPolicy, Config, Definition, Event, Rejection};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::definitions::define;
use crate::levels;
use crate::shell::Shell;
use crate::worker::FakeWorker;

const WORKERS: usize = 3;
const SHARDS: u16 = 3;

/// What happens next.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Submit {
        workflow: Index,
        tenant: u8,
        key: Option<u8>,
        content: u8,
        expires: bool,
        relaxed: bool,
        priority: u8,
        cache: usize,
    },
    Cancel(Index),
    Flush,
    Commit,
    Prepare(Index),
    Render(Index),
    Keep(Index),
    Complete(Index, End, Call),
    Repeat(Index),
    Stale(Index, u8),
    Refuse(Index),
    Heartbeat(u8, Intake),
    Leave(u8),
    Join(u8),
    Restart(u8),
    Drain(u8),
    Grant(u8),
    Wait(u16),
    WaitForDeadline,
    ResetBreaker(Index),
    Crash,
    Withdraw(u16),
    GiveAway(u16),
    TakeUp,
    Settle,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Success,
    Retryable,
    Permanent,
    Cancelled,
    Crash,
}

/// What an attempt tells of upstreams.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call {
    /// Nothing.
    Silent,
    /// That of its own upstream, if it has one.
    Own { failed: bool },
    /// That of any upstream.
    Any { upstream: u8, failed: bool },
    /// That it may not call an upstream.
    Parked { upstream: u8 },
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        2 => Just(Call::Silent),
        6 => any::<bool>().prop_map(|failed| Call::Own { failed }),
        1 => (0..4_u8, any::<bool>()).prop_map(|(upstream, failed)| Call::Any { upstream, failed }),
        1 => (0..4_u8).prop_map(|upstream| Call::Parked { upstream }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![
        6 => Just(End::Success),
        2 => Just(End::Retryable),
        1 => Just(End::Permanent),
        1 => Just(End::Cancelled),
        1 => Just(End::Crash),
    ];
    let intake = prop_oneof![
        3 => Just(Intake::All),
        2 => Just(Intake::NoLow),
        1 => Just(Intake::Nothing),
    ];
    let submit = (
        any::<Index>(),
        0..2_u8,
        proptest::option::weighted(0.3, 0..2_u8),
        0..5_u8,
        any::<bool>(),
        any::<bool>(),
        0..4_u8,
        0..3_usize,
    )
        .prop_map(
            |(workflow, tenant, key, content, expires, relaxed, priority, cache)| Step::Submit {
                workflow,
                tenant,
                key,
                content: u8::from(content == 0),
                expires,
                relaxed,
                priority,
                cache,
            },
        );
    let worker = 0..WORKERS as u8;
    prop_oneof![
        6 => submit,
        1 => any::<Index>().prop_map(Step::Cancel),
        14 => Just(Step::Flush),
        14 => Just(Step::Commit),
        10 => any::<Index>().prop_map(Step::Prepare),
        4 => any::<Index>().prop_map(Step::Render),
        4 => any::<Index>().prop_map(Step::Keep),
        20 => (any::<Index>(), end, call())
            .prop_map(|(which, end, call)| Step::Complete(which, end, call)),
        2 => any::<Index>().prop_map(Step::Repeat),
        1 => (any::<Index>(), worker.clone()).prop_map(|(which, worker)| Step::Stale(which, worker)),
        1 => any::<Index>().prop_map(Step::Refuse),
        3 => (worker.clone(), intake)
            .prop_map(|(worker, intake)| Step::Heartbeat(worker, intake)),
        1 => worker.clone().prop_map(Step::Leave),
        6 => worker.clone().prop_map(Step::Join),
        1 => worker.clone().prop_map(Step::Restart),
        1 => worker.clone().prop_map(Step::Drain),
        1 => worker.prop_map(Step::Grant),
        4 => (0..6_000_u16).prop_map(Step::Wait),
        4 => Just(Step::WaitForDeadline),
        1 => any::<Index>().prop_map(Step::ResetBreaker),
        3 => Just(Step::Crash),
        1 => (0..SHARDS).prop_map(Step::Withdraw),
        2 => (0..SHARDS).prop_map(Step::GiveAway),
        4 => Just(Step::TakeUp),
        4 => Just(Step::Settle),
    ]
}

fn generated_task(place: usize) -> impl Strategy<Value = Value> {
    let features = (
        0..10_u8,
        proptest::option::weighted(0.2, any::<bool>()),
        1..4_u32,
        0..2_000_u64,
        any::<bool>(),
        proptest::option::weighted(0.3, 0..5_u8),
        proptest::option::weighted(0.2, 0..5_u8),
        proptest::option::weighted(0.1, 0..4_u8),
        proptest::option::weighted(0.4, 0..6_u8),
    );
    let limits = (
        proptest::option::weighted(0.3, (0..4_usize, 1..4_u32, 0..3_usize)),
        proptest::option::weighted(0.2, (0..4_usize, 1..4_u32, 1..3_u32)),
    );
    (any::<u16>(), any::<u16>(), features, limits, 0..4_u8).prop_map(
        move |(needs, thinned, features, limits, tolerance)| {
            let (kind, when, attempts, initial, jitter, list, timeout, priority, cache) = features;
            let needs: Vec<String> = (0..place)
                .filter(|before| needs & thinned & (1 << before) != 0)
                .map(|before| format!("t{before}"))
                .collect();
            let mut task = json!({
                "id": format!("t{place}"),
                "type": match kind {
                    0 => "sleep",
                    5..=8 => "http",
                    _ => "transform",
                },
                "needs": needs,
                "with": match kind {
                    0 => json!({ "duration": "3s" }),
                    1..=3 => json!({ "value": "${{ inputs.x }}" }),
                    4 => json!({ "value": "${{ inputs.x.nothing.here }}" }),
                    5..=6 => json!({ "url": "http://host0/" }),
                    7 => json!({ "url": "http://host1/" }),
                    8 => json!({ "url": "http://host${{ inputs.x - 5 }}/" }),
                    _ => json!({ "value": 1 }),
                },
                "retry": {
                    "max_attempts": attempts, "initial": format!("{initial}ms"), "jitter": jitter,
                },
                "continue_on_error": tolerance == 0,
            });
            if let Some(when) = when {
                task["when"] = json!(if when { "inputs.yes" } else { "inputs.no" });
            }
            match list {
                Some(0) => task["for_each"] = json!({ "items": "${{ inputs.none }}" }),
                Some(1) => task["for_each"] = json!({ "items": "${{ inputs.yes.x.y }}" }),
                Some(2) => {
                    task["for_each"] = json!({ "items": "${{ inputs.three }}", "max_parallel": 1 });
                }
                Some(3) => task["for_each"] = json!({ "items": [1, 2, 3, 4], "max_parallel": 2 }),
                Some(_) => task["for_each"] = json!({ "items": "${{ inputs.three }}" }),
                None => {}
            }
            match timeout {
                Some(0) => task["timeout"] = json!({ "queue": "2s" }),
                Some(1) => task["timeout"] = json!({ "total": "4s" }),
                Some(2) => task["timeout"] = json!({ "run": "1s" }),
                Some(3) => task["timeout"] = json!({ "heartbeat": "1s" }),
                Some(_) => task["timeout"] = json!({ "queue": "1s", "total": "9s", "run": "2s" }),
                None => {}
            }
            match priority {
                Some(0) => task["priority"] = json!("critical"),
                Some(1) => task["worker"] = json!({ "queue": "other" }),
                Some(2) => task["worker"] = json!({ "labels": { "zone": "a" } }),
                Some(_) => task["priority"] = json!("low"),
                None => {}
            }
            match cache.filter(|_| kind != 0) {
                Some(0) => task["cache"] = json!({}),
                Some(1) => task["cache"] = json!({ "key": "k" }),
                Some(2) => task["cache"] = json!({ "key": "k", "on_error": "1m" }),
                Some(3) => task["cache"] = json!({ "key": "${{ inputs.x }}" }),
                Some(text) => {
                    let text = ["${{ 'same' }}", "${{ 'near' }}"][usize::from(text % 2)];
                    task["cache"] = json!({ "key": place, "semantic": { "text": text } });
                }
                None => {}
            }
            if kind != 0 {
                add_limits(&mut task, limits);
            }
            task
        },
    )
}

/// Key, limit and what happens at the limit; key, limit and seconds.
type Limits = (Option<(usize, u32, usize)>, Option<(usize, u32, u32)>);

fn add_limits(task: &mut Value, (concurrency, rate): Limits) {
    const KEYS: [&str; 4] = ["a", "b", "x-${{ inputs.x }}", "${{ inputs.none }}"];
    if let Some((key, limit, on_full)) = concurrency {
        let on_full = ["queue", "fail", "cancel_oldest"][on_full];
        task["concurrency"] = json!({ "key": KEYS[key], "limit": limit, "on_full": on_full });
    }
    if let Some((key, limit, seconds)) = rate {
        let per = format!("{seconds}s");
        task["rate_limit"] = json!({ "key": KEYS[key], "limit": limit, "per": per });
    }
}

fn workflow() -> impl Strategy<Value = Value> {
    let tasks = (1..9_usize).prop_flat_map(|count| {
        (0..count)
            .map(|place| generated_task(place).boxed())
            .collect::<Vec<_>>()
    });
    let limits = (
        proptest::option::weighted(0.4, 1..4_u32),
        proptest::bool::weighted(0.3),
        proptest::option::weighted(0.1, 1..30_u32),
        0..4_u8,
    );
    (tasks, limits).prop_map(|(tasks, (max_parallel, level, timeout, outputs))| {
        let last = format!("t{}", tasks.len() - 1);
        let mut workflow = json!({ "name": "generated", "tasks": tasks });
        if let Some(limit) = max_parallel {
            workflow["max_parallel"] = json!(limit);
        }
        if level {
            workflow["dispatch"] = json!("level");
        }
        if let Some(timeout) = timeout {
            workflow["timeout"] = json!(format!("{timeout}s"));
        }
        match outputs {
            0 => workflow["outputs"] = json!({ "x": format!("${{{{ tasks.{last}.status }}}}") }),
            1 => workflow["outputs"] = json!({ "x": "${{ inputs.x.nothing.here }}" }),
            2 => workflow["outputs"] = json!({ "x": 1 }),
            _ => {}
        }
        workflow
    })
}

struct World {
    shell: Shell,
    definitions: Vec<Arc<Definition>>,
    deadline: Timestamp,
}

impl World {
    fn new(workflows: Vec<Value>) -> Self {
        let config = Config {
            shards: ShardCount::new(SHARDS).unwrap(),
            placement: Placement::Random,
            ageing: Duration::from_secs(5),
            max_queue: 40,
            max_open_runs: 12,
            max_rate_keys: 3,
            breaker: BreakerPolicy {
                failures: 2,
                open_for: Duration::from_secs(5),
                max_upstreams: 2,
                ..BreakerPolicy::default()
            },
            ..Config::default()
        };
        let mut shell = Shell::new(config);
        for (number, slots) in (0..WORKERS).zip([1, 2, 4]) {
            let mut worker = FakeWorker::new(&format!("w{number}"), slots);
            if number != 1 {
                worker.queues.insert("other".into());
            }
            if number != 2 {
                worker.labels.insert("zone".into(), "a".into());
            }
            shell.workers.push(worker);
            shell.join(number).unwrap();
        }
        Self {
            deadline: shell.now,
            shell,
            definitions: workflows.into_iter().map(define).collect(),
        }
    }

    fn submit(&mut self, step: &Step) {
        let &Step::Submit {
            workflow,
            tenant,
            key,
            content,
            expires,
            relaxed,
            priority,
            cache,
        } = step
        else {
            unreachable!("called for submits");
        };
        let shell = &mut self.shell;
        let mut submitted = shell.submission(workflow.get(&self.definitions));
        submitted.tenant = format!("tenant{tenant}").into();
        submitted.priority = Priority::ALL[priority as usize];
        submitted.cache = CacheUse::ALL[cache];
        if relaxed {
            submitted.durability = Durability::Relaxed;
        }
        submitted.key = key.map(|key| SubmitKey {
            key: format!("key{key}{expires}").into(),
            content: [content; 32],
            expires_at: expires.then(|| shell.now.saturating_add(Duration::from_secs(10))),
        });
        let name = submitted
            .key
            .as_ref()
            .map(|key| (submitted.tenant.clone(), key.key.clone()));
        let known = name.and_then(|name| shell.audit.keys.get(&name).copied());
        let shards = shell.config.shards;
        if let Some(key) = &submitted.key {
            let shard = shards.of_key(&submitted.tenant, &key.key);
            let fresh = Uuid::from_bytes(*submitted.run_id.as_bytes());
            submitted.run_id = shards.run_id(shard, fresh);
        }
        let shard = shards.of_run(submitted.run_id);
        let refused = shell.submit(submitted).err();
        match (known, refused) {
            (Some((run_id, [before, ..])), refused) => {
                let expected = (before != content).then_some(Rejection::KeyReused { run_id });
                assert_eq!(refused, expected, "a known key");
            }
            (None, Some(Rejection::KeyReused { .. })) => assert!(key.is_some()),
            (None, Some(Rejection::QueueFull { waiting, .. })) => assert!(waiting >= 40),
            (None, Some(Rejection::TooManyRuns { open, .. })) => assert_eq!(open, 12),
            (None, Some(Rejection::ShardElsewhere(refused))) => {
                let is_open = shell.engine.open_shards().any(|open| open == shard);
                assert!(refused == shard && !is_open);
            }
            (None, Some(other)) => panic!("{other}"),
            (None, None) => {}
        }
    }

    fn step(&mut self, step: &Step) {
        let shell = &mut self.shell;
        match *step {
            Step::Submit { .. } => self.submit(step),
            Step::Cancel(which) => {
                let runs: Vec<_> = shell
                    .told
                    .values()
                    .map(|run| run.submitted.run_id)
                    .collect();
                if !runs.is_empty() {
                    let run_id = *which.get(&runs);
                    let known = shell.engine.view(run_id);
                    let open = known.is_some_and(|(_, run)| !run.summary.status.is_terminal());
                    assert_eq!(
                        shell.cancel(run_id).is_ok(),
                        open,
                        "only open runs are cancelled"
                    );
                }
            }
            Step::Flush => shell.flush(),
            Step::Commit => shell.commit(),
            Step::Prepare(which) => {
                if !shell.prepares.is_empty() {
                    shell.answer_prepare(which.index(shell.prepares.len()));
                }
            }
            Step::Render(which) => {
                if !shell.renders.is_empty() {
                    shell.answer_render(which.index(shell.renders.len()));
                }
            }
            Step::Keep(which) => {
                if !shell.keeping.is_empty() {
                    shell.keep(which.index(shell.keeping.len()));
                }
            }
            Step::Complete(which, end, call) => {
                let attempts = shell.attempts();
                if !attempts.is_empty() {
                    let (worker, token) = *which.get(&attempts);
                    let upstream = |number| format!("http:host{number}:80");
                    let held = shell.workers[worker].held.get_mut(&token).unwrap();
                    match call {
                        Call::Any {
                            upstream: number,
                            failed,
                        } => {
                            let upstream = upstream(number);
                            held.upstreams.calls.push(UpstreamCall { upstream, failed });
                        }
                        Call::Parked { upstream: number } => {
                            held.upstreams.parked_on = Some(upstream(number));
                        }
                        Call::Silent | Call::Own { .. } => {}
                    }
                    let result = match end {
                        End::Success => Ok(Bytes::from_static(b"1")),
                        End::Retryable => Err(Failure::retryable(Code::HandlerFailed, "again")),
                        End::Permanent => Err(Failure::permanent(Code::HandlerFailed, "no")),
                        End::Crash => Err(Failure::retryable(Code::HandlerCrashed, "killed")),
                        End::Cancelled => Err(Failure::retryable(Code::Cancelled, "drained")),
                    };
                    match call {
                        Call::Own { failed } => shell.complete_call(worker, token, result, failed),
                        _ => shell.complete(worker, token, result),
                    }
                }
            }
            Step::Repeat(which) => {
                let reported: Vec<_> = shell
                    .workers
                    .iter()
                    .enumerate()
                    .flat_map(|(place, worker)| {
                        let result =
                            move |(&token, held): (&FencingToken, &crate::worker::Held)| {
                                Some((place, token, held.outcome.clone()?))
                            };
                        worker.held.iter().filter_map(result)
                    })
                    .collect();
                if !reported.is_empty() {
                    let (worker, token, result) = which.get(&reported).clone();
                    shell.report(worker, token, result);
                }
            }
            Step::Stale(which, worker) => {
                let given: Vec<_> = shell.audit.given.iter().copied().collect();
                let worker = worker as usize;
                if !given.is_empty() {
                    let token = *which.get(&given);
                    if !shell.workers[worker].held.contains_key(&token) {
                        let accepted = shell.report(worker, token, Ok(Bytes::from_static(b"2")));
                        assert!(!accepted, "a stale result was accepted");
                    }
                }
            }
            Step::Refuse(which) => {
                let attempts = shell.attempts();
                if !attempts.is_empty() {
                    let (worker, token) = *which.get(&attempts);
                    shell.refuse(worker, token);
                }
            }
            Step::Heartbeat(worker, intake) => {
                shell.workers[worker as usize].intake = intake;
                shell.heartbeat(worker as usize);
            }
            Step::Leave(worker) => shell.leave(worker as usize),
            Step::Join(worker) => shell.join(worker as usize).unwrap(),
            Step::Restart(worker) => shell.restart(worker as usize),
            Step::Drain(worker) => {
                if let Some(session) = shell.workers[worker as usize].session {
                    shell.event(Event::Draining { session }).unwrap();
                }
            }
            Step::Grant(worker) => {
                let session = SessionId(u64::MAX - u64::from(worker));
                shell
                    .event(Event::Granted {
                        session,
                        credits: 1,
                    })
                    .unwrap();
            }
            Step::Wait(millis) => shell.advance(Duration::from_millis(u64::from(millis))),
            Step::WaitForDeadline => self.wait_for_deadline(),
            Step::ResetBreaker(which) => {
                let upstreams = shell.engine.breakers();
                if !upstreams.is_empty() {
                    let name = &which.get(&upstreams).upstream;
                    let reset = shell.engine.reset_breaker(shell.now, name).unwrap();
                    assert_eq!(reset.status, BreakerStatus::Closed);
                    shell.engine.check_invariants();
                }
            }
            Step::Crash => shell.crash(),
            Step::Withdraw(shard) => {
                let now = shell.now;
                shell.engine.withdraw(now, &[ShardId(shard)]);
                shell.settle_event();
            }
            Step::GiveAway(shard) => {
                if !shell.away.contains(&ShardId(shard)) {
                    shell.give_away(&[ShardId(shard)].into());
                }
            }
            Step::TakeUp => shell.take_up(&shell.away.clone()),
            Step::Settle => shell.settle(),
        }
    }

    fn wait_for_deadline(&mut self) {
        if let Some(at) = self.shell.engine.next_deadline() {
            self.shell.now = self.shell.now.max(at);
            self.shell.tick();
        }
    }

    /// No more faults: every run ends in bounded time.
    fn heal(&mut self) {
        let shell = &mut self.shell;
        let all: BTreeSet<_> = shell.config.shards.all().collect();
        let open: BTreeSet<_> = shell.engine.open_shards().collect();
        let left = &(&all - &open) - &shell.away;
        shell.give_away(&left);
        shell.take_up(&shell.away.clone());
        for worker in 0..WORKERS {
            self.shell.workers[worker].intake = Intake::All;
            self.shell.join(worker).unwrap();
        }
        // The longest waits are a lease that has to end, and three attempts with their backoff.
        self.deadline = self.shell.now.saturating_add(Duration::from_secs(400));
        loop {
            self.shell.work();
            if self.shell.open_runs() == 0 {
                break;
            }
            for worker in 0..WORKERS {
                self.shell.heartbeat(worker);
            }
            let next = self.shell.engine.next_deadline();
            assert!(next.is_some(), "a run is open and nothing will wake it");
            self.wait_for_deadline();
            assert!(self.shell.now < self.deadline, "a run makes no progress");
        }
        let load = self.shell.engine.load();
        assert_eq!((load.open_runs, load.leases), (0, 0));
        for upstream in self.shell.engine.breakers() {
            assert_eq!((upstream.running, upstream.waiting), (0, 0));
        }
    }

    fn check_promises(&self) {
        let shell = &self.shell;
        for run_id in &shell.audit.submitted {
            let number = shell.numbers[run_id];
            assert!(shell.store[&number].status.is_terminal(), "a run was lost");
        }
        for (run_id, &status) in &shell.audit.ended {
            assert_eq!(shell.store[&shell.numbers[run_id]].status, status);
        }
        for (number, fold) in &shell.store {
            let told = &shell.told[number];
            assert_eq!(told.view(), fold.view());
            levels::check(fold, &shell.journals[number]);
            assert!(
                shell.audit.ended.contains_key(&fold.submitted.run_id),
                "nobody was told that a run ended"
            );
        }
        for worker in &shell.workers {
            assert!(
                worker.held.is_empty(),
                "an outcome was not acknowledged to `{}`",
                worker.name
            );
        }
    }
}

fn cases() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// What happens in one case.
pub(crate) type Story = (Vec<Value>, Vec<Step>);

pub(crate) fn story() -> impl Strategy<Value = Story> {
    (vec(workflow(), 1..4), vec(step(), 1..150))
}

/// Lets it happen.
///
/// # Panics
/// When a guarantee does not hold.
pub(crate) fn live_through((workflows, steps): Story) {
    let mut world = World::new(workflows);
    for step in &steps {
        world.step(step);
    }
    world.heal();
    world.check_promises();
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn guarantees_hold_after_every_event(story in story()) {
        live_through(story);
    }
}
