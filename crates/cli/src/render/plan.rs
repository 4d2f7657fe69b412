//! The layout of a workflow: levels and critical path, drawn.

use std::fmt::Write as _;

use anstyle::AnsiColor;
use levelflow_common::view::{PlanTask, PlanView};

use super::counted;
use super::run::path;
use super::style::Styling;

/// Up to this many tasks each gets a line.
const DRAWN_TASKS: usize = 60;
/// Levels that get a line when tasks do not.
const DRAWN_LEVELS: usize = 40;
/// Ids that such a line names.
const NAMED_IDS: usize = 4;
/// Needs that the line of a task names.
const NAMED_NEEDS: usize = 6;

/// The plan as a drawing.
pub(crate) fn draw(plan: &PlanView, styling: Styling) -> String {
    let mut text = format!(
        "{}: {}, {}, {}, at most {} at once\n\n",
        styling.bold(&plan.name),
        counted(plan.tasks, "task"),
        counted(plan.edges, "edge"),
        counted(plan.levels.len(), "level"),
        plan.width,
    );
    if plan.tasks <= DRAWN_TASKS {
        draw_tasks(&mut text, plan, styling);
    } else {
        draw_levels(&mut text, plan, styling);
    }
    let _ = writeln!(
        text,
        "\ncritical path ●, {}: {}",
        counted(plan.critical_path.len(), "task"),
        path(&plan.critical_path, str::to_owned)
    );
    text
}

/// Each level as a block, each task as a line with what it waits for.
fn draw_tasks(text: &mut String, plan: &PlanView, styling: Styling) {
    let tasks = || plan.levels.iter().flat_map(|level| &level.tasks);
    let id_width = tasks()
        .map(|task| task.id.chars().count())
        .max()
        .unwrap_or(0);
    let kind_width = tasks().map(|task| kind(task).len()).max().unwrap_or(0);
    for level in &plan.levels {
        for (row, task) in level.tasks.iter().enumerate() {
            let label = if row == 0 {
                format!("level {:<3}", level.level)
            } else {
                " ".repeat(9)
            };
            let branch = match (row == 0, row + 1 == level.tasks.len()) {
                (true, true) => '─',
                (true, false) => '┬',
                (false, false) => '├',
                (false, true) => '└',
            };
            let mut line = format!("{label} {branch} ");
            if task.critical {
                line.push_str(&styling.paint(AnsiColor::Yellow.on_default().bold(), "●"));
            } else {
                line.push('○');
            }
            let _ = write!(
                line,
                " {}{}  ",
                styling.bold(&task.id),
                " ".repeat(id_width - task.id.chars().count()),
            );
            if task.needs.is_empty() {
                line.push_str(&styling.dim(&kind(task)));
            } else {
                let waits = format!("{:<kind_width$}  ← {}", kind(task), needs(task));
                line.push_str(&styling.dim(&waits));
            }
            text.push_str(&line);
            text.push('\n');
        }
    }
}

fn kind(task: &PlanTask) -> String {
    let each = if task.for_each { " each" } else { "" };
    let when = if task.conditional { " when" } else { "" };
    format!("{}{each}{when}", task.kind)
}

fn needs(task: &PlanTask) -> String {
    let mut names = task.needs[..task.needs.len().min(NAMED_NEEDS)].join(", ");
    if task.needs.len() > NAMED_NEEDS {
        let _ = write!(names, " and {} more", task.needs.len() - NAMED_NEEDS);
    }
    names
}

/// Each level as one line; of many levels the first and the last.
fn draw_levels(text: &mut String, plan: &PlanView, styling: Styling) {
    let count = plan.levels.len();
    let hidden = if count > DRAWN_LEVELS {
        DRAWN_LEVELS / 2..count - DRAWN_LEVELS / 2
    } else {
        count..count
    };
    let bar = |tasks: usize| "█".repeat((tasks * 20).div_ceil(plan.width.max(1)));
    for (index, level) in plan.levels.iter().enumerate() {
        if index == hidden.start && !hidden.is_empty() {
            let _ = writeln!(text, "⋮ {} more", counted(hidden.len(), "level"));
        }
        if hidden.contains(&index) {
            continue;
        }
        let mut names: Vec<&str> = level.tasks.iter().map(|task| task.id.as_str()).collect();
        names.truncate(NAMED_IDS);
        let more = if level.tasks.len() > NAMED_IDS {
            ", …"
        } else {
            ""
        };
        let _ = writeln!(
            text,
            "level {index:<6} {:>7}  {:<20}  {}",
            level.tasks.len(),
            bar(level.tasks.len()),
            styling.dim(&format!("{}{more}", names.join(", "))),
        );
    }
}

#[cfg(test)]
mod tests {
    use levelflow_common::TaskKind;
    use levelflow_common::view::PlanLevel;

    use super::*;

    fn task(id: &str, critical: bool, needs: &[&str]) -> PlanTask {
        PlanTask {
            id: id.to_owned(),
            kind: TaskKind::Process,
            for_each: id == "weeks",
            conditional: id == "authors",
            critical,
            needs: needs.iter().map(|&id| id.to_owned()).collect(),
        }
    }

    fn view(levels: Vec<Vec<PlanTask>>, critical_path: &[&str]) -> PlanView {
        PlanView {
            name: "digest".to_owned(),
            digest: "00".to_owned(),
            tasks: levels.iter().map(Vec::len).sum(),
            edges: levels.iter().flatten().map(|task| task.needs.len()).sum(),
            width: levels.iter().map(Vec::len).max().unwrap_or(0),
            levels: levels
                .into_iter()
                .enumerate()
                .map(|(level, tasks)| PlanLevel { level, tasks })
                .collect(),
            critical_path: critical_path.iter().map(|&id| id.to_owned()).collect(),
        }
    }

    #[test]
    fn a_small_plan_draws_each_task() {
        let plan = view(
            vec![
                vec![task("fetch", true, &[])],
                vec![
                    task("authors", true, &["fetch"]),
                    task("weeks", false, &["fetch"]),
                ],
                vec![task("report", true, &["authors", "weeks"])],
            ],
            &["fetch", "authors", "report"],
        );
        assert_eq!(
            draw(&plan, Styling::Plain),
            "digest: 4 tasks, 4 edges, 3 levels, at most 2 at once

level 0   ─ ● fetch    process
level 1   ┬ ● authors  process when  ← fetch
          └ ○ weeks    process each  ← fetch
level 2   ─ ● report   process       ← authors, weeks

critical path ●, 3 tasks: fetch → authors → report
"
        );
    }

    #[test]
    fn a_large_plan_is_summarized() {
        let wide = (0..1_000)
            .map(|n| task(&format!("t{n}"), n == 0, &[]))
            .collect();
        let mut levels = vec![wide];
        levels.extend((0..99).map(|n| vec![task(&format!("u{n}"), true, &["t0"])]));
        let text = draw(&view(levels, &["t0"]), Styling::Plain);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "digest: 1099 tasks, 99 edges, 100 levels, at most 1000 at once"
        );
        assert_eq!(
            lines[2],
            "level 0         1000  ████████████████████  t0, t1, t2, t3, …"
        );
        assert_eq!(lines[3], "level 1            1  █                     u0");
        assert_eq!(lines[22], "⋮ 60 levels more");
        assert_eq!(lines.len(), 2 + 41 + 2);
    }
}
