use levelflow_proto::v1;
use nix::sys::signal::Signal;

use super::{quick, serve};
use crate::harness::{Home, Running, text};

#[tokio::test]
async fn a_second_server_on_a_data_directory_is_refused() {
    let home = Home::new();
    let data = home.path("data");
    let data = text(&data);
    let (server, address) = Running::serve(&home, &["dev", "--data-dir", data]).await;
    let pid = server.pid();
    let second = ["dev", "--listen", "127.0.0.1:0", "--data-dir", data];
    let ended = home.levelflow(&second).await;
    assert_eq!(ended.code, Some(2));
    assert_eq!(
        ended.stderr,
        format!(
            "error[data_dir_locked]: the data directory {data} is in use by the Levelflow process \
             {pid}, which serves {address}; stop it or choose another directory\n  \
             = help: wait for that process, submit to it with `levelflow submit` if it serves, \
             or use another directory with --data-dir\n"
        )
    );
    server.kill().await;
    // Who was killed holds nothing.
    let (server, _) = Running::serve(&home, &["dev", "--data-dir", data]).await;
    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let home = Home::new();
    std::fs::create_dir(home.path("data")).unwrap();
    let path = home.file("data/levelflow.db", "not a database ".repeat(1000));
    let ended = home.levelflow(&["list", "--data-dir", "data"]).await;
    assert_eq!(ended.code, Some(3));
    assert_eq!(
        ended.stderr,
        "error[store_corrupt]: data/levelflow.db is damaged or is not a Levelflow database; \
         restore it from a backup\n  = caused by: file is not a database\n"
    );
    let after = std::fs::read(path).unwrap();
    assert_eq!(
        after,
        "not a database ".repeat(1000).as_bytes(),
        "it is left alone"
    );
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    let home = Home::new();
    let (server, client) = serve(&home, &[]).await;
    client.ended(&client.start(&quick()).await).await;
    server.signal(Signal::SIGTERM);
    server.ended().await;
    let path = home.path(".local/share/levelflow/levelflow.db");
    // Gives the version that was there.
    let set_version = |version: u32| -> u32 {
        let database = rusqlite::Connection::open(&path).unwrap();
        let read = "SELECT value FROM meta WHERE name = 'schema_version'";
        let before = database.query_row(read, [], |row| row.get(0)).unwrap();
        let update = "UPDATE meta SET value = ?1 WHERE name = 'schema_version'";
        assert_eq!(database.execute(update, [version]).unwrap(), 1);
        before
    };
    let version = set_version(99);
    let ended = home.levelflow(&["dev", "--listen", "127.0.0.1:0"]).await;
    assert_eq!(ended.code, Some(2));
    assert_eq!(
        ended.stderr,
        format!(
            "error[store_too_new]: {} has schema version 99, but this version of Levelflow knows \
             only {version}; use the version that wrote it or a newer one\n  \
             = help: use the newer version of levelflow, or another --data-dir\n",
            path.display()
        )
    );
    set_version(version);
    let (_server, client) = serve(&home, &[]).await;
    assert_eq!(
        client
            .list(v1::ListRunsRequest::default())
            .await
            .unwrap()
            .runs
            .len(),
        1
    );
}
