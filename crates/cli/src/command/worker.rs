//! `levelflow worker`: a worker for a coordinator in another process.

use clap::Args;
use levelflow_worker::Worker;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::arguments::{ConnectionsArgument, SlotsArgument, pair};
use crate::connection::url;
use crate::context::Context;
use crate::error::CliError;
use crate::exit::Exit;
use crate::settings::Flags;

/// Run tasks for a coordinator in another process
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The coordinator [env: LEVELFLOW_ADDRESS] [default: 127.0.0.1:7400]
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    /// Reach coordinators over NATS, for example nats://10.0.0.5:4222. An address with a password is better kept
    /// in the configuration file or the environment [env: LEVELFLOW_WORKER__NATS__URL]
    #[arg(long, value_name = "URL", conflicts_with = "address")]
    nats: Option<String>,
    /// A name that no other worker has [default: made from the name of the host]
    #[arg(long, value_name = "NAME")]
    id: Option<String>,
    #[command(flatten)]
    slots: SlotsArgument,
    #[command(flatten)]
    connections: ConnectionsArgument,
    /// A queue to take work from; may be given several times [default: default]
    #[arg(long = "queue", value_name = "NAME")]
    queues: Vec<String>,
    /// A label that tasks can ask for; may be given several times
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// Run programs too, for everyone who can submit a workflow
    #[arg(long)]
    allow_process: bool,
    /// A network, address or host that `http` tasks may call although it is not of the public internet,
    /// such as 10.0.0.0/8 or db.internal:8080; may be given several times
    #[arg(long = "allow-http", value_name = "TARGET")]
    allow_http: Vec<String>,
    /// Stop, as on an interrupt, when standard input closes: for programs that start workers
    #[arg(long)]
    stop_with_stdin: bool,
}

impl Arguments {
    pub(crate) fn flags(&self, flags: &mut Flags) {
        flags.text("address", self.address.as_deref());
        flags.text("worker.nats.url", self.nats.as_deref());
        flags.text("worker.id", self.id.as_deref());
        self.slots.flags(flags);
        self.connections.flags(flags);
        flags.list("worker.queues", &self.queues);
        flags.map("worker.labels", &self.labels);
        flags.switch("worker.allow_process", self.allow_process);
        flags.list("worker.http.allow", &self.allow_http);
    }
}

pub(crate) async fn execute(arguments: &Arguments, context: &Context) -> Result<Exit, CliError> {
    if arguments.stop_with_stdin {
        stop_with_stdin(context.interrupt.clone());
    }
    let mut config = context.settings.worker.clone();
    if let Some(address) = &context.settings.address {
        config.address.clone_from(address);
    }
    config.address = url(&config.address);
    let is_over_nats = config.nats.is_given();
    let address = config.address.clone();
    let worker = Worker::builder()
        .config(config)
        .guard_programs(true)
        .build()?;
    if context.json {
        let answer = json!({
            "worker_id": worker.id(),
            "address": (!is_over_nats).then_some(&address),
            "nats": is_over_nats,
            "pid": std::process::id(),
        });
        context.print(&answer.to_string())?;
    } else if is_over_nats {
        context.print(&format!("worker {} over NATS", worker.id()))?;
    } else {
        context.print(&format!("worker {} for {address}", worker.id()))?;
    }
    let ended = worker.run(context.interrupt.clone()).await?;
    ended.restart_program().map_err(CliError::Restart)?;
    Ok(Exit::Success)
}

/// Interrupts when standard input closes. On a thread of its own, which a process that ends does not wait for.
fn stop_with_stdin(interrupt: CancellationToken) {
    std::thread::spawn(move || {
        // What is written there has no meaning, and one that cannot be read is as good as closed.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        interrupt.cancel();
    });
}
