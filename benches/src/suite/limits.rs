//! The physical floor: what the disk, SQLite, the wire and a bare loop over them allow on this machine.

mod bare_loop;
mod disk;
mod wire;

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use self::bare_loop::BareLoop;
use self::wire::Link;
pub(crate) use self::wire::{EchoArguments, echo};
use super::Common;
use super::engine::{line, measure_round};
use crate::client::Client;
use crate::figure::Figure;
use crate::machine::Machine;
use crate::process::Cluster;
use crate::role::runtime;
use crate::shape::{Durable, Shape};

const COMMIT_ROWS: [usize; 5] = [1, 16, 64, 256, 1000];
const WIRE_BATCHES: [usize; 2] = [64, 512];
const WIRE_UNDER_WAY: [usize; 2] = [1, 4];
const SHAPES: [Shape; 2] = [Shape::Small, Shape::Large];
/// One run after the other, and many at once.
const IN_FLIGHT: [usize; 3] = [1, 64, 512];
const WARM_UP: Duration = Duration::from_millis(300);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Also measure Levelflow, in turn with the bare loop, and give each figure as a share of its limit.
    #[arg(long)]
    compare: bool,
    /// Seconds of each measurement of a loop; those of its parts take half.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    #[command(flatten)]
    common: Common,
}

#[derive(Serialize)]
struct Report {
    suite: &'static str,
    machine: Machine,
    rounds: u32,
    seconds: f64,
    rows: Vec<Row>,
}

#[derive(Serialize)]
#[serde(tag = "limit", rename_all = "snake_case")]
enum Row {
    /// Appends of 4 KiB, each with fdatasync.
    Sync { syncs_per_s: Figure },
    /// Transactions of SQLite with WAL and synchronous=FULL.
    Commit {
        batch: usize,
        commits_per_s: Figure,
        rows_per_s: Figure,
    },
    /// Batches there and back over one gRPC stream between two processes.
    Wire {
        batch: usize,
        under_way: usize,
        batches_per_s: Figure,
        messages_per_s: Figure,
    },
    /// Durable tasks without an engine.
    BareLoop {
        shape: Shape,
        in_flight: usize,
        tasks_per_s: Figure,
        p50_ms: Figure,
        #[serde(skip_serializing_if = "Option::is_none")]
        levelflow: Option<Compared>,
    },
}

/// Levelflow beside a limit.
#[derive(Serialize)]
struct Compared {
    tasks_per_s: Figure,
    p50_ms: Figure,
    /// Of the tasks/s of the limit.
    share: Figure,
    /// Median time of a run, as a multiple of the limit's.
    p50_ratio: Figure,
}

/// Rates, a list for each thing that was measured, with one entry for each round.
#[derive(Default)]
struct Rounds {
    syncs: Vec<f64>,
    commits: [Vec<f64>; COMMIT_ROWS.len()],
    wire: [[Vec<f64>; WIRE_UNDER_WAY.len()]; WIRE_BATCHES.len()],
    loops: [[Vec<Pair>; IN_FLIGHT.len()]; SHAPES.len()],
}

/// One round of the bare loop, and of Levelflow right after it.
struct Pair {
    bare: Rate,
    levelflow: Option<Rate>,
}

struct Rate {
    tasks_per_s: f64,
    p50_ms: f64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let rounds = runtime(1)?.block_on(measure(arguments))?;
    let report = Report {
        suite: "limits",
        machine: Machine::describe()?,
        rounds: arguments.common.rounds,
        seconds: arguments.seconds,
        rows: rows(rounds),
    };
    let mut lines = vec![format!(
        "limits of this machine, {} rounds (median, min–max)",
        report.rounds
    )];
    report.rows.iter().for_each(|row| describe(row, &mut lines));
    arguments.common.print(&report, &lines)
}

async fn measure(arguments: &Arguments) -> Result<Rounds> {
    let time = Duration::from_secs_f64(arguments.seconds);
    let part = time / 2;
    let mut link = Link::open().await?;
    let mut bare = BareLoop::start().await?;
    let mut products = Vec::new();
    for shape in SHAPES {
        bare.keep_in_flight(shape.levels(), 64, WARM_UP).await?;
        if arguments.compare {
            let cluster = Cluster::start(&arguments.common.layout())?;
            let workflow = shape.workflow(Durable::Strict);
            let mut client = Client::connect(&cluster.address(), workflow).await?;
            client.keep_in_flight(64, WARM_UP).await?;
            products.push((cluster, client));
        }
    }
    let mut rounds = Rounds::default();
    for round in 1..=arguments.common.rounds {
        eprintln!(
            "round {round} of {}: disk and wire",
            arguments.common.rounds
        );
        rounds.syncs.push(disk::syncs_per_s(part)?);
        for (rows, seen) in COMMIT_ROWS.into_iter().zip(&mut rounds.commits) {
            seen.push(disk::commits_per_s(rows, part)?);
        }
        for (batch, seen) in WIRE_BATCHES.into_iter().zip(&mut rounds.wire) {
            for (under_way, seen) in WIRE_UNDER_WAY.into_iter().zip(seen) {
                seen.push(link.batches_per_s(batch, under_way, part).await?);
            }
        }
        for (place, shape) in SHAPES.into_iter().enumerate() {
            let tasks = shape.tasks() as f64;
            for (in_flight, seen) in IN_FLIGHT.into_iter().zip(&mut rounds.loops[place]) {
                let floor = bare.keep_in_flight(shape.levels(), in_flight, time).await?;
                let mut pair = Pair {
                    bare: Rate {
                        tasks_per_s: floor.runs_per_s * tasks,
                        p50_ms: floor.p50_ms,
                    },
                    levelflow: None,
                };
                let mut progress = format!(
                    "round {round} of {}: {shape:?} × {in_flight}, bare {:.0} tasks/s",
                    arguments.common.rounds, pair.bare.tasks_per_s
                );
                if let Some((cluster, client)) = products.get_mut(place) {
                    let seen =
                        measure_round(cluster, client, in_flight, shape.tasks(), time).await?;
                    let rate = Rate {
                        tasks_per_s: seen.runs_per_s * tasks,
                        p50_ms: seen.p50_ms,
                    };
                    progress += &format!(", Levelflow {:.0}", rate.tasks_per_s);
                    pair.levelflow = Some(rate);
                }
                eprintln!("{progress}");
                seen.push(pair);
            }
        }
    }
    Ok(rounds)
}

