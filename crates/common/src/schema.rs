//! The JSON Schema of workflow files, generated from the types that read them.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Value, json};

use crate::task_input::{
    ChatInput, HandlerInput, HttpInput, ProcessInput, SleepInput, SqlInput, TransformInput,
};
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
        TaskKind::Sql => generator.into_root_schema_for::<SqlInput>(),
        TaskKind::Chat => generator.into_root_schema_for::<ChatInput>(),
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
        TaskKind::Sql => of::<SqlInput>(generator),
        TaskKind::Chat => of::<ChatInput>(generator),
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

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::retry::RetryPolicy;
    use crate::task_input::SqlStatement;
    use crate::workflow::{Edge, ForEach, InputSpec, Task, Timeouts, WorkerSelector};

    /// The keys that the derived decoder of a type takes, as its error for another key lists them.
    fn decoded_keys<T: DeserializeOwned>() -> Vec<String> {
        let error = serde_json::from_value::<T>(json!({ "no such key": 1 })).err();
        let message = error.expect("no type takes any key").to_string();
        let mut keys: Vec<_> = message
            .split('`')
            .skip(3)
            .step_by(2)
            .map(str::to_owned)
            .collect();
        keys.sort();
        keys
    }

    fn described_keys(schema: &Value) -> Vec<String> {
        let properties = schema["properties"].as_object();
        let properties = properties.expect("the schema is one of a map with fixed keys");
        properties.keys().cloned().collect()
    }

    #[test]
    fn describes_exactly_the_keys_that_are_decoded() {
        let schema = workflow_schema();
        assert_eq!(described_keys(&schema), decoded_keys::<Workflow>());
        let keys = [
            ("ChatInput", decoded_keys::<ChatInput>()),
            ("Edge", decoded_keys::<Edge>()),
            ("ForEach", decoded_keys::<ForEach>()),
            ("HandlerInput", decoded_keys::<HandlerInput>()),
            ("HttpInput", decoded_keys::<HttpInput>()),
            ("InputSpec", decoded_keys::<InputSpec>()),
            ("ProcessInput", decoded_keys::<ProcessInput>()),
            ("RetryPolicy", decoded_keys::<RetryPolicy>()),
            ("SqlInput", decoded_keys::<SqlInput>()),
            ("SqlStatement", decoded_keys::<SqlStatement>()),
            ("Task", decoded_keys::<Task>()),
            ("Timeouts", decoded_keys::<Timeouts>()),
            ("TransformInput", decoded_keys::<TransformInput>()),
            ("WorkerSelector", decoded_keys::<WorkerSelector>()),
        ];
        for (name, decoded) in keys {
            assert_eq!(described_keys(&schema["$defs"][name]), decoded, "{name}");
        }
        assert_eq!(described_keys(&schema["$defs"]["SleepInput"]), ["duration"]);
    }

    #[test]
    fn values_of_tasks_may_be_expressions() {
        let schema = workflow_schema();
        let expression = json!({ "$ref": "#/$defs/Expression" });
        let command = &schema["$defs"]["ProcessInput"]["properties"]["command"]["anyOf"];
        assert_eq!(command[1], expression);
        assert_eq!(command[0]["items"]["anyOf"][1], expression);
        let url = &schema["$defs"]["HttpInput"]["properties"]["url"]["anyOf"];
        assert_eq!(url[1], expression);
    }
}
