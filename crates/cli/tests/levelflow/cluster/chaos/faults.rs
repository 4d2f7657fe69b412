//! What is done to the cluster, drawn from a seed. Each fault lasts until its effect is seen, and is healed then.

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
    /// A coordinator is told to stop, and hands its shards over.
    StopCoordinator(usize),
    /// What a coordinator has to say to the database does not get there until the others have its shards.
    StallDatabase(usize),
    /// What a coordinator has to say to the database does not get there, and it is killed then.
    KillInCommit(usize),
    /// The connections of a coordinator to the database break.
    ResetDatabase(usize),
    /// The connections to a coordinator break: those of clients, workers and other coordinators.
    ResetDoor(usize),
    /// Nothing gets to a coordinator and back until the shards are asked for elsewhere.
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

/// The faults of a seed, in their order.
pub(crate) fn drawn(seed: u64, count: usize, is_over_nats: bool) -> Vec<Fault> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut faults: Vec<Fault> = Vec::with_capacity(count);
    while faults.len() < count {
        let seat = random.random_range(0..COORDINATORS);
        let worker = random.random_range(0..WORKERS);
        let mut choice = vec![
            Fault::KillCoordinator(seat),
            Fault::ReplaceCoordinator(seat),
            Fault::PauseCoordinator(seat),
            Fault::StopCoordinator(seat),
            Fault::StallDatabase(seat),
            Fault::KillInCommit(seat),
            Fault::ResetDatabase(seat),
            Fault::ResetDoor(seat),
            Fault::StallDoor(seat),
            Fault::KillWorker(worker),
            Fault::PauseWorker(worker),
            Fault::StopWorker(worker),
            Fault::StopPostgres,
        ];
        if is_over_nats {
            choice.extend([Fault::ResetNats, Fault::StallNats, Fault::WipeNats]);
        }
        let fault = *choice.choose(&mut random).expect("there is a choice");
        // One kind is enough of each, while there are others.
        let is_known = |it: &Fault| std::mem::discriminant(it) == std::mem::discriminant(&fault);
        if !faults.iter().any(is_known) {
            faults.push(fault);
        }
    }
    faults
}

impl Fault {
    /// Does it, waits for its effect, and heals it.
    pub(crate) async fn strike(self, rig: &mut Rig) {
        match self {
            Self::KillCoordinator(seat) => {
                let process = rig.seats[seat].process.take();
                process.expect("somebody sits there").kill().await;
                rig.shards_are_with(next(seat), &others(seat)).await;
                rig.seat(seat).await;
            }
            Self::ReplaceCoordinator(seat) => {
                let process = rig.seats[seat].process.take();
                process.expect("somebody sits there").kill().await;
                rig.seat(seat).await;
            }
            Self::PauseCoordinator(seat) => {
                rig.signal(seat, Signal::SIGSTOP);
                rig.shards_are_with(next(seat), &others(seat)).await;
                rig.signal(seat, Signal::SIGCONT);
            }
            Self::StopCoordinator(seat) => {
                rig.signal(seat, Signal::SIGTERM);
                let process = rig.seats[seat].process.take();
                let status = process.expect("somebody sits there").ended().await;
                assert_eq!(status.code(), Some(0));
                rig.seat(seat).await;
            }
            Self::StallDatabase(seat) => {
                rig.seats[seat].database.stall();
                rig.shards_are_with(next(seat), &others(seat)).await;
                rig.seats[seat].database.resume();
            }
            Self::KillInCommit(seat) => {
                rig.seats[seat].database.stall();
                rig.seats[seat].database.holds_something_back().await;
                let process = rig.seats[seat].process.take();
                process.expect("somebody sits there").kill().await;
                rig.seats[seat].database.resume();
                rig.seat(seat).await;
            }
            Self::ResetDatabase(seat) => rig.seats[seat].database.reset(),
            Self::ResetDoor(seat) => rig.seats[seat].door.reset(),
            Self::StallDoor(seat) => {
                rig.seats[seat].door.stall();
                rig.seats[seat].door.holds_something_back().await;
                rig.seats[seat].door.resume();
            }
            Self::KillWorker(worker) => {
                let process = rig.workers[worker].take();
                process.expect("it works").process.kill().await;
                rig.workers[worker] = Some(rig.hire().await);
            }
            Self::PauseWorker(worker) => {
                let signal = |rig: &Rig, signal| {
                    let process = rig.workers[worker].as_ref();
                    process.expect("it works").process.signal(signal);
                };
                signal(rig, Signal::SIGSTOP);
                rig.leases_are_over(worker).await;
                signal(rig, Signal::SIGCONT);
            }
            Self::StopWorker(worker) => {
                let process = rig.workers[worker].take().expect("it works").process;
                process.signal(Signal::SIGTERM);
                rig.workers[worker] = Some(rig.hire().await);
                assert_eq!(process.ended().await.code(), Some(0));
            }
            Self::StopPostgres => {
                rig.postgres.stop_immediately();
                rig.postgres.start_again();
            }
            Self::ResetNats => rig.nats().1.reset(),
            Self::StallNats => {
                rig.nats().1.stall();
                rig.are_without_sessions().await;
                rig.nats().1.resume();
            }
            Self::WipeNats => {
                let (server, _) = rig.nats();
                server.kill();
                server.restart();
            }
        }
    }
}

fn next(seat: usize) -> usize {
    (seat + 1) % COORDINATORS
}

/// The seats but one.
fn others(seat: usize) -> Vec<usize> {
    (0..COORDINATORS).filter(|it| *it != seat).collect()
}
