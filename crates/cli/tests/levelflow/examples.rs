//! The examples that are shipped.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::harness::{Home, text};

pub(crate) fn example(name: &str) -> String {
    format!("{}/../../examples/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn git(folder: &Path, arguments: &[&str]) {
    let status = Command::new("git")
        .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.com"])
        .args([
            "-c",
            "commit.gpgsign=false",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(arguments)
        .current_dir(folder)
        .status()
        .unwrap();
    assert!(status.success());
}

fn sources(home: &Home) -> std::path::PathBuf {
    let folder = home.path("tree");
    std::fs::create_dir_all(folder.join("src")).unwrap();
    home.file("tree/src/a file.rs", "fn main() {}\n// TODO: more\n");
    home.file("tree/build.py", "print(1)\n");
    home.file(
        "tree/Cargo.lock",
        "[[package]]\nname = \"a\"\n\n[[package]]\nname = \"b\"\n",
    );
    folder
}

#[tokio::test]
async fn the_report_describes_a_repository() {
    let home = Home::new();
    let tree = sources(&home);
    git(&tree, &["init", "--quiet"]);
    git(&tree, &["add", "."]);
    git(&tree, &["commit", "--quiet", "-m", "First"]);
    home.file("tree/build.py", "print(2)\n");
    git(&tree, &["commit", "--quiet", "-a", "-m", "Second"]);

    let path = format!("path={}", text(&tree));
    let (code, run) = home
        .json(&["run", &example("repo-report.yaml"), "--input", &path])
        .await;
    assert_eq!(code, Some(0), "{run}");
    assert_eq!(run["outputs"]["file"], "repo-report.md");
    let report = std::fs::read_to_string(home.path("repo-report.md")).unwrap();
    assert_eq!(run["outputs"]["bytes"], report.len());
    for line in [
        "# tree",
        "| Rust | 1 | 2 | 66.7 % |",
        "| Python | 1 | 1 | 33.3 % |",
        "| `src/a file.rs` | 27 B |",
        "- `Cargo.lock` pins 2",
        "| Ada | 2 | 100.0 % |",
        "| `build.py` | 2 | 1 | 1 |",
        "- 1 × TODO",
        "src/a file.rs:2:// TODO: more",
    ] {
        assert!(
            report.lines().any(|other| other == line),
            "{line:?} is not in\n{report}"
        );
    }
    assert!(report.contains("2 commits by 1 people"), "{report}");
    let tasks = run["tasks"].as_array().unwrap();
    assert!(tasks.len() >= 12);
    assert!(tasks.iter().any(|task| task["level"] == 4));
}

#[tokio::test]
async fn the_report_does_without_history() {
    let home = Home::new();
    let tree = sources(&home);
    let path = format!("path={}", text(&tree));
    let arguments = ["run", &example("repo-report.yaml"), "--input", &path];
    let mut command = home.command(&arguments);
    // The folder may be inside of a repository by chance.
    command.env("GIT_CEILING_DIRECTORIES", home.path(""));
    let ended = crate::harness::finish(command).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stdout);
    let report = std::fs::read_to_string(home.path("repo-report.md")).unwrap();
    assert!(
        report.starts_with("# tree\n\nNot a git repository: there is no history to report on.\n"),
        "{report}"
    );
    assert!(report.contains("| Rust | 1 | 2 | 66.7 % |"), "{report}");
    assert!(!report.contains("Who works on it"), "{report}");
}

#[tokio::test]
async fn the_report_names_a_folder_that_is_not_there() {
    let home = Home::new();
    let arguments = ["run", &example("repo-report.yaml"), "-i", "path=nowhere"];
    let ended = home.levelflow(&arguments).await;
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.stdout.contains(
            "error[process_not_started]: task `detect` failed after 1 attempt\n  \
             | the working directory `nowhere` does not exist\n"
        ),
        "{}",
        ended.stdout
    );
}

#[tokio::test]
async fn parallel_calls_are_summed_up() {
    let home = Home::new();
    let (address, server) = items().await;
    let base = format!("base=http://{address}");
    let arguments = ["run", &example("parallel-http.yaml"), "--input", &base];
    let (code, run) = home.json(&arguments).await;
    server.abort();
    assert_eq!(code, Some(0), "{run}");
    assert_eq!(run["outputs"]["count"], 20);
    assert_eq!(run["outputs"]["items"][7]["name"], "/items/7");
    assert_eq!(run["counts"]["succeeded"], 4 + 20);
}

#[tokio::test]
async fn orders_are_kept_in_a_database() {
    let home = Home::new();
    let example = example("sql-orders.yaml");
    let file = format!("local=sqlite:{}", text(&home.path("orders.db")));
    let in_file = ["run", &example, "--connection", &file];
    for arguments in [&["run", &example][..], &in_file, &in_file] {
        let (code, run) = home.json(arguments).await;
        assert_eq!(code, Some(0), "{run}");
        assert_eq!(
            run["outputs"],
            serde_json::json!({
                "stored": 3,
                "report": "Ada: 2 orders, 7.25\nGrace: 1 orders, 3.90\nover 4.00: tea\n",
            })
        );
    }
    assert!(home.path("orders.db").is_file());
}

#[tokio::test]
async fn a_database_that_is_not_configured_is_named_before_the_run() {
    let home = Home::new();
    home.file(
        "flow.yaml",
        "name: flow\ntasks: [{ id: ask, type: sql, with: { connection: shop, query: select 1 } }]\n",
    );
    let ended = home.levelflow(&["run", "flow.yaml"]).await;
    assert_eq!(ended.code, Some(2));
    assert!(
        ended
            .stderr
            .contains("task `ask` of type `sql` asks `shop`, which is not configured"),
        "{}",
        ended.stderr
    );
    let ended = home
        .levelflow(&["run", "flow.yaml", "--connection", "shop=oracle:hunter2"])
        .await;
    assert_eq!(ended.code, Some(2));
    assert!(
        ended
            .stderr
            .contains("must begin with `postgres://` or `sqlite:`")
            && !ended.stderr.contains("hunter2"),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn polite_calls_all_get_their_turn() {
    let home = Home::new();
    let (address, server) = items().await;
    let urls: Vec<String> = (0..12)
        .map(|id| format!("http://{address}/items/{id}"))
        .collect();
    let urls = format!("urls={}", serde_json::json!(urls));
    let arguments = ["run", &example("polite-http.yaml"), "--input", &urls];
    let (code, run) = home.json(&arguments).await;
    server.abort();
    assert_eq!(code, Some(0), "{run}");
    assert_eq!(run["outputs"]["statuses"], serde_json::json!(vec![200; 12]));
}

#[tokio::test]
async fn names_that_are_the_same_are_looked_up_once() {
    let home = Home::new();
    let (code, run) = home.json(&["run", &example("cached.yaml")]).await;
    assert_eq!(code, Some(0), "{run}");
    assert_eq!(
        run["outputs"]["report"],
        "ada has 3 letters\ngrace has 5 letters\nada has 3 letters\nada has 3 letters\n\
         linus has 5 letters\ngrace has 5 letters\n"
    );
    let tasks = run["tasks"].as_array().unwrap();
    let items = || tasks.iter().filter(|task| task["item"].is_number());
    let cached = items().filter(|item| !item["cached"].is_null());
    assert_eq!(cached.count(), 3, "{run}");
    assert_eq!(items().filter(|item| item["attempts"] == 1).count(), 3);
}

/// A server that has items.
async fn items() -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = levelflow_runtime::task::spawn("items", async move {
        while let Ok((stream, _)) = listener.accept().await {
            levelflow_runtime::task::spawn("item", answer(stream));
        }
    });
    (address, server)
}

/// Answers each request on a connection.
async fn answer(mut stream: TcpStream) {
    let mut request = Vec::new();
    let mut chunk = [0; 1024];
    while let Ok(count) = stream.read(&mut chunk).await {
        if count == 0 {
            return;
        }
        request.extend_from_slice(&chunk[..count]);
        let Some(end) = request.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8(request.drain(..end + 4).collect()).unwrap();
        let path = head.split(' ').nth(1).unwrap();
        let body = if path == "/items" {
            let items = (0..20).map(|id| serde_json::json!({ "id": id })).collect();
            serde_json::Value::Array(items)
        } else {
            serde_json::json!({ "name": path })
        }
        .to_string();
        let response = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        if stream.write_all(response.as_bytes()).await.is_err() {
            return;
        }
    }
}
