//! What a coordinator believes to own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use levelflow_common::ShardId;
use uuid::Uuid;

use crate::error::StoreError;
use crate::shards::MemberId;

/// The coordinator as a member of the cluster. The database has the last word: what is believed here is
/// held against it in each commit.
#[derive(Debug, Default)]
pub(super) struct Membership {
    // Never held across an await.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    id: Option<MemberId>,
    /// Who it was when it left.
    left: Option<MemberId>,
    /// The epochs of the shards that are owned.
    owned: BTreeMap<ShardId, i64>,
}

/// Shards that are owned, as columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) member: Uuid,
    pub(super) shards: Vec<i16>,
    pub(super) epochs: Vec<i64>,
}

impl Membership {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who the coordinator is, once it has said so.
    pub(super) fn id(&self) -> Result<Uuid, StoreError> {
        let MemberId(id) = self.state().id.ok_or(StoreError::NotMember)?;
        Ok(id)
    }

    /// Says who the coordinator is. Who has left does not come back: a renewal may have been on its way.
    pub(super) fn join(&self, id: MemberId) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.left == Some(id) {
            return Err(StoreError::NotMember);
        }
        state.id = Some(id);
        Ok(())
    }

    /// It is no member any more.
    pub(super) fn leave(&self) {
        let mut state = self.state();
        let left = state.id.take();
        *state = State {
            left,
            ..State::default()
        };
    }

    /// Takes shards up under an epoch.
    pub(super) fn take(&self, shards: &[ShardId], epoch: i64) {
        let mut state = self.state();
        state
            .owned
            .extend(shards.iter().map(|&shard| (shard, epoch)));
    }

    /// Goes on under another epoch with those of these shards that are owned.
    pub(super) fn raise(&self, shards: &[ShardId], epoch: i64) {
        let mut state = self.state();
        for shard in shards {
            if let Some(owned) = state.owned.get_mut(shard) {
                *owned = epoch;
            }
        }
    }

    /// Gives up some shards.
    pub(super) fn drop_shards(&self, shards: &[ShardId]) {
        self.state()
            .owned
            .retain(|shard, _| !shards.contains(shard));
    }

    /// All shards that are owned.
    pub(super) fn owned(&self) -> Result<Held, StoreError> {
        let owned: BTreeSet<_> = self.state().owned.keys().copied().collect();
        self.hold(&owned)
    }

    /// The epochs of shards, if all of them are owned.
    pub(super) fn hold(&self, shards: &BTreeSet<ShardId>) -> Result<Held, StoreError> {
        let state = self.state();
        let MemberId(member) = state.id.ok_or(StoreError::NotMember)?;
        let epochs = shards
            .iter()
            .map(|shard| state.owned.get(shard).copied().ok_or(StoreError::ShardLost))
            .collect::<Result<_, _>>()?;
        Ok(Held {
            member,
            shards: shards.iter().map(|shard| to_column(*shard)).collect(),
            epochs,
        })
    }
}

/// A shard as a column: there are never so many that it does not fit.
pub(super) fn to_column(shard: ShardId) -> i16 {
    i16::try_from(shard.0).unwrap_or(i16::MAX)
}

/// A shard from a column.
pub(super) fn from_column(column: i16) -> ShardId {
    ShardId(u16::try_from(column).unwrap_or(0))
}
