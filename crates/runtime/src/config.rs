//! Layered configuration: defaults, then a TOML file, then the environment, then flags; each layer
//! overrides the ones before it. Read and checked once, at the start of the process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::error::Kind;
use figment::providers::{Format as _, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use levelflow_common::Code;
use levelflow_common::suggest::did_you_mean;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What every variable of the environment that is read starts with.
pub const ENVIRONMENT_PREFIX: &str = "LEVELFLOW_";
/// The variable that names the file; it is no setting itself.
pub const FILE_VARIABLE: &str = "LEVELFLOW_CONFIG";
/// What the variables start with that hold secrets; they are no settings.
pub const SECRET_PREFIX: &str = "LEVELFLOW_SECRET_";
/// Separates a section from its keys in the name of a variable: `LEVELFLOW_WORKER__SLOTS`.
const SECTION_SEPARATOR: &str = "__";
/// Bytes of a configuration file.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// The settings of a process. Unknown keys are refused if its types have
/// `#[serde(deny_unknown_fields)]`, as they should.
pub trait Settings: Default + Serialize + DeserializeOwned {
    /// Checks what the types alone do not rule out.
    ///
    /// # Errors
    /// The first setting that is wrong.
    fn validate(&self) -> Result<(), InvalidSetting>;
}

/// A setting that has the right type and is wrong all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` {problem}")]
pub struct InvalidSetting {
    /// The key, such as `worker.slots`.
    pub key: String,
    /// What is wrong with it, after its name: "must be at least 1".
    pub problem: String,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is too long.
    #[error("the configuration file {} is over 1 MiB", .0.display())]
    TooLarge(PathBuf),
    /// The file is not TOML.
    #[error("the configuration file {} is not TOML: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        message: String,
    },
    /// A key that no setting has.
    #[error("unknown setting `{key}` from {origin}; {help}")]
    UnknownKey {
        /// The key.
        key: String,
        /// The layer that has it.
        origin: String,
        /// What may have been meant.
        help: String,
    },
    /// A value of the wrong type, or outside its range.
    #[error("setting `{key}` from {origin}: {problem}")]
    Invalid {
        /// The key.
        key: String,
        /// The layer that has it.
        origin: String,
        /// What is wrong.
        problem: String,
    },
}

impl ConfigError {
    /// The stable code.
    pub const fn code(&self) -> Code {
        Code::ConfigInvalid
    }
}

/// Where settings come from, beside their defaults.
#[derive(Debug, Default)]
pub struct Layers {
    /// The file; it must exist.
    pub file: Option<PathBuf>,
    /// The environment: all of it, others' variables are passed over.
    pub environment: BTreeMap<String, String>,
    /// The flags that were given, by key.
    pub flags: BTreeMap<String, FlagValue>,
}

/// The value of a flag.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum FlagValue {
    /// `--listen 127.0.0.1:7400`
    Text(String),
    /// `--slots 8`
    Number(u64),
    /// `--allow-process`
    Switch(bool),
    /// `--queue a --queue b`
    List(Vec<String>),
    /// `--label zone=eu --label disk=ssd`
    Map(BTreeMap<String, String>),
}

impl Layers {
    /// Reads and checks the settings.
    ///
    /// # Errors
    /// The first thing that is wrong, and which layer has it.
    pub fn load<S: Settings>(&self) -> Result<S, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(S::default()));
        if let Some(path) = &self.file {
            figment = figment.merge(Layer {
                origin: format!("the file {}", path.display()),
                values: read_file(path)?,
            });
        }
        for (name, text) in &self.environment {
            if let Some(key) = environment_key(name) {
                let value = text.parse().unwrap_or_else(|never| match never {});
                figment = figment.merge(Layer::of_key(
                    format!("the environment variable {name}"),
                    &key,
                    value,
                ));
            }
        }
        for (key, flag) in &self.flags {
            let value = Value::serialize(flag).map_err(|error| ConfigError::Invalid {
                key: key.clone(),
                origin: "the command line".to_owned(),
                problem: error.to_string(),
            })?;
            figment = figment.merge(Layer::of_key("the command line".to_owned(), key, value));
        }
        let settings: S = figment
            .extract()
            .map_err(|error| explain(&figment, &error))?;
        settings
            .validate()
            .map_err(|invalid| ConfigError::Invalid {
                origin: origin(&figment, &invalid.key),
                key: invalid.key,
                problem: invalid.problem,
            })?;
        Ok(settings)
    }
}

