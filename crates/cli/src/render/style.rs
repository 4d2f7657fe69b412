//! Colours, where the terminal shows them.

use anstyle::{AnsiColor, Style};
use levelflow_common::{RunStatus, TaskStatus};

/// Whether text is styled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Styling {
    /// With ANSI escapes.
    Styled,
    /// Without.
    Plain,
}

impl Styling {
    /// The text in a style.
    pub(crate) fn paint(self, style: Style, text: &str) -> String {
        match self {
            Self::Styled => format!("{style}{text}{style:#}"),
            Self::Plain => text.to_owned(),
        }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.paint(Style::new().bold(), text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.paint(Style::new().dimmed(), text)
    }
}

/// The style of the word for a task's status.
pub(crate) fn of_task(status: TaskStatus) -> Style {
    match status {
        TaskStatus::Succeeded => AnsiColor::Green.on_default(),
        TaskStatus::Failed => AnsiColor::Red.on_default().bold(),
        TaskStatus::Running => AnsiColor::Cyan.on_default(),
        TaskStatus::Backoff | TaskStatus::Sleeping => AnsiColor::Yellow.on_default(),
        TaskStatus::Pending | TaskStatus::Ready | TaskStatus::Skipped | TaskStatus::Cancelled => {
            Style::new().dimmed()
        }
    }
}

/// The style of the word for a run's status.
pub(crate) fn of_run(status: RunStatus) -> Style {
    match status {
        RunStatus::Succeeded => AnsiColor::Green.on_default().bold(),
        RunStatus::Failed => AnsiColor::Red.on_default().bold(),
        RunStatus::Running => AnsiColor::Cyan.on_default(),
        RunStatus::Cancelling | RunStatus::Cancelled => AnsiColor::Yellow.on_default(),
    }
}
