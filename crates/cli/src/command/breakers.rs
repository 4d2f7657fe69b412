//! `levelflow breakers`: the breakers of upstreams, and closing one by hand.

use clap::{Args, Subcommand};
use levelflow_common::Timestamp;
use levelflow_common::view::{BreakerStatus, BreakerView};
use levelflow_proto::json::BreakerList;

use crate::arguments::ConnectionArguments;
use crate::connection::{Connection, Work};
use crate::context::Context;
use crate::error::CliError;
use crate::exit::Exit;
use crate::render::style::Styling;
use crate::render::table::{Align, Table};
use crate::render::time::{duration, now};

/// Show which upstreams may be called, or close a breaker by hand
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    pub(crate) connection: ConnectionArguments,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the breakers of all upstreams that were called lately; this is the default
    List,
    /// Close the breaker of an upstream: a few attempts find out whether it is back
    Reset {
        /// The upstream, as it is listed, such as http:api.example.com:443
        #[arg(value_name = "UPSTREAM")]
        upstream: String,
    },
}

pub(crate) async fn execute(arguments: Arguments, context: &Context) -> Result<Exit, CliError> {
    let connection = Connection::open(&context.settings, Work::LeaveAlone).await?;
    let client = &connection.client;
    let answer = match arguments.action {
        None | Some(Action::List) => client.breakers().await,
        Some(Action::Reset { upstream }) => {
            let breaker = client.reset_breaker(upstream).await;
            breaker.map(|breaker| vec![breaker])
        }
    };
    connection.close().await;
    let breakers = answer?;
    if context.json {
        let list = BreakerList::from(&breakers[..]);
        context.print(&serde_json::to_string_pretty(&list)?)?;
    } else if breakers.is_empty() {
        context.remark("no upstream was called lately");
    } else {
        context.print(&table(&breakers, now(), context.terminal.out))?;
    }
    Ok(Exit::Success)
}

fn table(breakers: &[BreakerView], now: Timestamp, styling: Styling) -> String {
    let mut table = Table::new(&[
        ("upstream", Align::Left),
        ("breaker", Align::Left),
        ("failures", Align::Right),
        ("running", Align::Right),
        ("limit", Align::Right),
        ("waiting", Align::Right),
    ]);
    for breaker in breakers {
        let status = match (breaker.status, breaker.probes_at) {
            (BreakerStatus::Open, Some(at)) => format!("open for {}", duration(at.since(now))),
            (BreakerStatus::HalfOpen, _) => "half open".to_owned(),
            (status, _) => status.as_str().to_owned(),
        };
        let limit = breaker.limit.map(|limit| limit.to_string());
        table.row([
            breaker.upstream.as_ref().into(),
            status.into(),
            breaker.failures.to_string().into(),
            breaker.running.to_string().into(),
            limit.unwrap_or_default().into(),
            breaker.waiting.to_string().into(),
        ]);
    }
    table.render(styling)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_breaker_has_a_line() {
        let closed = BreakerView {
            upstream: "http:a:80".into(),
            status: BreakerStatus::Closed,
            failures: 0,
            probes_at: None,
            limit: None,
            running: 12,
            waiting: 0,
        };
        let open = BreakerView {
            upstream: "http:b.example:443".into(),
            status: BreakerStatus::Open,
            failures: 5,
            probes_at: Some(Timestamp::from_micros(61_000_000)),
            limit: Some(0),
            running: 0,
            waiting: 495,
        };
        let now = Timestamp::from_micros(1_000_000);
        assert_eq!(
            table(&[closed, open], now, Styling::Plain),
            "\
upstream            breaker         failures  running  limit  waiting
http:a:80           closed                 0       12               0
http:b.example:443  open for 1m00s         5        0      0      495
"
        );
    }
}
