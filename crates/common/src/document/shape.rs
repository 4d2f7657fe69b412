//! The shape that a tree must have, made from the JSON Schema of the type that it is decoded into, so
//! that there is one source of truth.

use serde_json::Value as Json;

use super::path::Path;
use super::problem::Position;
use super::report::Report;
use super::tree::{Key, Node, Value};
use crate::duration::HumanDuration;
use crate::expression::has_expression;
use crate::suggest::did_you_mean;

/// The shape of a value.
#[derive(Debug)]
pub(super) enum Shape {
    Any,
    Null,
    Text,
    Boolean,
    Duration,
    Integer { min: i128, max: i128 },
    Number { min: f64, max: f64 },
    Word(Words),
    List { items: Box<Self>, min: usize },
    MapOf(Box<Self>),
    Fields(Vec<Field>),
    Either(Vec<Self>),
}

/// A choice of a few words.
#[derive(Debug)]
pub(super) struct Words {
    /// What the words are, where a message needs to say it.
    name: Option<&'static str>,
    words: Vec<String>,
}

/// A key and what it takes.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) key: String,
    required: bool,
    shape: Shape,
}

impl Shape {
    /// The shape of a root schema.
    pub(super) fn of_schema(root: &Json) -> Self {
        Self::read(root, &root["$defs"])
    }

    fn read(schema: &Json, defs: &Json) -> Self {
        if let Some(reference) = schema["$ref"].as_str() {
            let name = reference.rsplit('/').next().unwrap_or_default();
            return match (name, Self::read(&defs[name], defs)) {
                ("Duration", _) => Self::Duration,
                ("TaskKind", Self::Word(words)) => Self::Word(Words {
                    name: Some("task type"),
                    ..words
                }),
                (_, shape) => shape,
            };
        }
        if let Some(options) = schema["anyOf"].as_array() {
            return Self::Either(options.iter().map(|one| Self::read(one, defs)).collect());
        }
        if let Some(options) = schema["oneOf"].as_array() {
            let words = options.iter().filter_map(|one| one["const"].as_str());
            return Self::Word(Words {
                name: None,
                words: words.map(str::to_owned).collect(),
            });
        }
        match &schema["type"] {
            Json::String(name) => Self::of_type(name, schema, defs),
            Json::Array(names) => Self::Either(
                names
                    .iter()
                    .filter_map(Json::as_str)
                    .map(|name| Self::of_type(name, schema, defs))
                    .collect(),
            ),
            _ => Self::Any,
        }
    }

    fn of_type(name: &str, schema: &Json, defs: &Json) -> Self {
        match name {
            "null" => Self::Null,
            "string" => Self::Text,
            "boolean" => Self::Boolean,
            "integer" => Self::Integer {
                min: schema["minimum"].as_i64().unwrap_or(0).into(),
                max: match (schema["maximum"].as_i64(), schema["format"].as_str()) {
                    (Some(max), _) => max.into(),
                    (None, Some("uint32")) => u32::MAX.into(),
                    _ => i64::MAX.into(),
                },
            },
            "number" => Self::Number {
                min: schema["minimum"].as_f64().unwrap_or(f64::MIN),
                max: schema["maximum"].as_f64().unwrap_or(f64::MAX),
            },
            "array" => Self::List {
                items: Box::new(Self::read(&schema["items"], defs)),
                min: schema["minItems"].as_u64().map_or(0, |min| min as usize),
            },
            "object" => match schema["properties"].as_object() {
                Some(properties) => {
                    let required = schema["required"].as_array();
                    let fields = properties.iter().map(|(key, property)| Field {
                        key: key.clone(),
                        required: required.is_some_and(|list| list.iter().any(|one| one == key)),
                        shape: Self::read(property, defs),
                    });
                    Self::Fields(fields.collect())
                }
                None => Self::MapOf(Box::new(Self::read(&schema["additionalProperties"], defs))),
            },
            _ => Self::Any,
        }
    }

    /// The keys of a map with fixed keys.
    #[cfg(test)]
    pub(super) fn keys(&self) -> Vec<&str> {
        match self {
            Self::Fields(fields) => fields.iter().map(|field| field.key.as_str()).collect(),
            _ => Vec::new(),
        }
    }

    /// What is expected, in the words of messages.
    fn phrase(&self) -> String {
        match self {
            Self::Any => "any value".to_owned(),
            Self::Null => "nothing".to_owned(),
            Self::Text => "text".to_owned(),
            Self::Boolean => "true or false".to_owned(),
            Self::Duration => "a duration such as 30s or 1m30s".to_owned(),
            Self::Integer { .. } => "a whole number".to_owned(),
            Self::Number { .. } => "a number".to_owned(),
            Self::Word(words) => format!("one of {}", words.words.join(", ")),
            Self::List { .. } => "a list".to_owned(),
            Self::MapOf(_) | Self::Fields(_) => "a map".to_owned(),
            Self::Either(options) => options
                .iter()
                .filter(|option| !matches!(option, Self::Null))
                .map(Self::phrase)
                .collect::<Vec<_>>()
                .join(" or "),
        }
    }

    fn fits(&self, node: &Node<'_>) -> bool {
        match (self, &node.value) {
            (Self::Any, _)
            | (Self::Null, Value::Null)
            | (Self::Text | Self::Word(_), Value::Text(_))
            | (Self::Boolean, Value::Bool(_))
            | (Self::Duration, Value::Text(_) | Value::Integer(_) | Value::Float(_))
            | (Self::Integer { .. }, Value::Integer(_))
            | (Self::Number { .. }, Value::Integer(_) | Value::Float(_))
            | (Self::List { .. }, Value::List(_))
            | (Self::MapOf(_) | Self::Fields(_), Value::Map(_)) => true,
            (Self::Either(options), _) => options.iter().any(|option| option.fits(node)),
            _ => false,
        }
    }
}

