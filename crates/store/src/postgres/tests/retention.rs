//! Deleting what is old.

use levelflow_engine::record::SubmitKey;

use super::*;

const SHARDS: u16 = 4;

fn key(number: u64) -> SubmitKey {
    SubmitKey {
        key: number.to_string().into(),
        content: [1; 32],
        expires_at: None,
    }
}

async fn keys(store: &Postgres, numbers: impl IntoIterator<Item = u64>) -> usize {
    let mut found = 0;
    for number in numbers {
        let SubmitKey { key, .. } = key(number);
        let known = store.find_key("default", &key, Timestamp::default());
        found += usize::from(known.await.unwrap().is_some());
    }
    found
}

/// The number of the run of a shard in a partition.
fn run(store: &Postgres, partition: u64, place: u64) -> u64 {
    let width = u64::try_from(store.database.partitions.width).unwrap();
    assert_eq!(width % u64::from(SHARDS), 0);
    partition * width + place
}

async fn partitions(store: &Postgres) -> Vec<i64> {
    let found = store.database.partitions().await.unwrap();
    found.into_iter().map(|partition| partition.0).collect()
}

#[tokio::test]
async fn whole_partitions_go_and_open_runs_stay() {
    let config = Config {
        partition: levelflow_common::HumanDuration(Duration::from_secs(60)),
        ..settings(count(SHARDS))
    };
    let store = own_all(&config).await;
    let open = run(&store, 1, 1);
    for partition in 0..6 {
        for place in [1, 2] {
            let number = run(&store, partition, place);
            let mut submitted = sample::submitted(number);
            submitted.key = Some(key(number));
            let mut entries = vec![sample::submit_as(number, submitted)];
            if number != open {
                entries.push(sample::finish(number, 2));
            }
            append(&store, entries).await.unwrap();
        }
    }
    assert_eq!(partitions(&store).await, [0, 1, 2, 3, 4, 5, 6]);

    // In the middle of partition 3: all of it is kept.
    let before = sample::at(run(&store, 3, 2), 1);
    assert_eq!(store.prune(before, 1).await.unwrap(), 2);
    assert_eq!(partitions(&store).await, [1, 2, 3, 4, 5, 6]);
    assert_eq!(store.prune(before, 10).await.unwrap(), 3);
    assert_eq!(store.prune(before, 10).await.unwrap(), 0);
    assert_eq!(partitions(&store).await, [1, 3, 4, 5, 6]);
    let page = store.list(RunFilter::default(), None, 100).await.unwrap();
    assert_eq!(page.runs.len(), 7);
    assert_eq!(sequences(&store, run(&store, 1, 2)).await, [0; 0]);
    let gone = sample::run_id(run(&store, 0, 1));
    assert_eq!(store.journal(gone, 0, 10).await.unwrap(), None);

    let both = |partition| [run(&store, partition, 1), run(&store, partition, 2)];
    assert_eq!(keys(&store, both(0)).await, 0);
    assert_eq!(keys(&store, both(1)).await, 1);
    assert_eq!(keys(&store, both(3)).await, 2);

    // When it has ended, it goes with its partition.
    assert_eq!(sequences(&store, open).await, [1]);
    append(&store, vec![sample::finish(open, 2)]).await.unwrap();
    assert_eq!(store.prune(before, 10).await.unwrap(), 1);
    assert_eq!(partitions(&store).await, [3, 4, 5, 6]);

    // The newest ones stay however old they are, because runs may still come; their rows do not.
    assert_eq!(store.prune(Timestamp::MAX, 100).await.unwrap(), 6);
    assert_eq!(partitions(&store).await, [5, 6]);
    let page = store.list(RunFilter::default(), None, 100).await.unwrap();
    assert_eq!(page.runs, []);

    // A coordinator whose clock is late finds its partition gone.
    let late = run(&store, 2, 3);
    append(&store, vec![sample::submit(late)]).await.unwrap();
    append(&store, vec![sample::finish(late, 2)]).await.unwrap();
    assert_eq!(sequences(&store, late).await, [1, 2]);
}
