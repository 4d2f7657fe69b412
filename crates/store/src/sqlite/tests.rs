use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use levelflow_common::Code;
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::conformance::{conformance, sample};
use crate::lock::{Owner, owner};

conformance!(fresh());

fn fresh() -> (Sqlite, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (open(dir.path()).unwrap(), dir)
}

fn open(dir: &Path) -> Result<Sqlite, StoreError> {
    Sqlite::open(dir, &Options::default())
}

async fn append(store: &Sqlite, entries: Vec<levelflow_engine::Entry>) {
    store.append(sample::batch(entries)).await.unwrap().unwrap();
}

/// Changes the file of a closed store behind its back.
fn tamper(dir: &Path, sql: &str) {
    Connection::open(dir.join(FILE_NAME))
        .unwrap()
        .execute_batch(sql)
        .unwrap();
}

#[tokio::test]
async fn what_was_appended_is_there_after_reopening() {
    let (store, dir) = fresh();
    append(&store, vec![sample::submit(1), sample::submit(2)]).await;
    append(&store, vec![sample::finish(1, 2)]).await;
    let epoch = store.recover().await.unwrap().epoch;
    let runs = store.list(RunFilter::default(), None, 10).await.unwrap();
    store.close().await.unwrap();
    let mut files: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .collect();
    files.sort();
    assert_eq!(
        files,
        [FILE_NAME, "lock"],
        "the log is part of the database"
    );

    let store = open(dir.path()).unwrap();
    let recovery = store.recover().await.unwrap();
    assert_eq!(recovery.epoch, epoch + 1);
    assert_eq!(recovery.next_run, RunNumber(3));
    assert_eq!(recovery.open, [(RunNumber(2), sample::submit(2).records)]);
    let reread = store.list(RunFilter::default(), None, 10).await.unwrap();
    assert_eq!(reread, runs);
}

#[tokio::test]
async fn dropping_the_store_writes_what_waits() {
    let (store, dir) = fresh();
    let waiting: Vec<_> = (1..=100)
        .map(|number| store.append(sample::batch(vec![sample::submit(number)])))
        .collect();
    drop(store);
    for answer in waiting {
        answer.await.unwrap().unwrap();
    }
    assert!(dir.path().join(FILE_NAME).exists());
}

#[tokio::test]
async fn a_directory_has_one_owner_at_a_time() {
    let (store, dir) = fresh();
    let pid = std::process::id();
    let error = open(dir.path()).unwrap_err();
    assert_eq!(error.code(), Code::DataDirLocked);
    assert_eq!(
        error.to_string(),
        format!(
            "the data directory {} is in use by the Levelflow process {pid}; \
             stop it or choose another directory",
            dir.path().display()
        )
    );
    store.publish_address("http://127.0.0.1:7070").unwrap();
    let address = Some("http://127.0.0.1:7070".to_owned());
    assert_eq!(owner(dir.path()), Some(Owner { pid, address }));
    store.close().await.unwrap();
    assert_eq!(owner(dir.path()), None);
    open(dir.path()).unwrap();
}

#[test]
fn a_file_that_is_no_database_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    fs::write(&path, "not a database ".repeat(1000)).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert_eq!(error.code(), Code::StoreCorrupt);
    assert_eq!(
        error.to_string(),
        format!(
            "{} is damaged or is not a Levelflow database; restore it from a backup",
            path.display()
        )
    );
    assert_eq!(owner(dir.path()), None, "a failed open gives the lock back");
}

#[tokio::test]
async fn a_truncated_database_is_refused() {
    let (store, dir) = fresh();
    append(&store, vec![sample::submit(1)]).await;
    store.close().await.unwrap();
    let path = dir.path().join(FILE_NAME);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(u64::from(connection::PAGE_BYTES) + 100)
        .unwrap();
    let error = open(dir.path()).unwrap_err();
    assert_eq!(error.code(), Code::StoreCorrupt, "{error}");
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let (store, dir) = fresh();
    store.close().await.unwrap();
    tamper(
        dir.path(),
        "UPDATE meta SET value = 99 WHERE name = 'schema_version'",
    );
    let path = dir.path().join(FILE_NAME);
    let before = fs::read(&path).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert_eq!(error.code(), Code::StoreTooNew);
    assert_eq!(
        error.to_string(),
        format!(
            "{} has schema version 99, but this version of Levelflow knows only 2; \
             use the version that wrote it or a newer one",
            path.display()
        )
    );
    assert!(fs::read(&path).unwrap() == before);
}

