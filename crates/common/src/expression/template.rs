//! JSON values with expressions in them.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::compiled::{Compiled, used};
use super::error::{ExpressionError, shown};
use super::references::References;
use super::scan::{Piece, has_expression, pieces};
use super::scope::Scope;
use super::value::{NotJson, to_json, to_text};
use crate::inputs::phrase;
use crate::limits::MAX_EXPRESSION_OUTPUT_BYTES;
use crate::workflow::TaskKind;

/// A JSON value whose expressions are compiled. Cheap to clone, and shared between threads.
#[derive(Clone, Debug)]
pub struct Template {
    root: Arc<Node>,
    references: Arc<References>,
}

#[derive(Debug)]
enum Node {
    Static(Value),
    Whole(Compiled),
    Text(Vec<Part>),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

#[derive(Debug)]
enum Part {
    Literal(String),
    Expression(Compiled),
}

impl Template {
    /// Compiles the expressions of a value.
    ///
    /// # Errors
    /// For the first expression that is not well-formed, or that uses what no expression can.
    pub fn compile(value: &Value) -> Result<Self, ExpressionError> {
        let mut references = References::default();
        let root = compile(value, &mut references)?;
        Ok(Self {
            root: Arc::new(root),
            references: Arc::new(references),
        })
    }

    /// Compiles the `with` of a task. The text template of a transform is not searched for
    /// expressions: the worker renders it.
    ///
    /// # Errors
    /// As [`Template::compile`].
    pub fn compile_input(kind: TaskKind, with: &Value) -> Result<Self, ExpressionError> {
        const KEY: &str = "template";
        let (TaskKind::Transform, Some(text)) = (kind, with.get(KEY)) else {
            return Self::compile(with);
        };
        let mut rest = with.clone();
        if let Some(map) = rest.as_object_mut() {
            map.remove(KEY);
        }
        let mut references = References::default();
        let mut entries = match compile(&rest, &mut references)? {
            Node::Map(entries) => entries,
            _ => {
                return Ok(Self {
                    root: Arc::new(Node::Static(with.clone())),
                    references: Arc::new(references),
                });
            }
        };
        entries.push((KEY.to_owned(), Node::Static(text.clone())));
        Ok(Self {
            root: Arc::new(Node::Map(entries)),
            references: Arc::new(references),
        })
    }

    /// The names that the expressions use.
    pub fn references(&self) -> &References {
        &self.references
    }

    /// Whether it holds no expression, so that it is its own value.
    pub fn is_static(&self) -> bool {
        matches!(*self.root, Node::Static(_))
    }

