//! Runs for tests of what is shown.

use std::time::Duration;

use bytes::Bytes;
use levelflow_common::view::{RunSummary, RunView, TaskCounts, TaskView};
use levelflow_common::{
    Code, Failure, Priority, RunStatus, TaskKind, TaskStatus, Timestamp, WorkflowDigest,
};

const START: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

pub(crate) fn after(millis: u64) -> Timestamp {
    START.saturating_add(Duration::from_millis(millis))
}

fn task(id: &str, level: u32) -> TaskView {
    TaskView {
        task_id: id.into(),
        item: None,
        kind: TaskKind::Process,
        status: TaskStatus::Pending,
        level,
        attempts: 0,
        queued_at: None,
        started_at: None,
        finished_at: None,
        wakes_at: None,
        worker: None,
        output: None,
        failure: None,
        reused_from: None,
        chunks: 0,
    }
}

/// A run of which nothing has started: `fetch`, then `authors` and `weeks`, then `report`.
pub(crate) fn pending_run() -> RunView {
    RunView {
        summary: RunSummary {
            run_id: "01890a5d-ac96-774b-bcce-b302099a8057"
                .parse()
                .expect("this is a run id"),
            workflow: "digest".into(),
            digest: WorkflowDigest::of(b"{}"),
            tenant: "default".into(),
            status: RunStatus::Running,
            priority: Priority::Normal,
            labels: [].into(),
            submitted_at: START,
            finished_at: None,
            counts: TaskCounts {
                total: 4,
                ..TaskCounts::default()
            },
            failure: None,
            resumed_from: None,
        },
        sequence: 1,
        inputs: Bytes::from_static(b"{}"),
        outputs: None,
        tasks: vec![
            task("fetch", 0),
            task("authors", 1),
            task("weeks", 1),
            task("report", 2),
        ],
        critical_path: vec!["fetch".into(), "authors".into(), "report".into()],
    }
}

fn ran(mut task: TaskView, queued: u64, started: u64, finished: u64) -> TaskView {
    task.status = TaskStatus::Succeeded;
    task.attempts = 1;
    task.queued_at = Some(after(queued));
    task.started_at = Some(after(started));
    task.finished_at = Some(after(finished));
    task.output = Some(Bytes::from_static(b"{\"lines\":3}"));
    task
}

/// The same run when it has succeeded.
pub(crate) fn finished_run() -> RunView {
    let mut run = pending_run();
    run.summary.status = RunStatus::Succeeded;
    run.summary.finished_at = Some(after(1_500));
    run.summary.counts.succeeded = 3;
    run.summary.counts.skipped = 1;
    run.outputs = Some(Bytes::from_static(b"{\"file\":\"report.md\"}"));
    let [fetch, authors, weeks, report] =
        <[TaskView; 4]>::try_from(std::mem::take(&mut run.tasks)).expect("there are four tasks");
    run.tasks = vec![
        ran(fetch, 0, 2, 1_002),
        ran(authors, 1_003, 1_004, 1_404),
        TaskView {
            status: TaskStatus::Skipped,
            finished_at: Some(after(1_003)),
            ..weeks
        },
        TaskView {
            attempts: 2,
            ..ran(report, 1_405, 1_406, 1_499)
        },
    ];
    run
}

/// The same run when `authors` has failed.
pub(crate) fn failed_run() -> RunView {
    let mut run = finished_run();
    let failure = Failure::retryable(Code::ProcessFailed, "git exited with status 128");
    run.summary.status = RunStatus::Failed;
    run.summary.failure = Some(Failure::permanent(
        Code::UpstreamFailed,
        "task `authors` failed: git exited with status 128",
    ));
    run.summary.counts = TaskCounts {
        total: 4,
        succeeded: 1,
        failed: 1,
        skipped: 2,
        cancelled: 0,
    };
    run.outputs = None;
    run.tasks[1].status = TaskStatus::Failed;
    run.tasks[1].attempts = 3;
    run.tasks[1].output = None;
    run.tasks[1].failure = Some(failure);
    run.tasks[3] = TaskView {
        status: TaskStatus::Skipped,
        finished_at: Some(after(1_405)),
        ..task("report", 2)
    };
    run
}
