//! The coordinators that a worker works for: those that it was given, and those that they tell of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use levelflow_proto::v1;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::chunk_spool::ChunkSpool;
use crate::config::WorkerConfig;
use crate::connection::Target;
use crate::division::Division;
use crate::error::WorkerError;
use crate::executor::Executors;
use crate::link::{Link, LinkId, News, Reporter};
use crate::memory::MemoryWatch;
use crate::session::Held;
use crate::shutdown::Shutdown;
use crate::slots::Slots;
use crate::spool::Spool;

/// How long no coordinator may be reached before they are looked for again where the worker was told to connect.
const SEARCH_AFTER: Duration = Duration::from_secs(1);

/// The links of a worker.
pub(crate) struct Links {
    parts: Parts,
    open: BTreeMap<LinkId, Open>,
    running: JoinSet<(LinkId, Ended)>,
    news: mpsc::UnboundedSender<(LinkId, News)>,
    last_id: LinkId,
    /// When coordinators are looked for.
    search_at: Option<Instant>,
    /// Outcomes that were not acknowledged in time.
    unacknowledged: usize,
}

/// What every link is made of.
pub(crate) struct Parts {
    pub(crate) config: WorkerConfig,
    /// Where the worker was told to connect.
    pub(crate) target: Target,
    pub(crate) hello: v1::Hello,
    pub(crate) executors: Arc<Executors>,
    pub(crate) division: Arc<Division>,
    pub(crate) memory: MemoryWatch,
    pub(crate) shutdown: CancellationToken,
}

/// A link.
struct Open {
    /// The address at which another coordinator told of it; none for the one that the worker was given.
    learned: Option<String>,
    /// The coordinator of its last session.
    coordinator: Option<String>,
    has_session: bool,
    /// Ends it at once, and what it runs with it.
    drop: CancellationToken,
}

enum Ended {
    /// Its coordinator is gone, or another link leads to it.
    Dropped,
    /// The worker ended, or the coordinator does not take it.
    Finished(Result<(), WorkerError>),
}

impl Links {
    /// Works for all coordinators that there are, until `shutdown` fires and all is drained.
    pub(crate) async fn serve(parts: Parts) -> Result<(), WorkerError> {
        let (news, mut received) = mpsc::unbounded_channel();
        let mut links = Self {
            parts,
            open: BTreeMap::new(),
            running: JoinSet::new(),
            news,
            last_id: 0,
            search_at: None,
            unacknowledged: 0,
        };
        links.begin(links.parts.target.clone(), None);
        loop {
            links.plan_search();
            let search_at = links.search_at.unwrap_or_else(Instant::now);
            tokio::select! {
                () = sleep_until(search_at), if links.search_at.is_some() => {
                    links.begin(links.parts.target.clone(), None);
                }
                Some((link, news)) = received.recv() => links.take(link, news),
                Some(ended) = links.running.join_next() => {
                    let (link, ended) = ended.expect("links do not panic, and are not aborted");
                    if links.ended(link, ended)? {
                        break;
                    }
                }
            }
        }
        match links.unacknowledged {
            0 => Ok(()),
            left => Err(WorkerError::Unacknowledged(left)),
        }
    }

    /// Where no link has a session, and none leads to where the worker was told to connect, nobody would tell of
    /// coordinators that are new. While one has a session, such a link would only take it from that one.
    fn plan_search(&mut self) {
        let knows_nobody = self
            .open
            .values()
            .all(|it| it.learned.is_some() && !it.has_session);
        self.search_at = match knows_nobody && !self.parts.shutdown.is_cancelled() {
            true => Some(
                self.search_at
                    .unwrap_or_else(|| Instant::now() + SEARCH_AFTER),
            ),
            false => None,
        };
    }

