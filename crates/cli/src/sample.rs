//! Runs and workers for tests of what is shown.

use std::time::Duration;

use bytes::Bytes;
use levelflow_common::overview::{
    AlertView, EndedTasks, HeartbeatView, MemoryLevel, Overview, PoolView, QueueView, SessionView,
    WorkerStatus, WorkerView,
};
use levelflow_common::view::{
    BreakerStatus, BreakerView, RunSummary, RunView, TaskCounts, TaskView,
};
use levelflow_common::{
    Code, Failure, Priority, RunStatus, TaskKind, TaskStatus, Timestamp, WorkerId, WorkflowDigest,
};

use crate::render::top::Snapshot;

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
        cached: None,
        similar_to: None,
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

/// A worker with more attempts than slots.
pub(crate) fn busy_worker() -> WorkerView {
    let pool = |name: &str, size| PoolView {
        name: name.to_owned(),
        size,
        busy: 0,
        idle: 0,
        waiting: 0,
        opened: 0,
        used: 0,
        waited_us: 0,
    };
    let heartbeat = HeartbeatView {
        at: after(59_000),
        resident_bytes: Some(512 << 20),
        memory_level: Some(MemoryLevel::Warning),
        growth_per_second: 5 << 19,
        pools: vec![
            PoolView {
                busy: 2,
                waiting: 7,
                opened: 2,
                ..pool("cpu", 2)
            },
            PoolView {
                busy: 12,
                idle: 3,
                opened: 15,
                used: 1_200,
                waited_us: 600_000,
                ..pool("http", 100)
            },
        ],
    };
    WorkerView {
        worker: WorkerId("w-1".into()),
        status: WorkerStatus::Active,
        slots: 16,
        attempts: 20,
        credits: 0,
        queues: ["default".to_owned(), "gpu".to_owned()].into(),
        labels: [("zone".to_owned(), "eu".to_owned())].into(),
        kinds: [TaskKind::Http].into(),
        handlers: [].into(),
        handler_versions: [].into(),
        connections: [].into(),
        session: Some(SessionView {
            version: "0.1.0".to_owned(),
            connected_at: after(0),
            heartbeat: Some(heartbeat),
        }),
    }
}

/// A worker whose stream is gone.
pub(crate) fn lost_worker() -> WorkerView {
    WorkerView {
        worker: WorkerId("w-2".into()),
        status: WorkerStatus::Lost,
        slots: 4,
        attempts: 1,
        queues: ["default".to_owned()].into(),
        labels: [].into(),
        session: None,
        ..busy_worker()
    }
}

/// The two workers, two queues and two breakers of a coordinator.
pub(crate) fn snapshot() -> Snapshot {
    let queue = |name: &str, ready, parked| QueueView {
        name: name.into(),
        ready,
        parked,
    };
    let closed = BreakerView {
        upstream: "http:a:80".into(),
        status: BreakerStatus::Closed,
        failures: 0,
        probes_at: None,
        limit: None,
        running: 12,
        waiting: 0,
    };
    let open = BreakerView {
        upstream: "http:b:80".into(),
        status: BreakerStatus::Open,
        failures: 5,
        probes_at: Some(after(120_000)),
        limit: Some(0),
        running: 0,
        waiting: 5,
    };
    let alert = |number, text: &str| AlertView {
        number,
        at: after(57_000 + 1_000 * number),
        kind: "worker_lost".to_owned(),
        is_all_clear: number == 1,
        text: text.to_owned(),
        subject: Bytes::from_static(b"{}"),
    };
    Snapshot {
        overview: Overview {
            coordinator_id: "c-1".to_owned(),
            version: "0.1.0".to_owned(),
            at: after(60_000),
            started_at: after(0),
            open_runs: 2,
            attempts: 21,
            ended: EndedTasks {
                succeeded: 1_000,
                failed: 1,
            },
            queues: vec![queue("default", 10, 5), queue("gpu", 20, 0)],
        },
        workers: vec![busy_worker(), lost_worker()],
        breakers: vec![closed, open],
        alerts: vec![alert(1, "it is well"), alert(2, "worker `w-2` was lost")],
    }
}
