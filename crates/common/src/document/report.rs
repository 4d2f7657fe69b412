//! Gathers problems.

use super::path::Path;
use super::problem::{Position, Problem, Problems};
use super::tree::Flaw;

/// The problems found so far.
pub(super) struct Report {
    pub(super) problems: Problems,
}

impl Report {
    /// Adds a problem. `describe` gives its message and help, and is called only if there is room:
    /// suggestions take time.
    pub(super) fn add(
        &mut self,
        path: &Path<'_>,
        position: Option<Position>,
        describe: impl FnOnce() -> (String, Option<String>),
    ) {
        if !self.problems.has_room() {
            self.problems.omit();
            return;
        }
        let (message, help) = describe();
        self.problems.push(Problem {
            path: path.to_string(),
            position,
            message,
            help,
        });
    }

    /// Adds what is wrong with the text of the file.
    pub(super) fn flaw(&mut self, flaw: Flaw) {
        self.problems.push(Problem {
            path: String::new(),
            position: flaw.position,
            message: flaw.message,
            help: flaw.help,
        });
    }
}
