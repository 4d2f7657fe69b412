//! `levelflow why`: the exact reason why a task waits, or how it ended.

use anstyle::Style;
use clap::Args;
use levelflow_common::RunId;
use levelflow_common::event::TaskRef;
use levelflow_proto::json;

use crate::arguments::ConnectionArguments;
use crate::client::{Client, Explanation};
use crate::connection::{Connection, Work};
use crate::context::Context;
use crate::error::CliError;
use crate::exit::Exit;
use crate::progress::name;
use crate::render::style::{self, Styling};

/// Tasks that are explained when none is named.
const MAX_TASKS: usize = 20;

/// Say exactly why a task waits, or how it ended
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The id of the run
    #[arg(value_name = "RUN")]
    run: RunId,
    /// The id of the task; without one, the first tasks that have not ended
    #[arg(value_name = "TASK")]
    task: Option<String>,
    /// The place in the list of a `for_each`, from 0
    #[arg(long, value_name = "INDEX", requires = "task")]
    item: Option<u32>,
    #[command(flatten)]
    pub(crate) connection: ConnectionArguments,
}

pub(crate) async fn execute(arguments: Arguments, context: &Context) -> Result<Exit, CliError> {
    let connection = Connection::open(&context.settings, Work::LeaveAlone).await?;
    let explained = explain(&arguments, &connection.client).await;
    connection.close().await;
    let explained = explained?;
    if context.json {
        let tasks = explained.iter().map(as_json).collect();
        context.print(&serde_json::to_string_pretty(&json::Explanation { tasks })?)?;
    } else if explained.is_empty() {
        context.print("every task has ended")?;
    } else {
        let styling = context.terminal.out;
        let lines: Vec<String> = explained
            .iter()
            .map(|(task, explanation)| lines(task, explanation, styling))
            .collect();
        context.print(&lines.concat())?;
    }
    Ok(Exit::Success)
}

async fn explain(
    arguments: &Arguments,
    client: &Client,
) -> Result<Vec<(TaskRef, Explanation)>, CliError> {
    let tasks = match &arguments.task {
        Some(id) => vec![TaskRef {
            task_id: id.as_str().into(),
            item: arguments.item,
        }],
        None => client
            .get(arguments.run)
            .await?
            .tasks
            .into_iter()
            .filter(|task| !task.status.is_terminal())
            .take(MAX_TASKS)
            .map(|task| TaskRef {
                task_id: task.task_id,
                item: task.item,
            })
            .collect(),
    };
    let mut explained = Vec::with_capacity(tasks.len());
    for task in tasks {
        let explanation = client
            .explain(arguments.run, &task.task_id, task.item)
            .await?;
        explained.push((task, explanation));
    }
    Ok(explained)
}

fn as_json((task, explanation): &(TaskRef, Explanation)) -> json::TaskExplanation<'_> {
    json::TaskExplanation {
        task: &task.task_id,
        item: task.item,
        state: explanation.status,
        reasons: explanation
            .reasons
            .iter()
            .map(|reason| json::Reason {
                code: &reason.code,
                text: &reason.text,
            })
            .collect(),
    }
}

fn lines(task: &TaskRef, explanation: &Explanation, styling: Styling) -> String {
    let mut text = format!(
        "{} is {}\n",
        styling.bold(&name(task)),
        styling.paint(
            style::of_task(explanation.status),
            explanation.status.as_str()
        )
    );
    for reason in &explanation.reasons {
        let code = styling.paint(Style::new().dimmed(), &format!("[{}]", reason.code));
        text.push_str(&format!("  {} {code}\n", reason.text));
    }
    text
}

#[cfg(test)]
mod tests {
    use levelflow_common::TaskStatus;

    use super::*;
    use crate::client::Reason;

    #[test]
    fn an_explanation_has_a_line_for_each_reason() {
        let task = TaskRef {
            task_id: "report".into(),
            item: Some(2),
        };
        let explanation = Explanation {
            status: TaskStatus::Pending,
            reasons: vec![Reason {
                code: "needs".to_owned(),
                text: "it waits for authors".to_owned(),
            }],
        };
        assert_eq!(
            lines(&task, &explanation, Styling::Plain),
            "report[2] is pending\n  it waits for authors [needs]\n"
        );
    }
}
