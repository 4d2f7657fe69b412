//! The coordinator and its workers as clients see them.

use levelflow_common::overview::{
    AlertView, EndedTasks, HeartbeatView, MemoryLevel, Overview, PoolView, QueueView, SessionView,
    WorkerStatus, WorkerView,
};
use levelflow_common::{TaskKind, Timestamp, WorkerId};

use crate::enumeration::Enumeration as _;
use crate::invalid::InvalidField;
use crate::v1;

impl From<WorkerView> for v1::Worker {
    fn from(worker: WorkerView) -> Self {
        Self {
            worker_id: worker.worker.0.as_ref().to_owned(),
            status: worker.status.number(),
            slots: worker.slots,
            attempts: worker.attempts,
            credits: worker.credits,
            queues: worker.queues.into_iter().collect(),
            labels: worker.labels,
            kinds: worker
                .kinds
                .into_iter()
                .map(|kind| kind.as_str().to_owned())
                .collect(),
            handlers: worker.handlers.into_iter().collect(),
            handler_versions: worker.handler_versions,
            connections: worker.connections.into_iter().collect(),
            session: worker.session.map(Into::into),
        }
    }
}

impl TryFrom<v1::Worker> for WorkerView {
    type Error = InvalidField;

    fn try_from(message: v1::Worker) -> Result<Self, InvalidField> {
        let kinds = message.kinds.iter();
        Ok(Self {
            worker: WorkerId(message.worker_id.into()),
            status: WorkerStatus::required("status", message.status)?,
            slots: message.slots,
            attempts: message.attempts,
            credits: message.credits,
            queues: message.queues.into_iter().collect(),
            labels: message.labels,
            // A newer coordinator may know kinds that are not known here.
            kinds: kinds.filter_map(|kind| TaskKind::parse(kind)).collect(),
            handlers: message.handlers.into_iter().collect(),
            handler_versions: message.handler_versions,
            connections: message.connections.into_iter().collect(),
            session: message.session.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<SessionView> for v1::WorkerSession {
    fn from(session: SessionView) -> Self {
        Self {
            version: session.version,
            connected_at_us: session.connected_at.as_micros(),
            heartbeat: session.heartbeat.map(Into::into),
        }
    }
}

impl TryFrom<v1::WorkerSession> for SessionView {
    type Error = InvalidField;

    fn try_from(message: v1::WorkerSession) -> Result<Self, InvalidField> {
        Ok(Self {
            version: message.version,
            connected_at: Timestamp::from_micros(message.connected_at_us),
            heartbeat: message.heartbeat.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<HeartbeatView> for v1::WorkerHeartbeat {
    fn from(heartbeat: HeartbeatView) -> Self {
        Self {
            at_us: heartbeat.at.as_micros(),
            resident_bytes: heartbeat.resident_bytes.unwrap_or_default(),
            memory_level: heartbeat
                .memory_level
                .map(MemoryLevel::number)
                .unwrap_or_default(),
            growth_per_second: heartbeat.growth_per_second,
            pools: heartbeat.pools.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::WorkerHeartbeat> for HeartbeatView {
    type Error = InvalidField;

    fn try_from(message: v1::WorkerHeartbeat) -> Result<Self, InvalidField> {
        let resident = message.resident_bytes;
        Ok(Self {
            at: Timestamp::from_micros(message.at_us),
            resident_bytes: (resident > 0).then_some(resident),
            memory_level: MemoryLevel::optional("memory_level", message.memory_level)?,
            growth_per_second: message.growth_per_second,
            pools: message.pools.into_iter().map(Into::into).collect(),
        })
    }
}

impl From<PoolView> for v1::Pool {
    fn from(pool: PoolView) -> Self {
        Self {
            name: pool.name,
            size: pool.size,
            busy: pool.busy,
            idle: pool.idle,
            waiting: pool.waiting,
            opened: pool.opened,
            used: pool.used,
            waited_us: pool.waited_us,
        }
    }
}

impl From<v1::Pool> for PoolView {
    fn from(message: v1::Pool) -> Self {
        Self {
            name: message.name,
            size: message.size,
            busy: message.busy,
            idle: message.idle,
            waiting: message.waiting,
            opened: message.opened,
            used: message.used,
            waited_us: message.waited_us,
        }
    }
}

impl From<Overview> for v1::GetOverviewResponse {
    fn from(overview: Overview) -> Self {
        Self {
            coordinator_id: overview.coordinator_id,
            version: overview.version,
            at_us: overview.at.as_micros(),
            started_at_us: overview.started_at.as_micros(),
            open_runs: overview.open_runs,
            attempts: overview.attempts,
            succeeded_tasks: overview.ended.succeeded,
            failed_tasks: overview.ended.failed,
            queues: overview.queues.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<v1::GetOverviewResponse> for Overview {
    fn from(message: v1::GetOverviewResponse) -> Self {
        Self {
            coordinator_id: message.coordinator_id,
            version: message.version,
            at: Timestamp::from_micros(message.at_us),
            started_at: Timestamp::from_micros(message.started_at_us),
            open_runs: message.open_runs,
            attempts: message.attempts,
            ended: EndedTasks {
                succeeded: message.succeeded_tasks,
                failed: message.failed_tasks,
            },
            queues: message.queues.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<QueueView> for v1::Queue {
    fn from(queue: QueueView) -> Self {
        Self {
            name: queue.name.as_ref().to_owned(),
            ready: queue.ready,
            parked: queue.parked,
        }
    }
}

impl From<v1::Queue> for QueueView {
    fn from(message: v1::Queue) -> Self {
        Self {
            name: message.name.into(),
            ready: message.ready,
            parked: message.parked,
        }
    }
}

impl From<AlertView> for v1::Alert {
    fn from(alert: AlertView) -> Self {
        Self {
            number: alert.number,
            at_us: alert.at.as_micros(),
            kind: alert.kind,
            all_clear: alert.is_all_clear,
            text: alert.text,
            subject: alert.subject,
        }
    }
}

impl From<v1::Alert> for AlertView {
    fn from(message: v1::Alert) -> Self {
        Self {
            number: message.number,
            at: Timestamp::from_micros(message.at_us),
            kind: message.kind,
            is_all_clear: message.all_clear,
            text: message.text,
            subject: message.subject,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_reads_back() {
        let set = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        let mut worker = WorkerView {
            worker: WorkerId("w-1".into()),
            status: WorkerStatus::Draining,
            slots: 16,
            attempts: 20,
            credits: 3,
            queues: set(&["default", "gpu"]),
            labels: [("zone".to_owned(), "eu".to_owned())].into(),
            kinds: [TaskKind::Http, TaskKind::Sql].into(),
            handlers: set(&["resize"]),
            handler_versions: [("resize".to_owned(), "2".to_owned())].into(),
            connections: set(&["main", "chat:small"]),
            session: Some(SessionView {
                version: "0.1.0".to_owned(),
                connected_at: Timestamp::from_micros(7),
                heartbeat: Some(HeartbeatView {
                    at: Timestamp::from_micros(8),
                    resident_bytes: Some(1 << 30),
                    memory_level: Some(MemoryLevel::Warning),
                    growth_per_second: 1 << 20,
                    pools: vec![PoolView {
                        name: "http".to_owned(),
                        size: 100,
                        busy: 2,
                        idle: 3,
                        waiting: 4,
                        opened: 5,
                        used: 60,
                        waited_us: 700,
                    }],
                }),
            }),
        };
        assert_eq!(worker.busy(), 16);
        let message = v1::Worker::from(worker.clone());
        assert_eq!(WorkerView::try_from(message), Ok(worker.clone()));
        worker.session = None;
        let message = v1::Worker::from(worker.clone());
        assert_eq!(WorkerView::try_from(message), Ok(worker));
    }

    #[test]
    fn an_overview_reads_back() {
        let overview = Overview {
            coordinator_id: "c".to_owned(),
            version: "0.1.0".to_owned(),
            at: Timestamp::from_micros(9),
            started_at: Timestamp::from_micros(1),
            open_runs: 2,
            attempts: 3,
            ended: EndedTasks {
                succeeded: 4,
                failed: 5,
            },
            queues: vec![QueueView {
                name: "gpu".into(),
                ready: 6,
                parked: 7,
            }],
        };
        let message = v1::GetOverviewResponse::from(overview.clone());
        assert_eq!(Overview::from(message), overview);
    }

    #[test]
    fn an_alert_reads_back() {
        let alert = AlertView {
            number: 7,
            at: Timestamp::from_micros(8),
            kind: "worker_lost".to_owned(),
            is_all_clear: true,
            text: "worker `w` was lost".to_owned(),
            subject: bytes::Bytes::from_static(b"{}"),
        };
        assert_eq!(AlertView::from(v1::Alert::from(alert.clone())), alert);
    }
}
