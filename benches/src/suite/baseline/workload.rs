//! What both sides run: DAGs of calls of a local service, a share of them with the same input.

use levelflow_common::retry::RetryPolicy;
use levelflow_common::workflow::Workflow;
use serde_json::json;

use crate::shape::Shape;

/// Of a hundred calls, how many use a value that others use, too.
const REPEATED_PERCENT: u64 = 30;
/// The values that are used again and again.
const REPEATED_VALUES: u64 = 20;
const SEED: u64 = 0x1eef_1057;

/// Evenly spread over all numbers, and always the same for the same numbers (SplitMix64).
pub(super) fn hash(seed: u64, number: u64) -> u64 {
    let mut mixed = seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The query value of one call.
pub(super) fn value(run: u64, task: usize) -> String {
    let random = hash(SEED, run << 16 | task as u64);
    if random % 100 < REPEATED_PERCENT {
        format!("repeated-{}", (random >> 32) % REPEATED_VALUES)
    } else {
        format!("{run}-{task}")
    }
}

/// When both sides try a failed call again: soon, so that waits do not hide what the rest costs.
pub(super) fn retry() -> RetryPolicy {
    let policy = json!({ "max_attempts": 5, "initial": "10ms", "factor": 2.0, "max": "100ms" });
    serde_json::from_value(policy).expect("it is a retry policy")
}

/// The workflow of a shape; its input `values` has the value of each call.
pub(super) fn workflow(shape: Shape, url: &str) -> Workflow {
    let mut tasks = Vec::new();
    let mut before: Vec<String> = Vec::new();
    for (level, &width) in shape.levels().iter().enumerate() {
        let ids: Vec<String> = (0..width)
            .map(|place| format!("t{level}_{place}"))
            .collect();
        for id in &ids {
            let value = format!("${{{{ inputs.values[{}] }}}}", tasks.len());
            tasks.push(json!({
                "id": id,
                "type": "http",
                "needs": before,
                "retry": retry(),
                "with": { "method": "GET", "url": url, "query": { "value": value } },
            }));
        }
        before = ids;
    }
    let workflow = json!({
        "name": format!("baseline-{shape:?}"),
        "inputs": { "values": { "type": "array", "required": true } },
        "tasks": tasks,
    });
    serde_json::from_value(workflow).expect("the shape is a workflow")
}

/// The inputs of one run of the workflow.
pub(super) fn inputs(shape: Shape, run: u64) -> Vec<u8> {
    let values: Vec<String> = (0..shape.tasks()).map(|task| value(run, task)).collect();
    json!({ "values": values }).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_of_ten_inputs_are_repeated() {
        let values = (0..1_000).flat_map(|run| (0..10).map(move |task| value(run, task)));
        let repeated = values
            .filter(|value| value.starts_with("repeated-"))
            .count();
        assert!((2_800..3_200).contains(&repeated), "{repeated}");
    }

    #[test]
    fn each_call_has_its_value() {
        let workflow = workflow(Shape::Small, "http://127.0.0.1:1/work");
        assert_eq!(workflow.tasks.len(), Shape::Small.tasks());
        assert_eq!(
            workflow.tasks[4].with["query"]["value"],
            "${{ inputs.values[4] }}"
        );
    }
}
