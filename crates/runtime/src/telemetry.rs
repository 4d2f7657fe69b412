//! Logs of a process, written to the standard error stream.

use std::io::IsTerminal as _;

use levelflow_common::Code;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people, with colours on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logs cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is wrong.
    #[error(
        "`{filter}` is not a log filter: {source}; write for example info, or warn,levelflow_worker=debug"
    )]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logs were set up before.
    #[error("logs are set up already")]
    Repeated(#[from] tracing_subscriber::util::TryInitError),
}

impl TelemetryError {
    /// The stable code.
    pub const fn code(&self) -> Code {
        match self {
            Self::Filter { .. } => Code::ConfigInvalid,
            Self::Repeated(_) => Code::Internal,
        }
    }
}

/// Sets up the logs of this process. The filter is a level, or directives such as
/// `warn,levelflow_worker=debug`.
///
/// # Errors
/// When the filter is wrong, or this was called before.
pub fn init(filter: &str, format: LogFormat) -> Result<(), TelemetryError> {
    let registry = tracing_subscriber::registry().with(parse_filter(filter)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Text => registry
            .with(lines.with_ansi(std::io::stderr().is_terminal()))
            .try_init()?,
        LogFormat::Json => registry
            .with(lines.json().flatten_event(true).with_ansi(false))
            .try_init()?,
    }
    Ok(())
}

fn parse_filter(filter: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|source| TelemetryError::Filter {
            filter: filter.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_filter_is_explained() {
        assert!(parse_filter("warn,levelflow_worker=debug").is_ok());
        let error = parse_filter("levelflow=loud").unwrap_err();
        assert_eq!(error.code(), Code::ConfigInvalid);
        assert_eq!(
            error.to_string(),
            "`levelflow=loud` is not a log filter: error parsing level filter: expected one of \
             \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\", or a number 0-5; \
             write for example info, or warn,levelflow_worker=debug"
        );
    }
}
