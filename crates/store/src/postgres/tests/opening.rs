//! Opening: tables, and servers that cannot be relied on.

use levelflow_common::Code;

use super::*;

#[tokio::test]
async fn coordinators_that_start_together_make_the_tables_once() {
    let config = settings(count(8));
    let openers: Vec<_> = (0..4)
        .map(|_| {
            let config = config.clone();
            task::spawn("coordinator", async move { Postgres::open(&config).await })
        })
        .collect();
    for opener in openers {
        let store = opener.await.unwrap().unwrap();
        assert_eq!(store.view().await.unwrap().shards.len(), 8);
    }
}

#[tokio::test]
async fn what_was_appended_is_there_after_reopening() {
    let config = settings(ShardCount::ONE);
    let store = own_all(&config).await;
    append(&store, vec![sample::submit(1), sample::submit(2)])
        .await
        .unwrap();
    append(&store, vec![sample::finish(1, 2)]).await.unwrap();
    store.leave().await.unwrap();
    store.close().await.unwrap();
    let store = join(&config, 2).await;
    let claimed = store.claim(&[ShardId(0)], LONG).await.unwrap();
    assert_eq!(claimed.next_run, RunNumber(3));
    assert_eq!(claimed.open, [(RunNumber(2), sample::submit(2).records)]);
}

#[tokio::test]
async fn tables_of_a_newer_version_are_left_alone() {
    let config = settings(ShardCount::ONE);
    Postgres::open(&config).await.unwrap();
    let newer = format!(
        "UPDATE {}.meta SET value = 99 WHERE name = 'schema_version'",
        config.schema
    );
    let client = connect(url(&config)).await;
    client.batch_execute(&newer).await.unwrap();
    let error = Postgres::open(&config).await.unwrap_err();
    assert_eq!(error.code(), Code::StoreTooNew);
    let expected = format!("the schema `{}` has schema version 99", config.schema);
    assert!(error.to_string().starts_with(&expected), "{error}");
}

#[tokio::test]
async fn the_number_of_shards_stays() {
    let config = settings(count(4));
    Postgres::open(&config).await.unwrap();
    let other = Config {
        shards: 8,
        ..config.clone()
    };
    let error = Postgres::open(&other).await.unwrap_err();
    assert_eq!(error.code(), Code::ConfigInvalid);
    assert!(error.to_string().contains("set `shards = 4`"), "{error}");
}

#[tokio::test]
async fn a_server_that_may_lose_commits_is_refused() {
    let config = settings(ShardCount::ONE);
    let client = connect(url(&config)).await;
    let role = format!("{}_hasty", config.schema);
    let make = format!(
        "CREATE ROLE {role} LOGIN SUPERUSER; ALTER ROLE {role} SET synchronous_commit = off"
    );
    client.batch_execute(&make).await.unwrap();
    let address = url(&config).replace("//postgres@", &format!("//{role}@"));
    let mut hasty = Config {
        url: Config::at(address).url,
        ..config
    };
    let error = Postgres::open(&hasty).await.unwrap_err();
    assert_eq!(error.code(), Code::ConfigInvalid);
    assert!(
        error.to_string().contains("`synchronous_commit = off`"),
        "{error}"
    );
    hasty.allow_unsafe = true;
    let store = own_all(&hasty).await;
    append(&store, vec![sample::submit(1)]).await.unwrap();
}

#[tokio::test]
async fn a_setting_that_is_changed_later_does_not_count() {
    let config = settings(ShardCount::ONE);
    let store = own_all(&config).await;
    let later = store.database.begin_whole();
    let client = connect(url(&config)).await;
    client
        .batch_execute("SET synchronous_commit TO off")
        .await
        .unwrap();
    client.batch_execute(&later).await.unwrap();
    let mode = client
        .query_one("SHOW synchronous_commit", &[])
        .await
        .unwrap();
    assert_eq!(mode.get::<_, &str>(0), "on");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_without_its_password() {
    let config = Config {
        timeout: levelflow_common::HumanDuration(Duration::from_secs(1)),
        ..Config::at("postgres://user:hunter2@127.0.0.1:1/none")
    };
    let error = Postgres::open(&config).await.unwrap_err();
    assert_eq!(error.code(), Code::StoreUnavailable);
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    assert!(!format!("{error:?} {config:?}").contains("hunter2"));
}