    fn begin(&mut self, target: Target, learned: Option<String>) {
        self.last_id += 1;
        let id = self.last_id;
        let parts = &self.parts;
        let config = &parts.config;
        let grace = config.cancel_grace.0;
        let (ends, ended) = mpsc::unbounded_channel();
        let (announce, chunks) = ChunkSpool::new();
        let share = parts.division.share();
        let executors = parts.executors.clone();
        let held = Held {
            slots: Slots::new(share, grace, executors, ends, announce),
            chunks,
            spool: Spool::new(config.spool_outcomes, config.spool_bytes),
            ended,
            memory: parts.memory.clone(),
        };
        let link = Link {
            target,
            hello: parts.hello.clone(),
            held,
            shutdown: Shutdown::new(parts.shutdown.clone(), config.drain_timeout.0, grace),
            reporter: Reporter::new(id, self.news.clone()),
        };
        let drop = CancellationToken::new();
        let dropped = drop.clone();
        let run = async move {
            let ended = tokio::select! {
                result = link.run() => Ended::Finished(result),
                () = dropped.cancelled() => Ended::Dropped,
            };
            (id, ended)
        };
        self.running.spawn(run);
        let open = Open {
            learned,
            coordinator: None,
            has_session: false,
            drop,
        };
        self.open.insert(id, open);
    }

    fn take(&mut self, link: LinkId, news: News) {
        match news {
            News::Opened(coordinator) => {
                let is_another = |(&other, it): (&LinkId, &Open)| {
                    other != link && it.coordinator.as_ref() == Some(&coordinator)
                };
                let has_another = self.open.iter().any(is_another);
                if let Some(open) = self.open.get_mut(&link) {
                    if has_another {
                        tracing::debug!(coordinator, "another session leads to this coordinator");
                        open.drop.cancel();
                    } else {
                        open.coordinator = Some(coordinator);
                        open.has_session = true;
                    }
                }
            }
            News::Lost => {
                if let Some(open) = self.open.get_mut(&link) {
                    open.has_session = false;
                }
            }
            News::Coordinators(coordinators) => self.see(coordinators),
        }
    }

    /// Works for those that are new, and gives up those that are gone.
    fn see(&mut self, coordinators: Vec<v1::CoordinatorAddress>) {
        for open in self.open.values() {
            let known = open.coordinator.as_ref();
            let is_gone = known.is_some_and(|id| coordinators.iter().all(|it| it.id != *id));
            if is_gone && !open.has_session {
                // Others have its tasks by now.
                open.drop.cancel();
            }
        }
        if self.parts.shutdown.is_cancelled() {
            return;
        }
        for it in coordinators {
            let leads_there = |open: &Open| {
                open.coordinator.as_ref() == Some(&it.id)
                    || open.learned.as_ref() == Some(&it.address)
            };
            if self.open.values().any(leads_there) {
                continue;
            }
            match self.parts.target.towards(&it) {
                Ok(target) => self.begin(target, Some(it.address)),
                Err(error) => {
                    tracing::warn!(coordinator = it.id, error = %error, "coordinator cannot be reached");
                }
            }
        }
    }

    /// A link ended. True when none is left.
    ///
    /// # Errors
    /// When the worker is not taken, and no other coordinator takes it.
    fn ended(&mut self, link: LinkId, ended: Ended) -> Result<bool, WorkerError> {
        self.open.remove(&link);
        match ended {
            Ended::Finished(Ok(())) | Ended::Dropped => {}
            Ended::Finished(Err(WorkerError::Unacknowledged(left))) => self.unacknowledged += left,
            Ended::Finished(Err(error)) if self.open.is_empty() => return Err(error),
            Ended::Finished(Err(error)) => {
                tracing::error!(error = %error, code = %error.code(), "a coordinator does not take this worker");
                return Ok(false);
            }
        }
        if self.parts.shutdown.is_cancelled() {
            return Ok(self.open.is_empty());
        }
        if self.open.is_empty() {
            // What the worker was given is where it finds the others again.
            self.begin(self.parts.target.clone(), None);
        }
        Ok(false)
    }
}
