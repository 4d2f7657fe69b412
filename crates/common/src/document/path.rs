//! Paths into a workflow, such as `tasks[3].needs[0]`.

use std::fmt;

/// A path, as a chain of steps on the stack: it is written out only where something is wrong.
#[derive(Clone, Copy)]
pub(super) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Key(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    pub(super) const ROOT: Path<'static> = Path {
        parent: None,
        step: Step::Root,
    };

    pub(super) fn key<'b>(&'b self, key: &'b str) -> Path<'b>
    where
        'a: 'b,
    {
        Path {
            parent: Some(self),
            step: Step::Key(key),
        }
    }

    pub(super) fn index<'b>(&'b self, index: usize) -> Path<'b>
    where
        'a: 'b,
    {
        Path {
            parent: Some(self),
            step: Step::Index(index),
        }
    }

    /// The last key with the indexes after it, as the subject of a sentence.
    pub(super) fn subject(&self) -> String {
        let mut indexes = String::new();
        let mut path = self;
        loop {
            match (path.step, path.parent) {
                (Step::Index(index), Some(parent)) => {
                    indexes.insert_str(0, &format!("[{index}]"));
                    path = parent;
                }
                (Step::Key(key), _) => return format!("`{key}{indexes}`"),
                _ => return "the workflow".to_owned(),
            }
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Key(key) => {
                let nested = self
                    .parent
                    .is_some_and(|parent| !matches!(parent.step, Step::Root));
                write!(f, "{}{key}", if nested { "." } else { "" })
            }
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A step of a path that is given as text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TextStep<'a> {
    Key(&'a str),
    Index(usize),
}

/// The steps of a path that is given as text; none if it is not one.
pub(super) fn steps(path: &str) -> Option<Vec<TextStep<'_>>> {
    let mut steps = Vec::new();
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let (key, indexes) = part.split_at(part.find('[').unwrap_or(part.len()));
        steps.push(TextStep::Key(key));
        for index in indexes.split('[').skip(1) {
            steps.push(TextStep::Index(index.strip_suffix(']')?.parse().ok()?));
        }
    }
    Some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_reads_paths() {
        let tasks = Path::ROOT.key("tasks");
        let task = tasks.index(3);
        let needs = task.key("needs");
        let path = needs.index(0);
        assert_eq!(path.to_string(), "tasks[3].needs[0]");
        assert_eq!(path.subject(), "`needs[0]`");
        assert_eq!(Path::ROOT.subject(), "the workflow");
        assert_eq!(
            steps("tasks[3].needs[0]"),
            Some(vec![
                TextStep::Key("tasks"),
                TextStep::Index(3),
                TextStep::Key("needs"),
                TextStep::Index(0),
            ])
        );
        assert_eq!(steps("tasks[x]"), None);
    }
}
