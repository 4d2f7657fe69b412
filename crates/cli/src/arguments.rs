//! The command line.

use std::path::PathBuf;

use bytes::Bytes;
use clap::builder::TypedValueParser as _;
use clap::{Args, Parser, Subcommand, ValueEnum};
#[cfg(feature = "weakened")]
use levelflow_common::protection::{Protection, weakened};
use levelflow_common::{CacheUse, Priority, Workflow};
use levelflow_runtime::config::FILE_VARIABLE;

use crate::client::Submission;
use crate::command::{
    autoscale, breakers, cache, cancel, cluster, completions, coordinator, dev, get, list, plan,
    resume, run, schema, submit, top, validate, watch, why, worker, workers,
};
use crate::settings::Flags;

#[cfg(not(feature = "weakened"))]
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What this build is must not go unnoticed.
#[cfg(feature = "weakened")]
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " WEAKENED: protections can be switched off, for tests only"
);

/// Runs workflows: DAGs of tasks, durably, on this machine or on many.
///
/// Settings come from the configuration file, then from LEVELFLOW_… variables, then from flags.
/// Exit codes: 0 success, 1 the run did not succeed, 2 the file, the usage or the request is wrong,
/// 3 something else went wrong, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "levelflow", version = VERSION, max_term_width = 100)]
pub(crate) struct CommandLine {
    #[command(flatten)]
    pub(crate) common: CommonArguments,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct CommonArguments {
    /// Answer in JSON, errors too
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// The configuration file [default: levelflow/config.toml in the user's configuration directory,
    /// if there is one]
    #[arg(long, global = true, value_name = "FILE", env = FILE_VARIABLE)]
    pub(crate) config: Option<PathBuf>,
    /// What to log, such as info, or warn,levelflow_worker=debug [env: LEVELFLOW_LOG]
    #[arg(long, global = true, value_name = "FILTER")]
    pub(crate) log: Option<String>,
    /// How log lines look [env: LEVELFLOW_LOG_FORMAT]
    #[arg(long, global = true, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormatArgument>,
    /// Switch off what a guarantee rests on, to see that its tests notice
    #[cfg(feature = "weakened")]
    #[arg(long, global = true, value_name = "PROTECTION", value_parser = protection_parser())]
    pub(crate) without: Option<Protection>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormatArgument {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(run::Arguments),
    Dev(dev::Arguments),
    Coordinator(coordinator::Arguments),
    Worker(worker::Arguments),
    Submit(submit::Arguments),
    Watch(watch::Arguments),
    List(list::Arguments),
    Get(get::Arguments),
    Cancel(cancel::Arguments),
    Resume(resume::Arguments),
    Plan(plan::Arguments),
    Why(why::Arguments),
    Breakers(breakers::Arguments),
    Workers(workers::Arguments),
    Top(top::Arguments),
    Cache(cache::Arguments),
    Cluster(cluster::Arguments),
    Autoscale(autoscale::Arguments),
    Validate(validate::Arguments),
    Schema(schema::Arguments),
    Completions(completions::Arguments),
}

impl CommonArguments {
    pub(crate) fn flags(&self, flags: &mut Flags) {
        flags.text("log", self.log.as_deref());
        let format = self.log_format.map(|format| match format {
            LogFormatArgument::Text => "text",
            LogFormatArgument::Json => "json",
        });
        flags.text("log_format", format);
    }

    /// Switches off what is to be off.
    #[cfg(feature = "weakened")]
    pub(crate) fn weaken(&self) {
        if let Some(protection) = self.without {
            weakened::switch_off(Some(protection));
            tracing::error!(protection = %protection, "a protection is off, guarantees do not hold");
        }
    }
}

/// Where runs are kept.
#[derive(Debug, Args)]
pub(crate) struct DataDirArgument {
    /// Where runs are kept [env: LEVELFLOW_DATA_DIR] [default: levelflow in the user's data directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
}

impl DataDirArgument {
    pub(crate) fn flags(&self, flags: &mut Flags) {
        flags.text("data_dir", self.data_dir.as_deref());
    }
}

/// Which coordinator to talk to.
#[derive(Debug, Args)]
pub(crate) struct ConnectionArguments {
    /// The coordinator [env: LEVELFLOW_ADDRESS] [default: the process that uses the data directory]
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    #[command(flatten)]
    data_dir: DataDirArgument,
}

impl ConnectionArguments {
    pub(crate) fn flags(&self, flags: &mut Flags) {
        flags.text("address", self.address.as_deref());
        self.data_dir.flags(flags);
    }
}

/// Where a coordinator serves.
#[derive(Debug, Args)]
pub(crate) struct ListenArgument {
    /// Where to serve gRPC; port 0 takes a free one, unix:PATH is a socket [env: LEVELFLOW_LISTEN] [default: 127.0.0.1:7400]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Where to serve HTTP [env: LEVELFLOW_HTTP__LISTEN] [default: the port after that of --listen]
    #[arg(long, value_name = "ADDRESS:PORT")]
    http: Option<String>,
    /// Do not serve HTTP
    #[arg(long, conflicts_with = "http")]
    no_http: bool,
    /// Serve workers over NATS too, for example nats://10.0.0.5:4222. An address with a password is better kept
    /// in the configuration file or the environment [env: LEVELFLOW_COORDINATOR__NATS__URL]
    #[arg(long, value_name = "URL")]
    nats: Option<String>,
}

impl ListenArgument {
    pub(crate) fn flags(&self, flags: &mut Flags) {
        flags.text("listen", self.listen.as_deref());
        flags.text("http.listen", self.http.as_deref());
        flags.text("coordinator.nats.url", self.nats.as_deref());
        if self.no_http {
            flags.off("http.enabled");
        }
    }
}

/// How much a worker does at once.
#[derive(Debug, Args)]
pub(crate) struct SlotsArgument {
    /// Tasks that run at once [env: LEVELFLOW_WORKER__SLOTS] [default: 16]
    #[arg(long, value_name = "COUNT")]
    slots: Option<u64>,
}

impl SlotsArgument {
    pub(crate) fn flags(&self, flags: &mut Flags) {
        flags.number("worker.slots", self.slots);
    }
}

/// The databases that a worker can ask.
#[derive(Debug, Args)]
pub(crate) struct ConnectionsArgument {
    /// A database that `sql` tasks can name, such as reports=sqlite:reports.db; may be given several
    /// times. An address with a password is better kept in the configuration file or the environment
    #[arg(long = "connection", value_name = "NAME=URL", value_parser = pair)]
    connections: Vec<(String, String)>,
}

impl ConnectionsArgument {
    pub(crate) fn flags(&self, flags: &mut Flags) {
        for (name, url) in &self.connections {
            flags.text(&format!("worker.connections.{name}.url"), Some(url));
        }
    }

    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.connections
    }
}

/// The file of a workflow.
#[derive(Debug, Args)]
pub(crate) struct FileArgument {
    /// The workflow, in YAML or JSON; - for standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// What a run is given.
#[derive(Debug, Args)]
pub(crate) struct InputArguments {
    /// An input of the workflow; may be given several times
    #[arg(long = "input", short, value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) inputs: Vec<(String, String)>,
    /// A YAML or JSON file with inputs; those of --input come first
    #[arg(long, value_name = "FILE")]
    pub(crate) inputs_file: Option<PathBuf>,
}

/// How a run is submitted.
#[derive(Debug, Args)]
pub(crate) struct SubmissionArguments {
    #[command(flatten)]
    pub(crate) inputs: InputArguments,
    /// How urgent the run is, in place of what the workflow says
    #[arg(long, value_parser = priority_parser())]
    pub(crate) priority: Option<Priority>,
    /// A label of the run; may be given several times
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) labels: Vec<(String, String)>,
    /// What the tasks do with the cache: look in it and put results there, compute anew and put
    /// results there, or neither
    #[arg(long, value_parser = cache_use_parser())]
    pub(crate) cache: Option<CacheUse>,
}

impl SubmissionArguments {
    /// The submission of a workflow with its inputs.
    pub(crate) fn submission(
        self,
        workflow: Workflow,
        inputs: Bytes,
        idempotency_key: Option<String>,
    ) -> Submission {
        Submission {
            workflow,
            inputs,
            priority: self.priority,
            labels: self.labels.into_iter().collect(),
            cache: self.cache.unwrap_or_default(),
            idempotency_key,
        }
    }
}

/// A name and a value.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

fn cache_use_parser() -> impl clap::builder::TypedValueParser<Value = CacheUse> {
    clap::builder::PossibleValuesParser::new(CacheUse::ALL.map(CacheUse::as_str)).try_map(|word| {
        CacheUse::ALL
            .into_iter()
            .find(|cache| cache.as_str() == word)
            .ok_or("not a use of the cache")
    })
}

#[cfg(feature = "weakened")]
fn protection_parser() -> impl clap::builder::TypedValueParser<Value = Protection> {
    clap::builder::PossibleValuesParser::new(Protection::ALL.map(Protection::as_str)).try_map(
        |word| {
            Protection::ALL
                .into_iter()
                .find(|protection| protection.as_str() == word)
                .ok_or("unknown protection")
        },
    )
}

fn priority_parser() -> impl clap::builder::TypedValueParser<Value = Priority> {
    clap::builder::PossibleValuesParser::new(Priority::ALL.map(Priority::as_str)).try_map(|word| {
        Priority::ALL
            .into_iter()
            .find(|priority| priority.as_str() == word)
            .ok_or("unknown priority")
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn a_pair_needs_a_name() {
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(pair("a="), Ok(("a".to_owned(), String::new())));
        assert!(pair("=b").is_err());
        assert!(pair("a").is_err());
    }
}
