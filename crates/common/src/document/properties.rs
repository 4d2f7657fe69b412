//! Properties of the reader, on workflows and texts that nobody wrote.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, subsequence};
use serde_json::{Value, json};

use super::*;
use crate::cache::{CachePolicy, CacheScope, Normalize};
use crate::duration::HumanDuration;
use crate::retry::{AttemptCode, RetryPolicy};
use crate::similar::SemanticPolicy;
use crate::workflow::{
    Concurrency, Dispatch, Durability, Edge, ForEach, InputSpec, InputType, OnFull, Priority,
    RateLimit, Task, TaskKind, Timeouts, WorkerSelector,
};

fn text() -> impl Strategy<Value = String> {
    // No raw control characters, which YAML refuses and JSON writers escape but for U+007F. Texts that YAML or JSON could take for something else are among them.
    prop_oneof![
        "[a-zA-Z0-9 _:#'\"\\\\{}\\[\\],&*!|>%@`~-]{0,12}".prop_map(|text| text.replace("${{", "")),
        Just("null".to_owned()),
        Just("1e3".to_owned()),
        Just("- a\n  b: c\n".to_owned()),
        Just("ü\u{1F980}\u{1}".to_owned()),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e9..1e9).prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map("[a-z]{1,4}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

fn duration() -> impl Strategy<Value = HumanDuration> {
    (0..10_000_000_000_u64)
        .prop_map(|micros| HumanDuration(std::time::Duration::from_micros(micros)))
}

fn retry() -> impl Strategy<Value = RetryPolicy> {
    (
        1..=1000_u32,
        duration(),
        1.0..100.0,
        duration(),
        any::<bool>(),
        attempt_codes(),
    )
        .prop_map(
            |(max_attempts, initial, factor, max, jitter, (retryable, non_retryable))| {
                RetryPolicy {
                    max_attempts,
                    initial,
                    factor,
                    max,
                    jitter,
                    retryable,
                    non_retryable,
                }
            },
        )
}

/// Two lists that have no code in common.
fn attempt_codes() -> impl Strategy<Value = (Vec<AttemptCode>, Vec<AttemptCode>)> {
    let codes: Vec<_> = AttemptCode::all().collect();
    (subsequence(codes, 0..4), any::<Index>()).prop_map(|(mut codes, cut)| {
        let others = codes.split_off(cut.index(codes.len() + 1));
        (codes, others)
    })
}

fn timeouts() -> impl Strategy<Value = Timeouts> {
    let limit = || option::of(duration());
    (limit(), limit(), limit(), limit()).prop_map(|(run, queue, total, heartbeat)| Timeouts {
        run,
        queue,
        total,
        heartbeat,
    })
}

fn input() -> impl Strategy<Value = InputSpec> {
    (any::<bool>(), value(), option::of(text())).prop_map(|(required, default, description)| {
        InputSpec {
            kind: InputType::Any,
            required,
            default: (!default.is_null()).then_some(default),
            description,
        }
    })
}

fn task(index: usize) -> impl Strategy<Value = Task> {
    let priority = proptest::sample::select(&Priority::ALL[..]);
    let needs = if index == 0 { 0..1 } else { 0..index.min(3) };
    (
        (value(), vec(0..index.max(1), needs), option::of(text())),
        (
            option::of(retry()),
            option::of(timeouts()),
            option::of(priority),
        ),
        (option::of(1..9_u32), any::<bool>(), any::<bool>(), text()),
    )
        .prop_map(move |((value, needs, description), limits, rest)| {
            let (retry, timeout, priority) = limits;
            let (max_parallel, each, continue_on_error, queue) = rest;
            Task {
                id: format!("t{index}"),
                kind: TaskKind::Transform,
                description,
                with: json!({ "value": value }),
                needs: needs.into_iter().map(|need| format!("t{need}")).collect(),
                when: each.then(|| "inputs is defined".to_owned()),
                for_each: each.then(|| ForEach {
                    items: json!([1, 2]),
                    item: "item".to_owned(),
                    max_parallel,
                }),
                retry,
                timeout,
                priority,
                worker: each.then(|| WorkerSelector {
                    queue: Some(queue.clone()),
                    labels: [(queue, String::new())].into(),
                    sticky: true,
                }),
                concurrency: each.then(|| Concurrency {
                    key: "k-${{ inputs }}".to_owned(),
                    limit: max_parallel.unwrap_or(1),
                    on_full: OnFull::CancelOldest,
                }),
                rate_limit: max_parallel.map(|limit| RateLimit {
                    key: "k".to_owned(),
                    limit,
                    per: HumanDuration(std::time::Duration::from_secs(60)),
                }),
                cache: each.then(|| CachePolicy {
                    ttl: Some(HumanDuration(std::time::Duration::from_secs(60))),
                    key: max_parallel.map(|limit| json!([limit, "${{ inputs }}"])),
                    scope: CacheScope::Workflow,
                    normalize: Normalize::Words,
                    version: Some("2".to_owned()),
                    tags: vec!["a".to_owned()],
                    on_error: max_parallel
                        .map(|_| HumanDuration(std::time::Duration::from_secs(1))),
                    semantic: max_parallel.map(|limit| SemanticPolicy {
                        text: "${{ inputs }}".to_owned(),
                        model: each.then(|| "m".to_owned()),
                        reuse: 0.75,
                        near: (limit > 4).then_some(0.5),
                    }),
                }),
                continue_on_error,
            }
        })
}

fn workflow() -> impl Strategy<Value = Workflow> {
    let tasks = (1..6_usize).prop_flat_map(|count| (0..count).map(task).collect::<Vec<_>>());
    let maps = (
        btree_map("[a-z]{1,5}", input(), 0..3),
        btree_map(text(), text(), 0..3),
        btree_map("[a-z]{1,5}", value(), 0..3),
    );
    (
        (
            "\\PC{1,20}",
            option::of(text()),
            option::of(duration()),
            option::of(1..9_u32),
        ),
        maps,
        (tasks, any::<bool>()),
    )
        .prop_map(|(head, (inputs, labels, outputs), (tasks, relaxed))| {
            let (name, description, timeout, max_parallel) = head;
            Workflow {
                name: format!("w{name}"),
                description,
                inputs,
                priority: Priority::Low,
                durability: if relaxed {
                    Durability::Relaxed
                } else {
                    Durability::Strict
                },
                dispatch: if relaxed {
                    Dispatch::Level
                } else {
                    Dispatch::Ready
                },
                max_parallel,
                timeout,
                labels,
                edges: vec![Edge {
                    from: "t0".to_owned(),
                    to: tasks[tasks.len() - 1].id.clone(),
                }],
                tasks,
                outputs,
                prefetch: Vec::new(),
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn reading_the_canonical_form_gives_the_workflow(workflow in workflow()) {
        for json in [
            workflow.canonical_json(),
            serde_json::to_vec_pretty(&workflow).unwrap(),
        ] {
            let draft = read("flow.json", &json);
            prop_assert_eq!(draft.problems.to_string(), "");
            let read = draft.workflow.unwrap();
            prop_assert_eq!(&read, &workflow);
            prop_assert_eq!(read.digest(), workflow.digest());
            let structured = Draft::from_workflow(&workflow);
            prop_assert_eq!(structured.workflow, Some(read));
            prop_assert_eq!(structured.edges, draft.edges);
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in vec(any::<u8>(), 0..200)) {
        let draft = read("flow.yaml", &bytes);
        prop_assert!(draft.workflow.is_none());
        prop_assert!(!draft.problems.to_string().is_empty());
    }

    #[test]
    fn any_change_of_a_file_is_read_without_panic(
        at in 0..2000_usize,
        cut in 0..40_usize,
        put in "[\\PC\n\t]{0,8}",
    ) {
        let text = tests::GOOD;
        let start = text.floor_char_boundary(at.min(text.len()));
        let end = text.floor_char_boundary((start + cut).min(text.len()));
        let changed = format!("{}{put}{}", &text[..start], &text[end..]);
        let draft = read("flow.yaml", changed.as_bytes());
        prop_assert_eq!(draft.problems.is_empty(), draft.problems.to_string().is_empty());
        prop_assert!(draft.workflow.is_some() || !draft.problems.is_empty());
        for problem in &draft.problems {
            let position = problem.position.map_or(1, |at| at.line.min(at.column));
            prop_assert!(position >= 1);
        }
    }
}
