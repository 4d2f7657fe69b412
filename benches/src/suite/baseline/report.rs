//! What the rounds come to: figures, ratios, and the targets that they meet or miss.

use std::time::Duration;

use serde::Serialize;

use super::executor::Rung;
use super::outcome::Outcome;
use super::service::{Counts, ServiceArguments};
use crate::figure::Figure;
use crate::machine::Machine;
use crate::shape::Shape;

const MIB: f64 = (1 << 20) as f64;

/// What a reader has to know beside the figures.
pub(super) const NOTES: &[&str] = &[
    "executions are runs that ended: a run of the baseline that fails early counts, although it did \
     less; completed runs are counted beside them",
    "times of a run are those of completed runs",
    "memory is the peak of all processes of a side: the executor with its own load; coordinator and \
     workers of Levelflow without the client; the service never",
    "connections and calls are those of the warm-up, too",
    "worker start is measured until a task that it ran is reported to a client that connected after \
     the worker's process was started: more than the time until its session is open",
    "the result cache is not part of the product yet: the last step shows what one may save, and \
     Levelflow calls for repeated inputs like for all others",
];

/// The whole result.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) suite: &'static str,
    pub(super) machine: Machine,
    pub(super) in_flight: u32,
    pub(super) rounds: u32,
    pub(super) seconds: f64,
    pub(super) workers: usize,
    pub(super) executor_threads: usize,
    pub(super) service: ServiceArguments,
    pub(super) rows: Vec<Row>,
    pub(super) notes: &'static [&'static str],
}

/// One side in one round, and what the service saw of it.
pub(super) struct Seen {
    pub(super) outcome: Outcome,
    pub(super) counts: Counts,
}

/// One round of all sides; the ladder has an entry for each rung.
pub(super) struct Round {
    pub(super) ladder: Vec<Seen>,
    pub(super) levelflow: Seen,
    pub(super) worker_start: Duration,
}

/// The figures of one shape.
#[derive(Serialize)]
pub(super) struct Row {
    shape: Shape,
    tasks: usize,
    baseline: Side,
    ladder: Vec<Step>,
    levelflow: Side,
    worker_start_ms: Figure,
    /// Executions a second, Levelflow against the baseline: the median of the rounds.
    ratio: f64,
    ratio_min: f64,
    ratio_max: f64,
    /// The same for completed runs.
    completed_ratio: f64,
    /// Executions a second against an executor that does in memory what Levelflow does: the step with
    /// retries.
    hard_ratio: f64,
    /// How much less memory Levelflow takes than the baseline; more if below zero.
    memory_saved_percent: f64,
    targets: Vec<Target>,
}

/// A step of the ladder.
#[derive(Serialize)]
struct Step {
    rung: Rung,
    #[serde(flatten)]
    side: Side,
}

/// The figures of one side.
#[derive(Clone, Serialize)]
struct Side {
    executions_per_s: Figure,
    completed_per_s: Figure,
    /// Over all rounds.
    completion_percent: f64,
    p50_ms: Figure,
    p99_ms: Figure,
    memory_mib: Figure,
    connections: Figure,
    calls: Figure,
    calls_failed: Figure,
    service_ms: Figure,
    runs: u64,
    completed: u64,
}

/// A target, and whether it is met.
#[derive(Serialize)]
struct Target {
    name: &'static str,
    wanted: String,
    value: f64,
    met: bool,
}

impl Target {
    fn at_least(name: &'static str, least: f64, value: f64) -> Self {
        Self {
            name,
            wanted: format!("≥ {least}"),
            value,
            met: value >= least,
        }
    }

    fn below(name: &'static str, limit: f64, value: f64) -> Self {
        Self {
            name,
            wanted: format!("< {limit}"),
            value,
            met: value < limit,
        }
    }
}

impl Side {
    fn of(rounds: &[&Seen]) -> Self {
        let outcome = |of: fn(&Outcome) -> f64| Figure::of(rounds.iter().map(|s| of(&s.outcome)));
        let counts = |of: fn(&Counts) -> f64| Figure::of(rounds.iter().map(|s| of(&s.counts)));
        let runs: u64 = rounds.iter().map(|seen| seen.outcome.runs).sum();
        let completed: u64 = rounds.iter().map(|seen| seen.outcome.completed).sum();
        Self {
            executions_per_s: outcome(Outcome::executions_per_s),
            completed_per_s: outcome(Outcome::completed_per_s),
            completion_percent: completed as f64 / runs.max(1) as f64 * 100.0,
            p50_ms: outcome(|outcome| outcome.p50_ms),
            p99_ms: outcome(|outcome| outcome.p99_ms),
            memory_mib: outcome(|outcome| outcome.peak_resident_bytes as f64 / MIB),
            connections: counts(|counts| counts.connections as f64),
            calls: counts(|counts| counts.calls as f64),
            calls_failed: counts(|counts| counts.failed as f64),
            service_ms: counts(|counts| counts.service_ms),
            runs,
            completed,
        }
    }

