//! Several coordinators on one database.

use super::*;

/// The shards of a member, as another one sees them.
fn shards_of(view: &crate::ClusterView, number: u64) -> Vec<u16> {
    let owner = Some(member(number).id);
    let shards = view.shards.iter().filter(|state| state.owner == owner);
    shards.map(|state| state.shard.0).collect()
}

#[tokio::test]
async fn who_lost_a_shard_commits_nothing_more_for_it() {
    let config = settings(count(4));
    let old = join(&config, 1).await;
    let claimed = old.claim(&[ShardId(1), ShardId(2)], NO_TIME).await.unwrap();
    assert_eq!(claimed.shards, [ShardId(1), ShardId(2)]);
    // Its time has run out, and nobody else has come: it goes on.
    append(&old, vec![sample::submit(1), sample::submit(2)])
        .await
        .unwrap();

    let new = join(&config, 2).await;
    let taken = new.claim(&[ShardId(1)], LONG).await.unwrap();
    assert_eq!(taken.shards, [ShardId(1)]);
    assert!(taken.epoch > claimed.epoch);
    assert_eq!(taken.open, [(RunNumber(1), sample::submit(1).records)]);
    assert_eq!(
        taken.definitions,
        [(sample::digest(), sample::CANONICAL.into())]
    );

    // What goes to both shards is written to neither.
    let late = vec![sample::succeed(1, 2, 1), sample::succeed(2, 2, 1)];
    let error = append(&old, late).await.unwrap_err();
    assert!(matches!(error, StoreError::ShardLost), "{error:?}");
    assert_eq!(sequences(&new, 1).await, [1]);
    assert_eq!(sequences(&new, 2).await, [1]);
    let error = append(&old, vec![sample::succeed(2, 2, 1)]).await;
    let error = error.unwrap_err();
    assert!(matches!(error, StoreError::Suspended { .. }), "{error:?}");

    append(&new, vec![sample::succeed(1, 2, 1)]).await.unwrap();
    let left = old.recover().await.unwrap();
    assert_eq!(left.shards, [ShardId(2)]);
    assert!(left.epoch > taken.epoch);
    assert_eq!(left.open, [(RunNumber(2), sample::submit(2).records)]);
    append(&old, vec![sample::succeed(2, 2, 1)]).await.unwrap();
    let error = append(&old, vec![sample::succeed(1, 3, 1)]).await;
    assert!(matches!(error, Err(StoreError::Refused { .. })));
    old.recover().await.unwrap();
    let error = append(&old, vec![sample::submit(5)]).await.unwrap_err();
    assert!(matches!(error, StoreError::ShardLost), "{error:?}");
    assert_eq!(sequences(&new, 5).await, [0; 0]);
}

