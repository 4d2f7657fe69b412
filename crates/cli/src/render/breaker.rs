//! Breakers as people see them.

use levelflow_common::Timestamp;
use levelflow_common::view::{BreakerStatus, BreakerView};

use super::style::Styling;
use super::table::{Align, Table};
use super::time::duration;

/// Breakers, one a line.
pub(crate) fn table(breakers: &[BreakerView], now: Timestamp, styling: Styling) -> String {
    let mut table = Table::new(&[
        ("upstream", Align::Left),
        ("breaker", Align::Left),
        ("failures", Align::Right),
        ("running", Align::Right),
        ("limit", Align::Right),
        ("waiting", Align::Right),
    ]);
    for breaker in breakers {
        let status = match (breaker.status, breaker.probes_at) {
            (BreakerStatus::Open, Some(at)) => format!("open for {}", duration(at.since(now))),
            (BreakerStatus::HalfOpen, _) => "half open".to_owned(),
            (status, _) => status.as_str().to_owned(),
        };
        let limit = breaker.limit.map(|limit| limit.to_string());
        table.row([
            breaker.upstream.as_ref().into(),
            status.into(),
            breaker.failures.to_string().into(),
            breaker.running.to_string().into(),
            limit.unwrap_or_default().into(),
            breaker.waiting.to_string().into(),
        ]);
    }
    table.render(styling)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_breaker_has_a_line() {
        let closed = BreakerView {
            upstream: "http:a:80".into(),
            status: BreakerStatus::Closed,
            failures: 0,
            probes_at: None,
            limit: None,
            running: 12,
            waiting: 0,
        };
        let open = BreakerView {
            upstream: "http:b.example:443".into(),
            status: BreakerStatus::Open,
            failures: 5,
            probes_at: Some(Timestamp::from_micros(61_000_000)),
            limit: Some(0),
            running: 0,
            waiting: 495,
        };
        let now = Timestamp::from_micros(1_000_000);
        assert_eq!(
            table(&[closed, open], now, Styling::Plain),
            "\
upstream            breaker         failures  running  limit  waiting
http:a:80           closed                 0       12               0
http:b.example:443  open for 1m00s         5        0      0      495
"
        );
    }
}
