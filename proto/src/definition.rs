//! Workflow definitions.

use std::collections::BTreeMap;
use std::time::Duration;

use levelflow_common::cache::CachePolicy;
use levelflow_common::duration::{HumanDuration, InvalidDuration, LONGEST};
use levelflow_common::retry::{AttemptCode, RetryPolicy};
use levelflow_common::similar::{DEFAULT_REUSE, SemanticPolicy};
use levelflow_common::workflow::{
    Concurrency, Edge, ForEach, InputSpec, InputType, Priority, RateLimit, Task, TaskKind,
    Timeouts, WorkerSelector, Workflow,
};
use serde_json::Value;

use crate::enumeration::Enumeration;
use crate::invalid::{FieldProblem, InvalidField, InvalidMessage};
use crate::v1;

impl From<Workflow> for v1::Workflow {
    fn from(workflow: Workflow) -> Self {
        Self {
            name: workflow.name,
            description: workflow.description.unwrap_or_default(),
            inputs: workflow
                .inputs
                .into_iter()
                .map(|(name, spec)| (name, spec.into()))
                .collect(),
            priority: workflow.priority.number(),
            durability: workflow.durability.number(),
            dispatch: workflow.dispatch.number(),
            max_parallel: workflow.max_parallel.unwrap_or_default(),
            timeout: workflow.timeout.map(duration_message),
            labels: workflow.labels,
            tasks: workflow.tasks.into_iter().map(Into::into).collect(),
            edges: workflow.edges.into_iter().map(Into::into).collect(),
            outputs: workflow
                .outputs
                .into_iter()
                .map(|(name, value)| (name, value.to_string()))
                .collect(),
            prefetch: workflow
                .prefetch
                .into_iter()
                .map(prefetch_message)
                .collect(),
        }
    }
}

fn prefetch_message(inputs: BTreeMap<String, Value>) -> v1::PrefetchInputs {
    let inputs = inputs.into_iter();
    v1::PrefetchInputs {
        inputs: inputs
            .map(|(name, value)| (name, value.to_string()))
            .collect(),
    }
}

impl From<InputSpec> for v1::InputSpec {
    fn from(spec: InputSpec) -> Self {
        Self {
            r#type: input_type_word(spec.kind).to_owned(),
            required: spec.required,
            default: spec.default.map(|value| value.to_string()),
            description: spec.description.unwrap_or_default(),
        }
    }
}

impl From<Task> for v1::TaskDefinition {
    fn from(task: Task) -> Self {
        Self {
            id: task.id,
            kind: task.kind.number(),
            description: task.description.unwrap_or_default(),
            with: if task.with.is_null() {
                String::new()
            } else {
                task.with.to_string()
            },
            needs: task.needs,
            when: task.when.unwrap_or_default(),
            for_each: task.for_each.map(Into::into),
            retry: task.retry.map(Into::into),
            timeout: task.timeout.map(Into::into),
            priority: task.priority.map(Enumeration::number).unwrap_or_default(),
            worker: task.worker.map(Into::into),
            continue_on_error: task.continue_on_error,
            concurrency: task.concurrency.map(Into::into),
            rate_limit: task.rate_limit.map(Into::into),
            cache: task.cache.map(Into::into),
        }
    }
}

impl From<ForEach> for v1::ForEach {
    fn from(for_each: ForEach) -> Self {
        Self {
            items: for_each.items.to_string(),
            r#as: for_each.item,
            max_parallel: for_each.max_parallel.unwrap_or_default(),
        }
    }
}

impl From<RetryPolicy> for v1::RetryPolicy {
    fn from(policy: RetryPolicy) -> Self {
        Self {
            max_attempts: policy.max_attempts,
            initial: Some(duration_message(policy.initial)),
            factor: policy.factor,
            max: Some(duration_message(policy.max)),
            jitter: Some(policy.jitter),
            retryable: code_texts(&policy.retryable),
            non_retryable: code_texts(&policy.non_retryable),
        }
    }
}

fn code_texts(codes: &[AttemptCode]) -> Vec<String> {
    codes.iter().map(|code| code.as_str().to_owned()).collect()
}