#[tokio::test]
async fn damaged_rows_name_the_run() {
    let (store, dir) = fresh();
    append(
        &store,
        vec![sample::submit(1), sample::submit(2), sample::submit(3)],
    )
    .await;
    for entries in [
        vec![sample::succeed(1, 2, 1), sample::succeed(2, 2, 2)],
        vec![sample::succeed(1, 3, 1)],
    ] {
        // A question has what is durable filed, so that these become rows of their own.
        store.summary(sample::run_id(1)).await.unwrap();
        append(&store, entries).await;
    }
    store.close().await.unwrap();
    tamper(
        dir.path(),
        "DELETE FROM journal WHERE run = 1 AND first_sequence = 2;
         UPDATE journal SET records = x'FFFF' WHERE run = 2 AND first_sequence = 2;
         UPDATE runs SET status = 'paused' WHERE number = 3;",
    );
    let store = open(dir.path()).unwrap();
    let read = async |number| store.journal(sample::run_id(number), 0, 10).await;
    let told = |error: &StoreError| {
        let cause = std::error::Error::source(error).unwrap().to_string();
        (error.code(), error.to_string(), cause)
    };
    let corrupt =
        |message: &str, cause: &str| (Code::StoreCorrupt, message.to_owned(), cause.to_owned());
    assert_eq!(
        told(&read(1).await.unwrap_err()),
        corrupt(
            "record 2 of run number 1 is damaged",
            "the record is missing; the next one is number 3"
        )
    );
    let error = read(2).await.unwrap_err();
    assert_eq!(error.to_string(), "record 2 of run number 2 is damaged");
    assert_eq!(
        told(&store.summary(sample::run_id(3)).await.unwrap_err()),
        corrupt(
            "the row of run number 3 is damaged",
            "`status` has the unknown value `paused`"
        )
    );
    assert_eq!(
        store.recover().await.unwrap_err().to_string(),
        "record 2 of run number 1 is damaged"
    );
}

#[tokio::test]
async fn an_open_run_without_a_journal_is_damaged() {
    let (store, dir) = fresh();
    append(&store, vec![sample::submit(1)]).await;
    store.close().await.unwrap();
    tamper(dir.path(), "DELETE FROM journal");
    let store = open(dir.path()).unwrap();
    let error = store.recover().await.unwrap_err();
    assert_eq!(error.to_string(), "the row of run number 1 is damaged");
    assert_eq!(error.code(), Code::StoreCorrupt);
}

/// Appends batches of one entry until some have failed; gives how many records are durable.
async fn append_into_failure(store: &Sqlite, is_cause: impl Fn(&StoreError) -> bool) -> u64 {
    let answers: Vec<_> = (2..=20)
        .map(|sequence| store.append(sample::batch(vec![sample::succeed(1, sequence, 1)])))
        .collect();
    let mut errors = Vec::new();
    let mut durable = 1;
    for answer in answers {
        match answer.await.unwrap() {
            Ok(()) if errors.is_empty() => durable += 1,
            Ok(()) => panic!("a batch is durable after one that failed"),
            Err(error) => errors.push(error),
        }
    }
    assert!(!errors.is_empty());
    for error in &errors {
        assert_eq!(error.code(), Code::StoreUnavailable);
        let cause = match error {
            StoreError::Suspended { source } => source,
            error => error,
        };
        assert!(is_cause(cause), "{error}: {cause}");
    }
    durable
}

#[tokio::test]
async fn a_failed_commit_is_told_to_all_until_a_recovery() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: 512,
        ..Options::default()
    };
    let store = Sqlite::open(dir.path(), &options).unwrap();
    append(&store, vec![sample::submit(1)]).await;
    // A name that is taken stands for a disk that is full.
    let next = dir.path().join(LOG_NAME).join("00000002.log");
    fs::create_dir(&next).unwrap();
    let is_cause = |error: &StoreError| error.to_string().contains("00000002.log");
    let durable = append_into_failure(&store, is_cause).await;
    assert_eq!(
        store
            .journal(sample::run_id(1), 0, 100)
            .await
            .unwrap()
            .unwrap()
            .len() as u64,
        durable
    );
    assert!(store.recover().await.is_err(), "the cause is still there");
    fs::remove_dir(&next).unwrap();
    let recovery = store.recover().await.unwrap();
    assert_eq!(recovery.open[0].1.len() as u64, durable);
    append(&store, vec![sample::succeed(1, durable + 1, 1)]).await;
}

