//! Progress of a run on standard error: drawn again in place on a terminal, line by line elsewhere.

use std::io::Write;
use std::time::Instant;

use anstyle::AnsiColor;
use levelflow_common::event::{RunEvent, RunUpdate};
use levelflow_common::view::RunView;
use levelflow_common::{TaskStatus, Timestamp};
use levelflow_proto::json::timestamp;

use super::counted;
use super::style::{self, Styling};
use super::time::{duration, now};
use crate::follow::Observer;
use crate::progress::{Activity, LevelProgress, Progress, name};
use crate::terminal::Terminal;

/// Shows nothing.
pub(crate) struct Silent;

impl Observer for Silent {
    fn start(&mut self, _: &RunView) {}
    fn update(&mut self, _: &RunUpdate) {}
}

/// Progress by level, drawn again in place.
pub(crate) struct Live<W> {
    out: W,
    styling: Styling,
    progress: Progress,
    /// Why nothing happens.
    note: Option<String>,
    started: bool,
    drawn_lines: usize,
    dirty: bool,
    clock: fn() -> Timestamp,
    size: fn() -> (usize, usize),
}

impl<W: Write> Live<W> {
    /// Draws on a terminal behind `out`.
    pub(crate) fn new(out: W, styling: Styling) -> Self {
        Self {
            out,
            styling,
            progress: Progress::default(),
            note: None,
            started: false,
            drawn_lines: 0,
            dirty: false,
            clock: now,
            size: Terminal::size,
        }
    }

    /// Draws a frame in one write: up to the first line, then each line anew, so that nothing flickers.
    /// What cannot be written to a terminal that went away is not missed.
    fn draw(&mut self) {
        let (width, height) = (self.size)();
        let now = (self.clock)();
        let mut lines = frame(&self.progress, now, width, height.saturating_sub(3));
        lines.extend(self.note.as_ref().map(|note| Line {
            mark: '⋯',
            style: style::of_task(TaskStatus::Backoff),
            text: note.chars().take(width.saturating_sub(3)).collect(),
        }));
        let mut text = String::new();
        if self.drawn_lines > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn_lines));
        }
        for line in &lines {
            text.push_str(&line.paint(self.styling));
            text.push_str("\x1b[K\n");
        }
        text.push_str("\x1b[J");
        self.drawn_lines = lines.len();
        self.dirty = false;
        let _ = self.out.write_all(text.as_bytes());
        let _ = self.out.flush();
    }
}

impl<W: Write> Observer for Live<W> {
    fn start(&mut self, run: &RunView) {
        if !self.started {
            self.started = true;
            let _ = writeln!(self.out, "{}", headline(run));
        }
        self.progress = Progress::of(run);
        self.draw();
    }

    fn update(&mut self, update: &RunUpdate) {
        self.progress.apply(update);
        self.note = None;
        self.dirty = true;
    }

    fn waits(&mut self, why: &str) {
        self.note = Some(why.to_owned());
        self.dirty = true;
    }

    fn frame(&mut self) {
        let active = self
            .progress
            .levels
            .iter()
            .any(|level| !level.active.is_empty());
        if self.dirty || active {
            self.draw();
        }
    }

    fn end(&mut self) {
        if self.started {
            self.draw();
        }
    }
}

/// A line of a frame, cut to the width of the terminal.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    mark: char,
    style: anstyle::Style,
    text: String,
}

impl Line {
    fn paint(&self, styling: Styling) -> String {
        format!(
            "{} {}",
            styling.paint(self.style, &self.mark.to_string()),
            self.text
        )
    }
}

