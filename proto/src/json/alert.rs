//! Alerts.

use levelflow_common::overview::AlertView;
use schemars::JsonSchema;
use serde::Serialize;

use super::{JsonText, timestamp};

/// Alerts of a coordinator.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AlertList<'a> {
    /// The oldest first.
    pub alerts: Vec<Alert<'a>>,
}

impl<'a> From<&'a [AlertView]> for AlertList<'a> {
    fn from(views: &'a [AlertView]) -> Self {
        Self {
            alerts: views.iter().map(Into::into).collect(),
        }
    }
}

/// An alert of a coordinator.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Alert<'a> {
    /// Its number: from 1 since the coordinator started.
    number: u64,
    /// When it came.
    #[schemars(extend("format" = "date-time"))]
    at: String,
    /// What programs match on, such as `memory_critical`.
    kind: &'a str,
    /// Whether something is well again, rather than wrong.
    all_clear: bool,
    /// What people read.
    text: &'a str,
    /// What it is about, an object.
    subject: Option<JsonText<'a>>,
}

impl<'a> From<&'a AlertView> for Alert<'a> {
    fn from(view: &'a AlertView) -> Self {
        Self {
            number: view.number,
            at: timestamp(view.at),
            kind: &view.kind,
            all_clear: view.is_all_clear,
            text: &view.text,
            subject: JsonText::read(&view.subject),
        }
    }
}
