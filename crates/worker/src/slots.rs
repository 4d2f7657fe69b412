//! The attempts that a worker has under way, and the credits that bound them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt as _;
use levelflow_common::{AttemptResult, Code, Failure};
use levelflow_proto::v1;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use crate::attempt::{self, Ended, Job, Limits, bound_output, cancelled};
use crate::chunk_log::Announce;
use crate::context::{AttemptState, Context};
use crate::division::{Share, Use};
use crate::executor::Executors;
use crate::upstream::OpenBreakers;

/// The attempts under way. Lives across sessions, as the attempts do.
pub(crate) struct Slots {
    share: Share,
    grace: Duration,
    executors: Arc<Executors>,
    ended: UnboundedSender<Ended>,
    /// Credits of this session that the coordinator has not used.
    granted: usize,
    /// Received and not started.
    queue: VecDeque<v1::Attempt>,
    running: HashMap<u64, Running>,
    /// Threads that still work for attempts that have ended.
    lingering: usize,
    pub(crate) open_breakers: Arc<OpenBreakers>,
    announce: Announce,
}

struct Running {
    state: Arc<AttemptState>,
    /// Nobody wants its outcome any more.
    forgotten: bool,
}

impl Slots {
    pub(crate) fn new(
        share: Share,
        grace: Duration,
        executors: Arc<Executors>,
        ended: UnboundedSender<Ended>,
        announce: Announce,
    ) -> Self {
        Self {
            share,
            grace,
            executors,
            ended,
            granted: 0,
            queue: VecDeque::new(),
            running: HashMap::new(),
            lingering: 0,
            open_breakers: Arc::default(),
            announce,
        }
    }

    /// A session begins or is lost: what was granted before is void, and for others.
    pub(crate) fn void_credits(&mut self) {
        self.granted = 0;
        self.share.reset(self.in_use());
    }

    /// Attempts that could be asked for now.
    pub(crate) fn ungranted(&self) -> usize {
        self.share.room()
    }

    /// Asks for as many attempts as there is room for.
    pub(crate) fn grant(&mut self) -> u32 {
        let credits = u32::try_from(self.ungranted()).unwrap_or(u32::MAX);
        self.granted += credits as usize;
        self.note();
        credits
    }

    /// Credits that the coordinator is to give back.
    pub(crate) fn ask_back(&self) -> u32 {
        u32::try_from(self.share.ask()).unwrap_or(u32::MAX)
    }

    /// The coordinator gave credits back that it was asked for.
    pub(crate) fn take_back(&mut self, credits: u32) {
        self.granted = self.granted.saturating_sub(credits as usize);
        self.note();
        self.share.answered();
    }

    /// What is shared with other coordinators.
    pub(crate) fn share(&self) -> &Share {
        &self.share
    }

    fn in_use(&self) -> Use {
        Use {
            granted: self.granted,
            queued: self.queue.len(),
            occupied: self.occupied(),
        }
    }

    fn note(&self) {
        self.share.note(self.in_use());
    }

    /// Uses half of the slots from now on, or all of them.
    pub(crate) fn cut(&mut self, is_cut: bool) {
        self.share.cut(is_cut);
    }

    fn occupied(&self) -> usize {
        self.running.len() + self.lingering
    }

    /// Takes an attempt in; false if it was not asked for.
    #[must_use]
    pub(crate) fn receive(&mut self, attempt: v1::Attempt) -> bool {
        if self.granted == 0 {
            return false;
        }
        self.granted -= 1;
        if !self.running.contains_key(&attempt.token) {
            self.queue.push_back(attempt);
        }
        self.note();
        true
    }

    /// Whether [`Slots::start_next`] would start something.
    pub(crate) fn can_start(&self) -> bool {
        !self.queue.is_empty() && self.share.has_slot()
    }

    /// Starts the next attempt, if one waits and a slot is free. Gives its outcome if it ended at once.
    pub(crate) fn start_next(&mut self) -> Option<v1::Outcome> {
        if !self.can_start() {
            return None;
        }
        let started = self.start_first();
        self.note();
        started
    }

    fn start_first(&mut self) -> Option<v1::Outcome> {
        let mut message = self.queue.pop_front()?;
        let token = message.token;
        let limits = Limits::of(&message, self.grace);
        let Some(state) = AttemptState::starting(&mut message, &self.open_breakers, &self.announce)
        else {
            let failure = Failure::permanent(Code::Internal, "the id of the run is malformed");
            return Some(outcome(token, Err(failure), Duration::ZERO));
        };
        let context = Context::new(Arc::clone(&state));
        let mut job = self.executors.prepare(context, message);
        if job.pace.ends_at_once()
            && let Some(result) = poll_once(&mut job)
        {
            return Some(outcome_of(&state, result, state.started_at.elapsed()));
        }
        let running = Running {
            state: Arc::clone(&state),
            forgotten: false,
        };
        self.running.insert(token, running);
        let attempt = attempt::run(state, job, limits, self.ended.clone());
        levelflow_runtime::task::spawn("attempt", attempt);
        None
    }