/// The values of one layer, under the name that errors give it.
struct Layer {
    origin: String,
    values: Dict,
}

impl Layer {
    fn of_key(origin: String, key: &str, value: Value) -> Self {
        let values = figment::util::nest(key, value)
            .into_dict()
            .unwrap_or_default();
        Self { origin, values }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

fn read_file(path: &Path) -> Result<Dict, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_FILE_BYTES {
        return Err(ConfigError::TooLarge(path.to_owned()));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    Toml::from_str(&text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        message: error.to_string(),
    })
}

/// A value of the type, read from TOML.
pub fn toml<T: DeserializeOwned>(text: &str) -> Option<T> {
    Toml::from_str(text).ok()
}

/// The key that a variable sets; none if it is not one of ours.
fn environment_key(name: &str) -> Option<String> {
    let key = name.strip_prefix(ENVIRONMENT_PREFIX)?;
    if name == FILE_VARIABLE || name.starts_with(SECRET_PREFIX) || is_service_link(key) {
        return None;
    }
    Some(key.to_ascii_lowercase().replace(SECTION_SEPARATOR, "."))
}

/// Whether Kubernetes made the variable: it describes each service of a namespace, such as one named
/// `levelflow`, to all pods by `LEVELFLOW_SERVICE_HOST`, `LEVELFLOW_PORT_7400_TCP_ADDR` and the like.
fn is_service_link(key: &str) -> bool {
    let key = format!("_{key}");
    let numbered_port = key
        .rsplit_once("_PORT_")
        .is_some_and(|(_, port)| port.starts_with(|c: char| c.is_ascii_digit()));
    key.ends_with("_SERVICE_HOST")
        || key.contains("_SERVICE_PORT")
        || key.ends_with("_PORT")
        || numbered_port
}

fn explain(figment: &Figment, error: &figment::Error) -> ConfigError {
    let key = error.path.join(".");
    let origin = origin(figment, &key);
    match &error.kind {
        Kind::UnknownField(name, known) => ConfigError::UnknownKey {
            key,
            origin,
            help: suggest(name, known),
        },
        kind => ConfigError::Invalid {
            key,
            origin,
            problem: kind.to_string(),
        },
    }
}

fn origin(figment: &Figment, key: &str) -> String {
    figment.find_metadata(key).map_or_else(
        || "the configuration".to_owned(),
        |layer| layer.name.to_string(),
    )
}

fn suggest(name: &str, known: &[&str]) -> String {
    did_you_mean(name, known.iter().copied())
        .unwrap_or_else(|| format!("known here are {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Sample {
        log: Option<String>,
        listen: String,
        worker: Section,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Section {
        slots: usize,
        queues: Vec<String>,
        labels: BTreeMap<String, String>,
    }

    impl Default for Section {
        fn default() -> Self {
            Self {
                slots: 16,
                queues: Vec::new(),
                labels: BTreeMap::new(),
            }
        }
    }

    impl Settings for Sample {
        fn validate(&self) -> Result<(), InvalidSetting> {
            if self.worker.slots == 0 {
                return Err(InvalidSetting {
                    key: "worker.slots".to_owned(),
                    problem: "must be at least 1".to_owned(),
                });
            }
            Ok(())
        }
    }

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|&(name, text)| (name.to_owned(), text.to_owned()))
            .collect()
    }

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("levelflow.toml");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    fn error(layers: &Layers) -> String {
        layers.load::<Sample>().unwrap_err().to_string()
    }

    #[test]
    fn without_layers_there_are_the_defaults() {
        assert_eq!(
            Layers::default().load::<Sample>().unwrap(),
            Sample::default()
        );
    }

    #[test]
    fn each_layer_overrides_the_ones_before_it() {
        let (_dir, path) = file(
            "log = 'file'\nlisten = 'file'\n[worker]\nslots = 1\nqueues = ['file']\n\
             labels = { zone = 'file', disk = 'ssd' }\n",
        );
        let layers = Layers {
            file: Some(path),
            environment: environment(&[
                ("LEVELFLOW_LISTEN", "environment"),
                ("LEVELFLOW_WORKER__SLOTS", "2"),
                ("LEVELFLOW_WORKER__QUEUES", "[a, b]"),
                ("LEVELFLOW_CONFIG", "elsewhere"),
                ("LEVELFLOW_SECRET_TOKEN", "hunter2"),
                ("LEVELFLOW_SERVICE_HOST", "10.0.0.1"),
                ("LEVELFLOW_PORT_7400_TCP_ADDR", "10.0.0.1"),
                ("LEVELFLOW_PORT", "tcp://10.0.0.1:7400"),
                ("PATH", "/bin"),
            ]),
            flags: [
                ("worker.slots".to_owned(), FlagValue::Number(3)),
                (
                    "worker.labels".to_owned(),
                    FlagValue::Map(environment(&[("zone", "flag")])),
                ),
            ]
            .into(),
        };
        assert_eq!(
            layers.load::<Sample>().unwrap(),
            Sample {
                log: Some("file".to_owned()),
                listen: "environment".to_owned(),
                worker: Section {
                    slots: 3,
                    queues: vec!["a".to_owned(), "b".to_owned()],
                    labels: environment(&[("disk", "ssd"), ("zone", "flag")]),
                },
            }
        );
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_layer() {
        let (_dir, path) = file("[worker]\nslotz = 1\n");
        let in_file = Layers {
            file: Some(path.clone()),
            ..Layers::default()
        };
        assert_eq!(
            error(&in_file),
            format!(
                "unknown setting `worker.slotz` from the file {}; did you mean `slots`?",
                path.display()
            )
        );
        let in_environment = Layers {
            environment: environment(&[("LEVELFLOW_COLOUR", "red")]),
            ..Layers::default()
        };
        assert_eq!(
            error(&in_environment),
            "unknown setting `colour` from the environment variable LEVELFLOW_COLOUR; \
             known here are log, listen, worker"
        );
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_layer() {
        let wrong_type = Layers {
            environment: environment(&[("LEVELFLOW_WORKER__SLOTS", "many")]),
            ..Layers::default()
        };
        assert_eq!(
            error(&wrong_type),
            "setting `worker.slots` from the environment variable LEVELFLOW_WORKER__SLOTS: \
             invalid type: found string \"many\", expected usize"
        );
        let out_of_range = Layers {
            flags: [("worker.slots".to_owned(), FlagValue::Number(0))].into(),
            ..Layers::default()
        };
        assert_eq!(
            error(&out_of_range),
            "setting `worker.slots` from the command line: must be at least 1"
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_is_refused() {
        let (dir, path) = file("log = \n");
        let message = error(&Layers {
            file: Some(path.clone()),
            ..Layers::default()
        });
        let expected = format!(
            "the configuration file {} is not TOML: TOML parse error at line 1, column 7",
            path.display()
        );
        assert!(message.starts_with(&expected), "{message}");

        let missing = dir.path().join("missing.toml");
        let message = error(&Layers {
            file: Some(missing.clone()),
            ..Layers::default()
        });
        assert_eq!(
            message,
            format!(
                "cannot read the configuration file {}: No such file or directory (os error 2)",
                missing.display()
            )
        );
    }
}
