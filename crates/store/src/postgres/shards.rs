//! Who owns which shards: rows that coordinators take under new epochs.
//!
//! All times are those of the database. A transaction that takes shards judges all that it sees by one time,
//! that of its beginning. It locks the rows of the members whose shards have run out before it looks for
//! them, so that it waits for what they have begun to commit; a shard that runs out in between is left for
//! the next time.

use std::time::Duration;

use async_trait::async_trait;
use levelflow_common::{ShardCount, ShardId};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::commit::lock_member;
use super::database::{Database, Parameter};
use super::membership::{from_column, to_column};
use super::writer::Request;
use super::{Postgres, recovery};
use crate::column;
use crate::error::StoreError;
use crate::port::Recovery;
use crate::shards::{ClusterView, Member, MemberId, ShardState, Shards};

/// How long a member is remembered that has run out and owns nothing: who wonders about it can still see
/// that it is gone.
const REMEMBERED: &str = "1 minute";

/// The time of `$n` microseconds from now on.
macro_rules! after {
    ($n:literal) => {
        concat!("now() + $", $n, "::bigint * interval '1 microsecond'")
    };
}

/// What is asked to see the cluster: its members, and its shards.
fn view_statements(schema: &str) -> [String; 2] {
    [
        format!(
            "SELECT id, address, http_address, version, is_leaving FROM {schema}.members \
             WHERE expires_at > now() ORDER BY id"
        ),
        format!(
            "SELECT shard, epoch, CASE WHEN expires_at > now() THEN owner END, \
             CASE WHEN expires_at > now() AND owner IS NOT NULL \
             THEN (extract(epoch FROM expires_at - now()) * 1000000)::bigint ELSE 0 END, \
             owner FROM {schema}.shards ORDER BY shard"
        ),
    ]
}

