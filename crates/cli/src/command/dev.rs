//! `levelflow dev`: coordinator and worker in one process that stays up.

use clap::Args;

use super::coordinator;
use crate::arguments::{ConnectionsArgument, DataDirArgument, ListenArgument, SlotsArgument};
use crate::connection::{Work, data_dir};
use crate::context::Context;
use crate::error::CliError;
use crate::exit::Exit;
use crate::settings::Flags;

/// Serve a coordinator with a worker that also runs programs, in one process
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    listen: ListenArgument,
    #[command(flatten)]
    slots: SlotsArgument,
    #[command(flatten)]
    connections: ConnectionsArgument,
    #[command(flatten)]
    data_dir: DataDirArgument,
}

impl Arguments {
    pub(crate) fn flags(&self, flags: &mut Flags) {
        self.listen.flags(flags);
        self.slots.flags(flags);
        self.connections.flags(flags);
        self.data_dir.flags(flags);
    }
}

pub(crate) async fn execute(context: &Context) -> Result<Exit, CliError> {
    coordinator::serve(context, &data_dir(&context.settings)?, Work::Do).await
}
