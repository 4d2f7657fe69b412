//! `levelflow watch`: following a run.

use clap::Args;
use levelflow_common::event::RunUpdate;
use levelflow_common::view::RunView;
use levelflow_common::{ChunkCursor, ChunkEvent, RunId, TaskStatus};
use levelflow_proto::json::{Chunk, Event};

use crate::arguments::ConnectionArguments;
use crate::chunks::{FollowedTask, follow_chunks};
use crate::connection::{Connection, Work};
use crate::context::{Context, Following};
use crate::error::CliError;
use crate::exit::Exit;
use crate::follow::{Followed, Observer, OnInterrupt, follow};
use crate::render::chunk::ChunkText;

/// Follow a run or one of its tasks until it ends; with --json, one event a line
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The id of the run
    #[arg(value_name = "RUN")]
    run: RunId,
    /// With --json, go on after this event of an earlier watch
    #[arg(long, value_name = "SEQUENCE", default_value_t = 0)]
    after: u64,
    /// Follow one task, and print the chunks of its output as they come
    #[arg(long, value_name = "TASK", conflicts_with = "after")]
    task: Option<String>,
    /// The place in the list of a `for_each`, from 0
    #[arg(long, value_name = "INDEX", requires = "task")]
    item: Option<u32>,
    /// Go on from this `cursor` of an earlier watch of the task
    #[arg(long, value_name = "CURSOR", requires = "task")]
    from: Option<ChunkCursor>,
    #[command(flatten)]
    pub(crate) connection: ConnectionArguments,
}

pub(crate) async fn execute(arguments: Arguments, context: &Context) -> Result<Exit, CliError> {
    let connection = Connection::open(&context.settings, Work::Do).await?;
    let result = match &arguments.task {
        Some(task) => watch_task(&arguments, task, context, &connection).await,
        None => watch(&arguments, context, &connection).await,
    };
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

/// Prints the chunks of a task.
async fn watch_task(
    arguments: &Arguments,
    task_id: &str,
    context: &Context,
    connection: &Connection,
) -> Result<Exit, CliError> {
    let task = FollowedTask {
        run_id: arguments.run,
        task_id,
        item: arguments.item,
    };
    let mut printer = ChunkPrinter {
        context,
        text: ChunkText::default(),
        printed: false,
        exit: Exit::Success,
    };
    let followed = follow_chunks(
        &connection.client,
        task,
        arguments.from,
        &context.interrupt,
        |event| printer.event(event),
    );
    if followed.await? {
        Ok(printer.exit)
    } else {
        Ok(Exit::Interrupted)
    }
}

/// Prints chunks as they come.
struct ChunkPrinter<'a> {
    context: &'a Context,
    text: ChunkText,
    /// Whether anything of the attempt was printed.
    printed: bool,
    exit: Exit,
}

impl ChunkPrinter<'_> {
    fn event(&mut self, event: &ChunkEvent) -> Result<(), CliError> {
        if let ChunkEvent::Ended(end) = event
            && end.status != TaskStatus::Succeeded
        {
            self.exit = Exit::RunFailed;
        }
        if self.context.json {
            let event = Chunk::from(event);
            return self.context.print(&serde_json::to_string(&event)?);
        }
        match event {
            ChunkEvent::Started { attempt, .. } => {
                let end = self.text.end();
                self.context.write(end)?;
                if std::mem::take(&mut self.printed) {
                    self.context
                        .remark(&format!("attempt {attempt} starts anew"));
                }
                Ok(())
            }
            ChunkEvent::Chunks { chunks, .. } => {
                self.printed = true;
                let text: String = chunks.iter().map(|chunk| self.text.chunk(chunk)).collect();
                self.context.write(&text)
            }
            ChunkEvent::Lagged { missed, .. } => {
                let end = self.text.end();
                self.context.write(end)?;
                self.context
                    .remark(&format!("{missed} chunks of a failed attempt were missed"));
                Ok(())
            }
            ChunkEvent::Ended(end) => {
                let line_end = self.text.end();
                self.context.write(line_end)?;
                let why = end.failure.as_ref().map(|failure| &failure.message);
                match (end.status, why) {
                    (TaskStatus::Succeeded, _) => {}
                    (status, Some(why)) => self
                        .context
                        .remark(&format!("the task {}: {why}", status.as_str())),
                    (status, None) => self
                        .context
                        .remark(&format!("the task was {}", status.as_str())),
                }
                Ok(())
            }
        }
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
