//! The limits that a task names.

use std::sync::Arc;
use std::time::Duration;

use levelflow_common::expression::{ExpressionError, Scope, Template};
use levelflow_common::limits::MAX_LIMIT_KEY_BYTES;
use levelflow_common::workflow::{OnFull, Task};
use levelflow_common::{Code, Failure};
use serde_json::Value;

/// The limits that a task names.
#[derive(Debug)]
pub struct LimitSpec {
    pub(crate) concurrency: Option<ConcurrencySpec>,
    pub(crate) rate: Option<RateSpec>,
    /// The keys, where they hold no expression.
    constant: Option<LimitKeys>,
}

#[derive(Debug)]
pub(crate) struct ConcurrencySpec {
    key: Template,
    pub(crate) limit: u32,
    pub(crate) on_full: OnFull,
}

#[derive(Debug)]
pub(crate) struct RateSpec {
    key: Template,
    pub(crate) rate: Rate,
}

/// So many starts in a row, and as many again in each period.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Rate {
    pub(crate) limit: u32,
    pub(crate) per: Duration,
}

/// What a task has in common with those that count together with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitKeys {
    pub(crate) concurrency: Option<Arc<str>>,
    pub(crate) rate: Option<Arc<str>>,
}

impl LimitSpec {
    /// The limits of a task, if it names any.
    pub(crate) fn new(task: &Task) -> Result<Option<Self>, ExpressionError> {
        if task.concurrency.is_none() && task.rate_limit.is_none() {
            return Ok(None);
        }
        let template = |key: &str| Template::compile(&Value::from(key));
        let concurrency = match &task.concurrency {
            Some(concurrency) => Some(ConcurrencySpec {
                key: template(&concurrency.key)?,
                limit: concurrency.limit,
                on_full: concurrency.on_full,
            }),
            None => None,
        };
        let rate = match &task.rate_limit {
            Some(rate) => Some(RateSpec {
                key: template(&rate.key)?,
                rate: Rate {
                    limit: rate.limit,
                    per: rate.per.0,
                },
            }),
            None => None,
        };
        let keys = [
            concurrency.as_ref().map(|it| &it.key),
            rate.as_ref().map(|it| &it.key),
        ];
        let is_constant = keys.into_iter().flatten().all(Template::is_static);
        let constant = is_constant.then(|| LimitKeys {
            concurrency: task.concurrency.as_ref().map(|it| it.key.as_str().into()),
            rate: task.rate_limit.as_ref().map(|it| it.key.as_str().into()),
        });
        Ok(Some(Self {
            concurrency,
            rate,
            constant,
        }))
    }

    /// The keys, where they hold no expression.
    pub(crate) fn constant_keys(&self) -> Option<&LimitKeys> {
        self.constant.as_ref()
    }

    /// The keys for a task that is about to be queued.
    ///
    /// # Errors
    /// When an expression fails, or what it gives is no key.
    pub fn keys(&self, scope: &Scope) -> Result<Box<LimitKeys>, Failure> {
        let key = |name: &str, template: &Template| {
            let value = template
                .render(scope)
                .map_err(|error| Failure::permanent(Code::ExpressionFailed, error.message()))?;
            text_of(value).map_err(|problem| {
                let message = format!("`{name}.key` must be text, not {problem}");
                Failure::permanent(Code::TaskInputInvalid, message)
            })
        };
        let concurrency = self.concurrency.as_ref().map(|it| &it.key);
        let rate = self.rate.as_ref().map(|it| &it.key);
        Ok(Box::new(LimitKeys {
            concurrency: concurrency.map(|it| key("concurrency", it)).transpose()?,
            rate: rate.map(|it| key("rate_limit", it)).transpose()?,
        }))
    }
}

/// The text of a key, or what it is instead.
fn text_of(value: Value) -> Result<Arc<str>, String> {
    let text = match value {
        Value::String(text) => text,
        Value::Number(number) => number.to_string(),
        Value::Bool(is) => is.to_string(),
        Value::Null => return Err("null".to_owned()),
        Value::Array(_) => return Err("a list".to_owned()),
        Value::Object(_) => return Err("a map".to_owned()),
    };
    match text.len() {
        0 => Err("empty".to_owned()),
        1..=MAX_LIMIT_KEY_BYTES => Ok(text.into()),
        bytes => Err(format!(
            "{bytes} bytes of it; the most is {MAX_LIMIT_KEY_BYTES}"
        )),
    }
}