impl From<Timeouts> for v1::Timeouts {
    fn from(timeouts: Timeouts) -> Self {
        Self {
            run: timeouts.run.map(duration_message),
            queue: timeouts.queue.map(duration_message),
            total: timeouts.total.map(duration_message),
            heartbeat: timeouts.heartbeat.map(duration_message),
        }
    }
}

impl From<WorkerSelector> for v1::WorkerSelector {
    fn from(selector: WorkerSelector) -> Self {
        Self {
            queue: selector.queue.unwrap_or_default(),
            labels: selector.labels,
            sticky: selector.sticky,
        }
    }
}

impl From<Concurrency> for v1::Concurrency {
    fn from(concurrency: Concurrency) -> Self {
        Self {
            key: concurrency.key,
            limit: concurrency.limit,
            on_full: concurrency.on_full.number(),
        }
    }
}

impl From<RateLimit> for v1::RateLimit {
    fn from(rate: RateLimit) -> Self {
        Self {
            key: rate.key,
            limit: rate.limit,
            per: Some(duration_message(rate.per)),
        }
    }
}

impl From<CachePolicy> for v1::CachePolicy {
    fn from(policy: CachePolicy) -> Self {
        Self {
            ttl: policy.ttl.map(duration_message),
            key: policy.key.map(|key| key.to_string()).unwrap_or_default(),
            scope: policy.scope.number(),
            normalize: policy.normalize.number(),
            version: policy.version.unwrap_or_default(),
            tags: policy.tags,
            on_error: policy.on_error.map(duration_message),
            semantic: policy.semantic.map(|semantic| v1::SemanticPolicy {
                text: semantic.text,
                model: semantic.model.unwrap_or_default(),
                reuse: Some(semantic.reuse),
                near: semantic.near,
            }),
        }
    }
}

impl From<Edge> for v1::Edge {
    fn from(edge: Edge) -> Self {
        Self {
            from: edge.from,
            to: edge.to,
        }
    }
}

impl TryFrom<v1::Workflow> for Workflow {
    type Error = InvalidMessage;

    /// Reads the structure. Whether the workflow makes sense is checked where files are checked too.
    fn try_from(message: v1::Workflow) -> Result<Self, InvalidMessage> {
        let mut reader = Reader::default();
        let workflow = reader.workflow(message);
        if reader.problems.is_empty() {
            Ok(workflow)
        } else {
            Err(InvalidMessage {
                fields: reader.problems,
            })
        }
    }
}

/// Reads a definition to its end and gathers every problem on the way; what has a problem gets a
/// stand-in, which nobody sees because the whole is then refused.
#[derive(Default)]
struct Reader {
    problems: Vec<InvalidField>,
}

impl Reader {
    fn workflow(&mut self, message: v1::Workflow) -> Workflow {
        Workflow {
            name: message.name,
            description: text(message.description),
            inputs: message
                .inputs
                .into_iter()
                .map(|(name, spec)| {
                    let path = format!("inputs.{name}");
                    (name, self.input(&path, spec))
                })
                .collect(),
            priority: self.enumeration("priority", message.priority),
            durability: self.enumeration("durability", message.durability),
            dispatch: self.enumeration("dispatch", message.dispatch),
            max_parallel: number(message.max_parallel),
            timeout: self.duration("timeout", message.timeout),
            labels: message.labels,
            tasks: message
                .tasks
                .into_iter()
                .enumerate()
                .map(|(index, task)| self.task(&format!("tasks[{index}]"), task))
                .collect(),
            edges: message
                .edges
                .into_iter()
                .map(|edge| Edge {
                    from: edge.from,
                    to: edge.to,
                })
                .collect(),
            outputs: message
                .outputs
                .into_iter()
                .map(|(name, value)| {
                    let value = self.json(|| format!("outputs.{name}"), &value);
                    (name, value)
                })
                .collect::<BTreeMap<_, _>>(),
            prefetch: (0..)
                .zip(message.prefetch)
                .map(|(place, wanted)| self.prefetch(place, wanted))
                .collect(),
        }
    }

    fn prefetch(&mut self, place: usize, message: v1::PrefetchInputs) -> BTreeMap<String, Value> {
        let inputs = message.inputs.into_iter();
        inputs
            .map(|(name, value)| {
                let value = self.json(|| format!("prefetch[{place}].{name}"), &value);
                (name, value)
            })
            .collect()
    }

