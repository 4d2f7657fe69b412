//! The guarantees of one server with its embedded store, which is killed once, and what is found where they
//! do not hold.

use std::time::Duration;

use levelflow_common::event::{RunEvent, RunUpdate};
use levelflow_common::view::RunView;
use levelflow_common::{Code, RunStatus, TaskStatus};
use levelflow_proto::{ApiError, v1};
use serde_json::{Value, json};

use super::evidence::{Cancel, Evidence, Ledger, Run};
use super::guarantees::{CHECKS, violations};
use super::starts::{Manner, Start, Starts, Trace, mark_of_task};
use crate::client::{Client, submission};
use crate::harness::{DEADLINE, Home, Running};

const RUNS: usize = 6;

/// A run that has something of everything.
fn flow(starts: &Starts, trace: &Trace, number: usize) -> Value {
    let retry = json!({ "max_attempts": 4, "initial": "10ms", "jitter": false, "retryable": ["http_status"] });
    let first = Manner {
        turns_down: number % 2,
        takes: Duration::from_millis(5),
        gate: Some("first".to_owned()),
    };
    let (first_mark, program_mark) = (mark_of_task("first"), mark_of_task("program"));
    json!({
        "name": "everything",
        "tasks": [
            { "id": "first", "type": "http", "retry": retry, "with": starts.call("first", &[], &first) },
            {
                "id": "shared", "type": "http", "cache": { "ttl": "1h" }, "retry": retry,
                "with": starts.call("shared", &[], &Manner::default()),
            },
            {
                "id": "program", "type": "process", "retry": retry,
                "with": trace.program(&[first_mark], Duration::ZERO),
            },
            { "id": "nap", "type": "sleep", "needs": ["program"], "with": { "duration": "200ms" } },
            {
                "id": "last", "type": "http", "retry": retry, "needs": ["nap", "shared"],
                "with": starts.call("last", &[program_mark], &Manner::default()),
            },
        ],
    })
}

async fn serve(home: &Home) -> (Running, Client) {
    let (server, address) = Running::serve(home, &["dev"]).await;
    (server, Client::connect(&address).await)
}

/// Starts runs, kills the server while their first tasks are under way, and cancels one of them.
async fn evidence() -> Evidence {
    let home = Home::new();
    let (starts, trace) = (Starts::record().await, Trace::new(&home));
    let ledger = Ledger::default();
    let (server, client) = serve(&home).await;
    let mut runs = Vec::new();
    for number in 0..RUNS {
        let workflow = flow(&starts, &trace, number);
        let request = v1::SubmitWorkflowRequest {
            idempotency_key: format!("run {number}"),
            ..submission(&workflow)
        };
        runs.push(ledger.submit(&client, &workflow, request).await.unwrap());
    }
    let first = |it: &&Start| it.task == "first";
    let under_way = |starts: &Vec<_>| starts.iter().filter(first).count() == RUNS;
    starts.until("all runs have started", under_way).await;
    server.kill().await;

    let (_server, client) = serve(&home).await;
    client.cancel(&runs[0]).await.unwrap();
    ledger.cancelled(&runs[0]);
    starts.open("first");
    for run_id in &runs {
        ledger.watch(&client, run_id, DEADLINE).await.unwrap();
    }
    let all = starts.all().into_iter().chain(trace.all()).collect();
    let mut evidence = Evidence::gather(&ledger, &client, all).await;
    evidence.restarts = 1;
    evidence.max_open_runs = Some(RUNS);
    evidence
}

/// The run that is looked at, which is none that was cancelled.
fn run(evidence: &mut Evidence) -> &mut Run {
    let run_id = &evidence.submits[1].run_id;
    evidence.runs.get_mut(run_id).unwrap()
}

fn view(evidence: &mut Evidence) -> &mut RunView {
    run(evidence).view.as_mut().unwrap()
}

/// The update in which something of a task is recorded.
fn update(evidence: &mut Evidence, is_it: impl Fn(&RunEvent) -> bool) -> &mut RunUpdate {
    let history = &mut run(evidence).history;
    let found = history.iter_mut().find(|it| it.events.iter().any(&is_it));
    found.expect("it is recorded")
}

