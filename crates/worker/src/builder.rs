//! Describing a worker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use levelflow_cache::CacheConfig;
use levelflow_common::HumanDuration;
use levelflow_common::limits::MAX_CACHE_TAG_BYTES;
use levelflow_transport::nats::NatsConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::transport::Channel;
use uuid::Uuid;

use crate::config::WorkerConfig;
use crate::connection::Target;
use crate::context::Context;
use crate::error::WorkerError;
use crate::executor::batch::{BatchOptions, Gatherer, batch_handler};
use crate::executor::handler::{AsyncHandler, Handler, ThreadHandler, Threads};
use crate::executor::isolated::{Function, IsolatedHandler, Role};
use crate::executor::output::{read_input, write_output};
use crate::executor::{
    ChatModel, Executors, HttpConfig, IsolationOptions, PoolSource, SqlConnection,
};
use crate::handler_error::HandlerError;
use crate::memory::{MemoryConfig, Relief};
use crate::nats::NatsTarget;
use crate::secrets::SecretsConfig;
use crate::usage::Usage;
use crate::worker::Worker;

/// How far threads for computing step back.
#[cfg(target_os = "linux")]
const CPU_NICENESS: i32 = 10;

/// The queue of workers that name none.
const DEFAULT_QUEUE: &str = "default";

type Handlers = BTreeMap<String, Box<dyn Handler>>;
type OnThreads = Box<dyn FnOnce(Threads) -> Box<dyn Handler>>;
type InBatches = Box<dyn FnOnce(BatchOptions, Arc<Usage>) -> (Box<dyn Handler>, Gatherer)>;

/// A handler as it was described.
struct Registration {
    name: String,
    version: Option<String>,
    handler: Registered,
}

enum Registered {
    Async(Box<dyn Handler>),
    Batch(BatchOptions, InBatches),
    Cpu(OnThreads),
    Blocking(OnThreads),
    Isolated(IsolationOptions, Function),
}

/// Describes a worker; [`WorkerBuilder::build`] checks the description.
#[derive(Default)]
pub struct WorkerBuilder {
    config: WorkerConfig,
    channel: Option<Channel>,
    handlers: Vec<Registration>,
    /// A version was given before there was a handler to have it.
    stray_version: Option<String>,
    guard_programs: bool,
    reliefs: Vec<Relief>,
}

impl WorkerBuilder {
    /// Takes all settings from a configuration.
    #[must_use]
    pub fn config(mut self, config: WorkerConfig) -> Self {
        self.config = config;
        self
    }