    fn input(&mut self, path: &str, message: v1::InputSpec) -> InputSpec {
        let kind = match message.r#type.as_str() {
            "" => InputType::default(),
            word => INPUT_TYPES
                .into_iter()
                .find(|&kind| input_type_word(kind) == word)
                .unwrap_or_else(|| {
                    self.report(
                        format!("{path}.type"),
                        FieldProblem::UnknownWord {
                            word: word.to_owned(),
                            expected: "string, integer, number, boolean, array, object or any",
                        },
                    );
                    InputType::default()
                }),
        };
        InputSpec {
            kind,
            required: message.required,
            default: message
                .default
                .map(|value| self.json(|| format!("{path}.default"), &value)),
            description: text(message.description),
        }
    }

    fn task(&mut self, path: &str, message: v1::TaskDefinition) -> Task {
        Task {
            kind: TaskKind::required("kind", message.kind).unwrap_or_else(|error| {
                self.problems.push(error.under(path));
                TaskKind::Transform
            }),
            id: message.id,
            description: text(message.description),
            with: if message.with.is_empty() {
                Value::Null
            } else {
                self.json(|| format!("{path}.with"), &message.with)
            },
            needs: message.needs,
            when: text(message.when),
            for_each: message
                .for_each
                .map(|for_each| self.for_each(&format!("{path}.for_each"), for_each)),
            retry: message
                .retry
                .map(|retry| self.retry(&format!("{path}.retry"), &retry)),
            timeout: message
                .timeout
                .map(|timeouts| self.timeouts(&format!("{path}.timeout"), &timeouts)),
            priority: Priority::optional("priority", message.priority).unwrap_or_else(|error| {
                self.problems.push(error.under(path));
                None
            }),
            worker: message.worker.map(|selector| WorkerSelector {
                queue: text(selector.queue),
                labels: selector.labels,
                sticky: selector.sticky,
            }),
            concurrency: message.concurrency.map(|concurrency| Concurrency {
                key: concurrency.key,
                limit: concurrency.limit,
                on_full: self
                    .enumeration(&format!("{path}.concurrency.on_full"), concurrency.on_full),
            }),
            rate_limit: message
                .rate_limit
                .map(|rate| self.rate_limit(&format!("{path}.rate_limit"), rate)),
            cache: message
                .cache
                .map(|policy| self.cache(&format!("{path}.cache"), policy)),
            continue_on_error: message.continue_on_error,
        }
    }

    fn cache(&mut self, path: &str, message: v1::CachePolicy) -> CachePolicy {
        CachePolicy {
            ttl: self.duration(&format!("{path}.ttl"), message.ttl),
            key: (!message.key.is_empty())
                .then(|| self.json(|| format!("{path}.key"), &message.key)),
            scope: self.enumeration(&format!("{path}.scope"), message.scope),
            normalize: self.enumeration(&format!("{path}.normalize"), message.normalize),
            version: text(message.version),
            tags: message.tags,
            on_error: self.duration(&format!("{path}.on_error"), message.on_error),
            semantic: message.semantic.map(|semantic| SemanticPolicy {
                text: semantic.text,
                model: text(semantic.model),
                reuse: semantic.reuse.unwrap_or(DEFAULT_REUSE),
                near: semantic.near,
            }),
        }
    }

    fn rate_limit(&mut self, path: &str, message: v1::RateLimit) -> RateLimit {
        let per = format!("{path}.per");
        if message.per.is_none() {
            self.report(per.clone(), FieldProblem::Missing);
        }
        RateLimit {
            key: message.key,
            limit: message.limit,
            per: self.duration(&per, message.per).unwrap_or_default(),
        }
    }

    fn for_each(&mut self, path: &str, message: v1::ForEach) -> ForEach {
        let items = if message.items.is_empty() {
            self.report(format!("{path}.items"), FieldProblem::Missing);
            Value::Null
        } else {
            self.json(|| format!("{path}.items"), &message.items)
        };
        ForEach {
            items,
            item: text(message.r#as).unwrap_or_else(|| "item".to_owned()),
            max_parallel: number(message.max_parallel),
        }
    }

    fn retry(&mut self, path: &str, message: &v1::RetryPolicy) -> RetryPolicy {
        let default = RetryPolicy::default();
        RetryPolicy {
            max_attempts: number(message.max_attempts).unwrap_or(default.max_attempts),
            initial: self
                .duration(&format!("{path}.initial"), message.initial)
                .unwrap_or(default.initial),
            factor: if message.factor == 0.0 {
                default.factor
            } else {
                message.factor
            },
            max: self
                .duration(&format!("{path}.max"), message.max)
                .unwrap_or(default.max),
            jitter: message.jitter.unwrap_or(default.jitter),
            retryable: self.codes(&format!("{path}.retryable"), &message.retryable),
            non_retryable: self.codes(&format!("{path}.non_retryable"), &message.non_retryable),
        }
    }

    fn codes(&mut self, path: &str, texts: &[String]) -> Vec<AttemptCode> {
        let mut codes = Vec::with_capacity(texts.len());
        for (place, text) in texts.iter().enumerate() {
            match AttemptCode::parse(text) {
                Some(code) => codes.push(code),
                None => self.report(
                    format!("{path}[{place}]"),
                    FieldProblem::UnknownWord {
                        word: text.clone(),
                        expected: "the code of a failure of an attempt, such as http_status",
                    },
                ),
            }
        }
        codes
    }

    fn timeouts(&mut self, path: &str, message: &v1::Timeouts) -> Timeouts {
        Timeouts {
            run: self.duration(&format!("{path}.run"), message.run),
            queue: self.duration(&format!("{path}.queue"), message.queue),
            total: self.duration(&format!("{path}.total"), message.total),
            heartbeat: self.duration(&format!("{path}.heartbeat"), message.heartbeat),
        }
    }

    fn enumeration<E: Enumeration + Default>(&mut self, field: &str, number: i32) -> E {
        E::optional(field, number)
            .unwrap_or_else(|error| {
                self.problems.push(error);
                None
            })
            .unwrap_or_default()
    }

    fn json(&mut self, path: impl FnOnce() -> String, text: &str) -> Value {
        serde_json::from_str(text).unwrap_or_else(|error| {
            self.report(path(), FieldProblem::NotJson(error.to_string()));
            Value::Null
        })
    }

    fn duration(
        &mut self,
        path: &str,
        message: Option<prost_types::Duration>,
    ) -> Option<HumanDuration> {
        match read_duration(message?) {
            Ok(duration) => Some(duration),
            Err(error) => {
                self.report(path.to_owned(), error.into());
                None
            }
        }
    }

    fn report(&mut self, path: String, problem: FieldProblem) {
        self.problems.push(InvalidField::new(path, problem));
    }
}

