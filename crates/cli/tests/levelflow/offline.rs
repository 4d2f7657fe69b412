//! Commands that need no coordinator, and what is said about wrong files and wrong usage.

use serde_json::json;

use crate::harness::{Home, text};

const DIAMOND: &str = "
name: diamond
tasks:
  - { id: a, type: transform, with: { value: 1 } }
  - { id: b, type: transform, with: { value: \"${{ tasks.a.output }}\" } }
  - { id: c, type: transform, needs: [a], with: { value: 3 } }
  - { id: d, type: transform, needs: [b, c], with: { value: 4 } }
";

#[tokio::test]
async fn a_plan_is_drawn() {
    let home = Home::new();
    let file = home.file("diamond.yaml", DIAMOND);
    let plan = home.levelflow(&["plan", text(&file)]).await;
    assert_eq!(plan.code, Some(0), "{}", plan.stderr);
    assert_eq!(
        plan.stdout,
        "diamond: 4 tasks, 4 edges, 3 levels, at most 2 at once

level 0   ─ ● a  transform
level 1   ┬ ● b  transform  ← a
          └ ○ c  transform  ← a
level 2   ─ ● d  transform  ← b, c

critical path ●, 3 tasks: a → b → d
"
    );
}

#[tokio::test]
async fn a_plan_is_given_as_json() {
    let home = Home::new();
    let file = home.file("diamond.yaml", DIAMOND);
    let (code, plan) = home.json(&["plan", text(&file)]).await;
    assert_eq!(code, Some(0));
    assert_eq!(plan["tasks"], 4);
    assert_eq!(plan["edges"], 4);
    assert_eq!(plan["critical_path"], json!(["a", "b", "d"]));
    let levels: Vec<Vec<&str>> = plan["levels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|level| {
            let tasks = level["tasks"].as_array().unwrap();
            tasks
                .iter()
                .map(|task| task["id"].as_str().unwrap())
                .collect()
        })
        .collect();
    assert_eq!(levels, [vec!["a"], vec!["b", "c"], vec!["d"]]);
}

#[tokio::test]
async fn a_plan_of_many_tasks_is_summarized() {
    let home = Home::new();
    let mut file = String::from("name: wide\ntasks:\n");
    for n in 0..2_000 {
        let needs = if n < 1_000 {
            String::new()
        } else {
            format!(", needs: [t{}]", n - 1_000)
        };
        file.push_str(&format!(
            "  - {{ id: t{n}, type: transform, with: {{ value: 1 }}{needs} }}\n"
        ));
    }
    let file = home.file("wide.yaml", file);
    let plan = home.levelflow(&["plan", text(&file)]).await;
    assert_eq!(
        plan.stdout,
        "wide: 2000 tasks, 1000 edges, 2 levels, at most 1000 at once

level 0         1000  ████████████████████  t0, t1, t2, t3, …
level 1         1000  ████████████████████  t1000, t1001, t1002, t1003, …

critical path ●, 2 tasks: t0 → t1000
"
    );
}

#[tokio::test]
async fn valid_files_are_counted() {
    let home = Home::new();
    let file = home.file("diamond.yaml", DIAMOND);
    let ended = home.levelflow(&["validate", text(&file)]).await;
    assert_eq!(ended.code, Some(0));
    assert_eq!(
        ended.stdout,
        format!("{}: valid, 4 tasks in 3 levels\n", file.display())
    );
}

#[tokio::test]
async fn every_problem_of_a_file_is_printed() {
    let home = Home::new();
    home.file(
        "flow.yaml",
        "name: flow
tasks:
  - id: fetch
    type: htpp
    retries: 5
  - id: report
    type: transform
    needs: [fetsh]
    with: { value: 1 }
",
    );
    let ended = home.levelflow(&["validate", "flow.yaml"]).await;
    assert_eq!(ended.code, Some(2));
    assert_eq!(ended.stdout, "");
    assert_eq!(
        ended.stderr,
        "error: unknown task type `htpp`
 --> flow.yaml:4:11
  |
4 |     type: htpp
  |           ^^^^
  = help: did you mean `http`?

error: unknown key `retries`
 --> flow.yaml:5:5
  |
5 |     retries: 5
  |     ^^^^^^^
  = help: did you mean `retry`?

error: there is no task `fetsh`
 --> flow.yaml:8:13
  |
8 |     needs: [fetsh]
  |             ^^^^^
  = help: did you mean `fetch`?

error[workflow_invalid]: flow.yaml has 3 problems
"
    );
}

#[tokio::test]
async fn problems_are_given_as_json() {
    let home = Home::new();
    home.file("flow.yaml", "name: flow\ntasks: []\nlabel: {}\n");
    let (code, answer) = home.json(&["validate", "flow.yaml"]).await;
    assert_eq!(code, Some(2));
    let file = &answer["files"][0];
    assert_eq!(file["valid"], false);
    assert_eq!(file["error"]["code"], "workflow_invalid");
    assert_eq!(
        file["error"]["problems"][1],
        json!({
            "path": "label",
            "line": 3,
            "column": 1,
            "message": "unknown key `label`",
            "help": "did you mean `labels`?",
        })
    );
}

#[tokio::test]
async fn a_cycle_is_named_by_its_path() {
    let home = Home::new();
    home.file(
        "flow.yaml",
        "name: flow
tasks:
  - { id: a, type: transform, needs: [c], with: { value: 1 } }
  - { id: b, type: transform, needs: [a], with: { value: 1 } }
  - { id: c, type: transform, needs: [b], with: { value: 1 } }
",
    );
    let ended = home.levelflow(&["plan", "flow.yaml"]).await;
    assert_eq!(ended.code, Some(2));
    assert_eq!(
        ended.stderr,
        "error: tasks need each other in a cycle: `a` → `b` → `c` → `a`
 --> flow.yaml:3:39
  |
3 |   - { id: a, type: transform, needs: [c], with: { value: 1 } }
  |                                       ^
  = help: an arrow leads from a task to one that waits for it; remove one of them

error[workflow_invalid]: flow.yaml has 1 problem
"
    );
}

#[tokio::test]
async fn a_file_that_is_not_there_is_refused() {
    let home = Home::new();
    let ended = home.levelflow(&["run", "nothing.yaml"]).await;
    assert_eq!(ended.code, Some(2));
    assert_eq!(
        ended.stderr,
        "error[request_invalid]: cannot read nothing.yaml\n  \
         = caused by: No such file or directory (os error 2)\n"
    );
}

#[tokio::test]
async fn a_file_that_is_too_long_is_refused() {
    let home = Home::new();
    let file = home.path("long.yaml");
    // A sparse file: it takes no space.
    std::fs::File::create(&file)
        .unwrap()
        .set_len(100 * 1024 * 1024)
        .unwrap();
    let ended = home.levelflow(&["validate", "long.yaml"]).await;
    assert_eq!(ended.code, Some(2));
    assert_eq!(
        ended.stderr,
        "error[too_large]: long.yaml is over 32 MiB, the most that is read\n"
    );
}

#[tokio::test]
async fn inputs_are_checked_before_anything_starts() {
    let home = Home::new();
    home.file(
        "flow.yaml",
        "name: flow
inputs:
  since: { type: string, required: true }
  count: { type: integer, default: 3 }
tasks:
  - { id: a, type: transform, with: { value: 1 } }
",
    );
    let ended = home
        .levelflow(&["run", "flow.yaml", "-i", "count=many", "-i", "sincs=x"])
        .await;
    assert_eq!(ended.code, Some(2));
    assert_eq!(
        ended.stderr,
        "error[input_invalid]: the inputs do not fit the workflow
  --> count: must be a whole number, not `many`
  --> sincs: the workflow has no such input; did you mean `since`?
  --> since: is required
  = help: give inputs with --input NAME=VALUE or --inputs-file FILE
"
    );
    home.file("inputs.yaml", "- a\n");
    let ended = home
        .levelflow(&["run", "flow.yaml", "--inputs-file", "inputs.yaml"])
        .await;
    assert_eq!(ended.code, Some(2));
    assert!(
        ended
            .stderr
            .ends_with("error[input_invalid]: inputs.yaml is not a map of inputs\n"),
        "{}",
        ended.stderr
    );
    assert!(!home.path(".local").exists(), "nothing was started");
}

#[tokio::test]
async fn wrong_usage_is_refused() {
    let home = Home::new();
    for arguments in [
        &["frobnicate"][..],
        &["run"],
        &["get", "seven"],
        &["list", "--status", "done"],
        &["list", "--limit", "0"],
        &["run", "flow.yaml", "--input", "novalue"],
    ] {
        let ended = home.levelflow(arguments).await;
        assert_eq!(ended.code, Some(2), "{arguments:?}");
        assert!(ended.stderr.starts_with("error: "), "{}", ended.stderr);
    }
    let ended = home.levelflow(&["get", "seven"]).await;
    assert!(
        ended.stderr.contains(
            "`seven` is not a run id; a run id looks like 01890a5d-ac96-774b-bcce-b302099a8057"
        ),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn settings_are_checked_with_their_origin() {
    let home = Home::new();
    let ended = home
        .levelflow(&["dev", "--listen", "127.0.0.1:99999"])
        .await;
    assert_eq!(ended.code, Some(2));
    assert_eq!(
        ended.stderr,
        "error[config_invalid]: setting `listen` from the command line: \
         `127.0.0.1:99999` is no address to serve at; \
         write for example 127.0.0.1:7400 or unix:/run/levelflow.sock\n"
    );

    let mut command = home.command(&["list"]);
    command.env("LEVELFLOW_WORKER__SLOT", "3");
    let ended = crate::harness::finish(command).await;
    assert_eq!(ended.code, Some(2));
    assert_eq!(
        ended.stderr,
        "error[config_invalid]: unknown setting `worker.slot` from \
         the environment variable LEVELFLOW_WORKER__SLOT; did you mean `slots`?\n"
    );

    home.file("levelflow.toml", "[worker]\nslots = 0\n");
    let ended = home
        .levelflow(&["list", "--config", "levelflow.toml"])
        .await;
    assert_eq!(ended.code, Some(2));
    assert_eq!(
        ended.stderr,
        "error[config_invalid]: setting `worker.slots` from the file levelflow.toml: \
         is 0; it may be 1 to 65536\n"
    );

    home.file("levelflow.toml", "[coordinator]\nlease = '1s'\n");
    let ended = home
        .levelflow(&["list", "--config", "levelflow.toml"])
        .await;
    assert_eq!(ended.code, Some(2));
    assert_eq!(
        ended.stderr,
        "error[config_invalid]: setting `coordinator.lease` from the file levelflow.toml: \
         must be at least two heartbeats, 10s\n"
    );

    home.file("levelflow.toml", "[coordinator.autoscale]\nmin = 20\n");
    let ended = home
        .levelflow(&["list", "--config", "levelflow.toml"])
        .await;
    assert_eq!(ended.code, Some(2));
    assert_eq!(
        ended.stderr,
        "error[config_invalid]: setting `coordinator.autoscale.min` from the file levelflow.toml: \
         must be at most `max`, 16\n"
    );

    let ended = home.levelflow(&["list", "--log", "levelflow=loud"]).await;
    assert_eq!(ended.code, Some(2));
    assert!(
        ended
            .stderr
            .starts_with("error[config_invalid]: `levelflow=loud` is not a log filter"),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn the_schema_describes_workflow_files() {
    let home = Home::new();
    let ended = home.levelflow(&["schema"]).await;
    assert_eq!(ended.code, Some(0));
    let schema: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(schema["title"], "Levelflow workflow");
    assert!(schema["properties"]["tasks"].is_object());
}

#[tokio::test]
async fn completions_are_made_for_shells() {
    let home = Home::new();
    let ended = home.levelflow(&["completions", "bash"]).await;
    assert_eq!(ended.code, Some(0));
    assert!(ended.stdout.contains("_levelflow()"), "{}", ended.stdout);
    let (code, answer) = home.json(&["completions", "fish"]).await;
    assert_eq!(code, Some(0));
    assert_eq!(answer["shell"], "fish");
}
