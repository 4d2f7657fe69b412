//! The commands of the README do what it says.

use std::path::Path;

use serde_json::Value;
use tokio::process::Command;

use super::Server;
use crate::harness::{Home, finish};

const README: &str = include_str!("../../../../../README.md");

/// The first block of code in a language under a heading.
fn block<'r>(heading: &str, language: &str) -> &'r str {
    let section = README.split_once(&format!("\n## {heading}\n")).unwrap().1;
    let section = section.split("\n## ").next().unwrap();
    let block = section.split_once(&format!("```{language}\n")).unwrap().1;
    block.split_once("```").unwrap().0
}

#[tokio::test]
async fn the_commands_over_http_work() {
    let home = Home::new();
    home.file("hello.yaml", block("A first workflow", "yaml"));
    let Server {
        running: _server,
        api,
    } = Server::start(&home).await;
    let commands = block("Over HTTP", "sh");
    let served = commands.replace("http://127.0.0.1:7401", &api.base);
    assert_ne!(served, commands);
    // Each command says where its answer begins.
    let script = served.replace(
        "curl -sS",
        "printf '\\n--\\n' && curl --fail-with-body --noproxy '*' -sS",
    );
    let program = Path::new(env!("CARGO_BIN_EXE_levelflow")).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut command: Command = home.command(&[]);
    let environment: Vec<_> = command
        .as_std()
        .get_envs()
        .map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned)))
        .collect();
    command = Command::new("sh");
    for (name, value) in environment {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
        .args(["-e", "-c", &script])
        .env("PATH", format!("{}:{path}", program.display()))
        .current_dir(home.path(""));
    let ended = finish(command).await;
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    let answers: Vec<&str> = ended.stdout.split("\n--\n").skip(1).collect();
    let [
        validated,
        plan,
        run,
        ordered,
        found,
        events,
        stream,
        why,
        workers,
        alerts,
        metrics,
    ] = answers[..]
    else {
        panic!("{answers:#?}");
    };
    let json = |text: &str| -> Value { serde_json::from_str(text).unwrap() };
    assert_eq!(json(validated)["valid"], true);
    assert_eq!(json(plan)["tasks"], 4);
    assert_eq!(
        json(run)["run"]["outputs"]["card"],
        "HELLO, WORLD! (13 bytes)"
    );
    let run_id = &json(ordered)["run_id"];
    assert!(run_id.is_string(), "{ordered}");
    // It may not have ended yet.
    let runs = json(found);
    let runs = runs["runs"].as_array().unwrap();
    assert!(runs.iter().all(|run| run["run_id"] == *run_id), "{found}");
    assert!(events.contains("event: finished\n"), "{events}");
    assert!(stream.contains("event: ended\n"), "{stream}");
    assert_eq!(json(why)["state"], "succeeded");
    assert_eq!(json(workers)["workers"].as_array().unwrap().len(), 1);
    assert!(json(alerts)["alerts"].is_array());
    assert!(
        metrics.contains("levelflow_runs_submitted_total"),
        "{metrics}"
    );
}