    /// Where the coordinator listens, for example `http://127.0.0.1:7400`.
    #[must_use]
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.config.address = address.into();
        self
    }

    /// Reaches the coordinator over NATS instead of at its address.
    #[must_use]
    pub fn nats(mut self, config: NatsConfig) -> Self {
        self.config.nats = config;
        self
    }

    /// Uses an open channel to the coordinator instead of an address.
    #[must_use]
    pub fn channel(mut self, channel: Channel) -> Self {
        self.channel = Some(channel);
        self
    }

    /// A name that no other live worker has. By default it is made from the name of the host.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.config.id = id.into();
        self
    }

    /// Subscribes to a queue; may be called several times. Without it, to `default`.
    #[must_use]
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.config.queues.push(queue.into());
        self
    }

    /// Adds a label by which tasks can select the worker.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.labels.insert(key.into(), value.into());
        self
    }

    /// How many attempts run at once.
    #[must_use]
    pub fn slots(mut self, slots: usize) -> Self {
        self.config.slots = slots;
        self
    }

    /// How many attempts beyond the slots wait here for the next free slot.
    #[must_use]
    pub fn prefetch(mut self, attempts: usize) -> Self {
        self.config.prefetch = attempts;
        self
    }

    /// Whether the worker runs programs for tasks of type `process`. They run as the user of the
    /// worker, with its rights: off by default.
    #[must_use]
    pub fn allow_process(mut self, allow: bool) -> Self {
        self.config.allow_process = allow;
        self
    }

    /// Whether programs of tasks are ended also when the worker is killed. A second process of this
    /// program sees to that, so `main` has to call [`serve_as_guard`](crate::serve_as_guard) first: off
    /// by default.
    #[must_use]
    pub fn guard_programs(mut self, guard: bool) -> Self {
        self.guard_programs = guard;
        self
    }

    /// The settings of `http` tasks.
    #[must_use]
    pub fn http(mut self, config: HttpConfig) -> Self {
        self.config.http = config;
        self
    }

    /// Lets `http` tasks call a network, address or host that is not of the public internet, such as
    /// `10.0.0.0/8`, `127.0.0.1:8080` or `db.internal`; may be called several times.
    #[must_use]
    pub fn allow_http(mut self, target: impl Into<String>) -> Self {
        self.config.http.allow.push(target.into());
        self
    }

    /// Lets `chat` tasks ask a language model by this name.
    #[must_use]
    pub fn model(mut self, name: impl Into<String>, model: ChatModel) -> Self {
        self.config.models.insert(name.into(), model);
        self
    }

    /// Lets `sql` tasks ask a database by this name.
    #[must_use]
    pub fn connection(mut self, name: impl Into<String>, connection: SqlConnection) -> Self {
        self.config.connections.insert(name.into(), connection);
        self
    }

    /// Where the worker finds secrets.
    #[must_use]
    pub fn secrets(mut self, config: SecretsConfig) -> Self {
        self.config.secrets = config;
        self
    }

    /// The settings of what handlers keep in [`Context::cache`].
    #[must_use]
    pub fn cache(mut self, config: CacheConfig) -> Self {
        self.config.cache = config;
        self
    }

    /// The watch over the worker's memory.
    #[must_use]
    pub fn memory(mut self, config: MemoryConfig) -> Self {
        self.config.memory = config;
        self
    }

    /// Called when the worker's memory reaches its warning limit or its critical one, on a thread where
    /// it may block: gives back what it can, such as the entries of a cache. May be called several times.
    #[must_use]
    pub fn on_memory_pressure(mut self, give_back: impl Fn() + Send + Sync + 'static) -> Self {
        self.reliefs.push(Arc::new(give_back));
        self
    }

    /// How long running attempts may go on after the worker was told to end.
    #[must_use]
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.config.drain_timeout = HumanDuration(timeout);
        self
    }

    /// How long a cancelled attempt has to end by itself.
    #[must_use]
    pub fn cancel_grace(mut self, grace: Duration) -> Self {
        self.config.cancel_grace = HumanDuration(grace);
        self
    }

    /// Registers an async handler: an async function, an async closure that captures nothing, or a
    /// closure that clones what it captured and returns a future:
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use levelflow_worker::{HandlerError, Worker};
    /// # struct Database;
    /// # impl Database { async fn name(&self, _: u64) -> Result<String, HandlerError> { Ok("".into()) } }
    /// let database = Arc::new(Database);
    /// let builder = Worker::builder().handler("name_of", move |_ctx, id: u64| {
    ///     let database = Arc::clone(&database);
    ///     async move { Ok(database.name(id).await?) }
    /// });
    /// ```
    ///
    /// When the attempt is to stop, [`Context::cancelled`] ends; a future that still goes on after
    /// [`WorkerBuilder::cancel_grace`] is dropped. It must not hold up its thread: compute in a [`WorkerBuilder::cpu_handler`], wait without
    /// `await` in a [`WorkerBuilder::blocking_handler`].
    #[must_use]
    pub fn handler<F, I, O, Fut>(self, name: impl Into<String>, function: F) -> Self
    where
        F: Fn(Context, I) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, HandlerError>> + Send + 'static,
        I: DeserializeOwned + Send + 'static,
        O: Serialize + Send + 'static,
    {
        let handler = Registered::Async(Box::new(AsyncHandler::new(function)));
        self.register(name.into(), handler)
    }

    /// Registers an async handler that gets many attempts in one call, for work that is cheaper
    /// together: rows of one statement, texts for one call of a model. It returns one result for each
    /// attempt, in their order:
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use levelflow_worker::{BatchOptions, Context, HandlerError, Worker};
    /// # async fn embed(texts: &[String]) -> Result<Vec<Vec<f32>>, std::io::Error> {
    /// #     Ok(vec![Vec::new(); texts.len()])
    /// # }
    /// let options = BatchOptions { max_size: 16, max_wait: Duration::from_millis(20) };
    /// let builder = Worker::builder().slots(64).batch_handler(
    ///     "embed",
    ///     options,
    ///     async |attempts: Vec<(Context, String)>| {
    ///         let texts: Vec<String> = attempts.into_iter().map(|(_, text)| text).collect();
    ///         let vectors = embed(&texts).await?;
    ///         Ok(vectors.into_iter().map(Ok).collect())
    ///     },
    /// );
    /// # builder.build().unwrap();
    /// ```
    ///
    /// Attempts gather, each in its slot and within its own timeouts, until there are
    /// [`BatchOptions::max_size`] or the first has waited for [`BatchOptions::max_wait`]; a worker that
    /// drains calls at once. An attempt that is stopped while it waits is left out; one that is stopped
    /// later loses its result, and the call goes on for the others. An error or a panic of the call fails
    /// all its attempts, and so does a wrong number of results, for good. Several calls may run at once.
    #[must_use]
    pub fn batch_handler<F, I, O, Fut>(
        self,
        name: impl Into<String>,
        options: BatchOptions,
        function: F,
    ) -> Self
    where
        F: Fn(Vec<(Context, I)>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<Result<O, HandlerError>>, HandlerError>> + Send + 'static,
        I: DeserializeOwned + Send + 'static,
        O: Serialize + Send + 'static,
    {
        let make = |options, usage| batch_handler(function, options, usage);
        self.register(name.into(), Registered::Batch(options, Box::new(make)))
    }

    /// Registers a handler that computes: it runs on a pool with one thread a core. On Linux the threads
    /// have a lower priority (10 nicer) than those that serve and wait.
    #[must_use]
    pub fn cpu_handler<F, I, O>(self, name: impl Into<String>, function: F) -> Self
    where
        F: Fn(Context, I) -> Result<O, HandlerError> + Send + Sync + 'static,
        I: DeserializeOwned + 'static,
        O: Serialize + 'static,
    {
        let handler = Registered::Cpu(on_threads(function));
        self.register(name.into(), handler)
    }

    /// Registers a handler that waits without `await`, on files or with a blocking client: it runs on
    /// a thread of its own.
    #[must_use]
    pub fn blocking_handler<F, I, O>(self, name: impl Into<String>, function: F) -> Self
    where
        F: Fn(Context, I) -> Result<O, HandlerError> + Send + Sync + 'static,
        I: DeserializeOwned + 'static,
        O: Serialize + 'static,
    {
        let handler = Registered::Blocking(on_threads(function));
        self.register(name.into(), handler)
    }

    /// Registers a handler whose attempts run in child processes of the worker, one at a time in each:
    /// when it crashes or takes too much memory, its attempt fails as `handler_crashed` or
    /// `memory_exceeded`, and nothing else does. One that does not stop when it is told to is killed
    /// after [`WorkerBuilder::cancel_grace`].
    ///
    /// ```no_run
    /// use levelflow_worker::{IsolationOptions, Worker, on_signal};
    /// # #[derive(serde::Deserialize)] struct Page { url: String }
    /// # fn render(_: &Page) -> Result<Vec<u8>, std::io::Error> { Ok(Vec::new()) }
    ///
    /// #[tokio::main]
    /// async fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     let options = IsolationOptions { max_resident_mib: 256, ..IsolationOptions::default() };
    ///     let worker = Worker::builder()
    ///         .isolated_handler("render", options, |_ctx, page: Page| Ok(render(&page)?))
    ///         .build()?;
    ///     Ok(worker.run(on_signal()?).await?.restart_program()?)
    /// }
    /// ```
    ///
    /// A child is this program, started again with the same arguments: its `main` comes to
    /// [`Worker::run`] the same way, and from there serves the worker that started it. So what comes
    /// before should have no effects of its own, such as a port that it listens on. What a child writes
    /// to its standard output goes to the standard error of the worker. The function may compute or wait;
    /// it has a thread for itself. Children are used again, and end with the worker, however that ends.
    /// A call of [`Context::call`] that hangs until the attempt runs out of time is not told to the
    /// breaker.
    #[must_use]
    pub fn isolated_handler<F, I, O>(
        self,
        name: impl Into<String>,
        options: IsolationOptions,
        function: F,
    ) -> Self
    where
        F: Fn(Context, I) -> Result<O, HandlerError> + Send + Sync + 'static,
        I: DeserializeOwned + 'static,
        O: Serialize + 'static,
    {
        let function: Function = Arc::new(move |context, input| {
            let output = function(context, read_input(input)?)?;
            write_output(&output)
        });
        self.register(name.into(), Registered::Isolated(options, function))
    }

    fn register(mut self, name: String, handler: Registered) -> Self {
        self.handlers.push(Registration {
            name,
            version: None,
            handler,
        });
        self
    }

    /// The version of the handler that was registered last, such as `"2"` or a commit. Raise it when the
    /// same input is to give another result: what the cache of the coordinator has of one version is
    /// never used for another.
    ///
    /// ```
    /// # use levelflow_worker::Worker;
    /// let builder = Worker::builder()
    ///     .handler("classify", async |_ctx, text: String| Ok(text.len()))
    ///     .version("2");
    /// # builder.build().unwrap();
    /// ```
    ///
    /// While workers with different versions are connected, results of the handler are neither looked up
    /// nor kept.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        match self.handlers.last_mut() {
            Some(last) => last.version = Some(version.into()),
            None => self.stray_version = Some(version.into()),
        }
        self
    }

    /// Checks the description and makes the worker.
    ///
    /// # Errors
    /// When a setting is out of its range, the address is malformed, a handler is registered twice, a
    /// version is of no handler, is empty or too long, or threads cannot be started.
    pub fn build(self) -> Result<Worker, WorkerError> {
        let Self {
            mut config,
            channel,
            handlers,
            stray_version,
            guard_programs,
            mut reliefs,
        } = self;
        config.validate()?;
        if let Some(version) = stray_version {
            return Err(WorkerError::StrayVersion(version));
        }
        if config.id.is_empty() {
            config.id = unique_id();
        }
        if config.queues.is_empty() {
            config.queues.push(DEFAULT_QUEUE.to_owned());
        }
        let target = match channel {
            Some(channel) => Target::Channel(channel),
            None if config.nats.is_given() => Target::Nats(NatsTarget::any(config.nats.clone())),
            None => Target::at(&config.address)?,
        };
        let placed = Placed::of(handlers, &config)?;
        let executors = Executors::new(placed.handlers, placed.pools, &config, guard_programs)?;
        let cache = Arc::clone(executors.cache());
        reliefs.push(Arc::new(move || cache.clear_memory()));
        Ok(Worker::new(
            config,
            target,
            executors,
            placed.versions,
            placed.gatherers,
            placed.role,
            reliefs,
        ))
    }
}

