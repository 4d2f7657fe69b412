//! The port of leadership: which coordinator of a cluster owns which shards of a store.
//!
//! A shard has one owner for a time, under an epoch that each change of hands raises. All times are by the
//! clock of the database. Whoever is late finds out when it commits: every commit checks the epochs of the
//! shards that it writes to, in its own transaction.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use levelflow_common::{ShardCount, ShardId};
use uuid::Uuid;

use crate::error::StoreError;
use crate::port::Recovery;

/// A coordinator process; another one each time it starts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MemberId(pub Uuid);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What a coordinator tells the others of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who it is.
    pub id: MemberId,
    /// Where other coordinators reach its gRPC services.
    pub address: String,
    /// Where they reach its HTTP API, if it serves one.
    pub http_address: Option<String>,
    /// The version of its program.
    pub version: String,
    /// Whether it gives its shards away, because it is about to stop.
    pub is_leaving: bool,
}

/// A shard as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardState {
    /// Which one.
    pub shard: ShardId,
    /// Raised each time that somebody takes it; 0 if nobody ever did.
    pub epoch: u64,
    /// Who has it; none if nobody has, or whoever had it let its time run out.
    pub owner: Option<MemberId>,
    /// How long the owner has it, unless it renews.
    pub expires_in: Duration,
}

/// The cluster at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterView {
    /// The members that are alive, by id.
    pub members: Vec<Member>,
    /// All shards, in order.
    pub shards: Vec<ShardState>,
}

/// Leadership over the shards of a store that coordinators share.
///
/// One value is one member. The store that it comes with commits for the shards that the member has
/// claimed, and for no others.
#[async_trait]
pub trait Shards: Send + Sync + 'static {
    /// How many shards the store has.
    fn count(&self) -> ShardCount;

    /// Says that the member is there, and keeps what it owns, for `time` from now on. Shards that it has
    /// lost meanwhile are owned no more: commits for them fail.
    ///
    /// # Errors
    /// When the store does not answer; then nothing is known of who owns what.
    async fn renew(&self, member: &Member, time: Duration) -> Result<ClusterView, StoreError>;

    /// Takes those of `shards` that nobody owns, for `time`, raises their epochs, and reads what is open
    /// in them. What their last owner had not made durable by then never will be. Shards that another
    /// one was faster to take are not in the answer.
    ///
    /// # Errors
    /// When the store does not answer. What was taken is then given back, or runs out.
    async fn claim(&self, shards: &[ShardId], time: Duration) -> Result<Recovery, StoreError>;

    /// Gives shards away, when all that was appended for them is durable. Others may take them at once.
    ///
    /// # Errors
    /// When the store does not answer. They run out then.
    async fn release(&self, shards: &[ShardId]) -> Result<(), StoreError>;

    /// Gives all shards away and is no member any more.
    ///
    /// # Errors
    /// When the store does not answer. The membership runs out then.
    async fn leave(&self) -> Result<(), StoreError>;

    /// The cluster, for whoever asks; renews nothing.
    ///
    /// # Errors
    /// When the store does not answer.
    async fn view(&self) -> Result<ClusterView, StoreError>;
}
