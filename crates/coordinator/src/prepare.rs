//! Evaluation of expressions, on threads of its own.

use bytes::Bytes;
use levelflow_common::expression::{ExpressionError, Scope};
use levelflow_common::task_input::SleepInput;
use levelflow_common::{Code, Failure, TaskKind};
use levelflow_engine::Event;
use levelflow_engine::command::{Prepare, RenderOutputs, RunContext};
use levelflow_engine::event::Preparation;
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::actor::Message;

/// The threads, and where their answers go.
pub(crate) struct PreparePool {
    threads: ThreadPool,
    inbox: mpsc::Sender<Message>,
}

impl PreparePool {
    pub(crate) fn new(
        threads: usize,
        inbox: mpsc::Sender<Message>,
    ) -> Result<Self, ThreadPoolBuildError> {
        let threads = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|number| format!("prepare-{number}"))
            .build()?;
        Ok(Self { threads, inbox })
    }

    pub(crate) fn prepare(&self, work: Box<Prepare>) {
        self.answer(move || {
            let result = prepare(&work);
            Event::Prepared {
                run: work.run,
                task: work.task,
                ticket: work.ticket,
                result,
            }
        });
    }

    pub(crate) fn render_outputs(&self, work: Box<RenderOutputs>) {
        self.answer(move || Event::OutputsRendered {
            run: work.run,
            ticket: work.ticket,
            result: render_outputs(&work.context).map_err(|error| failure(&error)),
        });
    }

    fn answer(&self, work: impl FnOnce() -> Event + Send + 'static) {
        let inbox = self.inbox.clone();
        self.threads.spawn_fifo(move || {
            // The actor never waits for these threads, so a full inbox empties. A closed one means
            // that nobody needs the answer any more.
            let _ = inbox.blocking_send(Message::Engine(work()));
        });
    }
}

fn prepare(work: &Prepare) -> Result<Preparation, Failure> {
    let spec = &work.context.definition.tasks[work.defined.0 as usize];
    let mut scope = scope(&work.context).map_err(|error| failure(&error))?;
    match (&spec.for_each, &work.item) {
        (Some(list), Some((position, item))) => {
            let item: Value = serde_json::from_slice(item).map_err(|error| {
                Failure::permanent(
                    Code::Internal,
                    format!("item {position} is not JSON: {error}"),
                )
            })?;
            scope.set_item(&list.name, &item, *position);
        }
        (list, _) => {
            if let Some(when) = &spec.when
                && !when.evaluate(&scope).map_err(|error| failure(&error))?
            {
                return Ok(Preparation::Skip);
            }
            if let Some(list) = list {
                let items = list.items.render(&scope).map_err(|error| failure(&error))?;
                return items_of(items).map(Preparation::Items);
            }
        }
    }
    let input = spec.input.render(&scope).map_err(|error| failure(&error))?;
    if spec.kind == TaskKind::Sleep {
        let sleep: SleepInput = serde_json::from_value(input)
            .map_err(|error| Failure::permanent(Code::TaskInputInvalid, error.to_string()))?;
        return Ok(Preparation::Sleep(sleep.duration.0));
    }
    Ok(Preparation::Input(json(&input)))
}

fn items_of(items: Value) -> Result<Vec<Bytes>, Failure> {
    match items {
        Value::Array(items) => Ok(items.iter().map(json).collect()),
        other => Err(Failure::permanent(
            Code::TaskInputInvalid,
            format!("`for_each.items` must be a list, not {}", type_of(&other)),
        )),
    }
}

fn render_outputs(context: &RunContext) -> Result<Bytes, ExpressionError> {
    let scope = scope(context)?;
    let outputs = context
        .definition
        .outputs
        .iter()
        .map(|(name, template)| Ok((name.clone(), template.render(&scope)?)))
        .collect::<Result<serde_json::Map<_, _>, ExpressionError>>()?;
    Ok(json(&Value::Object(outputs)))
}

fn scope(context: &RunContext) -> Result<Scope, ExpressionError> {
    let mut scope = Scope::new(
        &context.run_id.to_string(),
        &context.definition.name,
        &context.inputs,
    )?;
    for task in &context.tasks {
        scope.add_task(&task.id, task.status, task.output.as_deref())?;
    }
    Ok(scope)
}

fn failure(error: &ExpressionError) -> Failure {
    Failure::permanent(Code::ExpressionFailed, error.message())
}

fn json(value: &Value) -> Bytes {
    serde_json::to_vec(value)
        .expect("a JSON value has only string keys")
        .into()
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}
