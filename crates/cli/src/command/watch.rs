//! `levelflow watch`: following a run.

use clap::Args;
use levelflow_common::RunId;
use levelflow_common::event::RunUpdate;
use levelflow_common::view::RunView;
use levelflow_proto::json::Event;

use crate::arguments::ConnectionArguments;
use crate::connection::{Connection, Work};
use crate::context::{Context, Following};
use crate::error::CliError;
use crate::exit::Exit;
use crate::follow::{Followed, Observer, OnInterrupt, follow};

/// Follow a run until it ends; with --json, one event a line
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The id of the run
    #[arg(value_name = "RUN")]
    run: RunId,
    /// With --json, go on after this event of an earlier watch
    #[arg(long, value_name = "SEQUENCE", default_value_t = 0)]
    after: u64,
    #[command(flatten)]
    pub(crate) connection: ConnectionArguments,
}

pub(crate) async fn execute(arguments: Arguments, context: &Context) -> Result<Exit, CliError> {
    let connection = Connection::open(&context.settings, Work::Do).await?;
    let result = watch(&arguments, context, &connection).await;
    connection.close().await;
    result
}

async fn watch(
    arguments: &Arguments,
    context: &Context,
    connection: &Connection,
) -> Result<Exit, CliError> {
    let run_id = arguments.run;
    if !context.json {
        let followed = context
            .follow(
                &connection.client,
                run_id,
                Following {
                    quiet: false,
                    from_start: false,
                    on_interrupt: OnInterrupt::Detach,
                },
            )
            .await?;
        return context.conclude(run_id, &followed, None);
    }
    let mut events = Events {
        context,
        failed: None,
    };
    let followed = follow(
        &connection.client,
        run_id,
        Some(arguments.after),
        &mut events,
        &context.interrupt,
        OnInterrupt::Detach,
    )
    .await?;
    match (events.failed, followed) {
        (Some(error), _) => Err(error),
        (None, Followed::Ended { run, interrupted }) => {
            Ok(Exit::of_run(run.summary.status, interrupted))
        }
        (None, Followed::Detached) => Ok(Exit::Interrupted),
    }
}

/// Prints each event as a line of JSON.
struct Events<'a> {
    context: &'a Context,
    failed: Option<CliError>,
}

impl Events<'_> {
    fn print(&self, event: &Event<'_>) -> Result<(), CliError> {
        self.context.print(&serde_json::to_string(event)?)
    }
}

impl Observer for Events<'_> {
    fn start(&mut self, _: &RunView) {}

    fn update(&mut self, update: &RunUpdate) {
        for event in Event::all(update) {
            if self.failed.is_none() {
                self.failed = self.print(&event).err();
            }
        }
    }
}