#[tokio::test]
async fn a_shard_has_one_owner_whoever_wants_it() {
    let config = settings(count(64));
    Postgres::open(&config).await.unwrap();
    let members: Vec<_> = (1..=6)
        .map(|number| {
            let config = config.clone();
            task::spawn("coordinator", async move {
                let store = join(&config, number).await;
                let all: Vec<_> = store.count().all().collect();
                let claimed = store.claim(&all, LONG).await.unwrap();
                (number, store, claimed.shards)
            })
        })
        .collect();
    let mut owned = Vec::new();
    let mut claims = Vec::new();
    for coordinator in members {
        let (number, store, shards) = coordinator.await.unwrap();
        owned.extend(shards.iter().map(|shard| shard.0));
        claims.push((number, store, shards));
    }
    owned.sort_unstable();
    assert_eq!(owned, (0..64).collect::<Vec<_>>());
    for (number, store, shards) in &claims {
        let view = store.view().await.unwrap();
        assert_eq!(view.members.len(), 6);
        let seen = shards_of(&view, *number);
        assert_eq!(seen, shards.iter().map(|shard| shard.0).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn shards_are_handed_over_with_their_runs() {
    let config = settings(count(2));
    let first = own_all(&config).await;
    let second = join(&config, 2).await;
    let none = second.claim(&[ShardId(0)], LONG).await.unwrap();
    assert_eq!(none.shards, []);
    append(&first, vec![sample::submit(2), sample::submit(3)])
        .await
        .unwrap();
    let pending = first.append(sample::batch(vec![sample::succeed(2, 2, 1)]));
    first.release(&[ShardId(0)]).await.unwrap();
    pending.await.unwrap().unwrap();

    let taken = second.claim(&[ShardId(0), ShardId(1)], LONG).await.unwrap();
    assert_eq!(taken.shards, [ShardId(0)]);
    let [(RunNumber(2), records)] = &taken.open[..] else {
        panic!("{:?}", taken.open);
    };
    assert_eq!(records.len(), 2);
    append(&second, vec![sample::succeed(2, 3, 1)])
        .await
        .unwrap();
    append(&first, vec![sample::succeed(3, 2, 1)])
        .await
        .unwrap();

    first.leave().await.unwrap();
    let view = second.view().await.unwrap();
    assert_eq!(view.members, [member(2)]);
    assert_eq!(view.shards[1].owner, None);
    let error = first.claim(&[ShardId(1)], LONG).await.unwrap_err();
    assert!(matches!(error, StoreError::NotMember), "{error:?}");
    let error = append(&first, vec![sample::succeed(3, 3, 1)]).await;
    assert!(matches!(error, Err(StoreError::NotMember)), "{error:?}");
    // A renewal that was late does not bring it back.
    let error = first.renew(&member(1), LONG).await.unwrap_err();
    assert!(matches!(error, StoreError::NotMember), "{error:?}");
    assert_eq!(second.view().await.unwrap().members, [member(2)]);
    let taken = second.claim(&[ShardId(1)], LONG).await.unwrap();
    assert_eq!(taken.open.len(), 1);
}

#[tokio::test]
async fn renewing_keeps_what_was_not_taken() {
    let config = settings(count(2));
    let first = join(&config, 1).await;
    first
        .claim(&[ShardId(0), ShardId(1)], NO_TIME)
        .await
        .unwrap();
    let view = first.view().await.unwrap();
    assert!(view.shards.iter().all(|state| state.owner.is_none()));

    let second = join(&config, 2).await;
    second.claim(&[ShardId(1)], LONG).await.unwrap();
    let mut leaving = member(1);
    leaving.is_leaving = true;
    leaving.http_address = Some("127.0.0.1:80".to_owned());
    let view = first.renew(&leaving, LONG).await.unwrap();
    assert_eq!(shards_of(&view, 1), [0]);
    assert_eq!(shards_of(&view, 2), [1]);
    assert!(view.shards[0].expires_in > LONG / 2);
    assert_eq!(view.members, [leaving, member(2)]);
    append(&first, vec![sample::submit(2)]).await.unwrap();
    let error = append(&first, vec![sample::submit(1)]).await.unwrap_err();
    assert!(matches!(error, StoreError::ShardLost), "{error:?}");
}

#[tokio::test]
async fn what_a_lost_claim_took_is_given_back() {
    let config = settings(count(2));
    let store = join(&config, 1).await;
    let other = connect(url(&config)).await;
    // As if the answer to a claim had been lost.
    let MemberId(id) = member(1).id;
    let taken = format!(
        "UPDATE {}.shards SET owner = '{id}', epoch = 77, expires_at = 'infinity' WHERE shard = 1",
        config.schema
    );
    other.batch_execute(&taken).await.unwrap();
    let view = store.renew(&member(1), LONG).await.unwrap();
    assert_eq!(view.shards[1].owner, None);
    let claimed = store.claim(&[ShardId(1)], LONG).await.unwrap();
    assert_eq!(claimed.shards, [ShardId(1)]);
}

#[tokio::test]
async fn members_that_ran_out_are_forgotten() {
    let config = settings(count(2));
    let first = join(&config, 1).await;
    first.renew(&member(1), NO_TIME).await.unwrap();
    let second = join(&config, 2).await;
    assert_eq!(second.view().await.unwrap().members, [member(2)]);
    let other = connect(url(&config)).await;
    let past = format!(
        "UPDATE {schema}.members SET expires_at = now() - interval '1 hour' WHERE address = '127.0.0.1:1'",
        schema = config.schema
    );
    other.batch_execute(&past).await.unwrap();
    second.renew(&member(2), LONG).await.unwrap();
    let known = format!("SELECT count(*) FROM {}.members", config.schema);
    let known = other.query_one(&known, &[]).await.unwrap();
    assert_eq!(known.get::<_, i64>(0), 1);
    // Whoever was forgotten takes nothing until it is there again.
    let nothing = first.claim(&[ShardId(0)], LONG).await.unwrap();
    assert_eq!(nothing.shards, []);
}

#[tokio::test]
async fn before_it_is_a_member_a_coordinator_owns_nothing() {
    let config = settings(count(2));
    let store = Postgres::open(&config).await.unwrap();
    let recovery = store.recover().await.unwrap();
    assert_eq!(recovery.shards, []);
    assert_eq!(recovery.next_run, RunNumber(1));
    let error = append(&store, vec![sample::submit(1)]).await.unwrap_err();
    assert!(matches!(error, StoreError::NotMember), "{error:?}");
    assert_eq!(error.code(), levelflow_common::Code::StoreUnavailable);
    let error = store.claim(&[ShardId(0)], LONG).await.unwrap_err();
    assert!(matches!(error, StoreError::NotMember), "{error:?}");
}
