//! Which models a task may ask, and in which order.

use std::collections::BTreeMap;
use std::fmt;

use levelflow_common::task_input::{ChatInput, ChatPreference};
use levelflow_common::{Code, Failure, upstream};

use super::config::ChatModel;
use super::latency::Latencies;
use crate::error::WorkerError;
use crate::secret::Secret;

/// A model as the configuration describes it, with its key read.
pub(super) struct KnownModel {
    settings: ChatModel,
    key: Option<Secret>,
}

/// The models of a worker.
pub(super) struct KnownModels(BTreeMap<String, KnownModel>);

/// A model that can be asked.
#[derive(Clone)]
pub(super) struct Candidate {
    /// What the task or the configuration calls it.
    pub(super) name: String,
    /// What its breaker is kept under.
    pub(super) upstream: Option<String>,
    pub(super) base_url: String,
    /// What the endpoint calls it.
    pub(super) model: String,
    pub(super) key: Option<Secret>,
    pub(super) input_price: Option<f64>,
    pub(super) output_price: Option<f64>,
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl KnownModels {
    /// Reads the keys of the models of a configuration that was checked.
    pub(super) fn new(models: &BTreeMap<String, ChatModel>) -> Result<Self, WorkerError> {
        let mut known = BTreeMap::new();
        for (name, settings) in models {
            let key = settings.places().read().map_err(|(key, problem)| {
                let setting = format!("models.{name}.{key}").into();
                WorkerError::Setting { setting, problem }
            })?;
            let settings = settings.clone();
            known.insert(name.clone(), KnownModel { settings, key });
        }
        Ok(Self(known))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The models that the task may ask, the first choice first.
    pub(super) fn candidates(
        &self,
        input: &ChatInput,
        latencies: &Latencies,
    ) -> Result<Vec<Candidate>, Failure> {
        let named: Vec<&String> = match &input.model {
            Some(model) => std::iter::once(model).chain(&input.fallbacks).collect(),
            None => input.models.iter().collect(),
        };
        let mut candidates = if let Some(base_url) = &input.base_url {
            given(named, base_url, input)?
        } else if named.is_empty() {
            self.0
                .iter()
                .map(|(name, known)| known.candidate(name))
                .collect()
        } else {
            let known = |name: &String| match self.0.get(name) {
                Some(known) => Ok(known.candidate(name)),
                None => Err(self.unknown(name)),
            };
            named.into_iter().map(known).collect::<Result<_, _>>()?
        };
        let able = |candidate: &Candidate| {
            self.0.get(&candidate.name).is_none_or(|known| {
                let can = &known.settings.capabilities;
                input.require.iter().all(|wanted| can.contains(wanted))
            })
        };
        candidates.retain(able);
        if candidates.is_empty() {
            return Err(Failure::permanent(
                Code::TaskUnsupported,
                match input.require.as_slice() {
                    [] => "this worker knows no models".to_owned(),
                    wanted => format!("no model of this worker has all of: {}", wanted.join(", ")),
                },
            ));
        }
        match input.prefer {
            None => {}
            // A model without a price may cost anything.
            Some(ChatPreference::Cheapest) => {
                candidates.sort_by(|a, b| a.rank().total_cmp(&b.rank()));
            }
            // One that was not measured lately is tried, or it would never be.
            Some(ChatPreference::Fastest) => {
                let rank = |one: &Candidate| latencies.of(&one.name).unwrap_or(0.0);
                candidates.sort_by(|a, b| rank(a).total_cmp(&rank(b)));
            }
        }
        Ok(candidates)
    }

    fn unknown(&self, name: &str) -> Failure {
        let known: Vec<_> = self.names().collect();
        let known = match known.as_slice() {
            [] => "it knows none".to_owned(),
            known => format!("it knows {}", known.join(", ")),
        };
        Failure::permanent(
            Code::TaskUnsupported,
            format!("this worker knows no model `{name}`; {known}"),
        )
    }
}

impl KnownModel {
    fn candidate(&self, name: &str) -> Candidate {
        Candidate {
            name: name.to_owned(),
            upstream: Some(upstream::of_model(name)),
            base_url: self.settings.base_url.clone(),
            model: self
                .settings
                .model
                .clone()
                .unwrap_or_else(|| name.to_owned()),
            key: self.key.clone(),
            input_price: self.settings.input_price,
            output_price: self.settings.output_price,
        }
    }
}

impl Candidate {
    /// The price of as many tokens in as out.
    fn rank(&self) -> f64 {
        match (self.input_price, self.output_price) {
            (None, None) => f64::INFINITY,
            (input, output) => input.unwrap_or(0.0) + output.unwrap_or(0.0),
        }
    }
}

/// Models of the endpoint that the task names.
fn given(
    names: Vec<&String>,
    base_url: &str,
    input: &ChatInput,
) -> Result<Vec<Candidate>, Failure> {
    if !super::is_endpoint(base_url) {
        return Err(Failure::permanent(
            Code::TaskInputInvalid,
            "`base_url` must be an address such as http://127.0.0.1:11434/v1",
        ));
    }
    let candidate = |name: &String| Candidate {
        name: name.clone(),
        upstream: upstream::of_url(base_url),
        base_url: base_url.to_owned(),
        model: name.clone(),
        key: input.api_key.as_deref().map(Secret::new),
        input_price: None,
        output_price: None,
    };
    if names.is_empty() {
        return Err(Failure::permanent(
            Code::TaskInputInvalid,
            "a `base_url` needs the name of a `model`",
        ));
    }
    Ok(names.into_iter().map(candidate).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    fn known() -> KnownModels {
        let model = |price: Option<f64>, capabilities: &[&str]| ChatModel {
            base_url: "https://models.example/v1".to_owned(),
            input_price: price,
            capabilities: capabilities.iter().map(ToString::to_string).collect(),
            ..ChatModel::default()
        };
        let models = [
            ("dear", model(Some(10.0), &["vision", "tools"])),
            ("cheap", model(Some(0.1), &["tools"])),
            ("unpriced", model(None, &["tools", "vision"])),
        ];
        let models = models.map(|(name, model)| (name.to_owned(), model));
        KnownModels::new(&models.into()).unwrap()
    }

    fn names(latencies: &Latencies, input: Value) -> Result<Vec<String>, String> {
        let input = serde_json::from_value(input).unwrap();
        let candidates = known().candidates(&input, latencies);
        candidates
            .map(|all| all.into_iter().map(|one| one.name).collect())
            .map_err(|failure| failure.message)
    }

    #[tokio::test]
    async fn models_are_asked_in_their_order_or_by_preference() {
        let none = Latencies::default();
        let of = |input: Value| names(&none, input).unwrap();
        assert_eq!(
            of(json!({ "model": "dear", "fallbacks": ["cheap"] })),
            ["dear", "cheap"]
        );
        assert_eq!(
            of(json!({ "models": ["unpriced", "dear"] })),
            ["unpriced", "dear"]
        );
        assert_eq!(
            of(json!({ "prefer": "cheapest" })),
            ["cheap", "dear", "unpriced"]
        );
        assert_eq!(
            of(json!({ "prefer": "cheapest", "require": ["vision"] })),
            ["dear", "unpriced"]
        );

        let latencies = Latencies::default();
        latencies.answered("cheap", Duration::from_secs(2));
        latencies.answered("dear", Duration::from_secs(1));
        let fastest = json!({ "prefer": "fastest" });
        assert_eq!(
            names(&latencies, fastest.clone()).unwrap(),
            ["unpriced", "dear", "cheap"]
        );
        latencies.failed("unpriced", Duration::ZERO);
        assert_eq!(
            names(&latencies, fastest).unwrap(),
            ["dear", "cheap", "unpriced"]
        );
    }

    #[test]
    fn what_is_not_there_is_named() {
        let none = Latencies::default();
        assert_eq!(
            names(&none, json!({ "model": "huge" })).unwrap_err(),
            "this worker knows no model `huge`; it knows cheap, dear, unpriced"
        );
        assert_eq!(
            names(&none, json!({ "require": ["audio"] })).unwrap_err(),
            "no model of this worker has all of: audio"
        );
        assert_eq!(
            names(&none, json!({ "model": "m", "base_url": "ftp://x" })).unwrap_err(),
            "`base_url` must be an address such as http://127.0.0.1:11434/v1"
        );
    }
}
