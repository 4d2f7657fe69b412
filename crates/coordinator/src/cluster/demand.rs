//! What waits for workers with the other coordinators.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use levelflow_engine::autoscale::Demand;
use levelflow_store::MemberId;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::Cluster;

/// How often they are asked at most.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long they have to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// How long an answer holds.
const HOLDS_FOR: Duration = Duration::from_secs(3);

/// What waits for workers with the other coordinators.
pub(crate) struct DemandElsewhere {
    cluster: Cluster,
    heard: BTreeMap<MemberId, (Instant, Demand)>,
    asked_at: Option<Instant>,
    asking: Option<JoinHandle<Answers>>,
}

type Answers = Vec<(MemberId, Option<Demand>)>;

impl DemandElsewhere {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self {
            cluster,
            heard: BTreeMap::new(),
            asked_at: None,
            asking: None,
        }
    }

    /// What they said last, and which of them said nothing lately. Waits for nobody.
    pub(crate) async fn demand(&mut self) -> Vec<Demand> {
        if !self.cluster.is_shared() {
            return Vec::new();
        }
        self.listen().await;
        self.ask();
        let map = self.cluster.map();
        let is_there = |member: &MemberId| map.peer(*member).is_some();
        self.heard
            .retain(|member, (at, _)| is_there(member) && at.elapsed() < HOLDS_FOR);
        let silent = map.peers().map(|(member, _)| member);
        let silent = silent.filter(|member| !self.heard.contains_key(member));
        let unheard = Demand {
            unheard: silent.map(|member| member.to_string()).collect(),
            ..Demand::default()
        };
        let heard = self.heard.values().map(|(_, demand)| demand.clone());
        heard.chain([unheard]).collect()
    }

    async fn listen(&mut self) {
        let Some(asking) = self.asking.take_if(|asking| asking.is_finished()) else {
            return;
        };
        // A task that panicked has said so, and its answers are missing.
        let answers = asking.await.unwrap_or_default();
        let now = Instant::now();
        let answers = answers.into_iter();
        self.heard
            .extend(answers.filter_map(|(member, demand)| Some((member, (now, demand?)))));
    }

    fn ask(&mut self) {
        let is_early = self.asked_at.is_some_and(|at| at.elapsed() < ASK_EVERY);
        if is_early || self.asking.is_some() {
            return;
        }
        self.asked_at = Some(Instant::now());
        let map = self.cluster.map();
        let ask = async move {
            let peers = map.peers().map(async |(member, peer)| {
                let answer = timeout(ANSWER_WITHIN, peer.demand()).await;
                (member, answer.ok().and_then(Result::ok))
            });
            join_all(peers).await
        };
        let asking = levelflow_runtime::task::spawn("ask coordinators what waits", ask);
        self.asking = Some(asking);
    }
}
