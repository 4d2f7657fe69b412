//! What runs attempts, one module a task type.

pub(crate) mod batch;
mod chat;
pub(crate) mod handler;
mod http;
mod output;
mod process;
mod sql;
mod transform;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::FutureExt as _;
use levelflow_common::{AttemptResult, Code, Failure, TaskKind};
use levelflow_proto::v1;

use crate::attempt::{Job, catch_panic};
use crate::config::WorkerConfig;
use crate::context::Context;
use crate::error::WorkerError;
use crate::pace::Pace;
use crate::secrets::{self, SecretsConfig};
use chat::ChatExecutor;
use handler::Handler;
use http::HttpExecutor;

pub use batch::BatchOptions;
pub use chat::ChatModel;
pub use http::{HttpConfig, HttpPool, HttpPoolStatistics, install_tls_provider};
pub use sql::{SqlConnection, SqlDatabases, SqlPoolStatistics};

/// The executors of a worker.
pub(crate) struct Executors {
    handlers: BTreeMap<String, Entry>,
    http: HttpExecutor,
    sql: SqlDatabases,
    chat: ChatExecutor,
    allow_process: bool,
    secrets: Arc<SecretsConfig>,
    paces: Paces,
}

/// The records of everything but handlers.
#[derive(Default)]
struct Paces {
    http: Arc<Pace>,
    sql: Arc<Pace>,
    chat: Arc<Pace>,
    process: Arc<Pace>,
    transform: Arc<Pace>,
    refusal: Arc<Pace>,
}

struct Entry {
    handler: Box<dyn Handler>,
    pace: Arc<Pace>,
}

impl Executors {
    pub(crate) fn new(
        handlers: BTreeMap<String, Box<dyn Handler>>,
        config: &WorkerConfig,
    ) -> Result<Self, WorkerError> {
        let with_pace = |(name, handler)| {
            let pace = Arc::default();
            (name, Entry { handler, pace })
        };
        let http = HttpExecutor::new(config.http.clone())?;
        Ok(Self {
            handlers: handlers.into_iter().map(with_pace).collect(),
            chat: ChatExecutor::new(&config.models, http.clone())?,
            http,
            sql: SqlDatabases::new(&config.connections)?,
            allow_process: config.allow_process,
            secrets: Arc::new(config.secrets.clone()),
            paces: Paces::default(),
        })
    }

    /// The connections of `http` tasks.
    pub(crate) fn http_pool(&self) -> HttpPool {
        self.http.pool()
    }

    /// The databases that `sql` tasks can name.
    pub(crate) fn databases(&self) -> &SqlDatabases {
        &self.sql
    }

    /// What tasks can name here, and are only placed where it is: databases, and models as
    /// [`levelflow_common::upstream::of_model`] writes them.
    pub(crate) fn connections(&self) -> impl Iterator<Item = String> {
        let models = self.chat.models().map(levelflow_common::upstream::of_model);
        self.sql.names().map(str::to_owned).chain(models)
    }

    /// The task types that run here, `handler` excepted.
    pub(crate) fn kinds(&self) -> Vec<TaskKind> {
        let mut kinds = vec![TaskKind::Http, TaskKind::Chat, TaskKind::Transform];
        if self.sql.names().next().is_some() {
            kinds.push(TaskKind::Sql);
        }
        if self.allow_process {
            kinds.push(TaskKind::Process);
        }
        kinds
    }

    /// The names of the handlers.
    pub(crate) fn handlers(&self) -> impl Iterator<Item = &str> {
        self.handlers.keys().map(String::as_str)
    }

    /// Makes a job of an attempt. Nothing runs before the job is polled.
    pub(crate) fn prepare(self: &Arc<Self>, context: Context, mut attempt: v1::Attempt) -> Job {
        let places = std::mem::take(&mut attempt.secrets);
        if places.is_empty() {
            return self.job(context, attempt);
        }
        let executors = Arc::clone(self);
        // As this one, but for its future.
        let plain = self.job(context.clone(), attempt.clone());
        let with_secrets = async move {
            let resolved = secrets::resolve(&executors.secrets, &attempt.input, places);
            let (input, redactor) = resolved.await?;
            let redactor = context.set_redactor(redactor);
            let job = executors.job(context.clone(), v1::Attempt { input, ..attempt });
            match job.future.await {
                Ok(output) => Ok(redactor.output(output)),
                Err(failure) => Err(redactor.failure(failure)),
            }
        };
        Job {
            future: with_secrets.boxed(),
            ..plain
        }
    }

    fn job(&self, context: Context, attempt: v1::Attempt) -> Job {
        let kind = attempt.kind();
        let v1::Attempt { input, handler, .. } = attempt;
        match kind {
            v1::TaskKind::Handler => match self.handlers.get(&handler) {
                Some(Entry { handler, pace }) => Job {
                    on_thread: handler.on_thread(),
                    ..job(handler.call(context, input), pace)
                },
                None => self.refuse(format!("this worker has no handler `{handler}`")),
            },
            v1::TaskKind::Http => job(self.http.clone().run(context, input), &self.paces.http),
            v1::TaskKind::Transform => job(transform::run(input), &self.paces.transform),
            v1::TaskKind::Process if self.allow_process => {
                let run = process::run(context, input, Arc::clone(&self.secrets));
                job(run, &self.paces.process)
            }
            v1::TaskKind::Process => self.refuse(
                "this worker does not run programs; start it so that it allows them".to_owned(),
            ),
            v1::TaskKind::Sql => job(self.sql.clone().run(context, input), &self.paces.sql),
            v1::TaskKind::Chat => job(self.chat.clone().run(context, input), &self.paces.chat),
            v1::TaskKind::Sleep | v1::TaskKind::Unspecified => {
                self.refuse("this worker does not run tasks of that type".to_owned())
            }
        }
    }

    fn refuse(&self, message: String) -> Job {
        let failure = Failure::permanent(Code::TaskUnsupported, message);
        job(std::future::ready(Err(failure)), &self.paces.refusal)
    }
}

fn job(work: impl Future<Output = AttemptResult> + Send + 'static, pace: &Arc<Pace>) -> Job {
    Job {
        future: catch_panic(work).boxed(),
        pace: Arc::clone(pace),
        on_thread: false,
    }
}