    /// Notes the end of an attempt, and gives its outcome if it is still wanted.
    pub(crate) fn end(&mut self, ended: Ended) -> Option<v1::Outcome> {
        match ended {
            Ended::Thread => {
                self.lingering -= 1;
                self.note();
                None
            }
            Ended::Attempt {
                token,
                result,
                duration,
                slot_is_free,
            } => {
                let running = self.running.remove(&token)?;
                if !slot_is_free {
                    self.lingering += 1;
                }
                self.note();
                let outcome = outcome_of(&running.state, result, duration);
                (!running.forgotten).then_some(outcome)
            }
        }
    }

    /// Stops an attempt. Gives its outcome if it had not started; else that follows when it has ended.
    pub(crate) fn cancel(&mut self, token: u64) -> Option<v1::Outcome> {
        if let Some(running) = self.running.get(&token) {
            running.state.cancelled.cancel();
            return None;
        }
        self.unqueue(token)
            .then(|| outcome(token, Err(cancelled()), Duration::ZERO))
    }

    /// Stops an attempt whose outcome nobody wants any more.
    pub(crate) fn revoke(&mut self, token: u64) {
        if let Some(running) = self.running.get_mut(&token) {
            running.forgotten = true;
            running.state.end_chunks();
            running.state.cancelled.cancel();
        } else {
            self.unqueue(token);
        }
    }

    fn unqueue(&mut self, token: u64) -> bool {
        let place = self.queue.iter().position(|queued| queued.token == token);
        let found = place.is_some_and(|place| self.queue.remove(place).is_some());
        self.note();
        found
    }

    /// Gives up the attempts that have not started, and says which.
    pub(crate) fn refuse_queued(&mut self) -> Vec<u64> {
        let refused = self.queue.drain(..).map(|attempt| attempt.token).collect();
        self.note();
        refused
    }

    /// Stops everything: the worker has to end.
    pub(crate) fn abandon_all(&self) {
        for running in self.running.values() {
            running.state.abandon();
        }
    }

    /// Whether no outcome can come any more.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.running.is_empty()
    }

    /// Tokens of the attempts whose leases have to be kept: those that run and those that wait.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = u64> {
        let running = self
            .running
            .iter()
            .filter(|(_, running)| !running.forgotten);
        let queued = self.queue.iter().map(|attempt| attempt.token);
        running.map(|(&token, _)| token).chain(queued)
    }

    /// The calls to upstreams that ended since the last call, of attempts that run.
    pub(crate) fn take_ended_calls(&self) -> Vec<v1::AttemptCall> {
        let mut ended = Vec::new();
        for (&token, running) in &self.running {
            let calls = running.state.calls.take_ended().into_iter().map(Some);
            ended.extend(calls.map(|call| v1::AttemptCall { token, call }));
        }
        ended
    }

    /// What the attempts share.
    pub(crate) fn pools(&self) -> Vec<v1::Pool> {
        self.executors.pools()
    }

    /// Tokens of the attempts that reported progress since the last call.
    pub(crate) fn take_progressed(&self) -> Vec<u64> {
        let running = self.running.iter();
        running
            .filter(|(_, running)| running.state.take_progressed() && !running.forgotten)
            .map(|(&token, _)| token)
            .collect()
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        self.abandon_all();
    }
}

/// Polls a job that is likely to end at once; none if it did not.
fn poll_once(job: &mut Job) -> Option<AttemptResult> {
    let polled_at = Instant::now();
    let mut task = TaskContext::from_waker(Waker::noop());
    let ended = match job.future.poll_unpin(&mut task) {
        Poll::Ready(result) => Some(bound_output(result)),
        Poll::Pending => None,
    };
    job.pace.note(polled_at.elapsed(), ended.is_some());
    ended
}

/// The outcome of an attempt that was started.
pub(crate) fn outcome_of(
    state: &AttemptState,
    result: AttemptResult,
    duration: Duration,
) -> v1::Outcome {
    let mut told = v1::Outcome::default();
    state.calls.report(&result, &mut told);
    v1::Outcome {
        calls: told.calls,
        parked_on: told.parked_on,
        chunks: state.end_chunks(),
        ..outcome(state.token, result, duration)
    }
}

fn outcome(token: u64, result: AttemptResult, duration: Duration) -> v1::Outcome {
    let (output, failure) = match result {
        Ok(output) => (output, None),
        Err(failure) => (Default::default(), Some(failure.into())),
    };
    v1::Outcome {
        token,
        output,
        failure,
        duration_us: u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
        ..v1::Outcome::default()
    }
}
