//! `levelflow top`: what a coordinator and its workers do, live.

use std::time::Duration;

use clap::Args;
use levelflow_common::HumanDuration;
use levelflow_common::overview::Overview;
use levelflow_proto::{ApiError, json};
use levelflow_runtime::task;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::arguments::ConnectionArguments;
use crate::client::Client;
use crate::connection::Connection;
use crate::context::Context;
use crate::error::CliError;
use crate::exit::Exit;
use crate::render::top::{Rate, Snapshot, lines, stale};
use crate::screen::{Input, Screen};

/// The shortest time between two looks.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
/// Alerts that are shown.
const ALERTS: u32 = 8;

/// Show live what a coordinator and its workers do; q ends it
///
/// Shows the rate of tasks, the queues, the last alerts, breakers that are not closed, and the slots,
/// memory and pools of each worker. Where standard output is no terminal, it is shown once.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How often to look
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval_of)]
    interval: Duration,
    /// Show it once, whole
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    pub(crate) connection: ConnectionArguments,
}

fn interval_of(text: &str) -> Result<Duration, String> {
    let HumanDuration(interval) = text
        .parse()
        .map_err(|error: levelflow_common::duration::InvalidDuration| error.to_string())?;
    if interval < SHORTEST_INTERVAL {
        return Err(format!("the shortest interval is {SHORTEST_INTERVAL:?}"));
    }
    Ok(interval)
}

pub(crate) async fn execute(arguments: &Arguments, context: &Context) -> Result<Exit, CliError> {
    let connection = Connection::open_remote(&context.settings).await?;
    let client = connection.client.clone();
    let first = take(&client).await?;
    if context.json {
        let overview = json::Overview::new(
            &first.overview,
            &first.workers,
            &first.breakers,
            &first.alerts,
        );
        context.print(&serde_json::to_string_pretty(&overview)?)?;
        Ok(Exit::Success)
    } else if arguments.once || !context.terminal.out_is_live {
        context.print(&lines(&first, None, context.terminal.out).join("\n"))?;
        Ok(Exit::Success)
    } else {
        show(first, client, arguments.interval, context).await
    }
}

/// Asks for everything that is shown.
async fn take(client: &Client) -> Result<Snapshot, ApiError> {
    let (overview, workers, breakers, alerts) = tokio::try_join!(
        client.overview(),
        client.workers(),
        client.breakers(),
        client.alerts(ALERTS),
    )?;
    Ok(Snapshot {
        overview,
        workers,
        breakers,
        alerts,
    })
}

/// Shows it until the user has seen enough.
async fn show(
    first: Snapshot,
    client: Client,
    every: Duration,
    context: &Context,
) -> Result<Exit, CliError> {
    let (sender, mut snapshots) = mpsc::channel(1);
    task::spawn("snapshots", async move {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            if sender.send(take(&client).await).await.is_err() {
                return;
            }
        }
    });
    let mut screen = Screen::enter().map_err(CliError::Output)?;
    let mut shown = Shown::new(first);
    loop {
        let lines = shown.lines(context);
        screen.draw(&lines).map_err(CliError::Output)?;
        tokio::select! {
            Some(snapshot) = snapshots.recv() => shown.update(snapshot),
            input = screen.input() => if let Input::Key(b'q' | b'Q') = input {
                return Ok(Exit::Success);
            },
            () = context.interrupt.cancelled() => return Ok(Exit::Interrupted),
        }
    }
}

/// The last snapshot, and what became of the attempt at a newer one.
struct Shown {
    snapshot: Snapshot,
    taken_at: Instant,
    rate: Option<Rate>,
    error: Option<String>,
}

impl Shown {
    fn new(snapshot: Snapshot) -> Self {
        Self {
            snapshot,
            taken_at: Instant::now(),
            rate: None,
            error: None,
        }
    }

    fn update(&mut self, snapshot: Result<Snapshot, ApiError>) {
        match snapshot {
            Ok(snapshot) => {
                let before: &Overview = &self.snapshot.overview;
                *self = Self {
                    rate: Rate::between(before, &snapshot.overview),
                    ..Self::new(snapshot)
                };
            }
            Err(error) => self.error = Some(error.to_string()),
        }
    }

    fn lines(&self, context: &Context) -> Vec<String> {
        let styling = context.terminal.out;
        let error = self.error.as_deref();
        let stale = error.map(|error| stale(error, self.taken_at.elapsed(), styling));
        let lines = lines(&self.snapshot, self.rate, styling);
        stale.into_iter().chain(lines).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_not_too_short() {
        assert_eq!(interval_of("2s"), Ok(Duration::from_secs(2)));
        assert!(interval_of("10ms").unwrap_err().contains("100ms"));
        assert!(
            interval_of("soon")
                .unwrap_err()
                .contains("is not a duration")
        );
    }
}
