//! A workflow that was checked and is ready to run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levelflow_common::expression::{Condition, ExpressionError, Template, has_expression};
use levelflow_common::limits::DEFAULT_RUN_TIMEOUT;
use levelflow_common::retry::RetryPolicy;
use levelflow_common::upstream::of_model;
use levelflow_common::view::{PlanLevel, PlanTask, PlanView};
use levelflow_common::workflow::Task;
use levelflow_common::{Priority, TaskKind, Workflow, WorkflowDigest, upstream};
use serde_json::Value;

use crate::cache_spec::CacheSpec;
use crate::limit::LimitSpec;
use crate::measured::expected;
use crate::plan::{NotADag, Plan};
use crate::record::TaskIndex;

/// The queue of tasks that name none.
pub const DEFAULT_QUEUE: &str = "default";

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
    /// What has to be known of each task to run it.
    pub tasks: Vec<TaskSpec>,
    /// Whether any of its tasks names limits.
    pub has_limits: bool,
    /// The outputs of a run, by name.
    pub outputs: Vec<(String, Template)>,
    /// The outputs of a run, where they hold no expression.
    pub constant_outputs: Option<Bytes>,
    /// The inputs of runs whose results are computed ahead, by name.
    pub prefetch: Vec<Vec<(String, Template)>>,
}

/// What has to be known of a task to run it, with defaults filled in.
#[derive(Debug)]
pub struct TaskSpec {
    /// Its id.
    pub id: Arc<str>,
    /// What runs it.
    pub kind: TaskKind,
    /// Its input.
    pub input: Template,
    /// Its input, where nothing has to be evaluated before it, or an item of it, can start.
    pub constant_input: Option<Bytes>,
    /// The upstream that it calls, as far as a constant input tells.
    pub upstream: Option<Arc<str>>,
    /// Whether it runs at all.
    pub when: Option<Condition>,
    /// Its list.
    pub for_each: Option<ListSpec>,
    /// What a worker must offer.
    pub requirement: Requirement,
    /// Whether it wants the worker that had the last such task of its run.
    pub sticky: bool,
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
    /// How many like it may run at once, and how often they may start.
    pub limits: Option<Box<LimitSpec>>,
    /// That its results may be used again.
    pub cache: Option<Box<CacheSpec>>,
    /// The run goes on when it fails.
    pub continue_on_error: bool,
}

/// The list of a `for_each`.
#[derive(Debug)]
pub struct ListSpec {
    /// The list.
    pub items: Template,
    /// What expressions call an item.
    pub name: String,
    /// The most items under way at once.
    pub max_parallel: Option<u32>,
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
    /// The database that it can ask, or the language model, as its hello names it; empty if any will do.
    pub connection: Arc<str>,
    /// Labels that it has.
    pub labels: BTreeMap<String, String>,
}

/// Why a workflow cannot be run.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Defect {
    /// Its edges do not make a DAG.
    #[error("the edges do not make a DAG")]
    NotADag(Vec<NotADag>),
    /// An expression is not well-formed.
    #[error("an expression of task or output `{of}` is not well-formed")]
    Expression {
        /// Whose.
        of: String,
        /// Why.
        source: ExpressionError,
    },
}

impl Definition {
    /// Makes a workflow ready to run. `edges` lead from a task to one that needs it, by their places in
    /// the workflow, each once.
    ///
    /// # Errors
    /// When the edges do not make a DAG, or an expression is not well-formed.
    pub fn new(workflow: Workflow, edges: &[(u32, u32)]) -> Result<Self, Defect> {
        let plan = Plan::new(workflow.tasks.len(), edges).map_err(Defect::NotADag)?;
        Self::with_plan(workflow, plan)
    }

    /// As [`Definition::new`], with the layout of the workflow's tasks.
    ///
    /// # Errors
    /// When an expression is not well-formed.
    pub(crate) fn with_plan(workflow: Workflow, plan: Plan) -> Result<Self, Defect> {
        let defect = |of: &str| {
            let of = of.to_owned();
            move |source| Defect::Expression { of, source }
        };
        let tasks = workflow
            .tasks
            .iter()
            .map(|task| TaskSpec::new(task).map_err(defect(&task.id)))
            .collect::<Result<Vec<_>, _>>()?;
        let templates = |values: &BTreeMap<String, Value>| {
            let compile = |(name, value): (&String, &Value)| {
                let template = Template::compile(value).map_err(defect(name))?;
                Ok((name.clone(), template))
            };
            values
                .iter()
                .map(compile)
                .collect::<Result<Vec<_>, Defect>>()
        };
        let outputs = templates(&workflow.outputs)?;
        let prefetch = workflow.prefetch.iter().map(templates);
        let prefetch = prefetch.collect::<Result<Vec<_>, Defect>>()?;
        let constant_outputs = outputs
            .iter()
            .all(|(_, template)| template.is_static())
            .then(|| json(&workflow.outputs));
        let canonical = Bytes::from(workflow.canonical_json());
        Ok(Self {
            digest: WorkflowDigest::of(&canonical),
            canonical,
            name: workflow.name.as_str().into(),
            workflow,
            plan,
            has_limits: tasks.iter().any(|task| task.limits.is_some()),
            tasks,
            outputs,
            constant_outputs,
            prefetch,
        })
    }
}

