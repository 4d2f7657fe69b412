//! The result of a nearly equal text, as handlers see it.

use levelflow_common::RunId;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The result of a task like this one, for a text that means nearly the same.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct NearHit {
    /// The output of that task.
    pub output: Value,
    /// Its text.
    pub text: String,
    /// How nearly they mean the same: the cosine of the angle between their vectors, below 1.
    pub similarity: f64,
    /// Its run.
    #[serde(deserialize_with = "run_id")]
    pub run_id: RunId,
    /// Its id in the workflow.
    pub task_id: String,
}

impl NearHit {
    /// The output in the form that the handler gives it.
    ///
    /// # Errors
    /// When it does not have this form.
    pub fn output_as<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        T::deserialize(&self.output)
    }
}

fn run_id<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<RunId, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_reads_the_output_in_its_own_form() {
        let near_hit: NearHit = serde_json::from_str(
            r#"{"output":[1,2],"run_id":"01890a5d-ac96-774b-bcce-b302099a8057","similarity":0.9,
                "task_id":"ask","text":"Who?"}"#,
        )
        .unwrap();
        assert_eq!(near_hit.output_as::<Vec<u8>>().unwrap(), [1, 2]);
        assert!(near_hit.output_as::<String>().is_err());
        assert_eq!(
            near_hit.run_id.to_string(),
            "01890a5d-ac96-774b-bcce-b302099a8057"
        );
    }
}
