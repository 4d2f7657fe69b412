//! Figures over several rounds.

use serde::Serialize;

/// A figure: its median, and between what it lay.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Figure {
    /// The figure over rounds, of which there is at least one.
    pub(crate) fn of(rounds: impl IntoIterator<Item = f64>) -> Self {
        let mut rounds: Vec<f64> = rounds.into_iter().collect();
        rounds.sort_by(f64::total_cmp);
        let middle = rounds.len() / 2;
        let median = if rounds.len().is_multiple_of(2) {
            f64::midpoint(rounds[middle - 1], rounds[middle])
        } else {
            rounds[middle]
        };
        Self {
            median: rounded(median),
            min: rounded(rounds[0]),
            max: rounded(rounds[rounds.len() - 1]),
        }
    }
}

/// Four significant digits are more than any of these figures is worth.
pub(crate) fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10_f64.powi(3 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_rounds() {
        let figure = Figure::of([3.0, 1.0, 2.0]);
        assert_eq!((figure.median, figure.min, figure.max), (2.0, 1.0, 3.0));
        assert_eq!(Figure::of([1.0, 2.0]).median, 1.5);
        assert_eq!(Figure::of([123_456.0]).median, 123_500.0);
        assert_eq!(Figure::of([0.012_345]).median, 0.012_35);
    }
}
