//! Times as people read them.

use std::time::Duration;

use levelflow_common::Timestamp;

/// A duration with about three digits: `0.3ms`, `12ms`, `1.24s`, `1m03s`, `2h05m`, `3d04h`.
pub(crate) fn duration(span: Duration) -> String {
    let micros = span.as_micros();
    let seconds = span.as_secs();
    match micros {
        0..1_000 => format!("{:.1}ms", micros as f64 / 1e3),
        1_000..999_500 => format!("{}ms", (micros + 500) / 1_000),
        999_500..9_995_000 => format!("{:.2}s", span.as_secs_f64()),
        9_995_000..59_950_000 => format!("{:.1}s", span.as_secs_f64()),
        _ if seconds < 3_600 => {
            let seconds = (micros + 500_000) / 1_000_000;
            format!("{}m{:02}s", seconds / 60, seconds % 60)
        }
        _ if seconds < 86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// Now, by the clock of this machine.
pub(crate) fn now() -> Timestamp {
    let micros = jiff::Timestamp::now().as_microsecond();
    Timestamp::from_micros(u64::try_from(micros).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_about_three_digits() {
        for (micros, text) in [
            (0, "0.0ms"),
            (340, "0.3ms"),
            (12_400, "12ms"),
            (999_499, "999ms"),
            (999_500, "1.00s"),
            (1_240_000, "1.24s"),
            (12_340_000, "12.3s"),
            (59_960_000, "1m00s"),
            (63_000_000, "1m03s"),
            (7_500_000_000, "2h05m"),
            (273_600_000_000, "3d04h"),
        ] {
            assert_eq!(duration(Duration::from_micros(micros)), text);
        }
    }
}