/// The levels that fit into `height` lines: those under way and the ones next to them.
fn frame(progress: &Progress, now: Timestamp, width: usize, height: usize) -> Vec<Line> {
    let height = height.max(3);
    let levels = &progress.levels;
    let cut = |text: String| text.chars().take(width.saturating_sub(3)).collect();
    let dim = anstyle::Style::new().dimmed();
    let elision = |count: usize, what: &str| Line {
        mark: '⋮',
        style: dim,
        text: cut(format!("{count} levels {what}")),
    };
    let (first, last) = if levels.len() <= height {
        (0, levels.len())
    } else {
        let front = levels
            .iter()
            .position(|level| !level.is_done())
            .unwrap_or(levels.len());
        let shown = height - 2;
        let first = front.saturating_sub(1).min(levels.len() - shown);
        (first, first + shown)
    };
    let mut lines = Vec::new();
    if first > 0 {
        lines.push(elision(first, "before"));
    }
    for (index, level) in levels.iter().enumerate().take(last).skip(first) {
        let (mark, style) = mark(level);
        lines.push(Line {
            mark,
            style,
            text: cut(level_text(index, level, now)),
        });
    }
    if last < levels.len() {
        lines.push(elision(levels.len() - last, "to come"));
    }
    lines
}

fn mark(level: &LevelProgress) -> (char, anstyle::Style) {
    if level.failed > 0 {
        ('✗', style::of_task(TaskStatus::Failed))
    } else if level.is_done() && level.cancelled > 0 {
        ('-', style::of_task(TaskStatus::Backoff))
    } else if level.is_done() {
        ('✓', style::of_task(TaskStatus::Succeeded))
    } else if level.active.is_empty() {
        ('·', style::of_task(TaskStatus::Pending))
    } else {
        ('▸', AnsiColor::Cyan.on_default())
    }
}

/// Names of tasks under way that a line has room for; what is left out is counted.
const NAMES: usize = 6;

fn level_text(index: usize, level: &LevelProgress, now: Timestamp) -> String {
    let mut text = format!(
        "level {index:<3} {:>7}",
        format!("{}/{}", level.ended(), level.total)
    );
    if let (Some(start), true) = (level.started_at, level.is_done()) {
        let end = level.finished_at.unwrap_or(start);
        text.push_str(&format!("  {:>7}", duration(end.since(start))));
    } else {
        text.push_str("         ");
    }
    for (count, word) in [
        (level.failed, "failed"),
        (level.skipped, "skipped"),
        (level.cancelled, "cancelled"),
    ] {
        if count > 0 {
            text.push_str(&format!("  {count} {word}"));
        }
    }
    let names: Vec<String> = level
        .active
        .iter()
        .take(NAMES)
        .map(|(name, activity)| match activity {
            Activity::Running { since } => format!("{name} {}", duration(now.since(*since))),
            Activity::Backoff { until } => {
                format!("{name} (again in {})", duration(until.since(now)))
            }
            Activity::Sleeping { until } => {
                format!("{name} (sleeps {})", duration(until.since(now)))
            }
        })
        .collect();
    if !names.is_empty() {
        text.push_str("  ");
        text.push_str(&names.join(", "));
    }
    if level.active.len() > NAMES {
        text.push_str(&format!(" and {} more", level.active.len() - NAMES));
    }
    text
}

/// Progress as lines that are only added.
pub(crate) struct Lines<W> {
    out: W,
    started: Option<Instant>,
    progress: Progress,
}

impl<W: Write> Lines<W> {
    /// Writes to `out`.
    pub(crate) fn new(out: W) -> Self {
        Self {
            out,
            started: None,
            progress: Progress::default(),
        }
    }
}

impl<W: Write> Observer for Lines<W> {
    fn start(&mut self, run: &RunView) {
        if self.started.is_none() {
            self.started = Some(Instant::now());
            let _ = writeln!(self.out, "{}", headline(run));
        }
        self.progress = Progress::of(run);
    }

    fn waits(&mut self, why: &str) {
        let _ = writeln!(self.out, "{why}");
    }

    fn update(&mut self, update: &RunUpdate) {
        self.progress.apply(update);
        for event in &update.events {
            if let Some(line) = event_line(event, update.at, &self.progress) {
                let _ = writeln!(self.out, "{line}");
            }
        }
    }
}

/// What the run is.
fn headline(run: &RunView) -> String {
    let levels = run
        .tasks
        .iter()
        .map(|task| task.level + 1)
        .max()
        .unwrap_or(0);
    let tasks = run.tasks.iter().filter(|task| task.item.is_none()).count();
    format!(
        "run {} of {}: {} in {}",
        run.summary.run_id,
        run.summary.workflow,
        counted(tasks, "task"),
        counted(levels as usize, "level"),
    )
}

