//! Errors as people read them: what is wrong, where, and what to do.

use std::fmt::Write as _;

use anstyle::AnsiColor;
use serde::Serialize;

use super::style::Styling;

/// An error that is shown.
#[derive(Debug, Serialize)]
pub(crate) struct Diagnostic {
    /// The stable code.
    pub(crate) code: &'static str,
    /// What is wrong.
    pub(crate) message: String,
    /// What that came from, the nearest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) causes: Vec<String>,
    /// Each thing that is wrong, where there are several or they have a place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) problems: Vec<Problem>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) help: Option<String>,
    /// The problems with the lines of the file that they are in, already drawn.
    #[serde(skip)]
    pub(crate) excerpt: Option<String>,
}

/// One thing that is wrong.
#[derive(Debug, Serialize)]
pub(crate) struct Problem {
    /// Where in the structure, such as `tasks[3].needs[0]`.
    pub(crate) path: String,
    /// Where in the file, from 1.
    pub(crate) line: Option<u32>,
    /// Where in the line, from 1.
    pub(crate) column: Option<u32>,
    /// What is wrong.
    pub(crate) message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) help: Option<String>,
}

/// The error as JSON.
pub(crate) fn json(diagnostic: &Diagnostic) -> serde_json::Result<String> {
    serde_json::to_string_pretty(&serde_json::json!({ "error": diagnostic }))
}

/// The error as text.
pub(crate) fn text(diagnostic: &Diagnostic, styling: Styling) -> String {
    let red = AnsiColor::Red.on_default().bold();
    let mut text = String::new();
    if let Some(excerpt) = &diagnostic.excerpt {
        for line in excerpt.lines() {
            let line = match line.strip_prefix("error") {
                Some(rest) => format!("{}{rest}", styling.paint(red, "error")),
                None => line.to_owned(),
            };
            text.push_str(&line);
            text.push('\n');
        }
        text.push('\n');
    }
    let _ = writeln!(
        text,
        "{}: {}",
        styling.paint(red, &format!("error[{}]", diagnostic.code)),
        diagnostic.message
    );
    for cause in &diagnostic.causes {
        let _ = writeln!(text, "  = caused by: {cause}");
    }
    if diagnostic.excerpt.is_none() {
        for problem in &diagnostic.problems {
            let place = match (problem.line, problem.column) {
                (Some(line), Some(column)) => format!("{line}:{column}: "),
                _ => String::new(),
            };
            if problem.path.is_empty() {
                let _ = writeln!(text, "  --> {place}{}", problem.message);
            } else {
                let _ = writeln!(text, "  --> {place}{}: {}", problem.path, problem.message);
            }
            if let Some(help) = &problem.help {
                let _ = writeln!(text, "      help: {help}");
            }
        }
    }
    if let Some(help) = &diagnostic.help {
        let _ = writeln!(text, "  = help: {help}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_where_and_what_to_do() {
        let diagnostic = Diagnostic {
            code: "input_invalid",
            message: "the inputs do not fit the workflow".to_owned(),
            causes: vec!["a wish".to_owned()],
            problems: vec![
                Problem {
                    path: "since".to_owned(),
                    line: None,
                    column: None,
                    message: "is required".to_owned(),
                    help: None,
                },
                Problem {
                    path: String::new(),
                    line: Some(3),
                    column: Some(7),
                    message: "is odd".to_owned(),
                    help: Some("make it even".to_owned()),
                },
            ],
            help: Some("give them with --input".to_owned()),
            excerpt: None,
        };
        assert_eq!(
            text(&diagnostic, Styling::Plain),
            "error[input_invalid]: the inputs do not fit the workflow
  = caused by: a wish
  --> since: is required
  --> 3:7: is odd
      help: make it even
  = help: give them with --input
"
        );
    }

    #[test]
    fn an_excerpt_stands_for_the_problems() {
        let diagnostic = Diagnostic {
            code: "workflow_invalid",
            message: "flow.yaml has 1 problem".to_owned(),
            causes: Vec::new(),
            problems: Vec::new(),
            help: None,
            excerpt: Some("error: unknown key `x`\n--> flow.yaml:1:1\n".to_owned()),
        };
        assert_eq!(
            text(&diagnostic, Styling::Plain),
            "error: unknown key `x`\n--> flow.yaml:1:1\n\n\
             error[workflow_invalid]: flow.yaml has 1 problem\n"
        );
    }
}
