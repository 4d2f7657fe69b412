//! A workflow that was checked and is ready to run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levelflow_common::retry::RetryPolicy;
use levelflow_common::{Priority, TaskKind, Workflow, WorkflowDigest};

use crate::plan::Plan;

/// A workflow that was checked and is ready to run.
#[derive(Debug)]
pub struct Definition {
    /// What it is known by.
    pub digest: WorkflowDigest,
    /// The canonical form.
    pub canonical: Bytes,
    /// The workflow.
    pub workflow: Workflow,
    /// Its name.
    pub name: Arc<str>,
    /// Its layout.
    pub plan: Plan,
    /// What the engine needs to know of each task.
    pub tasks: Vec<TaskSpec>,
    /// The outputs of a run, where they hold no expression.
    pub constant_outputs: Option<Bytes>,
}

/// What the engine needs to know of a task, with defaults filled in.
#[derive(Debug)]
pub struct TaskSpec {
    /// Its id.
    pub id: Arc<str>,
    /// What runs it.
    pub kind: TaskKind,
    /// Its input, where nothing has to be evaluated before it can start.
    pub constant_input: Option<Bytes>,
    /// What a worker must offer.
    pub requirement: Requirement,
    /// When a failed attempt is tried again.
    pub retry: RetryPolicy,
    /// The limit of one attempt.
    pub run_timeout: Duration,
    /// The limit of the wait for a worker.
    pub queue_timeout: Option<Duration>,
    /// The limit of everything.
    pub total_timeout: Option<Duration>,
    /// The limit of a handler's silence.
    pub heartbeat_timeout: Option<Duration>,
    /// Overrides the run's priority.
    pub priority: Option<Priority>,
    /// The run goes on when it fails.
    pub continue_on_error: bool,
    /// Whether it runs once for each item of a list.
    pub for_each: bool,
    /// The most items under way at once.
    pub max_items: Option<u32>,
}

/// What a worker must offer to run a task.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Requirement {
    /// The queue that it subscribes to.
    pub queue: Arc<str>,
    /// The task kind.
    pub kind: TaskKind,
    /// The handler; empty for other kinds.
    pub handler: Arc<str>,
    /// Labels that it has.
    pub labels: BTreeMap<String, String>,
}
