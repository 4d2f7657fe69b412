//! Workflows drawn from a seed, with the output that they must have.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

/// How far back the needs of a task reach.
const REACH: usize = 8;
/// The most needs of a task.
const MAX_NEEDS: usize = 3;

/// What workflows are drawn from.
#[derive(Clone)]
pub(crate) struct Shape {
    /// The fewest and the most tasks.
    pub(crate) tasks: std::ops::RangeInclusive<usize>,
    /// The chance that a task is a program.
    pub(crate) process: f64,
    /// The most programs in one workflow.
    pub(crate) max_processes: usize,
    /// The program.
    pub(crate) command: Vec<String>,
    /// The chance that a task sleeps for some milliseconds.
    pub(crate) sleep: f64,
}

/// A workflow.
pub(crate) struct Generated {
    pub(crate) workflow: Value,
    pub(crate) tasks: usize,
    /// The output `last` of the workflow.
    pub(crate) last: u64,
}

impl Shape {
    /// The workflow of a seed. Each `transform` adds up those that it needs, so that a lost or mixed-up
    /// result shows in the output.
    pub(crate) fn generate(&self, seed: u64) -> Generated {
        let mut random = StdRng::seed_from_u64(seed);
        let count = random.random_range(self.tasks.clone());
        let mut processes = 0;
        let mut values: Vec<Option<u64>> = Vec::new();
        let mut tasks = Vec::new();
        for index in 0..count {
            let mut needs: Vec<usize> = (0..random.random_range(0..=MAX_NEEDS.min(index)))
                .map(|_| random.random_range(index.saturating_sub(REACH)..index))
                .collect();
            needs.sort_unstable();
            needs.dedup();
            let names: Vec<String> = needs.iter().map(|need| format!("t{need}")).collect();
            let draw: f64 = random.random();
            let (kind, with, value) =
                if index > 0 && draw < self.process && processes < self.max_processes {
                    processes += 1;
                    let with = json!({ "command": self.command, "output": "lines" });
                    ("process", with, None)
                } else if index > 0 && draw > 1.0 - self.sleep {
                    let duration = format!("{}ms", random.random_range(1..40));
                    ("sleep", json!({ "duration": duration }), None)
                } else {
                    let added = needs.iter().filter(|&&need| values[need].is_some());
                    let text: String = added
                        .clone()
                        .map(|need| format!(" + tasks.t{need}.output"))
                        .collect();
                    let sum: u64 = added.filter_map(|&need| values[need]).sum();
                    let with = json!({ "value": format!("${{{{ 1{text} }}}}") });
                    ("transform", with, Some(1 + sum))
                };
            values.push(value);
            tasks.push(json!({
                "id": format!("t{index}"),
                "type": kind,
                "with": with,
                "needs": names,
                "retry": { "max_attempts": MAX_ATTEMPTS, "initial": "20ms", "max": "200ms" },
            }));
        }
        let last = values.iter().rposition(Option::is_some).unwrap();
        Generated {
            workflow: json!({
                "name": "generated",
                "tasks": tasks,
                "outputs": { "last": format!("${{{{ tasks.t{last}.output }}}}") },
            }),
            tasks: count,
            last: values[last].unwrap(),
        }
    }
}

/// The most attempts of a generated task.
pub(crate) const MAX_ATTEMPTS: u32 = 8;