    /// The value with its expressions evaluated.
    ///
    /// # Errors
    /// When an expression fails, or when the value is larger than
    /// [`MAX_EXPRESSION_OUTPUT_BYTES`].
    pub fn render(&self, scope: &Scope) -> Result<Value, ExpressionError> {
        if let Node::Static(value) = &*self.root {
            return Ok(value.clone());
        }
        render(&self.root, &scope.root(), &mut 0)
    }
}

fn compile(value: &Value, references: &mut References) -> Result<Node, ExpressionError> {
    match value {
        Value::String(text) if has_expression(text) => compile_text(text, references),
        Value::Array(items) => {
            let nodes = items
                .iter()
                .map(|item| compile(item, references))
                .collect::<Result<Vec<_>, _>>()?;
            Ok(
                if nodes.iter().all(|node| matches!(node, Node::Static(_))) {
                    Node::Static(value.clone())
                } else {
                    Node::List(nodes)
                },
            )
        }
        Value::Object(map) => {
            let nodes = map
                .iter()
                .map(|(key, item)| {
                    if has_expression(key) {
                        return Err(ExpressionError::InKey { key: key.clone() });
                    }
                    Ok((key.clone(), compile(item, references)?))
                })
                .collect::<Result<Vec<_>, _>>()?;
            let is_static = nodes
                .iter()
                .all(|(_, node)| matches!(node, Node::Static(_)));
            Ok(if is_static {
                Node::Static(value.clone())
            } else {
                Node::Map(nodes)
            })
        }
        _ => Ok(Node::Static(value.clone())),
    }
}

fn compile_text(text: &str, references: &mut References) -> Result<Node, ExpressionError> {
    let mut compiled = |source: &str| {
        let compiled = Compiled::new(source)?;
        references.extend(compiled.references());
        Ok::<_, ExpressionError>(compiled)
    };
    let pieces = pieces(text)?;
    if let [Piece::Expression(source)] = pieces[..] {
        return compiled(source).map(Node::Whole);
    }
    let parts = pieces.into_iter().map(|piece| match piece {
        Piece::Literal(text) => Ok(Part::Literal(text.to_owned())),
        Piece::Expression(source) => compiled(source).map(Part::Expression),
    });
    parts.collect::<Result<_, _>>().map(Node::Text)
}

fn render(
    node: &Node,
    root: &minijinja::Value,
    bytes: &mut usize,
) -> Result<Value, ExpressionError> {
    match node {
        Node::Static(value) => Ok(value.clone()),
        Node::Whole(expression) => expression.evaluate(root, |value| to_json(value, bytes)),
        Node::Text(parts) => {
            let mut text = String::new();
            for part in parts {
                match part {
                    Part::Literal(literal) => text.push_str(literal),
                    Part::Expression(expression) => {
                        let piece = expression.evaluate(root, |value| {
                            let piece = to_text(value)?;
                            *bytes += piece.len();
                            if *bytes > MAX_EXPRESSION_OUTPUT_BYTES {
                                return Err(NotJson::TooLarge);
                            }
                            Ok(piece)
                        })?;
                        text.push_str(&piece);
                    }
                }
            }
            Ok(Value::String(text))
        }
        Node::List(nodes) => nodes
            .iter()
            .map(|node| render(node, root, bytes))
            .collect::<Result<_, _>>()
            .map(Value::Array),
        Node::Map(nodes) => nodes
            .iter()
            .map(|(key, node)| Ok((key.clone(), render(node, root, bytes)?)))
            .collect::<Result<Map<_, _>, _>>()
            .map(Value::Object),
    }
}

/// Adds what the expressions of a text use, without compiling them.
pub(crate) fn text_references(
    text: &str,
    references: &mut References,
) -> Result<(), ExpressionError> {
    for piece in pieces(text)? {
        if let Piece::Expression(source) = piece {
            references.extend(&used(source)?);
        }
    }
    Ok(())
}

/// What a condition uses, without compiling it.
pub(crate) fn check_condition(text: &str) -> Result<References, ExpressionError> {
    used(condition_source(text)?)
}

fn condition_source(text: &str) -> Result<&str, ExpressionError> {
    match pieces(text)?[..] {
        [Piece::Expression(source)] => Ok(source),
        [Piece::Literal(source)] if !source.trim().is_empty() => Ok(source.trim()),
        [] | [Piece::Literal(_)] => Err(ExpressionError::Empty),
        _ => Err(ExpressionError::Syntax {
            expression: shown(text),
            message: "a condition is one expression, without other text".to_owned(),
        }),
    }
}

/// A compiled `when`.
#[derive(Clone, Debug)]
pub struct Condition(Arc<Compiled>);

impl Condition {
    /// Compiles an expression, with or without `${{ }}` around it.
    ///
    /// # Errors
    /// When it is not one well-formed expression, or uses what no expression can.
    pub fn compile(text: &str) -> Result<Self, ExpressionError> {
        Compiled::new(condition_source(text)?).map(|compiled| Self(Arc::new(compiled)))
    }

    /// The names that it uses.
    pub fn references(&self) -> &References {
        self.0.references()
    }

    /// Whether it holds.
    ///
    /// # Errors
    /// When the expression fails, or gives anything but true or false.
    pub fn evaluate(&self, scope: &Scope) -> Result<bool, ExpressionError> {
        let value = self
            .0
            .evaluate(&scope.root(), |value| to_json(value, &mut 0))?;
        value.as_bool().ok_or_else(|| ExpressionError::WrongType {
            expression: shown(self.0.source()),
            expected: "true or false",
            found: phrase(&value),
        })
    }
}
