//! What runs attempts, one module a task type.

pub(crate) mod batch;
mod chat;
mod guard;
pub(crate) mod handler;
mod http;
pub(crate) mod isolated;
pub(crate) mod output;
mod process;
mod process_group;
mod program;
mod sql;
mod sse;
mod text_stream;
mod transform;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::FutureExt as _;
use levelflow_common::{AttemptResult, Code, Failure, TaskKind};
use levelflow_proto::v1;

use crate::attempt::{Job, catch_panic};
use crate::cache::{HandlerScope, WorkerCache};
use crate::config::WorkerConfig;
use crate::context::Context;
use crate::error::WorkerError;
use crate::pace::Pace;
use crate::secrets::{self, SecretsConfig};
use chat::ChatExecutor;
use handler::Handler;
use http::HttpExecutor;
use process::Programs;

pub(crate) use output::write_chunk;

pub use batch::BatchOptions;
pub use chat::ChatModel;
pub use guard::serve_as_guard;
pub use http::{HttpConfig, HttpPool, HttpPoolStatistics};
pub use isolated::IsolationOptions;
pub use sql::{SqlConnection, SqlDatabases, SqlPoolStatistics};

/// The executors of a worker.
pub(crate) struct Executors {
    handlers: BTreeMap<String, Entry>,
    /// What handlers keep.
    cache: Arc<WorkerCache>,
    http: HttpExecutor,
    sql: SqlDatabases,
    chat: ChatExecutor,
    /// None if no program may run.
    programs: Option<Arc<Programs>>,
    handler_pools: Vec<PoolSource>,
    secrets: Arc<SecretsConfig>,
    paces: Paces,
}

/// Says what attempts at handlers share, and how much of it is in use.
pub(crate) type PoolSource = Box<dyn Fn() -> v1::Pool + Send + Sync>;

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
    scope: Arc<HandlerScope>,
}

impl Executors {
    pub(crate) fn new(
        handlers: BTreeMap<String, Box<dyn Handler>>,
        handler_pools: Vec<PoolSource>,
        config: &WorkerConfig,
        guard_programs: bool,
    ) -> Result<Self, WorkerError> {
        let cache = Arc::new(WorkerCache::new(config.cache.clone()));
        let entry = |(name, handler): (String, _)| {
            let scope = Arc::new(HandlerScope {
                cache: Arc::clone(&cache),
                handler: name.clone(),
            });
            let pace = Arc::default();
            let entry = Entry {
                handler,
                pace,
                scope,
            };
            (name, entry)
        };
        let http = HttpExecutor::new(config.http.clone())?;
        Ok(Self {
            handlers: handlers.into_iter().map(entry).collect(),
            cache,
            chat: ChatExecutor::new(&config.models, http.clone())?,
            http,
            sql: SqlDatabases::new(&config.connections)?,
            programs: config
                .allow_process
                .then(|| Arc::new(Programs::new(config.slots, guard_programs))),
            handler_pools,
            secrets: Arc::new(config.secrets.clone()),
            paces: Paces::default(),
        })
    }

    /// The cache of the handlers.
    pub(crate) fn cache(&self) -> &Arc<WorkerCache> {
        &self.cache
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
        if self.programs.is_some() {
            kinds.push(TaskKind::Process);
        }
        kinds
    }

    /// What attempts share, and how much of it is in use.
    pub(crate) fn pools(&self) -> Vec<v1::Pool> {
        let databases = self.sql.pools();
        let programs = self.programs.iter().map(|programs| programs.usage.pool(0));
        let handlers = self.handler_pools.iter().map(|pool| pool());
        std::iter::once(self.http.pool().to_message())
            .chain(databases)
            .chain(programs)
            .chain(handlers)
            .collect()
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
                Some(Entry {
                    handler,
                    pace,
                    scope,
                }) => Job {
                    on_thread: handler.on_thread(),
                    ..job(handler.call(context.with_cache(scope), input), pace)
                },
                None => self.refuse(format!("this worker has no handler `{handler}`")),
            },
            v1::TaskKind::Http => job(self.http.clone().run(context, input), &self.paces.http),
            v1::TaskKind::Transform => job(transform::run(input), &self.paces.transform),
            v1::TaskKind::Process => match &self.programs {
                Some(programs) => {
                    let programs = Arc::clone(programs);
                    let run = process::run(context, input, Arc::clone(&self.secrets), programs);
                    job(run, &self.paces.process)
                }
                None => self.refuse(
                    "this worker does not run programs; start it so that it allows them".to_owned(),
                ),
            },
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
