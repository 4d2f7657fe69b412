//! From a workflow that was read to a definition: what is left to check is that its edges make a DAG.

use levelflow_common::document::{Draft, Problems};

use crate::definition::{Defect, Definition};
use crate::plan::{NotADag, Plan};
use crate::record::TaskIndex;

/// Tasks of a cycle that a message names; of longer ones the ends are shown.
const SHOWN: usize = 20;

impl Definition {
    /// Makes a workflow that was read ready to run.
    ///
    /// # Errors
    /// Everything that is wrong with it: what reading found, and self-loops and cycles.
    pub fn compile(mut draft: Draft) -> Result<Self, Problems> {
        let plan = match Plan::new(draft.task_count(), &draft.edges) {
            Ok(plan) => Some(plan),
            Err(loops) => {
                for found in loops {
                    add_loop(&mut draft, &found);
                }
                None
            }
        };
        let workflow = match (draft.workflow.take(), plan) {
            (Some(workflow), Some(plan)) if draft.problems.is_empty() => (workflow, plan),
            _ => return Err(draft.problems),
        };
        Self::with_plan(workflow.0, workflow.1).map_err(|defect| {
            let message = match &defect {
                Defect::Expression { source, .. } => source.message(),
                Defect::NotADag(_) => defect.to_string(),
            };
            draft.add_problem("", message, None);
            draft.problems
        })
    }
}

fn add_loop(draft: &mut Draft, found: &NotADag) {
    match found {
        &NotADag::SelfLoop(TaskIndex(task)) => {
            let message = format!("task `{}` needs itself", draft.task_id(task));
            let path = draft.edge_path(task, task);
            draft.add_problem(path, message, None);
        }
        NotADag::Cycle(tasks) => {
            let name = |task: &TaskIndex| format!("`{}`", draft.task_id(task.0));
            let mut names: Vec<String> = tasks.iter().map(name).collect();
            if names.len() > SHOWN {
                let left_out = names.len() - SHOWN;
                names.splice(
                    SHOWN / 2..SHOWN / 2 + left_out,
                    [format!("({left_out} more)")],
                );
            }
            names.push(name(&tasks[0]));
            let message = format!("tasks need each other in a cycle: {}", names.join(" → "));
            let (last, first) = (tasks[tasks.len() - 1].0, tasks[0].0);
            let path = draft.edge_path(last, first);
            let help = "an arrow leads from a task to one that waits for it; remove one of them";
            draft.add_problem(path, message, Some(help.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use levelflow_common::document;

    use super::*;

    fn problems(text: &str) -> String {
        let draft = document::read("flow.yaml", text.as_bytes());
        Definition::compile(draft).unwrap_err().to_string()
    }

    #[test]
    fn a_cycle_is_named_by_its_path_beside_other_problems() {
        let text = "\
name: x
tasks:
  - { id: a, type: sleep, needs: [c], with: { duration: 1s } }
  - { id: b, type: sleep, needs: [a], with: { duration: 1s } }
  - { id: c, type: sleep, needs: [b], with: { duration: 1s } }
  - { id: d, type: sleep, needs: [d, e], with: { duration: 1s } }
";
        let expected = "\
error: tasks need each other in a cycle: `a` → `b` → `c` → `a`
 --> flow.yaml:3:35
  |
3 |   - { id: a, type: sleep, needs: [c], with: { duration: 1s } }
  |                                   ^
  = help: an arrow leads from a task to one that waits for it; remove one of them

error: task `d` needs itself
 --> flow.yaml:6:35
  |
6 |   - { id: d, type: sleep, needs: [d, e], with: { duration: 1s } }
  |                                   ^

error: ";
        let found = problems(text);
        assert!(found.starts_with(expected), "{found}");
        assert!(found.contains("`e`"), "{found}");
    }
}
