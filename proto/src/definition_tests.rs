//! Workflows come back from the wire as they went.

use levelflow_common::workflow::{Dispatch, Durability, OnFull};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use levelflow_common::cache::{CacheScope, Normalize};

fn word() -> impl Strategy<Value = String> {
    "[a-z]{1,6}"
}

fn duration() -> impl Strategy<Value = HumanDuration> {
    (0..LONGEST.as_micros() as u64).prop_map(|us| HumanDuration(Duration::from_micros(us)))
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(word(), inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map(word(), ".{0,5}", 0..3)
}

fn priority() -> impl Strategy<Value = Priority> {
    prop::sample::select(Priority::ALL.to_vec())
}

fn input() -> impl Strategy<Value = InputSpec> {
    (
        prop::sample::select(INPUT_TYPES.to_vec()),
        any::<bool>(),
        prop::option::of(json()),
        prop::option::of(word()),
    )
        .prop_map(|(kind, required, default, description)| InputSpec {
            kind,
            required,
            default,
            description,
        })
}

fn retry() -> impl Strategy<Value = RetryPolicy> {
    let codes = || {
        let all: Vec<_> = AttemptCode::all().collect();
        prop::sample::subsequence(all, 0..3)
    };
    let limits = (1..50_u32, duration(), 1.0..9.0, duration(), any::<bool>());
    (limits, codes(), codes()).prop_map(
        |((max_attempts, initial, factor, max, jitter), retryable, non_retryable)| RetryPolicy {
            max_attempts,
            initial,
            factor,
            max,
            jitter,
            retryable,
            non_retryable,
        },
    )
}

fn timeouts() -> impl Strategy<Value = Timeouts> {
    let limit = || prop::option::of(duration());
    (limit(), limit(), limit(), limit()).prop_map(|(run, queue, total, heartbeat)| Timeouts {
        run,
        queue,
        total,
        heartbeat,
    })
}

fn for_each() -> impl Strategy<Value = ForEach> {
    (json(), word(), prop::option::of(1..9_u32)).prop_map(|(items, item, max_parallel)| ForEach {
        items,
        item,
        max_parallel,
    })
}

fn selector() -> impl Strategy<Value = WorkerSelector> {
    (prop::option::of(word()), labels(), any::<bool>()).prop_map(|(queue, labels, sticky)| {
        WorkerSelector {
            queue,
            labels,
            sticky,
        }
    })
}

fn concurrency() -> impl Strategy<Value = Concurrency> {
    let on_full = [OnFull::Queue, OnFull::Fail, OnFull::CancelOldest];
    (word(), 1..9_u32, prop::sample::select(on_full.to_vec())).prop_map(|(key, limit, on_full)| {
        Concurrency {
            key,
            limit,
            on_full,
        }
    })
}

fn rate_limit() -> impl Strategy<Value = RateLimit> {
    (word(), 1..9_u32, duration()).prop_map(|(key, limit, per)| RateLimit { key, limit, per })
}

fn cache() -> impl Strategy<Value = CachePolicy> {
    (
        prop::option::of(duration()),
        prop::option::of(json().prop_filter("null is no key", |key| !key.is_null())),
        prop::sample::select(&CacheScope::ALL[..]),
        prop::sample::select(&Normalize::ALL[..]),
        prop::option::of(word()),
        prop::collection::vec(word(), 0..3),
        prop::option::of(duration()),
        prop::option::of(semantic()),
    )
        .prop_map(
            |(ttl, key, scope, normalize, version, tags, on_error, semantic)| CachePolicy {
                ttl,
                key,
                scope,
                normalize,
                version,
                tags,
                on_error,
                semantic,
            },
        )
}

fn semantic() -> impl Strategy<Value = SemanticPolicy> {
    let near = prop::option::of(0.0..0.5);
    (word(), prop::option::of(word()), 0.5..1.0, near).prop_map(|(text, model, reuse, near)| {
        SemanticPolicy {
            text,
            model,
            reuse,
            near,
        }
    })
}

fn task() -> impl Strategy<Value = Task> {
    let what = (
        word(),
        prop::sample::select(TaskKind::ALL.to_vec()),
        prop::option::of(word()),
        json(),
        prop::collection::vec(word(), 0..3),
    );
    let how = (
        prop::option::of(word()),
        prop::option::of(for_each()),
        prop::option::of(retry()),
        prop::option::of(timeouts()),
        prop::option::of(priority()),
        prop::option::of(selector()),
        prop::option::of(concurrency()),
        prop::option::of(rate_limit()),
        prop::option::of(cache()),
        any::<bool>(),
    );
    (what, how).prop_map(
        |(
            (id, kind, description, with, needs),
            (
                when,
                for_each,
                retry,
                timeout,
                priority,
                worker,
                concurrency,
                rate_limit,
                cache,
                continue_on_error,
            ),
        )| Task {
            id,
            kind,
            description,
            with,
            needs,
            when,
            for_each,
            retry,
            timeout,
            priority,
            worker,
            concurrency,
            rate_limit,
            cache,
            continue_on_error,
        },
    )
}

fn workflow() -> impl Strategy<Value = Workflow> {
    let head = (
        word(),
        prop::option::of(word()),
        prop::collection::btree_map(word(), input(), 0..3),
        priority(),
        any::<bool>(),
        any::<bool>(),
    );
    let body = (
        prop::option::of(1..9_u32),
        prop::option::of(duration()),
        labels(),
        prop::collection::vec(task(), 0..4),
        prop::collection::vec((word(), word()), 0..3),
        prop::collection::btree_map(word(), json(), 0..3),
        prop::collection::vec(prop::collection::btree_map(word(), json(), 0..3), 0..3),
    );
    (head, body).prop_map(
        |(
            (name, description, inputs, priority, relaxed, by_level),
            (max_parallel, timeout, labels, tasks, edges, outputs, prefetch),
        )| Workflow {
            name,
            description,
            inputs,
            priority,
            durability: if relaxed {
                Durability::Relaxed
            } else {
                Durability::Strict
            },
            dispatch: if by_level {
                Dispatch::Level
            } else {
                Dispatch::Ready
            },
            max_parallel,
            timeout,
            labels,
            tasks,
            edges: edges
                .into_iter()
                .map(|(from, to)| Edge { from, to })
                .collect(),
            outputs,
            prefetch,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn workflows_read_back(workflow in workflow()) {
        let read = Workflow::try_from(v1::Workflow::from(workflow.clone()));
        prop_assert_eq!(read, Ok(workflow));
    }
}

#[test]
fn fields_that_are_not_given_take_the_defaults() {
    let workflow = Workflow::try_from(v1::Workflow {
        name: "small".to_owned(),
        tasks: vec![v1::TaskDefinition {
            id: "a".to_owned(),
            kind: TaskKind::Http.number(),
            retry: Some(v1::RetryPolicy {
                max_attempts: 2,
                ..Default::default()
            }),
            for_each: Some(v1::ForEach {
                items: "[1]".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        }],
        ..Default::default()
    });
    let written: Workflow = serde_json::from_value(json!({
        "name": "small",
        "tasks": [{
            "id": "a",
            "type": "http",
            "retry": { "max_attempts": 2 },
            "for_each": { "items": [1] },
        }],
    }))
    .unwrap();
    assert_eq!(workflow, Ok(written));
}

#[test]
fn every_problem_is_reported_with_its_path() {
    let minute = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
    let error = Workflow::try_from(v1::Workflow {
        priority: 9,
        inputs: [(
            "since".to_owned(),
            v1::InputSpec {
                r#type: "text".to_owned(),
                default: Some("{".to_owned()),
                ..Default::default()
            },
        )]
        .into(),
        timeout: minute(i64::MAX, 0),
        tasks: vec![
            v1::TaskDefinition {
                kind: 1,
                ..Default::default()
            },
            v1::TaskDefinition {
                with: "nope".to_owned(),
                for_each: Some(v1::ForEach::default()),
                retry: Some(v1::RetryPolicy {
                    initial: minute(-5, 0),
                    non_retryable: vec!["run_timeout".to_owned(), "timeout".to_owned()],
                    ..Default::default()
                }),
                priority: -1,
                rate_limit: Some(v1::RateLimit::default()),
                ..Default::default()
            },
        ],
        outputs: [("url".to_owned(), String::new())].into(),
        ..Default::default()
    })
    .unwrap_err();
    let lines: Vec<String> = error.fields.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "inputs.since.type: `text` is unknown; \
             expected string, integer, number, boolean, array, object or any",
            "inputs.since.default: is not JSON: \
             EOF while parsing an object at line 1 column 1",
            "priority: 9 is not a value of this enumeration",
            "timeout: `9223372036854775807s` is too long; the longest duration is 3660d",
            "tasks[1].kind: is missing",
            "tasks[1].with: is not JSON: expected ident at line 1 column 2",
            "tasks[1].for_each.items: is missing",
            "tasks[1].retry.initial: `-5s` is negative; a duration is zero or more",
            "tasks[1].retry.non_retryable[1]: `timeout` is unknown; \
             expected the code of a failure of an attempt, such as http_status",
            "tasks[1].priority: -1 is not a value of this enumeration",
            "tasks[1].rate_limit.per: is missing",
            "outputs.url: is not JSON: EOF while parsing a value at line 1 column 0",
        ]
    );
}