#[tokio::test]
async fn what_cannot_be_filed_stays_in_the_log_until_a_recovery() {
    let (store, dir) = fresh();
    append(&store, vec![sample::submit(1)]).await;
    store.summary(sample::run_id(1)).await.unwrap().unwrap();
    tamper(
        dir.path(),
        "CREATE TRIGGER broken BEFORE INSERT ON journal
         BEGIN SELECT RAISE(FAIL, 'no room'); END",
    );
    append(&store, vec![sample::succeed(1, 2, 1)]).await;
    let error = store.summary(sample::run_id(1)).await.unwrap_err();
    let text = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(text, "no room");
    let refused = store.append(sample::batch(vec![sample::succeed(1, 3, 1)]));
    let error = refused.await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Suspended { .. }), "{error}");
    assert!(store.recover().await.is_err(), "the cause is still there");
    tamper(dir.path(), "DROP TRIGGER broken");
    let recovery = store.recover().await.unwrap();
    assert_eq!(recovery.open[0].1.len(), 2);
    append(&store, vec![sample::succeed(1, 3, 1)]).await;
    assert_eq!(
        store
            .journal(sample::run_id(1), 0, 10)
            .await
            .unwrap()
            .unwrap()
            .len(),
        3
    );
}

#[tokio::test]
async fn a_recovery_that_cannot_read_the_log_lets_nothing_be_appended() {
    let (store, dir) = fresh();
    append(&store, vec![sample::submit(1)]).await;
    store.summary(sample::run_id(1)).await.unwrap().unwrap();
    tamper(
        dir.path(),
        "CREATE TRIGGER broken BEFORE INSERT ON journal
         BEGIN SELECT RAISE(FAIL, 'no room'); END",
    );
    append(&store, vec![sample::succeed(1, 2, 1)]).await;
    store.summary(sample::run_id(1)).await.unwrap_err();
    tamper(dir.path(), "DROP TRIGGER broken");
    // The database is well again, but the log cannot be read.
    let unreadable = dir.path().join(LOG_NAME).join("00000009.log");
    fs::create_dir(&unreadable).unwrap();
    store.recover().await.unwrap_err();
    let refused = store.append(sample::batch(vec![sample::succeed(1, 3, 1)]));
    let error = refused.await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Suspended { .. }), "{error}");
    fs::remove_dir(&unreadable).unwrap();
    let recovery = store.recover().await.unwrap();
    assert_eq!(recovery.open[0].1.len(), 2);
    append(&store, vec![sample::succeed(1, 3, 1)]).await;
}

#[tokio::test]
async fn what_the_database_loses_with_the_power_is_filed_again() {
    let (store, dir) = fresh();
    append(&store, vec![sample::submit(1)]).await;
    store.close().await.unwrap();
    let options = Options {
        segment_bytes: 1024,
        ..Options::default()
    };
    let store = Sqlite::open(dir.path(), &options).unwrap();
    for sequence in 2..=50 {
        append(&store, vec![sample::succeed(1, sequence, 1)]).await;
        // Each is in the database, but not durable there.
        store.summary(sample::run_id(1)).await.unwrap();
    }
    // The disk as the power leaves it: what the database did not sync is gone, the log is not.
    let disk = tempfile::tempdir().unwrap();
    fs::copy(dir.path().join(FILE_NAME), disk.path().join(FILE_NAME)).unwrap();
    fs::create_dir(disk.path().join(LOG_NAME)).unwrap();
    for segment in fs::read_dir(dir.path().join(LOG_NAME)).unwrap() {
        let segment = segment.unwrap();
        let copy = disk.path().join(LOG_NAME).join(segment.file_name());
        fs::copy(segment.path(), copy).unwrap();
    }
    for _ in 0..2 {
        let store = Sqlite::open(disk.path(), &options).unwrap();
        let recovery = store.recover().await.unwrap();
        assert_eq!(recovery.open[0].1.len(), 50);
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn segments_of_the_log_are_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        max_log_bytes: 256 * 1024,
        segment_bytes: 64 * 1024,
        ..Options::default()
    };
    let store = Sqlite::open(dir.path(), &options).unwrap();
    append(&store, vec![sample::submit(1)]).await;
    for sequence in 2..=200 {
        let mut entry = sample::succeed(1, sequence, 1);
        entry.records = vec![sample::success(1, sequence, vec![b'1'; 16 * 1024])];
        append(&store, vec![entry]).await;
        // Lets the filer keep up, as it does when commits wait for a disk.
        store.summary(sample::run_id(1)).await.unwrap();
    }
    let segments = fs::read_dir(dir.path().join(LOG_NAME)).unwrap().count();
    assert!(segments <= 8, "{segments}");
}

