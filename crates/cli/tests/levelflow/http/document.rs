//! What is served is what the OpenAPI document says.

use reqwest::Method;
use serde_json::{Value, json};

use super::events::Events;
use super::{Api, Server, answer};
use crate::api::{open, quick};
use crate::harness::Home;

/// A run that nobody knows.
const NO_RUN: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

/// What a value has that its schema does not say, or the other way round.
fn differences(document: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let pointer = reference.strip_prefix('#').unwrap();
        return differences(
            document,
            document.pointer(pointer).unwrap(),
            value,
            at,
            found,
        );
    }
    for several in ["anyOf", "oneOf"] {
        if let Some(choices) = schema[several].as_array() {
            let fits = |choice: &Value| {
                let mut found = Vec::new();
                differences(document, choice, value, at, &mut found);
                found.is_empty()
            };
            if !choices.iter().any(fits) {
                found.push(format!("{at}: none of the choices fits {value}"));
            }
        }
    }
    if let Some(expected) = schema.get("const")
        && expected != value
    {
        found.push(format!("{at}: {value} is not {expected}"));
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        found.push(format!("{at}: {value} is none of {words:?}"));
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let is = |expected: &Value| expected == kind || (expected == "number" && kind == "integer");
    let fits = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().any(is),
        Value::Null => true,
        expected => is(expected),
    };
    if !fits {
        found.push(format!("{at}: {value} is no {}", schema["type"]));
    }
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                differences(
                    document,
                    &schema["items"],
                    item,
                    &format!("{at}[{index}]"),
                    found,
                );
            }
        }
        Value::Object(fields) => {
            let required = schema["required"].as_array().into_iter().flatten();
            for name in required.filter_map(Value::as_str) {
                if !fields.contains_key(name) {
                    found.push(format!("{at}.{name} is missing"));
                }
            }
            if let Some(properties) = schema["properties"].as_object() {
                for (name, field) in fields {
                    match properties.get(name) {
                        Some(property) => {
                            differences(document, property, field, &format!("{at}.{name}"), found);
                        }
                        None if schema["additionalProperties"].is_object() => {}
                        None => found.push(format!("{at}.{name} is not in the document")),
                    }
                }
            }
        }
        _ => {}
    }
}

async fn document(api: &Api) -> Value {
    let document = api.get("/api/v1/openapi.json").await;
    assert_eq!(document.status, 200);
    assert_eq!(document.body["openapi"], "3.1.0");
    document.body
}

#[tokio::test]
async fn every_route_of_the_document_is_served() {
    let home = Home::new();
    let Server {
        running: _server,
        api,
    } = Server::start(&home).await;
    let document = document(&api).await;
    let mut count = 0;
    for (template, methods) in document["paths"].as_object().unwrap() {
        let path = template
            .replace("{run}", NO_RUN)
            .replace("{task}", "a")
            .replace("{upstream}", "http:a:80");
        for (name, operation) in methods.as_object().unwrap() {
            let method: Method = name.to_uppercase().parse().unwrap();
            let mut request = api.request(method, &path);
            if operation["requestBody"].is_object() {
                let content = &operation["requestBody"]["content"]["application/json"];
                request = request.json(&content["example"]);
            }
            if operation["responses"]["200"]["content"]["text/event-stream"].is_object()
                && !template.contains('{')
            {
                // It has no end.
                Events::at(&api, &path, None).await;
                continue;
            }
            let answer = answer(request).await;
            let code = answer.body["code"].as_str().unwrap_or_default();
            let unserved = ["route_unknown", "method_not_allowed", "internal"];
            assert!(!unserved.contains(&code), "{name} {template}: {answer:?}");
            let told = &operation["responses"];
            let status = answer.status.as_u16().to_string();
            let told = told.get(&status).unwrap_or(&told["default"]);
            let media = answer.headers["content-type"].to_str().unwrap();
            let media = media.split(';').next().unwrap();
            let schema = &told["content"][media]["schema"];
            assert!(
                schema.is_object(),
                "{name} {template}: {media} for {status}"
            );
            let mut found = Vec::new();
            differences(&document, schema, &answer.body, "", &mut found);
            assert!(found.is_empty(), "{name} {template}: {found:#?}");
            count += 1;
        }
    }
    assert!(count > 12, "{count}");
}

#[tokio::test]
async fn answers_are_as_the_document_says() {
    let home = Home::new();
    let Server {
        running: _server,
        api,
    } = Server::with(&home, &[("LEVELFLOW_COORDINATOR__AUTOSCALE__MAX", "8")]).await;
    let document = document(&api).await;
    let submitted = api
        .post("/api/v1/runs?wait=60s", &json!({ "workflow": quick() }))
        .await;
    let ended = submitted.body["run_id"].as_str().unwrap();
    let waiting = api.start(&open()).await;
    let of = |method: &str, path: &str, status: &str| {
        let response = &document["paths"][path][method]["responses"][status];
        response["content"]["application/json"]["schema"].clone()
    };
    let mut found = Vec::new();
    let run = of("post", "/api/v1/runs", "201");
    differences(&document, &run, &submitted.body, "submitted", &mut found);
    for (template, path) in [
        ("/api/v1/runs", "/api/v1/runs".to_owned()),
        ("/api/v1/runs/{run}", format!("/api/v1/runs/{ended}")),
        ("/api/v1/runs/{run}", format!("/api/v1/runs/{waiting}")),
        (
            "/api/v1/runs/{run}/tasks/{task}",
            format!("/api/v1/runs/{ended}/tasks/a"),
        ),
        (
            "/api/v1/runs/{run}/tasks/{task}:why",
            format!("/api/v1/runs/{waiting}/tasks/nobody:why"),
        ),
        ("/api/v1/breakers", "/api/v1/breakers".to_owned()),
        ("/api/v1/workers", "/api/v1/workers".to_owned()),
        ("/api/v1/overview", "/api/v1/overview".to_owned()),
        (
            "/api/v1/autoscale",
            "/api/v1/autoscale?queue=default".to_owned(),
        ),
    ] {
        let answer = api.get(&path).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let schema = of("get", template, "200");
        assert!(schema.is_object(), "{template}");
        differences(&document, &schema, &answer.body, template, &mut found);
    }
    assert!(found.is_empty(), "{found:#?}");
    // What finds differences finds one where there is one.
    let schema = of("get", "/api/v1/runs/{run}", "200");
    let mut run = api.get(&format!("/api/v1/runs/{ended}")).await.body;
    run["tasks"][0]["state"] = json!("flying");
    differences(&document, &schema, &run, "run", &mut found);
    assert_eq!(found.len(), 1, "{found:#?}");
}
