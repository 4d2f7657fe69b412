//! Calls to upstreams: what an attempt tells the coordinator of them, and which must not be made.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use levelflow_common::limits::MAX_UPSTREAMS_PER_ATTEMPT;
use levelflow_common::upstream;
use levelflow_common::{AttemptResult, Code};
use levelflow_proto::v1;

use crate::context::AttemptState;

/// Upstreams that the coordinator said not to call.
#[derive(Debug, Default)]
pub(crate) struct OpenBreakers(RwLock<HashSet<String>>);

impl OpenBreakers {
    /// What is open when a session begins.
    pub(crate) fn begin_session(&self, upstreams: &[String]) {
        let mut open = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *open = upstreams.iter().cloned().collect();
    }

    /// What opened or closed since then.
    pub(crate) fn change(&self, changes: Vec<v1::BreakerChange>) {
        if changes.is_empty() {
            return;
        }
        let mut open = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            if change.open {
                open.insert(change.upstream);
            } else {
                open.remove(&change.upstream);
            }
        }
    }

    /// All that are open.
    pub(crate) fn all(&self) -> Vec<String> {
        let open = self.0.read().unwrap_or_else(PoisonError::into_inner);
        open.iter().cloned().collect()
    }

    fn contains(&self, upstream: &str) -> bool {
        let open = self.0.read().unwrap_or_else(PoisonError::into_inner);
        open.contains(upstream)
    }
}

/// The breaker of an upstream is open, so it must not be called now. An attempt that fails after it was
/// told this is given out again when the upstream may be called, and does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the breaker of upstream `{upstream}` is open")]
pub struct BreakerOpen {
    /// The upstream.
    pub upstream: String,
}

/// A call to an upstream that is under way: say how it ended, and say it as soon as that is known; the
/// coordinator is told while the attempt goes on. A call of which nothing is said counts
/// only if the attempt ran out of time meanwhile, and then against the upstream.
#[derive(Debug)]
#[must_use = "the breaker learns only from calls whose end is told"]
pub struct OpenCall {
    attempt: Arc<AttemptState>,
    place: Option<usize>,
}

impl OpenCall {
    /// The upstream answered; whether the answer was welcome does not matter.
    pub fn succeeded(mut self) {
        self.end(Verdict::Succeeded);
    }

    /// The upstream was at fault: it could not be reached, broke off, took too long, or answered that it
    /// cannot serve now.
    pub fn failed(mut self) {
        self.end(Verdict::Failed);
    }

    fn end(&mut self, verdict: Verdict) {
        if let Some(place) = self.place.take() {
            self.attempt.calls.lock().made[place].1 = verdict;
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        // An attempt that was told to stop drops its calls; why it was told decides about them.
        if !self.attempt.cancelled.is_cancelled() {
            self.end(Verdict::Unknown);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    UnderWay,
    Succeeded,
    Failed,
    /// Nothing, or it was told.
    Unknown,
}

/// The calls of one attempt.
#[derive(Debug, Default)]
pub(crate) struct Calls(Mutex<CallsMade>);

#[derive(Debug, Default)]
struct CallsMade {
    made: Vec<(String, Verdict)>,
    refused: Option<String>,
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, CallsMade> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The calls that ended since this was last asked.
    pub(crate) fn take_ended(&self) -> Vec<v1::UpstreamCall> {
        let mut calls = self.lock();
        let mut ended = Vec::new();
        for (upstream, verdict) in &mut calls.made {
            let failed = match verdict {
                Verdict::Succeeded => false,
                Verdict::Failed => true,
                Verdict::UnderWay | Verdict::Unknown => continue,
            };
            *verdict = Verdict::Unknown;
            let upstream = upstream.clone();
            ended.push(v1::UpstreamCall { upstream, failed });
        }
        ended
    }

    /// Takes over calls that ended, and the upstream that was not called, from another process.
    pub(crate) fn relay(
        &self,
        calls: impl IntoIterator<Item = v1::UpstreamCall>,
        parked_on: String,
    ) {
        let mut known = self.lock();
        for v1::UpstreamCall { upstream, failed } in calls {
            let verdict = if failed {
                Verdict::Failed
            } else {
                Verdict::Succeeded
            };
            known.made.push((upstream, verdict));
        }
        if !parked_on.is_empty() {
            known.refused = Some(parked_on);
        }
    }

    /// Adds what is known of the calls to the outcome of the attempt.
    pub(crate) fn report(&self, result: &AttemptResult, outcome: &mut v1::Outcome) {
        let mut calls = self.lock();
        if let (Err(_), Some(upstream)) = (result, calls.refused.take()) {
            outcome.parked_on = upstream;
        }
        let timed_out = matches!(result, Err(failure) if failure.code == Code::RunTimeout);
        for (upstream, verdict) in calls.made.drain(..) {
            let failed = match verdict {
                Verdict::Succeeded => false,
                Verdict::Failed => true,
                Verdict::UnderWay if timed_out => true,
                Verdict::UnderWay | Verdict::Unknown => continue,
            };
            outcome.calls.push(v1::UpstreamCall { upstream, failed });
        }
    }
}

impl AttemptState {
    pub(crate) fn call(self: &Arc<Self>, upstream: &str) -> Result<OpenCall, BreakerOpen> {
        let mut calls = self.calls.lock();
        if self.upstream != upstream && self.open_breakers.contains(upstream) {
            let upstream = upstream.to_owned();
            calls.refused = Some(upstream.clone());
            return Err(BreakerOpen { upstream });
        }
        let told = calls.made.len() < MAX_UPSTREAMS_PER_ATTEMPT && upstream::is_name(upstream);
        if told {
            calls.made.push((upstream.to_owned(), Verdict::UnderWay));
        }
        Ok(OpenCall {
            attempt: Arc::clone(self),
            place: told.then(|| calls.made.len() - 1),
        })
    }
}
