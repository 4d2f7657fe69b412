//! The settings of a language model.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::secret::{Places, Secret};

/// Bytes of the name of a model.
const MAX_NAME_BYTES: usize = 128;

/// The settings of a language model, by whose name `chat` tasks ask it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChatModel {
    /// An OpenAI-compatible endpoint, such as `https://api.openai.com/v1`.
    pub base_url: String,
    /// What the endpoint calls the model; its name here if it is not given.
    pub model: Option<String>,
    /// The key of the endpoint.
    pub api_key: Option<Secret>,
    /// The environment variable that holds the key, in place of `api_key`.
    pub api_key_env: Option<String>,
    /// The file that holds the key, in place of `api_key`.
    pub api_key_file: Option<PathBuf>,
    /// The price of a million tokens that are sent, in any currency that is the same for all models.
    pub input_price: Option<f64>,
    /// The price of a million tokens of an answer.
    pub output_price: Option<f64>,
    /// What it can do, in words that tasks can `require`.
    pub capabilities: Vec<String>,
}

impl ChatModel {
    pub(super) fn places(&self) -> Places<'_> {
        Places {
            key: "api_key",
            text: &self.api_key,
            variable: &self.api_key_env,
            file: &self.api_key_file,
        }
    }

    /// Checks the settings and their name. The error is what is wrong with the key that is named first;
    /// an empty key stands for the name.
    pub(crate) fn validate(&self, name: &str) -> Result<(), (String, String)> {
        let wrong = |key: &str, problem: &str| Err((key.to_owned(), problem.to_owned()));
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"';
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(plain) {
            return wrong(
                "",
                "is not a name: it may have visible ASCII characters, at most 128",
            );
        }
        if !super::is_endpoint(&self.base_url) {
            return wrong(
                "base_url",
                "must be an address such as https://api.openai.com/v1",
            );
        }
        if self.places().given() > 1 {
            return wrong(
                "api_key",
                "is given more than once; use one of `api_key`, `api_key_env` and `api_key_file`",
            );
        }
        for (key, price) in [
            ("input_price", self.input_price),
            ("output_price", self.output_price),
        ] {
            if price.is_some_and(|price| !price.is_finite() || price < 0.0) {
                return wrong(key, "must be 0 or more");
            }
        }
        Ok(())
    }
}