const INPUT_TYPES: [InputType; 7] = [
    InputType::String,
    InputType::Integer,
    InputType::Number,
    InputType::Boolean,
    InputType::Array,
    InputType::Object,
    InputType::Any,
];

const fn input_type_word(kind: InputType) -> &'static str {
    match kind {
        InputType::String => "string",
        InputType::Integer => "integer",
        InputType::Number => "number",
        InputType::Boolean => "boolean",
        InputType::Array => "array",
        InputType::Object => "object",
        InputType::Any => "any",
    }
}

fn text(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn number(number: u32) -> Option<u32> {
    (number > 0).then_some(number)
}

fn duration_message(duration: HumanDuration) -> prost_types::Duration {
    // Durations of the vocabulary are at most ten years.
    prost_types::Duration::try_from(duration.0).unwrap_or(prost_types::Duration {
        seconds: i64::MAX,
        nanos: 0,
    })
}

fn read_duration(message: prost_types::Duration) -> Result<HumanDuration, InvalidDuration> {
    let written = || format!("{}s", message.seconds);
    match Duration::try_from(message) {
        Ok(span) if span <= LONGEST => Ok(HumanDuration(span)),
        Ok(_) => Err(InvalidDuration::TooLong(written())),
        Err(_) => Err(InvalidDuration::Negative(written())),
    }
}

#[cfg(test)]
#[path = "definition_tests.rs"]
mod tests;
