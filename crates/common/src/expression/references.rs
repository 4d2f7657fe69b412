//! What an expression refers to, and whether it can.

use std::collections::BTreeSet;

use minijinja::Value;
use minijinja::machinery::ast::{CallArg, Expr};

use super::environment::{FILTERS, FUNCTIONS, TESTS};
use super::error::ExpressionError;
use crate::suggest::did_you_mean;

/// The names that expressions use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Ids after `tasks.`.
    pub tasks: BTreeSet<String>,
    /// Names after `inputs.`.
    pub inputs: BTreeSet<String>,
    /// Names of secrets.
    pub secrets: BTreeSet<String>,
    /// Any other first name.
    pub variables: BTreeSet<String>,
}

impl References {
    /// Forgets all of them.
    pub(crate) fn clear(&mut self) {
        self.tasks.clear();
        self.inputs.clear();
        self.secrets.clear();
        self.variables.clear();
    }

    /// Adds those of another expression.
    pub fn extend(&mut self, other: &Self) {
        self.tasks.extend(other.tasks.iter().cloned());
        self.inputs.extend(other.inputs.iter().cloned());
        self.secrets.extend(other.secrets.iter().cloned());
        self.variables.extend(other.variables.iter().cloned());
    }
}

/// What a task has under its id.
const TASK_FIELDS: [&str; 2] = ["output", "status"];
/// What there is of the result of a nearly equal text.
pub(super) const NEAR_HIT_FIELDS: [&str; 5] = ["output", "run_id", "similarity", "task_id", "text"];

/// A name with the constant fields and indexes after it, such as `tasks.fetch.output.items[0]`.
pub(super) struct Chain {
    /// The first name.
    pub(super) root: String,
    /// The fields and indexes.
    pub(super) steps: Vec<Value>,
}

impl Chain {
    /// The chain as it is written, up to and including step number `end`.
    pub(super) fn text(&self, end: usize) -> String {
        let mut text = self.root.clone();
        for step in &self.steps[..end] {
            match step.as_str() {
                Some(name) if is_name(name) => {
                    text.push('.');
                    text.push_str(name);
                }
                Some(name) => text.push_str(&format!("['{name}']")),
                None => text.push_str(&format!("[{step}]")),
            }
        }
        text
    }
}

