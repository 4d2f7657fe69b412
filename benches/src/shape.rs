//! The workflows that suites run.

use clap::ValueEnum;
use levelflow_common::workflow::{Durability, Workflow};
use serde::Serialize;

/// A DAG of no-op tasks; every task of a level needs all of the level before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Shape {
    /// 1→3→1: 5 tasks.
    Small,
    /// 1→6→1→6→1: 15 tasks.
    Medium,
    /// 1→9→1→9→1→8→1: 30 tasks.
    Large,
}

/// Whether tasks wait for the results that they need to be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Durable {
    /// They do.
    Strict,
    /// Only the end of the run does.
    Relaxed,
}

impl Shape {
    pub(crate) const ALL: [Self; 3] = [Self::Small, Self::Medium, Self::Large];

    /// How many tasks each level has.
    pub(crate) const fn levels(self) -> &'static [usize] {
        match self {
            Self::Small => &[1, 3, 1],
            Self::Medium => &[1, 6, 1, 6, 1],
            Self::Large => &[1, 9, 1, 9, 1, 8, 1],
        }
    }

    pub(crate) fn tasks(self) -> usize {
        self.levels().iter().sum()
    }

    pub(crate) fn workflow(self, durable: Durable) -> Workflow {
        let mut tasks = Vec::new();
        let mut before: Vec<String> = Vec::new();
        for (level, &width) in self.levels().iter().enumerate() {
            let ids: Vec<String> = (0..width)
                .map(|place| format!("t{level}_{place}"))
                .collect();
            tasks.extend(ids.iter().map(|id| {
                serde_json::json!({
                    "id": id,
                    "type": "handler",
                    "needs": before,
                    "with": { "name": "noop" },
                })
            }));
            before = ids;
        }
        let durability = match durable {
            Durable::Strict => Durability::Strict,
            Durable::Relaxed => Durability::Relaxed,
        };
        let workflow = serde_json::json!({
            "name": format!("bench-{self:?}"),
            "durability": durability,
            "tasks": tasks,
        });
        serde_json::from_value(workflow).expect("the shape is a workflow")
    }
}