/// Checks trees against shapes.
pub(super) struct ShapeCheck {
    /// Whether text with an expression may stand for any value.
    pub(super) expressions: bool,
}

impl ShapeCheck {
    /// Reports where the tree does not have the shape. True if it has it.
    pub(super) fn check(
        &self,
        shape: &Shape,
        node: &Node<'_>,
        path: &Path<'_>,
        report: &mut Report,
    ) -> bool {
        if self.expressions && node.as_text().is_some_and(has_expression) {
            return true;
        }
        if !shape.fits(node) {
            report.add(path, node.position, || {
                let message = format!(
                    "{} must be {}, not {}",
                    path.subject(),
                    shape.phrase(),
                    node.phrase()
                );
                let help = match node.value {
                    Value::Bool(_) | Value::Integer(_) | Value::Float(_)
                        if matches!(shape, Shape::Text) =>
                    {
                        Some("put it in quotes".to_owned())
                    }
                    _ => None,
                };
                (message, help)
            });
            return false;
        }
        match (shape, &node.value) {
            (Shape::Either(options), _) => {
                let option = options.iter().find(|option| option.fits(node));
                option.is_none_or(|option| self.check(option, node, path, report))
            }
            (Shape::Duration, _) => self.duration(node, path, report),
            (Shape::Integer { min, max }, Value::Integer(number)) => {
                let fits = (min..=max).contains(&number);
                if !fits {
                    out_of_range(node, path, (min, max), report);
                }
                fits
            }
            (Shape::Number { min, max }, _) => {
                let number = match node.value {
                    Value::Integer(number) => number as f64,
                    Value::Float(number) => number,
                    _ => return true,
                };
                let fits = (*min..=*max).contains(&number);
                if !fits {
                    out_of_range(node, path, (min, max), report);
                }
                fits
            }
            (Shape::Word(words), Value::Text(word)) => words.check(word, node, path, report),
            (Shape::List { items: shape, min }, Value::List(items)) => {
                if items.len() < *min {
                    report.add(path, node.position, || {
                        (format!("{} is empty", path.subject()), None)
                    });
                    return false;
                }
                items.iter().enumerate().fold(true, |good, (place, item)| {
                    self.check(shape, item, &path.index(place), report) && good
                })
            }
            (Shape::MapOf(shape), Value::Map(entries)) => {
                entries.iter().fold(true, |good, (key, item)| {
                    self.check(shape, item, &path.key(&key.text), report) && good
                })
            }
            (Shape::Fields(fields), Value::Map(entries)) => {
                self.fields(fields, node.position, entries, path, report)
            }
            _ => true,
        }
    }

    fn duration(&self, node: &Node<'_>, path: &Path<'_>, report: &mut Report) -> bool {
        let parsed = match &node.value {
            Value::Text(text) => text.parse::<HumanDuration>(),
            Value::Integer(seconds) => HumanDuration::from_secs_f64(*seconds as f64),
            Value::Float(seconds) => HumanDuration::from_secs_f64(*seconds),
            _ => return true,
        };
        match parsed {
            Ok(_) => true,
            Err(error) => {
                report.add(path, node.position, || (error.to_string(), None));
                false
            }
        }
    }

    fn fields(
        &self,
        fields: &[Field],
        position: Option<Position>,
        entries: &[(Key<'_>, Node<'_>)],
        path: &Path<'_>,
        report: &mut Report,
    ) -> bool {
        let mut good = true;
        for (key, node) in entries {
            let path = path.key(&key.text);
            match fields.iter().find(|field| field.key == key.text) {
                Some(field) => good &= self.check(&field.shape, node, &path, report),
                None => {
                    good = false;
                    report.add(&path, key.position, || {
                        let keys = fields.iter().map(|field| field.key.as_str());
                        let help = did_you_mean(&key.text, keys.clone())
                            .unwrap_or_else(|| format!("the keys here are {}", list_of(keys)));
                        (format!("unknown key `{}`", key.text), Some(help))
                    });
                }
            }
        }
        for field in fields.iter().filter(|field| field.required) {
            if !entries.iter().any(|(key, _)| key.text == field.key) {
                good = false;
                report.add(path, position, || {
                    (format!("`{}` is missing", field.key), None)
                });
            }
        }
        good
    }
}

impl Words {
    fn check(&self, word: &str, node: &Node<'_>, path: &Path<'_>, report: &mut Report) -> bool {
        if self.words.iter().any(|known| known == word) {
            return true;
        }
        report.add(path, node.position, || {
            let words = self.words.iter().map(String::as_str);
            let help = did_you_mean(word, words.clone())
                .unwrap_or_else(|| format!("it must be one of {}", list_of(words)));
            let message = match self.name {
                Some(name) => format!("unknown {name} `{word}`"),
                None => format!("{} cannot be `{word}`", path.subject()),
            };
            (message, Some(help))
        });
        false
    }
}

fn out_of_range<T: std::fmt::Display>(
    node: &Node<'_>,
    path: &Path<'_>,
    (min, max): (T, T),
    report: &mut Report,
) {
    report.add(path, node.position, || {
        let message = format!("{} must be between {min} and {max}", path.subject());
        (message, None)
    });
}

fn list_of<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words
        .map(|word| format!("`{word}`"))
        .collect::<Vec<_>>()
        .join(", ")
}
