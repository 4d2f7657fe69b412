//! Decides again and again how many workers are wanted, and tells whoever starts and stops them.

use std::sync::Arc;
use std::time::Duration;

use levelflow_engine::autoscale::{AutoscalePolicy, Autoscaler, Decision, Demand};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::actor::Message;
use crate::clock::Clock;

/// How often the policy is applied.
const EVERY: Duration = Duration::from_millis(250);

/// How many workers are wanted, as it was last decided; none before the first time.
pub type Decisions = watch::Receiver<Option<Arc<Decision>>>;

/// What the policy is applied with.
pub(crate) struct Autoscale {
    pub(crate) policy: AutoscalePolicy,
    pub(crate) actor: mpsc::Sender<Message>,
    pub(crate) clock: Clock,
    pub(crate) stop: CancellationToken,
}

impl Autoscale {
    /// Applies the policy until the coordinator stops.
    pub(crate) fn start(self) -> Decisions {
        let (decisions, receiver) = watch::channel(None);
        let run = self.run(decisions);
        levelflow_runtime::task::spawn("autoscale", run);
        receiver
    }

    async fn run(self, decisions: watch::Sender<Option<Arc<Decision>>>) {
        let mut autoscaler = Autoscaler::new(self.policy.clone(), None);
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut wanted = None;
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let Some(demand) = self.own_demand().await else {
                return;
            };
            let decision = autoscaler.decide(self.clock.now(), &demand);
            if wanted.replace(decision.wanted) != Some(decision.wanted) {
                tracing::info!(
                    wanted = decision.wanted,
                    current = decision.current,
                    decided_by = decision.decided_by.as_str(),
                    "workers are wanted"
                );
            }
            decisions.send_replace(Some(Arc::new(decision)));
        }
    }

    /// What waits with this coordinator; none when it has stopped.
    async fn own_demand(&self) -> Option<Demand> {
        let (reply, answer) = oneshot::channel();
        self.actor.send(Message::Demand { reply }).await.ok()?;
        answer.await.ok()
    }
}
