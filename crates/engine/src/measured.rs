//! How long tasks take: expected by kind until it was measured.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use levelflow_common::{TaskKind, WorkflowDigest};
use slab::Slab;

use crate::definition::Definition;
use crate::lane::Lanes;
use crate::live::{LiveRun, Profile};
use crate::record::TaskIndex;
use crate::worker::Workers;

/// Definitions whose measurements are kept; the one that was submitted least lately goes first.
const MAX_DEFINITIONS: usize = 4096;

/// Durations of tasks by definition.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    by_digest: BTreeMap<WorkflowDigest, usize>,
    all: Slab<Measurements>,
    /// Counts submits, to tell which definition was used least lately.
    uses: u64,
}

#[derive(Debug)]
struct Measurements {
    digest: WorkflowDigest,
    profile: Arc<Profile>,
    /// Moving averages in microseconds; 0 where nothing was measured.
    micros: Vec<u64>,
    runs: u64,
    last_use: u64,
}

impl Measured {
    /// The profile for a new run, and whether the definition is new here.
    pub(crate) fn profile(
        &mut self,
        definition: &Definition,
        lanes: &mut Lanes,
        workers: &Workers,
    ) -> (Arc<Profile>, bool) {
        self.uses += 1;
        if let Some(&number) = self.by_digest.get(&definition.digest) {
            let known = &mut self.all[number];
            known.last_use = self.uses;
            return (known.profile.clone(), false);
        }
        if self.by_digest.len() >= MAX_DEFINITIONS
            && let Some((oldest, _)) = self.all.iter().min_by_key(|(_, known)| known.last_use)
        {
            self.by_digest.remove(&self.all.remove(oldest).digest);
        }
        let micros = vec![0; definition.plan.len()];
        let entry = self.all.vacant_entry();
        let profile = Arc::new(Profile {
            measured: entry.key(),
            lanes: definition
                .tasks
                .iter()
                .map(|task| lanes.intern(&task.requirement, workers))
                .collect(),
            remaining: remaining(definition, &micros),
        });
        self.by_digest.insert(definition.digest, entry.key());
        entry.insert(Measurements {
            digest: definition.digest,
            profile: profile.clone(),
            micros,
            runs: 0,
            last_use: self.uses,
        });
        (profile, true)
    }

    /// What is measured for a definition, if that is still kept.
    fn of(&mut self, profile: &Profile, digest: WorkflowDigest) -> Option<&mut Measurements> {
        self.all
            .get_mut(profile.measured)
            .filter(|known| known.digest == digest)
    }

    /// An attempt at a task succeeded.
    pub(crate) fn note(&mut self, run: &LiveRun, task: TaskIndex, took: Duration) {
        if let Some(known) = self.of(&run.profile, run.state.definition.digest) {
            let micros = &mut known.micros[task.0 as usize];
            let took = took.as_micros() as u64 + 1;
            *micros = if *micros == 0 {
                took
            } else {
                (*micros * 7 + took) / 8
            };
        }
    }

    /// A run of the definition ended: now and then the order of its tasks is computed anew.
    pub(crate) fn run_ended(&mut self, run: &LiveRun) {
        let definition = &run.state.definition;
        if let Some(known) = self.of(&run.profile, definition.digest) {
            known.runs += 1;
            if known.runs.is_power_of_two() || known.runs.is_multiple_of(1024) {
                known.profile = Arc::new(Profile {
                    measured: known.profile.measured,
                    lanes: known.profile.lanes.clone(),
                    remaining: remaining(definition, &known.micros),
                });
            }
        }
    }
}

/// How long tasks of one queue take, by kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TaskTimes {
    /// Moving averages in microseconds; 0 where nothing was measured.
    by_kind: [u64; TaskKind::ALL.len()],
    /// The same of all kinds together.
    all: u64,
}

impl TaskTimes {
    pub(crate) fn note(&mut self, kind: TaskKind, took: Duration) {
        let took = took.as_micros() as u64 + 1;
        for average in [&mut self.by_kind[kind as usize], &mut self.all] {
            *average = if *average == 0 {
                took
            } else {
                (*average * 15 + took) / 16
            };
        }
    }

    /// Of a task of that kind; what is expected of it until one was measured.
    pub(crate) fn of(&self, kind: TaskKind) -> Duration {
        let micros = match self.by_kind[kind as usize] {
            0 => expected(kind),
            measured => measured,
        };
        Duration::from_micros(micros)
    }

    /// Of any task; none until one was measured.
    pub(crate) fn of_any(&self) -> Option<Duration> {
        (self.all > 0).then(|| Duration::from_micros(self.all))
    }
}

fn remaining(definition: &Definition, micros: &[u64]) -> Vec<u64> {
    definition.plan.remaining(|task| {
        let measured = micros[task.0 as usize];
        if measured > 0 {
            measured
        } else {
            expected(definition.tasks[task.0 as usize].kind)
        }
    })
}

/// Microseconds that a task of a kind is taken to need before it was measured.
pub(crate) const fn expected(kind: TaskKind) -> u64 {
    match kind {
        TaskKind::Http | TaskKind::Handler => 100_000,
        TaskKind::Sql => 10_000,
        TaskKind::Chat => 3_000_000,
        TaskKind::Process => 200_000,
        TaskKind::Sleep => 1_000_000,
        TaskKind::Transform => 1_000,
    }
}