impl Definition {
    /// The chain of tasks that is expected to take longest.
    pub fn critical_path(&self) -> Vec<TaskIndex> {
        let remaining = self
            .plan
            .remaining(|task| expected(self.tasks[task.0 as usize].kind));
        self.plan.critical_path(&remaining)
    }

    /// Its layout as clients see it.
    pub fn plan_view(&self) -> PlanView {
        let plan = &self.plan;
        let tasks = &self.workflow.tasks;
        let id = |index: u32| tasks[index as usize].id.clone();
        let path = self.critical_path();
        let mut critical = vec![false; plan.len()];
        for task in &path {
            critical[task.0 as usize] = true;
        }
        let task = |index: &TaskIndex| {
            let task = &tasks[index.0 as usize];
            PlanTask {
                id: task.id.clone(),
                kind: task.kind,
                for_each: task.for_each.is_some(),
                conditional: task.when.is_some(),
                critical: critical[index.0 as usize],
                needs: plan.needs(*index).iter().map(|&need| id(need)).collect(),
            }
        };
        PlanView {
            name: self.workflow.name.clone(),
            digest: self.digest.to_string(),
            tasks: plan.len(),
            edges: plan.edges(),
            width: plan.levels().iter().map(Vec::len).max().unwrap_or(0),
            levels: plan
                .levels()
                .iter()
                .enumerate()
                .map(|(level, tasks)| PlanLevel {
                    level,
                    tasks: tasks.iter().map(task).collect(),
                })
                .collect(),
            critical_path: path.iter().map(|task| id(task.0)).collect(),
        }
    }
}

impl TaskSpec {
    fn new(task: &Task) -> Result<Self, ExpressionError> {
        let mut handler = "";
        let mut input = &task.with;
        if task.kind == TaskKind::Handler {
            handler = task.with["name"].as_str().unwrap_or_default();
            input = &task.with["input"];
        }
        let connection = connection(task);
        let template = Template::compile_input(task.kind, input)?;
        let when = task.when.as_deref().map(Condition::compile).transpose()?;
        let for_each = match &task.for_each {
            Some(list) => Some(ListSpec {
                items: Template::compile(&list.items)?,
                name: list.item.clone(),
                max_parallel: list.max_parallel,
            }),
            None => None,
        };
        let limits = LimitSpec::new(task)?.map(Box::new);
        let has_keys = limits
            .as_ref()
            .is_none_or(|it| it.constant_keys().is_some());
        // The condition of a list is evaluated once for the list, before its items.
        let cache = CacheSpec::new(task)?.map(Box::new);
        let constant = template.is_static()
            && (when.is_none() || for_each.is_some())
            && has_keys
            && cache.is_none();
        let upstream = constant
            .then(|| upstream::of_task(task.kind, input))
            .flatten();
        let timeout = task.timeout.clone().unwrap_or_default();
        let selector = task.worker.clone().unwrap_or_default();
        Ok(Self {
            id: task.id.as_str().into(),
            kind: task.kind,
            constant_input: constant.then(|| json(input)),
            upstream: upstream.map(Into::into),
            input: template,
            when,
            for_each,
            requirement: Requirement {
                queue: selector.queue.as_deref().unwrap_or(DEFAULT_QUEUE).into(),
                kind: task.kind,
                handler: handler.into(),
                connection: connection.into(),
                labels: selector.labels,
            },
            sticky: selector.sticky,
            retry: task.retry.clone().unwrap_or_default(),
            run_timeout: timeout.run.map_or(DEFAULT_RUN_TIMEOUT, |limit| limit.0),
            queue_timeout: timeout.queue.map(|limit| limit.0),
            total_timeout: timeout.total.map(|limit| limit.0),
            heartbeat_timeout: timeout.heartbeat.map(|limit| limit.0),
            priority: task.priority,
            limits,
            cache,
            continue_on_error: task.continue_on_error,
        })
    }
}

/// What a worker must be able to ask. A model that is not known before the run, or that is one of several,
/// is left to the worker.
fn connection(task: &Task) -> String {
    let named = |key: &str| task.with[key].as_str().filter(|name| !has_expression(name));
    match task.kind {
        TaskKind::Sql => named("connection").unwrap_or_default().to_owned(),
        TaskKind::Chat if task.with["base_url"].is_null() => {
            named("model").map(of_model).unwrap_or_default()
        }
        _ => String::new(),
    }
}

fn json(value: &impl serde::Serialize) -> Bytes {
    serde_json::to_vec(value)
        .expect("values of a workflow have only string keys")
        .into()
}