fn rows(rounds: Rounds) -> Vec<Row> {
    let scaled = |rates: &[f64], by: usize| Figure::of(rates.iter().map(|rate| rate * by as f64));
    let mut rows = vec![Row::Sync {
        syncs_per_s: Figure::of(rounds.syncs),
    }];
    for (batch, seen) in COMMIT_ROWS.into_iter().zip(&rounds.commits) {
        rows.push(Row::Commit {
            batch,
            commits_per_s: scaled(seen, 1),
            rows_per_s: scaled(seen, batch),
        });
    }
    for (batch, seen) in WIRE_BATCHES.into_iter().zip(&rounds.wire) {
        for (under_way, seen) in WIRE_UNDER_WAY.into_iter().zip(seen) {
            rows.push(Row::Wire {
                batch,
                under_way,
                batches_per_s: scaled(seen, 1),
                messages_per_s: scaled(seen, batch),
            });
        }
    }
    for (shape, seen) in SHAPES.into_iter().zip(&rounds.loops) {
        for (in_flight, pairs) in IN_FLIGHT.into_iter().zip(seen) {
            rows.push(Row::BareLoop {
                shape,
                in_flight,
                tasks_per_s: Figure::of(pairs.iter().map(|pair| pair.bare.tasks_per_s)),
                p50_ms: Figure::of(pairs.iter().map(|pair| pair.bare.p50_ms)),
                levelflow: compared(pairs),
            });
        }
    }
    rows
}

fn compared(pairs: &[Pair]) -> Option<Compared> {
    let both: Vec<(&Rate, &Rate)> = pairs
        .iter()
        .filter_map(|pair| Some((&pair.bare, pair.levelflow.as_ref()?)))
        .collect();
    if both.is_empty() {
        return None;
    }
    let figure = |of: fn(&Rate, &Rate) -> f64| {
        Figure::of(both.iter().map(|(bare, levelflow)| of(bare, levelflow)))
    };
    Some(Compared {
        tasks_per_s: figure(|_, levelflow| levelflow.tasks_per_s),
        p50_ms: figure(|_, levelflow| levelflow.p50_ms),
        share: figure(|bare, levelflow| levelflow.tasks_per_s / bare.tasks_per_s),
        p50_ratio: figure(|bare, levelflow| levelflow.p50_ms / bare.p50_ms),
    })
}

fn describe(row: &Row, lines: &mut Vec<String>) {
    match row {
        Row::Sync { syncs_per_s } => lines.push(line("4 KiB syncs/s", *syncs_per_s)),
        Row::Commit {
            batch, rows_per_s, ..
        } => lines.push(line(&format!("rows/s, {batch} a commit"), *rows_per_s)),
        Row::Wire {
            batch,
            under_way,
            batches_per_s,
            ..
        } => lines.push(line(
            &format!("batches/s of {batch}, {under_way} under way"),
            *batches_per_s,
        )),
        Row::BareLoop {
            shape,
            in_flight,
            tasks_per_s,
            p50_ms,
            levelflow,
        } => {
            lines.push(format!("  {shape:?}, {in_flight} in flight"));
            lines.push(line("  bare tasks/s", *tasks_per_s));
            lines.push(line("  bare p50, ms", *p50_ms));
            if let Some(compared) = levelflow {
                lines.push(line("  Levelflow tasks/s", compared.tasks_per_s));
                lines.push(line("  Levelflow p50, ms", compared.p50_ms));
                lines.push(line("  share of the limit", compared.share));
                lines.push(line("  p50 / limit", compared.p50_ratio));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(bare: f64, levelflow: Option<f64>) -> Pair {
        let rate = |tasks_per_s: f64| Rate {
            tasks_per_s,
            p50_ms: 1000.0 / tasks_per_s,
        };
        Pair {
            bare: rate(bare),
            levelflow: levelflow.map(rate),
        }
    }

    #[test]
    fn shares_are_of_the_same_round() {
        let compared = compared(&[pair(100.0, Some(50.0)), pair(200.0, Some(120.0))]).unwrap();
        assert_eq!((compared.share.min, compared.share.max), (0.5, 0.6));
        assert_eq!(compared.p50_ratio.max, 2.0);
    }

    #[test]
    fn a_limit_alone_is_compared_with_nothing() {
        assert!(compared(&[pair(100.0, None)]).is_none());
    }
}
