//! `levelflow run` and what follows a run in the same data directory.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{DEADLINE, Home, lines};

fn task<'a>(run: &'a Value, id: &str) -> &'a Value {
    run["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|task| task["id"] == id)
        .unwrap()
}

#[tokio::test]
async fn a_run_is_described_as_json() {
    let home = Home::new();
    home.file(
        "flow.yaml",
        "name: flow
inputs: { who: { type: string, default: nobody }, times: { type: integer, default: 1 } }
tasks:
  - { id: greet, type: process, with: { command: [echo, \"hello ${{ inputs.who }}\"], output: lines } }
  - { id: twice, type: transform, with: { value: \"${{ inputs.times * 2 }}\" } }
  - { id: both, type: transform, with: { value: \"${{ tasks.greet.output[0] }}!\" }, needs: [twice] }
outputs: { text: \"${{ tasks.both.output }}\", number: \"${{ tasks.twice.output }}\" }
",
    );
    home.file("inputs.json", "{ \"who\": \"file\", \"times\": 4 }");
    let (code, run) = home
        .json(&[
            "run",
            "flow.yaml",
            "--inputs-file",
            "inputs.json",
            "--input",
            "who=world",
        ])
        .await;
    assert_eq!(code, Some(0), "{run}");
    assert_eq!(run["status"], "succeeded");
    assert_eq!(
        run["outputs"],
        json!({ "text": "hello world!", "number": 8 })
    );
    assert_eq!(run["inputs"], json!({ "who": "world", "times": 4 }));
    assert_eq!(run["critical_path"].as_array().unwrap().len(), 2);
    let both = task(&run, "both");
    assert_eq!(both["state"], "succeeded");
    assert_eq!(both["level"], 1);
    assert_eq!(both["attempts"], 1);
    let times = ["queued_at", "started_at", "finished_at"]
        .map(|key| both[key].as_str().expect("the time is there").to_owned());
    assert!(times.is_sorted(), "{times:?}");
    assert!(times[0].ends_with('Z'));

    // The run is kept: another process finds it.
    let run_id = run["run_id"].as_str().unwrap();
    let (code, list) = home.json(&["list"]).await;
    assert_eq!(code, Some(0));
    assert_eq!(list["runs"][0]["run_id"], run_id);
    let output = home.levelflow(&["get", run_id, "--output", "text"]).await;
    assert_eq!(output.stdout, "hello world!\n");
    let unknown = home.levelflow(&["get", run_id, "--output", "txt"]).await;
    assert_eq!(unknown.code, Some(2));
    assert_eq!(
        unknown.stderr,
        format!(
            "error[request_invalid]: run {run_id} has no output `txt`\n  \
             = help: its outputs are number, text\n"
        )
    );
    let (_, why) = home.json(&["why", run_id, "both"]).await;
    assert_eq!(why["tasks"][0]["state"], "succeeded");
}

#[tokio::test]
async fn progress_and_summary_are_printed() {
    let home = Home::new();
    home.file(
        "flow.yaml",
        "name: flow
tasks:
  - { id: a, type: process, with: { command: [\"true\"] } }
  - { id: b, type: transform, when: \"${{ false }}\", needs: [a], with: { value: 1 } }
",
    );
    let ended = home.levelflow(&["run", "flow.yaml"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let progress: Vec<&str> = ended.stderr.lines().collect();
    assert!(progress[0].ends_with(" of flow: 2 tasks in 2 levels"));
    assert!(progress[1].starts_with("level 0  a succeeded in "));
    assert_eq!(
        progress[2..],
        [
            "level 0 done: 1 succeeded",
            "level 1  b skipped by its `when`",
            "level 1 done: 0 succeeded, 1 skipped",
            "run succeeded",
        ]
    );
    assert!(ended.stdout.starts_with("level  task  state"));
    assert!(ended.stdout.contains("critical path, "), "{}", ended.stdout);

    let quiet = home.levelflow(&["run", "flow.yaml", "--quiet"]).await;
    assert_eq!(quiet.stderr, "");
}

#[tokio::test]
async fn a_failed_run_says_why_and_resumes() {
    let home = Home::new();
    let example = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../examples/retry-and-resume.yaml"
    );
    let arguments = ["run", example, "--input", "file=approved"];
    let (code, failed) = home.json(&arguments).await;
    assert_eq!(code, Some(1));
    assert_eq!(failed["status"], "failed");
    assert_eq!(task(&failed, "approval")["attempts"], 3);
    assert_eq!(
        task(&failed, "approval")["failure"]["code"],
        "process_failed"
    );
    assert_eq!(task(&failed, "finish")["state"], "skipped");

    let run_id = failed["run_id"].as_str().unwrap();
    let shown = home.levelflow(&["get", run_id]).await;
    assert!(
        shown.stdout.contains(
            "error[process_failed]: task `approval` failed after 3 attempts\n  \
             | the program `sh` exited with status 1: approved is not there\n"
        ),
        "{}",
        shown.stdout
    );
    assert!(
        shown.stdout.ends_with(&format!(
            "help: `levelflow resume {run_id}` goes on from here and keeps what succeeded\n"
        )),
        "{}",
        shown.stdout
    );

    home.file("approved", "");
    let (code, resumed) = home.json(&["resume", run_id]).await;
    assert_eq!(code, Some(0), "{resumed}");
    assert_eq!(resumed["status"], "succeeded");
    assert_eq!(resumed["resumed_from"], run_id);
    assert_eq!(task(&resumed, "measure")["reused_from"], run_id);

    let again = resumed["run_id"].as_str().unwrap();
    let refused = home.levelflow(&["resume", again]).await;
    assert_eq!(refused.code, Some(2));
    assert!(
        refused.stderr.starts_with("error[not_resumable]: "),
        "{}",
        refused.stderr
    );
}

#[tokio::test]
async fn an_interrupt_cancels_the_run() {
    let home = Home::new();
    home.file(
        "flow.yaml",
        "name: flow
tasks:
  - { id: first, type: transform, with: { value: 1 } }
  - { id: long, type: process, needs: [first], with: { command: [sleep, \"600\"] } }
  - { id: last, type: transform, needs: [long], with: { value: 1 } }
",
    );
    let mut child = home.command(&["run", "flow.yaml"]).spawn().unwrap();
    let mut progress = lines(child.stderr.take().unwrap());
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    loop {
        let line = tokio::time::timeout(DEADLINE, progress.next_line())
            .await
            .expect("the first level ends before the deadline")
            .unwrap()
            .expect("the run has not ended");
        if line.starts_with("level 0 done") {
            break;
        }
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGINT).unwrap();
    let output = tokio::time::timeout(DEADLINE, child.wait_with_output())
        .await
        .expect("the program ends before the deadline")
        .unwrap();
    assert_eq!(output.status.code(), Some(130));
    let (_, list) = home.json(&["list"]).await;
    assert_eq!(list["runs"][0]["status"], "cancelled");
    assert_eq!(list["runs"][0]["counts"]["cancelled"], 2);
}

#[tokio::test]
async fn a_second_process_is_told_who_uses_the_data_directory() {
    let home = Home::new();
    home.file(
        "flow.yaml",
        "name: flow\ntasks:\n  - { id: long, type: process, with: { command: [sleep, \"600\"] } }\n",
    );
    let mut first = home.command(&["run", "flow.yaml"]).spawn().unwrap();
    let pid = first.id().unwrap();
    let mut progress = lines(first.stderr.take().unwrap());
    let line = tokio::time::timeout(DEADLINE, progress.next_line()).await;
    assert!(line.unwrap().unwrap().unwrap().starts_with("run "));
    let data_dir = home.path(".local/share/levelflow");
    for arguments in [&["list"][..], &["run", "flow.yaml"]] {
        let second = home.levelflow(arguments).await;
        assert_eq!(second.code, Some(2), "{arguments:?}");
        assert!(
            second.stderr.starts_with("error[data_dir_locked]: ")
                && second.stderr.contains(&data_dir.display().to_string())
                && second.stderr.contains(&pid.to_string())
                && second.stderr.contains("= help: wait for that process"),
            "{}",
            second.stderr
        );
    }
    let other = home.levelflow(&["list", "--data-dir", "elsewhere"]).await;
    assert_eq!(other.code, Some(0), "{}", other.stderr);
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    let status = tokio::time::timeout(DEADLINE, first.wait()).await;
    assert_eq!(status.unwrap().unwrap().code(), Some(130));
}

#[tokio::test]
async fn a_run_that_was_killed_goes_on() {
    let home = Home::new();
    home.file(
        "flow.yaml",
        "name: flow
tasks:
  - { id: once, type: process, with: { command: [sh, -c, 'echo ran >> once.txt'] } }
  - { id: gate, type: process, needs: [once], with: { command: [sh, -c, 'while ! test -e gate; do sleep 0.05; done'] } }
",
    );
    let mut first = home.command(&["run", "flow.yaml"]).spawn().unwrap();
    let mut progress = lines(first.stderr.take().unwrap());
    let headline = tokio::time::timeout(DEADLINE, progress.next_line()).await;
    let headline = headline.unwrap().unwrap().unwrap();
    let run_id = headline.split(' ').nth(1).unwrap().to_owned();
    loop {
        let line = tokio::time::timeout(DEADLINE, progress.next_line()).await;
        if line.unwrap().unwrap().unwrap().starts_with("level 0 done") {
            break;
        }
    }
    first.kill().await.unwrap();
    home.file("gate", "");

    let ended = home.levelflow(&["watch", &run_id]).await;
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    assert_eq!(
        std::fs::read_to_string(home.path("once.txt")).unwrap(),
        "ran\n"
    );
    let (_, run) = home.json(&["get", &run_id]).await;
    assert_eq!(run["status"], "succeeded");
    assert_eq!(task(&run, "once")["attempts"], 1);
}
