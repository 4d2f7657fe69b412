//! Breakers as clients see them.

use levelflow_common::Timestamp;
use levelflow_common::view::{BreakerStatus, BreakerView};

use crate::enumeration::Enumeration as _;
use crate::invalid::InvalidField;
use crate::v1;

impl From<BreakerView> for v1::Breaker {
    fn from(breaker: BreakerView) -> Self {
        Self {
            upstream: breaker.upstream.as_ref().to_owned(),
            status: breaker.status.number(),
            failures: breaker.failures,
            probes_at_us: breaker.probes_at.map_or(0, Timestamp::as_micros),
            limit: breaker.limit,
            running: breaker.running,
            waiting: breaker.waiting,
        }
    }
}

impl TryFrom<v1::Breaker> for BreakerView {
    type Error = InvalidField;

    fn try_from(message: v1::Breaker) -> Result<Self, InvalidField> {
        let probes_at = message.probes_at_us;
        Ok(Self {
            upstream: message.upstream.into(),
            status: BreakerStatus::required("status", message.status)?,
            failures: message.failures,
            probes_at: (probes_at > 0).then(|| Timestamp::from_micros(probes_at)),
            limit: message.limit,
            running: message.running,
            waiting: message.waiting,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_reads_back() {
        for status in BreakerStatus::ALL {
            let breaker = BreakerView {
                upstream: "http:h:80".into(),
                status,
                failures: 5,
                probes_at: (status == BreakerStatus::Open).then(|| Timestamp::from_micros(7)),
                limit: (status == BreakerStatus::HalfOpen).then_some(3),
                running: 1,
                waiting: 499,
            };
            let message = v1::Breaker::from(breaker.clone());
            assert_eq!(BreakerView::try_from(message), Ok(breaker));
        }
    }
}
