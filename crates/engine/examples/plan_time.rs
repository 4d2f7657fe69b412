//! Prints how many milliseconds it takes to lay out a DAG of 100 000 tasks and 300 000 edges.
//!
//! `cargo run --release -p levelflow-engine --example plan_time`

use levelflow_engine::TaskIndex;
use levelflow_engine::plan::Plan;

const TASKS: u32 = 100_000;
const EDGES: usize = 300_000;
const ROUNDS: usize = 9;

fn main() {
    let edges = edges();
    let mut took: Vec<f64> = (0..ROUNDS).map(|_| lay_out(&edges)).collect();
    took.sort_by(f64::total_cmp);
    println!(
        "{TASKS} tasks, {EDGES} edges: median {:.1} ms, best {:.1} ms, worst {:.1} ms",
        took[ROUNDS / 2],
        took[0],
        took[ROUNDS - 1]
    );
}

#[expect(clippy::disallowed_methods, reason = "it measures")]
fn lay_out(edges: &[(u32, u32)]) -> f64 {
    let start = std::time::Instant::now();
    let plan = Plan::new(TASKS as usize, edges).expect("edges lead upwards, so there is no cycle");
    let remaining = plan.remaining(|task: TaskIndex| 1 + u64::from(task.0 % 7));
    let path = plan.critical_path(&remaining);
    let took = start.elapsed();
    assert_eq!(plan.edges(), EDGES);
    assert!(path.len() > 1);
    took.as_secs_f64() * 1000.0
}

/// Edges from lower to higher tasks, drawn by a linear congruential generator. Tasks come in a
/// scattered order, as they may in a file.
fn edges() -> Vec<(u32, u32)> {
    let mut random = 1_u64;
    let mut below = |bound: u32| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((random >> 33) % u64::from(bound)) as u32
    };
    // Odd, so it scatters the places without giving one twice.
    let place = |rank: u32| (u64::from(rank) * 61_803 % u64::from(TASKS)) as u32;
    (0..EDGES)
        .map(|_| {
            let to = 1 + below(TASKS - 1);
            let from = below(to);
            (place(from), place(to))
        })
        .collect()
}