fn on_threads<F, I, O>(function: F) -> OnThreads
where
    F: Fn(Context, I) -> Result<O, HandlerError> + Send + Sync + 'static,
    I: DeserializeOwned + 'static,
    O: Serialize + 'static,
{
    Box::new(|threads| Box::new(ThreadHandler::new(Arc::new(function), threads)))
}

/// The handlers where they run.
struct Placed {
    handlers: Handlers,
    /// The versions of those that have one.
    versions: BTreeMap<String, String>,
    gatherers: Vec<Gatherer>,
    pools: Vec<PoolSource>,
    role: Option<Role>,
}

impl Placed {
    /// Gives each handler the threads or processes that it runs on, or what gathers its attempts.
    fn of(registered: Vec<Registration>, config: &WorkerConfig) -> Result<Self, WorkerError> {
        let mut placed = Self {
            handlers: BTreeMap::new(),
            versions: BTreeMap::new(),
            gatherers: Vec::new(),
            pools: Vec::new(),
            role: Role::of_this_process(),
        };
        let mut cpu = None;
        let mut blocking = None;
        for registration in registered {
            let Registration {
                name,
                version,
                handler,
            } = registration;
            let handler = match handler {
                Registered::Async(handler) => handler,
                Registered::Batch(options, make) => {
                    options.validate(config.slots)?;
                    let usage = Usage::new(format!("batch:{name}"), config.slots);
                    let (handler, gatherer) = make(options, Arc::clone(&usage));
                    placed.gatherers.push(gatherer);
                    placed.pools.push(Box::new(move || usage.pool(0)));
                    handler
                }
                Registered::Blocking(place) => {
                    let new = || Ok(Threads::blocking(config.blocking_threads));
                    place(placed.threads(&mut blocking, new)?)
                }
                Registered::Cpu(place) => {
                    let new = || cpu_threads(config.cpu_threads);
                    place(placed.threads(&mut cpu, new)?)
                }
                Registered::Isolated(options, function) => {
                    options.validate()?;
                    if let Some(role) = &mut placed.role {
                        role.offer(&name, &function);
                    }
                    let handler = IsolatedHandler::new(&name, options);
                    let pool = handler.clone();
                    placed.pools.push(Box::new(move || pool.pool()));
                    Box::new(handler)
                }
            };
            if placed.handlers.contains_key(&name) {
                return Err(WorkerError::DuplicateHandler(name));
            }
            if let Some(version) = version {
                if version.is_empty() || version.len() > MAX_CACHE_TAG_BYTES {
                    return Err(WorkerError::HandlerVersion(name));
                }
                placed.versions.insert(name.clone(), version);
            }
            placed.handlers.insert(name, handler);
        }
        Ok(placed)
    }

