//! The processes that a suite measures: this program again, in another role.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use levelflow_coordinator::{Coordinator, CoordinatorConfig, Listen, PostgresConfig, Storage};
use levelflow_worker::{Context, HandlerError, NatsConfig, Worker};
use tokio::runtime::Runtime;

use crate::suite::cache::{Work, work};
use crate::suite::cpu::compute;
use crate::suite::streams;

/// What a child prints before its address, when it can be used.
pub(crate) const READY: &str = "ready ";

const DRAIN: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub(crate) struct CoordinatorArguments {
    #[arg(long, required_unless_present = "postgres")]
    data_dir: Option<PathBuf>,
    #[arg(long)]
    listen: Listen,
    /// The database that it shares with others, in place of the data directory.
    #[arg(long, requires = "schema")]
    postgres: Option<String>,
    #[arg(long)]
    schema: Option<String>,
    #[command(flatten)]
    nats: NatsArguments,
    /// Where to serve HTTP; nowhere if not given.
    #[arg(long)]
    http: Option<Listen>,
    #[arg(long, default_value_t = 0)]
    threads: usize,
    #[arg(long)]
    max_queue: usize,
    /// The settings of the result cache as JSON.
    #[arg(long)]
    cache: Option<String>,
}

#[derive(clap::Args)]
pub(crate) struct WorkerArguments {
    #[arg(long)]
    address: String,
    #[arg(long)]
    slots: usize,
    #[command(flatten)]
    nats: NatsArguments,
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

#[derive(clap::Args)]
struct NatsArguments {
    /// What workers reach coordinators over, in place of gRPC.
    #[arg(long, requires = "nats_prefix")]
    nats: Option<String>,
    #[arg(long)]
    nats_prefix: Option<String>,
}

impl NatsArguments {
    fn config(&self) -> NatsConfig {
        let mut config = self
            .nats
            .as_ref()
            .map_or_else(NatsConfig::default, NatsConfig::at);
        if let Some(prefix) = &self.nats_prefix {
            config.prefix.clone_from(prefix);
        }
        config
    }
}

pub(crate) fn coordinator(arguments: &CoordinatorArguments) -> Result<()> {
    runtime(arguments.threads)?.block_on(async {
        let stop = levelflow_runtime::shutdown::on_signal()?;
        let storage = match (&arguments.postgres, &arguments.schema) {
            (Some(url), Some(schema)) => Storage::Postgres(Box::new(PostgresConfig {
                schema: schema.clone(),
                ..PostgresConfig::at(url)
            })),
            _ => Storage::DataDir(arguments.data_dir.clone().context("it has a directory")?),
        };
        let mut config = CoordinatorConfig {
            listen: Some(arguments.listen.clone()),
            storage,
            max_queue: arguments.max_queue,
            nats: arguments.nats.config(),
            ..CoordinatorConfig::default()
        };
        config.http.listen.clone_from(&arguments.http);
        if let Some(cache) = &arguments.cache {
            config.cache = Some(serde_json::from_str(cache)?);
        }
        let coordinator = Coordinator::start(config).await?;
        let address = coordinator.address().context("it listens")?;
        match coordinator.http_address() {
            Some(http) => println!("{READY}{address} {http}"),
            None => println!("{READY}{address}"),
        }
        std::io::stdout().flush()?;
        stop.cancelled().await;
        coordinator.shutdown(DRAIN).await;
        Ok(())
    })
}

pub(crate) fn worker(arguments: &WorkerArguments) -> Result<()> {
    runtime(arguments.threads)?.block_on(async {
        let stop = levelflow_runtime::shutdown::on_signal()?;
        let worker = Worker::builder()
            .address(&arguments.address)
            .nats(arguments.nats.config())
            .slots(arguments.slots)
            .allow_http("127.0.0.1")
            .handler("noop", async |_: Context, (): ()| Ok::<_, HandlerError>(()))
            .handler("bytes", async |_: Context, length: usize| {
                Ok::<_, HandlerError>("x".repeat(length))
            })
            .handler(
                "stream",
                async |ctx: Context, (chunks, bytes, every_us): (u64, usize, u64)| {
                    for _ in 0..chunks {
                        ctx.emit(&streams::chunk(bytes)).await?;
                        tokio::time::sleep(Duration::from_micros(every_us)).await;
                    }
                    Ok(())
                },
            )
            .handler("work", async |_: Context, task: Work| {
                Ok::<_, HandlerError>(work(task).await)
            })
            .cpu_handler("compute", |_: Context, steps: u64| {
                Ok::<_, HandlerError>(compute(steps))
            })
            .build()?;
        println!("{READY}");
        std::io::stdout().flush()?;
        Ok(worker.run(stop).await?.restart_program()?)
    })
}

pub(crate) fn runtime(threads: usize) -> Result<Runtime> {
    levelflow_runtime::threads::runtime(threads).context("cannot start the runtime")
}
