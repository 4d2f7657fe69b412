//! What a suite is to show.

use serde::Serialize;

use crate::figure::Figure;

/// A target, and whether it is met: by the median over the rounds.
#[derive(Serialize)]
pub(super) struct Target {
    name: &'static str,
    wanted: String,
    value: Figure,
    met: bool,
}

impl Target {
    /// A figure that is to be no less.
    pub(super) fn at_least(name: &'static str, value: Figure, least: f64) -> Self {
        Self {
            name,
            wanted: format!("≥ {least}"),
            value,
            met: value.median >= least,
        }
    }

    /// A figure that is to be no more.
    pub(super) fn at_most(name: &'static str, value: Figure, most: f64) -> Self {
        Self {
            name,
            wanted: format!("≤ {most}"),
            value,
            met: value.median <= most,
        }
    }

    /// The target for people.
    pub(super) fn line(&self) -> String {
        let Figure { median, min, max } = self.value;
        let met = if self.met { "met" } else { "missed" };
        format!(
            "{}: {median} ({min}–{max}), {}: {met}",
            self.name, self.wanted
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_decides() {
        let value = Figure::of([1.0, 2.0, 3.0]);
        assert_eq!(
            Target::at_least("speed", value, 2.0).line(),
            "speed: 2 (1–3), ≥ 2: met"
        );
        assert!(!Target::at_least("speed", value, 2.5).met);
        assert!(Target::at_most("time", value, 2.0).met);
        assert!(!Target::at_most("time", value, 1.5).met);
    }
}