fn ends(event: &RunEvent, name: &str) -> bool {
    matches!(event, RunEvent::TaskSucceeded { task, .. } if *task.task_id == *name)
}

/// Ways to break each guarantee: its number, and what would be seen then.
type Break = (u8, fn(&mut Evidence));

const BREAKS: [Break; 21] = [
    // A run is gone.
    (1, |it| run(it).view = None),
    (1, |it| {
        let run_id = it.submits[1].run_id.clone();
        it.listed.remove(&run_id);
    }),
    // A key gives two runs.
    (1, |it| it.submits[1].key = it.submits[2].key.clone()),
    (1, |it| {
        it.listed.insert("another".to_owned());
    }),
    // A task ends twice.
    (2, |it| {
        let update = update(it, |event| ends(event, "last"));
        update.events.extend(update.events.clone());
    }),
    // A result is that of another task.
    (2, |it| {
        let start = it.starts.iter_mut().find(|it| it.task == "program");
        start.unwrap().attempt = Some(2);
    }),
    // A lost attempt did not count.
    (3, |it| {
        let of_run = |start: &&Start| start.task == "program";
        let start = it.starts.iter().find(of_run).unwrap().clone();
        it.starts.extend([start.clone(), start]);
    }),
    (3, |it| {
        let start = it.starts.iter_mut().find(|it| it.task == "program");
        start.unwrap().attempt = Some(5);
    }),
    // A task started on a result that was lost.
    (4, |it| {
        let start = it.starts.iter_mut().find(|it| it.task == "last");
        start.unwrap().needs = vec!["lost".to_owned()];
    }),
    (5, |it| view(it).summary.status = RunStatus::Running),
    // A task starts on a result that came after the cancel.
    (6, |it| {
        let run_id = it.submits[1].run_id.clone();
        let cancel = it.cancels[0].clone();
        it.cancels.push(Cancel { run_id, ..cancel });
    }),
    (6, |it| run(it).ends.push(RunStatus::Failed)),
    // A sleep was too short: by the journal, and by who came after it.
    (7, |it| {
        let is_nap = |event: &RunEvent| matches!(event, RunEvent::Sleeping { .. });
        for event in &mut update(it, is_nap).events {
            if let RunEvent::Sleeping { wakes_at, .. } = event {
                *wakes_at = wakes_at.saturating_add(Duration::from_secs(3600));
            }
        }
    }),
    (8, |it| {
        run(it).history.remove(2);
    }),
    (8, |it| run(it).elsewhere.push(Vec::new())),
    (8, |it| view(it).tasks[0].status = TaskStatus::Failed),
    // A result of another tenant, and one that is too old.
    (9, |it| {
        for (number, submit) in it.submits.iter_mut().enumerate() {
            submit.tenant = number.to_string();
        }
    }),
    (9, |it| {
        for update in it.runs.values_mut().flat_map(|run| &mut run.history) {
            for event in &mut update.events {
                if let RunEvent::TaskSucceeded {
                    cached: Some(cached),
                    ..
                } = event
                {
                    cached.age = Duration::from_secs(3601);
                }
            }
        }
    }),
    (10, |it| {
        run(it).seen.remove(1);
    }),
    (11, |it| it.max_open_runs = Some(RUNS - 1)),
    (11, |it| {
        it.refusals.push(ApiError::new(Code::Internal, "full"));
    }),
];

#[tokio::test]
async fn what_breaks_a_guarantee_is_found() {
    let evidence = evidence().await;
    assert_eq!(violations(&evidence), []);
    let views: Vec<&RunView> = evidence
        .runs
        .values()
        .filter_map(|it| it.view.as_ref())
        .collect();
    let succeeded = views
        .iter()
        .filter(|it| it.summary.status == RunStatus::Succeeded);
    assert_eq!(succeeded.count(), RUNS - 1, "{views:?}");
    for (number, (guarantee, breaks)) in BREAKS.iter().enumerate() {
        let mut broken = evidence.clone();
        breaks(&mut broken);
        let check = CHECKS[usize::from(*guarantee) - 1];
        let found = check(&broken);
        assert!(
            !found.is_empty(),
            "break {number} of guarantee {guarantee} is not found"
        );
        assert!(found.iter().all(|it| it.guarantee == *guarantee));
    }
}