/// An event as a line; none for those that say nothing new to people.
fn event_line(event: &RunEvent, at: Timestamp, progress: &Progress) -> Option<String> {
    let level = |task| {
        progress
            .level_of(task)
            .map_or_else(String::new, |level| format!("level {level}  "))
    };
    let line = match event {
        RunEvent::AttemptStarted { task, attempt, .. } if *attempt > 1 => {
            format!("{}{} attempt {attempt} started", level(task), name(task))
        }
        RunEvent::AttemptFailed {
            task,
            attempt,
            failure,
            retry_at,
        } => format!(
            "{}{} attempt {attempt} failed, again in {}: {}",
            level(task),
            name(task),
            duration(retry_at.since(at)),
            first_line(&failure.message),
        ),
        RunEvent::Expanded { task, items } => format!(
            "{}{} has {}",
            level(task),
            name(task),
            counted(*items as usize, "item")
        ),
        RunEvent::Sleeping { task, wakes_at } => {
            format!(
                "{}{} sleeps until {}",
                level(task),
                name(task),
                timestamp(*wakes_at)
            )
        }
        RunEvent::TaskSucceeded {
            task,
            started_at,
            reused_from,
            cached,
            similar_to,
            ..
        } => match (reused_from, cached) {
            (_, Some(from)) => format!(
                "{}{} found in the cache ({}{}), computed {} ago in {}",
                level(task),
                name(task),
                from.tier.as_str(),
                similar_to
                    .as_ref()
                    .map_or_else(String::new, |similar| format!(
                        ", similarity {} to `{}` of run {}",
                        similar.similarity, similar.task_id, similar.run_id
                    )),
                duration(from.age),
                duration(from.saved)
            ),
            (Some(run), None) => format!("{}{} kept from run {run}", level(task), name(task)),
            (None, None) => format!(
                "{}{} succeeded in {}{}",
                level(task),
                name(task),
                duration(at.since(*started_at)),
                similar_to
                    .as_ref()
                    .map_or_else(String::new, |similar| format!(
                        ", shown the result of `{}` of run {} (similarity {})",
                        similar.task_id, similar.run_id, similar.similarity
                    )),
            ),
        },
        RunEvent::TaskFailed {
            task,
            failure,
            tolerated,
            ..
        } => format!(
            "{}{} failed{}: {}",
            level(task),
            name(task),
            if *tolerated { ", the run goes on" } else { "" },
            first_line(&failure.message),
        ),
        RunEvent::TaskSkipped { task, because_of } => match because_of {
            Some(other) => format!("{}{} skipped because of {other}", level(task), name(task)),
            None => format!("{}{} skipped by its `when`", level(task), name(task)),
        },
        RunEvent::TaskCancelled { task } => format!("{}{} cancelled", level(task), name(task)),
        RunEvent::LevelCompleted { level, counts, .. } => {
            let mut line = format!("level {level} done: {} succeeded", counts.succeeded);
            for (count, word) in [
                (counts.failed, "failed"),
                (counts.skipped, "skipped"),
                (counts.cancelled, "cancelled"),
            ] {
                if count > 0 {
                    line.push_str(&format!(", {count} {word}"));
                }
            }
            line
        }
        RunEvent::CancelRequested { reason } if reason.is_empty() => "cancel requested".to_owned(),
        RunEvent::CancelRequested { reason } => format!("cancel requested: {reason}"),
        RunEvent::Finished { status, .. } => format!("run {}", status.as_str()),
        RunEvent::Submitted { .. }
        | RunEvent::AttemptStarted { .. }
        | RunEvent::Streamed { .. } => return None,
    };
    Some(line)
}

