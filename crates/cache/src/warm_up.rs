//! Results that are known before anything was computed.

use std::io::{BufRead, Read as _};
use std::time::Duration;

use bytes::Bytes;
use levelflow_common::cache::{CachePolicy, InvalidCacheKey, definition_digest};
use levelflow_common::workflow::WorkerSelector;
use levelflow_common::{CacheKey, HumanDuration, TaskKind};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::canonical::CanonicalJson;
use crate::entry::{Computed, Labels, Terms};
use crate::error::NotKept;
use crate::key::{KeyParts, Subject};

/// Bytes of a line.
const MAX_LINE_BYTES: u64 = 16 * 1024 * 1024;
/// Problems that are told one by one.
const MAX_PROBLEMS: usize = 100;

/// What came of reading a file of results.
///
/// Each line is a JSON object. Which result it is, is said by `key`, 64 hexadecimal digits, or by the task:
/// `type`, `with` and `worker` as in the workflow, and its resolved `input` (for want of it, `with`) or its
/// `cache_key`, with `scope`, `version` and `handler_version` where it has them. What it gave is in `output`. The
/// rest may be left out: `tenant`, `workflow`, `tags`, `ttl`, `took`.
///
/// ```json
/// {"type": "chat", "with": {"model": "small", "prompt": "Hi"}, "output": {"text": "Hello"}, "ttl": "24h"}
/// ```
#[derive(Debug, Default)]
pub struct WarmUp {
    /// Results that are kept now.
    pub kept: u64,
    /// Lines that were passed over.
    pub passed_over: u64,
    /// Why, for the first of them.
    pub problems: Vec<LineProblem>,
}

