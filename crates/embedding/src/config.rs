//! The settings of embedding models.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use levelflow_common::HumanDuration;
use levelflow_common::limits::MAX_NAME_BYTES;
use levelflow_runtime::config::InvalidSetting;
use levelflow_runtime::secret::{Places, Secret};
use serde::{Deserialize, Serialize};

/// The model that tasks mean that name none.
pub const DEFAULT_MODEL: &str = "default";
/// The most models.
const MAX_MODELS: usize = 64;
/// The most requests to one model at once, and the most threads of one.
const MAX_AT_ONCE: usize = 64;

/// The settings of embedding models, and of what is kept of the texts that they saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmbeddingConfig {
    /// The longest that a task waits for the vector of its text.
    pub budget: HumanDuration,
    /// The most results of one scope whose texts are known: tasks alike of one tenant.
    pub max_entries: usize,
    /// The most MiB of all texts and their vectors.
    pub max_mib: usize,
    /// The models, by the names that tasks give.
    pub models: BTreeMap<String, EmbeddingModel>,
}

/// The settings of an embedding model: behind an endpoint, or in a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmbeddingModel {
    /// An OpenAI-compatible endpoint, such as `https://api.openai.com/v1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// What the endpoint calls the model; its name here if it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The key of the endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<Secret>,
    /// The environment variable that holds the key, in place of `api_key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// The file that holds the key, in place of `api_key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_file: Option<PathBuf>,
    /// The directory of a sentence-embedding model of the BERT kind, with `config.json`, `tokenizer.json` and
    /// `model.safetensors`, in place of an endpoint. Needs a program that was built with
    /// `--features local-embeddings`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// The longest that the vectors of one batch of texts may take.
    pub timeout: HumanDuration,
    /// The most texts of one batch.
    pub batch: usize,
    /// The most batches at once; for a model in a directory, its threads.
    pub concurrency: usize,
}

impl Default for EmbeddingConfig {
    fn default() -> Self {
        Self {
            budget: HumanDuration(Duration::from_millis(250)),
            max_entries: 10_000,
            max_mib: 64,
            models: BTreeMap::new(),
        }
    }
}

impl Default for EmbeddingModel {
    fn default() -> Self {
        Self {
            base_url: None,
            model: None,
            api_key: None,
            api_key_env: None,
            api_key_file: None,
            directory: None,
            timeout: HumanDuration(Duration::from_secs(10)),
            batch: 32,
            concurrency: 2,
        }
    }
}

impl EmbeddingConfig {
    /// Checks every setting; their keys are given as they are in the section `[embeddings]`.
    ///
    /// # Errors
    /// The first setting that is wrong.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        if self.budget.0.is_zero() {
            return Err(wrong("budget", "must be longer than 0s"));
        }
        in_range("max_entries", self.max_entries, 1, 1_000_000)?;
        in_range("max_mib", self.max_mib, 1, 1 << 20)?;
        in_range("models", self.models.len(), 0, MAX_MODELS)?;
        for (name, model) in &self.models {
            model.validate(name)?;
        }
        Ok(())
    }

    /// The name of the model that a task means: the one it names; otherwise the only one, or that with
    /// the name `default`.
    pub fn resolve<'a>(&'a self, named: Option<&str>) -> Option<(&'a str, &'a EmbeddingModel)> {
        let found = match (named, self.models.len()) {
            (Some(name), _) => self.models.get_key_value(name),
            (None, 1) => self.models.first_key_value(),
            (None, _) => self.models.get_key_value(DEFAULT_MODEL),
        };
        found.map(|(name, model)| (name.as_str(), model))
    }
}

impl EmbeddingModel {
    /// The model behind an endpoint, with all other settings at their defaults.
    pub fn at(base_url: impl Into<String>) -> Self {
        Self {
            base_url: Some(base_url.into()),
            ..Self::default()
        }
    }

    /// Reads the key of the endpoint.
    pub(crate) fn key(&self, name: &str) -> Result<Option<Secret>, InvalidSetting> {
        self.places()
            .read()
            .map_err(|(key, problem)| wrong(&format!("models.{name}.{key}"), problem))
    }

    /// Where texts are sent to.
    pub(crate) fn uri(&self) -> Option<Uri> {
        let base = self.base_url.as_deref()?.trim_end_matches('/');
        let uri: Uri = format!("{base}/embeddings").parse().ok()?;
        let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
        (is_web && uri.host().is_some() && uri.query().is_none()).then_some(uri)
    }