/// The first line of a message.
pub(crate) fn first_line(message: &str) -> &str {
    message.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use levelflow_common::event::TaskRef;
    use levelflow_common::view::TaskCounts;
    use levelflow_common::{Code, Failure, RunStatus, WorkerId};

    use super::*;
    use crate::sample::{after, failed_run, finished_run, pending_run};

    fn texts(progress: &Progress, width: usize, height: usize) -> Vec<String> {
        frame(progress, after(1_500), width, height)
            .iter()
            .map(|line| line.paint(Styling::Plain))
            .collect()
    }

    fn reference(id: &str) -> TaskRef {
        TaskRef {
            task_id: id.into(),
            item: None,
        }
    }

    #[test]
    fn a_frame_has_a_line_for_each_level() {
        let mut progress = Progress::of(&pending_run());
        progress.apply(&RunUpdate {
            sequence: 1,
            at: after(260),
            events: vec![RunEvent::AttemptStarted {
                task: reference("fetch"),
                attempt: 1,
                worker: WorkerId("w".into()),
            }],
        });
        assert_eq!(
            texts(&progress, 80, 10),
            [
                "▸ level 0       0/1           fetch 1.24s",
                "· level 1       0/2         ",
                "· level 2       0/1         ",
            ]
        );
        assert_eq!(
            texts(&Progress::of(&finished_run()), 80, 10),
            [
                "✓ level 0       1/1    1.00s",
                "✓ level 1       2/2    400ms  1 skipped",
                "✓ level 2       1/1     93ms",
            ]
        );
        assert_eq!(
            texts(&Progress::of(&failed_run()), 20, 10)[1],
            "✗ level 1       2/2"
        );
    }

    #[test]
    fn a_frame_keeps_to_the_height_of_the_terminal() {
        let mut progress = Progress::default();
        progress.levels.extend((0..100).map(|index| LevelProgress {
            total: 1,
            succeeded: u32::from(index < 50),
            ..LevelProgress::default()
        }));
        let lines = texts(&progress, 40, 6);
        assert_eq!(lines.len(), 6);
        assert_eq!(lines[0], "⋮ 49 levels before");
        assert_eq!(lines[1].trim_end(), "✓ level 49      1/1");
        assert_eq!(lines[2].trim_end(), "· level 50      0/1");
        assert_eq!(lines[5], "⋮ 47 levels to come");
    }

    #[test]
    fn a_frame_replaces_the_one_before_it() {
        let mut live = Live {
            clock: || after(1_500),
            size: || (80, 24),
            ..Live::new(Vec::new(), Styling::Plain)
        };
        live.start(&pending_run());
        live.update(&RunUpdate {
            sequence: 2,
            at: after(5),
            events: Vec::new(),
        });
        live.frame();
        live.frame();
        let text = String::from_utf8(live.out).unwrap();
        assert_eq!(text.matches("\x1b[3A").count(), 1, "{text:?}");
        assert_eq!(text.matches("run 0189").count(), 1);
    }

    #[test]
    fn lines_say_what_happened() {
        let mut lines = Lines::new(Vec::new());
        lines.start(&pending_run());
        lines.update(&RunUpdate {
            sequence: 2,
            at: after(1_000),
            events: vec![
                RunEvent::AttemptStarted {
                    task: reference("fetch"),
                    attempt: 1,
                    worker: WorkerId("w".into()),
                },
                RunEvent::AttemptFailed {
                    task: reference("fetch"),
                    attempt: 1,
                    failure: Failure::retryable(Code::HttpStatus, "503 Unavailable\nbody"),
                    retry_at: after(3_000),
                },
                RunEvent::TaskSucceeded {
                    task: reference("fetch"),
                    attempt: 2,
                    started_at: after(880),
                    output: bytes::Bytes::from_static(b"1"),
                    reused_from: None,
                    chunks: 0,
                    cached: None,
                    similar_to: None,
                },
                RunEvent::LevelCompleted {
                    level: 0,
                    counts: TaskCounts {
                        total: 3,
                        succeeded: 1,
                        skipped: 2,
                        ..TaskCounts::default()
                    },
                    outputs: Vec::new(),
                    unlisted: 0,
                },
                RunEvent::Finished {
                    status: RunStatus::Succeeded,
                    outputs: None,
                    failure: None,
                },
            ],
        });
        assert_eq!(
            String::from_utf8(lines.out).unwrap(),
            "run 01890a5d-ac96-774b-bcce-b302099a8057 of digest: 4 tasks in 3 levels\n\
             level 0  fetch attempt 1 failed, again in 2.00s: 503 Unavailable\n\
             level 0  fetch succeeded in 120ms\n\
             level 0 done: 1 succeeded, 2 skipped\n\
             run succeeded\n"
        );
    }
}
