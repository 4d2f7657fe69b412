//! Evaluation of expressions, on threads of its own.

use std::sync::Arc;

use bytes::Bytes;
use levelflow_common::expression::{ExpressionError, Scope, Template};
use levelflow_common::task_input::SleepInput;
use levelflow_common::{CacheKey, CacheUse, Code, Failure, TaskKind, upstream};
use levelflow_engine::command::{Computed, Prepare, RenderOutputs, RunContext};
use levelflow_engine::event::Preparation;
use levelflow_engine::{Event, Found, NearHit, Prefetch, TaskIndex};
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::actor::Message;
use crate::cache::{Asked, Asking, ResultCache, Sought, Wanted, expression_failed};
use crate::prefetch;
use crate::semantic::shown_value;

/// The threads, and where their answers go.
pub(crate) struct PreparePool {
    threads: Arc<ThreadPool>,
    inbox: mpsc::Sender<Message>,
    cache: Option<Arc<ResultCache>>,
    /// Where runs go that are computed ahead.
    ahead: mpsc::Sender<prefetch::Wanted>,
    /// Where lookups wait that threads must not wait for.
    runtime: Handle,
}

impl PreparePool {
    pub(crate) fn new(
        threads: usize,
        inbox: mpsc::Sender<Message>,
        cache: Option<Arc<ResultCache>>,
        ahead: mpsc::Sender<prefetch::Wanted>,
    ) -> Result<Self, ThreadPoolBuildError> {
        let threads = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|number| format!("prepare-{number}"))
            .build()?;
        Ok(Self {
            threads: Arc::new(threads),
            inbox,
            cache,
            ahead,
            runtime: Handle::current(),
        })
    }

    pub(crate) fn prepare(&self, work: Box<Prepare>) {
        let inbox = self.inbox.clone();
        let cache = self.cache.clone();
        let runtime = self.runtime.clone();
        let threads = Arc::clone(&self.threads);
        self.threads.spawn_fifo(move || {
            let asking = match (&cache, &work.handler_version) {
                (Some(cache), Some(version)) => Some(Asking {
                    cache: cache.as_ref(),
                    tenant: &work.tenant,
                    cache_use: work.cache,
                    handler_version: version,
                    run_id: work.context.run_id,
                }),
                _ => None,
            };
            let (context, item) = (&work.context, work.item.as_ref());
            let evaluated = evaluate(context, work.defined, item, asking.as_ref(), None);
            let (result, asked) = match evaluated {
                Ok(Evaluated { preparation, asked }) => (Ok(preparation), asked),
                Err(failure) => (Err(failure), None),
            };
            let is_to_seek = |cache: &ResultCache, asked: &Asked| {
                let is_shared = work.cache == CacheUse::Use && cache.has_shared_tiers();
                is_shared || asked.question.is_some()
            };
            match (cache, asked) {
                (Some(cache), Some(asked)) if is_to_seek(&cache, &asked) => {
                    let _entered = runtime.enter();
                    levelflow_runtime::task::spawn("cache lookup", async move {
                        let result = match cache.seek(asked, work.cache).await {
                            Sought::Nothing => result,
                            Sought::Found(found) => with_found(result, *found),
                            Sought::Near(near_hit) => {
                                // What the task is shown may be part of its input.
                                threads.spawn_fifo(move || {
                                    let result = evaluate_with(&work, result, near_hit);
                                    drop(inbox.blocking_send(prepared(&work, result)));
                                });
                                return;
                            }
                        };
                        let _ = inbox.send(prepared(&work, result)).await;
                    });
                }
                // The actor never waits for these threads, so a full inbox empties. A closed one means
                // that nobody needs the answer any more.
                _ => drop(inbox.blocking_send(prepared(&work, result))),
            }
        });
    }

    /// Puts a result into the cache.
    pub(crate) fn keep(&self, computed: Box<Computed>) {
        let cache = self.cache.clone();
        self.answer(move || {
            let key = computed.key;
            if let Some(cache) = cache {
                cache.keep(*computed);
            }
            Event::Kept { key }
        });
    }

    /// Evaluates the inputs of the runs that are computed ahead.
    pub(crate) fn prefetch(&self, work: Prefetch) {
        if self.cache.is_none() {
            return;
        }
        let ahead = self.ahead.clone();
        self.threads.spawn_fifo(move || {
            let Prefetch { context, tenant } = work;
            let after = context.run_id;
            for templates in &context.definition.prefetch {
                let inputs = match render(&context, templates) {
                    Ok(inputs) => inputs,
                    Err(error) => {
                        let problem = error.message();
                        tracing::info!(run_id = %after, problem, "inputs to compute ahead failed");
                        continue;
                    }
                };
                let wanted = prefetch::Wanted {
                    definition: context.definition.clone(),
                    tenant: tenant.clone(),
                    inputs,
                    after,
                };
                if ahead.try_send(wanted).is_err() {
                    tracing::debug!(run_id = %after, "too much waits to be computed ahead");
                }
            }
        });
    }

    /// Says that a result is not computed here any more.
    pub(crate) fn give_up(&self, key: CacheKey) {
        if let Some(cache) = &self.cache {
            cache.give_up(key);
        }
    }

    pub(crate) fn render_outputs(&self, work: Box<RenderOutputs>) {
        self.answer(move || Event::OutputsRendered {
            run: work.run,
            ticket: work.ticket,
            result: render(&work.context, &work.context.definition.outputs)
                .map_err(|error| expression_failed(&error)),
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

fn prepared(work: &Prepare, result: Result<Preparation, Failure>) -> Message {
    Message::Engine(Event::Prepared {
        run: work.run,
        task: work.task,
        ticket: work.ticket,
        result,
    })
}

fn with_found(
    mut result: Result<Preparation, Failure>,
    found: Found,
) -> Result<Preparation, Failure> {
    if let Ok(Preparation::Input {
        cache: Some(lookup),
        ..
    }) = &mut result
    {
        lookup.found = Some(found);
    }
    result
}

/// Evaluates a task once more, with the result that it is shown. What its own result is found by stays what it was
/// without.
fn evaluate_with(
    work: &Prepare,
    before: Result<Preparation, Failure>,
    near_hit: Box<NearHit>,
) -> Result<Preparation, Failure> {
    let (context, item) = (&work.context, work.item.as_ref());
    let evaluated = evaluate(context, work.defined, item, None, Some(&near_hit))?;
    let mut preparation = evaluated.preparation;
    if let (
        Preparation::Input { cache, .. },
        Ok(Preparation::Input {
            cache: Some(mut lookup),
            ..
        }),
    ) = (&mut preparation, before)
    {
        lookup.near = Some(near_hit);
        *cache = Some(lookup);
    }
    Ok(preparation)
}

/// What came of an evaluation.
struct Evaluated {
    preparation: Preparation,
    /// By what the result is to be looked for beyond memory.
    asked: Option<Asked>,
}

impl From<Preparation> for Evaluated {
    fn from(preparation: Preparation) -> Self {
        Self {
            preparation,
            asked: None,
        }
    }
}

/// What has to be known of a task, or of an item of it, before it can start.
fn evaluate(
    context: &RunContext,
    task: TaskIndex,
    item: Option<&(u32, Bytes)>,
    asking: Option<&Asking<'_>>,
    near_hit: Option<&NearHit>,
) -> Result<Evaluated, Failure> {
    let spec = &context.definition.tasks[task.0 as usize];
    let mut scope = scope(context).map_err(|error| expression_failed(&error))?;
    if spec
        .cache
        .as_ref()
        .is_some_and(|cache| cache.text.is_some())
    {
        scope.set_near_hit(near_hit.and_then(shown_value).as_ref());
    }
    match (&spec.for_each, item) {
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
                && !when
                    .evaluate(&scope)
                    .map_err(|error| expression_failed(&error))?
            {
                return Ok(Preparation::Skip.into());
            }
            if let Some(list) = list {
                let items = list
                    .items
                    .render(&scope)
                    .map_err(|error| expression_failed(&error))?;
                return Ok(Preparation::Items(items_of(items)?).into());
            }
        }
    }
    let input = spec
        .input
        .render(&scope)
        .map_err(|error| expression_failed(&error))?;
    if spec.kind == TaskKind::Sleep {
        let sleep: SleepInput = serde_json::from_value(input)
            .map_err(|error| Failure::permanent(Code::TaskInputInvalid, error.to_string()))?;
        return Ok(Preparation::Sleep(sleep.duration.0).into());
    }
    let keys = spec.limits.as_ref().map(|limits| limits.keys(&scope));
    let (lookup, asked) = match (asking, &spec.cache) {
        (Some(asking), Some(policy)) => {
            let wanted = Wanted {
                workflow: &context.definition.name,
                spec,
                input: &input,
            };
            let (lookup, asked) = asking.look_up(&wanted, policy, &scope)?;
            (Some(Box::new(lookup)), asked)
        }
        _ => (None, None),
    };
    Ok(Evaluated {
        preparation: Preparation::Input {
            upstream: upstream::of_task(spec.kind, &input).map(Into::into),
            input: json(&input),
            keys: keys.transpose()?,
            cache: lookup,
        },
        asked,
    })
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

/// A map whose values are evaluated, as JSON.
fn render(context: &RunContext, values: &[(String, Template)]) -> Result<Bytes, ExpressionError> {
    let scope = scope(context)?;
    let values = values
        .iter()
        .map(|(name, template)| Ok((name.clone(), template.render(&scope)?)))
        .collect::<Result<serde_json::Map<_, _>, ExpressionError>>()?;
    Ok(json(&Value::Object(values)))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use levelflow_common::{RunId, TaskStatus, document};
    use levelflow_engine::Definition;
    use levelflow_engine::command::EndedTask;
    use uuid::Uuid;

    use super::*;

    /// Prepares the last task of a workflow whose first task `a` has ended with `output`.
    fn prepare_last(tasks: &str, output: &'static [u8]) -> Result<Preparation, Failure> {
        let text = format!("name: test\ninputs: {{ n: {{ type: integer }} }}\ntasks:\n{tasks}");
        let draft = document::read("test.yaml", text.as_bytes());
        let definition = Arc::new(Definition::compile(draft).unwrap());
        let last = definition.tasks.len() - 1;
        let context = RunContext {
            run_id: RunId::from_uuid(Uuid::nil()),
            inputs: Bytes::from_static(br#"{"n":3}"#),
            tasks: vec![EndedTask {
                id: "a".into(),
                status: TaskStatus::Succeeded,
                output: Some(Bytes::from_static(output)),
            }],
            definition,
        };
        let evaluated = evaluate(&context, TaskIndex(last as u32), None, None, None);
        evaluated.map(|evaluated| evaluated.preparation)
    }

    #[test]
    fn values_keep_their_types() {
        let tasks = "  - { id: a, type: transform, with: { value: 1 } }
  - { id: b, type: transform, with: { value: { n: '${{ inputs.n }}', a: '${{ tasks.a.output.x }}' } } }";
        let input = prepare_last(tasks, br#"{"x":[true]}"#).unwrap();
        let expected = Bytes::from_static(br#"{"value":{"a":[true],"n":3}}"#);
        let expected = Preparation::Input {
            input: expected,
            upstream: None,
            keys: None,
            cache: None,
        };
        assert_eq!(input, expected);
    }

    #[test]
    fn a_false_condition_skips() {
        let tasks = "  - { id: a, type: transform, with: { value: 1 } }
  - { id: b, type: transform, when: 'tasks.a.output > 5', with: { value: 2 } }";
        assert_eq!(prepare_last(tasks, b"1"), Ok(Preparation::Skip));
        assert!(matches!(
            prepare_last(tasks, b"6"),
            Ok(Preparation::Input { .. })
        ));
    }

    #[test]
    fn a_list_is_opened_and_must_be_a_list() {
        let tasks = "  - { id: a, type: transform, with: { value: 1 } }
  - { id: b, type: transform, for_each: { items: '${{ tasks.a.output }}' }, with: { value: '${{ item }}' } }";
        let items = vec![Bytes::from_static(b"1"), Bytes::from_static(b"\"x\"")];
        assert_eq!(
            prepare_last(tasks, br#"[1,"x"]"#),
            Ok(Preparation::Items(items))
        );
        assert_eq!(
            prepare_last(tasks, b"7").unwrap_err().message,
            "`for_each.items` must be a list, not a number"
        );
    }

    #[test]
    fn a_sleep_is_a_duration() {
        let tasks = "  - { id: a, type: transform, with: { value: 1 } }
  - { id: b, type: sleep, with: { duration: '${{ tasks.a.output }}' } }";
        assert_eq!(
            prepare_last(tasks, br#""1m30s""#),
            Ok(Preparation::Sleep(std::time::Duration::from_secs(90)))
        );
        let failure = prepare_last(tasks, br#""soon""#).unwrap_err();
        assert_eq!(failure.code, Code::TaskInputInvalid);
        assert!(!failure.retryable);
    }

    #[test]
    fn a_name_that_is_not_there_fails_the_task() {
        let tasks = "  - { id: a, type: transform, with: { value: 1 } }
  - { id: b, type: transform, with: { value: '${{ tasks.a.output.nothing }}' } }";
        let failure = prepare_last(tasks, b"{}").unwrap_err();
        assert_eq!(failure.code, Code::ExpressionFailed);
    }
}