    fn places(&self) -> Places<'_> {
        Places {
            key: "api_key",
            text: &self.api_key,
            variable: &self.api_key_env,
            file: &self.api_key_file,
        }
    }

    fn validate(&self, name: &str) -> Result<(), InvalidSetting> {
        let of = |key: &str| format!("models.{name}.{key}");
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"';
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(plain) {
            let problem = "is not a name: it may have visible ASCII characters";
            return Err(wrong(&format!("models.{name}"), problem));
        }
        match (&self.base_url, &self.directory) {
            (Some(_), Some(_)) => {
                let problem = "excludes `base_url`: a model has an endpoint or a directory";
                return Err(wrong(&of("directory"), problem));
            }
            (None, None) => {
                let problem = "or `directory` must be given: a model has one of them";
                return Err(wrong(&of("base_url"), problem));
            }
            (Some(_), None) if self.uri().is_none() => {
                let problem = "must be an address such as https://api.openai.com/v1";
                return Err(wrong(&of("base_url"), problem));
            }
            (None, Some(_)) if cfg!(not(feature = "local")) => {
                let problem = "needs a program that was built with `--features local-embeddings`";
                return Err(wrong(&of("directory"), problem));
            }
            _ => {}
        }
        if self.places().given() > 1 {
            let problem =
                "is given more than once; use one of `api_key`, `api_key_env` and `api_key_file`";
            return Err(wrong(&of("api_key"), problem));
        }
        if self.timeout.0.is_zero() {
            return Err(wrong(&of("timeout"), "must be longer than 0s"));
        }
        in_range(&of("batch"), self.batch, 1, 1024)?;
        in_range(&of("concurrency"), self.concurrency, 1, MAX_AT_ONCE)
    }
}

fn in_range(key: &str, value: usize, min: usize, max: usize) -> Result<(), InvalidSetting> {
    match (min..=max).contains(&value) {
        true => Ok(()),
        false => Err(wrong(key, format!("is {value}; it may be {min} to {max}"))),
    }
}

pub(crate) fn wrong(key: &str, problem: impl Into<String>) -> InvalidSetting {
    InvalidSetting {
        key: format!("embeddings.{key}"),
        problem: problem.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(change: impl FnOnce(&mut EmbeddingModel)) -> String {
        let mut model = EmbeddingModel::at("http://localhost:1234/v1");
        change(&mut model);
        let mut config = EmbeddingConfig::default();
        config.models.insert("small".to_owned(), model);
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn says_what_is_wrong() {
        EmbeddingConfig::default().validate().unwrap();
        assert_eq!(
            problem(|model| model.base_url = None),
            "`embeddings.models.small.base_url` or `directory` must be given: a model has one of them"
        );
        assert_eq!(
            problem(|model| model.base_url = Some("localhost:1234".to_owned())),
            "`embeddings.models.small.base_url` must be an address such as https://api.openai.com/v1"
        );
        assert_eq!(
            problem(|model| model.directory = Some("/models".into())),
            "`embeddings.models.small.directory` excludes `base_url`: a model has an endpoint or a \
             directory"
        );
        assert_eq!(
            problem(|model| {
                model.api_key = Some(Secret::new("k"));
                model.api_key_env = Some("K".to_owned());
            }),
            "`embeddings.models.small.api_key` is given more than once; use one of `api_key`, \
             `api_key_env` and `api_key_file`"
        );
        assert_eq!(
            problem(|model| model.batch = 0),
            "`embeddings.models.small.batch` is 0; it may be 1 to 1024"
        );
    }

    #[test]
    fn a_task_that_names_no_model_means_the_only_one_or_the_default() {
        let mut config = EmbeddingConfig::default();
        let name = |config: &EmbeddingConfig, named: Option<&str>| {
            config.resolve(named).map(|(name, _)| name.to_owned())
        };
        assert_eq!(name(&config, None), None);
        let model = EmbeddingModel::at("http://localhost/v1");
        config.models.insert("a".to_owned(), model.clone());
        assert_eq!(name(&config, None).as_deref(), Some("a"));
        config.models.insert("b".to_owned(), model.clone());
        assert_eq!(name(&config, None), None);
        assert_eq!(name(&config, Some("b")).as_deref(), Some("b"));
        assert_eq!(name(&config, Some("c")), None);
        config.models.insert("default".to_owned(), model);
        assert_eq!(name(&config, None).as_deref(), Some("default"));
    }
}
