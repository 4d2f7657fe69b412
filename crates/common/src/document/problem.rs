//! What is wrong with a workflow, and where.

use std::fmt;
use std::sync::Arc;

/// Problems that are kept; what is beyond them is only counted.
const MAX_PROBLEMS: usize = 200;
/// Columns of a source line that are shown.
const SHOWN_COLUMNS: usize = 120;

/// A place in a file, both counted from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

/// Something that is wrong with a workflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where in the structure, such as `tasks[3].needs[0]`; empty for the whole.
    pub path: String,
    /// Where in the file.
    pub position: Option<Position>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// Everything that is wrong with a workflow, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    source_name: String,
    source: Arc<str>,
    list: Vec<Problem>,
    omitted: usize,
}

impl Problems {
    /// No problems yet, in the file of that name with that text.
    pub(super) fn new(source_name: &str, source: Arc<str>) -> Self {
        Self {
            source_name: source_name.to_owned(),
            source,
            list: Vec::new(),
            omitted: 0,
        }
    }

    /// The name of the file; empty where there is none.
    pub fn source_name(&self) -> &str {
        &self.source_name
    }

    /// The text of the file; empty where there is none.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len() + self.omitted
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The problems, without those beyond the first two hundred.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.list.iter()
    }

    /// Whether another problem would be kept, so that describing it is worth the time.
    pub(super) fn has_room(&self) -> bool {
        self.list.len() < MAX_PROBLEMS
    }

    /// Adds a problem.
    pub(super) fn push(&mut self, problem: Problem) {
        if self.has_room() {
            self.list.push(problem);
        } else {
            self.omitted += 1;
        }
    }

    /// Counts a problem that there is no room for.
    pub(super) fn omit(&mut self) {
        self.omitted += 1;
    }

    /// Brings the problems into the order of the file.
    pub(super) fn sort(&mut self) {
        self.list.sort_by_key(|problem| problem.position);
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<&str> = self.source.lines().collect();
        for (place, problem) in self.list.iter().enumerate() {
            if place > 0 {
                writeln!(f)?;
            }
            self.describe(f, problem, &lines)?;
        }
        if self.omitted > 0 {
            write!(f, "\nerror: and {} more problems\n", self.omitted)?;
        }
        Ok(())
    }
}

impl Problems {
    fn describe(
        &self,
        f: &mut fmt::Formatter<'_>,
        problem: &Problem,
        lines: &[&str],
    ) -> fmt::Result {
        writeln!(f, "error: {}", problem.message)?;
        let mut margin = String::new();
        if let Some(Position { line, column }) = problem.position {
            let number = line.to_string();
            margin = " ".repeat(number.len());
            writeln!(f, "{margin}--> {}:{line}:{column}", self.source_name)?;
            let text = lines.get((line as usize).saturating_sub(1)).unwrap_or(&"");
            let (text, before, width) = excerpt(text, column as usize);
            writeln!(f, "{margin} |")?;
            writeln!(f, "{number} | {text}")?;
            writeln!(f, "{margin} | {}{}", " ".repeat(before), "^".repeat(width))?;
        } else if !problem.path.is_empty() {
            writeln!(f, "--> {}", problem.path)?;
        } else if !self.source_name.is_empty() {
            writeln!(f, "--> {}", self.source_name)?;
        }
        if let Some(help) = &problem.help {
            writeln!(f, "{margin} = help: {help}")?;
        }
        Ok(())
    }
}

/// The part of a line around a column, the characters in it before the column, and the length of the
/// word there.
fn excerpt(line: &str, column: usize) -> (String, usize, usize) {
    let start = column.saturating_sub(1);
    let skipped = start.saturating_sub(SHOWN_COLUMNS / 2);
    let shown: Vec<char> = line
        .chars()
        .skip(skipped)
        .take(SHOWN_COLUMNS)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let before = start - skipped;
    let rest = shown.get(before..).unwrap_or_default();
    let width = match rest.first() {
        Some(&quote @ ('"' | '\'')) => rest[1..]
            .iter()
            .position(|&c| c == quote)
            .map_or(rest.len(), |end| end + 2),
        _ => rest
            .iter()
            .position(|c| c.is_whitespace() || ",:]}".contains(*c))
            .unwrap_or(rest.len()),
    };
    let text: String = shown.iter().collect();
    (text.trim_end().to_owned(), before, width.max(1))
}
