//! The OpenAPI document: what is served, told by the same table that serves it.

use axum::http::Method;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::problem::{self, Problem};

/// What is told of an operation.
pub(super) struct Operation {
    pub(super) method: Method,
    /// With `{name}` for its parameters, and perhaps `:verb` at its end.
    pub(super) path: &'static str,
    id: &'static str,
    summary: &'static str,
    parameters: Vec<&'static [Parameter]>,
    body: Option<RequestBody>,
    answers: Vec<Answer>,
    pub(super) takes_its_time: bool,
}

/// A parameter of a query, or a header.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) place: Place,
    pub(super) description: &'static str,
    pub(super) schema: fn(&mut SchemaGenerator) -> Schema,
}

/// Where a parameter stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Query,
    Header,
}

struct RequestBody {
    schema: fn(&mut SchemaGenerator) -> Schema,
    example: Value,
    #[cfg(test)]
    is_read: fn(&Value) -> serde_json::Result<()>,
    /// Media types beside JSON.
    also: &'static [&'static str],
}

struct Answer {
    status: u16,
    description: &'static str,
    media: &'static str,
    schema: Option<fn(&mut SchemaGenerator) -> Schema>,
}

/// The schema of a type.
pub(super) fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

impl Operation {
    pub(super) fn get(path: &'static str, id: &'static str, summary: &'static str) -> Self {
        Self::new(Method::GET, path, id, summary)
    }

    pub(super) fn post(path: &'static str, id: &'static str, summary: &'static str) -> Self {
        Self::new(Method::POST, path, id, summary)
    }

    fn new(method: Method, path: &'static str, id: &'static str, summary: &'static str) -> Self {
        Self {
            method,
            path,
            id,
            summary,
            parameters: Vec::new(),
            body: None,
            answers: Vec::new(),
            takes_its_time: false,
        }
    }

    /// With parameters in its query or headers.
    pub(super) fn takes(mut self, parameters: &'static [Parameter]) -> Self {
        self.parameters.push(parameters);
        self
    }

    /// With a body in JSON.
    pub(super) fn body<T: JsonSchema + DeserializeOwned>(mut self, example: Value) -> Self {
        self.body = Some(RequestBody {
            schema: schema::<T>,
            example,
            #[cfg(test)]
            is_read: |example| T::deserialize(example).map(drop),
            also: &[],
        });
        self
    }

    /// With a body that is a JSON value, and may be of other media types, too.
    pub(super) fn body_or<T: JsonSchema + DeserializeOwned>(
        self,
        also: &'static [&'static str],
        example: Value,
    ) -> Self {
        let mut operation = self.body::<T>(example);
        operation.body = operation.body.map(|body| RequestBody { also, ..body });
        operation
    }

    /// Answers in JSON.
    pub(super) fn answers<T: JsonSchema>(self, status: u16, description: &'static str) -> Self {
        self.answer(status, description, "application/json", Some(schema::<T>))
    }

    /// Answers something else.
    pub(super) fn answers_in(
        self,
        media: &'static str,
        description: &'static str,
        schema: fn(&mut SchemaGenerator) -> Schema,
    ) -> Self {
        self.answer(200, description, media, Some(schema))
    }

    /// Answers without a body.
    pub(super) fn answers_empty(self, status: u16, description: &'static str) -> Self {
        self.answer(status, description, "", None)
    }

    fn answer(
        mut self,
        status: u16,
        description: &'static str,
        media: &'static str,
        schema: Option<fn(&mut SchemaGenerator) -> Schema>,
    ) -> Self {
        self.answers.push(Answer {
            status,
            description,
            media,
            schema,
        });
        self
    }

    /// It may take longer than other requests, and looks to its time itself.
    pub(super) fn takes_its_time(mut self) -> Self {
        self.takes_its_time = true;
        self
    }

    fn describe(&self, generator: &mut SchemaGenerator) -> Value {
        let mut operation = json!({
            "operationId": self.id,
            "summary": self.summary,
            "responses": self.responses(generator),
        });
        let path = path_parameters(self.path).map(|(name, description)| {
            json!({
                "name": name,
                "in": "path",
                "required": true,
                "description": description,
                "schema": { "type": "string" },
            })
        });
        let mut parameters: Vec<Value> = path.collect();
        for parameter in self.parameters.iter().copied().flatten() {
            parameters.push(json!({
                "name": parameter.name,
                "in": match parameter.place {
                    Place::Query => "query",
                    Place::Header => "header",
                },
                "description": parameter.description,
                "schema": (parameter.schema)(generator),
            }));
        }
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        if let Some(body) = &self.body {
            let schema = (body.schema)(generator);
            let mut content = json!({
                "application/json": { "schema": schema, "example": body.example },
            });
            for media in body.also {
                content[media] = json!({ "schema": { "type": "string" } });
            }
            operation["requestBody"] = json!({ "content": content });
        }
        operation
    }

    fn responses(&self, generator: &mut SchemaGenerator) -> Value {
        let mut responses = Map::new();
        for answer in &self.answers {
            let mut response = json!({ "description": answer.description });
            if let Some(schema) = answer.schema {
                let schema = schema(generator);
                response["content"] = json!({ answer.media: { "schema": schema } });
            }
            responses.insert(answer.status.to_string(), response);
        }
        responses.insert(
            "default".to_owned(),
            json!({
                "description": "Why the request was refused.",
                "content": { problem::MEDIA_TYPE: { "schema": schema::<Problem>(generator) } },
            }),
        );
        responses.into()
    }
}

/// The parameters in a path, and what they are.
fn path_parameters(path: &str) -> impl Iterator<Item = (&str, &'static str)> {
    path.split('{').skip(1).map(|rest| {
        let name = rest.split('}').next().unwrap_or_default();
        let description = match name {
            "run" => "The id of the run.",
            "task" => "The id of the task in the workflow.",
            _ => "The name of the upstream, such as `http:api.example.com:443`.",
        };
        (name, description)
    })
}

/// The document of these operations.
pub(super) fn document(operations: &[Operation]) -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    let mut generator = SchemaGenerator::from(settings);
    let mut paths = Map::new();
    for operation in operations {
        let methods = paths.entry(operation.path).or_insert_with(|| json!({}));
        methods[operation.method.as_str().to_ascii_lowercase()] =
            operation.describe(&mut generator);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Levelflow",
            "description": "Submits workflows and follows their runs.",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": { "schemas": generator.take_definitions(true) },
    })
}

#[cfg(test)]
mod tests {
    use super::super::operations;
    use super::*;

    #[test]
    fn every_example_is_read_by_the_type_that_its_operation_takes() {
        let mut examples = 0;
        for operation in operations() {
            if let Some(body) = &operation.body {
                (body.is_read)(&body.example)
                    .unwrap_or_else(|error| panic!("{}: {error}", operation.id));
                examples += 1;
            }
        }
        assert!(examples > 3);
    }

    #[test]
    fn every_reference_leads_to_a_schema() {
        fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(reference)) = map.get("$ref") {
                        found.push(reference);
                    }
                    map.values().for_each(|value| references(value, found));
                }
                Value::Array(list) => list.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let document = document(&operations());
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 20, "{found:?}");
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("it is in the document");
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn operations_have_ids_of_their_own() {
        let mut ids: Vec<&str> = operations().iter().map(|operation| operation.id).collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }
}
