//! Values of the configuration that nobody should see: addresses with passwords, keys.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, Serializer};

use crate::config::InvalidSetting;

/// Bytes of a secret.
const MAX_BYTES: u64 = 64 * 1024;
/// What is shown in place of a secret.
const HIDDEN: &str = "[hidden]";

/// A text that is neither printed nor written anywhere.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// A secret with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for whom it is meant.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(HIDDEN)
    }
}

/// Where a secret is to be found: at most one of the three is given.
pub struct Places<'a> {
    /// The key of the configuration that holds it; those of the other two begin with it.
    pub key: &'static str,
    /// The secret itself.
    pub text: &'a Option<Secret>,
    /// The environment variable that holds it.
    pub variable: &'a Option<String>,
    /// The file that holds it.
    pub file: &'a Option<PathBuf>,
}

impl Places<'_> {
    /// How many of the three are given.
    pub fn given(&self) -> usize {
        [
            self.text.is_some(),
            self.variable.is_some(),
            self.file.is_some(),
        ]
        .into_iter()
        .filter(|&given| given)
        .count()
    }

    /// Reads a secret that has to be given, and once. `section` is where its keys are: `cache.redis`.
    ///
    /// # Errors
    /// When it is not given or cannot be read.
    pub fn require(&self, section: &str) -> Result<Secret, InvalidSetting> {
        let key = self.key;
        let wrong = |key: &str, problem: String| InvalidSetting {
            key: format!("{section}.{key}"),
            problem,
        };
        let places = format!("in `{key}`, `{key}_env` or `{key}_file`");
        if self.given() > 1 {
            return Err(wrong(key, format!("may be given once: {places}")));
        }
        let read = self.read().map_err(|(key, problem)| wrong(&key, problem))?;
        read.ok_or_else(|| wrong(key, format!("must be given, {places}")))
    }

    /// Reads the secret. The error is what is wrong with the key that is named first.
    ///
    /// # Errors
    /// When the variable is not set, or the file cannot be read.
    pub fn read(&self) -> Result<Option<Secret>, (String, String)> {
        if let Some(secret) = self.text {
            return Ok(Some(secret.clone()));
        }
        if let Some(name) = self.variable {
            let text = std::env::var(name).map_err(|_| {
                let problem = format!("names the environment variable `{name}`, which is not set");
                (format!("{}_env", self.key), problem)
            })?;
            return Ok(Some(Secret(text)));
        }
        if let Some(path) = self.file {
            let text = read_file(path).map_err(|error| {
                let problem = format!("names {}, which cannot be read: {error}", path.display());
                (format!("{}_file", self.key), problem)
            })?;
            // Editors and `echo` end a file with a line break that is not part of the secret.
            let text = text.trim_end_matches(['\r', '\n']).to_owned();
            return Ok(Some(Secret(text)));
        }
        Ok(None)
    }
}

fn read_file(path: &Path) -> std::io::Result<String> {
    if fs::metadata(path)?.len() > MAX_BYTES {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), HIDDEN);
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"[hidden]\"");
        let read: Secret = serde_json::from_str("\"hunter2\"").unwrap();
        assert_eq!(read.reveal(), "hunter2");
    }

    #[test]
    fn a_secret_is_read_from_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, "hunter2\r\n").unwrap();
        let read = |variable: Option<&str>, file: Option<PathBuf>| {
            let places = Places {
                key: "url",
                text: &None,
                variable: &variable.map(str::to_owned),
                file: &file,
            };
            places.read()
        };
        let found = read(None, Some(path)).unwrap().unwrap();
        assert_eq!(found.reveal(), "hunter2");
        let found = read(Some("PATH"), None).unwrap().unwrap();
        assert_eq!(found.reveal(), std::env::var("PATH").unwrap());
        assert!(read(None, None).unwrap().is_none());
        let nowhere = Places {
            key: "url",
            text: &None,
            variable: &None,
            file: &None,
        };
        assert_eq!(
            nowhere.require("cache.redis").unwrap_err().to_string(),
            "`cache.redis.url` must be given, in `url`, `url_env` or `url_file`"
        );

        let (key, problem) = read(Some("LEVELFLOW_NO_SUCH"), None).unwrap_err();
        assert_eq!(key, "url_env");
        assert!(problem.contains("`LEVELFLOW_NO_SUCH`, which is not set"));
        let (key, _) = read(None, Some("/no/such/file".into())).unwrap_err();
        assert_eq!(key, "url_file");
    }
}