    fn line(&self, name: &str) -> String {
        format!(
            "  {name:<22} {:>8} {:>16} {:>9} {:>9.3} {:>8} {:>8} {:>8} {:>8} {:>8}",
            self.executions_per_s.median,
            format!(
                "({}–{})",
                self.executions_per_s.min, self.executions_per_s.max
            ),
            self.completed_per_s.median,
            self.completion_percent,
            self.p50_ms.median,
            self.p99_ms.median,
            self.memory_mib.median,
            self.connections.median,
            self.calls.median,
        )
    }
}

impl Row {
    /// The figures over rounds, of which there is at least one.
    pub(super) fn of(shape: Shape, rounds: &[Round]) -> Self {
        let step = |(place, rung)| Step {
            rung,
            side: Side::of(&rounds.iter().map(|r| &r.ladder[place]).collect::<Vec<_>>()),
        };
        let ladder: Vec<Step> = Rung::ALL.into_iter().enumerate().map(step).collect();
        let levelflow = Side::of(&rounds.iter().map(|r| &r.levelflow).collect::<Vec<_>>());
        let ratio = |place: usize, of: fn(&Outcome) -> f64| {
            let of = |seen: &Seen| of(&seen.outcome);
            Figure::of(
                rounds
                    .iter()
                    .map(|round| of(&round.levelflow) / of(&round.ladder[place])),
            )
        };
        let executions = ratio(0, Outcome::executions_per_s);
        let worker_start_ms = Figure::of(
            rounds
                .iter()
                .map(|round| round.worker_start.as_secs_f64() * 1e3),
        );
        let baseline = ladder[0].side.clone();
        let memory_saved_percent =
            (1.0 - levelflow.memory_mib.median / baseline.memory_mib.median) * 100.0;
        let targets = vec![
            Target::at_least("executions/s, times", 6.0, executions.median),
            Target::at_least("completion, %", 99.9, levelflow.completion_percent),
            Target::at_least("memory saved, %", 40.0, memory_saved_percent),
            Target::below("worker start, ms", 500.0, worker_start_ms.max),
        ];
        Self {
            shape,
            tasks: shape.tasks(),
            baseline,
            levelflow,
            worker_start_ms,
            ratio: executions.median,
            ratio_min: executions.min,
            ratio_max: executions.max,
            completed_ratio: ratio(0, Outcome::completed_per_s).median,
            hard_ratio: ratio(Rung::Retrying as usize, Outcome::executions_per_s).median,
            memory_saved_percent,
            targets,
            ladder,
        }
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            String::new(),
            format!("{:?}: {} calls", self.shape, self.tasks),
            format!(
                "  {:<22} {:>8} {:>16} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8}",
                "",
                "exec/s",
                "(min–max)",
                "compl./s",
                "compl. %",
                "p50 ms",
                "p99 ms",
                "MiB",
                "conns",
                "calls"
            ),
        ];
        for Step { rung, side } in &self.ladder {
            lines.push(side.line(rung.name()));
        }
        lines.push(self.levelflow.line("Levelflow"));
        lines.push(format!(
            "  Levelflow is {} times the baseline ({}–{}), {} times in completed runs, {} times the \
             step with retries",
            self.ratio, self.ratio_min, self.ratio_max, self.completed_ratio, self.hard_ratio
        ));
        for target in &self.targets {
            lines.push(format!(
                "  {:<22} {:>8}  is {:.2}: {}",
                target.name,
                target.wanted,
                target.value,
                if target.met { "met" } else { "missed" }
            ));
        }
        lines
    }
}

impl Report {
    /// The result for people.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "baseline, {} runs in flight, {} rounds of {} s (medians)",
            self.in_flight, self.rounds, self.seconds
        )];
        lines.extend(self.rows.iter().flat_map(Row::lines));
        lines.push(String::new());
        lines.extend(self.notes.iter().map(|note| format!("- {note}")));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(runs: u64, completed: u64, mib: u64) -> Seen {
        Seen {
            outcome: Outcome {
                runs,
                completed,
                elapsed_s: 1.0,
                p50_ms: 1.0,
                p99_ms: 2.0,
                peak_resident_bytes: mib << 20,
            },
            counts: Counts {
                connections: 1,
                calls: 2,
                failed: 0,
                service_ms: 2.0,
            },
        }
    }

    #[test]
    fn targets_are_met_or_missed_by_the_figures() {
        let round = |levelflow| Round {
            ladder: Rung::ALL.iter().map(|_| seen(100, 50, 10)).collect(),
            levelflow,
            worker_start: Duration::from_millis(20),
        };
        let met = |levelflow| {
            let row = Row::of(Shape::Small, &[round(levelflow)]);
            row.targets.iter().map(|t| t.met).collect::<Vec<_>>()
        };
        assert_eq!(met(seen(600, 600, 6)), [true, true, true, true]);
        assert_eq!(met(seen(599, 598, 7)), [false, false, false, true]);
        let row = Row::of(Shape::Small, &[round(seen(600, 600, 6))]);
        assert_eq!((row.ratio, row.completed_ratio), (6.0, 12.0));
    }
}
