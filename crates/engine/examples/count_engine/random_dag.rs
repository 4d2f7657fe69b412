//! A DAG that is the same each time.

/// Edges from lower to higher tasks, three for each task, drawn by a linear congruential generator.
/// Tasks come in a scattered order, as they may in a file.
pub(crate) fn edges(tasks: u32) -> Vec<(u32, u32)> {
    let mut random = 1_u64;
    let mut below = |bound: u32| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((random >> 33) % u64::from(bound)) as u32
    };
    // A prime that does not divide the powers of ten, so it scatters the places without giving one twice.
    let place = |rank: u32| (u64::from(rank) * 61_813 % u64::from(tasks)) as u32;
    (0..3 * tasks)
        .map(|_| {
            let to = 1 + below(tasks - 1);
            let from = below(to);
            (place(from), place(to))
        })
        .collect()
}