#[tokio::test]
async fn too_many_waiting_batches_are_turned_away_until_a_recovery() {
    let (store, dir) = fresh();
    append(&store, vec![sample::submit(1)]).await;
    // While another connection holds the write lock, nothing can be filed; what is durable waits until
    // it is too much, and further batches wait for that.
    let rival = Connection::open(dir.path().join(FILE_NAME)).unwrap();
    rival.execute_batch("BEGIN IMMEDIATE").unwrap();
    let large = |sequence| {
        let mut entry = sample::succeed(1, sequence, 1);
        entry.records = vec![sample::success(1, sequence, vec![b'1'; 8 * 1024])];
        entry
    };
    let mut answers = Vec::new();
    let mut refused = loop {
        let sequence = answers.len() as u64 + 2;
        let mut answer = store.append(sample::batch(vec![large(sequence)]));
        match answer.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => answers.push(answer),
            answered => break answered.unwrap().unwrap_err(),
        }
    };
    assert_eq!(
        refused.to_string(),
        format!("the store is overloaded: {MAX_WAITING} batches wait to be written")
    );
    let next = store.append(sample::batch(vec![sample::submit(2)]));
    refused = next.await.unwrap().unwrap_err();
    assert!(matches!(refused, StoreError::Suspended { .. }), "{refused}");
    rival.execute_batch("ROLLBACK").unwrap();
    let accepted = answers.len();
    for answer in answers {
        answer.await.unwrap().unwrap();
    }
    let recovery = store.recover().await.unwrap();
    assert_eq!(recovery.open[0].1.len(), accepted + 1);
    append(&store, vec![sample::submit(2)]).await;
}

#[tokio::test]
async fn the_write_ahead_log_is_bounded_under_load() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        max_wal_bytes: 1024 * 1024,
        ..Options::default()
    };
    let store = Sqlite::open(dir.path(), &options).unwrap();
    append(&store, vec![sample::submit(1)]).await;
    for sequence in 2..=400 {
        let mut entry = sample::succeed(1, sequence, 1);
        entry.records = vec![sample::success(1, sequence, vec![b'1'; 64 * 1024])];
        append(&store, vec![entry]).await;
    }
    let log = dir.path().join(format!("{FILE_NAME}-wal"));
    let bytes = fs::metadata(log).unwrap().len();
    // The bound, and one transaction of what gathers at most.
    assert!(bytes < 12 * 1024 * 1024, "{bytes}");
}

const CHILD_DIR: &str = "LEVELFLOW_STORE_TEST_DIR";

/// The child of the test below: appends until it is killed, and says what it was told is durable.
#[tokio::test]
#[ignore = "does nothing by itself: acknowledged_entries_survive_a_sigkill runs it as a process"]
async fn append_until_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else {
        return;
    };
    let store = open(Path::new(&dir)).unwrap();
    let run = store.recover().await.unwrap().next_run.0;
    append(&store, vec![sample::submit(run)]).await;
    let mut waiting = std::collections::VecDeque::new();
    for sequence in 2.. {
        waiting.push_back(store.append(sample::batch(vec![sample::succeed(run, sequence, 1)])));
        if waiting.len() == 8 {
            waiting.pop_front().unwrap().await.unwrap().unwrap();
            let mut out = std::io::stdout();
            writeln!(out, "durable {}", sequence - 7).unwrap();
        }
    }
}

#[tokio::test]
async fn acknowledged_entries_survive_a_sigkill() {
    let dir = tempfile::tempdir().unwrap();
    for (run, moment) in (1..).zip([1, 10, 50, 300]) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture"])
            .arg("sqlite::tests::append_until_killed")
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let durable = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .filter_map(|line| {
                let line = line.unwrap();
                line.split_once("durable ")?.1.parse::<u64>().ok()
            });
        let mut last = 0;
        for (place, sequence) in durable.enumerate() {
            last = sequence;
            if place == moment {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(last > moment as u64);

        let store = open(dir.path()).unwrap();
        let recovery = store.recover().await.unwrap();
        assert_eq!(recovery.open.len(), run);
        let (number, records) = recovery.open.last().unwrap();
        assert!(records.len() as u64 >= last, "{} < {last}", records.len());
        let expected: Vec<_> = (2..=records.len() as u64)
            .flat_map(|sequence| sample::succeed(number.0, sequence, 1).records)
            .collect();
        assert_eq!(records[1..], expected);
        store.close().await.unwrap();
    }
}
