//! Decides again and again how many workers are wanted, and tells whoever starts and stops them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use levelflow_common::Code;
use levelflow_engine::autoscale::{AutoscalePolicy, Autoscaler, Decision, Demand};
use levelflow_proto::ApiError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::actor::Message;
use crate::clock::Clock;
use crate::cluster::{Cluster, DemandElsewhere};
use crate::service::stopping;

/// How often the policy is applied.
const EVERY: Duration = Duration::from_millis(250);
/// Queues of which something is decided on their own.
const MAX_QUEUES: usize = 64;
/// How long that goes on when nobody asks.
const FORGET_QUEUE_AFTER: Duration = Duration::from_secs(600);
/// Requests for decisions about a queue that may wait.
const REQUESTS: usize = 16;

/// How many workers are wanted, as it was last decided; none before the first time.
pub type Decisions = watch::Receiver<Option<Arc<Decision>>>;

/// The policy while it is applied, for those who want to know what comes of it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Autoscaling {
    all: Decisions,
    requests: mpsc::Sender<OfQueue>,
}

/// Someone wants to know what is decided about a queue.
struct OfQueue {
    queue: Arc<str>,
    reply: oneshot::Sender<Option<Decisions>>,
}

impl Autoscaling {
    /// About all workers.
    pub(crate) fn all(&self) -> Decisions {
        self.all.clone()
    }

    /// Workers that there should be; none before the first decision.
    pub(crate) fn wanted(&self) -> Option<u32> {
        self.all.borrow().as_ref().map(|decision| decision.wanted)
    }

    /// About the tasks of a queue and the workers that subscribe to it.
    ///
    /// # Errors
    /// When something is decided about too many queues already.
    pub(crate) async fn of(&self, queue: Arc<str>) -> Result<Decisions, ApiError> {
        let (reply, answer) = oneshot::channel();
        let request = OfQueue { queue, reply };
        self.requests.send(request).await.map_err(|_| stopping())?;
        let decisions = answer.await.map_err(|_| stopping())?;
        decisions.ok_or_else(|| {
            ApiError::new(
                Code::TooManyQueues,
                format!(
                    "the workers of {MAX_QUEUES} queues are decided about on their own already"
                ),
            )
        })
    }
}

/// What the policy is applied with.
pub(crate) struct Parts {
    pub(crate) policy: AutoscalePolicy,
    pub(crate) actor: mpsc::Sender<Message>,
    pub(crate) cluster: Cluster,
    pub(crate) clock: Clock,
    pub(crate) stop: CancellationToken,
}

/// Applies the policy until the coordinator stops.
pub(crate) fn start(parts: Parts) -> Autoscaling {
    let (all, decisions) = Scope::new(&parts.policy, None);
    let (requests, asked) = mpsc::channel(REQUESTS);
    let decider = Decider {
        elsewhere: DemandElsewhere::new(parts.cluster.clone()),
        parts,
        all,
        queues: BTreeMap::new(),
    };
    levelflow_runtime::task::spawn("autoscale", decider.run(asked));
    Autoscaling {
        all: decisions,
        requests,
    }
}

/// What is decided about some of the workers.
struct Scope {
    autoscaler: Autoscaler,
    decisions: watch::Sender<Option<Arc<Decision>>>,
    asked_at: Instant,
}

impl Scope {
    fn new(policy: &AutoscalePolicy, queue: Option<Arc<str>>) -> (Self, Decisions) {
        let (decisions, receiver) = watch::channel(None);
        let scope = Self {
            autoscaler: Autoscaler::new(policy.clone(), queue),
            decisions,
            asked_at: Instant::now(),
        };
        (scope, receiver)
    }

    fn decide(&mut self, clock: Clock, demand: &Demand) {
        let decision = Arc::new(self.autoscaler.decide(clock.now(), demand));
        let before = self.decisions.send_replace(Some(decision.clone()));
        if before.is_none_or(|before| before.wanted != decision.wanted) {
            tracing::info!(
                queue = decision.queue.as_deref(),
                wanted = decision.wanted,
                current = decision.current,
                decided_by = decision.decided_by.as_str(),
                "number of workers decided"
            );
        }
    }

    fn is_forgotten(&self) -> bool {
        self.decisions.receiver_count() == 0 && self.asked_at.elapsed() >= FORGET_QUEUE_AFTER
    }
}

/// Applies the policy.
struct Decider {
    parts: Parts,
    elsewhere: DemandElsewhere,
    all: Scope,
    queues: BTreeMap<Arc<str>, Scope>,
}

impl Decider {
    async fn run(mut self, mut asked: mpsc::Receiver<OfQueue>) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = self.parts.stop.clone();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(request) = asked.recv() => self.watch(request),
                _ = ticks.tick() => {
                    if !self.decide().await {
                        return;
                    }
                }
            }
        }
    }

    /// Decides about everything; false when the coordinator has stopped.
    async fn decide(&mut self) -> bool {
        let Some(here) = self.demand_here().await else {
            return false;
        };
        let elsewhere = self.elsewhere.demand().await;
        let demand = Demand::sum([here].into_iter().chain(elsewhere));
        self.queues.retain(|_, scope| !scope.is_forgotten());
        for scope in [&mut self.all].into_iter().chain(self.queues.values_mut()) {
            scope.decide(self.parts.clock, &demand);
        }
        true
    }

    fn watch(&mut self, request: OfQueue) {
        let OfQueue { queue, reply } = request;
        let is_full = self.queues.len() >= MAX_QUEUES;
        let decisions = match self.queues.get_mut(&queue) {
            Some(scope) => {
                scope.asked_at = Instant::now();
                Some(scope.decisions.subscribe())
            }
            None if is_full => None,
            None => {
                let (scope, decisions) = Scope::new(&self.parts.policy, Some(queue.clone()));
                self.queues.insert(queue, scope);
                Some(decisions)
            }
        };
        // Who does not wait for the answer does not need it.
        let _ = reply.send(decisions);
    }

    /// What waits with this coordinator; none when it has stopped.
    async fn demand_here(&self) -> Option<Demand> {
        let (reply, answer) = oneshot::channel();
        let message = Message::Demand { reply };
        self.parts.actor.send(message).await.ok()?;
        answer.await.ok()
    }
}
