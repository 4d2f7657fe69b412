//! The JSON Schema of workflow files, generated from the types that read them.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Value, json};

use crate::task_input::{HandlerInput, HttpInput, ProcessInput, SleepInput, TransformInput};
use crate::workflow::{TaskKind, Workflow};

/// The JSON Schema of workflow files, with `with` described for each task type.
pub fn workflow_schema() -> Value {
    let mut generator = SchemaGenerator::from(SchemaSettings::draft2020_12());
    let inputs = TaskKind::ALL.map(|kind| (kind, input_reference(kind, &mut generator)));
    let mut schema = generator.into_root_schema_for::<Workflow>().to_value();
    schema["$id"] = json!("https://levelflow.dev/schemas/workflow-v1.json");
    schema["title"] = json!("Levelflow workflow");
    for (_, reference) in &inputs {
        let name = reference["$ref"]
            .as_str()
            .and_then(|path| path.rsplit('/').next())
            .expect("inputs of tasks are structures, which are referred to by name")
            .to_owned();
        if let Some(properties) = schema["$defs"][name]["properties"].as_object_mut() {
            properties.values_mut().for_each(allow_expression);
        }
    }
    let rules = inputs.map(|(kind, reference)| {
        json!({
            "if": { "properties": { "type": { "const": kind.as_str() } } },
            "then": { "properties": { "with": reference } },
        })
    });
    schema["$defs"]["Task"]["allOf"] = json!(rules);
    schema["$defs"]["Expression"] = json!({
        "description": "Text with `${{ }}` in it.",
        "type": "string",
        "pattern": r"\$\{\{",
    });
    schema
}

/// The schema of what a task type takes under `with`.
pub(crate) fn input_schema(kind: TaskKind) -> Value {
    let generator = SchemaGenerator::from(SchemaSettings::draft2020_12());
    match kind {
        TaskKind::Http => generator.into_root_schema_for::<HttpInput>(),
        TaskKind::Process => generator.into_root_schema_for::<ProcessInput>(),
        TaskKind::Transform => generator.into_root_schema_for::<TransformInput>(),
        TaskKind::Sleep => generator.into_root_schema_for::<SleepInput>(),
        TaskKind::Handler => generator.into_root_schema_for::<HandlerInput>(),
    }
    .to_value()
}

fn input_reference(kind: TaskKind, generator: &mut SchemaGenerator) -> Value {
    fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
        generator.subschema_for::<T>().to_value()
    }
    match kind {
        TaskKind::Http => of::<HttpInput>(generator),
        TaskKind::Process => of::<ProcessInput>(generator),
        TaskKind::Transform => of::<TransformInput>(generator),
        TaskKind::Sleep => of::<SleepInput>(generator),
        TaskKind::Handler => of::<HandlerInput>(generator),
    }
}

/// Lets an expression stand for a value, or for an item of a list or map.
fn allow_expression(schema: &mut Value) {
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(inner).filter(|inner| inner.is_object()) {
            allow_expression(inner);
        }
    }
    let typed = ["type", "$ref", "anyOf", "oneOf", "enum"];
    if typed.iter().any(|key| schema.get(key).is_some()) {
        let exact = schema.take();
        *schema = json!({ "anyOf": [exact, { "$ref": "#/$defs/Expression" }] });
    }
}
