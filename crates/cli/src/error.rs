//! Why a command did not do what it was asked.

use std::error::Error as _;
use std::path::PathBuf;

use levelflow_common::document::Problems;
use levelflow_common::inputs::FieldProblem;
use levelflow_common::limits::MAX_FILE_BYTES;
use levelflow_common::{Code, Fault, RunId, TaskKind};
use levelflow_coordinator::StartError;
use levelflow_proto::ApiError;
use levelflow_runtime::config::ConfigError;
use levelflow_runtime::telemetry::TelemetryError;
use levelflow_store::Owner;
use levelflow_worker::WorkerError;

use crate::exit::Exit;
use crate::render::diagnostic::{Diagnostic, Problem};

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The log filter is wrong.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// The program does not know where it is itself.
    #[error("cannot find this program, to start workers with it")]
    OwnProgram(#[source] std::io::Error),
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is too long.
    #[error("{} is over {} MiB, the most that is read", path.display(), MAX_FILE_BYTES / (1024 * 1024))]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A workflow has problems.
    #[error("{name} has {}", crate::render::counted(problems.len(), "problem"))]
    Workflow {
        /// The file.
        name: String,
        /// The problems.
        problems: Box<Problems>,
    },
    /// The inputs do not fit the workflow.
    #[error("the inputs do not fit the workflow")]
    Inputs(Vec<FieldProblem>),
    /// The file with inputs is not a map.
    #[error("{name} is not a map of inputs")]
    InputsFile {
        /// The file.
        name: String,
        /// The problems.
        problems: Box<Problems>,
    },
    /// A coordinator refused, or could not be reached.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The coordinator in this process did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The worker could not start or had to end.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// Another process uses the data directory and serves nobody.
    #[error("the data directory {} is in use by process {}", data_dir.display(), owner.pid)]
    DataDirInUse {
        /// The directory.
        data_dir: PathBuf,
        /// The process.
        owner: Owner,
    },
    /// There is no home directory to keep runs in.
    #[error("there is no data directory, because neither XDG_DATA_HOME nor HOME is set")]
    NoDataDir,
    /// The run has no such output.
    #[error("run {run_id} has no output `{name}`")]
    NoOutput {
        /// The run.
        run_id: RunId,
        /// The name.
        name: String,
        /// What it has.
        known: Vec<String>,
    },
    /// A task asks a database or a language model that is not configured.
    #[error("task `{task}` of type `{kind}` asks `{name}`, which is not configured")]
    NotConfigured {
        /// The task.
        task: String,
        /// Its type.
        kind: TaskKind,
        /// The database or model.
        name: String,
    },
    /// The signal handlers could not be installed.
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
    /// The threads that serve could not be started.
    #[error("cannot start the threads that serve")]
    Threads(#[source] std::io::Error),
    /// A worker that ended for its memory could not be started anew.
    #[error("cannot start the worker anew")]
    Restart(#[source] std::io::Error),
    /// What was to be shown could not be written.
    #[error("cannot write to standard output")]
    Output(#[source] std::io::Error),
    /// What was to be shown could not be written as JSON.
    #[error("cannot write JSON")]
    Json(#[from] serde_json::Error),
}

impl CliError {
    /// The stable code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Config(error) => error.code(),
            Self::Telemetry(error) => error.code(),
            Self::Unreadable { .. } | Self::NoOutput { .. } => Code::RequestInvalid,
            Self::TooLarge { .. } => Code::TooLarge,
            Self::Workflow { .. } => Code::WorkflowInvalid,
            Self::Inputs(_) | Self::InputsFile { .. } => Code::InputInvalid,
            Self::Api(error) => error.code(),
            Self::Start(error) => error.code(),
            Self::Worker(error) => error.code(),
            Self::DataDirInUse { .. } => Code::DataDirLocked,
            Self::NoDataDir | Self::NotConfigured { .. } => Code::ConfigInvalid,
            Self::Signals(_)
            | Self::Threads(_)
            | Self::OwnProgram(_)
            | Self::Restart(_)
            | Self::Output(_)
            | Self::Json(_) => Code::Internal,
        }
    }

    /// The exit code of the process.
    pub(crate) fn exit(&self) -> Exit {
        match self.code().fault() {
            Fault::Caller | Fault::NotFound | Fault::Conflict => Exit::Usage,
            Fault::Exhausted | Fault::Unavailable | Fault::Internal | Fault::Task => Exit::Other,
        }
    }

    /// What to do about it.
    fn help(&self) -> Option<String> {
        let text = match (self, self.code()) {
            (Self::Inputs(_), _) => "give inputs with --input NAME=VALUE or --inputs-file FILE",
            (Self::NoOutput { known, .. }, _) if known.is_empty() => {
                "the workflow declares none under `outputs`"
            }
            (Self::NoOutput { known, .. }, _) => {
                return Some(format!("its outputs are {}", known.join(", ")));
            }
            (Self::NotConfigured { kind, name, .. }, _) => {
                return Some(if *kind == TaskKind::Sql {
                    format!(
                        "give its address with --connection {name}=URL, or under \
                         `worker.connections.{name}` in the configuration file"
                    )
                } else {
                    format!(
                        "describe it under `worker.models.{name}` in the configuration file, or give the \
                         task a `base_url`"
                    )
                });
            }
            (_, Code::DataDirLocked) => {
                "wait for that process, submit to it with `levelflow submit` if it serves, \
                 or use another directory with --data-dir"
            }
            (_, Code::ServerUnreachable) => {
                "start a coordinator with `levelflow dev`, or name another one with --address"
            }
            (_, Code::RunNotFound) => "`levelflow list` shows the runs that are known",
            (_, Code::NotResumable) => {
                "only failed and cancelled runs are resumed; `levelflow watch` follows one that is open"
            }
            (_, Code::AddressUnavailable) => {
                "use another address with --listen and --http; port 0 takes a free one"
            }
            (Self::NoDataDir, _) => "name one with --data-dir",
            (_, Code::StoreTooNew) => "use the newer version of levelflow, or another --data-dir",
            _ => {
                if let Self::Api(ApiError {
                    retry_after: Some(wait),
                    ..
                }) = self
                {
                    return Some(format!(
                        "try again in {}",
                        crate::render::time::duration(*wait)
                    ));
                }
                return None;
            }
        };
        Some(text.to_owned())
    }

    /// The error as it is shown.
    pub(crate) fn diagnostic(&self) -> Diagnostic {
        let mut causes: Vec<String> = Vec::new();
        let mut source = self.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Some errors only wrap a number around the words of their source.
            if !causes.last().is_some_and(|last| text.ends_with(last)) {
                causes.push(text);
            }
            source = cause.source();
        }
        let plain = |path: &str, message: &str| Problem {
            path: path.to_owned(),
            line: None,
            column: None,
            message: message.to_owned(),
            help: None,
        };
        let problems = match self {
            Self::Workflow { problems, .. } | Self::InputsFile { problems, .. } => problems
                .iter()
                .map(|problem| Problem {
                    line: problem.position.map(|position| position.line),
                    column: problem.position.map(|position| position.column),
                    help: problem.help.clone(),
                    ..plain(&problem.path, &problem.message)
                })
                .collect(),
            Self::Inputs(problems) => problems
                .iter()
                .map(|problem| plain(&problem.field, &problem.message))
                .collect(),
            Self::Api(error) => error
                .violations
                .iter()
                .map(|violation| Problem {
                    line: violation.position.map(|(line, _)| line),
                    column: violation.position.map(|(_, column)| column),
                    ..plain(&violation.field, &violation.description)
                })
                .collect(),
            _ => Vec::new(),
        };
        Diagnostic {
            code: self.code().as_str(),
            message: self.to_string(),
            causes,
            problems,
            help: self.help(),
            excerpt: match self {
                Self::Workflow { problems, .. } | Self::InputsFile { problems, .. } => {
                    Some(problems.to_string())
                }
                _ => None,
            },
        }
    }
}
