//! Large workflows.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levelflow_common::{RunStatus, Timestamp};
use levelflow_engine::event::{ReplyId, SessionId};
use levelflow_engine::plan::Plan;
use levelflow_engine::{Command, Config, Definition, Engine, Event, RunNumber, TaskIndex};
use serde_json::json;

use crate::definitions::task;
use crate::preparer;
use crate::shell::Shell;
use crate::worker::FakeWorker;

fn chain(length: u32, first: &str) -> Arc<Definition> {
    let mut tasks: Vec<_> = (0..length)
        .map(|number| task(&format!("t{number}"), &[], json!({})))
        .collect();
    tasks[0]["when"] = json!(first);
    let workflow = serde_json::from_value(json!({ "name": "chain", "tasks": tasks })).unwrap();
    let edges: Vec<_> = (1..length).map(|task| (task - 1, task)).collect();
    Definition::new(workflow, &edges).unwrap().into()
}

/// Runs on a stack that a recursion over the chain would overflow.
fn on_a_small_stack(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(256 * 1024);
    thread.spawn(test).unwrap().join().unwrap();
}

#[test]
fn a_chain_of_ten_thousand_is_skipped_without_growing_the_stack() {
    on_a_small_stack(|| {
        let mut shell = Shell::with_worker(1);
        let run = shell.run(&chain(10_000, "inputs.no"));
        shell.settle();
        let state = shell.state(run);
        assert_eq!(state.status, RunStatus::Succeeded);
        assert_eq!(state.counts.skipped, 10_000);
    });
}

#[test]
fn a_chain_of_ten_thousand_runs_without_growing_the_stack() {
    on_a_small_stack(|| {
        let definition = chain(10_000, "inputs.yes");
        let submitted = Box::new(Shell::new(Config::default()).submission(&definition));
        let (now, session) = (Timestamp::from_micros(1), SessionId(1));
        let mut engine = Engine::new(Config::default(), RunNumber(1));
        let mut events = vec![
            Event::Joined {
                session,
                hello: Box::new(FakeWorker::new("w", 1).hello()),
            },
            Event::Submit {
                reply: ReplyId(1),
                submitted,
                definition,
            },
        ];
        let mut completed = 0;
        let ended = loop {
            events.push(Event::Granted {
                session,
                credits: 1,
            });
            for event in events.drain(..) {
                engine.handle(now, event).unwrap();
            }
            engine.assign(now);
            engine.take_batch();
            let effects: Vec<_> = engine.take_effects().collect();
            let mut ended = None;
            for effect in effects {
                match effect.command {
                    Command::Prepare(asked) => events.push(Event::Prepared {
                        run: asked.run,
                        task: asked.task,
                        ticket: asked.ticket,
                        result: preparer::prepare(&asked, &preparer::Cache::new()),
                    }),
                    Command::Dispatch { token, .. } => {
                        engine.start(now, token).unwrap();
                        completed += 1;
                        events.push(Event::Outcome {
                            session,
                            token,
                            result: Ok(Bytes::from_static(b"1")),
                            duration: Duration::ZERO,
                            upstreams: None,
                            stream: None,
                        });
                    }
                    Command::Ended(it) => ended = Some(it),
                    _ => {}
                }
            }
            if let Some(ended) = ended {
                break ended;
            }
            assert!(!events.is_empty(), "the chain is stuck");
        };
        assert_eq!((completed, ended.status), (10_000, RunStatus::Succeeded));
        engine.check_invariants();
    });
}

#[test]
fn a_plan_of_a_hundred_thousand_tasks_is_laid_out() {
    const TASKS: u32 = 100_000;
    let edges: Vec<(u32, u32)> = (0..TASKS)
        .flat_map(|from| [1, 7, 101].map(|step| (from, from + step)))
        .filter(|&(_, to)| to < TASKS)
        .collect();
    let plan = Plan::new(TASKS as usize, &edges).unwrap();
    assert_eq!((plan.len(), plan.edges()), (TASKS as usize, edges.len()));
    assert_eq!(plan.levels().len(), TASKS as usize);
    let remaining = plan.remaining(|_| 2);
    assert_eq!(remaining[0], 2 * u64::from(TASKS));
    let path: Vec<_> = (0..TASKS).map(TaskIndex).collect();
    assert_eq!(plan.critical_path(&remaining), path);
}
