//! Evaluates what the engine asks for, as the coordinator does.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use levelflow_common::expression::{ExpressionError, Scope, Template};
use levelflow_common::{
    CacheKey, CacheTier, CacheUse, CachedFrom, Code, Failure, HumanDuration, RunId, Similar,
    Similarity, TaskKind, WorkflowDigest, upstream,
};
use levelflow_engine::command::{Prepare, RenderOutputs, RunContext};
use levelflow_engine::event::Preparation;
use levelflow_engine::{Found, Lookup, NearHit, Output};
use serde_json::{Map, Value};

/// Where the results of [`Cache`] are found.
pub(crate) const FROM_MEMORY: CachedFrom = CachedFrom {
    tier: CacheTier::Memory,
    age: Duration::from_secs(1),
    saved: Duration::from_millis(1),
};

/// Results that were put into the cache.
pub(crate) type Cache = BTreeMap<CacheKey, Result<Output, Failure>>;

/// Whose results are found for the text `same`, and shown for `near`, as far as the cache has any.
pub(crate) fn similar(similarity: f64) -> Similar {
    Similar {
        similarity: Similarity::new(similarity),
        run_id: RunId::from_slice(&[7; 16]).unwrap(),
        task_id: "source".into(),
    }
}

pub(crate) fn prepare(prepare: &Prepare, cache: &Cache) -> Result<Preparation, Failure> {
    let scope = scope(&prepare.context).map_err(|error| failed(&error))?;
    evaluate(prepare, scope, cache)
}

fn evaluate(prepare: &Prepare, mut scope: Scope, cache: &Cache) -> Result<Preparation, Failure> {
    let spec = &prepare.context.definition.tasks[prepare.defined.0 as usize];
    if let Some(condition) = &spec.when
        && prepare.item.is_none()
        && !condition.evaluate(&scope).map_err(|error| failed(&error))?
    {
        return Ok(Preparation::Skip);
    }
    let render = |template: &Template, scope: &Scope| {
        let value = template.render(scope);
        value.map_err(|error| failed(&error))
    };
    if let Some(list) = &spec.for_each {
        let Some((position, item)) = &prepare.item else {
            let items = render(&list.items, &scope)?;
            let items = items.as_array().expect("the tests list arrays");
            let bytes = |item: &Value| Bytes::from(item.to_string());
            return Ok(Preparation::Items(items.iter().map(bytes).collect()));
        };
        let item = serde_json::from_slice(item).unwrap();
        scope.set_item(&list.name, &item, *position);
    }
    let input = render(&spec.input, &scope)?;
    if spec.kind == TaskKind::Sleep {
        let duration = serde_json::from_value::<HumanDuration>(input["duration"].clone());
        return Ok(Preparation::Sleep(duration.unwrap().0));
    }
    let limits = spec.limits.as_ref();
    let lookup = match (&spec.cache, &prepare.handler_version) {
        (None, _) | (_, None) => None,
        (Some(policy), Some(version)) => {
            let subject = match &policy.key {
                Some(key) => render(key, &scope)?,
                None => input.clone(),
            };
            let (tenant, definition) = (&prepare.tenant, policy.definition);
            let text = format!("{tenant} {definition} {} {subject}", version.as_str());
            let key = CacheKey::from_bytes(*WorkflowDigest::of(text.as_bytes()).as_bytes());
            let kept = cache.get(&key).filter(|_| prepare.cache == CacheUse::Use);
            let mut found = kept.map(|result| Found {
                result: result.clone(),
                from: FROM_MEMORY,
                similar_to: None,
            });
            let mut near = None;
            if let (None, Some(text), CacheUse::Use) = (&found, &policy.text, prepare.cache) {
                let output = cache.values().flatten().next();
                match (render(text, &scope)?.as_str(), output) {
                    (Some("same"), Some(output)) => {
                        found = Some(Found {
                            result: Ok(output.clone()),
                            from: FROM_MEMORY,
                            similar_to: Some(Box::new(similar(0.97))),
                        });
                    }
                    (Some("near"), Some(output)) => {
                        near = Some(Box::new(NearHit {
                            similar: similar(0.9),
                            shown: output.value.clone(),
                        }));
                    }
                    _ => {}
                }
            }
            let handler_version = version.clone();
            Some(Box::new(Lookup {
                key,
                handler_version,
                found,
                near,
            }))
        }
    };
    Ok(Preparation::Input {
        upstream: upstream::of_task(spec.kind, &input).map(Into::into),
        input: input.to_string().into(),
        keys: limits.map(|limits| limits.keys(&scope)).transpose()?,
        cache: lookup,
    })
}

pub(crate) fn render(render: &RenderOutputs) -> Result<Bytes, Failure> {
    let outputs = || {
        let scope = scope(&render.context)?;
        let mut outputs = Map::new();
        for (name, template) in &render.context.definition.outputs {
            outputs.insert(name.clone(), template.render(&scope)?);
        }
        Ok(Bytes::from(Value::Object(outputs).to_string()))
    };
    outputs().map_err(|error| failed(&error))
}

fn scope(context: &RunContext) -> Result<Scope, ExpressionError> {
    let run_id = context.run_id.to_string();
    let mut scope = Scope::new(&run_id, &context.definition.name, &context.inputs)?;
    for task in &context.tasks {
        scope.add_task(&task.id, task.status, task.output.as_deref())?;
    }
    Ok(scope)
}

fn failed(error: &ExpressionError) -> Failure {
    Failure::permanent(Code::ExpressionFailed, error.to_string())
}
