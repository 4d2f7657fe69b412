//! One compiled expression.

use std::collections::BTreeMap;
use std::fmt;

use minijinja::machinery::{self, CodeGenerator, Instructions, parse_expr};
use minijinja::{AutoEscape, Error, ErrorKind, Value};
use self_cell::self_cell;

use super::budget::{causes, is_spent};
use super::environment::ENVIRONMENT;
use super::error::{ExpressionError, shown};
use super::guard;
use super::references::{Chain, References, chains, references};
use super::value::{NotJson, message_of};
use crate::limits::MAX_EXPRESSION_BYTES;
use crate::suggest::did_you_mean;

self_cell!(
    struct Program {
        owner: String,
        #[covariant]
        dependent: Instructions,
    }
);

/// An expression that can be evaluated any number of times.
pub(super) struct Compiled {
    program: Program,
    references: References,
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Compiled").field(&self.source()).finish()
    }
}

impl Compiled {
    pub(super) fn new(source: &str) -> Result<Self, ExpressionError> {
        if source.len() > MAX_EXPRESSION_BYTES {
            return Err(ExpressionError::TooLong {
                bytes: source.len(),
            });
        }
        let mut found = References::default();
        let program = Program::try_new(source.to_owned(), |source| {
            let expr = parse_expr(source).map_err(|error| syntax(source, &error))?;
            found = references(&chains(&expr)?);
            let mut generator = CodeGenerator::new("expression", source);
            generator.compile_expr(&guard::expression(&expr));
            Ok::<_, ExpressionError>(generator.finish().0)
        })?;
        Ok(Self {
            program,
            references: found,
        })
    }

    pub(super) fn source(&self) -> &str {
        self.program.borrow_owner()
    }

    pub(super) fn references(&self) -> &References {
        &self.references
    }

    /// Evaluates on the names of `root`, and hands the value to `convert`.
    pub(super) fn evaluate<T>(
        &self,
        root: &Value,
        convert: impl FnOnce(&Value) -> Result<T, NotJson>,
    ) -> Result<T, ExpressionError> {
        let value = self.run(root).map_err(|error| self.explain(&error, root))?;
        convert(&value).map_err(|reason| match reason {
            NotJson::Undefined => self
                .undefined(root)
                .unwrap_or_else(|| ExpressionError::Failed {
                    expression: shown(self.source()),
                    message: "it gives no value; `if` needs an `else`".to_owned(),
                }),
            NotJson::TooLarge => ExpressionError::TooLarge {
                expression: shown(self.source()),
            },
            NotJson::Other(message) => ExpressionError::Failed {
                expression: shown(self.source()),
                message,
            },
        })
    }

    fn run(&self, root: &Value) -> Result<Value, Error> {
        let blocks = BTreeMap::new();
        let mut discarded = String::new();
        let mut output = machinery::make_string_output(&mut discarded);
        let (value, _) = machinery::eval(
            &ENVIRONMENT,
            self.program.borrow_dependent(),
            root.clone(),
            &blocks,
            &mut output,
            AutoEscape::None,
        )?;
        Ok(value.unwrap_or_default())
    }

    fn explain(&self, error: &Error, root: &Value) -> ExpressionError {
        let undefined = || is_undefined(error).then(|| self.undefined(root)).flatten();
        undefined().unwrap_or_else(|| describe(self.source(), error))
    }

    /// The first name in the expression that does not exist.
    fn undefined(&self, root: &Value) -> Option<ExpressionError> {
        let expr = parse_expr(self.source()).ok()?;
        let chains = chains(&expr).ok()?;
        chains.iter().find_map(|chain| missing_step(chain, root))
    }
}

fn is_undefined(error: &Error) -> bool {
    causes(error).any(|error| error.kind() == ErrorKind::UndefinedError)
}

fn missing_step(chain: &Chain, root: &Value) -> Option<ExpressionError> {
    let mut value = root.clone();
    let steps =
        std::iter::once(Value::from(chain.root.as_str())).chain(chain.steps.iter().cloned());
    for (place, step) in steps.enumerate() {
        let next = value.get_item(&step).unwrap_or_default();
        if next.is_undefined() {
            let names = value
                .try_iter()
                .map(|names| names.filter_map(|name| name.to_str()).collect::<Vec<_>>())
                .unwrap_or_default();
            let help = step
                .as_str()
                .and_then(|step| did_you_mean(step, names.iter().map(|name| &**name)));
            return Some(ExpressionError::Undefined {
                name: chain.text(place),
                help,
            });
        }
        value = next;
    }
    None
}

fn syntax(source: &str, error: &Error) -> ExpressionError {
    ExpressionError::Syntax {
        expression: shown(source),
        message: message_of(error),
    }
}

/// What an expression uses, without compiling it.
pub(super) fn used(source: &str) -> Result<References, ExpressionError> {
    if source.len() > MAX_EXPRESSION_BYTES {
        return Err(ExpressionError::TooLong {
            bytes: source.len(),
        });
    }
    let expr = parse_expr(source).map_err(|error| syntax(source, &error))?;
    Ok(references(&chains(&expr)?))
}

/// An engine error in our words.
pub(super) fn describe(source: &str, error: &Error) -> ExpressionError {
    let expression = shown(source);
    if error.kind() == ErrorKind::OutOfFuel {
        return ExpressionError::TooSlow { expression };
    }
    if is_spent(error) {
        return ExpressionError::TooLarge { expression };
    }
    ExpressionError::Failed {
        expression,
        message: message_of(error),
    }
}