fn is_name(text: &str) -> bool {
    !text.starts_with(|c: char| c.is_ascii_digit())
        && !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The chains of an expression, checked: names of filters, tests and functions exist, `tasks` is
/// followed by an id, and `secrets` does not occur: where it may, it is no part of an expression.
pub(super) fn chains(expr: &Expr<'_>) -> Result<Vec<Chain>, ExpressionError> {
    let mut found = Vec::new();
    visit(expr, &mut found)?;
    for chain in &found {
        check(chain)?;
    }
    Ok(found)
}

fn check(chain: &Chain) -> Result<(), ExpressionError> {
    match chain.root.as_str() {
        "secrets" => Err(ExpressionError::Secrets),
        "tasks" => {
            if chain.steps.first().and_then(Value::as_str).is_none() {
                return Err(ExpressionError::TasksAsWhole);
            }
            match chain.steps.get(1).and_then(Value::as_str) {
                Some(field) if !TASK_FIELDS.contains(&field) => Err(ExpressionError::Undefined {
                    name: chain.text(2),
                    help: Some("a task has `output` and `status`".to_owned()),
                }),
                _ => Ok(()),
            }
        }
        "near_hit" => match chain.steps.first().and_then(Value::as_str) {
            Some(field) if !NEAR_HIT_FIELDS.contains(&field) => Err(ExpressionError::Undefined {
                name: chain.text(1),
                help: did_you_mean(field, NEAR_HIT_FIELDS).or_else(|| {
                    let known = NEAR_HIT_FIELDS.map(|field| format!("`{field}`"));
                    Some(format!("a near hit has {}", known.join(", ")))
                }),
            }),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Sorts chains into the kinds of references.
pub(super) fn references(chains: &[Chain]) -> References {
    let mut references = References::default();
    for chain in chains {
        let first = chain.steps.first().and_then(Value::as_str);
        match (chain.root.as_str(), first) {
            ("tasks", Some(id)) => references.tasks.insert(id.to_owned()),
            ("inputs", Some(name)) => references.inputs.insert(name.to_owned()),
            ("inputs", None) => false,
            (root, _) => references.variables.insert(root.to_owned()),
        };
    }
    references
}

fn visit(expr: &Expr<'_>, found: &mut Vec<Chain>) -> Result<(), ExpressionError> {
    if let Some(chain) = chain_of(expr) {
        found.push(chain);
        return Ok(());
    }
    match expr {
        Expr::Var(_) | Expr::Const(_) => Ok(()),
        Expr::GetAttr(get) => visit(&get.expr, found),
        Expr::GetItem(get) => {
            visit(&get.expr, found)?;
            visit(&get.subscript_expr, found)
        }
        Expr::Slice(slice) => {
            visit(&slice.expr, found)?;
            [&slice.start, &slice.stop, &slice.step]
                .into_iter()
                .flatten()
                .try_for_each(|part| visit(part, found))
        }
        Expr::UnaryOp(unary) => visit(&unary.expr, found),
        Expr::BinOp(binary) => {
            visit(&binary.left, found)?;
            visit(&binary.right, found)
        }
        Expr::Compare(compare) => {
            visit(&compare.expr, found)?;
            compare
                .ops
                .iter()
                .try_for_each(|part| visit(&part.expr, found))
        }
        Expr::IfExpr(conditional) => {
            visit(&conditional.test_expr, found)?;
            visit(&conditional.true_expr, found)?;
            conditional
                .false_expr
                .iter()
                .try_for_each(|part| visit(part, found))
        }
        Expr::Filter(filter) => {
            known("filter", filter.name, &FILTERS)?;
            if let Some(expr) = &filter.expr {
                visit(expr, found)?;
            }
            arguments(&filter.args, found)
        }
        Expr::Test(test) => {
            known("test", test.name, &TESTS)?;
            visit(&test.expr, found)?;
            arguments(&test.args, found)
        }
        Expr::Call(call) => {
            match &call.expr {
                Expr::Var(name) => known("function", name.id, &FUNCTIONS)?,
                other => visit(other, found)?,
            }
            arguments(&call.args, found)
        }
        Expr::List(list) => list.items.iter().try_for_each(|item| visit(item, found)),
        Expr::Tuple(tuple) => tuple.items.iter().try_for_each(|item| visit(item, found)),
        Expr::Map(map) => map
            .keys
            .iter()
            .chain(&map.values)
            .try_for_each(|item| visit(item, found)),
    }
}

fn arguments(arguments: &[CallArg<'_>], found: &mut Vec<Chain>) -> Result<(), ExpressionError> {
    arguments.iter().try_for_each(|argument| match argument {
        CallArg::Pos(expr)
        | CallArg::Kwarg(_, expr)
        | CallArg::PosSplat(expr)
        | CallArg::KwargSplat(expr) => visit(expr, found),
    })
}

fn known(what: &'static str, name: &str, names: &[&'static str]) -> Result<(), ExpressionError> {
    if names.contains(&name) {
        return Ok(());
    }
    Err(ExpressionError::Unknown {
        what,
        name: name.to_owned(),
        help: did_you_mean(name, names.iter().copied()),
    })
}

fn chain_of(expr: &Expr<'_>) -> Option<Chain> {
    match expr {
        Expr::Var(var) => Some(Chain {
            root: var.id.to_owned(),
            steps: Vec::new(),
        }),
        Expr::GetAttr(get) => {
            let mut chain = chain_of(&get.expr)?;
            chain.steps.push(Value::from(get.name));
            Some(chain)
        }
        Expr::GetItem(get) => {
            let Expr::Const(step) = &get.subscript_expr else {
                return None;
            };
            let mut chain = chain_of(&get.expr)?;
            chain.steps.push(step.value.clone());
            Some(chain)
        }
        _ => None,
    }
}
