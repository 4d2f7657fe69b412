//! The commands, one a file.

pub(crate) mod autoscale;
pub(crate) mod breakers;
pub(crate) mod cache;
pub(crate) mod cancel;
pub(crate) mod cluster;
pub(crate) mod completions;
pub(crate) mod coordinator;
pub(crate) mod dev;
pub(crate) mod get;
pub(crate) mod list;
pub(crate) mod plan;
pub(crate) mod resume;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod submit;
pub(crate) mod top;
pub(crate) mod validate;
pub(crate) mod watch;
pub(crate) mod why;
pub(crate) mod worker;
pub(crate) mod workers;

use crate::arguments::Command;
use crate::context::Context;
use crate::error::CliError;
use crate::exit::Exit;
use crate::settings::Flags;

impl Command {
    /// Notes the settings that its flags were given for.
    pub(crate) fn flags(&self, flags: &mut Flags) {
        match self {
            Self::Run(arguments) => arguments.flags(flags),
            Self::Dev(arguments) => arguments.flags(flags),
            Self::Coordinator(arguments) => arguments.flags(flags),
            Self::Worker(arguments) => arguments.flags(flags),
            Self::Submit(arguments) => arguments.connection.flags(flags),
            Self::Watch(arguments) => arguments.connection.flags(flags),
            Self::List(arguments) => arguments.connection.flags(flags),
            Self::Get(arguments) => arguments.connection.flags(flags),
            Self::Cancel(arguments) => arguments.connection.flags(flags),
            Self::Resume(arguments) => arguments.connection.flags(flags),
            Self::Why(arguments) => arguments.connection.flags(flags),
            Self::Breakers(arguments) => arguments.connection.flags(flags),
            Self::Workers(arguments) => arguments.connection.flags(flags),
            Self::Top(arguments) => arguments.connection.flags(flags),
            Self::Cache(arguments) => arguments.connection.flags(flags),
            Self::Cluster(arguments) => arguments.connection.flags(flags),
            Self::Autoscale(arguments) => arguments.flags(flags),
            Self::Plan(_) | Self::Validate(_) | Self::Schema(_) | Self::Completions(_) => {}
        }
    }

    /// What is logged where no setting says so: servers tell what they do, other commands have their
    /// own way of telling it.
    pub(crate) const fn default_log_filter(&self) -> &'static str {
        match self {
            Self::Dev(_) | Self::Coordinator(_) | Self::Worker(_) => "info",
            _ => "error",
        }
    }

    /// Does it.
    pub(crate) async fn execute(self, context: &Context) -> Result<Exit, CliError> {
        match self {
            Self::Run(arguments) => run::execute(arguments, context).await,
            Self::Dev(arguments) => dev::execute(&arguments, context).await,
            Self::Coordinator(_) => coordinator::execute(context).await,
            Self::Worker(arguments) => worker::execute(&arguments, context).await,
            Self::Submit(arguments) => submit::execute(arguments, context).await,
            Self::Watch(arguments) => watch::execute(arguments, context).await,
            Self::List(arguments) => list::execute(arguments, context).await,
            Self::Get(arguments) => get::execute(arguments, context).await,
            Self::Cancel(arguments) => cancel::execute(arguments, context).await,
            Self::Resume(arguments) => resume::execute(arguments, context).await,
            Self::Plan(arguments) => plan::execute(&arguments, context),
            Self::Why(arguments) => why::execute(arguments, context).await,
            Self::Breakers(arguments) => breakers::execute(arguments, context).await,
            Self::Workers(_) => workers::execute(context).await,
            Self::Top(arguments) => top::execute(&arguments, context).await,
            Self::Cache(arguments) => cache::execute(arguments, context).await,
            Self::Cluster(arguments) => cluster::execute(&arguments, context).await,
            Self::Autoscale(arguments) => autoscale::execute(arguments, context).await,
            Self::Validate(arguments) => validate::execute(&arguments, context),
            Self::Schema(_) => schema::execute(context),
            Self::Completions(arguments) => completions::execute(&arguments, context),
        }
    }
}
