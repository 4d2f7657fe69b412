//! `levelflow plan`: levels and critical path of a workflow, without running it.

use clap::Args;
use levelflow_engine::{Definition, TaskIndex};

use crate::arguments::FileArgument;
use crate::context::Context;
use crate::error::CliError;
use crate::exit::Exit;
use crate::render::plan::{self, PlanLevel, PlanTask, PlanView};
use crate::source::read_workflow;

/// Draw the levels and the critical path of a workflow, without running it
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    file: FileArgument,
}

pub(crate) fn execute(arguments: &Arguments, context: &Context) -> Result<Exit, CliError> {
    let view = view(&read_workflow(&arguments.file.file)?);
    if context.json {
        context.print(&plan::json(&view)?)?;
    } else {
        context.print(&plan::draw(&view, context.terminal.out))?;
    }
    Ok(Exit::Success)
}

fn view(definition: &Definition) -> PlanView {
    let plan = &definition.plan;
    let id = |index: u32| definition.workflow.tasks[index as usize].id.clone();
    let path = plan.critical_path(&plan.remaining(|_| 1));
    let mut critical = vec![false; plan.len()];
    for task in &path {
        critical[task.0 as usize] = true;
    }
    let task = |index: &TaskIndex| {
        let task = &definition.workflow.tasks[index.0 as usize];
        PlanTask {
            id: task.id.clone(),
            kind: task.kind.as_str(),
            for_each: task.for_each.is_some(),
            conditional: task.when.is_some(),
            critical: critical[index.0 as usize],
            needs: plan.needs(*index).iter().map(|&need| id(need)).collect(),
        }
    };
    PlanView {
        name: definition.workflow.name.clone(),
        digest: definition.digest.to_string(),
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
