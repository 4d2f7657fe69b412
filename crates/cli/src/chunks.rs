//! Following the chunks of one task to its end, across lost connections.

use std::time::Duration;

use backon::BackoffBuilder as _;
use futures_util::StreamExt as _;
use levelflow_common::{ChunkCursor, ChunkEvent, Code, RunId};
use levelflow_proto::ApiError;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::error::CliError;
use crate::follow::{backoff, is_passing, retrying};

/// Whose chunks are followed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FollowedTask<'a> {
    pub(crate) run_id: RunId,
    pub(crate) task_id: &'a str,
    /// The place in the list of a `for_each`.
    pub(crate) item: Option<u32>,
}

/// Gives each event to `tell` until the task has ended; false if the user interrupted before.
///
/// # Errors
/// When the server does not answer for about a minute, or refuses; and when `tell` fails.
pub(crate) async fn follow_chunks(
    client: &Client,
    task: FollowedTask<'_>,
    mut cursor: Option<ChunkCursor>,
    interrupt: &CancellationToken,
    mut tell: impl FnMut(&ChunkEvent) -> Result<(), CliError>,
) -> Result<bool, CliError> {
    let mut waits = backoff().build();
    loop {
        let mut events = retrying(|| client.watch_task(task, cursor)).await?;
        let broken = loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => {
                        waits = backoff().build();
                        tell(&event)?;
                        match event.cursor() {
                            Some(next) => cursor = Some(next),
                            None => return Ok(true),
                        }
                    }
                    Some(Err(error)) => break error,
                    None => break ApiError::new(
                        Code::ServerUnreachable,
                        "the server ends each stream of chunks before the task has ended",
                    ),
                },
                () = interrupt.cancelled() => return Ok(false),
            }
        };
        let wait: Option<Duration> = waits.next().filter(|_| is_passing(&broken));
        match wait {
            Some(wait) => tokio::time::sleep(wait).await,
            None => return Err(broken.into()),
        }
    }
}
