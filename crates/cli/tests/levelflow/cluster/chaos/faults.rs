//! What is done to the cluster, drawn from a seed. A fault lasts until its effect is seen, and is healed then.

use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::rig::{COORDINATORS, Rig, WORKERS};

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A coordinator is killed, and another takes its seat when its shards have gone to the others.
    KillCoordinator(usize),
    /// A coordinator is killed, and another takes its seat at once.
    ReplaceCoordinator(usize),
    /// A coordinator is stopped until the others have its shards, and then goes on where it was.
    PauseCoordinator(usize),
    /// A coordinator is told to stop, hands its shards over, and another takes its seat.
    StopCoordinator(usize),
    /// What a coordinator has to say to the database does not get there until the others have its shards.
    StallDatabase(usize),
    /// What a coordinator has to say to the database does not get there, and it is killed then.
    KillInCommit(usize),
    /// The connections of a coordinator to the database break.
    ResetDatabase(usize),
    /// The connections to a coordinator break: those of clients, workers and other coordinators.
    ResetDoor(usize),
    /// Nothing gets to a coordinator and back, though somebody tries.
    StallDoor(usize),
    /// A worker is killed, and another one starts.
    KillWorker(usize),
    /// A worker is stopped until its leases are over, and then goes on where it was.
    PauseWorker(usize),
    /// A worker is told to stop, and another one starts.
    StopWorker(usize),
    /// The database stops in the middle of everything, and starts again.
    StopPostgres,
    /// The connections to NATS break.
    ResetNats,
    /// Nothing gets through NATS until sessions have ended.
    StallNats,
    /// NATS is killed and starts again with nothing.
    WipeNats,
}

/// Faults that are there at the same time: one, or two.
pub(crate) type Step = Vec<Fault>;

/// What goes wrong, drawn from a seed.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    /// Whether the next step comes when shards are on their way yet.
    pub(crate) is_hasty: bool,
}

impl Plan {
    /// So many faults, each of another kind.
    pub(crate) fn draw(seed: u64, count: usize, is_over_nats: bool) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut known = Vec::new();
        let mut steps: Vec<Step> = Vec::new();
        while known.len() < count {
            let fault = Fault::draw(&mut random, is_over_nats);
            let kind = std::mem::discriminant(&fault);
            if known.contains(&kind) {
                continue;
            }
            known.push(kind);
            match steps.last_mut() {
                Some(step) if step.len() == 1 && random.random() && step[0].leaves(fault) => {
                    step.push(fault);
                }
                _ => steps.push(vec![fault]),
            }
        }
        let is_hasty = random.random();
        Self { steps, is_hasty }
    }
}

impl Fault {
    fn draw(random: &mut StdRng, is_over_nats: bool) -> Self {
        let seat = random.random_range(0..COORDINATORS);
        let worker = random.random_range(0..WORKERS);
        let mut choice = vec![
            Self::KillCoordinator(seat),
            Self::ReplaceCoordinator(seat),
            Self::PauseCoordinator(seat),
            Self::StopCoordinator(seat),
            Self::StallDatabase(seat),
            Self::KillInCommit(seat),
            Self::ResetDatabase(seat),
            Self::ResetDoor(seat),
            Self::StallDoor(seat),
            Self::KillWorker(worker),
            Self::PauseWorker(worker),
            Self::StopWorker(worker),
            Self::StopPostgres,
        ];
        if is_over_nats {
            choice.extend([Self::ResetNats, Self::StallNats, Self::WipeNats]);
        }
        *choice.choose(random).expect("there is a choice")
    }

    /// The seat that it is done to.
    fn seat(self) -> Option<usize> {
        match self {
            Self::KillCoordinator(seat)
            | Self::ReplaceCoordinator(seat)
            | Self::PauseCoordinator(seat)
            | Self::StopCoordinator(seat)
            | Self::StallDatabase(seat)
            | Self::KillInCommit(seat)
            | Self::ResetDatabase(seat)
            | Self::ResetDoor(seat)
            | Self::StallDoor(seat) => Some(seat),
            _ => None,
        }
    }

    fn worker(self) -> Option<usize> {
        match self {
            Self::KillWorker(worker) | Self::PauseWorker(worker) | Self::StopWorker(worker) => {
                Some(worker)
            }
            _ => None,
        }
    }

    /// Whether there is something left to which another fault can be done at the same time.
    fn leaves(self, other: Self) -> bool {
        let is_same = |one: Option<usize>, two: Option<usize>| one.is_some() && one == two;
        !is_same(self.seat(), other.seat()) && !is_same(self.worker(), other.worker())
    }

