//! A fixed workload of the engine for an instruction counter: no clock, no randomness, one thread, the
//! allocator of the system. `cargo xtask instructions` counts it and compares.

mod closed_loop;
mod random_dag;

use std::hint::black_box;

use closed_loop::{ClosedLoop, fan};
use levelflow_engine::plan::Plan;

const RUNS: u64 = 2_000;
const IN_FLIGHT: usize = 64;
const CREDITS: u32 = 512;
const PLANNED: u32 = 20_000;

fn main() {
    let workload = std::env::args().nth(1);
    match workload.as_deref() {
        Some("runs") => runs(),
        Some("plan") => plan(),
        _ => {
            eprintln!("say which workload: runs or plan");
            std::process::exit(2);
        }
    }
}

/// Small runs, from their submits to their ends.
fn runs() {
    let mut engine = ClosedLoop::new(fan(5), CREDITS);
    while engine.turn(IN_FLIGHT) < RUNS {}
}

/// The layout of a large DAG.
fn plan() {
    let edges = random_dag::edges(PLANNED);
    let plan = Plan::new(PLANNED as usize, &edges).expect("edges lead upwards");
    let remaining = plan.remaining(|task| 1 + u64::from(task.0 % 7));
    black_box(plan.critical_path(&remaining));
}