    /// The threads that several handlers share, made for the first of them.
    fn threads(
        &mut self,
        shared: &mut Option<Threads>,
        new: impl FnOnce() -> Result<Threads, WorkerError>,
    ) -> Result<Threads, WorkerError> {
        if let Some(threads) = shared {
            return Ok(threads.clone());
        }
        let threads = shared.insert(new()?).clone();
        let pool = threads.clone();
        self.pools.push(Box::new(move || pool.pool()));
        Ok(threads)
    }
}

fn cpu_threads(count: usize) -> Result<Threads, WorkerError> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(count)
        .thread_name(|index| format!("cpu-handler-{index}"))
        .start_handler(|_| step_back())
        .build()
        .map_err(WorkerError::CpuThreads)?;
    Ok(Threads::cpu(pool))
}

/// Lets others come before this thread: what serves sessions and waits for calls needs a core for a moment
/// only, but at once.
fn step_back() {
    // Elsewhere this is the priority of the process.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(CPU_NICENESS) {
        tracing::debug!(%error, "threads for computing keep their priority");
    }
}

/// The name of the host, where it is known, and something random.
fn unique_id() -> String {
    let random = Uuid::now_v7().simple().to_string();
    let random = &random[random.len() - 8..];
    match std::fs::read_to_string("/proc/sys/kernel/hostname") {
        Ok(host) if !host.trim().is_empty() => format!("{}-{random}", host.trim()),
        _ => format!("worker-{random}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn nothing(_: Context, (): ()) -> Result<(), HandlerError> {
        Ok(())
    }

    #[test]
    fn a_worker_needs_no_settings() {
        let worker = Worker::builder().build().unwrap();
        assert!(!worker.id().is_empty());
        assert_ne!(worker.id(), Worker::builder().build().unwrap().id());
    }

    #[test]
    fn handlers_have_different_names() {
        let error = Worker::builder()
            .handler("a", nothing)
            .cpu_handler("a", |_, (): ()| Ok(()))
            .build()
            .err()
            .unwrap();
        assert_eq!(error.to_string(), "the handler `a` is registered twice");
    }

    #[test]
    fn a_version_is_that_of_a_handler() {
        let refused = |builder: WorkerBuilder| builder.build().err().unwrap().to_string();
        assert_eq!(
            refused(Worker::builder().version("2").handler("a", nothing)),
            "the version `2` comes before the handler that has it"
        );
        for version in [String::new(), "x".repeat(257)] {
            assert_eq!(
                refused(Worker::builder().handler("a", nothing).version(version)),
                "the version of the handler `a` must have 1 to 256 bytes"
            );
        }
    }
}