    /// The seat whose shards go to others while it lasts.
    fn empties(self) -> Option<usize> {
        match self {
            Self::KillCoordinator(_)
            | Self::PauseCoordinator(_)
            | Self::StopCoordinator(_)
            | Self::StallDatabase(_) => self.seat(),
            _ => None,
        }
    }

    /// The seat that does not answer while it lasts.
    fn silences(self) -> Option<usize> {
        match self {
            Self::StallDoor(_) => self.seat(),
            _ => self.empties(),
        }
    }

    fn is_stop(self) -> bool {
        matches!(self, Self::StopCoordinator(_) | Self::StopWorker(_))
    }

    /// Does it. Some faults are over then.
    async fn begin(self, rig: &mut Rig) {
        match self {
            Self::KillCoordinator(seat) => rig.kill(seat).await,
            Self::ReplaceCoordinator(seat) => {
                rig.kill(seat).await;
                rig.seat(seat).await;
            }
            Self::PauseCoordinator(seat) => rig.signal(seat, Signal::SIGSTOP),
            Self::StopCoordinator(seat) => rig.signal(seat, Signal::SIGTERM),
            Self::StallDatabase(seat) => rig.seats[seat].database.stall(),
            Self::KillInCommit(seat) => {
                rig.seats[seat].database.stall();
                rig.seats[seat].database.holds_something_back().await;
                rig.kill(seat).await;
                rig.seats[seat].database.resume();
                rig.seat(seat).await;
            }
            Self::ResetDatabase(seat) => rig.seats[seat].database.reset(),
            Self::ResetDoor(seat) => rig.seats[seat].door.reset(),
            Self::StallDoor(seat) => {
                rig.seats[seat].door.stall();
                rig.seats[seat].door.holds_something_back().await;
            }
            Self::KillWorker(worker) => {
                rig.workers[worker].process.signal(Signal::SIGKILL);
                rig.replace(worker).await;
            }
            Self::PauseWorker(worker) => rig.workers[worker].process.signal(Signal::SIGSTOP),
            Self::StopWorker(worker) => rig.workers[worker].process.signal(Signal::SIGTERM),
            Self::StopPostgres => {
                rig.postgres.stop_immediately();
                rig.postgres.start_again();
            }
            Self::ResetNats => rig.nats().1.reset(),
            Self::StallNats => rig.nats().1.stall(),
            Self::WipeNats => {
                let (server, _) = rig.nats();
                server.kill();
                server.restart();
            }
        }
    }

    /// Waits until its effect is seen, while others may be there as well.
    async fn is_seen(self, rig: &Rig, step: &[Self]) {
        let without = |taken: fn(Self) -> Option<usize>| -> Vec<usize> {
            let is_left = |seat: &usize| step.iter().all(|it| taken(*it) != Some(*seat));
            (0..COORDINATORS).filter(is_left).collect()
        };
        let answering = without(Self::silences);
        match self {
            Self::KillCoordinator(_) | Self::PauseCoordinator(_) | Self::StallDatabase(_) => {
                rig.shards_are_with(answering[0], &without(Self::empties))
                    .await;
            }
            Self::PauseWorker(worker) => rig.leases_are_over(worker, &answering).await,
            Self::StallNats => rig.are_without_sessions(&answering).await,
            _ => {}
        }
    }

    /// Ends it.
    async fn heal(self, rig: &mut Rig) {
        match self {
            Self::KillCoordinator(seat) => rig.seat(seat).await,
            Self::PauseCoordinator(seat) => rig.signal(seat, Signal::SIGCONT),
            Self::StopCoordinator(seat) => {
                let process = rig.seats[seat].process.take();
                let status = process.expect("somebody sits there").ended().await;
                assert_eq!(status.code(), Some(0));
                rig.seat(seat).await;
            }
            Self::StallDatabase(seat) => rig.seats[seat].database.resume(),
            Self::StallDoor(seat) => rig.seats[seat].door.resume(),
            Self::PauseWorker(worker) => rig.workers[worker].process.signal(Signal::SIGCONT),
            Self::StopWorker(worker) => {
                let code = rig.replace(worker).await.code();
                // 3 if it had outcomes for a coordinator that was killed before.
                assert!(matches!(code, Some(0 | 3)), "{code:?}");
            }
            Self::StallNats => rig.nats().1.resume(),
            _ => {}
        }
    }
}

/// Does the faults of a step, waits for what they do, and heals them.
pub(crate) async fn strike(step: &[Fault], rig: &mut Rig) {
    for fault in step {
        fault.begin(rig).await;
    }
    for fault in step {
        fault.is_seen(rig, step).await;
    }
    // Who is told to stop waits for what others have to say, who may be held up.
    let (stops, others): (Vec<Fault>, Vec<Fault>) = step.iter().partition(|it| it.is_stop());
    for fault in others.into_iter().chain(stops) {
        fault.heal(rig).await;
    }
}
