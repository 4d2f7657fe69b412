//! `levelflow cache`: what the result cache did, and looking after it.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use levelflow_common::Timestamp;
use levelflow_common::view::BreakerStatus;
use levelflow_proto::v1::invalidate_cache_request::Target;
use levelflow_proto::{ApiError, Enumeration as _, json, v1};
use serde_json::json;

use crate::arguments::ConnectionArguments;
use crate::connection::{Connection, Work};
use crate::context::Context;
use crate::error::CliError;
use crate::exit::Exit;
use crate::render::counted;
use crate::render::style::Styling;
use crate::render::table::{Align, Table};
use crate::render::time::duration;

/// Show what the result cache did, or remove results or put some in
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    pub(crate) connection: ConnectionArguments,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show what it did since the coordinator started; this is the default
    Stats,
    /// Remove the results of a key, a tag or a workflow, so that they are computed anew
    #[command(group(clap::ArgGroup::new("target").required(true)))]
    Invalidate {
        /// The result with this key
        #[arg(long, group = "target")]
        key: Option<String>,
        /// The results of tasks with this tag
        #[arg(long, group = "target")]
        tag: Option<String>,
        /// The results of tasks of this workflow
        #[arg(long, group = "target")]
        workflow: Option<String>,
        /// Whose results
        #[arg(long, default_value = "default")]
        tenant: String,
    },
    /// Remove all results
    Clear {
        /// Only those of one tenant
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Put results in that are known: one JSON object a line, such as
    /// {"type": "chat", "input": {"model": "small", "prompt": "Hi"}, "output": {"text": "Hello"}}
    Warm {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

pub(crate) async fn execute(arguments: Arguments, context: &Context) -> Result<Exit, CliError> {
    let connection = Connection::open(&context.settings, Work::LeaveAlone).await?;
    let done = act(
        arguments.action.unwrap_or(Action::Stats),
        &connection,
        context,
    )
    .await;
    connection.close().await;
    done
}

async fn act(action: Action, connection: &Connection, context: &Context) -> Result<Exit, CliError> {
    let client = &connection.client;
    let (tenant, target) = match action {
        Action::Stats => {
            show(&client.cache_statistics().await?, context)?;
            return Ok(Exit::Success);
        }
        Action::Warm { file } => return warm_up(connection, &file, context).await,
        Action::Clear { tenant: None } => (String::new(), Target::Everything(true)),
        Action::Clear {
            tenant: Some(tenant),
        } => (tenant, Target::WholeTenant(true)),
        Action::Invalidate {
            key,
            tag,
            workflow,
            tenant,
        } => {
            let target = key
                .map(Target::Key)
                .or(tag.map(Target::Tag))
                .or(workflow.map(Target::Workflow));
            (tenant, target.expect("clap asks for one of them"))
        }
    };
    let removed = client.invalidate_cache(tenant, target).await?;
    if context.json {
        context.print(&json!({ "removed": removed }).to_string())?;
    } else {
        context.remark(&format!("removed {}", counted(removed as usize, "result")));
    }
    Ok(Exit::Success)
}

async fn warm_up(
    connection: &Connection,
    file: &std::path::Path,
    context: &Context,
) -> Result<Exit, CliError> {
    let lines = tokio::fs::read(file)
        .await
        .map_err(|source| CliError::Unreadable {
            path: file.to_owned(),
            source,
        })?;
    let answer = connection.client.warm_up_cache(lines).await?;
    if context.json {
        context.print(
            &json!({
                "kept": answer.kept,
                "passed_over": answer.passed_over,
                "problems": answer.problems,
            })
            .to_string(),
        )?;
    } else {
        let kept = counted(answer.kept as usize, "result");
        context.remark(&format!("put {kept} into the cache"));
        for problem in &answer.problems {
            context.remark(&format!("{}, {problem}", file.display()));
        }
        let untold = answer
            .passed_over
            .saturating_sub(answer.problems.len() as u64);
        if untold > 0 {
            context.remark(&format!("and {} more", counted(untold as usize, "line")));
        }
    }
    Ok(if answer.passed_over == 0 {
        Exit::Success
    } else {
        Exit::Usage
    })
}

fn show(statistics: &v1::CacheStatistics, context: &Context) -> Result<(), CliError> {
    if context.json {
        let form = json::CacheStatistics::try_from(statistics).map_err(|error| {
            let problem = format!("the server's answer cannot be read: {error}");
            ApiError::new(levelflow_common::Code::ProtocolUnsupported, problem)
        })?;
        context.print(&serde_json::to_string_pretty(&form)?)?;
    } else {
        context.print(&table(statistics, context.terminal.out))?;
    }
    Ok(())
}

fn table(statistics: &v1::CacheStatistics, styling: Styling) -> String {
    let mut table = Table::new(&[
        ("tier", Align::Left),
        ("hits", Align::Right),
        ("misses", Align::Right),
        ("p50", Align::Right),
        ("p99", Align::Right),
        ("entries", Align::Right),
        ("MiB", Align::Right),
        ("evicted", Align::Right),
        ("expired", Align::Right),
    ]);
    let micros = |micros: f64| duration(std::time::Duration::from_secs_f64(micros.max(0.0) / 1e6));
    for tier in &statistics.tiers {
        let name = levelflow_common::CacheTier::optional("tier", tier.tier)
            .ok()
            .flatten()
            .map_or("?", levelflow_common::CacheTier::as_str);
        let mib = tier.bytes.map(|bytes| bytes as f64 / (1024.0 * 1024.0));
        table.row([
            name.into(),
            tier.hits.to_string().into(),
            tier.misses.to_string().into(),
            micros(tier.p50_us).into(),
            micros(tier.p99_us).into(),
            tier.entries
                .map_or_else(String::new, |it| it.to_string())
                .into(),
            mib.map_or_else(String::new, |mib| format!("{mib:.1}"))
                .into(),
            tier.evictions.to_string().into(),
            tier.expired.to_string().into(),
        ]);
    }
    let saved = Timestamp::from_micros(statistics.saved_us).since(Timestamp::default());
    let mut text = format!(
        "{} lookups, {} hits ({:.0} %), {} of computing saved\n{}",
        statistics.lookups,
        statistics.hits,
        100.0 * statistics.hits as f64 / statistics.lookups.max(1) as f64,
        duration(saved),
        table.render(styling)
    );
    if let Some(semantic) = statistics.semantic.as_ref()
        && (semantic.lookups > 0 || !semantic.models.is_empty())
    {
        text.push_str(&semantic_lines(semantic));
    }
    text
}

/// What came of results of nearly equal texts: a line, and one for each model.
fn semantic_lines(semantic: &v1::SemanticStatistics) -> String {
    let micros = |micros: f64| duration(std::time::Duration::from_secs_f64(micros.max(0.0) / 1e6));
    let saved = Timestamp::from_micros(semantic.saved_us).since(Timestamp::default());
    let mut text = format!(
        "semantic: {} lookups, {} hits, {} near hits, {} skipped, {} timeouts, {} of computing saved, \
         p50 {}, p99 {}, {} known\n",
        semantic.lookups,
        semantic.hits,
        semantic.near_hits,
        semantic.skipped,
        semantic.timeouts,
        duration(saved),
        micros(semantic.p50_us),
        micros(semantic.p99_us),
        counted(semantic.entries as usize, "text"),
    );
    for model in &semantic.models {
        let breaker = BreakerStatus::optional("breaker", model.breaker)
            .ok()
            .flatten()
            .map_or("?", BreakerStatus::as_str);
        let _ = writeln!(
            text,
            "model {}: {}, {}, {} skipped, breaker {breaker}",
            model.name,
            counted(model.texts as usize, "text"),
            counted(model.failures as usize, "failure"),
            model.skipped,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use levelflow_common::CacheTier;

    use super::*;

    #[test]
    fn a_tier_has_a_line() {
        let statistics = v1::CacheStatistics {
            lookups: 8,
            hits: 6,
            saved_us: 12_000_000,
            tiers: vec![v1::CacheTierStatistics {
                tier: CacheTier::Memory.number(),
                hits: 6,
                misses: 2,
                entries: Some(2),
                bytes: Some(3 * 1024 * 1024),
                p50_us: 4.0,
                p99_us: 12.0,
                ..v1::CacheTierStatistics::default()
            }],
            ..v1::CacheStatistics::default()
        };
        let shown = table(&statistics, Styling::Plain);
        let mut lines = shown.lines();
        assert_eq!(
            lines.next(),
            Some("8 lookups, 6 hits (75 %), 12.0s of computing saved")
        );
        let words = |line: &str| {
            line.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let row = words(lines.nth(1).unwrap());
        assert_eq!(row[..3], ["memory", "6", "2"]);
        assert_eq!(row[row.len() - 4..], ["2", "3.0", "0", "0"]);
    }

    #[test]
    fn results_of_nearly_equal_texts_have_lines_of_their_own() {
        let semantic = v1::SemanticStatistics {
            lookups: 9,
            hits: 3,
            near_hits: 2,
            skipped: 1,
            timeouts: 1,
            saved_us: 2_000_000,
            p50_us: 4_000.0,
            p99_us: 12_000.0,
            entries: 4,
            models: vec![v1::EmbeddingModelStatistics {
                name: "small".to_owned(),
                texts: 8,
                failures: 1,
                skipped: 0,
                breaker: BreakerStatus::Closed.number(),
            }],
            ..v1::SemanticStatistics::default()
        };
        assert_eq!(
            semantic_lines(&semantic),
            "semantic: 9 lookups, 3 hits, 2 near hits, 1 skipped, 1 timeouts, 2.00s of computing saved, \
             p50 4ms, p99 12ms, 4 texts known\n\
             model small: 8 texts, 1 failure, 0 skipped, breaker closed\n"
        );
    }
}