fn read_view(members: &[Row], shards: &[Row]) -> ClusterView {
    let members = members.iter().map(|row| Member {
        id: MemberId(row.get(0)),
        address: row.get(1),
        http_address: row.get(2),
        version: row.get(3),
        is_leaving: row.get(4),
    });
    let shards = shards.iter().map(|row| ShardState {
        shard: from_column(row.get(0)),
        epoch: column::number(row.get(1)),
        owner: row.get::<_, Option<_>>(2).map(MemberId),
        expires_in: Duration::from_micros(column::number(row.get(3))),
    });
    ClusterView {
        members: members.collect(),
        shards: shards.collect(),
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

impl Database {
    /// Takes shards that nobody owns, and gives their new epoch.
    async fn take(
        &self,
        member: uuid::Uuid,
        shards: &[ShardId],
        time: Duration,
    ) -> Result<(Vec<ShardId>, i64), StoreError> {
        let schema = &self.schema;
        let lock_losers = format!(
            "SELECT FROM {schema}.members WHERE id IN (SELECT owner FROM {schema}.shards \
             WHERE shard = ANY ($1) AND expires_at < now()) ORDER BY id FOR UPDATE"
        );
        let epoch = format!("SELECT nextval('{schema}.epochs')");
        // Who is not there any more takes nothing.
        let take = format!(
            "UPDATE {schema}.shards SET owner = $1, expires_at = {}, \
             epoch = currval('{schema}.epochs') WHERE shard IN (SELECT shard FROM {schema}.shards \
             WHERE shard = ANY ($3) AND (owner IS NULL OR expires_at < now()) \
             ORDER BY shard FOR UPDATE SKIP LOCKED) \
             AND EXISTS (SELECT FROM {schema}.members WHERE id = $1) RETURNING shard",
            after!(2)
        );
        let wanted: Vec<i16> = shards.iter().map(|&shard| to_column(shard)).collect();
        let time = micros(time);
        let losers: [Parameter<'_>; 1] = [(&wanted, Type::INT2_ARRAY)];
        let taken: [Parameter<'_>; 3] = [
            (&member, Type::UUID),
            (&time, Type::INT8),
            (&wanted, Type::INT2_ARRAY),
        ];
        let statements: [(&str, &[Parameter<'_>]); 3] =
            [(&lock_losers, &losers), (&epoch, &[]), (&take, &taken)];
        let rows = self.transact("take shards", &statements).await?;
        let mut taken: Vec<_> = rows[2].iter().map(|row| from_column(row.get(0))).collect();
        taken.sort();
        Ok((taken, rows[1][0].get(0)))
    }

    /// Gives shards of a member away, after what it has begun to commit.
    async fn give_away(&self, member: uuid::Uuid, shards: &[ShardId]) -> Result<(), StoreError> {
        let schema = &self.schema;
        let lock = lock_member(schema);
        let give = format!(
            "UPDATE {schema}.shards SET owner = NULL, expires_at = now() \
             WHERE owner = $1 AND shard = ANY ($2)"
        );
        let shards: Vec<i16> = shards.iter().map(|&shard| to_column(shard)).collect();
        let who: [Parameter<'_>; 1] = [(&member, Type::UUID)];
        let what: [Parameter<'_>; 2] = [(&member, Type::UUID), (&shards, Type::INT2_ARRAY)];
        let statements: [(&str, &[Parameter<'_>]); 2] = [(&lock, &who), (&give, &what)];
        self.transact("give shards away", &statements).await?;
        Ok(())
    }
}

#[async_trait]
impl Shards for Postgres {
    fn count(&self) -> ShardCount {
        self.database.shards
    }

    async fn renew(&self, member: &Member, time: Duration) -> Result<ClusterView, StoreError> {
        let database = self.open_database()?;
        let schema = &database.schema;
        let _changing = self.changing.lock().await;
        self.membership.join(member.id)?;
        let owned = self.membership.owned()?;
        let join = format!(
            "INSERT INTO {schema}.members (id, address, http_address, version, is_leaving, expires_at) \
             VALUES ($1, $2, $3, $4, $5, {}) ON CONFLICT (id) DO UPDATE SET \
             address = excluded.address, http_address = excluded.http_address, \
             version = excluded.version, is_leaving = excluded.is_leaving, \
             expires_at = excluded.expires_at",
            after!(6)
        );
        // What a claim took whose outcome was not known here is given back.
        let keep = format!(
            "UPDATE {schema}.shards SET owner = CASE WHEN shard = ANY ($2) THEN owner END, \
             expires_at = CASE WHEN shard = ANY ($2) THEN {} ELSE now() END WHERE owner = $1",
            after!(3)
        );
        let forget = format!(
            "DELETE FROM {schema}.members WHERE id IN (SELECT id FROM {schema}.members AS gone \
             WHERE expires_at < now() - interval '{REMEMBERED}' AND NOT EXISTS \
             (SELECT FROM {schema}.shards WHERE owner = gone.id) FOR UPDATE SKIP LOCKED)"
        );
        let [members, shards] = view_statements(schema);
        let MemberId(id) = member.id;
        let time = micros(time);
        let joined: [Parameter<'_>; 6] = [
            (&id, Type::UUID),
            (&member.address, Type::TEXT),
            (&member.http_address, Type::TEXT),
            (&member.version, Type::TEXT),
            (&member.is_leaving, Type::BOOL),
            (&time, Type::INT8),
        ];
        let kept: [Parameter<'_>; 3] = [
            (&id, Type::UUID),
            (&owned.shards, Type::INT2_ARRAY),
            (&time, Type::INT8),
        ];
        let statements: [(&str, &[Parameter<'_>]); 5] = [
            (&join, &joined),
            (&keep, &kept),
            (&forget, &[]),
            (&members, &[]),
            (&shards, &[]),
        ];
        let rows = database
            .transact("renew the membership", &statements)
            .await?;
        let view = read_view(&rows[3], &rows[4]);
        let lost: Vec<_> = view
            .shards
            .iter()
            .filter(|state| state.owner != Some(member.id))
            .map(|state| state.shard)
            .collect();
        self.membership.drop_shards(&lost);
        Ok(view)
    }

    async fn claim(&self, shards: &[ShardId], time: Duration) -> Result<Recovery, StoreError> {
        let database = self.open_database()?;
        let member = self.membership.id()?;
        let (taken, epoch) = {
            let _changing = self.changing.lock().await;
            let (taken, epoch) = database.take(member, shards, time).await?;
            self.membership.take(&taken, epoch);
            (taken, epoch)
        };
        match recovery::read(database, taken.clone(), epoch).await {
            Ok(recovery) => self.ask(|done| Request::TakeUp { recovery, done }).await,
            Err(error) => {
                let _changing = self.changing.lock().await;
                self.membership.drop_shards(&taken);
                if let Err(error) = database.give_away(member, &taken).await {
                    tracing::warn!(%error, "shards that could not be read were not given back");
                }
                Err(error)
            }
        }
    }

    async fn release(&self, shards: &[ShardId]) -> Result<(), StoreError> {
        let database = self.open_database()?;
        let member = self.membership.id()?;
        self.ask(Request::Flush).await?;
        let _changing = self.changing.lock().await;
        self.membership.drop_shards(shards);
        database.give_away(member, shards).await
    }

    async fn leave(&self) -> Result<(), StoreError> {
        let database = self.open_database()?;
        let member = self.membership.id()?;
        self.ask(Request::Flush).await?;
        let _changing = self.changing.lock().await;
        self.membership.leave();
        let all: Vec<_> = database.shards.all().collect();
        database.give_away(member, &all).await?;
        let schema = &database.schema;
        let leave = format!("DELETE FROM {schema}.members WHERE id = $1");
        let who: [Parameter<'_>; 1] = [(&member, Type::UUID)];
        let statements: [(&str, &[Parameter<'_>]); 1] = [(&leave, &who)];
        database.transact("leave the cluster", &statements).await?;
        Ok(())
    }

    async fn view(&self) -> Result<ClusterView, StoreError> {
        let database = self.open_database()?;
        let [members, shards] = view_statements(&database.schema);
        let statements: [(&str, &[Parameter<'_>]); 2] = [(&members, &[]), (&shards, &[])];
        let rows = database.transact("see the cluster", &statements).await?;
        Ok(read_view(&rows[0], &rows[1]))
    }
}
