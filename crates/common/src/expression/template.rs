//! JSON values with expressions in them.

use std::borrow::Cow;
use std::collections::BTreeSet;
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
use crate::secret::{SecretPart, pointer_step};
use crate::workflow::TaskKind;

/// A JSON value whose expressions are compiled. Cheap to clone, and shared between threads.
#[derive(Clone, Debug)]
pub struct Template {
    root: Arc<Node>,
    references: Arc<References>,
    secrets: Arc<[SecretPart]>,
}

#[derive(Debug)]
enum Node {
    Static(Value),
    Whole(Compiled),
    Text(Vec<Part>),
    /// A text with secrets in it, which is left to whoever knows them.
    Parts(Vec<Part>),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

#[derive(Debug)]
enum Part {
    Literal(String),
    Expression(Compiled),
    Secret(String),
}

impl Template {
    /// Compiles the expressions of a value.
    ///
    /// # Errors
    /// For the first expression that is not well-formed, or that uses what no expression can.
    pub fn compile(value: &Value) -> Result<Self, ExpressionError> {
        let template = Self::with_secrets(value)?;
        if template.secrets.is_empty() {
            Ok(template)
        } else {
            Err(ExpressionError::Secrets)
        }
    }

    fn with_secrets(value: &Value) -> Result<Self, ExpressionError> {
        let mut references = References::default();
        let root = compile(value, &mut references)?;
        Ok(Self::new(root, references))
    }

    fn new(root: Node, references: References) -> Self {
        let mut secrets = Vec::new();
        if !references.secrets.is_empty() {
            collect_secrets(&root, &mut String::new(), &mut secrets);
        }
        Self {
            root: Arc::new(root),
            references: Arc::new(references),
            secrets: secrets.into(),
        }
    }

    /// Compiles the `with` of a task, which may refer to secrets where a worker gets it. The text
    /// template of a transform is not searched for expressions: the worker renders it.
    ///
    /// # Errors
    /// As [`Template::compile`].
    pub fn compile_input(kind: TaskKind, with: &Value) -> Result<Self, ExpressionError> {
        const KEY: &str = "template";
        if kind.takes_secrets() {
            return Self::with_secrets(with);
        }
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
                return Ok(Self::new(Node::Static(with.clone()), references));
            }
        };
        if !references.secrets.is_empty() {
            return Err(ExpressionError::Secrets);
        }
        entries.push((KEY.to_owned(), Node::Static(text.clone())));
        Ok(Self::new(Node::Map(entries), references))
    }

    /// The places of secrets in what [`Template::render`] gives. There the text around them is a list
    /// of its parts, each of them text, with null in the place of each secret.
    pub fn secrets(&self) -> &Arc<[SecretPart]> {
        &self.secrets
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
    let mut secrets = BTreeSet::new();
    let parts = pieces.into_iter().map(|piece| match piece {
        Piece::Literal(text) => Ok(Part::Literal(text.to_owned())),
        Piece::Expression(source) => compiled(source).map(Part::Expression),
        Piece::Secret(name) => {
            secrets.insert(name.to_owned());
            Ok(Part::Secret(name.to_owned()))
        }
    });
    let parts = parts.collect::<Result<_, _>>()?;
    Ok(if secrets.is_empty() {
        Node::Text(parts)
    } else {
        references.secrets.append(&mut secrets);
        Node::Parts(parts)
    })
}

fn collect_secrets(node: &Node, pointer: &mut String, found: &mut Vec<SecretPart>) {
    let mut visit = |step: &str, node: &Node| {
        let length = pointer.len();
        pointer.push('/');
        pointer.push_str(step);
        collect_secrets(node, pointer, found);
        pointer.truncate(length);
    };
    match node {
        Node::Static(_) | Node::Whole(_) | Node::Text(_) => {}
        Node::Parts(parts) => {
            for (part, piece) in (0..).zip(parts) {
                if let Part::Secret(name) = piece {
                    found.push(SecretPart {
                        pointer: pointer.clone(),
                        part,
                        name: name.clone(),
                    });
                }
            }
        }
        Node::List(nodes) => {
            for (index, node) in nodes.iter().enumerate() {
                visit(&index.to_string(), node);
            }
        }
        Node::Map(nodes) => {
            for (key, node) in nodes {
                visit(&pointer_step(key), node);
            }
        }
    }
}

impl Part {
    /// The text; none of a secret.
    fn text(
        &self,
        root: &minijinja::Value,
        bytes: &mut usize,
    ) -> Option<Result<Cow<'_, str>, ExpressionError>> {
        let expression = match self {
            Self::Literal(literal) => return Some(Ok(literal.into())),
            Self::Secret(_) => return None,
            Self::Expression(expression) => expression,
        };
        let text = expression.evaluate(root, |value| {
            let text = to_text(value)?;
            *bytes += text.len();
            if *bytes > MAX_EXPRESSION_OUTPUT_BYTES {
                return Err(NotJson::TooLarge);
            }
            Ok(text)
        });
        Some(text.map(Cow::Owned))
    }
}

fn render(
    node: &Node,
    root: &minijinja::Value,
    bytes: &mut usize,
) -> Result<Value, ExpressionError> {
    match node {
        Node::Static(value) => Ok(value.clone()),
        Node::Whole(expression) => expression.evaluate(root, |value| to_json(value, bytes)),
        Node::Text(parts) => parts
            .iter()
            .filter_map(|part| part.text(root, bytes))
            .collect::<Result<_, _>>()
            .map(Value::String),
        Node::Parts(parts) => parts
            .iter()
            .map(|part| match part.text(root, bytes) {
                Some(text) => text.map(|text| Value::String(text.into_owned())),
                None => Ok(Value::Null),
            })
            .collect::<Result<_, _>>()
            .map(Value::Array),
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
        match piece {
            Piece::Literal(_) => {}
            Piece::Expression(source) => references.extend(&used(source)?),
            Piece::Secret(name) => {
                references.secrets.insert(name.to_owned());
            }
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
        [Piece::Secret(_)] => Err(ExpressionError::Secrets),
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
