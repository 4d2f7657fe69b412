//! Why an expression is refused or cannot be evaluated.

use crate::code::Code;
use crate::limits::{MAX_EXPRESSION_BYTES, MAX_EXPRESSION_FUEL, MAX_EXPRESSION_OUTPUT_BYTES};

/// Bytes of an expression that a message repeats.
const SHOWN_BYTES: usize = 80;

/// Why an expression is refused or cannot be evaluated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// It is longer than [`MAX_EXPRESSION_BYTES`].
    #[error("the expression is {bytes} bytes long; the most is {MAX_EXPRESSION_BYTES}")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// Its end is missing.
    #[error("`${{{{` is not closed by `}}}}`")]
    Unclosed,
    /// There is nothing between the delimiters.
    #[error("the expression is empty")]
    Empty,
    /// It is not well-formed.
    #[error("`{expression}` is not an expression: {message}")]
    Syntax {
        /// The expression.
        expression: String,
        /// What is wrong with it.
        message: String,
    },
    /// A key of a map holds an expression.
    #[error("the key `{key}` holds an expression; only values can")]
    InKey {
        /// The key.
        key: String,
    },
    /// It uses a name that does not exist.
    #[error("`{name}` is not defined{}", Self::tail(.help.as_deref()))]
    Undefined {
        /// The name, with the names before it.
        name: String,
        /// What may be meant.
        help: Option<String>,
    },
    /// It uses a filter, test or function that does not exist.
    #[error("`{name}` is not a {what}{}", Self::tail(.help.as_deref()))]
    Unknown {
        /// A filter, a test or a function.
        what: &'static str,
        /// Its name.
        name: String,
        /// What may be meant.
        help: Option<String>,
    },
    /// It uses `tasks` as a whole, so that the tasks that it needs cannot be known.
    #[error("`tasks` must be followed by the id of a task, as in `tasks.fetch.output`")]
    TasksAsWhole,
    /// It uses secrets where none can be, or in another way than by a name alone.
    #[error(
        "a secret stands by itself, as in `${{{{ secrets.NAME }}}}`, and in the `with` of tasks that \
         workers run, other than `transform`"
    )]
    Secrets,
    /// It takes more steps than [`MAX_EXPRESSION_FUEL`].
    #[error("`{expression}` takes more than {MAX_EXPRESSION_FUEL} steps")]
    TooSlow {
        /// The expression.
        expression: String,
    },
    /// Its value, or a value on the way to it, is too large.
    #[error("`{expression}` makes more than {MAX_EXPRESSION_OUTPUT_BYTES} bytes")]
    TooLarge {
        /// The expression.
        expression: String,
    },
    /// Its value has another type than its place needs.
    #[error("`{expression}` must give {expected}, not {found}")]
    WrongType {
        /// The expression.
        expression: String,
        /// The type that is needed.
        expected: &'static str,
        /// The type of the value.
        found: &'static str,
    },
    /// Anything else that went wrong while it was evaluated.
    #[error("`{expression}` failed: {message}")]
    Failed {
        /// The expression.
        expression: String,
        /// What went wrong.
        message: String,
    },
    /// What it was to be evaluated on is not JSON.
    #[error("{what} is not JSON: {message}")]
    Data {
        /// What.
        what: String,
        /// Why not.
        message: String,
    },
}

impl ExpressionError {
    /// What programs match on, where a run fails by it.
    pub const fn code(&self) -> Code {
        Code::ExpressionFailed
    }

    /// What to do about it.
    pub fn help(&self) -> Option<&str> {
        match self {
            Self::Undefined { help, .. } | Self::Unknown { help, .. } => help.as_deref(),
            _ => None,
        }
    }

    /// What is wrong, without the help.
    pub fn message(&self) -> String {
        match self {
            Self::Undefined { name, .. } => format!("`{name}` is not defined"),
            Self::Unknown { what, name, .. } => format!("`{name}` is not a {what}"),
            other => other.to_string(),
        }
    }

    fn tail(help: Option<&str>) -> String {
        help.map(|help| format!("; {help}")).unwrap_or_default()
    }
}

/// An expression as messages repeat it: on one line, and cut where it is long.
pub(super) fn shown(expression: &str) -> String {
    let line = expression.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() <= SHOWN_BYTES {
        return line;
    }
    let end = line.floor_char_boundary(SHOWN_BYTES);
    format!("{}…", &line[..end])
}
