//! The most workers that were needed within a span of time.

use std::collections::VecDeque;
use std::time::Duration;

use levelflow_common::Timestamp;

/// The most workers that were needed within a span of time.
///
/// Only those needs are kept that are greater than all that came later, so there are never more of them
/// than there may be workers.
#[derive(Debug, Default)]
pub(super) struct Needs(VecDeque<(Timestamp, u32)>);

impl Needs {
    /// So many are needed now; what was needed `span` ago or before is forgotten.
    pub(super) fn note(&mut self, now: Timestamp, workers: u32, span: Duration) {
        while self.0.back().is_some_and(|&(_, known)| known <= workers) {
            self.0.pop_back();
        }
        self.0.push_back((now, workers));
        while self.0.front().is_some_and(|&(at, _)| now.since(at) >= span) && self.0.len() > 1 {
            self.0.pop_front();
        }
    }

    /// The most, and when it was last needed; none if nothing was ever noted.
    pub(super) fn most(&self) -> Option<(Timestamp, u32)> {
        self.0.front().copied()
    }
}