/// A line that was passed over.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct LineProblem {
    /// Its number, from 1.
    pub line: u64,
    /// What is wrong with it.
    #[source]
    pub problem: WarmUpProblem,
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
pub enum WarmUpProblem {
    /// It is too long.
    #[error("it is over 16 MiB")]
    TooLong,
    /// It is not such a JSON object.
    #[error("it is not a result")]
    Malformed(#[from] serde_json::Error),
    /// It has neither a key nor a task.
    #[error("it has no `key`, and no `type`")]
    NoSubject,
    /// It has a key and a task, or an input and a cache key.
    #[error("`{0}` and `{1}` exclude one another")]
    TooManySubjects(&'static str, &'static str),
    /// Its key is none.
    #[error("its key is none")]
    Key(#[from] InvalidCacheKey),
    /// The result cannot be kept.
    #[error("the result is not kept")]
    NotKept(#[from] NotKept),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(default)]
    key: Option<String>,
    #[serde(rename = "type", default)]
    kind: Option<TaskKind>,
    #[serde(default)]
    with: Value,
    #[serde(default)]
    worker: Option<WorkerSelector>,
    #[serde(default)]
    input: Option<Value>,
    #[serde(default)]
    cache_key: Option<Value>,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    handler_version: String,
    #[serde(borrow)]
    output: &'a RawValue,
    #[serde(default = "default_tenant")]
    tenant: String,
    #[serde(default)]
    workflow: String,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    ttl: Option<HumanDuration>,
    #[serde(default)]
    took: HumanDuration,
}

/// The tenant of lines, as of submits, that name none.
fn default_tenant() -> String {
    "default".to_owned()
}

/// Reads a file, and gives each result to `put`.
pub(crate) fn read(
    mut file: impl BufRead,
    mut put: impl FnMut(CacheKey, Computed, Terms) -> Result<(), NotKept>,
) -> std::io::Result<WarmUp> {
    let mut report = WarmUp::default();
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        let read = (&mut file)
            .take(MAX_LINE_BYTES + 1)
            .read_until(b'\n', &mut text)?;
        if read == 0 {
            break;
        }
        let outcome = if text.len() as u64 > MAX_LINE_BYTES {
            file.skip_until(b'\n')?;
            Err(WarmUpProblem::TooLong)
        } else if text.trim_ascii().is_empty() {
            continue;
        } else {
            result_of(&text).and_then(|(key, computed, terms)| Ok(put(key, computed, terms)?))
        };
        match outcome {
            Ok(()) => report.kept += 1,
            Err(problem) => {
                report.passed_over += 1;
                if report.problems.len() < MAX_PROBLEMS {
                    report.problems.push(LineProblem { line, problem });
                }
            }
        }
    }
    Ok(report)
}

fn result_of(text: &[u8]) -> Result<(CacheKey, Computed, Terms), WarmUpProblem> {
    let line: Line<'_> = serde_json::from_slice(text)?;
    let key = key_of(&line)?;
    let output = Bytes::copy_from_slice(line.output.get().as_bytes());
    let terms = Terms {
        labels: Labels {
            tenant: line.tenant,
            workflow: line.workflow,
            tags: line.tags,
        },
        handler_version: line.handler_version,
        ttl: line.ttl.map(|ttl| ttl.0),
        failure_ttl: None,
    };
    let took: Duration = line.took.0;
    Ok((key, Computed::output(output, took), terms))
}

fn key_of(line: &Line<'_>) -> Result<CacheKey, WarmUpProblem> {
    let kind = match (&line.key, line.kind) {
        (Some(key), None) => return Ok(key.parse()?),
        (None, Some(kind)) => kind,
        (None, None) => return Err(WarmUpProblem::NoSubject),
        (Some(_), Some(_)) => return Err(WarmUpProblem::TooManySubjects("key", "type")),
    };
    let subject = match (&line.input, &line.cache_key) {
        (Some(_), Some(_)) => {
            return Err(WarmUpProblem::TooManySubjects("input", "cache_key"));
        }
        (_, Some(key)) => CanonicalJson::of(key),
        (Some(input), None) => CanonicalJson::of(input),
        (None, None) => CanonicalJson::of(&line.with),
    };
    let policy = CachePolicy {
        key: line.cache_key.clone(),
        version: line.version.clone(),
        ..CachePolicy::default()
    };
    let parts = KeyParts {
        tenant: &line.tenant,
        scope: &line.scope,
        kind,
        definition: definition_digest(kind, &line.with, line.worker.as_ref(), &policy),
        subject: match line.cache_key {
            Some(_) => Subject::Explicit(&subject),
            None => Subject::Input(&subject),
        },
        handler_version: &line.handler_version,
    };
    Ok(parts.key())
}

#[cfg(test)]
mod tests {
    use levelflow_common::Task;
    use serde_json::json;

    use super::*;

    fn lines(text: &str) -> (WarmUp, Vec<(CacheKey, Computed, Terms)>) {
        let mut kept = Vec::new();
        let report = read(text.as_bytes(), |key, computed, terms| {
            kept.push((key, computed, terms));
            Ok(())
        });
        (report.unwrap(), kept)
    }

    #[test]
    fn a_result_is_found_by_the_task_that_would_compute_it() {
        let task: Task = serde_json::from_value(json!({
            "id": "hi", "type": "chat", "with": { "prompt": "${{ inputs.p }}" },
            "worker": { "queue": "gpu" },
        }))
        .unwrap();
        let input = CanonicalJson::of(&json!({ "prompt": "Hi" }));
        let key = KeyParts {
            tenant: "acme",
            scope: "",
            kind: TaskKind::Chat,
            definition: definition_digest(
                task.kind,
                &task.with,
                task.worker.as_ref(),
                &CachePolicy::default(),
            ),
            subject: Subject::Input(&input),
            handler_version: "",
        };
        let (report, kept) = lines(
            r#"{"tenant":"acme","type":"chat","with":{"prompt":"${{ inputs.p }}"},"worker":{"queue":"gpu"},"input":{"prompt":"Hi"},"output":{"text": "Hello"},"ttl":"2h","took":"1500ms","tags":["x"],"workflow":"w"}"#,
        );
        assert_eq!(report.kept, 1);
        let (found, computed, terms) = &kept[0];
        assert_eq!(*found, key.key());
        assert_eq!(computed.result, Ok(r#"{"text": "Hello"}"#.into()));
        assert_eq!(computed.took, Duration::from_millis(1500));
        assert_eq!(terms.ttl, Some(Duration::from_secs(7200)));
        assert_eq!(terms.labels.workflow, "w");
        assert_eq!(terms.labels.tags, ["x"]);
    }

    #[test]
    fn versions_are_part_of_what_a_result_is_found_by() {
        let line = |more: &str| {
            let text =
                format!(r#"{{"type":"handler","with":{{"name":"h"}},"input":1,"output":2{more}}}"#);
            let (_, mut kept) = lines(&text);
            let (key, _, terms) = kept.remove(0);
            (key, terms.handler_version)
        };
        let (plain, version) = line("");
        assert_eq!(version, "");
        let (of_policy, version) = line(r#","version":"2""#);
        assert_eq!(version, "");
        let (of_handler, version) = line(r#","handler_version":"2""#);
        assert_eq!(version, "2");
        let keys = std::collections::BTreeSet::from([plain, of_policy, of_handler]);
        assert_eq!(keys.len(), 3);
    }

    #[test]
    fn lines_that_make_no_sense_are_told_with_their_numbers() {
        let key = CacheKey::from_bytes([3; 32]);
        let text = format!(
            "{{\"key\":\"{key}\",\"output\":1}}\n\n{{\"output\":1}}\n{{\"key\":\"xyz\",\"output\":1}}\n\
             {{\"key\":\"{key}\",\"type\":\"http\",\"output\":1}}\n{{\n{{\"key\":\"{key}\",\"outptu\":1}}\n\
             {{\"type\":\"http\",\"input\":1,\"cache_key\":2,\"output\":1}}\n{{\"key\":\"{key}\",\"output\":2}}"
        );
        let (report, kept) = lines(&text);
        assert_eq!(kept.len(), 2);
        assert_eq!((report.kept, report.passed_over), (2, 6));
        let told: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "line 3: it has no `key`, and no `type`",
                "line 4: its key is none",
                "line 5: `key` and `type` exclude one another",
                "line 6: it is not a result",
                "line 7: it is not a result",
                "line 8: `input` and `cache_key` exclude one another",
            ]
        );
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over() {
        let long = "x".repeat(MAX_LINE_BYTES as usize + 10);
        let key = CacheKey::from_bytes([3; 32]);
        let (report, kept) = lines(&format!("{long}\n{{\"key\":\"{key}\",\"output\":1}}\n"));
        assert_eq!(kept.len(), 1);
        assert!(matches!(
            report.problems[..],
            [LineProblem {
                line: 1,
                problem: WarmUpProblem::TooLong
            }]
        ));
    }
}
